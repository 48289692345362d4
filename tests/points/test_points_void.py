"""Void: which pixels strokes cover, what that hides, and how a file says it."""

import copy
import json

import numpy as np
import pytest

from fdd.data.loading import load_point_dicts
from fdd.points import Category, PointLabelError, read_points, void, write_points
from fdd.points.coco_panoptic import load_segment_ids
from fdd.points.rules import CheckTarget, check_data
from fdd.points.sparse_png import write_sparse_png
from fdd.points.structures import PointImage, PointSegment, VoidStroke
from fdd.points.void import is_void, void_mask, without_void

STROKES = [
    VoidStroke(6.0, ((3.0, 4.0), (20.5, 9.25), (11.0, 17.0))),
    VoidStroke(1.0, ((0.5, 19.5),)),
    VoidStroke(9.5, ((30.0, -2.0), (50.0, 12.0))),
]
HEIGHT, WIDTH = 20, 33


def _by_definition(strokes, height, width):
    """Each pixel against many places of each line, in float64."""
    y, x = np.mgrid[:height, :width] + 0.5
    mask = np.zeros((height, width), bool)
    for stroke in strokes:
        line = np.array(stroke.line)
        ends = line[1:] if len(line) > 1 else line
        for start, end in zip(line, ends, strict=False):
            for share in np.linspace(0, 1, 4001):
                px, py = start + share * (end - start)
                mask |= (x - px) ** 2 + (y - py) ** 2 <= (stroke.width / 2) ** 2
    return mask


def test_pixels_are_void_whose_centre_is_under_a_stroke():
    mask = void_mask(STROKES, HEIGHT, WIDTH)
    assert np.array_equal(mask, _by_definition(STROKES, HEIGHT, WIDTH))
    assert 0 < mask.sum() < mask.size
    assert mask[19, 0] and mask[:, 19:21].any()
    assert not void_mask([], 3, 4).any()


def test_a_mask_does_not_depend_on_the_direction_of_a_stroke_or_on_their_order():
    turned = [VoidStroke(s.width, s.line[::-1]) for s in reversed(STROKES)]
    assert np.array_equal(void_mask(STROKES, 64, 64), void_mask(turned, 64, 64))


def test_large_strokes_are_cut_at_the_image():
    assert void_mask([VoidStroke(1e6, ((0.0, 0.0),))], 7, 9).all()
    assert not void_mask([VoidStroke(4.0, ((-50.0, 3.0), (-9.0, 3.0)))], 7, 9).any()
    assert not void_mask([VoidStroke(4.0, ((12.0, 900.0),))], 7, 9).any()


def test_points_are_void_with_their_pixels():
    mask = void_mask(STROKES, HEIGHT, WIDTH)
    points = np.random.default_rng(0).random((500, 2)) * [WIDTH, HEIGHT]
    points = np.concatenate([points, [[WIDTH, HEIGHT], [0, 0], [WIDTH, 3.2]]])
    pixels = np.minimum(points.astype(int), [WIDTH - 1, HEIGHT - 1])
    found = is_void(STROKES, points, HEIGHT, WIDTH)
    assert np.array_equal(found, mask[pixels[:, 1], pixels[:, 0]])
    assert found.any() and not found.all()


def test_hidden_points_and_segments_are_left_out_and_not_lost():
    segments = [
        PointSegment(1, 7, [(3.5, 4.5), (30.5, 18.5)]),
        PointSegment(2, 7, [(20.5, 9.5)]),
        PointSegment(3, 8, [(1.5, 12.5)]),
    ]
    image = PointImage("a", "a.png", HEIGHT, WIDTH, segments, STROKES)
    seen = without_void(image)
    assert [(s.id, s.points) for s in seen.segments] == [
        (1, [(30.5, 18.5)]),
        (3, [(1.5, 12.5)]),
    ]
    assert [len(s.points) for s in image.segments] == [2, 1, 1]


@pytest.fixture
def content():
    return {
        "format": "fdd-points",
        "version": 1,
        "categories": [{"id": 1, "name": "cell", "isthing": True}],
        "images": [
            {
                "id": 1,
                "file_name": "a.png",
                "height": 40,
                "width": 60,
                "segments": [
                    {"id": 5, "category_id": 1, "points": [[10, 10], [50, 30]]},
                    {"id": 6, "category_id": 1, "points": [[12, 9]]},
                ],
                "void": [{"width": 12, "line": [[10, 10], [14, 10.5]]}],
            },
            {"id": 2, "file_name": "b.png", "height": 40, "width": 60, "segments": []},
        ],
    }


