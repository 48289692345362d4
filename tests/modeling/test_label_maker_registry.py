"""Makers of one's own, points' squares and full masks behind the common interface."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch

from fdd.modeling.label_branch.branch import BranchOutput
from fdd.modeling.label_makers import (
    MakerInputs,
    available_sources,
    check_label_makers,
    full_labels,
    get_label_maker,
    learned_labels,
    point_labels,
    register_label_maker,
    registry,
)
from fdd.modeling.pseudo_labels.estimation import LabelSettings, dense_labels, estimate_image
from fdd.modeling.pseudo_labels.leave_one_out import leave_one_out
from fdd.modeling.structures import batch_points
from fdd.points.raster import rasterize_points
from modeling_toys import small_cfg, small_model, toy_input

torch.set_num_threads(1)


@pytest.fixture
def own_maker(monkeypatch):
    """A user's maker: every pixel is the last instance of the likeliest class."""
    monkeypatch.setattr(registry, "_MAKERS", dict(registry._MAKERS))

    @register_label_maker(needs={"semantic"}, wants={"image"})
    def last_labels(evidence):
        seen.append(evidence)
        return torch.full(evidence.grid, len(evidence.classes) - 1, dtype=torch.int32)

    seen = []
    return seen


@pytest.mark.parametrize("obeying", ["PSEUDO.FORCE_POINTS", "CLICKS.RESIDUAL"])
def test_a_users_maker_trains_and_is_scored_like_ours(own_maker, obeying):
    cfg = small_cfg({"LABEL_MAKER": "last"})  # passes the check at start-up
    assert cfg.MODEL.FDD.LABEL_MAKER == "last"
    model = small_model({"LABEL_MAKER": "last", obeying: True}).eval()
    assert model.query_generator is None and model.distance_embedding is None
    result = model.estimate_labels([toy_input(41, 64, [0, 2, 3]) | {"height": 50, "width": 70}])[0]
    assert set(result["pseudo_labels"]) == {"last", "last_free", "nearest", "polygon", "extent"}
    assert (result["pseudo_labels"]["last_free"] == 2).all()
    assert result["pseudo_labels"]["last"].unique().tolist() == [0, 1, 2]
    (evidence,) = own_maker
    assert evidence.semantic.shape == (5, 8, 8) and evidence.instance is None
    assert evidence.image.shape == (3, 41, 64) and evidence.image_size == (41, 64)
    assert evidence.grid == (50, 70) and evidence.scale == (50 / 41, 70 / 64)


def test_the_image_is_rgb_whatever_the_input_is(own_maker):
    x = toy_input(41, 64, [0])
    for format_, want in (("RGB", x["image"]), ("BGR", x["image"].flip(0))):
        model = small_model({"LABEL_MAKER": "last", "INPUT.FORMAT": format_}).eval()
        model.estimate_labels([x])
        assert torch.equal(own_maker[-1].image, want)
        points = batch_points([x], (64, 64), torch.device("cpu"))
        output = model.estimate(model.encode(model.preprocess([x])), points)
        dense_labels(output, points, [(41, 64)], (64, 64), model.label_settings)
        assert torch.equal(own_maker[-1].image, want)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("nearest_labels", {}, "'nearest' is already registered"),
        ("gravity", {}, r"called \.\.\._labels, not 'gravity'"),
        ("_labels", {}, r"called \.\.\._labels"),
        ("ray_labels", {"needs": {"depth"}}, r"needs \['depth'\]; known: \['embedding', "),
        ("ray_labels", {"wants": {"depth"}}, r"needs \['depth'\]"),
    ],
)
def test_registrations_that_cannot_be(name, options, message):
    def rule(evidence):
        raise AssertionError

    rule.__name__ = name
    with pytest.raises(ValueError, match=message):
        register_label_maker(**options)(rule)
    assert "ray" not in registry.label_maker_names()


def test_a_missing_need_is_named():
    evidence = MakerInputs(
        torch.zeros(0, 2), torch.zeros(0).long(), torch.zeros(0).long(), (2, 2), (8, 8)
    )
    with pytest.raises(ValueError, match=r"'distance' needs the image's colours, the semantic bra"):
        get_label_maker("distance")(evidence)
    with pytest.raises(ValueError, match=r"'full' needs true masks \(masks\), which is not there"):
        get_label_maker("full")(evidence)
    points = batch_points([toy_input(64, 64, [0])], (64, 64), torch.device("cpu"))
    with pytest.raises(ValueError, match=r"'distance' needs the semantic branch's logits"):
        dense_labels(None, points, [(64, 64)], (64, 64), LabelSettings(maker="distance"))


