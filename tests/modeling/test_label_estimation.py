"""Dense labels: in training, and at the original size of an image."""

import math

import pytest
import torch

from fdd.modeling.label_branch.branch import BranchOutput
from fdd.modeling.label_maps import num_valid_cells
from fdd.modeling.pseudo_labels.estimation import LabelSettings, dense_labels
from fdd.modeling.structures import batch_points
from modeling_toys import small_model, toy_input

torch.set_num_threads(1)
SIZES = [(64, 60), (41, 64)]


def _points():
    batch = [toy_input(64, 60, [0, 1, 3]), toy_input(41, 64, [2, 4], seed=1)]
    return batch, batch_points(batch, (64, 64), torch.device("cpu"))


def _output(seed=0):
    torch.manual_seed(seed)
    logits = 3 * torch.randn(2, 3, 8, 8)
    logits[1, 2] = -torch.inf
    return BranchOutput([torch.zeros(2, 3, 8, 8), logits], [])


def _own_cells(x, stride=8):
    """(row, column) of each point's own cell, by the definition."""
    height, width = x["image"].shape[1:]
    last = num_valid_cells(height, stride) - 1, num_valid_cells(width, stride) - 1
    return [
        (min(int(py // stride), last[0]), min(int(px // stride), last[1]))
        for px, py in x["point_coords"].tolist()
    ]


def _sole_cells(x):
    """Own cells that no two instances share, with their instance."""
    owners = {}
    for cell, n in zip(_own_cells(x), x["point_index"].tolist(), strict=True):
        owners.setdefault(cell, set()).add(n)
    return {cell: min(n) for cell, n in owners.items() if len(n) == 1}


class TestTraining:
    @pytest.mark.parametrize("stride", [1, 2, 4, 8])
    def test_argmax_of_up_sampled_logits_of_the_last_layer(self, stride):
        _, points = _points()
        settings = LabelSettings(stride=stride, force_points=False)
        labels, known = dense_labels(_output(), points, SIZES, (64, 64), settings)
        up = torch.nn.functional.interpolate(
            _output().instance[-1].clamp(min=-1e30),
            size=(64 // stride, 64 // stride),
            mode="bilinear",
        )
        for b, (height, width) in enumerate(SIZES):
            rows, cols = num_valid_cells(height, stride), num_valid_cells(width, stride)
            assert torch.equal(labels[b, :rows, :cols], up[b].argmax(0)[:rows, :cols])
            assert known[b, :rows, :cols].all() and known[b].sum() == rows * cols
            assert (labels[b][~known[b]] == -1).all()

    def test_points_win_in_their_own_cell(self):
        batch, points = _points()
        free, _ = dense_labels(
            _output(), points, SIZES, (64, 64), LabelSettings(stride=8, force_points=False)
        )
        labels, _ = dense_labels(
            _output(), points, SIZES, (64, 64), LabelSettings(stride=8, force_points=True)
        )
        for b, x in enumerate(batch):
            sole = _sole_cells(x)
            assert all(labels[b, v, u] == n for (v, u), n in sole.items())
            changed = (labels[b] != free[b]).nonzero().tolist()
            assert {tuple(c) for c in changed} <= set(sole)

    def test_doubtful_cells_are_unknown(self):
        _, points = _points()
        settings = LabelSettings(stride=8, min_prob=0.6, force_points=False)
        labels, known = dense_labels(_output(), points, SIZES, (64, 64), settings)
        prob = _output().instance[-1].softmax(1).amax(1)
        inside = dense_labels(
            _output(), points, SIZES, (64, 64), LabelSettings(stride=8, force_points=False)
        )[1]
        assert torch.equal(known, (prob >= 0.6) & inside)
        assert torch.equal(labels >= 0, known) and 0 < known.sum() < inside.sum()

    def test_an_image_without_instances_has_no_label(self):
        points = batch_points([toy_input(64, 60, [])], (64, 64), torch.device("cpu"))
        output = BranchOutput([torch.randn(1, 1, 8, 8)], [])
        labels, known = dense_labels(output, points, SIZES[:1], (64, 64), LabelSettings())
        assert (labels == -1).all() and not known.any()

    @pytest.mark.parametrize("maker", ["nearest", "polygon"])
    def test_rules_need_no_branch(self, maker):
        batch, points = _points()
        settings = LabelSettings(maker=maker, stride=4, force_points=False)
        labels, known = dense_labels(None, points, SIZES, (64, 64), settings)
        assert labels.shape == (2, 16, 16) and torch.equal(known, labels >= 0)
        assert known.any() and not known[0, :, 15:].any() and not known[1, 10:].any()
        if maker == "nearest":
            assert known[0, :, :15].all()
            for v, u in ((0, 0), (15, 14), (7, 3), (2, 11)):
                place = torch.tensor([4 * u + 2.0, 4 * v + 2.0])
                distance = (batch[0]["point_coords"] - place).square().sum(1)
                assert labels[0, v, u] == batch[0]["point_index"][distance.argmin()]

    def test_full_masks_keep_void_known(self):
        batch = [toy_input(64, 60, [0, 3], masks=True)]
        points = batch_points(batch, (64, 64), torch.device("cpu"))
        settings = LabelSettings(maker="full")
        labels, known = dense_labels(None, points, SIZES[:1], (64, 64), settings)
        assert torch.equal(labels[0, :, :15], batch[0]["instance_map"].long())
        assert (labels[0, 0] == -1).all() and known[0, :, :15].all()
        assert not known[0, :, 15:].any()

    def test_an_unknown_rule_fails_at_once(self):
        with pytest.raises(ValueError, match=r"'nearst' is unknown; allowed: .*nearest, "):
            LabelSettings(baselines=("nearst",))


class TestSquareSide:
    def test_scales_with_the_short_side(self):
        settings = LabelSettings()
        assert settings.square_side((600, 800)) == 17
        assert settings.square_side((1200, 1300)) == 34
        assert settings.square_side((100, 900)) == 8


class TestOriginalSize:
    def _estimate(self, height=97, width=71, changes=None, classes=(0, 1, 3)):
        """An image that came into the network at 60 x 44 px."""
        model = small_model(changes).eval()
        x = toy_input(60, 44, list(classes), seed=4) | {"height": height, "width": width}
        neighbour = toy_input(33, 64, [], seed=5)
        return model, x, model.estimate_labels([x, neighbour])

    def test_form(self):
        _, x, (result, _) = self._estimate()
        labels = result["pseudo_labels"]
        assert set(labels) == {"learned", "learned_free", "nearest", "polygon", "extent"}
        for name, label in labels.items():
            assert label.shape == (97, 71) and label.dtype == torch.int32, name
            assert label.device.type == "cpu" and -1 <= label.min() <= label.max() < 3
        assert (labels["learned"] >= 0).all() and (labels["nearest"] >= 0).all()
        assert result["confidence"].shape == (97, 71)
        assert result["confidence"].dtype == torch.float32
        assert 1 / 3 - 1e-5 <= result["confidence"].min() <= result["confidence"].max() <= 1
        assert result["semantic"].shape == (97, 71) and result["semantic"].dtype == torch.int32
        assert 0 <= result["semantic"].min() <= result["semantic"].max() < 5
        assert torch.equal(result["classes"], x["classes"])
        assert result["instance_ids"] == [10, 11, 12]

    def test_an_image_without_points(self):
        _, _, (_, result) = self._estimate()
        for name, label in result["pseudo_labels"].items():
            assert label.shape == (33, 64) and (label == -1).all(), name
        assert (result["confidence"] == 0).all()
        assert len(result["classes"]) == 0 and result["instance_ids"] == []

    @pytest.mark.parametrize("size", [(97, 71), (60, 44), (31, 500), (1, 1), (240, 176)])
    def test_scale_is_exact(self, size):
        """Against float64 interpolation of every original pixel's centre."""
        model, x, (result, _) = self._estimate(*size)
        batch = [x, toy_input(33, 64, [], seed=5)]
        with torch.no_grad():
            images = model.preprocess(batch)
            points = batch_points(batch, (64, 64), torch.device("cpu"))
            output = model.estimate(model.encode(images), points)
        for logits, label, prob in (
            (output.instance[-1][0, :3], result["pseudo_labels"]["learned_free"], True),
            (output.semantic[-1][0], result["semantic"], False),
        ):
            want = _reference(logits.double(), size, (60, 44))
            top = want.topk(2, 0).values
            sure = top[0] - top[1] > 1e-4
            assert sure.float().mean() > 0.9
            assert torch.equal(label[sure].long(), want.argmax(0)[sure])
            if prob:
                got = result["confidence"].double()
                torch.testing.assert_close(got, want.softmax(0).amax(0), atol=1e-4, rtol=0)

    @pytest.mark.parametrize("size", [(97, 71), (60, 44), (240, 176), (103, 85)])
    def test_points_win_in_their_own_cell(self, size):
        _, x, (result, _) = self._estimate(*size, {"PSEUDO.FORCE_POINTS": True})
        labels, free = (result["pseudo_labels"][k] for k in ("learned", "learned_free"))
        sole, own = _sole_cells(x), torch.full(size, -1)
        last = num_valid_cells(60, 8) - 1, num_valid_cells(44, 8) - 1
        for i in range(size[0]):
            for j in range(size[1]):
                y, px = (i + 0.5) * 60 / size[0], (j + 0.5) * 44 / size[1]
                cell = min(int(y // 8), last[0]), min(int(px // 8), last[1])
                own[i, j] = sole.get(cell, -1)
        assert (own >= 0).any()
        assert torch.equal(labels[own >= 0].long(), own[own >= 0])
        assert torch.equal(labels[own < 0], free[own < 0])
        # So the pixel under a point has the point's label, unless others share its cell.
        cells = zip(_own_cells(x), x["point_coords"].tolist(), x["point_index"], strict=True)
        for cell, (px, py), n in cells:
            if cell in sole:
                i, j = math.floor(py * size[0] / 60), math.floor(px * size[1] / 44)
                if size[0] >= 60:
                    assert labels[i, j] == n

    def test_doubtful_pixels_have_no_label(self):
        _, _, (plain, _) = self._estimate()
        _, _, (result, _) = self._estimate(changes={"PSEUDO.LABEL_MIN_PROB": 0.4})
        sure = result["confidence"] >= 0.4
        assert 0 < sure.sum() < sure.numel()
        free, all_of_it = (r["pseudo_labels"]["learned_free"] for r in (result, plain))
        assert torch.equal(free, torch.where(sure, all_of_it, -1))
        # Points are set afterwards, as in training.
        forced = plain["pseudo_labels"]["learned"] != all_of_it
        learned = result["pseudo_labels"]["learned"]
        assert torch.equal(learned[forced], plain["pseudo_labels"]["learned"][forced])

    def test_one_instance_is_everywhere(self):
        _, _, (result, _) = self._estimate(classes=(2,))
        assert (result["pseudo_labels"]["learned_free"] == 0).all()
        assert (result["confidence"] == 1).all()

    def test_nearest_in_original_pixels(self):
        _, x, (result, _) = self._estimate(height=60, width=176)
        coords = x["point_coords"] * torch.tensor([4.0, 1.0])
        label = result["pseudo_labels"]["nearest"]
        for i, j in ((0, 0), (59, 175), (30, 80), (12, 160)):
            distance = (coords - torch.tensor([j + 0.5, i + 0.5])).square().sum(1)
            assert label[i, j] == x["point_index"][distance.argmin()]

    def test_without_semantic_branch(self):
        _, _, (result, _) = self._estimate(changes={"LAMBDA_SEM": 0.0})
        assert "semantic" not in result and "learned" in result["pseudo_labels"]

    @pytest.mark.parametrize("changes", [{"LABEL_MAKER": "polygon"}, {"PAN_SUPERVISION": "full"}])
    def test_without_branches_there_are_only_rules(self, changes):
        changes = changes | {"TEST.PSEUDO_LABELS.BASELINES": ("nearest",)}
        _, _, (result, _) = self._estimate(changes=changes)
        want = {"nearest"} | ({"polygon"} if "LABEL_MAKER" in changes else set())
        assert set(result["pseudo_labels"]) == want
        assert "confidence" not in result and "semantic" not in result

    def test_a_batch_does_not_mix_images(self):
        model = small_model().eval()
        x, y = toy_input(64, 64, [0, 1]), toy_input(64, 64, [3, 2, 1], seed=1)
        both = model.estimate_labels([x, y])
        for one, alone in zip(both, (x, y), strict=True):
            got = model.estimate_labels([alone])[0]
            torch.testing.assert_close(one["confidence"], got["confidence"])


def _reference(logits, out_size, image_size):
    """(K, H, W) float64 logits at the centres of the original image's pixels."""
    axes = []
    for n, side, cells in zip(out_size, image_size, logits.shape[1:], strict=True):
        place = (torch.arange(n, dtype=torch.float64) + 0.5) * side / n / 8 - 0.5
        place = place.clamp(0, cells - 1)
        low = place.floor().long()
        axes.append((low, (low + 1).clamp(max=cells - 1), place - low))
    (y0, y1, fy), (x0, x1, fx) = axes
    rows = logits[:, y0] * (1 - fy)[:, None] + logits[:, y1] * fy[:, None]
    return rows[:, :, x0] * (1 - fx) + rows[:, :, x1] * fx
