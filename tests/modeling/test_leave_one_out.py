"""Points that are left out: which, whether really, and whether they are found."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from fdd.modeling.label_branch.branch import BranchOutput
from fdd.modeling.pseudo_labels.click_residual import ClickSettings
from fdd.modeling.pseudo_labels.estimation import LabelSettings
from fdd.modeling.pseudo_labels.leave_one_out import (
    leave_one_out,
    left_out_rounds,
    left_out_turn,
    points_found,
    without_points,
)
from fdd.modeling.structures import PointBatch
from fdd.points.raster import rasterize_points
from modeling_toys import toy_input

CPU = torch.device("cpu")
SETTINGS = LabelSettings(dilate_side=0.0)


def image(
    coords: list[tuple[float, float]], owner: list[int], classes: list[int], size: int = 64
) -> dict[str, Any]:
    raster = rasterize_points(np.array(coords), np.array(owner), np.array(classes), size, size, 0.0)
    return {
        "image": torch.zeros(3, size, size, dtype=torch.uint8),
        "classes": torch.tensor(classes),
        "point_coords": torch.tensor(coords).float().view(-1, 2),
        "point_index": torch.tensor(owner, dtype=torch.long),
        "point_cells": torch.from_numpy(raster.cells),
        "point_instance_map": torch.from_numpy(raster.instance_map),
        "point_semantic_map": torch.from_numpy(raster.semantic_map),
    }


def agreement(
    x: dict[str, Any],
    maker: str,
    estimate: Any = lambda points: None,
    settings: LabelSettings = SETTINGS,
    max_rounds: int = 10,
) -> tuple[list[int], list[int]]:
    size = tuple(x["image"].shape[-2:])
    count, found = leave_one_out(x, size, (64, 64), estimate, [maker], settings, CPU, max_rounds)
    return count.tolist(), found[maker].tolist()


class TestRounds:
    INDEX = np.array([1, 0, 1, 2, 1, 0, 1])

    def test_every_point_once_and_one_an_instance_a_round(self) -> None:
        rounds = left_out_rounds(self.INDEX, 10)
        assert len(rounds) == 4
        for left in rounds:
            mine = self.INDEX[left]
            assert len(set(mine)) == len(mine)
        total = np.sum(rounds, 0)
        assert total.tolist() == [1, 1, 1, 0, 1, 1, 1], "the lone point of instance 2 stays"

    def test_a_bound_takes_points_spread_over_the_file(self) -> None:
        index = np.zeros(10, np.int64)
        rounds = left_out_rounds(index, 4)
        assert [np.flatnonzero(r).tolist() for r in rounds] == [[0], [2], [5], [7]]

    def test_no_points_and_lone_points(self) -> None:
        assert left_out_rounds(np.zeros(0, np.int64), 10) == []
        assert left_out_rounds(np.arange(4), 10) == []

    def test_a_bound_below_one(self) -> None:
        with pytest.raises(ValueError, match="max_rounds is 0"):
            left_out_rounds(self.INDEX, 0)

    def test_turns_go_round(self) -> None:
        seen = [np.flatnonzero(left_out_turn(self.INDEX, t)).tolist() for t in range(4)]
        assert seen == [[0, 1], [2, 5], [1, 4], [5, 6]]
        assert not left_out_turn(np.zeros(0, np.int64), 3).any()


def test_what_is_left_is_what_the_mapper_would_have_made() -> None:
    x = toy_input(60, 44, [0, 1, 3], points=3, seed=2)
    before = {k: v.clone() for k, v in x.items() if isinstance(v, torch.Tensor)}
    left = np.array([False, True, False] * 3)
    got = without_points(x, left, LabelSettings())
    want = rasterize_points(
        x["point_coords"].numpy()[~left], x["point_index"].numpy()[~left],
        x["classes"].numpy(), 60, 44,
    )  # fmt: skip
    assert got["point_coords"].shape == (6, 2) and got["point_index"].tolist() == [0, 0, 1, 1, 2, 2]
    assert np.array_equal(got["point_cells"], want.cells)
    assert np.array_equal(got["point_instance_map"], want.instance_map)
    assert np.array_equal(got["point_semantic_map"], want.semantic_map)
    assert not torch.equal(got["point_instance_map"], x["point_instance_map"])
    assert all(torch.equal(x[k], v) for k, v in before.items())


class TestRules:
    def test_two_clusters_find_all_their_points(self) -> None:
        coords = [(4.0, 4.0), (12.0, 4.0), (4.0, 12.0), (60.0, 60.0), (52.0, 60.0), (60.0, 52.0)]
        x = image(coords, [0, 0, 0, 1, 1, 1], [0, 3])
        assert agreement(x, "nearest") == ([3, 3], [3, 3])

    def test_a_known_part(self) -> None:
        # On a line, cell centres at x = 4, 12, ...: instance 0 at 4 and 36, instance 1 at 12, 20.
        # Without 4 and 12, 4 is 16 from 20 (wrong) and 12 is 8 from 20 (right); without 36 and 20,
        # 36 is 24 from 12 (wrong) and 20 is 8 from 12 (right).
        x = image([(4.0, 4.0), (36.0, 4.0), (12.0, 4.0), (20.0, 4.0)], [0, 0, 1, 1], [0, 1])
        assert agreement(x, "nearest") == ([2, 2], [0, 2])

    def test_a_cell_without_a_label_finds_nothing(self) -> None:
        # The hull of what is left does not reach the corner that was left out.
        x = image([(4.0, 4.0), (60.0, 4.0), (4.0, 60.0), (12.0, 12.0)], [0] * 4, [0])
        assert agreement(x, "polygon") == ([4], [1])


def sees_points(points: PointBatch) -> BranchOutput:
    """A network that knows the cells of the points it is given, and nothing else."""
    batch, most = points.classes.shape
    logits = torch.zeros(batch, most, 8, 8)
    # Elsewhere the last instance wins, weakly.
    logits[torch.arange(batch), torch.tensor(points.counts) - 1] = 1.0
    image, instance, row, column = points.cells.unbind(1)
    logits[image, :, row, column] = 0.0
    logits[image, instance, row, column] = 5.0
    return BranchOutput([logits], [])


class TestLearned:
    X = image(
        [(4.0, 4.0), (28.0, 4.0), (4.0, 28.0), (44.0, 44.0), (60.0, 60.0)],
        [0] * 3 + [1] * 2,
        [0, 3],
    )

    def test_a_point_is_really_left_out(self) -> None:
        # The points themselves would give 3 of 3; instance 1 has whatever nobody claims.
        assert agreement(self.X, "learned", sees_points) == ([3, 2], [0, 2])

    def test_no_point_is_forced(self) -> None:
        """Another instance's point in the cell would overrule a network that says 0 everywhere."""
        x = image([(4.0, 4.0), (60.0, 60.0), (5.0, 5.0)], [0, 0, 1], [0, 1])
        forcing = LabelSettings(dilate_side=0.0, force_points=True)

        def says_0(points: PointBatch) -> BranchOutput:
            logits = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1).expand(len(points.counts), 2, 8, 8)
            return BranchOutput([logits], [])

        assert agreement(x, "learned", says_0, forcing) == ([2, 0], [2, 0])

    def test_rounds_come_in_batches_of_bounded_size(self) -> None:
        sizes = []

        def estimate(points: PointBatch) -> BranchOutput:
            sizes.append(len(points.counts))
            assert points.counts == [2] * len(points.counts), "instances stay"
            return sees_points(points)

        rng = np.random.default_rng(0)
        x = image([tuple(p) for p in rng.random((24, 2)) * 64], [0] * 12 + [1] * 12, [0, 3])
        count, _ = agreement(x, "learned", estimate, max_rounds=12)
        assert count == [12, 12] and sum(sizes) == 12 and max(sizes) <= 5

    def test_fewer_rounds_ask_for_fewer_points(self) -> None:
        count, _ = agreement(self.X, "learned", sees_points, max_rounds=1)
        assert count == [1, 1]

    def test_a_doubtful_cell_finds_nothing(self) -> None:
        strict = LabelSettings(dilate_side=0.0, min_prob=0.9)
        assert agreement(self.X, "learned", sees_points, strict) == ([3, 2], [0, 0])

    def test_lone_points_and_none(self) -> None:
        lone = image([(4.0, 4.0), (60.0, 60.0)], [0, 1], [0, 3])
        assert agreement(lone, "learned", sees_points) == ([0, 0], [0, 0])
        assert agreement(image([], [], []), "learned", sees_points) == ([], [])


