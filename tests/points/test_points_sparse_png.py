"""Sparse PNGs, the form of other projects' point labels: round trips and hostile folders."""

import numpy as np
import pytest

from fdd.points import PointLabelError, PointSegment, read_sparse_png, write_sparse_png
from fdd.points.coco_panoptic import load_segment_ids, save_segment_ids


def test_sparse_png_round_trip(panoptic, tmp_path):
    dataset = panoptic.sample(10)
    write_sparse_png(dataset, tmp_path / "p10")
    back = read_sparse_png(panoptic.json, tmp_path / "p10")
    assert back.categories == dataset.categories
    for first, second in zip(dataset.images, back.images, strict=True):
        assert first.image_id == second.image_id and first.file_name == second.file_name
        for a, b in zip(first.segments, second.segments, strict=True):
            assert (a.id, a.category_id, sorted(a.points)) == (
                b.id,
                b.category_id,
                sorted(b.points),
            )


def test_a_sparse_png_is_the_panoptic_png_with_all_but_the_points_zero(panoptic, tmp_path):
    dataset = panoptic.sample(10)
    write_sparse_png(dataset, tmp_path / "p10")
    ids = load_segment_ids(tmp_path / "p10" / "x.png", 20, 30)
    points = [p for s in dataset.images[0].segments for p in s.points]
    assert (ids > 0).sum() == len(points) == 40
    np.testing.assert_array_equal(ids[ids > 0], panoptic.ids[ids > 0])


def test_sparse_pngs_of_others(panoptic, tmp_path):
    ids = np.zeros((20, 30), np.int32)
    ids[3, 4], ids[13, 3], ids[13, 4] = 500, 900, 900  # one point, and two on the crowd
    for name in "xy":
        save_segment_ids(tmp_path / "sparse" / f"{name}.png", ids)
    for segment in panoptic.segments(0):
        del segment["bbox"], segment["area"]
    panoptic.write()
    dataset = read_sparse_png(panoptic.json, tmp_path / "sparse")
    assert dataset.images[0].segments == [PointSegment(500, 1, [(4.5, 3.5)])]
    assert dataset.info["skipped_crowd_points"] == 4
    ids[0, 0] = 12345
    save_segment_ids(tmp_path / "sparse" / "x.png", ids)
    with pytest.raises(PointLabelError, match=r"segment 12345 .* not in the JSON"):
        read_sparse_png(panoptic.json, tmp_path / "sparse")


def test_full_masks_are_not_read_as_points(panoptic):
    with pytest.raises(PointLabelError, match="looks like a full mask"):
        read_sparse_png(panoptic.json, panoptic.pngs, max_points=100)


def test_sparse_png_names(panoptic, tmp_path):
    dataset = panoptic.sample(1)
    dataset.images[1].file_name = "b/x.jpg"
    with pytest.raises(PointLabelError, match=r"'2007_000032' and 5 .* 'x\.png'"):
        write_sparse_png(dataset, tmp_path / "p1")
    write_sparse_png(dataset, tmp_path / "p1", {"2007_000032": "x.png", 5: "y.png"})
    assert len(read_sparse_png(panoptic.json, tmp_path / "p1").images) == 2
    dataset.images[1].segments[0].id = 256**3
    with pytest.raises(PointLabelError, match="holds ids up to 16777215"):
        write_sparse_png(dataset, tmp_path / "p1", {"2007_000032": "x.png", 5: "y.png"})
