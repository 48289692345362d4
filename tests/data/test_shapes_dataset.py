"""The shapes: same arguments, same files; sound labels; not solved by colour or position."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from fdd.data import shapes
from fdd.data.shapes import generate_shapes
from fdd.points import read_points
from fdd.points.coco_panoptic import load_segment_ids, read_panoptic_json

NUM_TRAIN = 30


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("shapes data é")
    generate_shapes(root, num_train=NUM_TRAIN, num_val=3, seed=0)
    return root


@pytest.fixture(scope="module")
def scenes(root):
    """(image RGB, index map 0..N-1, category id of each segment, points of each segment)."""
    folder = root / "shapes"
    _, images = read_panoptic_json(folder / "panoptic_train.json")
    labelled = read_points(folder / "points_train_p10.json").images
    result = []
    for image, points in zip(images, labelled, strict=True):
        ids = load_segment_ids(folder / "panoptic_train" / image.png_name, 160, 160)
        index = np.full(ids.shape, -1)
        for n, segment_id in enumerate(image.segment_ids):
            index[ids == segment_id] = n
        coords = {segment.id: np.array(segment.points) for segment in points.segments}
        picture = np.asarray(Image.open(folder / "train" / image.file_name))
        result.append((picture, index, image.category_ids, [coords[n] for n in image.segment_ids]))
    return result


def digest(folder: Path) -> dict[str, str]:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha1(p.read_bytes()).hexdigest() for p in files}


def small(root, **changes):
    arguments = dict(num_train=2, num_val=1, size=64, seed=5, points=(1,))
    return generate_shapes(root, **{**arguments, **changes})


def test_another_process_draws_the_same_files(tmp_path):
    first = digest(small(tmp_path / "a"))
    code = (
        "import sys; from fdd.data.shapes import generate_shapes; "
        "generate_shapes(sys.argv[1], 2, 1, 64, 5, (1,))"
    )
    env = {**os.environ, "PYTHONHASHSEED": "77"}
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "b")], check=True, env=env)
    assert first == digest(tmp_path / "b" / "shapes")
    assert len(first) == 2 * 3 + 2 + 2 + 1


def test_more_images_do_not_change_the_first(tmp_path):
    few, many = digest(small(tmp_path / "a")), digest(small(tmp_path / "b", num_train=4))
    pictures = [name for name in few if name.endswith(".png")]
    assert len(pictures) == 6
    assert all(few[name] == many[name] for name in pictures)


def test_seed_and_split_change_the_pictures(tmp_path):
    first, second = digest(small(tmp_path / "a")), digest(small(tmp_path / "b", seed=6))
    assert first["train/train_00000.png"] != second["train/train_00000.png"]
    assert first["train/train_00000.png"] != first["val/val_00000.png"]


def test_same_arguments_leave_the_files_alone_and_others_redraw(tmp_path):
    folder = small(tmp_path)
    marker = folder / "train" / "marker"
    marker.touch()
    assert small(tmp_path) == folder
    assert marker.exists()
    small(tmp_path, num_val=2)
    assert not marker.exists()
    assert len(list((folder / "val").iterdir())) == 2
    assert [p.name for p in tmp_path.iterdir()] == ["shapes"], "temporary folders are left behind"


def test_a_stopped_run_leaves_the_old_set(tmp_path, monkeypatch):
    before = digest(small(tmp_path))

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(shapes, "write_points", stop)
    with pytest.raises(KeyboardInterrupt):
        small(tmp_path, seed=9)
    assert digest(tmp_path / "shapes") == before
    assert [p.name for p in tmp_path.iterdir()] == ["shapes"]


def test_a_folder_of_other_origin_is_not_replaced(tmp_path):
    (tmp_path / "shapes").mkdir()
    (tmp_path / "shapes" / "holiday.jpg").touch()
    with pytest.raises(FileExistsError, match="other data"):
        small(tmp_path)
    assert (tmp_path / "shapes" / "holiday.jpg").exists()


@pytest.mark.parametrize("wrong", [{"size": 8}, {"num_train": -1}, {"seed": -1}, {"points": (0,)}])
def test_arguments_out_of_range(tmp_path, wrong):
    with pytest.raises(ValueError, match="cannot draw shapes"):
        small(tmp_path, **wrong)
    assert not any(tmp_path.iterdir())


def test_command_line(tmp_path, capsys):
    size = ["--train", "1", "--val", "0", "--size", "64"]
    shapes.main(["--root", str(tmp_path), *size])
    assert "ready" in capsys.readouterr().out
    assert (tmp_path / "shapes" / "points_train_p10.json").exists()
    content = json.loads((tmp_path / "shapes" / "panoptic_val.json").read_text())
    assert content["images"] == []


def test_labels_agree_with_the_pictures(root, scenes):
    folder = root / "shapes"
    content = json.loads((folder / "panoptic_train.json").read_text())
    kinds = {c["id"]: c["isthing"] for c in content["categories"]}
    assert sorted(kinds.values()) == [0, 0, 0, 1, 1, 1, 1, 1]
    assert len(content["images"]) == len(scenes) == NUM_TRAIN
    for annotation, (picture, index, categories, points) in zip(
        content["annotations"], scenes, strict=True
    ):
        assert picture.shape == (160, 160, 3) and picture.dtype == np.uint8
        assert index.min() == 0, "a pixel without a segment"
        stuff = [c for c in categories if not kinds[c]]
        assert 2 <= len(stuff) == len(set(stuff)), "stuff must be one segment a class"
        for n, segment in enumerate(annotation["segments_info"]):
            ys, xs = np.nonzero(index == n)
            box = [xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1]
            assert segment["area"] == len(xs) and segment["bbox"] == box
            assert segment["iscrowd"] == 0
            rows, cols = (
                np.floor(points[n][:, 1]).astype(int),
                np.floor(points[n][:, 0]).astype(int),
            )
            assert (index[rows, cols] == n).all() and len(set(zip(rows, cols, strict=True))) == 10


def test_things_are_whole_big_enough_and_sometimes_touch_their_like(scenes):
    touching = things = 0
    for _, index, categories, _ in scenes:
        numbers = [n for n, c in enumerate(categories) if c < 10]
        assert numbers, "an image without a thing"
        for n in numbers:
            mask = (index == n).astype(np.uint8)
            assert mask.sum() >= 200
            assert cv2.connectedComponents(mask)[0] == 2
            grown = cv2.dilate(mask, np.ones((5, 5), np.uint8)) > 0
            touching += any(
                m != n and categories[m] == categories[n] and (grown & (index == m)).any()
                for m in numbers
            )
        things += len(numbers)
    assert {c for _, _, categories, _ in scenes for c in categories} == {1, 2, 3, 4, 5, 11, 12, 13}
    assert 2 <= things / len(scenes) <= 5
    assert 0.05 < touching / things < 0.5


def panoptic_quality(scenes, predictions):
    """Mean over classes of sum(IoU > 0.5) / (TP + FP/2 + FN/2), from label maps."""
    iou_sum, weight = {}, {}
    for (_, truth, categories, _), guess in zip(scenes, predictions, strict=True):
        count = len(categories)
        joint = np.bincount((truth * count + guess).ravel(), minlength=count**2)
        joint = joint.reshape(count, count).astype(float)
        iou = joint / (joint.sum(1)[:, None] + joint.sum(0)[None] - joint)
        for a in range(count):
            # Every true segment and every non-empty guess weighs one half.
            halves = 0.5 + 0.5 * (joint[:, a].sum() > 0)
            weight[categories[a]] = weight.get(categories[a], 0) + halves
            match = [b for b in range(count) if iou[a, b] > 0.5 and categories[a] == categories[b]]
            found = iou[a, match[0]] if match else 0.0
            iou_sum[categories[a]] = iou_sum.get(categories[a], 0) + found
    return 100 * np.mean([iou_sum[c] / weight[c] for c in weight])


def nearest_in_color_and_position(scenes, color_shares, blur):
    """One label map per share of colour in the distance, each pixel that of its nearest point."""
    maps = {share: [] for share in color_shares}
    for picture, _, _, points in scenes:
        xy = np.concatenate(points).astype(np.float32)
        owner = np.repeat(np.arange(len(points)), [len(p) for p in points])
        y, x = np.mgrid[:160, :160].astype(np.float32) + 0.5
        place = np.stack([x, y], -1).reshape(1, -1, 2)
        distance = ((place - xy[:, None]) ** 2).sum(-1)
        lab = cv2.cvtColor(picture.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
        if blur:
            lab = cv2.GaussianBlur(lab, (0, 0), blur)
        seeds = lab[xy[:, 1].astype(int), xy[:, 0].astype(int)]
        color = sum((lab[..., c].reshape(1, -1) - seeds[:, c, None]) ** 2 for c in range(3))
        for share in color_shares:
            best = ((1 - share) * distance + share * color).argmin(0)
            maps[share].append(owner[best].reshape(160, 160))
    return {share: panoptic_quality(scenes, guesses) for share, guesses in maps.items()}


@pytest.mark.parametrize("blur", [0, 3])
def test_neither_position_nor_color_solves_the_set(scenes, blur):
    scores = nearest_in_color_and_position(scenes, (0, 0.3, 0.6, 0.9, 0.99, 1), blur)
    assert max(scores.values()) < 55, scores
    assert scores[0] < 50, scores


def test_masks_survive_a_stride_of_eight(scenes):
    guesses = []
    for _, index, categories, _ in scenes:
        one_hot = np.stack([index == n for n in range(len(categories))], -1).astype(np.float32)
        coarse = cv2.resize(one_hot, (20, 20), interpolation=cv2.INTER_AREA)
        guesses.append(cv2.resize(coarse, (160, 160)).argmax(-1))
    assert panoptic_quality(scenes, guesses) > 85
    assert panoptic_quality(scenes, [index for _, index, _, _ in scenes]) == pytest.approx(100)