def test_a_point_beyond_the_last_valid_cell_is_looked_for_in_it() -> None:
    x = image([(4.0, 4.0), (59.9, 59.9)], [0, 0], [0], size=60)
    labels = torch.full((1, 8, 8), -1)
    labels[0, 6, 6] = 0  # 60 px have 7 cells with their centre inside
    found = points_found(labels, [x], [np.array([False, True])], [(60, 60)], stride=8)
    assert found.tolist() == [True]


def test_left_out_points_are_not_helped_by_the_clicks():
    """Two points in one cell: with one left out, the other must not hold the cell."""
    x = toy_input(64, 64, [0, 1], points=2)
    x["point_coords"] = torch.tensor([[10.0, 10.0], [13.0, 13.0], [50.0, 50.0], [53.0, 53.0]])
    wrong = torch.zeros(1, 2, 8, 8)
    wrong[:, 1] = 5.0  # instance 1 everywhere
    counts = []
    for settings in (LabelSettings(), LabelSettings(clicks=ClickSettings())):
        _, found = leave_one_out(
            x,
            (64, 64),
            (64, 64),
            lambda points: BranchOutput([wrong.expand(len(points.counts), -1, -1, -1)], []),
            ["learned"],
            settings,
            torch.device("cpu"),
        )
        counts.append(found["learned"].tolist())
    assert counts == [[0, 2], [0, 2]]
