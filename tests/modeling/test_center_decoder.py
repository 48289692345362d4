"""Centre decoder and box prior: maps, peaks, targets, losses, and things that are found."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fdd.modeling.panoptic_branch import PanopticBranch, PanopticCriterion, build_targets
from fdd.modeling.panoptic_branch.box_prior import BoxPrior, distance_outside
from fdd.modeling.panoptic_branch.center_decoder import CenterDecoder, CenterMaps
from fdd.modeling.panoptic_branch.center_targets import center_heat, center_targets
from fdd.modeling.panoptic_branch.criterion import center_loss
from modeling_toys import toy_memory, toy_step

torch.set_num_threads(1)
SIZES = [(64, 64), (40, 56)]


def _decoder(things=3):
    torch.manual_seed(0)
    decoder = CenterDecoder(dim=16, num_things=things)
    for head in (decoder.class_head, decoder.box_head):  # away from the start
        torch.nn.init.normal_(head.weight, std=0.3)
    return decoder.eval()


def _branch(**changes):
    torch.manual_seed(0)
    settings = dict(
        dim=16, num_things=3, num_stuff=2, num_heads=2, num_levels=4, num_points=2,
        num_queries=9, location_layers=2, thing_layers=2, stuff_layers=2, ffn_dim=32,
        dropout=0.0, attn_tail=False, fuse_init="abs_scaled", max_detections=6,
        detector="centers",
    )  # fmt: skip
    return PanopticBranch(**(settings | changes))


def _strips(classes=((0, 2, 3), (1, 4, -1))):
    """Vertical strips at stride 4; parts of the second image are padding."""
    labels = torch.arange(16).mul(3).div(16, rounding_mode="floor").expand(2, 16, 16).clone()
    labels[1].clamp_(max=1)
    labels[1, 10:] = labels[1, :, 14:] = -1
    classes = torch.tensor(classes)
    labels[classes.amax(1) < 0] = -1
    return labels, classes


def _targets(labels, classes, sizes=SIZES):
    return build_targets(
        labels, labels >= 0, classes, classes.numpy(), sizes, stride=4, num_things=3, num_stuff=2
    )  # fmt: skip


def _losses(branch, targets, memory=None, sizes=SIZES, **settings):
    counts = {"things": targets.is_thing.sum(), "stuff": targets.stuff_present.sum()}
    memory = memory or toy_memory(SIZES, (64, 64))
    step = toy_step(counts=counts, image_sizes=sizes)
    return PanopticCriterion(**settings)(branch, memory, targets, step)


def _maps(scores, valid=None):
    """Maps of one image with these class probabilities, (C, h, w)."""
    scores = torch.as_tensor(scores, dtype=torch.float32)[None]
    shape = scores.shape[2:]
    valid = torch.ones(1, *shape, dtype=torch.bool) if valid is None else valid
    return CenterMaps(
        torch.logit(scores), torch.zeros(1, 4, *shape), torch.zeros(1, 2, *shape), valid
    )


class TestMaps:
    def test_first_boxes_are_two_cells_around_the_cell(self):
        torch.manual_seed(0)
        maps = CenterDecoder(dim=16, num_things=3)(toy_memory(SIZES, (64, 64)))
        assert maps.boxes[1, :, 2, 5].tolist() == [36, 12, 52, 28]
        torch.testing.assert_close(maps.logits.sigmoid(), torch.full((2, 3, 8, 8), 0.01))

    def test_padding_changes_nothing(self):
        decoder = _decoder()
        small = decoder(toy_memory([(40, 56)], (64, 64)))
        large = decoder(toy_memory([(40, 56)], (128, 192)))
        for name in ("logits", "boxes", "features"):
            a, b = (getattr(m, name)[:, :, :5, :7] for m in (small, large))
            torch.testing.assert_close(a, b, msg=name)
        assert small.valid.sum() == large.valid.sum() == 35

    def test_queries_and_boxes_are_those_of_the_cells(self):
        decoder = _decoder()
        maps = decoder(toy_memory(SIZES, (64, 64)))
        cells = torch.tensor([[3, 17], [9, 9]])
        queries, boxes = decoder.queries(maps, cells)
        assert queries.shape == (2, 2, 16)
        assert torch.equal(boxes[0, 1], maps.boxes[0, :, 2, 1])
        assert torch.equal(boxes[1, 0], boxes[1, 1])
        assert torch.equal(boxes[1, 0], maps.boxes[1, :, 1, 1])


class TestPeaks:
    def test_best_first_and_only_local_maxima(self):
        scores = np.full((2, 4, 5), 0.01)
        scores[0, 1, 1], scores[0, 1, 2] = 0.6, 0.9  # neighbours: the lower one is no peak
        scores[1, 3, 4] = 0.7
        peaks = CenterDecoder.peaks(_maps(scores), 2)
        assert peaks.cells.tolist() == [[7, 19]]
        assert peaks.classes.tolist() == [[0, 1]]
        torch.testing.assert_close(peaks.scores, torch.tensor([[0.9, 0.7]]))

    def test_classes_do_not_hide_each_other(self):
        scores = np.full((2, 3, 3), 0.01)
        scores[:, 1, 1], scores[0, 1, 2] = (0.5, 0.6), 0.4
        peaks = CenterDecoder.peaks(_maps(scores), 2)
        assert peaks.classes.tolist() == [[1, 0]] and peaks.cells.tolist() == [[4, 4]]

    def test_more_asked_for_than_cells(self):
        peaks = CenterDecoder.peaks(_maps(np.arange(1, 5).reshape(1, 2, 2) / 10), 9)
        assert peaks.cells.shape == (1, 9) and int(peaks.cells.max()) < 4
        assert (peaks.scores[0, 1:] == 0).all() and peaks.scores[0, 0] > 0

    def test_none_on_padding(self):
        scores = np.full((1, 2, 3), 0.1)
        scores[0, 1, 2] = 0.9
        valid = torch.ones(1, 2, 3, dtype=torch.bool)
        valid[0, 1, 2] = False
        peaks = CenterDecoder.peaks(_maps(scores, valid), 6)
        assert 5 not in peaks.cells[peaks.scores > 0].tolist()


class TestHeat:
    def test_by_hand(self):
        middle, sides = torch.tensor([[20.0, 12.0]]), torch.tensor([[80.0, 16.0]])
        zero = torch.zeros(1, dtype=torch.long)
        heat = center_heat(middle, sides, zero, zero + 1, torch.ones(1), (1, 2, 3, 4))
        assert (heat[0, 0] == 0).all(), "of another class"
        y, x = np.mgrid[:3, :4] + 0.5
        # Spreads of 0.3 half sides: 1.5 cells across, and the least, 0.4 cells, down.
        want = np.exp(-(((x - 2.5) / 1.5) ** 2 + ((y - 1.5) / 0.4) ** 2) / 2)
        np.testing.assert_allclose(heat[0, 1].numpy(), want, atol=1e-6)
        assert heat[0, 1, 1, 2] == 1

    def test_things_of_a_class_meet_by_their_maximum(self):
        middle = torch.tensor([[12.0, 12.0], [20.0, 12.0]])
        sides = torch.full((2, 2), 40.0)
        image, classes = torch.zeros(2, dtype=torch.long), torch.zeros(2, dtype=torch.long)
        shape = (1, 1, 4, 6)
        both = center_heat(middle, sides, image, classes, torch.ones(2), shape)
        each = [
            center_heat(middle[i : i + 1], sides[:1], image[:1], classes[:1], torch.ones(1), shape)
            for i in range(2)
        ]
        assert torch.equal(both, torch.maximum(*each))
        assert int((both == 1).sum()) == 2

    def test_a_center_between_cells_is_exactly_one(self):
        zero = torch.zeros(1, dtype=torch.long)
        heat = center_heat(
            torch.tensor([[9.0, 15.0]]), torch.full((1, 2), 16.0), zero, zero, torch.ones(1),
            (1, 1, 3, 3),
        )  # fmt: skip
        assert heat[0, 0, 1, 1] == 1 and int((heat == 1).sum()) == 1

    def test_cells_of_targets(self):
        targets = _targets(*_strips())
        wanted = center_targets(targets, SIZES, (8, 8), 3)
        assert wanted.image.tolist() == [0, 0, 1] and wanted.target.tolist() == [0, 1, 0]
        assert wanted.boxes[1].tolist() == [24, 0, 44, 64]
        assert wanted.center.tolist() == [4 * 8 + 1, 4 * 8 + 4, 2 * 8 + 1]
        for _ in range(20):
            drawn = center_targets(targets, SIZES, (8, 8), 3).drawn
            row, column = drawn // 8, drawn % 8
            assert 2 <= row[1] <= 5 and column[1] in (3, 4), "the inner half of the box"


class TestLoss:
    def test_equals_a_float64_reference(self):
        generator = torch.Generator().manual_seed(0)
        logits = 3 * torch.randn(2, 3, 4, 5, generator=generator, dtype=torch.float64)
        heat = torch.rand(2, 3, 4, 5, generator=generator, dtype=torch.float64)
        heat[0, 1, 2, 3] = heat[1, 0, 0, 0] = 1
        valid = torch.rand(2, 4, 5, generator=generator) > 0.3
        maps = CenterMaps(logits, logits[:, :1], logits[:, :1], valid)
        got = center_loss(maps, heat, torch.tensor([True, False]))
        want = 0.0
        for (c, y, x), z in np.ndenumerate(logits[0].numpy()):
            p, h = 1 / (1 + np.exp(-z)), float(heat[0, c, y, x])
            cost = -((1 - p) ** 2) * np.log(p) if h == 1 else -((1 - h) ** 4) * p**2 * np.log(1 - p)
            want += cost * float(valid[0, y, x])
        assert float(got) == pytest.approx(want, rel=1e-12)

    def test_extreme_logits_are_finite(self):
        logits = torch.tensor([-1e4, 1e4, 0.0]).view(1, 1, 1, 3).requires_grad_()
        maps = CenterMaps(logits, logits, logits, torch.ones(1, 1, 3, dtype=torch.bool))
        heat = torch.tensor([1.0, 0.0, 1.0]).view(1, 1, 1, 3)
        loss = center_loss(maps, heat, torch.tensor([True]))
        loss.backward()
        assert loss.isfinite() and logits.grad.isfinite().all()

    def test_an_empty_thing_costs_nothing(self):
        labels, classes = _strips(((0, 2, 3), (1, 4, 2)))  # the last one has no cell
        with_empty = _targets(labels, classes)
        assert with_empty.listed_things.sum() == 4 and with_empty.is_thing.sum() == 3
        without = _targets(labels, torch.tensor([[0, 2, 3], [1, 4, -1]]))
        branch, found = _branch(), []
        for targets in (with_empty, without):
            torch.manual_seed(3)
            wanted = center_targets(targets, SIZES, (8, 8), 3)
            assert wanted.heat.sum() > 0
            found.append(_losses(branch, targets))
        assert float(found[0]["loss_thing_class"]) == pytest.approx(
            float(found[1]["loss_thing_class"])
        )
        # Cells are drawn at random: masks are compared where there is nothing to learn at all.
        nothing = _targets(torch.full_like(labels, -1), classes)
        losses = _losses(branch, nothing)
        assert float(losses["loss_thing_dice"]) == float(losses["loss_box_giou"]) == 0

    def test_every_weight_learns_and_an_unlabelled_image_teaches_nothing(self):
        branch = _branch()
        torch.nn.init.normal_(branch.centers.box_head.weight, std=0.1)
        torch.nn.init.normal_(branch.centers.class_head.weight, std=0.1)
        sum(_losses(branch, _targets(*_strips())).values()).backward()
        for name, weight in branch.named_parameters():
            assert weight.grad is not None and weight.grad.isfinite().all(), name
        nothing = _targets(*_strips(((-1, -1, -1), (-1, -1, -1))))
        assert float(sum(_losses(branch, nothing).values())) == 0

    def test_weights_of_the_losses(self):
        branch, targets = _branch(), _targets(*_strips())
        torch.manual_seed(1)
        once = _losses(branch, targets)
        torch.manual_seed(1)
        twice = _losses(branch, targets, class_weight=4.0, giou_weight=4.0, dice_weight=4.0)
        for name in ("loss_thing_class", "loss_box_giou", "loss_thing_dice"):
            assert float(twice[name]) == pytest.approx(2 * float(once[name]))


class TestBoxPrior:
    def test_distance_by_hand(self):
        boxes = torch.tensor([[[8.0, 16.0, 40.0, 32.0]]])
        away = distance_outside(boxes, (6, 8))[0, 0]
        assert (away[2:4, 1:5] == 0).all(), "inside"
        # Half sides 16 and 8: the cell at (52, 20) is 12 to the right, the one at (52, 44) also 12
        # below.
        assert float(away[2, 6]) == pytest.approx(12 / 16)
        assert float(away[5, 6]) == pytest.approx(np.hypot(12 / 16, 12 / 8))

    def test_a_box_of_no_size_counts_as_a_cell(self):
        away = distance_outside(torch.tensor([[[20.0, 20.0, 20.0, 20.0]]]), (5, 5))
        assert away.isfinite().all() and float(away[0, 0, 2, 2]) == 0
        assert float(away[0, 0, 2, 3]) == 1

    def test_slope_by_class(self):
        prior = BoxPrior(num_things=2)
        with torch.no_grad():
            prior.slope.copy_(torch.tensor([0.0, 3.0]))
        boxes = torch.tensor([[[0.0, 0.0, 8.0, 8.0]] * 2])
        out = prior(boxes, torch.tensor([[0, 1]]), (2, 4))
        want = -distance_outside(boxes, (2, 4)) * F.softplus(prior.slope)[None, :, None, None]
        torch.testing.assert_close(out, want)


class TestBranch:
    def test_candidates(self):
        found = _branch().eval().predict(toy_memory(SIZES, (64, 64)))
        assert found.thing_masks.shape == (2, 6, 8, 8) and found.thing_scores.shape == (2, 6)
        assert (found.thing_scores[:, :-1] >= found.thing_scores[:, 1:]).all()
        assert found.stuff_masks.shape == (2, 2, 8, 8)

    def test_stuff_alone_has_no_detector(self):
        branch = _branch(num_things=0).eval()
        assert branch.centers is None
        assert branch.predict(toy_memory(SIZES, (64, 64))).thing_scores.shape == (2, 0)

    @pytest.mark.slow
    def test_learns_to_find_things_in_a_few_steps(self):
        """Random tokens, which it can only learn by heart: the surest centres are the things'."""
        torch.manual_seed(0)
        branch, memory = _branch(num_things=2, num_stuff=0), toy_memory([(64, 64)], (64, 64))
        labels = torch.full((1, 16, 16), -1)
        for i, (y, x) in enumerate(((2, 2), (2, 10), (10, 6))):
            labels[0, y : y + 4, x : x + 4] = i
        classes = torch.tensor([[0, 0, 1]])
        known = torch.ones_like(labels, dtype=torch.bool)
        targets = build_targets(
            labels, known, classes, classes.numpy(), [(64, 64)], stride=4, num_things=2, num_stuff=0
        )
        optimizer = torch.optim.AdamW(branch.parameters(), lr=3e-3)
        for _ in range(150):
            losses = _losses(branch, targets, memory, [(64, 64)])
            optimizer.zero_grad()
            sum(losses.values()).backward()
            optimizer.step()
        found = branch.eval().predict(memory)
        assert sorted(found.thing_classes[0, :3].tolist()) == [0, 0, 1]
        masks = F.interpolate(found.thing_masks[:, :3], (16, 16), mode="bilinear")[0] > 0.5
        for i in range(3):
            own = labels[0] == i
            iou = max(float((m & own).sum() / (m | own).sum()) for m in masks)
            assert iou > 0.7
