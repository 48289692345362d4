"""Panoptic branch: targets, losses, second matching, candidates."""

import numpy as np
import pytest
import torch

from fdd.modeling.panoptic_branch import PanopticBranch, PanopticCriterion, build_targets
from fdd.modeling.panoptic_branch import criterion as criterion_module
from fdd.modeling.panoptic_branch.criterion import (
    _by_image,
    location_losses,
    pack_queries,
    stuff_class_loss,
    stuff_mask_loss,
    thing_mask_loss,
)
from fdd.modeling.panoptic_branch.location_decoder import Detections
from fdd.modeling.panoptic_branch.matcher import Matches, assign
from modeling_toys import toy_memory, toy_step

torch.set_num_threads(1)
SIZES = [(64, 64), (40, 56)]


def _branch(**changes):
    torch.manual_seed(0)
    settings = dict(
        dim=16,
        num_things=3,
        num_stuff=2,
        num_heads=2,
        num_levels=4,
        num_points=2,
        num_queries=9,
        location_layers=2,
        thing_layers=2,
        stuff_layers=2,
        ffn_dim=32,
        dropout=0.0,
        attn_tail=False,
        fuse_init="abs_scaled",
        max_detections=6,
    )
    return PanopticBranch(**(settings | changes))


def _targets(classes=((0, 2, 3), (1, 4, -1)), num_things=3, num_stuff=2, extra=(0, 0)):
    """Vertical strips; the second image's right and lower parts are padding, and so are ``extra``
    rows and columns."""
    labels = torch.arange(16).mul(3).div(16, rounding_mode="floor").expand(2, 16, 16).clone()
    labels[1].clamp_(max=1)
    labels[1, 10:] = labels[1, :, 14:] = -1
    classes = torch.tensor(classes)
    labels[classes.amax(1) < 0] = -1
    labels = torch.nn.functional.pad(labels, (0, extra[1], 0, extra[0]), value=-1)
    return _build(labels, classes, SIZES, num_things=num_things, num_stuff=num_stuff)


def _build(labels, classes, sizes, num_things=3, num_stuff=2):
    return build_targets(
        labels,
        labels >= 0,
        classes,
        classes.numpy(),
        sizes,
        stride=4,
        num_things=num_things,
        num_stuff=num_stuff,
    )


def _coarse(labels, value):
    """Where a stride-4 map has this value, at stride 8."""
    return torch.nn.functional.avg_pool2d((labels == value).float(), 2)


def _losses(branch, targets, memory=None, **settings):
    counts = {"things": targets.is_thing.sum(), "stuff": targets.stuff_present.sum()}
    memory = memory or toy_memory(SIZES, (64, 64))
    return PanopticCriterion(**settings)(branch, memory, targets, toy_step(counts=counts))


