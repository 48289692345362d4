"""``datasets/prepare_voc_panoptic.py`` on a miniature of VOC and SBD, and on real images."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import voc_toys as toys
from fdd.data.builtin import register_builtin
from fdd.points import read_points
from fdd.points.coco_panoptic import load_segment_ids

script = toys.load_script("prepare_voc_panoptic")


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.delenv("FDD_DATASETS", raising=False)
    monkeypatch.delenv("DETECTRON2_DATASETS", raising=False)
    return toys.make_voc(tmp_path / "data é")


def files_of(folder):
    paths = sorted(p for p in folder.rglob("*") if p.is_file())
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in paths}


def run(root, *options):
    script.main(["--root", str(root), "--workers", "1", *options])


def test_everything_is_written_where_the_builtin_sets_look(data, monkeypatch, tmp_path):
    from detectron2.data import DatasetCatalog

    out = tmp_path / "prepared"
    monkeypatch.setenv("FDD_DATASETS", str(out))
    before = files_of(data)
    run(data)
    assert files_of(data) == before  # the root may be read-only
    folder = out / "voc_panoptic"
    names = {
        f"{kind}{split}{end}"
        for split in ("train_aug", "val")
        for kind, end in (
            ("voc_panoptic_", ".json"),
            ("points_", "_p1.json"),
            ("points_", "_p10.json"),
        )
    }
    pngs = {f"voc_panoptic_train_aug/{i}.png" for i in toys.TRAIN_AUG}
    pngs |= {f"voc_panoptic_val/{i}.png" for i in toys.VOC_VAL}
    assert set(files_of(folder)) == names | pngs

    register_builtin(data, out)
    try:
        for split, ids in (("train_aug", toys.TRAIN_AUG), ("val", toys.VOC_VAL)):
            for kind in ("panoptic", "p1", "p10"):
                dicts = DatasetCatalog.get(f"fdd_voc_2012_{split}_{kind}")
                assert [d["image_id"] for d in dicts] == ids
                assert all(Path(d["file_name"]).is_file() for d in dicts)
    finally:
        register_builtin(*_environment_roots(monkeypatch))


def _environment_roots(monkeypatch):
    monkeypatch.undo()
    from fdd.data.builtin import builtin_roots

    return builtin_roots()


def test_images_of_vocs_lists_take_vocs_annotation_and_val_stays_out(data):
    run(data)
    folder = data / "voc_panoptic"
    content = json.loads((folder / "voc_panoptic_train_aug.json").read_text())
    assert [i["id"] for i in content["images"]] == toys.TRAIN_AUG
    assert [a["image_id"] for a in content["annotations"]] == toys.TRAIN_AUG
    assert not set(toys.TRAIN_AUG) & set(toys.VOC_VAL)
    for annotation in content["annotations"]:
        path = folder / "voc_panoptic_train_aug" / annotation["file_name"]
        ids = set(np.unique(load_segment_ids(path, toys.HEIGHT, toys.WIDTH)).tolist())
        # Only VOC's annotation has void and a person; SBD's has a cat in its place.
        own = annotation["image_id"] in toys.VOC_TRAIN
        assert ids == ({0, 12001, 15001, 21001} if own else {8001, 12001, 21001})
        assert ids - {0} == {s["id"] for s in annotation["segments_info"]}
    val = json.loads((folder / "voc_panoptic_val.json").read_text())
    assert [i["id"] for i in val["images"]] == toys.VOC_VAL


def test_points_lie_on_their_segments_and_p1_is_the_first_of_p10(data):
    run(data, "--seed", "3")
    folder = data / "voc_panoptic"
    one, ten = (read_points(folder / f"points_train_aug_p{k}.json") for k in (1, 10))
    assert (one.info["points_per_segment"], one.info["seed"]) == (1, 3)
    for a, b in zip(one.images, ten.images, strict=True):
        png = folder / "voc_panoptic_train_aug" / f"{b.image_id}.png"
        ids = load_segment_ids(png, b.height, b.width)
        assert len(b.segments) == 3
        for short, long in zip(a.segments, b.segments, strict=True):
            assert short.points == long.points[:1] and len(long.points) == 10
            assert all(ids[int(y), int(x)] == long.id for x, y in long.points)


def test_running_again_or_with_more_workers_gives_the_same_files(data):
    run(data)
    first = files_of(data / "voc_panoptic")
    script.main(["--root", str(data), "--workers", "2"])
    assert files_of(data / "voc_panoptic") == first


def test_val_alone_needs_no_sbd_and_points_can_be_left_out(data, tmp_path):
    (data / "benchmark_RELEASE").rename(tmp_path / "sbd")
    run(data, "--splits", "val", "--points")
    found = files_of(data / "voc_panoptic")
    assert set(found) == {"voc_panoptic_val.json"} | {
        f"voc_panoptic_val/{i}.png" for i in toys.VOC_VAL
    }
    with pytest.raises(FileNotFoundError, match="SBD"):
        run(data)
    run(data, "--sbd", str(tmp_path / "sbd" / "dataset"), "--points")
    assert (data / "voc_panoptic" / "voc_panoptic_train_aug.json").is_file()


def test_a_missing_annotation_stops_before_any_json_is_written(data):
    path = data / "benchmark_RELEASE" / "dataset" / "inst" / "2010_000002.mat"
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"2010_000002\.mat"):
        run(data)
    assert not list((data / "voc_panoptic").glob("*.json"))


def test_a_missing_list_is_named(data):
    path = data / "benchmark_RELEASE" / "dataset" / "val.txt"
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"dataset/val\.txt.*benchmark\.tgz"):
        run(data)
    path.write_text("")  # empty is legal
    run(data, "--points")
    content = json.loads((data / "voc_panoptic" / "voc_panoptic_train_aug.json").read_text())
    assert [i["id"] for i in content["images"]] == toys.TRAIN_AUG[:-1]


def test_an_output_that_cannot_be_written_is_told_before_the_work(data, tmp_path):
    # A file in the way stops even the superuser, whom permissions do not.
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"file/out: cannot write there.*--output.*FDD_DATASETS"):
        run(data, "--output", str(tmp_path / "file" / "out"))


def test_lost_objects_are_reported(data, capsys):
    objects, _ = toys.object_maps()
    objects[0, 19] = 3
    for image_id in toys.VOC_VAL[:1]:
        toys.save_palette(data / "VOC2012" / "SegmentationObject" / f"{image_id}.png", objects)
    run(data, "--points")
    assert f"void: {toys.VOC_VAL[0]} (1)" in capsys.readouterr().out


def test_the_command_ends_with_a_message_and_no_traceback(tmp_path):
    command = [sys.executable, str(toys.SCRIPTS / "prepare_voc_panoptic.py")]
    done = subprocess.run(
        [*command, "--root", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "error: Pascal VOC 2012: no folder" in done.stderr and "Traceback" not in done.stderr


def test_real_images(tmp_path):
    root = os.environ.get("DETECTRON2_DATASETS")
    if not root or not (Path(root) / "benchmark_RELEASE" / "dataset" / "train.txt").is_file():
        pytest.skip("DETECTRON2_DATASETS with VOC2012 and SBD is needed")
    lists = Path(root) / "VOC2012" / "ImageSets" / "Segmentation"
    if not lists.is_dir() or len((lists / "val.txt").read_text().split()) > 200:
        pytest.skip("the whole of VOC takes too long for a test")
    run(root, "--output", str(tmp_path / "out"), "--splits", "val", "--points", "10")
    content = json.loads((tmp_path / "out" / "voc_panoptic_val.json").read_text())
    points = read_points(tmp_path / "out" / "points_val_p10.json")
    assert len(content["images"]) == len((lists / "val.txt").read_text().split())
    assert sum(len(a["segments_info"]) for a in content["annotations"]) == sum(
        len(i.segments) for i in points.images
    )
    for image in content["images"]:
        assert (Path(root) / image["file_name"]).is_file()
