"""What must not change the losses: padding, splitting a batch, order; and the warm-up."""

import pytest
import torch
from detectron2.structures import ImageList
from detectron2.utils.events import EventStorage

from fdd.modeling.structures import NORMALIZERS, count_normalizers
from modeling_toys import (
    gradients,
    permuted,
    small_model,
    total,
    toy_input,
    toy_memory,
)

torch.set_num_threads(1)

FULL = {"PAN_SUPERVISION": "full", "PAN.ATTN_TAIL": True, "PAN.QUERY_FILTER_MAX_POS": 3}


def _batch(masks=False):
    shapes = [(64, 64, [0, 1, 3]), (48, 60, [2, 2, 4, 0]), (64, 41, []), (33, 64, [1])]
    return [toy_input(*x, seed=i, masks=masks) for i, x in enumerate(shapes)]


def _losses(model, batch, iteration=1, **options):
    with EventStorage(iteration):
        return model(batch, **options)


class TestPadding:
    def _given_features(self, model, batch, padded):
        """Losses when every valid token is the same, whatever the size of the canvas."""
        sizes = [tuple(x["image"].shape[1:]) for x in batch]
        raw = torch.full((len(batch), 3, *padded), 77.0)
        for i, x in enumerate(batch):
            raw[i, :, : sizes[i][0], : sizes[i][1]] = x["image"]
        torch.manual_seed(0)  # of the cells that centers are learned at
        with EventStorage(1):
            memory = toy_memory(sizes, padded)
            normal = (raw - model.pixel_mean) / model.pixel_std
            return model.losses(batch, ImageList(normal, sizes), memory, None)

    @pytest.mark.parametrize(
        "changes",
        [
            {"SELF_TRAIN_SEM": True},
            {"PSEUDO.CLASS_AGREEMENT": 1.0, "LAMBDA_SEM": 0.1},
            {"PSEUDO.FORCE_POINTS": False, "PSEUDO.LABEL_STRIDE": 1},
            {"SHARE_LAYERS": False, "QUERY_GEN.FEATURES": "level0"},
            {"LABEL_MAKER": "nearest"},
            {"PAN_SUPERVISION": "point", "QUERY_SOURCE": "embedding2d"},
            {"PAN.DETECTOR": "centers"},
            {"PAN.DETECTOR": "centers", "PAN_SUPERVISION": "point"},
            FULL,
        ],
    )
    def test_losses_given_features(self, changes):
        model, batch = small_model(changes), _batch(masks=True)
        near = self._given_features(model, batch, (64, 64))
        far = self._given_features(model, batch, (128, 192))
        assert set(near) == set(far)
        for name, loss in near.items():
            assert loss > 0
            torch.testing.assert_close(loss, far[name], atol=1e-5, rtol=1e-4)

    def test_whole_model(self):
        """Up to GroupNorm and convolution borders: a larger neighbour changes an image little."""
        # Without forced points a toy's label hangs on a few cells, and its boxes jump.
        model = small_model({"PSEUDO.FORCE_POINTS": True})
        alone = [toy_input(250, 256, [0, 1, 3], points=10)]
        neighbour = toy_input(256, 310, [])  # has no loss of its own, but makes padding
        a, b = _losses(model, alone), _losses(model, [*alone, neighbour])
        assert set(a) == set(b)
        for name, loss in a.items():
            torch.testing.assert_close(loss, b[name], rtol=0.1, atol=0.01)


class TestNormalizers:
    def test_counts_by_hand(self):
        x = toy_input(64, 64, [0, 1, 3, 3, 4])
        x["point_instance_map"] = torch.full((8, 8), -1)
        x["point_instance_map"][0, :5] = 2
        x["point_semantic_map"] = torch.full((8, 8), -1)
        x["point_semantic_map"][0, :7] = 3
        empty = toy_input(64, 64, [])
        assert NORMALIZERS == (
            "instance_cells",
            "semantic_cells",
            "images",
            "valid_cells",
            "things",
            "stuff",
        )
        want = [5, 7, 1, 64, 2, 2]
        assert count_normalizers([x, empty], 3).tolist() == want
        assert count_normalizers([x, x], 3).tolist() == [2 * n for n in want]
        assert count_normalizers([empty], 3).tolist() == [0] * 6
        assert count_normalizers([], 3).dtype == torch.float32

    @pytest.mark.parametrize(
        "changes",
        [{}, {"SELF_TRAIN_SEM": True, "LAMBDA_SEM": 0.1}, {"PAN_SUPERVISION": "point"}, FULL],
    )
    @pytest.mark.parametrize("cut", [1, 2, 3])
    def test_two_parts_of_a_batch_equal_the_whole(self, changes, cut):
        model, batch = small_model(changes), _batch(masks=True)
        whole = _losses(model, batch)
        total(whole).backward()
        want = gradients(model)

        model.zero_grad()
        counts = model.count_normalizers(batch)
        parts = [_losses(model, p, normalizers=counts) for p in (batch[:cut], batch[cut:])]
        for part in parts:
            total(part).backward()
        for name, loss in whole.items():
            torch.testing.assert_close(loss, parts[0][name] + parts[1][name], rtol=1e-5, atol=1e-6)
        for name, grad in gradients(model).items():
            torch.testing.assert_close(grad, want[name], rtol=1e-4, atol=1e-5)

    def test_processes_equal_one_batch(self, monkeypatch):
        """With few labels too: the floor of 1 is on the global count, not on a process's share."""
        model = small_model()
        batch = [toy_input(64, 64, [0]), toy_input(64, 64, [1, 2], seed=1)]
        whole = _losses(model, batch)
        counts = model.count_normalizers(batch)
        monkeypatch.setattr("detectron2.utils.comm.get_world_size", lambda: 4)
        ranks = [_losses(model, [x], normalizers=counts) for x in batch]
        empty = _losses(model, [toy_input(64, 64, [])], normalizers=counts)
        for name, loss in whole.items():
            mean = (ranks[0][name] + ranks[1][name] + 2 * empty[name]) / 4
            torch.testing.assert_close(mean, loss, rtol=1e-5, atol=1e-6)

    def test_a_single_stuff_class_over_two_processes(self, monkeypatch):
        model, batch = small_model(), [toy_input(64, 64, [0, 3]), toy_input(64, 64, [1], seed=1)]
        whole, counts = _losses(model, batch), model.count_normalizers(batch)
        assert counts[-1] == 1
        monkeypatch.setattr("detectron2.utils.comm.get_world_size", lambda: 2)
        ranks = [_losses(model, [x], normalizers=counts) for x in batch]
        for name, loss in whole.items():
            mean = (ranks[0][name] + ranks[1][name]) / 2
            torch.testing.assert_close(mean, loss, rtol=1e-5, atol=1e-6)


