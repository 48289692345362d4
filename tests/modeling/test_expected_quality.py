"""The quality expected of a label without masks: good labels high, bad ones near what they are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch

from fdd.modeling.label_branch.branch import BranchOutput
from fdd.modeling.pseudo_labels.estimation import LabelSettings, dense_labels
from fdd.modeling.pseudo_labels.expected_quality import (
    LabelEvidence,
    _spread,
    evidence_features,
    expected_quality,
    gather_evidence,
)
from fdd.modeling.structures import PointBatch, batch_points
from fdd.points.raster import rasterize_points
from modeling_toys import permuted, small_model, toy_input

CPU = torch.device("cpu")
SIZE = 96
#: Four things and the ground between them, in stride-8 cells.
MASKS = np.full((12, 12), 4)
for _n, (_row, _column) in enumerate([(0, 0), (0, 7), (7, 0), (7, 7)]):
    MASKS[_row : _row + 5, _column : _column + 5] = _n
CLASSES = [0, 0, 1, 1, 3]
SETTINGS = LabelSettings(num_things=3, dilate_side=0.0)
Estimate = Callable[[PointBatch], BranchOutput]


def scene(points: int = 6, seed: int = 0) -> dict[str, Any]:
    """Every mask with random points."""
    rng = np.random.default_rng(seed)
    coords = []
    for n in range(5):
        rows, columns = np.nonzero(n == MASKS)
        chosen = rng.integers(len(rows), size=points)
        cells = np.stack([columns[chosen], rows[chosen]], 1)
        coords.append((cells + rng.random((points, 2))) * 8)
    x = toy_input(SIZE, SIZE, CLASSES, points)
    spots = np.concatenate(coords)
    raster = rasterize_points(spots, x["point_index"].numpy(), np.array(CLASSES), SIZE, SIZE, 0.0)
    return x | {
        "point_coords": torch.from_numpy(spots).float(),
        "point_cells": torch.from_numpy(raster.cells),
        "point_instance_map": torch.from_numpy(raster.instance_map),
        "point_semantic_map": torch.from_numpy(raster.semantic_map),
    }


def of_points(draw: Callable[[list[np.ndarray]], np.ndarray]) -> Estimate:
    """Logits (N, 12, 12) that ``draw`` makes of the instances' points, (P, 2) each in cells."""

    def estimate(points: PointBatch) -> BranchOutput:
        maps = []
        for coords, owner in points.host_points:
            spots = [coords[owner == n] / 8 for n in range(5)]
            maps.append(torch.from_numpy(draw(spots)).float())
        return BranchOutput([torch.stack(maps)], [])

    return estimate


def seeing(shift: int = 0) -> Estimate:
    """Each instance gets the whole mask that most of its points are in (or the ``shift``-th after
    it, as of weights that take instances for each other)."""

    def draw(spots: list[np.ndarray]) -> np.ndarray:
        found = [np.bincount(MASKS[tuple(s.astype(int).T[::-1])]).argmax() for s in spots]
        return np.stack([8.0 * ((found[n] + shift) % 5 == MASKS) for n in range(5)])

    return of_points(draw)


def _by_distance(spots: list[np.ndarray]) -> np.ndarray:
    y, x = np.mgrid[:12, :12] + 0.5
    return np.stack(
        [-np.hypot(x[..., None] - s[:, 0], y[..., None] - s[:, 1]).min(-1) for s in spots]
    )


