"""Mask-wise merging against the rule written as a plain loop."""

import math

import pytest
import torch
import torch.nn.functional as F

from fdd.modeling.panoptic_branch import postprocess
from fdd.modeling.panoptic_branch.postprocess import merge_masks

torch.set_num_threads(1)


def _naive(things, scores, classes, stuff, stuff_scores, num_things, padded, image, output):
    """Every mask at full size, one after the other."""
    masks = torch.cat((things, stuff))
    up = F.interpolate(masks[None], size=padded, mode="bilinear", align_corners=False)
    up = up[..., : image[0], : image[1]]
    up = F.interpolate(up, size=output, mode="bilinear", align_corners=False)[0]
    entries = []
    for q, mask in enumerate(up):
        is_stuff = q >= len(things)
        score = float(stuff_scores[q - len(things)] if is_stuff else scores[q])
        category = num_things + q - len(things) if is_stuff else int(classes[q])
        binary = mask > 0.5
        mask_score = float((mask.double() * binary).sum() / (binary.sum() + 1))
        entries.append((score * mask_score**2, category, is_stuff, binary))
    entries.sort(key=lambda e: -e[0])
    panoptic = torch.zeros(output, dtype=torch.int32)
    segments = []
    for score, category, is_stuff, binary in entries:
        area = int(binary.sum())
        if score < 0.25 or area == 0:
            continue
        covered = int((binary & (panoptic > 0)).sum())
        if covered / area > (0.2 if is_stuff else 0.4):
            continue
        fresh = binary & (panoptic == 0)
        segments.append((category, not is_stuff, score, int(fresh.sum())))
        panoptic[fresh] = len(segments)
    return panoptic, segments


def _scene(seed, queries=40, stuff=5):
    """Random soft blobs of all strengths, some above 1."""
    g = torch.Generator().manual_seed(seed)
    v, u = torch.arange(8.0).view(-1, 1), torch.arange(10.0)
    centre = torch.rand(queries + stuff, 2, 1, 1, generator=g) * torch.tensor([8.0, 10.0]).view(
        2, 1, 1
    )
    size = 0.6 + 4 * torch.rand(queries + stuff, 1, 1, generator=g)
    height = 0.3 + 1.2 * torch.rand(queries + stuff, 1, 1, generator=g)
    distance = (v - centre[:, 0]) ** 2 + (u - centre[:, 1]) ** 2
    masks = height * (1.6 * torch.exp(-distance / size)).clamp(max=1)
    scores = torch.rand(queries + stuff, generator=g)
    classes = torch.randint(0, 20, (queries,), generator=g)
    return masks[:queries], scores[:queries], classes, masks[queries:], scores[queries:]


SIZES = [
    ((64, 80), (64, 80), (64, 80)),
    ((64, 80), (50, 71), (50, 71)),
    ((64, 80), (50, 71), (100, 142)),
    ((64, 80), (61, 80), (33, 47)),
]


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("seed", range(4))
def test_equals_the_plain_loop(sizes, seed, monkeypatch):
    # A few masks a chunk, so that the chunks matter.
    monkeypatch.setattr(postprocess, "_CHUNK_VALUES", 3 * 64 * 80)
    padded, image, output = sizes
    scene = _scene(seed)
    want, want_segments = _naive(*scene, 20, padded, image, output)
    got, segments = merge_masks(
        *scene, num_things=20, padded_size=padded, image_size=image, output_size=output
    )
    assert len(want_segments) > 4
    assert got.dtype == torch.int32 and torch.equal(got, want)
    assert [s["id"] for s in segments] == list(range(1, len(segments) + 1))
    for segment, (category, is_thing, score, area) in zip(segments, want_segments, strict=True):
        assert segment["category_id"] == category and segment["isthing"] is is_thing
        assert segment["area"] == area == int((got == segment["id"]).sum())
        assert segment["score"] == pytest.approx(min(score, 1.0), rel=1e-5)
        assert type(segment["score"]) is float and type(segment["area"]) is int


