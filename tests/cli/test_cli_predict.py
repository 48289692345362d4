"""``fdd predict`` as it is called, with a tiny model."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch

from export_toys import write_run
from fdd.cli.main import main
from fdd.data.images import read_image
from fdd.inference.predictor import Predictor
from fdd.inference.trained_model import load_trained
from fdd.points.coco_panoptic import load_segment_ids
from prediction_toys import save


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    sizes = {"INPUT.MIN_SIZE_TEST": 32, "INPUT.MAX_SIZE_TEST": 64}
    return write_run(tmp_path_factory.mktemp("cli_predict") / "run", sizes)


def predict(run, tmp_path, *words) -> int:
    common = ["--model", str(run), "--output", str(tmp_path / "out")]
    return main(["predict", *common, *map(str, words)])


def test_a_folder(run, tmp_path, capsys) -> None:
    save(tmp_path / "in" / "a.png", 40, 60)
    save(tmp_path / "in" / "b.jpg", 30, 30)
    save(tmp_path / "in" / "sub" / "c.png", 30, 30)
    assert predict(run, tmp_path, tmp_path / "in") == 0
    out, err = capsys.readouterr()
    assert out.startswith("Segmented 2 images, ") and f"Wrote to {tmp_path / 'out'}:" in out
    for written in ("overlays/*.jpg", "panoptic/*.png", "segments/*.json", "panoptic.json"):
        assert written in out
    assert "could not be read" not in err
    predictor = Predictor(load_trained(run))
    ids, _ = predictor(read_image(str(tmp_path / "in" / "a.png"), "RGB", "a"))
    assert (load_segment_ids(tmp_path / "out" / "panoptic" / "a.png", 40, 60) == ids).all()
    assert predict(run, tmp_path, tmp_path / "in", "--recursive", "--no-overlay") == 0
    assert "Segmented 3 images" in capsys.readouterr().out
    assert (tmp_path / "out" / "segments" / "sub" / "c.json").is_file()


def test_what_is_left_out_of_a_folder_is_said(run, tmp_path, capsys) -> None:
    save(tmp_path / "in" / "a.jpg")
    save(tmp_path / "in" / "b.jfif", format="JPEG")
    (tmp_path / "in" / "c\x1b.heic").write_text("")
    assert predict(run, tmp_path, tmp_path / "in", "--no-overlay") == 0
    out = capsys.readouterr().out
    assert "Segmented 2 images" in out
    assert "1 file was left out" in out and "c\\x1b.heic" in out


def test_files_that_cannot_be_read_are_exit_status_one(run, tmp_path, capsys) -> None:
    save(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "b\x1b.jpg").write_bytes(b"nothing")
    assert predict(run, tmp_path, tmp_path / "in") == 1
    out, err = capsys.readouterr()
    assert "Segmented 1 image, " in out
    assert "1 of 2 files could not be read:" in err and "not a readable image" in err
    assert "\x1b" not in err, "a file's name is text, and no order to the terminal"
    (tmp_path / "in" / "a.png").unlink()
    assert predict(run, tmp_path, tmp_path / "in") == 1
    out, err = capsys.readouterr()
    assert "Segmented" not in out and "1 of 1 file could not be read:" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["gone.png"], "gone.png: no such file or folder"),
        (["a.png", "--alpha", "2"], "alpha 2.0; expected"),
        (["a.png", "--every", "0"], "every 0 frames"),
        (["a.png", "--model", "nowhere"], "nowhere: no such checkpoint or folder"),
        (["a.png", "--image-ids", "gone.json"], "gone.json: no such label file"),
        (["a.png", "--opts", "MODEL.NO_SUCH_KEY", "1"], "NO_SUCH_KEY"),
    ],
)
def test_mistakes_are_one_line(run, tmp_path, monkeypatch, capsys, words, message) -> None:
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "a.png")
    assert predict(run, tmp_path, *words) == 2
    err = capsys.readouterr().err
    assert err.startswith("fdd predict: error: ") and message in err and "Traceback" not in err
    assert not (tmp_path / "out").exists()


def test_the_best_weights_are_used_and_named(run, tmp_path, capsys) -> None:
    """Or the final ones, where they are asked for."""
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    content = torch.load(folder / "model_final.pth", weights_only=True)
    for name, value in content["model"].items():
        if name.startswith("panoptic_branch"):
            content["model"][name] = torch.zeros_like(value)
    content["iteration"] = 11
    torch.save(content, folder / "model_best.pth")
    record = {"metric": "panoptic_seg/PQ", "best_value": 43.21, "best_iteration": 11}
    (folder / "model_best.json").write_text(json.dumps(record))
    save(tmp_path / "a.png")
    found = []
    for words in ([], ["--weights", "best"], ["--weights", "final"]):
        assert predict(folder, tmp_path, tmp_path / "a.png", *words) == 0
        found.append((tmp_path / "out" / "segments" / "a.json").read_text())
        out = capsys.readouterr().out
        used = "model_final.pth (no" if "final" in words else "model_best.pth (validation"
        assert f"Weights: {folder / used}" in out
        assert "panoptic_seg/PQ 43.2 after 12 iterations" in out
    assert found[0] == found[1] != found[2]
    assert (
        predict(folder / "model_best.pth", tmp_path, tmp_path / "a.png", "--weights", "best") == 2
    )
    assert "nothing for --weights to choose" in capsys.readouterr().err


def test_ids_of_a_label_file(run, tmp_path) -> None:
    save(tmp_path / "in" / "a.png")
    labels = tmp_path / "labels.json"
    labels.write_text(json.dumps({"images": [{"id": 12, "file_name": "a.png"}]}))
    assert predict(run, tmp_path, tmp_path / "in", "--image-ids", labels, "--no-overlay") == 0
    content = json.loads((tmp_path / "out" / "panoptic.json").read_text())
    assert content["annotations"][0]["image_id"] == 12
    assert not (tmp_path / "out" / "overlays").exists()


def test_keys_of_the_config_can_be_changed(run, tmp_path) -> None:
    save(tmp_path / "a.png")
    for threshold, some in (("0.0", True), ("1000.0", False)):
        words = ["--opts", "MODEL.FDD.PAN.TEST.SCORE_THRESH", threshold]
        assert predict(run, tmp_path, tmp_path / "a.png", *words) == 0
        record = json.loads((tmp_path / "out" / "segments" / "a.json").read_text())
        assert bool(record["segments_info"]) is some


def test_help_is_for_newcomers(capsys) -> None:
    with pytest.raises(SystemExit) as done:
        main(["predict", "--help"])
    assert done.value.code == 0
    text = capsys.readouterr().out
    for said in ("Points are not needed", "panoptic/NAME.png", "--every N", "Exit status 1"):
        assert said in text
    assert text.count("fdd predict --model") >= 4


def test_tiles(run, tmp_path, capsys) -> None:
    save(tmp_path / "in" / "a.png", 70, 120)
    save(tmp_path / "in" / "small.png", 40, 60)
    assert predict(run, tmp_path, tmp_path / "in", "--tile", 64, "--tile-overlap", 20) == 0
    assert "Segmented 2 images" in capsys.readouterr().out
    for name, (height, width) in {"a": (70, 120), "small": (40, 60)}.items():
        ids = load_segment_ids(tmp_path / "out" / "panoptic" / f"{name}.png", height, width)
        described = json.loads((tmp_path / "out" / "segments" / f"{name}.json").read_text())
        listed = {s["id"]: s["area"] for s in described["segments_info"]}
        assert listed == {int(n): int((ids == n).sum()) for n in np.unique(ids) if n}
    # One no larger than a tile is segmented as without tiles.
    whole, _ = Predictor(load_trained(run))(read_image(str(tmp_path / "in/small.png"), "RGB", ""))
    assert (ids == whole).all()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--tile-overlap", 8], "--tile"),
        (["--tile", 0], "expected at least 32"),
        (["--tile", 64, "--tile-overlap", 40], "half of a tile"),
    ],
)
def test_tiles_that_are_refused(run, tmp_path, capsys, words, said) -> None:
    save(tmp_path / "a.png", 40, 60)
    assert predict(run, tmp_path, tmp_path / "a.png", *words) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "out").exists()