def _write(folder, content):
    file = folder / "points.json"
    file.write_text(json.dumps(content))
    return file


def test_round_trip(tmp_path, content):
    dataset = read_points(_write(tmp_path, content))
    assert dataset.images[0].void == [VoidStroke(12, ((10, 10), (14, 10.5)))]
    assert dataset.images[1].void == []
    again = tmp_path / "again.json"
    write_points(again, dataset)
    assert read_points(again) == dataset
    assert "void" not in json.loads(again.read_text())["images"][1]


def test_what_is_loaded_for_training_does_not_have_hidden_points(tmp_path, content):
    for name in "ab":
        (tmp_path / f"{name}.png").touch()
    file = _write(tmp_path, content)
    first, second = load_point_dicts(tmp_path, file, [Category(1, "cell", True)])
    assert [(p["instance_id"], p["coords"]) for p in first["points"]] == [(5, [[50.0, 30.0]])]
    assert first["void"] == [{"width": 12.0, "line": [[10.0, 10.0], [14.0, 10.5]]}]
    assert "void" not in second


def test_checks_name_hidden_points(tmp_path, content):
    result = check_data(CheckTarget(_write(tmp_path, content)))
    found = [(f.segment_id, f.point) for f in result.findings if f.rule == "W209"]
    assert found == [(5, (10.0, 10.0)), (6, (12.0, 9.0))]
    assert not any(f.rule[0] == "E" for f in result.findings)


INVALID = {
    "no list": ({"width": 3}, "void"),
    "no width": ([{"line": [[1, 2]]}], "width"),
    "a width of another kind": ([{"width": True, "line": [[1, 2]]}], "width"),
    "an empty line": ([{"width": 3, "line": []}], "line"),
    "no pair": ([{"width": 3, "line": [[1, 2, 3]]}], "pair"),
    "text": ([{"width": 3, "line": [["1", 2]]}], "pair"),
    "not positive": ([{"width": 0, "line": [[1, 2]]}], "width"),
    "not finite": ([{"width": 3, "line": [[1, float("nan")]]}], "(1, nan)"),
    "a width no float can hold": ([{"width": 10**400, "line": [[1, 2]]}], "too large"),
    "a place no float can hold": ([{"width": 3, "line": [[1, -(10**400)]]}], "too large"),
    "endless": ([{"width": 3, "line": [[1, 1]] * 10_001}], "10,001 places"),
    "far away": ([{"width": 3, "line": [[1, -1e9]]}], "-1e+09"),
}


@pytest.mark.parametrize("case", INVALID)
def test_invalid_strokes_are_refused_with_their_image(tmp_path, content, case):
    before = copy.deepcopy(content)
    content["images"][0]["void"], word = INVALID[case]
    with pytest.raises(PointLabelError, match="image 1") as caught:
        read_points(_write(tmp_path, content))
    assert word in str(caught.value)
    check = check_data(CheckTarget(_write(tmp_path, content)))
    assert [f.image_id for f in check.findings if f.rule in ("E101", "E112")] == [1]
    assert read_points(_write(tmp_path, before)).images[0].void


def test_sparse_pngs_have_no_hidden_points(tmp_path, content):
    """They cannot say what is void: a point under it would count again."""
    write_sparse_png(read_points(_write(tmp_path, content)), tmp_path / "sparse")
    ids = np.concatenate([load_segment_ids(p).ravel() for p in (tmp_path / "sparse").glob("a.png")])
    assert ids[ids > 0].tolist() == [5]


def test_what_is_painted_already_costs_nothing_more(monkeypatch):
    compared = []
    near = void._is_near

    def count(x, y, *piece):
        compared.append(x.size * y.size)
        return near(x, y, *piece)

    monkeypatch.setattr(void, "_is_near", count)
    wide = VoidStroke(1e6, tuple((float(n % 7), float(n)) for n in range(500)))
    assert void_mask([wide, *STROKES], 50, 40).all()
    assert sum(compared) == 50 * 40