class TestTargets:
    def test_boxes_by_hand(self):
        targets = _targets()
        # Strips end at columns 6, 11 and 16 of 16, four px each.
        want = torch.tensor([[0, 0, 24, 64], [24, 0, 44, 64], [44, 0, 64, 64.0]]) / 64
        centre, side = (want[:, :2] + want[:, 2:]) / 2, want[:, 2:] - want[:, :2]
        torch.testing.assert_close(targets.boxes[0], torch.cat([centre, side], 1))
        # Image 1 is 56 x 40 px: its box 1 goes from x = 24 to 56, over the full height.
        want = torch.tensor([40 / 56, 0.5, 32 / 56, 1.0])
        torch.testing.assert_close(targets.boxes[1, 1], want)

    def test_boxes_end_at_the_image(self):
        labels = torch.zeros(1, 4, 4, dtype=torch.long)
        targets = _build(labels, torch.tensor([[0]]), [(14, 15)], num_things=1, num_stuff=0)
        assert targets.boxes[0, 0].tolist() == [0.5, 0.5, 1.0, 1.0]
        assert targets.stuff_present.shape == (1, 0)

    def test_things_and_stuff(self):
        targets = _targets()
        assert targets.is_thing.tolist() == [[True, True, False], [True, False, False]]
        assert targets.stuff_present.tolist() == [[True, False], [False, True]]
        assert targets.listed_things.tolist() == [[True, True, False], [True, False, False]]
        assert targets.stuff.table.tolist() == [[0, 1], [0, 1]]
        assert targets.stuff.packed.tolist() == [[0], [1]] and targets.stuff.slot.tolist() == [0, 0]
        assert targets.stuff_of.tolist() == [[2, 2, 0], [2, 1, 2]]
        assert targets.labelled.all()

    def test_areas_are_those_of_the_labels(self):
        targets = _targets()
        assert targets.fine.areas.tolist() == [[6 * 16, 5 * 16, 5 * 16], [60, 80, 0]]
        # Up-sampling keeps sums: an adjoint adds up to the area.
        torch.testing.assert_close(targets.fine.adjoint.sum((2, 3)), targets.fine.areas)

    def test_an_empty_thing_is_dropped(self):
        labels = torch.full((1, 4, 4), 1)
        targets = _build(labels, torch.tensor([[0, 0]]), [(16, 16)], num_things=1, num_stuff=1)
        assert targets.is_thing.tolist() == [[False, True]]
        assert targets.boxes.isfinite().all()

    def test_two_instances_of_a_stuff_class_are_one(self):
        targets = _targets(classes=((3, 0, 3), (-1, -1, -1)))
        assert targets.stuff_present.tolist() == [[True, False], [False, False]]
        assert targets.stuff.table.tolist() == [[0], [0]]
        adjoint, _, area = targets.stuff_rows()
        assert area.tolist() == [11 * 16]
        torch.testing.assert_close(adjoint[0], targets.fine.adjoint[0, [0, 2]].sum(0))
        assert targets.labelled.tolist() == [True, False]

    def test_several_stuff_classes_of_an_image_stand_side_by_side(self):
        targets = _targets(classes=((4, 3, 3), (0, 4, -1)))
        assert targets.stuff.table.tolist() == [[0, 0, 1], [0, 1, 1]]
        assert targets.stuff.packed.tolist() == [[0, 1], [1, 0]]
        assert targets.stuff.slot.tolist() == [0, 1, 0]
        assert targets.stuff_rows()[2].tolist() == [10 * 16, 6 * 16, 80]


class TestCriterion:
    def _perfect(self, targets, gap):
        logits = torch.full((1, 2, 4, 3), -gap)
        boxes = torch.full((1, 2, 4, 4), 0.5)
        pairs = []
        for b, t in targets.is_thing.nonzero().tolist():
            logits[0, b, t, targets.classes[b, t]] = gap
            boxes[0, b, t] = targets.boxes[b, t]
            pairs.append([0, b, t, t])
        matches = Matches(np.array(pairs).T)
        return Detections(logits, boxes, torch.zeros(2, 4, 16)), matches

    def test_perfect_boxes_and_confident_classes_cost_nothing(self):
        targets = _targets()
        detections, matches = self._perfect(targets, 20.0)
        focal, l1, giou = location_losses(detections, matches, targets, 0.25, 2.0)
        assert l1 == 0 and giou.item() == pytest.approx(0, abs=1e-5) and 0 <= focal < 1e-6

    def test_focal_by_hand(self):
        targets = _targets()
        detections, matches = self._perfect(targets, 0.0)
        focal, _, _ = location_losses(detections, matches, targets, 0.25, 2.0)
        # p = 0.5 everywhere: 3 positives of 24, each 0.5^2 ln 2 times its weight.
        want = 0.25 * torch.tensor(2.0).log() * (3 * 0.25 + 21 * 0.75)
        torch.testing.assert_close(focal, want)

    def test_images_without_labels_cost_nothing(self):
        targets = _targets(classes=((0, 2, 3), (-1, -1, -1)))
        detections, matches = self._perfect(targets, 0.0)
        detections.logits[:, 1] = 30.0
        focal, _, _ = location_losses(detections, matches, targets, 0.25, 2.0)
        want = 0.25 * torch.tensor(2.0).log() * (2 * 0.25 + 10 * 0.75)
        torch.testing.assert_close(focal, want)
        assert stuff_class_loss(torch.full((1, 2, 2), 0.0), targets, 0.25, 2.0) < 0.25

    def test_good_masks_cost_little(self):
        targets = _targets()
        strips = torch.arange(16).mul(3).div(16, rounding_mode="floor").expand(16, 16)
        labels = torch.stack([strips, strips.clamp(max=1)])
        image, target = targets.is_thing.nonzero(as_tuple=True)
        masks = torch.stack([_coarse(labels, n) for n in range(3)], 1)
        masks = masks * 2 - 1  # below zero counts as zero
        got = thing_mask_loss([masks], image, target, target, targets, 1e-6)
        assert 0 <= got.item() < 0.2 * 3
        assert thing_mask_loss([1 - masks], image, target, target, targets, 1e-6).item() > 0.7 * 3
        present = torch.stack([masks[0, 2:], masks[1, 1:2]])
        assert stuff_mask_loss([present], targets, 1e-6).item() < 0.2 * 2

    def test_losses_without_pairs_have_zero_gradients(self):
        targets = _targets(classes=((-1, -1, -1), (-1, -1, -1)))
        masks = torch.randn(2, 3, 8, 8, requires_grad=True)
        assert targets.stuff.packed.shape == (2, 1)
        none = torch.zeros(0, dtype=torch.long)
        loss = thing_mask_loss([masks], none, none, none, targets, 1e-3)
        loss = loss + stuff_mask_loss([masks], targets, 1e-3)
        loss.backward()
        assert loss == 0 and (masks.grad == 0).all()


