"""Drawing points from masks: distributions, nesting, independence of order, agreement of files."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from fdd.points import (
    STRATEGIES,
    PointLabelError,
    sample_panoptic,
    sample_points,
)
from fdd.points.coco_panoptic import (
    group_pixels,
    load_segment_ids,
    rank_pixels,
    save_segment_ids,
)


def disk(size=61, radius=25):
    y, x = np.mgrid[:size, :size] - size // 2
    return x**2 + y**2 <= radius**2


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("k", [1, 2, 10, 300, 10_000])
def test_different_pixel_centres_of_the_mask(strategy, k):
    mask = disk()
    mask[:, 30] = False
    points = sample_points(mask, k, strategy, seed=5, image_id="a", segment_id=3)
    assert points.shape == (min(k, mask.sum()), 2) and points.dtype == np.float64
    assert np.all(points % 1 == 0.5)
    x, y = np.floor(points).astype(int).T
    assert mask[y, x].all()
    assert len(np.unique(points, axis=0)) == len(points)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_shorter_draw_is_the_start_of_a_longer_one(strategy):
    mask = disk(31, 9)
    longest = sample_points(mask, 10**6, strategy, 2, 7, 8)
    for k in (1, 2, 10, 100):
        np.testing.assert_array_equal(sample_points(mask, k, strategy, 2, 7, 8), longest[:k])


def test_the_draw_depends_on_seed_image_and_segment():
    mask = disk()
    base = sample_points(mask, 10, "uniform", 0, 1, 1)
    for arguments in [(1, 1, 1), (0, 2, 1), (0, 1, 2), (0, "1", 1)]:
        assert not np.array_equal(base, sample_points(mask, 10, "uniform", *arguments))
    again = sample_points(mask, 10, "uniform", 0, np.int64(1), np.int64(1))
    np.testing.assert_array_equal(base, again)


def test_the_draw_is_the_same_in_another_process_and_release():
    code = (
        "import numpy as np; from fdd.points import sample_points; "
        "print(sample_points(np.ones((50, 60), bool), 3, 'uniform', 0, '2007_000032', 7).tolist())"
    )
    mask = np.ones((50, 60), bool)
    here = sample_points(mask, 3, "uniform", 0, "2007_000032", 7).tolist()
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(there.stdout) == here
    # Fixed for good: published point files must stay reproducible.
    assert here == [[11.5, 23.5], [13.5, 12.5], [51.5, 46.5]]


def mean_squared_distance(strategy, draws=4000):
    mask = disk()
    points = np.concatenate([sample_points(mask, 1, strategy, seed, 0, 1) for seed in range(draws)])
    return ((points - 30.5) ** 2).sum(1), points


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_single_draws_follow_the_density_of_the_strategy(strategy):
    mask = disk()
    y, x = np.mgrid[:61, :61] - 30
    squared = (x**2 + y**2)[mask].astype(float)
    weight = {
        "uniform": np.ones_like(squared),
        "border": squared,
        "center": squared.max() - squared,
    }[strategy]
    weight = weight / weight.sum()
    expected = (weight * squared).sum()
    spread = np.sqrt((weight * squared**2).sum() - expected**2)
    got, points = mean_squared_distance(strategy)
    assert abs(got.mean() - expected) < 4 * spread / np.sqrt(len(got))
    # No side is preferred.
    assert np.all(np.abs(points.mean(0) - 30.5) < 4 * points.std(0) / np.sqrt(len(points)))


def test_uniform_draws_of_several_points_cover_every_pixel_alike():
    mask = np.ones((3, 4), bool)
    counts = np.zeros((3, 4))
    for seed in range(6000):
        x, y = np.floor(sample_points(mask, 5, "uniform", seed, 0, 1)).astype(int).T
        counts[y, x] += 1
    expected = 6000 * 5 / 12
    spread = np.sqrt(6000 * (5 / 12) * (7 / 12))
    assert np.abs(counts - expected).max() < 4.5 * spread


def test_weighted_draws_are_without_replacement_by_remaining_weight():
    # Three pixels in a row: border weights 1, 0, 1 around the centroid, so the middle comes last.
    mask = np.ones((1, 3), bool)
    firsts = []
    for seed in range(400):
        x = sample_points(mask, 3, "border", seed, 0, 1)[:, 0] - 0.5
        assert x[2] == 1
        firsts.append(x[0])
    assert 140 < firsts.count(0) < 260
    assert sample_points(mask, 1, "center", 0, 0, 1).tolist() == [[1.5, 0.5]]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_small_masks(strategy):
    mask = np.zeros((5, 6), bool)
    assert sample_points(mask, 4, strategy).shape == (0, 2)
    mask[2, 4] = True
    assert sample_points(mask, 4, strategy).tolist() == [[4.5, 2.5]]
    mask[:] = False
    mask[0, 1] = mask[0, 3] = True  # both equally far from the centroid, which lies outside
    assert sorted(sample_points(mask, 4, strategy).tolist()) == [[1.5, 0.5], [3.5, 0.5]]


def test_bad_requests():
    with pytest.raises(ValueError, match="'middle'; expected one of uniform, center, border"):
        sample_points(disk(), 1, "middle")
    with pytest.raises(ValueError, match="k = 0"):
        sample_points(disk(), 0)
    with pytest.raises(ValueError, match="height, width"):
        sample_points(np.ones((2, 3, 4), bool), 1)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_data_set_is_sampled_like_its_masks(panoptic, strategy):
    dataset = panoptic.sample(10, strategy, 3)
    assert [i.image_id for i in dataset.images] == ["2007_000032", 5]
    assert [i.file_name for i in dataset.images] == ["a/x.jpg", "a/y.jpg"]
    assert [c.isthing for c in dataset.categories] == [False, True, False]
    for image in dataset.images:
        assert [(s.id, s.category_id) for s in image.segments] == [
            (3, 9),
            (500, 1),
            (501, 1),
            (70_001, 4),
        ]
        for segment in image.segments:
            mask = panoptic.ids == segment.id
            expected = sample_points(mask, 10, strategy, 3, image.image_id, segment.id)
            np.testing.assert_array_equal(segment.points, expected)
    assert dataset.info["skipped_crowd"] == 2 and dataset.info["skipped_empty"] == 0
    assert dataset.info["points_per_segment"] == 10 and dataset.info["strategy"] == strategy


def test_neither_order_nor_workers_change_the_points(panoptic):
    before = {i.image_id: i for i in panoptic.sample().images}
    assert panoptic.sample(workers=2).images == list(before.values())
    panoptic.content["images"].reverse()
    for annotation in panoptic.content["annotations"]:
        annotation["segments_info"].reverse()
    panoptic.write()
    for image in panoptic.sample().images:
        first, second = (
            {s.id: s.points for s in i.segments} for i in (image, before[image.image_id])
        )
        assert first == second


def test_boxes_and_areas_are_not_read(panoptic):
    before = panoptic.sample()
    for image in (0, 1):
        for segment in panoptic.segments(image):
            del segment["bbox"], segment["area"]
            if not segment["iscrowd"]:
                del segment["iscrowd"]
    panoptic.write()
    assert panoptic.sample() == before


def test_a_segment_without_pixels(panoptic):
    panoptic.segments()[1]["id"] = 777
    panoptic.write()
    with pytest.raises(PointLabelError, match=r"x\.png: segment 500 .*x=2, y=2.* not in the JSON"):
        panoptic.sample()
    ids = panoptic.ids.copy()
    ids[ids == 500] = 0
    save_segment_ids(panoptic.pngs / "x.png", ids)
    with pytest.raises(PointLabelError, match=r"segment 777 of image '2007_000032'.*no pixel"):
        panoptic.sample()
    dataset = panoptic.sample(skip_empty=True)
    assert dataset.info["skipped_empty"] == 1
    assert [s.id for s in dataset.images[0].segments] == [3, 501, 70_001]


def test_files_that_do_not_agree(panoptic):
    Image.fromarray(np.zeros((20, 31, 3), np.uint8)).save(panoptic.pngs / "y.png")
    with pytest.raises(PointLabelError, match=r"y\.png: 31 x 20 px .* says 30 x 20"):
        panoptic.sample()
    Image.fromarray(np.zeros((20, 30), np.uint8)).save(panoptic.pngs / "y.png")
    with pytest.raises(PointLabelError, match="mode 'L'"):
        panoptic.sample()
    (panoptic.pngs / "y.png").write_bytes(b"no picture")
    with pytest.raises(PointLabelError, match=r"y\.png: not a readable picture"):
        panoptic.sample()
    (panoptic.pngs / "y.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"y\.png: no such panoptic PNG"):
        panoptic.sample()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda c: c["annotations"].pop(), "'2007_000032' has no annotation"),
        (lambda c: c["annotations"].append(c["annotations"][0]), "image 5 is annotated twice"),
        (lambda c: c["images"].pop(), "image 5 is annotated, but is not among"),
        (lambda c: c["annotations"][0].pop("segments_info"), "segments_info"),
        (lambda c: c.pop("categories"), "no categories; expected the COCO panoptic"),
        (
            lambda c: c["annotations"][0]["segments_info"][0].update(id=0),
            "the id is not an integer from 1",
        ),
        (
            lambda c: c["annotations"][0]["segments_info"][0].update(id=500),
            "segment 500: the id is listed twice",
        ),
        (lambda c: c["annotations"][0]["segments_info"][0].update(category_id=8), "category_id 8"),
    ],
)
def test_unsound_panoptic_json(panoptic, spoil, message):
    spoil(panoptic.content)
    panoptic.write()
    with pytest.raises(PointLabelError, match=message):
        panoptic.sample()


def test_missing_and_broken_json(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.json: no such panoptic JSON"):
        sample_panoptic(tmp_path / "none.json", tmp_path, 1)
    (tmp_path / "a.json").write_text('{"images": [')
    with pytest.raises(PointLabelError, match=r"a\.json, line 1.*: not valid JSON"):
        sample_panoptic(tmp_path / "a.json", tmp_path, 1)


def test_grouping_many_segments():
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 256**3, (300, 300)).astype(np.int32)  # far more than 2^16 segments
    ids[0, :5] = 0
    names = tuple(np.unique(ids[ids > 0])[::-1].tolist())
    groups = group_pixels(ids, names, "picture")
    assert len(names) > 2**16 and sum(map(len, groups)) == (ids > 0).sum()
    for name, pixels in list(zip(names, groups, strict=True))[::997]:
        np.testing.assert_array_equal(pixels, np.flatnonzero(ids == name))


def test_ranks_of_pixels():
    ids = np.array([[0, 70000, 70000], [5, 5, 9], [0, 0, 70000]], np.int32)
    ranks = rank_pixels(ids, (9, 70000, 33, 5), "picture")
    assert ranks.tolist() == [[0, 2, 2], [4, 4, 1], [0, 0, 2]] and ranks.dtype == np.uint16
    assert rank_pixels(ids[:0], (9,), "picture").shape == (0, 3)
    assert rank_pixels(ids * 0, (), "picture").tolist() == [[0] * 3] * 3
    with pytest.raises(PointLabelError, match=r"picture: segment 9 \(first at x=2, y=1\) is not"):
        rank_pixels(ids, (70000, 5), "picture")
    for wrong in ((5, 9, 9, 70000), (5, 9, 70000, 0), (5, 9, 70000, -3)):
        with pytest.raises(PointLabelError, match=r"picture: its JSON entry lists segment ids"):
            rank_pixels(ids, wrong, "picture")


def test_panoptic_png_round_trip(tmp_path):
    ids = np.array([[0, 1, 255, 256], [65535, 65536, 256**3 - 1, 7]])
    save_segment_ids(tmp_path / "deep" / "a.png", ids)
    np.testing.assert_array_equal(load_segment_ids(tmp_path / "deep" / "a.png", 2, 4), ids)
    rgb = np.asarray(Image.open(tmp_path / "deep" / "a.png"))
    np.testing.assert_array_equal(rgb @ [1, 256, 65536], ids)
    for wrong in (-1, 256**3):
        with pytest.raises(PointLabelError, match="a panoptic PNG holds 0 to 16777215"):
            save_segment_ids(tmp_path / "b.png", np.array([[wrong]]))
    assert not (tmp_path / "b.png").exists()


def test_an_alpha_channel_is_no_part_of_the_ids(tmp_path):
    ids = np.array([[0, 1, 255, 256], [65535, 65536, 256**3 - 1, 7]])
    rgba = np.stack([ids % 256, ids // 256 % 256, ids // 65536, ids * 31 % 256], -1)
    Image.fromarray(rgba.astype(np.uint8)).save(tmp_path / "a.png")
    got = load_segment_ids(tmp_path / "a.png", 2, 4)
    assert got.dtype == np.int32 and got.flags.writeable
    np.testing.assert_array_equal(got, ids)
