"""The residual of the clicks: labels obey their points, smoothly, near them, and nowhere else."""

import math
from dataclasses import replace

import pytest
import torch
from detectron2.utils.events import EventStorage

from fdd.modeling.label_branch.branch import BranchOutput
from fdd.modeling.label_maps import keep_points
from fdd.modeling.pseudo_labels import click_residual as click_residual_module
from fdd.modeling.pseudo_labels.click_residual import (
    ClickSettings,
    click_residual,
    gather_clicks,
    nearest_other,
    sample_cells,
)
from fdd.modeling.pseudo_labels.estimation import (
    LabelSettings,
    dense_labels,
    estimate_image,
    with_residual,
)
from fdd.modeling.structures import batch_points
from modeling_toys import small_model, toy_input, toy_memory

torch.set_num_threads(1)
SETTINGS = ClickSettings()
SIZES, PADDED = [(64, 96), (56, 64)], (64, 128)


def _batch(classes=((0, 1, 3), (2, 2)), points=3):
    return [
        toy_input(*size, list(c), points=points, seed=i)
        for i, (size, c) in enumerate(zip(SIZES, classes, strict=True))
    ]


def _case(batch=None, padded=PADDED, settings=SETTINGS, seed=0):
    batch = batch or _batch()
    sizes = [tuple(x["image"].shape[1:]) for x in batch]
    points = batch_points(batch, padded, torch.device("cpu"))
    memory = toy_memory(sizes, padded, seed=3)
    clicks = gather_clicks(points, memory, sizes, settings)
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(*points.classes.shape, 8, 16, generator=generator)
    logits = logits.repeat_interleave(1, 2)
    canvas = torch.zeros(*points.classes.shape, padded[0] // 8, padded[1] // 8)
    canvas[:, :, :8, :16] = logits[:, :, : canvas.shape[2], : canvas.shape[3]]
    padded_out = (points.classes < 0)[..., None, None]
    return points, clicks, canvas.masked_fill(padded_out, -torch.inf), memory, sizes


def _held(logits, clicks):
    at = sample_cells(logits, clicks).masked_fill(~clicks.real[clicks.image], -torch.inf)
    own = at.gather(1, clicks.instance[:, None])[:, 0]
    return own >= at.amax(1)


def _apart(batch):
    """One point an instance, far from each other: nothing that two clicks could fight over."""
    for x in batch:
        n, (height, width) = len(x["classes"]), x["image"].shape[1:]
        x["point_coords"] = torch.tensor(
            [[width * (i + 0.5) / n, height * (i + 0.5) / n] for i in range(n)]
        )
        x["point_index"] = torch.arange(n)
    return batch


def test_every_click_is_held_where_clicks_do_not_fight():
    batch = _apart(_batch(points=1))
    _, clicks, logits, *_ = _case(batch)
    assert not _held(logits, clicks).all()
    settings = replace(SETTINGS, max_margin=100.0)
    residual = click_residual(sample_cells(logits, clicks), clicks, settings)
    assert _held(logits + residual, clicks).all()


def test_clicks_that_are_obeyed_already_change_nothing():
    _, clicks, logits, *_ = _case()
    # Every instance far above the others at its own points: a margin of 1 and more.
    at = sample_cells(logits, clicks)
    at.scatter_(1, clicks.instance[:, None], 50.0)
    assert (click_residual(at, clicks, SETTINGS) == 0).all()


def test_one_round_is_the_formula():
    """One lost click: m_c K_c, written out in float64."""
    x = toy_input(64, 96, [0, 1], points=1)
    x["point_coords"] = torch.tensor([[30.0, 22.0], [70.0, 50.0]])
    _, clicks, _, memory, _ = _case([x], padded=(64, 96))
    at = torch.tensor([[0.25, 2.0], [0.0, 9.0]])  # the first click is lost by 1.75
    residual = click_residual(at, clicks, replace(SETTINGS, rounds=1))
    tokens = memory.tokens[0, :96].double().view(8, 12, -1)
    tokens = tokens - tokens.mean((0, 1))
    features = tokens / tokens.norm(dim=-1, keepdim=True)
    place = (30.0 / 8, 22.0 / 8)
    far = math.hypot(40.0, 28.0) / 8
    sigma = max(0.5, min(0.08 * math.hypot(64, 96) / 8, far / 2))

    def bilinear(grid):
        u, v = place[0] - 0.5, place[1] - 0.5
        a, b = int(u), int(v)
        s, t = u - a, v - b
        top = (1 - s) * grid[b, a] + s * grid[b, a + 1]
        bottom = (1 - s) * grid[b + 1, a] + s * grid[b + 1, a + 1]
        return (1 - t) * top + t * bottom

    click = bilinear(features)
    cosine = features @ (click / click.norm())
    v, u = torch.meshgrid(torch.arange(8) + 0.5, torch.arange(12) + 0.5, indexing="ij")
    square = (u - place[0]) ** 2 + (v - place[1]) ** 2
    kernel = torch.exp(-(1 - cosine) / 0.5) * torch.exp(-square / (2 * sigma**2))
    expected = (1 + 1.75) * kernel / bilinear(kernel)
    torch.testing.assert_close(residual[0, 0].double(), expected, atol=1e-5, rtol=1e-5)
    assert (residual[0, 1] == 0).all()


def test_the_nearest_rival_is_that_of_all_pairs(monkeypatch):
    monkeypatch.setattr(click_residual_module, "_CPU_CHUNK_VALUES", 20)  # a few points at a time
    counts = [7, 0, 1, 12, 5]
    generator = torch.Generator().manual_seed(0)
    place = torch.rand(sum(counts), 2, generator=generator, dtype=torch.float64) * 9
    instance = torch.randint(0, 3, (sum(counts),), generator=generator)
    instance[-5:] = 2  # of a lone instance
    image = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    apart = (place[:, None] - place).square().sum(-1).sqrt()
    rival = (image[:, None] == image) & (instance[:, None] != instance)
    expected = apart.masked_fill(~rival, math.inf).amin(1)
    assert torch.equal(nearest_other(place, instance, counts), expected)
    assert expected.isinf().sum() == 6
    assert nearest_other(place[:0], instance[:0], [0, 0]).shape == (0,)


def test_margins_and_samples_do_not_depend_on_how_many_exist_at_a_time(monkeypatch):
    _, clicks, logits, *_ = _case()
    at_points = sample_cells(logits, clicks)
    whole = click_residual(at_points, clicks, SETTINGS)
    monkeypatch.setattr(click_residual_module, "_CPU_CHUNK_VALUES", 5)
    assert (whole > 0).any()
    assert torch.equal(click_residual(at_points, clicks, SETTINGS), whole)


def test_margins_are_capped():
    x = toy_input(64, 64, [0, 1], points=1)
    x["point_coords"] = torch.tensor([[12.0, 12.0], [52.0, 52.0]])
    _, clicks, *_ = _case([x], padded=(64, 64))
    at = torch.tensor([[0.0, 1000.0], [0.0, 5.0]])
    capped = click_residual(at, clicks, replace(SETTINGS, max_margin=4.0, rounds=1))
    assert math.isclose(sample_cells(capped, clicks)[0, 0], 4.0, rel_tol=1e-5)


def test_it_fades_with_the_distance_and_reaches_no_rival_click():
    x = toy_input(64, 96, [0, 1], points=1)
    x["point_coords"] = torch.tensor([[12.0, 32.0], [84.0, 32.0]])
    _, clicks, *_ = _case([x], padded=(64, 96))
    residual = click_residual(torch.tensor([[0.0, 5.0], [0.0, 5.0]]), clicks, SETTINGS)
    near, far = residual[0, 0, :, 1].max(), residual[0, 0, :, 10].max()
    assert near > 1 and far < 0.05 * near


def test_a_lone_instance_and_an_image_without_points():
    batch = [toy_input(64, 96, [0]), toy_input(56, 64, [], seed=1)]
    _, clicks, logits, *_ = _case(batch)
    assert (click_residual(sample_cells(logits, clicks), clicks, SETTINGS) == 0).all()
    nothing = [toy_input(64, 96, []), toy_input(56, 64, [], seed=1)]
    _, clicks, logits, *_ = _case(nothing)
    assert click_residual(sample_cells(logits, clicks), clicks, SETTINGS).shape == (2, 1, 8, 16)


def test_padding_changes_nothing():
    batch = _batch()
    for x in batch:  # also one at the very border, where interpolation would see padding
        height, width = x["image"].shape[1:]
        x["point_coords"][0] = torch.tensor([width - 0.5, height - 0.5])
    _, near, logits, *_ = _case(batch)
    _, far, _, *_ = _case(batch, padded=(128, 192))
    at = sample_cells(logits, near)
    got, wide = click_residual(at, near, SETTINGS), click_residual(at, far, SETTINGS)
    for b, (height, width) in enumerate(SIZES):
        rows, columns = height // 8, width // 8
        torch.testing.assert_close(got[b, :, :rows, :columns], wide[b, :, :rows, :columns])


def test_the_order_of_instances_does_not_matter():
    x = toy_input(64, 96, [0, 1, 2], points=3)
    order = [2, 0, 1]
    back = torch.empty(3, dtype=torch.long)
    back[torch.tensor(order)] = torch.arange(3)
    other = x | {"classes": x["classes"][order], "point_index": back[x["point_index"]]}
    _, clicks, logits, *_ = _case([x], padded=(64, 128))
    _, turned, *_ = _case([other], padded=(64, 128))
    at = sample_cells(logits, clicks)
    first = click_residual(at, clicks, SETTINGS)
    second = click_residual(at[:, order], turned, SETTINGS)
    torch.testing.assert_close(first[:, order], second)


def _evidence_output(logits):
    return BranchOutput([logits], [])


@pytest.mark.parametrize("stride", [1, 2, 4, 8])
def test_no_point_is_lost_in_a_training_label(stride):
    """Also where clicks of two instances lie in one cell: then by the pixels nearest to each."""
    batch = _batch(points=6)
    points, _, logits, memory, sizes = _case(batch)
    settings = LabelSettings(stride=stride, clicks=SETTINGS)
    output = with_residual(_evidence_output(logits), memory, points, sizes, settings)
    labels, known = dense_labels(output, points, sizes, PADDED, settings)
    place = (points.coords / stride).long()
    got = labels[points.point_image, place[:, 1], place[:, 0]]
    # Two instances on one pixel of the map cannot both have it.
    pixel = (points.point_image * 10_000 + place[:, 1]) * 10_000 + place[:, 0]
    shared = torch.tensor(
        [
            bool(((pixel == p) & (points.point_instance != n)).any())
            for p, n in zip(pixel, points.point_instance, strict=True)
        ]
    )
    assert ((got == points.point_instance) | shared).all()
    plain, _ = dense_labels(
        _evidence_output(logits), points, sizes, PADDED, LabelSettings(stride=stride)
    )
    assert not (plain[points.point_image, place[:, 1], place[:, 0]] == points.point_instance).all()
    assert ((labels >= 0) == (plain >= 0)).all() and known.any()


def test_an_image_at_its_own_size_holds_every_point():
    x = toy_input(64, 96, [0, 1, 3], points=5) | {"height": 200, "width": 301}
    points, _, logits, memory, sizes = _case([x], padded=(64, 128))
    settings = LabelSettings(clicks=SETTINGS, baselines=())
    output = with_residual(_evidence_output(logits), memory, points, sizes, settings)
    result = estimate_image(x, 0, output, (64, 96), settings)["pseudo_labels"]
    place = (x["point_coords"] * torch.tensor([301 / 96, 200 / 64])).long()
    row, column = place[:, 1].clamp(max=199), place[:, 0].clamp(max=300)
    assert (result["learned"][row, column] == x["point_index"]).all()
    assert not (result["learned_free"][row, column] == x["point_index"]).all()
    free = estimate_image(x, 0, _evidence_output(logits), (64, 96), replace(settings, clicks=None))
    assert torch.equal(result["learned_free"], free["pseudo_labels"]["learned"])


def test_the_losses_do_not_see_it():
    batch = [toy_input(64, 64, [0, 1, 3])]
    losses = []
    for on in (False, True):
        model = small_model({"CLICKS.RESIDUAL": on, "SELF_TRAIN_PSE": False})
        with EventStorage(1):
            losses.append(model(batch))
    for name, loss in losses[0].items():
        if name.startswith(("loss_pse", "loss_sem")):
            assert torch.equal(loss, losses[1][name])


def test_both_ways_to_obey_are_refused():
    with pytest.raises(ValueError, match=r"FORCE_POINTS.*CLICKS.RESIDUAL"):
        LabelSettings(force_points=True, clicks=SETTINGS)


def test_a_point_on_the_border_gets_its_cell():
    """x = W lies in the last cell, as everywhere else."""
    labels = torch.zeros(1, 32, 32, dtype=torch.int32)
    points = torch.zeros(1, dtype=torch.long), torch.ones(1, dtype=torch.long)
    for x in (32.0, 31.5):
        kept, lost = keep_points(labels, *points, torch.tensor([[x, 20.0]]), (8.0, 8.0), [(32, 32)])
        assert lost.tolist() == [True] and (kept == 1).sum() == 64
        assert (kept[0, 16:24, 24:] == 1).all()


def test_lost_points_share_their_cell_and_held_ones_keep_their_pixel():
    labels = torch.zeros(1, 16, 16, dtype=torch.int32)
    labels[0, 2, 2] = 2
    coords = torch.tensor([[1.5, 6.5], [6.5, 1.5], [2.5, 2.5]])
    image, instance = torch.zeros(3, dtype=torch.long), torch.tensor([1, 3, 2])
    kept, lost = keep_points(labels, image, instance, coords, (8.0, 8.0), [(16, 16)])
    assert lost.tolist() == [True, True, False]
    assert kept[0, 6, 1] == 1 and kept[0, 1, 6] == 3 and kept[0, 2, 2] == 2
    assert (kept[0, 8:] == 0).all() and (kept[0, :, 8:] == 0).all()
    # Pixels nearest to the point that is held stay as they are.
    assert kept[0, 3, 2] == 0
    assert (kept[0, :8, :8] == 1).sum() == (kept[0, :8, :8] == 3).sum() > 5


def test_no_label_is_invalid_at_the_smallest_tau_that_is_allowed():
    _, clicks, logits, *_ = _case()
    settings = replace(SETTINGS, tau=0.05)
    assert click_residual(sample_cells(logits, clicks), clicks, settings).isfinite().all()
