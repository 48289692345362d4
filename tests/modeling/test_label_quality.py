"""Quality of label maps from inside: hand-made maps, and a plain reference."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from fdd.modeling.losses.cross_entropy import LabelledCells
from fdd.modeling.pseudo_labels.quality import InstanceQuality, instance_quality
from modeling_toys import permuted, small_model, toy_input


def cells(rows: list[tuple[int, int, int, int]]) -> LabelledCells:
    return LabelledCells(*torch.tensor(rows, dtype=torch.long).view(-1, 4).unbind(1))


def judge(label: Any, classes: list[int], points: Any = (), **options: Any) -> InstanceQuality:
    """One image, two thing classes; points are (row, column, instance)."""
    return instance_quality(
        torch.tensor(label)[None],
        torch.tensor(classes, dtype=torch.long)[None],
        cells([(0, *point) for point in points]),
        num_things=2,
        **options,
    )


def test_a_small_map_by_hand() -> None:
    # Instance 1 is empty and loses its point; a pixel has no label.
    label = [[0, 0, 2], [0, -1, 2]]
    prob = torch.tensor([[[0.9, 0.6, 0.5], [0.3, 0.2, 0.8]]])
    points = [(0, 0, 0), (1, 1, 0), (0, 1, 1), (0, 2, 2), (1, 2, 2)]
    got = judge(label, [0, 1, 3], points, prob=prob)
    assert got.area.tolist() == [[3, 0, 2]]
    torch.testing.assert_close(got.share, torch.tensor([[3 / 6, 0, 2 / 6]]))
    torch.testing.assert_close(
        got.confidence, torch.tensor([[0.6, math.nan, 0.65]]), equal_nan=True
    )
    assert got.empty.tolist() == [[False, True, False]]
    assert not got.swallowing.any()
    assert got.points.tolist() == [[2, 1, 2]] and got.points_held.tolist() == [[1, 0, 2]]


@pytest.mark.parametrize(
    ("label", "classes", "swallowing"),
    [
        ([[0] * 10], [0, 1], [True, False]),
        ([[0] * 9 + [1]], [0, 1], [False, False]),  # 90 % is not more than 90 %
        ([[0] * 10], [0], [False]),  # nothing else is labelled
        ([[0] * 10], [0, 2], [True, False]),
        ([[2] * 6 + [1] * 4], [0, 2, 3], [False, False, True]),  # no thing has a pixel
        ([[1] * 10], [0, 2], [False, True]),
        ([[1] * 9 + [0]], [0, 2], [False, False]),  # one pixel is left
        ([[0] * 10], [2, 3], [False, False]),  # stuff may cover everything where no thing is
        ([[-1] * 10], [0, 2], [False, False]),  # nobody took anything
    ],
)
def test_swallowing(label: Any, classes: list[int], swallowing: list[bool]) -> None:
    assert judge(label, classes).swallowing.tolist() == [swallowing]


def test_the_share_that_swallows_is_an_argument() -> None:
    label = [[0] * 6 + [1] * 4]
    assert not judge(label, [0, 1]).swallowing.any()
    assert judge(label, [0, 1], swallow_share=0.5).swallowing.tolist() == [[True, False]]


def test_without_probabilities_nothing_is_confident() -> None:
    assert judge([[0, 1]], [0, 1]).confidence.isnan().all()


def test_no_instances() -> None:
    got = judge([[-1, -1]], [], prob=torch.zeros(1, 1, 2))
    assert all(getattr(got, name).shape == (1, 0) for name in vars(got))


def reference(
    label: np.ndarray, prob: np.ndarray, classes: np.ndarray, points: np.ndarray, num_things: int
) -> dict[str, list[Any]]:
    """The definitions, image by image and instance by instance."""
    out: dict[str, list[Any]] = {name: [] for name in InstanceQuality.__annotations__}
    sizes = [(label == n).sum() for n in range(len(classes))]
    things = [n for n, c in enumerate(classes) if c < num_things]
    stuff = [n for n in range(len(classes)) if n not in things]
    most = max((sizes[n] for n in stuff), default=0)
    gone = bool(things) and not any(sizes[n] for n in things)
    for n, size in enumerate(sizes):
        share = size / label.size
        first = next((m for m in stuff if sizes[m] == most and most), None)
        mine = [tuple(p[:2]) for p in points if p[2] == n]
        out["area"].append(size)
        out["share"].append(share)
        out["confidence"].append(prob[label == n].mean() if size else math.nan)
        out["empty"].append(size == 0)
        out["swallowing"].append(
            (n in things and share > 0.9 and len(classes) > 1) or (gone and n == first)
        )
        out["points"].append(len(mine))
        out["points_held"].append(sum(label[p] == n for p in mine))
    return out


def test_batches_of_padded_images_equal_a_plain_reference() -> None:
    rng = np.random.default_rng(0)
    sizes = [(5, 7), (8, 3), (8, 8), (1, 1)]
    kinds = [[0, 1, 2, 4], [3], [], [0, 0, 4]]
    labels = np.full((4, 8, 8), -1)
    prob, valid = rng.random((4, 8, 8)), np.zeros((4, 8, 8), bool)
    classes, rows, wanted = np.full((4, 5), -1), [], []
    for b, ((h, w), kind) in enumerate(zip(sizes, kinds, strict=True)):
        # Not every instance gets a pixel.
        labels[b, :h, :w] = rng.integers(-1, max(1, len(kind) - 1), (h, w)) if kind else -1
        valid[b, :h, :w] = True
        classes[b, : len(kind)] = kind
        count = 6 if kind else 0
        limits = (h, w, max(1, len(kind)))
        points = np.stack([rng.integers(0, limit, count) for limit in limits], 1)
        rows += [(b, *point) for point in points.tolist()]
        wanted.append(
            reference(labels[b, :h, :w], prob[b, :h, :w], np.array(kind), points, num_things=3)
        )
    got = instance_quality(
        torch.from_numpy(labels),
        torch.from_numpy(classes),
        cells(rows),
        num_things=3,
        prob=torch.from_numpy(prob),
        valid=torch.from_numpy(valid),
    )
    for b, kind in enumerate(kinds):
        for name, values in wanted[b].items():
            found = getattr(got, name)[b].numpy()
            np.testing.assert_allclose(found[: len(kind)], values, rtol=1e-5, err_msg=name)
            padded = found[len(kind) :]
            assert not np.nan_to_num(padded.astype(float)).any(), name


class TestModel:
    CLASSES = (0, 1, 3)

    def inputs(self, **changes: Any) -> dict[str, Any]:
        return toy_input(60, 44, list(self.CLASSES), points=4, seed=4) | changes

    def test_form(self) -> None:
        model = small_model().eval()
        (got,) = model.label_quality([self.inputs(height=97, width=71)])
        assert list(got["makers"]) == ["learned", "extent", "nearest", "polygon"]
        assert got["points"].tolist() == [4, 4, 4] == got["left_out"].tolist()
        for name, values in got["makers"].items():
            assert ((values["share"] >= 0) & (values["share"] <= 1)).all(), name
            for key in ("points_held", "left_out_right"):
                assert values[key].shape == (3,) and (values[key] <= 4).all(), (name, key)
            assert torch.equal(values["empty"], values["share"] == 0)
        learned = got["makers"]["learned"]
        assert torch.equal(learned["confidence"].isnan(), learned["empty"])
        assert got["makers"]["nearest"]["confidence"].isnan().all()
        assert math.isclose(float(learned["share"].sum()), 1, abs_tol=1e-5)

    def test_agrees_with_the_labels_that_are_given_away(self) -> None:
        model = small_model().eval()
        x = self.inputs(height=97, width=71)
        (labels,), (got,) = model.estimate_labels([x]), model.label_quality([x])
        free, prob = labels["pseudo_labels"]["learned_free"], labels["confidence"]
        for n in range(3):
            mine = free == n
            assert float(got["makers"]["learned"]["share"][n]) == pytest.approx(
                float(mine.float().mean())
            )
            if mine.any():
                mean = float(got["makers"]["learned"]["confidence"][n])
                assert mean == pytest.approx(float(prob[mine].mean()), rel=1e-5)

    def test_the_encoder_runs_once_a_batch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        model = small_model().eval()
        calls = []
        encode = model.encode
        monkeypatch.setattr(model, "encode", lambda images: calls.append(1) or encode(images))
        model.label_quality([self.inputs(), toy_input(33, 64, [2, 2], points=2, seed=5)])
        assert calls == [1]

    def test_a_rule_needs_no_encoder_and_comes_first(self, monkeypatch: pytest.MonkeyPatch) -> None:
        model = small_model({"LABEL_MAKER": "polygon"}).eval()
        monkeypatch.setattr(model, "encode", None)
        (got,) = model.label_quality([self.inputs()])
        assert list(got["makers"]) == ["polygon", "extent", "nearest"]

    def test_images_of_a_batch_do_not_see_each_other(self) -> None:
        model = small_model().eval()
        x, y = self.inputs(), toy_input(50, 64, [2, 2, 4], points=3, seed=5)
        both = model.label_quality([x, y])
        # Padded alike, so that the encoder's borders are too.
        for one, other in ((x, both[0]), (y, both[1])):
            alone = model.label_quality([one])[0]
            for key in ("share", "confidence"):
                torch.testing.assert_close(
                    alone["makers"]["learned"][key],
                    other["makers"]["learned"][key],
                    rtol=1e-3,
                    atol=2e-3,
                    equal_nan=True,
                )
            torch.testing.assert_close(
                alone["makers"]["nearest"], other["makers"]["nearest"], equal_nan=True
            )

    def test_order_of_instances_does_not_matter(self) -> None:
        model = small_model().eval()
        order = [2, 0, 1]
        (first,) = model.label_quality([self.inputs()])
        (second,) = model.label_quality([permuted(self.inputs(), order)])
        for maker in ("learned", "nearest"):
            for key, values in first["makers"][maker].items():
                moved = second["makers"][maker][key]
                torch.testing.assert_close(
                    moved, values[order], rtol=1e-3, atol=1e-4, equal_nan=True
                )

    def test_one_point_an_instance_and_none(self) -> None:
        model = small_model().eval()
        single = toy_input(60, 44, [0, 3], points=1)
        empty = toy_input(60, 44, [])
        one, none = model.label_quality([single, empty])
        assert one["left_out"].tolist() == [0, 0] and one["points"].tolist() == [1, 1]
        assert none["left_out"].shape == (0,) == none["makers"]["learned"]["empty"].shape
        assert list(none["makers"]) == list(one["makers"])
