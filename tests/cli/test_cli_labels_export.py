"""``fdd labels export`` as a user types it."""

import json
import shutil
from types import SimpleNamespace

import pytest

from fdd.cli import labels_export
from fdd.cli.main import main
from fdd.export_formats import FORMATS
from fdd.points.wording import counted
from labels_toys import IMAGES, write_images, write_run


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    root = tmp_path_factory.mktemp("labels_cli")
    write_images(root)
    write_run(root / "run", root / "toy.yaml")
    return root


def call(toy, output, *more, dataset="toy.yaml"):
    words = ["labels", "export", "--model", str(toy / "run"), "--dataset", str(toy / dataset)]
    return main([*words, "--output", str(output), *map(str, more)])


def test_it_says_what_it_wrote(toy, tmp_path, capsys):
    out = tmp_path / "out"
    more = ("--formats", "semantic", "yolo", "--confidence-maps", "--min-confidence", 0.25)
    assert call(toy, out, *more) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"4 images labelled in {out}\n  1 of them have no points: all void\n")
    document = json.loads((out / "panoptic.json").read_text())
    segments = [s for a in document["annotations"] for s in a["segments_info"]]
    things = sum(s["category_id"] in (11, 6) for s in segments)
    stuff = counted(len(segments) - things, "stuff segment")
    assert f"{counted(things, 'thing')} and {stuff}, mean confid" in text
    for line in (
        "panoptic.json, panoptic/",
        "semantic.json, semantic/",
        "yolo/: ",
        "confidence/: ",
    ):
        assert f"  wrote {line}" in text
    assert sorted(p.name for p in out.iterdir()) == [
        *(".export", "confidence", "panoptic", "panoptic.json", "semantic", "semantic.json"),
        "yolo",
    ]
    assert call(toy, out, *more) == 0
    assert "(4 of them by an earlier call)" in capsys.readouterr().out


def test_scales_flip_and_config_keys(toy, tmp_path):
    more = ("--formats", "coco", "--scales", 1, 1.5, "--flip", "INPUT.MIN_SIZE_TEST", 32)
    with pytest.raises(SystemExit):  # the key is taken for a scale: they stand behind the rest
        call(toy, tmp_path / "out", *more[:5], *more[6:])
    assert call(toy, tmp_path / "out", *more) == 0
    info = json.loads((tmp_path / "out" / "panoptic.json").read_text())["info"]
    assert info["scales"] == [1.0, 1.5] and info["flip"] is True


def test_unreadable_images_are_named_at_the_end(toy, tmp_path, capsys):
    root = tmp_path / "broken"
    shutil.copytree(toy, root)
    (root / "images" / IMAGES[2][0]).write_text("no picture")
    assert call(root, tmp_path / "out") == 1
    error = capsys.readouterr().err
    assert "1 image could not be read:\n  image 2 (" in error and "third.png" in error
    assert "--skip-unreadable" in error and not (tmp_path / "out" / "panoptic.json").exists()
    assert call(root, tmp_path / "out", "--skip-unreadable") == 1
    assert "They are not in the data set" in capsys.readouterr().err
    assert (tmp_path / "out" / "panoptic.json").exists()


def test_a_path_cannot_move_the_cursor():
    summary = SimpleNamespace(unreadable=["image 1 (\x1b[2Ja.png): cut short"], complete=True)
    said = labels_export.describe_unreadable(summary)
    assert "(\\x1b[2Ja.png)" in said and "\x1b" not in said


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--maker", "nearst"), "label maker 'nearst' is unknown; allowed: "),
        (("--min-confidence", "2"), "expected 0 to 1"),
        (("--config-file", "none.yaml"), "none.yaml"),
        (("NO.KEY", "1"), "Non-existent key: NO.KEY"),
    ],
)
def test_mistakes_are_one_line(toy, tmp_path, capsys, more, message):
    assert call(toy, tmp_path / "out", *more) == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("fdd labels export: error: ")
    assert "Traceback" not in error and not (tmp_path / "out").exists()


def test_missing_files_are_named(toy, tmp_path, capsys):
    assert call(toy, tmp_path / "out", dataset="other.yaml") == 2
    assert "other.yaml, which is not there" in capsys.readouterr().err
    assert call(tmp_path, tmp_path / "out", dataset=toy / "toy.yaml") == 2
    assert "no such checkpoint or folder" in capsys.readouterr().err


def test_help_lists_every_form(capsys):
    assert tuple(FORMATS) == labels_export._FORMATS
    with pytest.raises(SystemExit) as done:
        main(["labels", "export", "--help"])
    assert done.value.code == 0
    text = capsys.readouterr().out
    assert all(f"\n  {name} " in text for name in FORMATS)
