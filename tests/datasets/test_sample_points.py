"""``datasets/sample_points.py``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import voc_toys as toys
from fdd.points import read_points, read_sparse_png, sample_panoptic
from fdd.points.coco_panoptic import save_segment_ids

script = toys.load_script("sample_points")
CATEGORIES = [
    {"id": 4, "name": "chat é", "isthing": 1},
    {"id": 9, "name": "sky", "isthing": 0},
    {"id": 2, "name": "never", "isthing": 0},
]


def make_panoptic(folder, empty=False):
    """Two images of sky with a cat (2 pixels in the second) and a crowd of cats in the first."""
    first = np.full((16, 24), 7, np.int32)
    first[2:8, 2:10], first[10:, 10:], first[0] = 300, 70000, 0
    second = np.full((16, 24), 7, np.int32)
    second[5, 5:7] = 300
    images, annotations = [], []
    for image_id, ids in (("a1", first), (2, second)):
        save_segment_ids(folder / "masks" / f"{image_id}.png", ids)
        segments = [
            {"id": 7, "category_id": 9, "iscrowd": 0},
            {"id": 300, "category_id": 4, "iscrowd": 0},
        ]
        if image_id == "a1":
            segments.append({"id": 70000, "category_id": 4, "iscrowd": 1})
        if empty:
            segments.append({"id": 5, "category_id": 2, "iscrowd": 0})
        images.append({"id": image_id, "file_name": f"{image_id}.jpg", "height": 16, "width": 24})
        annotations.append(
            {"image_id": image_id, "file_name": f"{image_id}.png", "segments_info": segments}
        )
    content = {"images": images, "annotations": annotations, "categories": CATEGORIES}
    path = folder / "panoptic.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return ["--panoptic-json", str(path), "--panoptic-root", str(folder / "masks")]


@pytest.fixture
def source(tmp_path):
    return make_panoptic(tmp_path / "data é")


def run(*args):
    script.main([*map(str, args), "--workers", "1"])


def test_writes_what_the_library_draws_and_counts_it(source, tmp_path, capsys):
    out = tmp_path / "new" / "points.json"
    run(*source, "--output", out, "--k", 10, "--seed", 5)
    expected = sample_panoptic(source[1], source[3], 10, "uniform", 5)
    assert read_points(out) == expected
    rows = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines() if line}
    assert rows["chat"] == ["chat", "é", "thing", "2", "12"]  # 10 points and one per pixel
    assert rows["sky"] == ["sky", "stuff", "2", "20"]
    assert rows["total"] == ["total", "4", "32"]
    assert "(1" in rows and str(out) + ":" in rows


def test_several_k_are_one_draw_cut_to_length(source, tmp_path):
    run(*source, "--output", tmp_path / "p{k}.json", "--k", 3, 1)
    for k in (1, 3):
        dataset = read_points(tmp_path / f"p{k}.json")
        assert dataset == sample_panoptic(source[1], source[3], k)


@pytest.mark.parametrize("strategy", ["center", "border"])
def test_png_format_holds_the_same_points(source, tmp_path, strategy):
    options = ("--k", 3, "--strategy", strategy)
    run(*source, "--output", tmp_path / "p.json", *options)
    run(*source, "--output", tmp_path / "png", *options, "--format", "png")
    assert sorted(p.name for p in (tmp_path / "png").iterdir()) == ["2.png", "a1.png"]
    json_set = read_points(tmp_path / "p.json")
    png_set = read_sparse_png(source[1], tmp_path / "png")
    for a, b in zip(json_set.images, png_set.images, strict=True):
        assert a.image_id == b.image_id
        assert [(s.id, sorted(s.points)) for s in a.segments] == [
            (s.id, sorted(s.points)) for s in b.segments
        ]
    assert json_set.info["strategy"] == strategy


def test_sparse_pngs_never_replace_the_masks(source, capsys):
    before = {p: p.read_bytes() for p in Path(source[3]).iterdir()}
    with pytest.raises(ValueError, match="the folder of the masks"):
        run(*source, "--output", source[3] + "/../masks", "--format", "png")
    assert {p: p.read_bytes() for p in Path(source[3]).iterdir()} == before


def test_segments_without_pixels_are_refused_or_counted(tmp_path, capsys):
    source = make_panoptic(tmp_path, empty=True)
    with pytest.raises(ValueError, match=r"segment 5 of image 'a1' .*--skip-empty"):
        run(*source, "--output", tmp_path / "p.json")
    run(*source, "--output", tmp_path / "p.json", "--skip-empty")
    assert "1 crowd segments left out, 2 empty segments left out" in capsys.readouterr().out


def test_an_output_that_cannot_be_written_is_told_before_the_work(source, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="cannot write there"):
        run(*source, "--output", tmp_path / "file" / "p.json")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "--panoptic-json, --panoptic-root, --output"),
        (["--dataset", "coco"], "--split train or val"),
        (["--dataset", "coco", "--split", "train_aug"], "--split train or val"),
        (["--split", "val"], "--split goes with --dataset"),
        (["--dataset", "voc", "--split", "val", "--k", "0"], "at least 1"),
        (["--dataset", "voc", "--split", "val", "--k", "1", "2", "--output", "p.json"], "{k}"),
        (["--dataset", "voc", "--split", "val", "--strategy", "corner"], "border"),
    ],
)
def test_wrong_arguments_are_told(args, message, capsys):
    with pytest.raises(SystemExit):
        script.parse_args(args)
    assert message in capsys.readouterr().err


def test_shortcuts_are_the_paths_of_the_builtin_sets(tmp_path, monkeypatch):
    from detectron2.data import MetadataCatalog

    from fdd.data.builtin import SPLITS, builtin_roots, register_builtin

    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "downloads"))
    monkeypatch.setenv("FDD_DATASETS", str(tmp_path / "prepared"))
    try:
        register_builtin()
        for dataset, prefix in (("coco", "fdd_coco_2017"), ("voc", "fdd_voc_2012")):
            for split in SPLITS[dataset]:
                args = script.parse_args(["--dataset", dataset, "--split", split])
                for k in (1, 10):
                    metadata = MetadataCatalog.get(f"{prefix}_{split}_p{k}")
                    assert args.output.replace("{k}", str(k)) == metadata.points_json
                    assert str(args.panoptic_json) == metadata.panoptic_json
                    assert str(args.panoptic_root) == metadata.panoptic_root
    finally:
        monkeypatch.undo()
        register_builtin(*builtin_roots())


def test_other_draws_do_not_take_the_name_that_training_reads():
    base = ["--dataset", "voc", "--split", "val"]
    names = {
        Path(script.parse_args([*base, *extra]).output).name
        for extra in ([], ["--strategy", "border"], ["--seed", "1"], ["--format", "png"])
    }
    assert names == {
        "points_val_p{k}.json",
        "points_val_p{k}_border.json",
        "points_val_p{k}_seed1.json",
        "points_val_p{k}",
    }


def test_the_command_ends_with_a_message_and_no_traceback(tmp_path):
    args = ["--panoptic-json", tmp_path / "no.json", "--panoptic-root", tmp_path]
    done = subprocess.run(
        [sys.executable, toys.SCRIPTS / "sample_points.py", *args, "--output", tmp_path / "p.json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "no such panoptic JSON" in done.stderr and "Traceback" not in done.stderr


def test_real_coco(tmp_path):
    root = os.environ.get("DETECTRON2_DATASETS")
    masks = Path(root or "") / "coco" / "panoptic_val2017"
    if not root or not masks.is_dir() or len(list(masks.iterdir())) > 500:
        pytest.skip("DETECTRON2_DATASETS with a small part of COCO is needed")
    run("--dataset", "coco", "--split", "val", "--k", 10, "--output", tmp_path / "p.json")
    dataset = read_points(tmp_path / "p.json")
    assert len(dataset.categories) == 133 and dataset.images
    assert all(1 <= len(s.points) <= 10 for i in dataset.images for s in i.segments)