def _merge(things, stuff=None, scores=None, stuff_scores=None, **kwargs):
    stuff = torch.zeros(0, *things.shape[1:]) if stuff is None else stuff
    scores = torch.ones(len(things)) if scores is None else torch.tensor(scores)
    stuff_scores = torch.ones(len(stuff)) if stuff_scores is None else torch.tensor(stuff_scores)
    size = (8 * things.shape[1], 8 * things.shape[2])
    sizes = {"padded_size": size, "image_size": size, "output_size": size}
    classes = torch.arange(len(things)) % 3
    return merge_masks(
        things, scores, classes, stuff, stuff_scores, num_things=3, **{**sizes, **kwargs}
    )


def test_second_of_two_equal_masks_is_dropped():
    masks = torch.full((2, 4, 4), 0.9)
    panoptic, segments = _merge(masks)
    assert (panoptic == 1).all() and len(segments) == 1
    area = 32 * 32
    assert segments[0]["score"] == pytest.approx((0.9 * area / (area + 1)) ** 2, rel=1e-5)


def _columns(first, last, width=10):
    """A mask of whole columns of 8 px cells; the borders are sharp enough to count columns."""
    mask = torch.zeros(4, width)
    mask[:, first:last] = 1
    return mask


@pytest.mark.parametrize(("kind", "limit"), [("thing", 0.4), ("stuff", 0.2)])
def test_overlap_limits_of_things_and_stuff(kind, limit):
    # The first mask covers columns 0-4; the second starts in it and reaches column 9.
    for covered in (0, 1, 2, 3, 4):
        second = _columns(5 - covered, 10)
        if kind == "thing":
            _, segments = _merge(torch.stack((_columns(0, 5), second)), scores=[1.0, 0.9])
        else:
            _, segments = _merge(_columns(0, 5)[None], second[None], stuff_scores=[0.9])
        share = covered / (5 + covered)
        if abs(share - limit) > 0.04:
            assert (len(segments) == 2) == (share <= limit), covered


def test_stuff_has_its_own_category_and_fills_what_things_left():
    # One column of ten is a thing's: less than the fifth that stuff may lose.
    stuff = torch.stack((_columns(0, 0), _columns(0, 10)))
    panoptic, segments = _merge(_columns(0, 1)[None], stuff, stuff_scores=[1.0, 0.6])
    assert [(s["category_id"], s["isthing"]) for s in segments] == [(0, True), (4, False)]
    assert (panoptic[:, :8] == 1).all() and (panoptic[:, 8:] == 2).all()
    assert [s["area"] for s in segments] == [32 * 8, 32 * 72]


def test_dropped_masks_leave_no_gap_in_the_ids():
    masks = torch.stack((_columns(0, 5), _columns(0, 5), _columns(6, 10)))
    panoptic, segments = _merge(masks, scores=[1.0, 0.9, 0.8])
    assert [s["id"] for s in segments] == [1, 2]
    assert sorted(panoptic.unique().tolist()) == [0, 1, 2]
    assert [s["category_id"] for s in segments] == [0, 2]


def test_low_scores_and_weak_masks_leave_the_map_void():
    for masks, scores in (
        (torch.full((1, 4, 4), 0.5), [1.0]),
        (torch.full((1, 4, 4), 0.6), [0.6]),
        (torch.zeros(1, 4, 4), [1.0]),
    ):
        panoptic, segments = _merge(masks, scores=scores)
        assert (panoptic == 0).all() and segments == []


def test_mask_just_above_the_threshold_is_kept():
    panoptic, segments = _merge(torch.full((1, 4, 4), 0.51), scores=[1.0])
    assert (panoptic == 1).all() and segments[0]["score"] == pytest.approx(0.51**2, rel=5e-3)


