"""The tool that cuts a prepared set down to its first images with enough large things."""

from __future__ import annotations

import importlib.util
import json

import numpy as np
import pytest
from detectron2.data import DatasetCatalog

from fdd.data import register_panoptic, register_points
from fdd.points import read_points
from run_toys import REPOSITORY, forget


@pytest.fixture(scope="module")
def tool():
    path = REPOSITORY / "tools/subset_panoptic.py"
    spec = importlib.util.spec_from_file_location("subset_panoptic", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def content_of(images):
    """``images``: (id, file name, [(category, area, crowd), ...]) of 10 x 10 px; 1 is a thing."""
    return {
        "categories": [{"id": 1, "isthing": 1}, {"id": 2, "isthing": 0}],
        "images": [{"id": i, "height": 10, "width": 10} for i, _, _ in images],
        "annotations": [
            {
                "image_id": i,
                "file_name": name,
                "segments_info": [
                    {"category_id": c, "area": a, **({"iscrowd": 1} if crowd else {})}
                    for c, a, crowd in segments
                ],
            }
            for i, name, segments in images
        ],
    }


def test_rule(tool):
    large, small, stuff, crowd = (1, 20, False), (1, 19, False), (2, 50, False), (1, 50, True)
    content = content_of(
        [
            (1, "e.png", [large, large]),
            (2, "a.png", [large, small, stuff]),  # one is too small
            (3, "b.png", [large, crowd, stuff]),  # a crowd is no instance
            (4, "d.png", [large, large, small]),
            ("5", "c.png", [large, large, large]),
        ]
    )
    # Images in the order of their names; "at least" includes the bound itself.
    assert tool.choose(content, 3, min_instances=2, min_share=0.2) == ["5", 4, 1]
    assert tool.choose(content, 2, min_instances=2, min_share=0.2) == ["5", 4]
    assert tool.choose(content, 1, min_instances=3, min_share=0.2) == ["5"]
    assert tool.choose(content, 3, min_instances=1, min_share=0.0) == [2, 3, "5"]
    with pytest.raises(SystemExit, match="only 3 images satisfy the rule; 4 are wanted"):
        tool.choose(content, 4, min_instances=2, min_share=0.2)


def test_subset_is_a_data_set(tool, shapes_root, tmp_path, capsys):
    shapes, output = shapes_root / "shapes", tmp_path / "small set"
    points = [str(shapes / f"points_train_p{k}.json") for k in (1, 10)]
    argv = ["--panoptic-json", str(shapes / "panoptic_train.json"), "--points-json", *points]
    argv += ["--output", str(output), "--min-instances", "3", "--min-share", "0.005"]
    tool.main([*argv, "--count", "2"])
    assert "2 images in" in capsys.readouterr().out
    masks = output / "panoptic_train"
    assert len(list(masks.iterdir())) == 2
    files = output / "panoptic_train.json", masks
    register_panoptic("subset_test_masks", shapes / "train", *files)
    register_points(
        "subset_test_points", shapes / "train", output / "points_train_p10.json", *files
    )
    try:
        dense, pointed = (DatasetCatalog.get(f"subset_test_{n}") for n in ("masks", "points"))
    finally:
        forget("subset_test_masks")
        forget("subset_test_points")
    assert [d["image_id"] for d in dense] == [d["image_id"] for d in pointed]
    assert len(dense) == 2
    for d, p in zip(dense, pointed, strict=True):
        assert sum(s["isthing"] for s in d["segments_info"]) >= 3
        assert {s["id"] for s in d["segments_info"]} >= {s["instance_id"] for s in p["points"]}
    chosen = {d["image_id"] for d in dense}
    one_point = read_points(output / "points_train_p1.json")
    assert {image.image_id for image in one_point.images} == chosen
    # The labels are the ones of the whole set.
    for image in read_points(points[1]).images:
        if image.image_id in chosen:
            kept = next(p for p in pointed if p["image_id"] == image.image_id)
            coords = [xy for s in kept["points"] for xy in s["coords"]]
            original = [xy for s in image.segments for xy in s.points]
            np.testing.assert_array_equal(coords, original)

    written = json.loads((output / "panoptic_train.json").read_text())
    assert {i["id"] for i in written["images"]} == chosen
    with pytest.raises(SystemExit, match="images satisfy the rule; 7 are wanted"):
        tool.main([*argv, "--count", "7"])