class TestWarmup:
    SELF = ("loss_pse_self", "loss_pse_class", "loss_sem_self")
    PANOPTIC = ("loss_thing", "loss_box", "loss_stuff")

    @pytest.mark.parametrize("supervision", ["pseudo", "point"])
    def test_losses_on_pseudo_labels_rise(self, supervision):
        """Points alone are no estimated labels: what learns from them has its weight at once."""
        warm = self.SELF + (self.PANOPTIC if supervision == "pseudo" else ())
        changes = {"SELF_TRAIN_SEM": True, "PSEUDO.CLASS_AGREEMENT": 1.0}
        changes |= {"PAN_SUPERVISION": supervision}
        batch = _batch()
        model = small_model(changes | {"WARMUP_ITERS": 40})
        full = _losses(small_model(changes), batch)
        for iteration, weight in ((0, 0.0), (10, 0.25), (40, 1.0), (1000, 1.0)):
            got = _losses(model, batch, iteration)
            for name, loss in full.items():
                factor = weight if name.startswith(warm) else 1.0
                torch.testing.assert_close(got[name], loss * factor)
        assert sum(name.startswith(warm) for name in full) == (9 if supervision == "pseudo" else 3)

    def test_a_cold_start_still_reaches_every_parameter(self):
        model = small_model({"WARMUP_ITERS": 40})
        total(_losses(model, _batch(), 0)).backward()
        assert all(g is not None for g in gradients(model).values())

    def test_default_length_is_a_share_of_the_run(self):
        model = small_model({"WARMUP_ITERS": -1, "SOLVER.MAX_ITER": 1000})
        assert model.warmup_iters == 50


class TestOrder:
    @pytest.mark.parametrize(
        "changes",
        [{"SELF_TRAIN_SEM": True}, {"LABEL_MAKER": "nearest"}, {"PAN_SUPERVISION": "point"}],
    )
    def test_instances_may_come_in_any_order(self, changes):
        model = small_model(changes)
        batch = [toy_input(64, 64, [0, 1, 1, 3]), toy_input(48, 60, [2, 4], seed=1)]
        plain = _losses(model, batch)
        other = _losses(model, [permuted(batch[0], [3, 1, 0, 2]), permuted(batch[1], [1, 0])])
        for name, loss in plain.items():
            torch.testing.assert_close(loss, other[name], rtol=1e-4, atol=1e-5)

    def test_images_may_come_in_any_order(self):
        model, batch = small_model(), _batch()
        plain, other = _losses(model, batch), _losses(model, batch[::-1])
        for name, loss in plain.items():
            torch.testing.assert_close(loss, other[name], rtol=1e-4, atol=1e-5)

    def test_an_image_without_points_adds_nothing(self):
        model, batch = small_model(), _batch()
        plain = _losses(model, [batch[0], batch[1], batch[3]])
        for name, loss in _losses(model, batch).items():
            torch.testing.assert_close(loss, plain[name], rtol=1e-5, atol=1e-6)


def test_pseudo_labels_carry_no_gradient():
    """Only the points, the colours and the branch's own argmax teach the label branch."""
    model = small_model()
    losses = _losses(model, _batch())
    panoptic = [v for k, v in losses.items() if not k.startswith(("loss_pse", "loss_sem"))]
    sum(panoptic).backward()
    for part in (model.label_branch, model.query_generator):
        assert all(p.grad is None for p in part.parameters())
    assert model.encoder.mapper.convs[0].weight.grad.abs().sum() > 0
    assert model.backbone.stem.conv1.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("changes", [{}, {"SELF_TRAIN_SEM": True}])
def test_a_few_steps_lower_the_losses(changes):
    model, batch = small_model(changes | {"PSEUDO.COLOR_WEIGHT": 0.5}), _batch()
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    first = {k: v.item() for k, v in _losses(model, batch).items()}
    for _ in range(25):
        losses = _losses(model, batch)
        optimizer.zero_grad()
        total(losses).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    last = {k: v.item() for k, v in _losses(model, batch).items()}
    assert sum(last.values()) < 0.8 * sum(first.values())
    for name in ("loss_pse_point", "loss_sem_point", "loss_thing_class"):
        assert last[name] < first[name]
