"""Learned labels averaged over views of an image."""

import pytest
import torch
from detectron2.utils.events import EventStorage

from fdd.modeling.pseudo_labels.averaging import LabelView, average_views, estimate_averaged
from fdd.modeling.pseudo_labels.estimation import LabelSettings, forced_points
from modeling_toys import small_model, toy_input

torch.set_num_threads(1)
EXTENT = {"LOCATION_PRIOR.ENABLED": True, "LOCATION_PRIOR.EXTENT": True}


def _resized(x, scale):
    """The input at another size, by nearest neighbour: only that it is the same in all tests
    matters."""
    height, width = (round(side * scale) for side in x["image"].shape[1:])
    rows = (torch.arange(height) * x["image"].shape[1] // height).long()
    columns = (torch.arange(width) * x["image"].shape[2] // width).long()
    factor = torch.tensor([width / x["image"].shape[2], height / x["image"].shape[1]])
    return x | {
        "image": x["image"][:, rows][:, :, columns],
        "point_coords": x["point_coords"] * factor,
    }


def _mirrored(x):
    width = x["image"].shape[2]
    coords = x["point_coords"].clone()
    coords[:, 0] = width - coords[:, 0]
    # Maps of the labels are not looked at when the labels are estimated, the cells are.
    cells = x["point_cells"].clone()
    cells[:, 2] = -(-width // 8) - 1 - cells[:, 2]
    return x | {"image": x["image"].flip(-1), "point_coords": coords, "point_cells": cells}


def _inputs():
    """Input widths that are no multiples of 8: the mirrored image has other cells."""
    return [
        toy_input(60, 44, [0, 1, 3], seed=4) | {"height": 97, "width": 71},
        toy_input(33, 52, [2, 0, 4, 1], seed=5),
    ]


@pytest.mark.parametrize("extent", [False, True])
@pytest.mark.parametrize("binding", ["PSEUDO.FORCE_POINTS", "CLICKS.RESIDUAL"])
@pytest.mark.parametrize("min_prob", [0.0, 0.4])
def test_one_view_is_the_plain_label(min_prob, binding, extent):
    changes = {"PSEUDO.LABEL_MIN_PROB": min_prob, binding: True} | (EXTENT if extent else {})
    model = small_model(changes).eval()
    batch = [*_inputs(), toy_input(20, 30, [], seed=6)]
    labels = model.estimate_labels(batch)
    for x, a, b in zip(batch, labels, estimate_averaged(model, [batch], [False]), strict=True):
        plain, averaged = a["pseudo_labels"]["learned"], b.label
        # The residual starts from the logits in the one, from log-probabilities in the other.
        assert (plain == averaged).float().mean() > (0.99 if "CLICKS" in binding else 0.999999)
        overruled = a["pseudo_labels"]["learned"] != a["pseudo_labels"]["learned_free"]
        if min_prob == 0:
            assert len(x["classes"]) == 0 or overruled.any()
            alike = ~overruled & (plain == averaged)
            torch.testing.assert_close(a["confidence"][alike], b.probability[alike])
            overruled &= plain == averaged
            assert (b.probability[overruled] < a["confidence"][overruled]).all()


@pytest.mark.parametrize("extent", [False, True])
@pytest.mark.parametrize("binding", ["PSEUDO.FORCE_POINTS", "CLICKS.RESIDUAL"])
def test_one_refined_view_is_the_refined_label(binding, extent):
    changes = {binding: True} | (EXTENT if extent else {})
    model = small_model({"PSEUDO.REFINE": True} | changes).eval()
    plain = small_model(changes).eval()
    batch = [*_inputs(), toy_input(20, 30, [], seed=6)]
    labels, coarse = model.estimate_labels(batch), plain.estimate_labels(batch)
    found = estimate_averaged(model, [batch], [False])
    for x, a, b, c in zip(batch, labels, found, coarse, strict=True):
        refined = a["pseudo_labels"]["learned"]
        # As above; and of an untrained network, odds are so even that roundings show.
        assert (refined == b.label).float().mean() > (0.97 if "CLICKS" in binding else 0.999)
        free = a["pseudo_labels"]["learned_free"]
        alike = (refined == free) & (refined == b.label)
        torch.testing.assert_close(
            a["confidence"][alike], b.probability[alike], atol=1e-3, rtol=1e-3
        )
        if len(x["classes"]) > 1:
            assert (free != c["pseudo_labels"]["learned_free"]).any()
            overruled = (refined != free) & (refined == b.label)
            assert (b.probability[overruled] < a["confidence"][overruled]).all()
        assert (a["pseudo_labels"]["nearest"] == c["pseudo_labels"]["nearest"]).all()


def test_training_sees_no_refined_label():
    batch = _inputs()[:1]
    losses = []
    for refine in (False, True):
        model = small_model({"PSEUDO.REFINE": refine}).train()
        torch.manual_seed(0)
        with EventStorage():
            losses.append({k: float(v.detach()) for k, v in model(batch).items()})
    assert losses[0] == losses[1]


@pytest.mark.parametrize("refine", [False, True])
@pytest.mark.parametrize("order", [[False, True], [True, False]])
def test_the_average_of_views_obeys_its_points(order, refine):
    """Whichever view comes first; and without the residual it does not."""
    x = toy_input(60, 44, [0, 1, 3], points=4, seed=4) | {"height": 97, "width": 71}
    views = [[_mirrored(x) if flipped else x] for flipped in order]
    place = (x["point_coords"] * torch.tensor([71 / 44, 97 / 60])).long()
    row, column = place[:, 1].clamp(max=96), place[:, 0].clamp(max=70)
    held = []
    for residual in (False, True):
        model = small_model({"CLICKS.RESIDUAL": residual, "PSEUDO.REFINE": refine}).eval()
        [result] = estimate_averaged(model, views, order)
        held.append((result.label[row, column] == x["point_index"]).all())
        assert result.probability.min() >= 0 and result.probability.max() <= 1
    assert held == [False, True]


def test_equal_views_change_nothing():
    model, batch = small_model().eval(), _inputs()
    once = estimate_averaged(model, [batch], [False])
    twice = estimate_averaged(model, [batch, batch, batch], [False] * 3)
    for a, b in zip(once, twice, strict=True):
        torch.testing.assert_close(a.probability, b.probability)
        assert (a.label == b.label).float().mean() > 0.999


@pytest.mark.parametrize("changes", [{}, EXTENT])
def test_a_mirrored_image_has_the_mirrored_label(changes):
    model, batch = small_model(changes).eval(), _inputs()
    bigger = [_resized(x, 1.5) for x in batch]

    def label(same, other, same_bigger, other_bigger):
        views = [same, other, same_bigger, other_bigger]
        return estimate_averaged(model, views, [False, True, False, True])

    mirrored, mirrored_bigger = [[_mirrored(x) for x in b] for b in (batch, bigger)]
    plain = label(batch, mirrored, bigger, mirrored_bigger)
    turned = label(mirrored, batch, mirrored_bigger, bigger)
    without = estimate_averaged(model, [batch], [False])
    for a, b, c in zip(plain, turned, without, strict=True):
        assert torch.equal(a.label.flip(-1), b.label)
        assert torch.equal(a.probability.flip(-1), b.probability)
        assert not torch.equal(a.probability, c.probability)


def _views(counts=3, out_size=(40, 30), seed=0):
    """Two scales, the second one mirrored: logits of an image of 40 x 30 px."""
    g = torch.Generator().manual_seed(seed)
    first = 3 * torch.randn(counts, 5, 4, generator=g)
    second = 3 * torch.randn(counts, 8, 6, generator=g)
    nobody = torch.full(out_size, -1)
    return [
        LabelView(first, (8.0, 8.0), False, nobody),
        LabelView(second, (5.0, 5.0), True, nobody),
    ]


def _reference(views, out_size):
    """Mean over views of the softmax at every pixel's centre, float64."""
    total = 0
    for view in views:
        maps = view.logits.double()
        places = []
        for axis, (n, factor) in enumerate(zip(out_size, view.factor, strict=True)):
            place = (torch.arange(n, dtype=torch.float64) + 0.5) / factor - 0.5
            if axis == 1 and view.flipped:
                place = (n - torch.arange(n, dtype=torch.float64) - 0.5) / factor - 0.5
            places.append(place.clamp(0, maps.shape[1 + axis] - 1))
        y, x = places
        y0, x0 = (p.floor().long().clamp(max=s - 2) for p, s in zip(places, maps.shape[1:]))  # noqa: B905
        fy, fx = (y - y0)[:, None], x - x0
        at = [[maps[:, y0 + i][:, :, x0 + j] for j in (0, 1)] for i in (0, 1)]
        up = (1 - fy) * ((1 - fx) * at[0][0] + fx * at[0][1])
        up = up + fy * ((1 - fx) * at[1][0] + fx * at[1][1])
        total = total + up.softmax(0)
    return total / len(views)


def _between(values):
    """A threshold near the middle that no value is near to."""
    values = values.flatten().sort().values[500:700]
    widest = (values[1:] - values[:-1]).argmax()
    return float((values[widest] + values[widest + 1]) / 2)


@pytest.mark.parametrize("count", [1, 3, 40])
def test_mean_of_probabilities_at_the_original_size(count):
    views = _views(count)
    result = average_views(views, (40, 30), count, LabelSettings())
    want = _reference(views, (40, 30))
    torch.testing.assert_close(result.probability.double(), want.amax(0), atol=1e-5, rtol=0)
    top = want.topk(min(2, count), 0).values
    sure = top[0] - top[-1] > 1e-5 if count > 1 else torch.ones(40, 30, dtype=torch.bool)
    assert sure.float().mean() > 0.9
    assert torch.equal(result.label[sure].long(), want.argmax(0)[sure])


def test_doubtful_pixels_are_void_but_not_those_of_points():
    forced = torch.full((40, 30), -1)
    forced[:8, :8], forced[16:24, 8:16] = 2, 0
    views = _views()
    views[0] = LabelView(views[0].logits, views[0].factor, False, forced)
    want = _reference(views, (40, 30))
    limit = _between(want.amax(0))
    result = average_views(views, (40, 30), 3, LabelSettings(min_prob=limit))
    here = forced >= 0
    assert torch.equal(result.label[here].long(), forced[here])
    doubtful = want.amax(0) < limit
    assert torch.equal(result.label[~here] < 0, doubtful[~here])
    # The probability is that of the label that is written.
    given = want.gather(0, forced.clamp(min=0)[None])[0]
    torch.testing.assert_close(result.probability[here].double(), given[here], atol=1e-5, rtol=0)


def test_points_are_set_in_the_cells_of_the_first_scale_and_its_mirror_image():
    model = small_model({"PSEUDO.FORCE_POINTS": True}).eval()
    x = toy_input(33, 52, [0, 1, 3], seed=5)
    views = [[x], [_mirrored(x)], [_resized(x, 2)]]
    label = estimate_averaged(model, views, [False, True, False])[0].label
    plain = forced_points(x, (33, 52), (33, 52), (1.0, 1.0))
    other = forced_points(_mirrored(x), (33, 52), (33, 52), (1.0, 1.0)).flip(-1)
    only_one = (plain >= 0) != (other >= 0)
    agree = (plain >= 0) & (plain == other)
    assert only_one.any() and agree.any()
    either = torch.maximum(plain, other)
    assert torch.equal(label[only_one | agree].long(), either[only_one | agree].long())


def test_a_model_without_the_branch_cannot():
    model = small_model({"LABEL_MAKER": "polygon"}).eval()
    with pytest.raises(ValueError, match="LABEL_MAKER 'learned'"):
        estimate_averaged(model, [_inputs()], [False])