class TestBranch:
    @pytest.mark.parametrize("classes", [((0, 2, 3), (1, 4, -1)), ((0, 1, 1), (-1, -1, -1))])
    @pytest.mark.parametrize(("changes", "max_pos"), [({}, 1), ({"attn_tail": True}, 1), ({}, 3)])
    def test_every_parameter_learns(self, classes, changes, max_pos):
        branch = _branch(**changes)
        losses = _losses(branch, _targets(classes), max_pos=max_pos)
        assert all(v.isfinite() for v in losses.values())
        sum(losses.values()).backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in branch.parameters())

    def test_no_labels_no_loss(self):
        branch = _branch()
        losses = _losses(branch, _targets(((-1, -1, -1), (-1, -1, -1))))
        assert all(v == 0 for v in losses.values())
        sum(losses.values()).backward()
        assert all((p.grad == 0).all() for p in branch.parameters())

    def test_ratio_weighting(self):
        targets = _targets()  # 3 things, 2 stuff
        plain = _losses(_branch(), targets, ratio_weighting=False)
        weighted = _losses(_branch(), targets)
        for name, loss in plain.items():
            share = 2 / 5 if "stuff" in name else 3 / 5
            torch.testing.assert_close(weighted[name], loss * share)

    def test_only_matched_queries_enter_the_mask_decoder(self, monkeypatch):
        seen = []
        monkeypatch.setattr(
            criterion_module,
            "pack_queries",
            lambda pairs, c: seen.append(pairs.table) or pack_queries(pairs, c),
        )
        _losses(_branch(), _targets(), max_pos=3)
        _, image, query, _ = seen[0]
        assert np.bincount(image).tolist() == [6, 3]  # three queries for each of 2 + 1 things
        assert len({*zip(image.tolist(), query.tolist(), strict=True)}) == 9

    def test_second_matching_keeps_one_query_a_thing(self, monkeypatch):
        kept = []
        plain = criterion_module.thing_mask_loss

        def spy(masks, image, slot, target, *rest):
            kept.append((image, slot, target, masks[-1].shape[1]))
            return plain(masks, image, slot, target, *rest)

        monkeypatch.setattr(criterion_module, "thing_mask_loss", spy)
        _losses(_branch(), _targets(), max_pos=3)
        image, slot, target, width = kept[0]
        pairs = sorted(zip(image.tolist(), target.tolist(), strict=True))
        assert pairs == [(0, 0), (0, 1), (1, 0)]
        assert width == 6 and (slot[image == 1] < 3).all()  # never a padded slot

    def _chosen(self, *pairs):
        return Matches(np.array([[0, image, query, 0] for image, query in pairs]).T)

    def test_second_matching_prefers_the_better_mask(self):
        targets = _targets(((0, -1, -1), (-1, -1, -1)))
        same = torch.zeros(1, 2, 9, 3), torch.full((1, 2, 9, 4), 0.5)
        detections = Detections(*same, torch.zeros(2, 9, 16))
        good = (targets.fine.adjoint[0, 0] / 4).round()
        masks = torch.zeros(2, 3, 8, 8)
        masks[0, 0], masks[0, 1], masks[0, 2] = 1 - good, 1.0, good
        chosen = self._chosen((0, 1), (0, 4), (0, 6))
        got = PanopticCriterion(max_pos=3).second_match(
            detections, masks, chosen, np.arange(3), targets
        )
        assert got.table[1:].tolist() == [[0], [2], [0]]

    def test_second_matching_never_takes_a_padded_slot(self):
        targets = _targets(((0, -1, -1), (1, -1, -1)))
        same = torch.zeros(1, 2, 9, 3), torch.full((1, 2, 9, 4), 0.5)
        detections = Detections(*same, torch.zeros(2, 9, 16))
        masks = (targets.fine.adjoint[:, :1] / 4).repeat(1, 3, 1, 1)
        masks[1, 0] = 0  # the only real one of the second image is the worst
        chosen = self._chosen((0, 1), (0, 4), (0, 6), (1, 5))
        slot = np.array([0, 1, 2, 0])
        _, image, slots, target = (
            PanopticCriterion(max_pos=3)
            .second_match(detections, masks, chosen, slot, targets)
            .table.tolist()
        )
        assert image == [0, 1] and slots[1] == 0 and target == [0, 0]

    @pytest.mark.parametrize("max_pos", [1, 3])
    def test_padding_does_not_matter(self, max_pos):
        branch, targets = _branch(), _targets()
        near = _losses(branch, targets, max_pos=max_pos)
        wide = _targets(extra=(32, 16))
        far = _losses(branch, wide, toy_memory(SIZES, (192, 128)), max_pos=max_pos)
        for name, loss in near.items():
            torch.testing.assert_close(loss, far[name], atol=1e-5, rtol=1e-4)

    def test_candidates(self):
        branch = _branch().eval()
        found = branch.predict(toy_memory(SIZES, (64, 64)))
        assert found.thing_masks.shape == (2, 6, 8, 8) and found.stuff_masks.shape == (2, 2, 8, 8)
        assert (found.thing_masks >= 0).all() and (found.stuff_masks >= 0).all()
        assert (found.thing_scores.diff(dim=1) <= 0).all()
        assert found.thing_classes.max() < 3 and found.stuff_scores.shape == (2, 2)

    def test_a_query_may_be_a_candidate_of_several_classes(self, monkeypatch):
        branch, memory = _branch(max_detections=3).eval(), toy_memory(SIZES, (64, 64))
        detections = branch.location(memory)
        logits = torch.full_like(detections.logits, -9.0)
        logits[-1, :, 4, 2], logits[-1, :, 4, 0], logits[-1, :, 7, 1] = 3.0, 2.0, 1.0
        fixed = Detections(logits, detections.boxes, detections.queries)
        monkeypatch.setattr(branch.location, "forward", lambda memory: fixed)
        found = branch.predict(memory)
        assert found.thing_classes.tolist() == [[2, 0, 1]] * 2
        assert torch.equal(found.thing_masks[:, 0], found.thing_masks[:, 1])
        assert not torch.equal(found.thing_masks[:, 0], found.thing_masks[:, 2])

    def test_no_more_candidates_than_there_are(self):
        found = _branch(max_detections=1000).eval().predict(toy_memory(SIZES, (64, 64)))
        assert found.thing_scores.shape == (2, 27)


