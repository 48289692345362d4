"""Scalars about the labels while training, and the warning of empty instances."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.structures import ImageList
from detectron2.utils.events import EventStorage

from fdd.modeling.label_branch.branch import BranchOutput
from fdd.modeling.label_maps import num_valid_cells
from fdd.modeling.pseudo_labels.diagnostics import LabelDiagnostics
from fdd.modeling.pseudo_labels.estimation import LabelSettings
from fdd.modeling.pseudo_labels.leave_one_out import left_out_turn
from fdd.modeling.structures import PointBatch, batch_points
from fdd.profiling.counter import StepCounter
from modeling_toys import THINGS, small_model, toy_input

CPU = torch.device("cpu")
SIZES = [(64, 60), (41, 64), (64, 64)]


def images_of(sizes: list[tuple[int, int]]) -> ImageList:
    return ImageList(torch.empty(len(sizes), 3, 64, 64), sizes)


def log(
    diagnostics: LabelDiagnostics,
    batch: list[dict[str, Any]],
    output: BranchOutput | None,
    iteration: int,
    things: torch.Tensor | None = None,
    estimate: Any = None,
) -> dict[str, float]:
    """What lands in the event storage, without ``labels/``."""
    points = batch_points(batch, (64, 64), CPU)
    things = (points.classes >= 0) & (points.classes < THINGS) if things is None else things
    sizes = [tuple(x["image"].shape[1:]) for x in batch]
    estimate = estimate or (lambda points: output)
    with EventStorage(iteration) as storage:
        diagnostics.log(batch, output, points, things, images_of(sizes), estimate)
        return {k.removeprefix("labels/"): v for k, (v, _) in storage.latest().items()}


def make(**options: Any) -> LabelDiagnostics:
    settings = LabelSettings(min_prob=options.pop("min_prob", 0.0))
    return LabelDiagnostics(THINGS, settings, options.pop("warmup_iters", 0), 3.0, **options)


def batch_and_output() -> tuple[list[dict[str, Any]], BranchOutput]:
    batch = [
        toy_input(64, 60, [0, 1, 2, 3]),
        toy_input(41, 64, [2, 4], seed=1),
        toy_input(64, 64, [], seed=2),
    ]
    logits = 2 * torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    logits[0, 2] -= 50  # never wins
    logits[1, 0] -= 50  # the only thing: stuff swallows the image
    logits[1, 2:] = -torch.inf
    return batch, BranchOutput([torch.zeros_like(logits), logits], [])


def reference(
    batch: list[dict[str, Any]], logits: np.ndarray, things: np.ndarray, min_prob: float
) -> dict[str, float]:
    """The scalars by their definitions; ``logits`` of the last layer."""
    right, confidence, mean, empty, swallowed, thing_empty, labelled = [], [], [], [], 0, [], 0
    for b, x in enumerate(batch):
        classes = x["classes"].numpy()
        if not len(classes):
            continue
        labelled += 1
        rows, cols = (num_valid_cells(side, 8) for side in x["image"].shape[1:])
        part = logits[b, : len(classes), :rows, :cols].astype(np.float64)
        p = np.exp(part) / np.exp(part).sum(0)
        prob, label = p.max(0), p.argmax(0)
        confidence += prob.ravel().tolist()
        label = np.where(prob < min_prob, -1, label)
        owner = x["point_instance_map"].numpy()
        right += (label == owner)[owner >= 0].tolist()
        is_thing = classes < THINGS
        sizes = np.array([(label == n).sum() for n in range(len(classes))])
        mean += [prob[label == n].mean() for n in range(len(classes)) if sizes[n]]
        empty += (sizes == 0).tolist()
        thing_empty += [not things[b, n] for n in np.flatnonzero(is_thing)]
        gone = is_thing.any() and not sizes[is_thing].any()
        swallowed += bool(gone or (len(classes) > 1 and (sizes[is_thing] > 0.9 * label.size).any()))
    return {
        "points_right": np.mean(right),
        "confidence": np.mean(confidence),
        "instance_confidence": np.mean(mean),
        "empty_instances": np.mean(empty),
        "empty_things": np.mean(thing_empty),
        "swallowing": swallowed / labelled,
    }


@pytest.mark.parametrize("min_prob", [0.0, 0.6])
def test_scalars_equal_a_plain_reference(min_prob: float) -> None:
    batch, output = batch_and_output()
    things = torch.tensor([[1, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]], dtype=torch.bool)
    got = log(make(min_prob=min_prob), batch, output, 40, things)
    want = reference(batch, output.instance[-1].numpy(), things.numpy(), min_prob)
    assert want["empty_instances"] == 2 / 6 and want["swallowing"] == 1 / 2
    assert got.keys() == want.keys() | {"left_out", "left_out_nearest"}
    for name, value in want.items():
        assert got[name] == pytest.approx(value, rel=1e-5), name


def test_padding_and_neighbours_change_nothing() -> None:
    batch, output = batch_and_output()
    alone = log(make(), batch[:1], BranchOutput([output.instance[-1][:1]], []), 20)
    wider = torch.full((2, 6, 8, 8), -torch.inf)
    wider[0, :4], wider[1, 0] = output.instance[-1][0], 0.0
    padded = log(make(), [batch[0], batch[2]], BranchOutput([wider], []), 20)
    assert alone == pytest.approx(padded)


class TestLeftOut:
    def test_the_second_pass_never_sees_the_point(self) -> None:
        """A stand-in that gives each cell to whoever has a point there, else to instance 0."""
        batch = [toy_input(64, 64, [0, 1, 3], points=3, seed=3), toy_input(64, 64, [4], points=1)]
        seen = []

        def network(points: PointBatch) -> BranchOutput:
            seen.append(points)
            logits = torch.zeros(2, 3, 8, 8)
            logits[:, 0] = 1.0
            logits[1, 1:] = -torch.inf
            image, instance, row, column = points.cells.unbind(1)
            logits[image, instance, row, column] = 5.0
            return BranchOutput([logits], [])

        output = network(batch_points(batch, (64, 64), CPU))
        got = log(make(), batch, output, 20, estimate=network)
        full, fewer = seen
        assert len(full.coords) - len(fewer.coords) == 3, "one point of each, the lone one stays"
        left = np.flatnonzero(left_out_turn(batch[0]["point_index"].numpy(), 1)).tolist()
        labels = network(fewer).instance[-1][0].argmax(0)
        found = []
        for p in left:
            x, y = batch[0]["point_coords"][p].tolist()
            found.append(int(labels[int(y // 8), int(x // 8)]) == int(batch[0]["point_index"][p]))
        assert got["left_out"] == pytest.approx(np.mean(found))
        assert got["left_out"] < got["points_right"]

    def test_another_point_every_time(self) -> None:
        batch = [toy_input(64, 64, [0], points=3)]
        kept = []

        def network(points: PointBatch) -> BranchOutput:
            kept.append({tuple(c) for c in points.coords.tolist()})
            return BranchOutput([torch.zeros(1, 1, 8, 8)], [])

        output = BranchOutput([torch.zeros(1, 1, 8, 8)], [])
        for iteration in (0, 20, 40):
            assert log(make(), batch, output, iteration, estimate=network)["left_out"] == 1
        assert [len(k) for k in kept] == [2, 2, 2] and not set.intersection(*kept)

    def test_lone_points_cost_no_pass(self) -> None:
        batch = [toy_input(64, 64, [0, 3], points=1)]

        def network(points: PointBatch) -> BranchOutput:
            raise AssertionError("nothing can be left out")

        output = BranchOutput([torch.zeros(1, 2, 8, 8)], [])
        assert "left_out" not in log(make(), batch, output, 20, estimate=network)

    def test_the_model_trains_the_same_with_and_without_it(self) -> None:
        """Scalars are looked at; they leave no trace in gradients or random numbers."""
        changes = {"ENCODER.DROPOUT": 0.2, "PAN.DROPOUT": 0.2}
        results = []
        for iteration in (20, 21):
            model = small_model(changes)
            torch.manual_seed(1)
            with EventStorage(iteration) as storage:
                losses = model([toy_input(64, 60, [0, 1, 3])])
                assert ("labels/left_out" in storage.latest()) == (iteration == 20)
            sum(losses.values()).backward()
            grads = [p.grad for p in model.parameters() if p.grad is not None]
            results.append((grads, torch.rand(3)))
        torch.testing.assert_close(results[0], results[1], rtol=0, atol=0)


@pytest.mark.parametrize("iteration", [1, 19, 30])
def test_nothing_between_the_steps_that_are_due(iteration: int) -> None:
    batch, output = batch_and_output()
    assert log(make(), batch, output, iteration) == {}


def test_rules_and_images_without_points_log_nothing() -> None:
    batch, output = batch_and_output()
    assert log(make(), batch, None, 20) == {}
    assert log(make(), batch, BranchOutput([], output.instance), 20) == {}
    assert log(make(), batch[2:], BranchOutput([torch.randn(1, 1, 8, 8)], []), 20) == {}


@pytest.mark.parametrize("changes", [{}, {"CLICKS.RESIDUAL": True, "LOCATION_PRIOR.ENABLED": True}])
def test_the_host_waits_once_and_only_when_due(changes: dict[str, Any]) -> None:
    model = small_model(changes).to("meta")
    batch = [toy_input(96, 128, [0, 1, 1, 3, 4], seed=1), toy_input(120, 72, [2, 4], seed=2)]
    for iteration, expected in ((1, 0), (20, 1), (21, 0)):
        counter = StepCounter(model, {}, "meta")
        with EventStorage(iteration), counter:
            model(batch)
        # The matcher makes up its answer on the meta device.
        waits = [wait for wait in counter.result.waits if "matcher" not in wait.line]
        assert len(waits) == expected, waits
        assert all(w.why == "to host" and "diagnostics" in w.line for w in waits)


class TestWarning:
    def steps(
        self, diagnostics: LabelDiagnostics, share: float, iterations: list[int], caplog: Any
    ) -> list[str]:
        """Batches of ten instances of which a share has no cell."""
        batch = [toy_input(64, 64, [0, 1, 2, 3, 4] * 2)]
        logits = torch.full((1, 10, 8, 8), -9.0)
        for n in range(10 - round(10 * share)):
            logits[0, n, n % 8] = 9.0 + n // 8 * torch.eye(8)[0]
        caplog.clear()
        with caplog.at_level(logging.WARNING, "fdd"):
            for iteration in iterations:
                got = log(diagnostics, batch, BranchOutput([logits], []), iteration)
                assert got["empty_instances"] == pytest.approx(share)
        return [record.getMessage() for record in caplog.records]

    def test_appears_with_numbers_and_advice(self, caplog: Any) -> None:
        (text,) = self.steps(make(min_prob=0.1), 0.4, [0, 20], caplog)
        assert "iteration 20, 8 of the 20 labelled segments in the last 2 batches" in text
        assert "(40 %)" in text and "COLOR_WEIGHT (now 3)" in text and "SOLVER.BASE_LR" in text
        assert "LABEL_MIN_PROB is 0.1" in text and "more points" in text
        (text,) = self.steps(make(), 0.5, [0, 20], caplog)
        assert "LABEL_MIN_PROB" not in text

    def test_not_for_a_third_or_less(self, caplog: Any) -> None:
        assert self.steps(make(), 0.3, list(range(0, 400, 20)), caplog) == []
        assert self.steps(make(warn_share=0.25), 0.3, [0, 20], caplog)

    def test_not_before_the_losses_are_warm(self, caplog: Any) -> None:
        diagnostics = make(warmup_iters=100)
        assert self.steps(diagnostics, 0.9, [0, 20, 40, 60, 80], caplog) == []
        # What came before does not count: 20 instances are seen at the second one.
        assert self.steps(diagnostics, 0.9, [100], caplog) == []
        assert len(self.steps(diagnostics, 0.9, [120], caplog)) == 1

    def test_not_for_a_handful_of_instances(self, caplog: Any) -> None:
        assert self.steps(make(), 0.9, [0], caplog) == []

    def test_at_most_once_a_period(self, caplog: Any) -> None:
        texts = self.steps(make(warn_period=100), 0.9, list(range(0, 321, 20)), caplog)
        found = [text.split("iteration ")[1].split(",")[0] for text in texts]
        assert found == ["20", "120", "220", "320"]

    def test_it_looks_at_the_last_batches_only(self, caplog: Any) -> None:
        diagnostics = make()
        good = self.steps(diagnostics, 0.0, list(range(0, 1000, 20)), caplog)
        bad = self.steps(diagnostics, 0.9, [1000, 1020, 1040, 1060], caplog)
        assert good == [] and len(bad) == 1 and "36 of the 100" in bad[0]


def _grouped(points: int = 8) -> dict[str, Any]:
    """Two instances, the points of each close together: the nearest one always finds a point."""
    x = toy_input(64, 64, [0, 1], points=points)
    corner = torch.where(x["point_index"][:, None] == 0, 4.0, 52.0)
    return x | {"point_coords": corner + 8 * torch.rand(2 * points, 2)}


def _swapped() -> BranchOutput:
    """Every cell to the wrong one of the two instances of :func:`_grouped`."""
    logits = torch.zeros(1, 2, 8, 8)
    logits[0, 1, :4, :4], logits[0, 0, 4:, 4:] = 5.0, 5.0
    return BranchOutput([logits], [])


def test_left_out_points_by_the_nearest_point() -> None:
    got = log(make(), [_grouped()], _swapped(), 40)
    assert got["left_out"] == 0 and got["left_out_nearest"] == 1


def _warnings(caplog: Any, output: BranchOutput, first: int, **options: Any) -> list[str]:
    diagnostics = make(**options)
    batch = [_grouped() for _ in range(4)]
    output = BranchOutput([output.instance[0].expand(4, -1, -1, -1)], [])
    with caplog.at_level(logging.WARNING):
        for look in range(60):
            log(diagnostics, batch, output, first + 20 * look)
    return [r.getMessage() for r in caplog.records if "nearest" in r.getMessage()]


def test_labels_below_the_nearest_point_are_warned_about_once(caplog: Any) -> None:
    [text] = _warnings(caplog, _swapped(), 0, compare_from=400)
    assert "0 %" in text and "100 %" in text and "LOCATION_PRIOR.ENABLED" in text


def test_labels_that_are_right_are_not(caplog: Any) -> None:
    right = BranchOutput([-_swapped().instance[0]], [])
    assert _warnings(caplog, right, 0) == []


def test_early_labels_are_not_warned_about(caplog: Any) -> None:
    assert _warnings(caplog, _swapped(), 0, compare_from=10_000) == []
