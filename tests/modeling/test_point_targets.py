"""Targets of the panoptic branch from points alone, and the losses on them (Table 8)."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fdd.modeling.panoptic_branch import (
    PanopticBranch,
    PanopticCriterion,
    PointBoxes,
    build_point_targets,
)
from fdd.modeling.panoptic_branch.criterion import stuff_mask_loss, thing_mask_loss
from fdd.modeling.panoptic_branch.location_decoder import Detections
from fdd.modeling.panoptic_branch.targets import boxes_from_points
from fdd.modeling.structures import batch_points
from fdd.points.raster import rasterize_points
from modeling_toys import permuted, toy_input, toy_memory, toy_step

torch.set_num_threads(1)
EPS = 0.05
SETTINGS = PointBoxes(lone_side=30.0, dilate_side=10.0, reference=100.0)


def _boxes(points, sizes=((100, 200),), most=2, settings=SETTINGS):
    """Of (image, instance, x, y) points."""
    table = torch.tensor(points, dtype=torch.float64).view(-1, 4)
    image, instance = table[:, :2].long().unbind(1)
    shape = (len(sizes), most)
    return boxes_from_points(table[:, 2:], image, instance, shape, list(sizes), settings)


class TestBoxes:
    def test_several_points_have_their_bounding_box(self):
        boxes, counts = _boxes([(0, 1, 30, 80), (0, 1, 90, 20), (0, 1, 50, 95)])
        assert boxes[0, 1].tolist() == [30, 20, 90, 95]
        assert counts.tolist() == [[0, 3]] and boxes.dtype == torch.float32

    def test_one_point_has_a_square(self):
        boxes, _ = _boxes([(0, 0, 60.5, 50)])
        assert boxes[0, 0].tolist() == [45.5, 35, 75.5, 65]

    def test_each_instance_is_judged_by_its_own_number_of_points(self):
        boxes, _ = _boxes([(0, 0, 60, 50), (0, 1, 100, 20), (0, 1, 112, 32)])
        assert boxes[0].tolist() == [[45, 35, 75, 65], [100, 20, 112, 32]]

    def test_squares_end_at_the_image(self):
        boxes, _ = _boxes([(0, 0, 0, 98), (0, 1, 200, 100)])
        assert boxes[0].tolist() == [[0, 83, 15, 100], [185, 85, 200, 100]]

    def test_a_box_measures_at_least_a_dilated_square(self):
        points = [(0, 0, 20, 60), (0, 0, 20, 60), (0, 1, 50, 0), (0, 1, 90, 2)]
        boxes, _ = _boxes(points)
        assert boxes[0].tolist() == [[15, 55, 25, 65], [50, 0, 90, 6]]
        assert (boxes[..., 2:] > boxes[..., :2]).all()

    def test_sides_scale_with_the_image(self):
        assert PointBoxes().least_sides((600, 800)) == (400.0, 17.0)
        assert PointBoxes().least_sides((1200, 900)) == pytest.approx((600.0, 25.5))
        # Nothing is smaller than a cell, nor a lone point's box than its square.
        assert PointBoxes(lone_side=1.0).least_sides((60, 60)) == (8.0, 8.0)
        assert PointBoxes(lone_side=1.0).least_sides((600, 600)) == (17.0, 17.0)
        sizes = [(100, 200), (50, 200)]
        boxes, _ = _boxes([(0, 0, 60, 50), (1, 0, 60, 25)], sizes, most=1)
        assert boxes[:, 0].tolist() == [[45, 35, 75, 65], [52.5, 17.5, 67.5, 32.5]]

    def test_points_a_pixel_outside_are_taken_to_the_edge(self):
        boxes, _ = _boxes([(0, 0, -1, 50), (0, 0, 201, 50.5)])
        assert boxes[0, 0].tolist() == [0, 45.25, 200, 55.25]

    def test_an_instance_without_points_has_no_box(self):
        boxes, counts = _boxes([(0, 1, 60, 50)], sizes=[(100, 200), (64, 64)])
        assert (boxes[0, 0] == 0).all() and (boxes[1] == 0).all()
        assert counts.tolist() == [[0, 1], [0, 0]]
        boxes, counts = _boxes([])
        assert (boxes == 0).all() and (counts == 0).all()

    def test_a_flip_mirrors_the_boxes(self):
        points = [(0, 0, 3, 40), (0, 1, 150, 20), (0, 1, 161, 90)]
        plain, _ = _boxes(points)
        other, _ = _boxes([(b, n, 200 - x, y) for b, n, x, y in points])
        assert torch.equal(
            other,
            torch.stack(
                (200 - plain[..., 2], plain[..., 1], 200 - plain[..., 0], plain[..., 3]), -1
            ),
        )


def _targets(inputs, padded=(64, 64), num_things=3, num_stuff=2):
    points = batch_points(inputs, padded, torch.device("cpu"))
    sizes = [tuple(x["image"].shape[1:]) for x in inputs]
    settings = PointBoxes(reference=64.0, lone_side=32.0, dilate_side=12.0)
    return build_point_targets(points, sizes, settings, num_things=num_things, num_stuff=num_stuff)


def _inputs():
    return [toy_input(64, 64, [0, 2, 1, 4, 3], seed=1), toy_input(40, 56, [1, 3], points=1, seed=2)]


def _input(coords, classes, height=64, width=64):
    """One image with one point an instance."""
    x = toy_input(height, width, classes, points=1)
    raster = rasterize_points(np.array(coords), range(len(classes)), classes, height, width)
    return x | {
        "point_coords": torch.tensor(coords),
        "point_cells": torch.from_numpy(raster.cells),
        "point_instance_map": torch.from_numpy(raster.instance_map),
        "point_semantic_map": torch.from_numpy(raster.semantic_map),
    }


def _reference(masks, label_map, wanted):
    """Sum over layers of the mean cost of a mask, one cell at a time. Map and mask are of one
    image; masks are (layers, h, w)."""
    if not (label_map == wanted).any():
        return 0.0
    total, cells = 0.0, (label_map >= 0).nonzero().tolist()
    for mask in masks.double():
        for row, column in cells:
            m = mask[row, column].item()
            p = m if label_map[row, column] == wanted else 1 - m
            clamped = min(max(p, EPS), 1 - EPS)
            total += (-np.log(clamped) + max(EPS - p, 0) / EPS) / len(cells)
    return total


def _thing_loss(masks, targets):
    """With mask n of each image for its instance n."""
    image, target = targets.is_thing.nonzero(as_tuple=True)
    return thing_mask_loss(masks, image, target, target, targets, EPS)


class TestTargets:
    def test_what_they_hold(self):
        targets = _targets(_inputs())
        assert targets.fine is None
        assert targets.is_thing.tolist() == [[True] * 3 + [False] * 2, [True] + [False] * 4]
        assert torch.equal(targets.is_thing, torch.from_numpy(targets.listed_things))
        assert targets.stuff_present.tolist() == [[True, True], [True, False]]
        assert targets.labelled.all()
        x = _inputs()[1]  # one point: a square of 32 px * 40 / 64, in shares of 56 x 40 px
        (px, py), half = x["point_coords"][0].tolist(), 10.0
        box = [max(px - half, 0), max(py - half, 0), min(px + half, 56), min(py + half, 40)]
        centre, size = (
            [(box[0] + box[2]) / 112, (box[1] + box[3]) / 80],
            [
                (box[2] - box[0]) / 56,
                (box[3] - box[1]) / 40,
            ],
        )
        torch.testing.assert_close(targets.boxes[1, 0], torch.tensor(centre + size))

    def test_cells_are_those_of_the_raster(self):
        inputs = _inputs()
        cells = _targets(inputs).cells
        for i, x in enumerate(inputs):
            for key, got, first in (
                ("point_instance_map", cells.things, 0),
                ("point_semantic_map", cells.stuff, 3),
            ):
                own = got.image == i
                again = torch.full(x[key].shape, -9)
                again[got.row[own], got.column[own]] = got.label[own] + first
                assert torch.equal(again, torch.where(x[key] < 0, -9, x[key].long()))

    def test_nothing_dense_is_left_to_compare_with(self):
        targets = _targets(_inputs())
        with pytest.raises(ValueError, match="QUERY_FILTER_MAX_POS above 1, need dense labels"):
            targets.dense()
        with pytest.raises(ValueError, match="no dense masks"):
            targets.stuff_rows()

    @pytest.mark.parametrize(
        ("classes", "num_things", "num_stuff"),
        [([], 3, 2), ([3, 4], 3, 2), ([0, 1], 3, 2), ([0, 1], 3, 0), ([0, 1], 0, 2)],
    )
    def test_missing_kinds(self, classes, num_things, num_stuff):
        targets = _targets([toy_input(64, 64, classes)], num_things=num_things, num_stuff=num_stuff)
        assert targets.is_thing.sum() == sum(c < num_things for c in classes)
        assert targets.stuff_present.sum() == sum(c >= num_things for c in classes)
        assert targets.boxes.isfinite().all() and targets.labelled.tolist() == [bool(classes)]


class TestLosses:
    def _masks(self, batch=2, most=5, seed=0):
        generator = torch.Generator().manual_seed(seed)
        masks = torch.rand(3, batch, most, 8, 8, generator=generator) * 2 - 0.5
        return [m.requires_grad_() for m in masks]

    def test_things_cell_by_cell(self):
        inputs, masks = _inputs(), self._masks()
        targets = _targets(inputs)
        want = sum(
            _reference(torch.stack([m[i, n] for m in masks]), inputs[i]["point_instance_map"], n)
            for i, n in targets.is_thing.nonzero().tolist()
        )
        assert want > 0
        assert _thing_loss(masks, targets).item() == pytest.approx(want, rel=1e-5)

    def test_stuff_cell_by_cell(self):
        inputs, masks = _inputs(), self._masks(most=2)
        targets = _targets(inputs)
        want = 0.0
        for i, x in enumerate(inputs):
            for slot, k in enumerate(sorted(c - 3 for c in x["classes"].tolist() if c >= 3)):
                chosen = torch.stack([m[i, slot] for m in masks])
                want += _reference(chosen, x["point_semantic_map"], 3 + k)
        assert stuff_mask_loss(masks, targets, EPS).item() == pytest.approx(want, rel=1e-5)

    def test_a_stuff_class_is_the_union_of_its_instances(self):
        x = _input([[12.0, 12.0], [52.0, 12.0], [12.0, 52.0]], [3, 3, 0])
        targets = _targets([x])
        assert targets.stuff.table.tolist() == [[0], [0]]
        good = torch.full((1, 1, 8, 8), 0.5)
        good[0, 0, 1, 1] = good[0, 0, 1, 6] = 1.0
        good[0, 0, 6, 1] = 0.0
        assert stuff_mask_loss([good], targets, EPS).item() == pytest.approx(-np.log(1 - EPS))
        good[0, 0, 1, 6] = 0.0
        assert stuff_mask_loss([good], targets, EPS) > 1

    def test_only_labelled_cells_of_the_own_image_are_taught(self):
        inputs, masks = _inputs(), self._masks()
        _thing_loss(masks, _targets(inputs)).backward()
        for i, x in enumerate(inputs):
            rows, columns = x["point_instance_map"].shape
            labelled = F.pad(x["point_instance_map"] >= 0, (0, 8 - columns, 0, 8 - rows))
            taught = torch.stack([m.grad[i] != 0 for m in masks]).flatten(0, 1).any(0)
            assert taught.any() and not (taught & ~labelled).any()

    def test_a_cell_that_two_instances_claim_alike_is_nobodys(self):
        # Cell (1, 1) is as near to the one as to the other; a third one keeps things going.
        x = _input([[10.0, 12.0], [14.0, 12.0], [52.0, 52.0]], [0, 1, 2])
        assert x["point_instance_map"][1, 1] == -1
        masks = [torch.full((1, 3, 8, 8), 0.5, requires_grad=True)]
        targets = _targets([x])
        assert targets.is_thing.all()  # the box is known, whoever has the cell
        _thing_loss(masks, targets).backward()
        grad = masks[0].grad[0]
        assert (grad[:2] == 0).all() and grad[2, 6, 6] < 0 and (grad[2, 1, 1] == 0).all()

    def test_the_nearest_point_has_a_contested_cell(self):
        x = _input([[11.0, 12.0], [15.0, 12.0]], [0, 1])
        assert x["point_instance_map"][1, 1] == 0
        masks = [torch.full((1, 2, 8, 8), 0.5, requires_grad=True)]
        _thing_loss(masks, _targets([x])).backward()
        assert masks[0].grad[0, 0, 1, 1] < 0 and masks[0].grad[0, 1, 1, 1] == 0

    def test_a_flip_changes_nothing(self):
        coords = np.random.default_rng(3).random((4, 2)) * 64
        classes = [0, 1, 3, 4]
        plain = _targets([_input(coords.tolist(), classes)])
        mirrored = [[64 - x, y] for x, y in coords.tolist()]
        other = _targets([_input(mirrored, classes)])
        masks = self._masks(batch=1, most=4)
        flipped = [m.flip(-1) for m in masks]
        torch.testing.assert_close(_thing_loss(masks, plain), _thing_loss(flipped, other))
        a, b = stuff_mask_loss(masks, plain, EPS), stuff_mask_loss(flipped, other, EPS)
        torch.testing.assert_close(a, b)

    def test_no_pairs_no_loss(self):
        targets, masks = _targets([toy_input(64, 64, [])]), self._masks(batch=1, most=1)
        none = torch.zeros(0, dtype=torch.long)
        loss = thing_mask_loss(masks, none, none, none, targets, EPS)
        loss = loss + stuff_mask_loss(masks, targets, EPS)
        loss.backward()
        assert loss == 0 and all((m.grad == 0).all() for m in masks)


def _branch():
    torch.manual_seed(0)
    settings = dict(
        dim=16, num_things=3, num_stuff=2, num_heads=2, num_levels=4, num_points=2,
        num_queries=9, location_layers=2, thing_layers=2, stuff_layers=2, ffn_dim=32,
        dropout=0.0, attn_tail=False, fuse_init="xavier", max_detections=6,
    )  # fmt: skip
    return PanopticBranch(**settings)


def _losses(branch, inputs, **settings):
    sizes = [tuple(x["image"].shape[1:]) for x in inputs]
    targets = _targets(inputs)
    counts = {"things": targets.is_thing.sum(), "stuff": targets.stuff_present.sum()}
    criterion, memory = PanopticCriterion(**settings), toy_memory(sizes, (64, 64))
    return criterion(branch, memory, targets, toy_step(counts=counts))


class TestBranch:
    @pytest.mark.parametrize("classes", [[0, 2, 3], [0, 1], [3, 4], []])
    def test_every_parameter_learns(self, classes):
        branch = _branch()
        losses = _losses(branch, [toy_input(64, 64, classes, seed=1), toy_input(40, 56, [])])
        assert set(losses) == {
            "loss_thing_class", "loss_box_l1", "loss_box_giou", "loss_thing_point",
            "loss_stuff_point", "loss_stuff_class",
        }  # fmt: skip
        sum(losses.values()).backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in branch.parameters())
        assert (losses["loss_thing_point"] > 0) == any(c < 3 for c in classes)
        assert (losses["loss_stuff_point"] > 0) == any(c >= 3 for c in classes)

    def test_the_order_of_instances_does_not_matter(self):
        branch, (x, y) = _branch(), _inputs()
        plain = _losses(branch, [x, y])
        other = _losses(branch, [permuted(x, [3, 1, 0, 4, 2]), permuted(y, [1, 0])])
        for name, loss in plain.items():
            torch.testing.assert_close(loss, other[name], rtol=1e-4, atol=1e-5)

    def test_weights_ratio_and_counts_are_those_of_dice(self):
        inputs = _inputs()  # 4 things, 3 stuff classes
        plain = _losses(_branch(), inputs, ratio_weighting=False, dice_weight=1.0)
        weighted = _losses(_branch(), inputs, dice_weight=5.0)
        for name, loss in plain.items():
            share = 3 / 7 if "stuff" in name else 4 / 7
            factor = 5 if name.endswith("_point") else 1
            torch.testing.assert_close(weighted[name], loss * share * factor)

    def test_the_loss_is_divided_by_pairs(self, monkeypatch):
        masks = torch.zeros(2, 4, 8, 8)
        branch, inputs = _branch(), _inputs()
        monkeypatch.setattr(branch.thing_stack, "forward", lambda *a, **k: ([masks], []))
        eps, targets = 0.02, _targets(inputs)
        settings = {"ratio_weighting": False, "dice_weight": 1.0, "point_eps": eps}
        got = _losses(branch, inputs, **settings)["loss_thing_point"]
        want = 0.0
        for i, n in targets.is_thing.nonzero().tolist():
            label_map = inputs[i]["point_instance_map"]
            own = (label_map == n).sum() / (label_map >= 0).sum()
            # A mask of zeros: every own cell costs -log eps + 1, the others almost nothing.
            want += own * (1 - np.log(eps)) - (1 - own) * np.log(1 - eps)
        assert got.item() == pytest.approx(want.item() / 4, rel=1e-5)

    def test_boxes_of_the_points_are_what_is_wanted(self, monkeypatch):
        branch, inputs = _branch(), _inputs()
        boxes = F.pad(_targets(inputs).boxes, (0, 0, 0, 4), value=0.5).repeat(2, 1, 1, 1)
        found = Detections(torch.zeros(2, 2, 9, 3), boxes, torch.zeros(2, 9, 16))
        monkeypatch.setattr(branch.location, "forward", lambda memory: found)
        losses = _losses(branch, inputs)
        assert losses["loss_box_l1"] < 1e-6 and losses["loss_box_giou"] < 1e-5
        found.boxes[..., 0].add_(0.1)
        assert _losses(branch, inputs)["loss_box_l1"] > 0.1