def _strips(spots: list[np.ndarray]) -> np.ndarray:
    return np.stack([8.0 * (np.arange(12) * 5 // 12 == n) * np.ones((12, 1)) for n in range(5)])


def _one_everywhere(spots: list[np.ndarray]) -> np.ndarray:
    return np.stack([8.0 * np.full((12, 12), n == 4) for n in range(5)])


def _untrained(spots: list[np.ndarray]) -> np.ndarray:
    """Random, and other with any other points."""
    seed = int(1e3 * sum(float(s.sum()) for s in spots))
    return np.random.default_rng(seed).normal(0, 0.1, (5, 12, 12))


def judge(estimate: Estimate, x: dict[str, Any] | None = None) -> tuple[float, float]:
    """The score of the scene's label and its PQ against the masks, in percent."""
    x = scene() if x is None else x
    batch = batch_points([x], (SIZE, SIZE), CPU)
    output = estimate(batch)
    size = (SIZE, SIZE)
    evidence = gather_evidence(x, size, size, output, estimate, SETTINGS, CPU)
    labels, _ = dense_labels(output, batch, [size], size, replace(SETTINGS, stride=8))
    label = labels[0].numpy()
    drawn = np.stack([label == n for n in range(5)])
    true = np.stack([n == MASKS for n in range(5)])
    ious = (drawn & true).sum((1, 2)) / (drawn | true).sum((1, 2))
    return mean(expected_quality(evidence)), mean(np.where(ious > 0.5, ious, 0))


def mean(shares: np.ndarray) -> float:
    """Over segments, then over classes, as in PQ."""
    classes = np.array(CLASSES)
    return 100 * float(np.mean([shares[classes == k].mean() for k in set(CLASSES)]))


def test_a_label_that_shows_the_objects_is_believed() -> None:
    score, pq = judge(seeing())
    assert pq == 100 and score > 60


@pytest.mark.parametrize(
    "bad",
    [seeing(shift=1), *map(of_points, (_strips, _one_everywhere, _untrained))],
    ids=["another object", "points ignored", "one instance everywhere", "untrained"],
)
@pytest.mark.parametrize("points", [2, 6])
def test_a_bad_label_is_not_believed(bad: Estimate, points: int) -> None:
    """However sure it is, and however steady it is when points are left out."""
    score, pq = judge(bad, scene(points))
    # With two points a segment, one in four is found by chance, and no size is known.
    assert pq < 25 and score < (40 if points == 2 else 30)
    assert score < judge(seeing(), scene(points))[0] - 30


def test_the_nearest_point_lies_between() -> None:
    """Most left-out points are right by their distance alone, and still it is no good label."""
    score, _ = judge(of_points(_by_distance))
    assert judge(of_points(_strips))[0] < score < judge(seeing())[0] - 10


def test_lone_points_are_judged_by_moving_them() -> None:
    x = scene(points=1)
    evidence = gather_evidence(
        x,
        (SIZE, SIZE),
        (SIZE, SIZE),
        seeing()(batch_points([x], (SIZE, SIZE), CPU)),
        seeing(),
        SETTINGS,
        CPU,
    )
    assert (evidence.moved > 0.9).all()
    good, distance, strips = (
        judge(e, x)[0] for e in (seeing(), of_points(_by_distance), of_points(_strips))
    )
    assert good > max(distance, strips)


def test_the_order_of_instances_does_not_matter() -> None:
    model = small_model().eval()
    x = toy_input(64, 96, [0, 1, 1, 4], points=4, seed=3)
    order = [2, 0, 3, 1]
    here, there = evidence_of(model, x), evidence_of(model, permuted(x, order))
    for field in fields(LabelEvidence):
        ours, theirs = getattr(here, field.name), getattr(there, field.name)
        np.testing.assert_allclose(theirs, ours[order], atol=1e-5, err_msg=field.name)


def evidence_of(model: Any, x: dict[str, Any]) -> LabelEvidence:
    images = model.preprocess([x])
    size, padded = tuple(images.image_sizes[0]), tuple(images.tensor.shape[-2:])
    memory = model.encode(images)

    def obeying(points: PointBatch) -> Any:
        rows = len(points.counts)
        return model.estimate_obeying(memory.repeat(0, rows), points, [size] * rows)

    output = obeying(batch_points([x], padded, model.device))
    settings = model.label_settings
    return gather_evidence(x, size, padded, output, obeying, settings, model.device)


@pytest.mark.parametrize("changes", [{}, {"CLICKS.RESIDUAL": True}, {"LABEL_MAKER": "polygon"}])
@pytest.mark.parametrize("classes", [[4], [3, 4], [0, 0, 1], []], ids=str)
def test_of_any_model_and_image(changes: dict[str, Any], classes: list[int]) -> None:
    """An image without things, without stuff, without points; all within [0, 1]."""
    model = small_model(changes).eval()
    evidence = evidence_of(model, toy_input(60, 44, classes, points=3, seed=1))
    share = expected_quality(evidence)
    assert share.shape == (len(classes),) and ((share >= 0) & (share <= 1)).all()
    for name in ("moved", "recall"):
        values = getattr(evidence, name)
        assert ((values >= 0) & (values <= 1)).all(), name


def test_broken_logits_are_worth_nothing() -> None:
    nothing = of_points(lambda spots: np.full((5, 12, 12), np.nan))
    score, _ = judge(nothing)
    assert 0 <= score < 20


def evidence(**changes: Any) -> LabelEvidence:
    base = {"points": 5, "area": 90.0, "spread": 60.0, "moved": 0.8, "recall": 1.0}
    return LabelEvidence(**{k: np.atleast_1d(v) for k, v in (base | changes).items()})


@pytest.mark.parametrize("sign", ["spread", "moved", "recall"])
def test_better_signs_never_lower_the_score(sign: str) -> None:
    values = np.linspace(0.05, 1, 20) * (100 if sign == "spread" else 1)
    shares = [expected_quality(evidence(**{sign: v}))[0] for v in values]
    assert (np.diff(shares) >= 0).all() and shares[-1] > shares[0]


def test_no_more_is_expected_than_points_are_found() -> None:
    assert expected_quality(evidence(recall=0.1))[0] <= 0.1
    assert expected_quality(evidence(area=0.0))[0] == 0


def test_features_by_hand() -> None:
    got = evidence_features(
        evidence(points=[3, 4, 4], area=[20, 40, 20], spread=[10, 20, 60], moved=[0, 0.5, 1])
    )
    np.testing.assert_allclose(got, [[np.log(0.02), 0, 1], [np.log(0.5), np.log(2), 0], [0, 0, 0]])


@pytest.mark.parametrize("shape", ["disc", "rectangle"])
def test_spread_points_tell_the_size_of_a_mask(shape: str) -> None:
    """Of many points, within a few percent; whatever the place and the direction."""
    rng = np.random.default_rng(0)
    coords = rng.random((20_000, 2)) - 0.5
    if shape == "disc":
        coords = coords[np.hypot(*coords.T) < 0.5]
    turn = np.array([[0.8, -0.6], [0.6, 0.8]])
    coords = coords * [40, 10] @ turn + 70
    area = 400 * (np.pi / 4 if shape == "disc" else 1)
    got = _spread(coords, np.zeros(len(coords), int), 1)[0]
    assert got == pytest.approx(area, rel=0.06)


def test_points_on_one_spot_are_spread_over_a_pixel() -> None:
    got = _spread(np.full((5, 2), 3.0), np.array([0, 0, 0, 2, 2]), 3)
    np.testing.assert_allclose(got, np.pi / 3)