def test_scores_that_are_shown_stay_within_one_and_the_order_does_not():
    """Masks have no upper bound: 1.2 and 1.5 score 1.44 and 2.25, and the stronger is painted."""
    masks = torch.stack((torch.full((4, 10), 1.2), 1.5 * _columns(0, 2)))
    panoptic, segments = _merge(masks, scores=[1.0, 1.0])
    assert [s["score"] for s in segments] == [1.0, 1.0]
    assert [s["category_id"] for s in segments] == [1, 0]
    assert (panoptic == 1).float().mean() < 0.4  # the one that covers only a part came first


def test_strong_mask_can_lift_a_low_class_score():
    # Masks may exceed 1; a filter that took 1 for their maximum would drop this one.
    _, segments = _merge(torch.full((1, 4, 4), 1.5), scores=[0.2])
    assert segments[0]["score"] == pytest.approx(0.45, rel=5e-3)


def test_order_of_queries_does_not_matter():
    things, scores, classes, stuff, stuff_scores = _scene(1)
    sizes = {"padded_size": (64, 80), "image_size": (50, 71), "output_size": (50, 71)}
    order = torch.randperm(len(things), generator=torch.Generator().manual_seed(0))
    want = merge_masks(things, scores, classes, stuff, stuff_scores, num_things=20, **sizes)
    got = merge_masks(
        things[order], scores[order], classes[order], stuff, stuff_scores, num_things=20, **sizes
    )
    assert torch.equal(got[0], want[0]) and got[1] == want[1]


def test_what_lies_in_the_padding_is_no_part_of_the_result():
    things, scores, classes, stuff, stuff_scores = _scene(2)
    image = (40, 48)
    want = merge_masks(
        things[:, :6, :7], scores, classes, stuff[:, :6, :7], stuff_scores,
        num_things=20, padded_size=(48, 56), image_size=image, output_size=image,
    )  # fmt: skip
    got = merge_masks(
        things, scores, classes, stuff, stuff_scores,
        num_things=20, padded_size=(64, 80), image_size=image, output_size=image,
    )  # fmt: skip
    assert len(want[1]) > 1
    assert torch.equal(got[0], want[0])
    assert [s["area"] for s in got[1]] == [s["area"] for s in want[1]]


def test_empty_inputs():
    size = {"padded_size": (32, 32), "image_size": (30, 20), "output_size": (15, 10)}
    none = torch.zeros(0, 4, 4), torch.zeros(0)
    panoptic, segments = merge_masks(
        *none, torch.zeros(0, dtype=torch.long), *none, num_things=2, **size
    )
    assert panoptic.shape == (15, 10) and panoptic.dtype == torch.int32
    assert (panoptic == 0).all() and segments == []
    stuff = torch.ones(1, 4, 4), torch.ones(1)
    panoptic, segments = merge_masks(
        *none, torch.zeros(0, dtype=torch.long), *stuff, num_things=2, **size
    )
    assert (panoptic == 1).all()
    assert segments[0]["category_id"] == 2 and segments[0]["area"] == 150


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("where", ["thing", "stuff", "score"])
def test_non_finite_input_is_an_error(bad, where):
    things, stuff, scores = torch.ones(1, 4, 4), torch.ones(1, 4, 4), [1.0]
    if where == "thing":
        things[0, 1, 1] = bad
    elif where == "stuff":
        stuff[0, 1, 1] = bad
    else:
        scores = [bad]
    with pytest.raises(ValueError, match="NaN or infinity"):
        _merge(things, stuff, scores)


def test_shapes_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match=r"thing masks.*\(1, 4, 4\), \(2,\)"):
        _merge(torch.ones(1, 4, 4), scores=[1.0, 1.0])


def test_half_precision_masks():
    panoptic, segments = _merge(torch.full((1, 4, 4), 0.9).bfloat16())
    assert (panoptic == 1).all() and len(segments) == 1