def test_packing_sets_the_queries_of_an_image_side_by_side():
    contents = torch.arange(2 * 4 * 1.0).view(2, 4, 1)
    pairs = Matches(np.array([[0, 0, 3, 0], [0, 1, 0, 0], [0, 1, 2, 0]]).T)
    packed, slot = pack_queries(pairs, contents)
    assert slot.tolist() == [0, 0, 1]
    assert packed[..., 0].tolist() == [[3, 0], [4, 6]]
    packed, slot = pack_queries(Matches(pairs.table[:, :0]), contents)
    assert packed.shape == (2, 1, 1) and (packed == 0).all() and len(slot) == 0


def test_pairs_in_order_of_their_images():
    pairs = Matches(np.array([[1, 1, 5, 0], [1, 0, 2, 0], [2, 1, 4, 0], [2, 0, 3, 0]]).T)
    assert _by_image(pairs).table[1:3].tolist() == [[0, 0, 1, 1], [2, 3, 5, 4]]


def test_assign_of_perfect_boxes_is_the_identity():
    cost, targets = 1 - torch.eye(4)[None, None], torch.ones(1, 4, dtype=torch.bool)
    _, _, query, target = assign(cost, targets, targets.numpy()).table.tolist()
    assert query == target == [0, 1, 2, 3]