@pytest.mark.parametrize(
    ("maker", "lambda_sem", "embedding", "prior", "want"),
    [
        ("learned", 1.0, True, False, {"instance", "semantic", "embedding"}),
        ("learned", 1.0, False, True, {"instance", "semantic", "prior"}),
        ("learned", 0.0, True, True, {"instance", "prior"}),
        ("distance", 1.0, False, True, {"semantic"}),
        ("semantic_nearest", 1.0, True, True, {"semantic", "embedding"}),
        ("nearest", 1.0, True, True, set()),
        ("dnn", 1.0, True, True, set()),
        ("prior", 1.0, True, True, set()),  # it stands beside 'learned' alone
        ("full", 1.0, True, True, {"masks"}),
    ],
)
def test_what_a_model_can_give(maker, lambda_sem, embedding, prior, want):
    got = available_sources(get_label_maker(maker), lambda_sem, embedding, prior)
    assert got == want | {"image", "features"}


class TestPoint:
    @pytest.mark.parametrize("stride", [1, 4, 8])
    @pytest.mark.parametrize("seed", range(4))
    def test_equals_the_rasteriser_of_the_loader(self, stride, seed):
        """S^ins is made by other code; the squares are the same, padding is -1."""
        rng = np.random.default_rng(seed)
        height, width = rng.integers(20, 90, 2).tolist()
        index = np.sort(rng.integers(0, 5, 14))
        coords = np.round(rng.random((14, 2)) * [width, height], 1)
        coords[0] = width, height  # beyond the last centre
        coords[1] = coords[2]  # a tie, unless of the same instance
        want = rasterize_points(
            coords, index, np.zeros(5), height, width, 17, min(height, width), stride
        ).instance_map
        grid = -(-height // 32) * 32 // stride, -(-width // 32) * 32 // stride
        got = point_labels(
            MakerInputs(
                torch.from_numpy(coords),
                torch.from_numpy(index),
                torch.zeros(5).long(),
                grid,
                (float(stride),) * 2,
                square_side=17.0,
                image_size=(height, width),
            )
        )
        assert got.shape == grid and got.dtype == torch.int32
        assert np.array_equal(got[: want.shape[0], : want.shape[1]].numpy(), want)
        assert (got[want.shape[0] :] == -1).all() and (got[:, want.shape[1] :] == -1).all()
        assert (want >= 0).any()

    def test_cells_that_are_no_squares(self):
        """Own cell always; 3 px a row, 1.5 a column; half the side is 1.5 px."""
        got = point_labels(
            MakerInputs(
                torch.tensor([[4.0, 3.1]]), torch.tensor([2]), torch.zeros(3).long(),
                (3, 6), (3.0, 1.5), square_side=3.0,
            )
        )  # fmt: skip
        assert (got == 2).nonzero().tolist() == [[1, 2], [1, 3]]


class TestFull:
    def test_a_canvas_of_the_original_size_repeats_cells(self):
        masks = torch.tensor([[0, 1, 1], [2, -1, 0]])
        evidence = MakerInputs(
            torch.zeros(0, 2), torch.zeros(0).long(), torch.zeros(3).long(), (16, 12), (1.0, 1.0),
            scale=(2.0, 1.0), image_size=(8, 12), masks=masks,
        )  # fmt: skip
        want = masks.repeat_interleave(8, 0).repeat_interleave(4, 1)
        assert torch.equal(full_labels(evidence), want.int())

    def test_beside_a_learned_model_only_where_masks_are(self):
        model = small_model({"TEST.PSEUDO_LABELS.BASELINES": ("full",)}).eval()
        x = toy_input(40, 64, [0, 3], masks=True)
        got = model.estimate_labels([x])[0]["pseudo_labels"]
        want = x["instance_map"].repeat_interleave(4, 0).repeat_interleave(4, 1)
        assert torch.equal(got["full"], want) and "full_free" not in got
        del x["instance_map"]
        assert set(model.estimate_labels([x])[0]["pseudo_labels"]) == {"learned", "learned_free"}

    def test_training_on_masks_at_another_stride_is_refused(self):
        points = batch_points([toy_input(64, 64, [0], masks=True)], (64, 64), torch.device("cpu"))
        with pytest.raises(ValueError, match="masks are at stride 4, not 8"):
            dense_labels(None, points, [(64, 64)], (64, 64), LabelSettings(maker="full", stride=8))


def test_batched_and_single_learned_labels_agree():
    model, x = small_model(), toy_input(41, 60, [0, 2, 3])
    points = batch_points([x], (64, 64), torch.device("cpu"))
    with torch.no_grad():
        output = model.estimate(model.encode(model.preprocess([x])), points)
    settings = LabelSettings(force_points=False)
    batch, known = dense_labels(output, points, [(41, 60)], (64, 64), settings)
    one = learned_labels(
        MakerInputs(
            points.coords, points.point_instance, points.classes[0], (16, 16), (4.0, 4.0),
            image_size=(41, 60), instance=output.instance[-1][0],
        )
    )  # fmt: skip
    assert torch.equal(batch[known], one[None][known].long()) and known.any()


class TestPrior:
    """The location prior's maps, labelled as those of the pseudo label branch are."""

    X = [toy_input(41, 60, [0, 2, 3]), toy_input(64, 64, [1, 0], seed=1), toy_input(64, 33, [])]
    SIZES = [(41, 60), (64, 64), (64, 33)]

    def _outputs(self):
        torch.manual_seed(0)
        prior, other = 3 * torch.randn(3, 3, 8, 8), torch.randn(3, 3, 8, 8)
        return BranchOutput([other], [], prior=prior), BranchOutput([other, prior], [])

    @pytest.mark.parametrize("min_prob", [0.0, 0.6])
    def test_training_labels(self, min_prob):
        points = batch_points(self.X, (64, 64), torch.device("cpu"))
        got, want = (
            dense_labels(
                output, points, self.SIZES, (64, 64), LabelSettings(maker=maker, min_prob=min_prob)
            )
            for output, maker in zip(self._outputs(), ("prior", "learned"), strict=True)
        )
        assert torch.equal(got[0], want[0]) and torch.equal(got[1], want[1])
        assert got[1][:2].any((1, 2)).all() and (got[0][2] == -1).all()

    @pytest.mark.parametrize("min_prob", [0.0, 0.6])
    def test_labels_at_the_original_size(self, min_prob):
        settings = LabelSettings(baselines=("prior",), min_prob=min_prob)
        for i, (x, size) in enumerate(zip(self.X, self.SIZES, strict=True)):
            x = x | {"height": 2 * size[0], "width": 90}
            mine, learned = (
                estimate_image(x, i, output, size, settings)
                if output.prior is not None
                else estimate_image(x, i, output, size, LabelSettings(min_prob=min_prob))
                for output in self._outputs()
            )
            got, want = mine["pseudo_labels"], learned["pseudo_labels"]
            assert torch.equal(got["prior"], want["learned"])
            assert torch.equal(got["prior_free"], want["learned_free"])
            assert not len(x["classes"]) or not torch.equal(got["prior"], got["learned"])

    def test_left_out_points(self):
        """Every round's own maps: the points that are left decide."""

        def estimate(points):
            prior = torch.full((len(points.counts), 2, 8, 8), -9.0)
            image, instance, row, column = points.cells.unbind(1)
            prior[image, instance, row, column] = 1.0
            prior[:, 1] += 1.0  # elsewhere the second one
            return BranchOutput([torch.zeros_like(prior)], [], prior=prior)

        x = toy_input(64, 64, [0, 1], points=2) | {
            "point_coords": torch.tensor([[4.0, 4], [60, 60], [60, 4], [4, 60]])
        }
        count, found = leave_one_out(
            x, (64, 64), (64, 64), estimate, ["prior"], LabelSettings(dilate_side=0.0),
            torch.device("cpu"),
        )  # fmt: skip
        assert count.tolist() == [2, 2] and found["prior"].tolist() == [0, 2]

    def test_it_is_of_the_network(self):
        assert get_label_maker("prior").from_network
        with pytest.raises(ValueError, match="'prior' needs the location prior's logits"):
            points = batch_points(self.X, (64, 64), torch.device("cpu"))
            settings = LabelSettings(maker="prior")
            dense_labels(self._outputs()[1], points, self.SIZES, (64, 64), settings)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"maker": "prior"}, "LABEL_MAKER is 'prior', which needs the location prior"),
            (
                {"baselines": ("prior",), "location_prior": False},
                r"LOCATION_PRIOR.ENABLED to True",
            ),
            ({"baselines": ("prior",), "maker": "dnn"}, r"with MODEL.FDD.LABEL_MAKER 'learned'"),
            ({"baselines": ("prior",), "supervision": "full"}, r"BASELINES names 'prior'"),
            ({"baselines": ("prior",)}, None),
        ],
    )
    def test_it_stands_beside_a_learned_model_with_the_prior(self, options, message):
        usual = {
            "supervision": "pseudo", "maker": "learned", "baselines": (), "lambda_sem": 1.0,
            "embedding": True, "location_prior": True,
        }  # fmt: skip
        with nullcontext() if message is None else pytest.raises(ValueError, match=message):
            check_label_makers(**(usual | options))
