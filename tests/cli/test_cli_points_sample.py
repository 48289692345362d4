"""``fdd points sample`` and ``fdd points stats`` as they are called."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from fdd.cli.main import main
from fdd.data.shapes import generate_shapes
from fdd.points import (
    Category,
    PointDataset,
    PointImage,
    PointSegment,
    read_points,
    sample_panoptic,
    write_points,
)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    return generate_shapes(tmp_path_factory.mktemp("cli_sample"), 2, 0, size=64, points=())


def panoptic(shapes):
    json_file, folder = shapes / "panoptic_train.json", shapes / "panoptic_train"
    return ["--panoptic-json", str(json_file), "--panoptic-root", str(folder), "--workers", "1"]


def test_draws_what_the_function_draws(shapes, tmp_path, capsys) -> None:
    output = tmp_path / "points_p{k}.json"
    words = [*panoptic(shapes), "--k", "1", "4", "--seed", "7", "--output", str(output)]
    assert main(["points", "sample", *words]) == 0
    masks = shapes / "panoptic_train.json", shapes / "panoptic_train"
    for k in (1, 4):
        assert read_points(str(output).format(k=k)) == sample_panoptic(*masks, k, seed=7)
    assert "P4, 2 images" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give --dataset and --split, or --panoptic-json"),
        (["--panoptic-json", "p.json", "--semantic", "s"], "name one kind"),
        (["--semantic", "s", "--images", "i"], "give --classes, --output"),
        (["--dataset", "voc", "--split", "train"], "--split train_aug or val"),
        (["--dataset", "nothing", "--split", "train"], "one of coco, voc"),
        (["--k", "0"], "at least 1"),
        (["--panoptic-json", "p", "--panoptic-root", "r", "--k", "1", "2", "--output", "o"], "{k}"),
    ],
)
def test_arguments_that_do_not_go_together(words, message: str, capsys) -> None:
    assert main(["points", "sample", *words]) == 2
    assert message in capsys.readouterr().err


def test_pairs_of_masks_become_points_and_panoptic_masks(tmp_path, capsys) -> None:
    for name in ("images", "semantic", "instance"):
        (tmp_path / name).mkdir()
    semantic = np.array([[1, 1, 2], [1, 2, 2]], np.uint8)
    Image.fromarray(np.zeros((2, 3, 3), np.uint8)).save(tmp_path / "images" / "a.png")
    Image.fromarray(semantic).save(tmp_path / "semantic" / "a.png")
    Image.fromarray((semantic == 1).astype(np.uint8)).save(tmp_path / "instance" / "a.png")
    (tmp_path / "classes.yaml").write_text("classes: {things: [cell], stuff: [glass]}\n")
    words = [w for n in ("images", "semantic", "instance") for w in (f"--{n}", str(tmp_path / n))]
    words += ["--classes", str(tmp_path / "classes.yaml"), "--k", "2", "--workers", "1"]
    words += ["--write-panoptic", str(tmp_path / "masks"), "--output", str(tmp_path / "p.json")]
    assert main(["points", "sample", *words]) == 0
    (image,) = read_points(tmp_path / "p.json").images
    assert [(s.category_id, len(s.points)) for s in image.segments] == [(1, 2), (2, 2)]
    assert (tmp_path / "masks" / "panoptic" / "a.png").is_file()
    assert "masks" in capsys.readouterr().out


def test_sparse_pngs_never_replace_the_masks(shapes, capsys) -> None:
    before = sorted(p.read_bytes() for p in (shapes / "panoptic_train").iterdir())
    folder = str(shapes / "panoptic_train")
    assert main(["points", "sample", *panoptic(shapes), "--format", "png", "--output", folder]) == 2
    assert "the folder of the masks" in capsys.readouterr().err
    assert before == sorted(p.read_bytes() for p in (shapes / "panoptic_train").iterdir())


@pytest.fixture
def points(shapes, tmp_path):
    path = tmp_path / "points.json"
    main(["points", "sample", *panoptic(shapes), "--k", "3", "--output", str(path)])
    return path


def test_stats_of_labels_and_of_a_data_set(points, tmp_path, capsys) -> None:
    (tmp_path / "d.yaml").write_text("images: .\npoints: points.json\n")
    capsys.readouterr()
    assert main(["points", "stats", str(points)]) == 0
    text = capsys.readouterr().out
    assert "2 images" in text and "Work of one annotator" in text
    assert max(map(len, text.splitlines()[2:])) <= 80
    assert main(["points", "stats", str(tmp_path / "d.yaml")]) == 0
    assert capsys.readouterr().out == text


def test_stats_know_the_queries_of_a_config_only(points, tmp_path, capsys) -> None:
    config = tmp_path / "train.yaml"
    config.write_text('_BASE_: "fdd://Base-Small.yaml"\nMODEL: {FDD: {PAN: {NUM_QUERIES: 31}}}\n')
    capsys.readouterr()
    assert main(["points", "stats", str(points)]) == 0
    text = capsys.readouterr().out
    assert "the model can find" not in text and "300" not in text
    assert main(["points", "stats", str(points), "--config-file", str(config)]) == 0
    assert "the model can find 31." in capsys.readouterr().out
    words = ["--config-file", str(config), "--num-queries", "30"]
    assert main(["points", "stats", str(points), *words]) == 0
    assert "the model can find 30." in capsys.readouterr().out
    assert main(["points", "stats", str(points), "--num-queries", "0"]) == 2
    assert "--num-queries is 0" in capsys.readouterr().err


def test_names_are_text_and_no_orders_to_the_terminal(tmp_path, capsys) -> None:
    path = tmp_path / "points.json"
    classes = [Category(1, "red\x1b[31m", True)]
    segment = PointSegment(1, 1, [(1.5, 1.5)])
    write_points(path, PointDataset(classes, [PointImage("a", "a.png", 4, 4, [segment])]))
    assert main(["points", "stats", str(path)]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out and "\\x1b[31m" in out


def test_stats_as_json_with_other_seconds(points, capsys) -> None:
    capsys.readouterr()
    words = ["--json", "--seconds-per-polygon", "10-20", "--seconds-per-class", "0"]
    assert main(["points", "stats", str(points), *words]) == 0
    (entry,) = json.loads(capsys.readouterr().out)["files"]
    cost = entry["cost"]
    assert cost["polygons_seconds"] == [10 * entry["segments"], 20 * entry["segments"]]
    assert cost["assumed_seconds"]["per_polygon"] == [10, 20]


def test_stats_refuse_what_they_cannot_read(points, tmp_path, capsys) -> None:
    assert main(["points", "stats", str(tmp_path / "gone.json")]) == 2
    assert "gone.json" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["points", "stats", str(points), "--seconds-per-point", "often"])
    error = capsys.readouterr().err
    assert "--seconds-per-point" in error and "'often'" in error
