"""Instance maps as panoptic segments."""

import numpy as np
import pytest

from fdd.export_formats import Instance, make_segments

CAT, SKY, DOG = 7, 3, 9
INSTANCES = [
    Instance(12, CAT, True),
    Instance(5, DOG, True),
    Instance(40, SKY, False),
    Instance(31, SKY, False),
]


def test_segments_of_a_map_by_hand():
    label = np.array([[0, 0, -1, 2], [0, 3, 3, 2], [1, -1, 3, 2]])
    confidence = np.array([[0.5, 0.75, 0.1, 1], [0.25, 0.5, 0.5, 1], [0.9, 0.2, 0.5, 1]])
    got = make_segments(label, INSTANCES, confidence)
    assert got.ids.tolist() == [[12, 12, 0, 40], [12, 40, 40, 40], [5, 0, 40, 40]]
    assert got.ids.dtype == np.int32 and got.vanished == []
    common = {"iscrowd": 0}
    assert got.segments == [
        {"id": 12, "category_id": CAT, "area": 3, "bbox": [0, 0, 2, 2], "score": 0.5, **common},
        {"id": 5, "category_id": DOG, "area": 1, "bbox": [0, 2, 1, 1], "score": 0.9, **common},
        # Stuff of a category is one segment, with the first instance's id.
        {"id": 40, "category_id": SKY, "area": 6, "bbox": [1, 0, 3, 3], "score": 0.75, **common},
    ]


def test_without_a_pixel_there_is_no_segment():
    got = make_segments(np.array([[3, 0]]), INSTANCES)
    # The sky has a pixel, by its second instance.
    assert [s["id"] for s in got.segments] == [12, 40] and got.vanished == [5]
    assert "score" not in got.segments[0]


def test_nothing_but_void():
    got = make_segments(np.full((2, 3), -1), INSTANCES, np.zeros((2, 3)))
    assert not got.ids.any() and got.segments == [] and got.vanished == [12, 5, 40]
    got = make_segments(np.full((2, 3), -1), [])
    assert not got.ids.any() and got.segments == [] and got.vanished == []


def test_against_pixel_by_pixel_counting():
    rng = np.random.default_rng(0)
    instances = [Instance(1000 * (n + 1), n % 5, n % 5 > 0) for n in range(40)]
    label, confidence = rng.integers(-1, 40, (23, 31)), rng.random((23, 31))
    got = make_segments(label, instances, confidence)
    for segment in got.segments:
        rows, columns = np.nonzero(got.ids == segment["id"])
        x, y, width, height = segment["bbox"]
        assert segment["area"] == len(rows) > 0
        assert (x, y) == (columns.min(), rows.min())
        assert (x + width - 1, y + height - 1) == (columns.max(), rows.max())
        assert segment["score"] == pytest.approx(confidence[rows, columns].mean(), abs=1e-4)
    assert sum(s["area"] for s in got.segments) == (label >= 0).sum()


def test_the_order_of_the_instances_does_not_matter():
    rng = np.random.default_rng(1)
    label = rng.integers(-1, 2, (9, 9))
    got, swapped = (
        make_segments(m, i)
        for m, i in ((label, INSTANCES), (np.choose(label + 1, [-1, 1, 0]), INSTANCES[1::-1]))
    )
    assert np.array_equal(got.ids, swapped.ids)
    assert sorted(s["id"] for s in got.segments) == sorted(s["id"] for s in swapped.segments)


def test_what_cannot_be_written_is_refused():
    with pytest.raises(ValueError, match=r"image 'a'.*0 to 4; expected -1 .void. to 3"):
        make_segments(np.array([[0, 4]]), INSTANCES, where="image 'a'")
    for bad in (0, 2**24):
        with pytest.raises(ValueError, match=f"segment id {bad} .*16777215. Renumber"):
            make_segments(np.array([[0]]), [Instance(bad, CAT, True)])
