"""Features and their nearest neighbour: against float64 loops, and the way of the features."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from detectron2.utils.events import EventStorage

from fdd.modeling.label_branch.branch import BranchOutput
from fdd.modeling.label_makers import MakerInputs, dnn_labels, get_label_maker
from fdd.modeling.label_makers.dnn import instance_similarity
from fdd.modeling.pseudo_labels.estimation import LabelSettings
from fdd.modeling.pseudo_labels.leave_one_out import leave_one_out
from fdd.modeling.structures import batch_points
from modeling_toys import small_model, total, toy_input, toy_memory

torch.set_num_threads(1)


def _evidence(
    num, size=(64, 96), points=2, seed=0, levels=3, stride=4.0, scale=(1.0, 1.0), **changes
):
    """Random maps of a backbone, with a common offset, and points of one padded picture."""
    g = torch.Generator().manual_seed(seed)
    padded = [-(-side // 64) * 64 for side in size]
    index = torch.arange(num).repeat_interleave(points)
    whole = torch.tensor([size[1] * scale[1], size[0] * scale[0]])
    fields = {
        "coords": torch.rand(len(index), 2, generator=g) * whole,
        "index": index,
        "classes": torch.zeros(num, dtype=torch.long),
        "grid": tuple(int(n * s / stride) for n, s in zip(padded, scale, strict=True)),
        "stride": (stride, stride),
        "scale": scale,
        "image_size": size,
        "features": tuple(
            torch.randn(4 + i, padded[0] >> (3 + i), padded[1] >> (3 + i), generator=g) + 3.0
            for i in range(levels)
        ),
    }
    return MakerInputs(**(fields | changes))


def _weights(place, cells):
    """The two cells that a fractional place lies between, the edge continued, with weights."""
    place = min(max(place, 0.0), cells - 1.0)
    low = math.floor(place)
    return [(low, low + 1 - place), (min(low + 1, cells - 1), place - low)]


def _bilinear(maps, y, x):
    return sum(
        maps[:, v, u] * a * b
        for v, a in _weights(y, maps.shape[1])
        for u, b in _weights(x, maps.shape[2])
    )


def _inside(side, stride):
    """Cells whose centre is inside the image; at least one."""
    return max(1, sum((i + 0.5) * stride < side for i in range(side)))


def _unit(x):
    length = np.linalg.norm(x, axis=0, keepdims=True)
    return np.divide(x, length, out=np.zeros_like(x), where=length > 1e-12)


def _similarity(e):
    """(N, h8, w8) float64 by the definition, -2 where there are no points."""
    height, width = e.image_size
    grid = _inside(height, 8), _inside(width, 8)
    every = np.zeros((len(e.index), *grid))
    for level, features in enumerate(e.features):
        stride = 8 * 2**level
        f = features[:, : _inside(height, stride), : _inside(width, stride)].double().numpy()
        f = _unit(f - f.mean((1, 2), keepdims=True))
        for p, (x, y) in enumerate(e.coords.double().tolist()):
            at = _bilinear(f, y / e.scale[0] / stride - 0.5, x / e.scale[1] / stride - 0.5)
            cosine = np.tensordot(_unit(at[:, None])[:, 0], f, 1)[None]
            for v in range(grid[0]):
                for u in range(grid[1]):
                    place = (v + 0.5) / 2**level - 0.5, (u + 0.5) / 2**level - 0.5
                    every[p, v, u] += _bilinear(cosine, *place)[0] / len(e.features)
    scores = np.full((len(e.classes), *grid), -2.0)
    for p, n in enumerate(e.index.tolist()):
        scores[n] = np.maximum(scores[n], every[p])
    return scores


CASES = [
    (4, {}),
    (3, {"levels": 1, "size": (70, 100)}),
    (3, {"levels": 2, "size": (41, 90), "stride": 8.0}),
    (2, {"size": (9, 7), "stride": 1.0}),  # one cell at every level but the finest
    (4, {"size": (37, 53), "stride": 1.0, "scale": (1.5, 0.75), "seed": 3}),
]


@pytest.mark.parametrize(("num", "options"), CASES)
def test_similarity_equals_the_definition(num, options):
    e = _evidence(num, **options)
    got, want = instance_similarity(e), _similarity(e)
    assert got.shape == want.shape and got.dtype == torch.float32
    np.testing.assert_allclose(got.numpy(), want, atol=2e-6)


@pytest.mark.parametrize(("num", "options"), CASES)
def test_labels_are_the_argmax_of_the_up_sampled_similarity(num, options):
    e = _evidence(num, **options)
    scores = _similarity(e)
    height, width = (
        max(1, math.ceil(n * s / t - 0.5))
        for n, s, t in zip(e.image_size, e.scale, e.stride, strict=True)
    )
    up = np.array(
        [
            [
                _bilinear(
                    scores,
                    (v + 0.5) * e.stride[0] / e.scale[0] / 8 - 0.5,
                    (u + 0.5) * e.stride[1] / e.scale[1] / 8 - 0.5,
                )
                for u in range(width)
            ]
            for v in range(height)
        ]
    )
    order = np.sort(up, axis=-1)
    clear = torch.from_numpy(order[..., -1] - order[..., -2] > 1e-4)
    got = dnn_labels(e)
    assert got.shape == e.grid and got.dtype == torch.int32
    inside = got[:height, :width]
    assert torch.equal(inside[clear].long(), torch.from_numpy(up.argmax(-1))[clear])
    assert (inside >= 0).all()
    assert (got[height:] == -1).all() and (got[:, width:] == -1).all()
    if min(e.image_size) > 9:
        assert clear.float().mean() > 0.98 and inside.unique().numel() > 1


def test_many_points_go_in_parts():
    e = _evidence(3, points=67, size=(33, 40), levels=2)  # 201 points, 64 at a time
    np.testing.assert_allclose(instance_similarity(e).numpy(), _similarity(e), atol=2e-6)


def test_it_counts_as_learned_from_the_network():
    maker = get_label_maker("dnn")
    assert maker.from_network and maker.needs == {"features"}


def test_no_points_one_point_and_an_instance_without():
    none = {"index": torch.zeros(0, dtype=torch.long), "coords": torch.zeros(0, 2)}
    assert (dnn_labels(_evidence(0)) == -1).all()
    assert (dnn_labels(_evidence(2, **none)) == -1).all()
    corner = {"index": torch.tensor([1]), "coords": torch.tensor([[96.0, 64.0]])}
    assert (dnn_labels(_evidence(3, **corner))[:16, :24] == 1).all()
    e = _evidence(4)
    kept = e.index != 2
    got = dnn_labels(replace(e, index=e.index[kept], coords=e.coords[kept]))[:16, :24]
    assert set(got.unique().tolist()) == {0, 1, 3}


def test_a_cell_on_which_a_point_lies_is_most_like_it():
    coords = torch.tensor([[4.0, 4.0], [92.0, 4.0], [4.0, 60.0], [52.0, 28.0]])
    e = _evidence(4, points=1, levels=1, stride=8.0, coords=coords)
    got = dnn_labels(e)
    assert [int(got[int(y) // 8, int(x) // 8]) for x, y in coords.tolist()] == [0, 1, 2, 3]
    # Outside the outermost centres the map's edge goes on.
    edge = torch.tensor([[0.0, 0.0], [96.0, 0.0], [0.0, 64.0], [52.0, 28.0]])
    assert torch.equal(dnn_labels(replace(e, coords=edge)), got)


def test_regions_of_like_features_are_found_wherever_they_are():
    """Two materials in a checkerboard; one point on each."""
    board = (torch.arange(8)[:, None] // 2 + torch.arange(8) // 2) % 2
    features = torch.stack([1.0 + board, 5.0 - board, torch.full((8, 8), 7.0)]).float()
    e = _evidence(
        2, points=1, size=(64, 64), stride=8.0, features=(features,),
        coords=torch.tensor([[4.0, 4.0], [20.0, 4.0]]),
    )  # fmt: skip
    assert torch.equal(dnn_labels(e), board.int())


def test_an_offset_common_to_the_image_does_not_count():
    e = _evidence(4)
    moved = tuple(f + 10 * torch.randn(len(f), 1, 1) for f in e.features)
    got = instance_similarity(replace(e, features=moved))
    torch.testing.assert_close(got, instance_similarity(e), atol=1e-4, rtol=0)


def test_instances_may_come_in_any_order():
    e = _evidence(5, seed=2)
    order = torch.tensor([3, 0, 4, 2, 1])  # new index i is old index order[i]
    back = order.argsort()
    got = instance_similarity(replace(e, index=back[e.index]))
    torch.testing.assert_close(got, instance_similarity(e)[order])
    want, got = (dnn_labels(x)[:16, :24].long() for x in (e, replace(e, index=back[e.index])))
    assert torch.equal(got, back[want])


def test_a_mirrored_image_has_the_mirrored_label():
    e = _evidence(4, size=(64, 128), seed=4)
    coords = torch.stack([128 - e.coords[:, 0], e.coords[:, 1]], 1)
    other = replace(e, coords=coords, features=tuple(f.flip(2) for f in e.features))
    got = instance_similarity(other).flip(2)
    torch.testing.assert_close(got, instance_similarity(e), atol=1e-5, rtol=0)
    assert (dnn_labels(other).flip(1) == dnn_labels(e)).float().mean() > 0.999


def test_what_is_on_padding_changes_nothing():
    e = _evidence(3, size=(70, 100))
    wide = []
    for level, f in enumerate(e.features):
        stride = 8 << level
        far = torch.nn.functional.pad(f, (0, 64 // stride, 0, 64 // stride))
        far[:, _inside(70, stride) :], far[:, :, _inside(100, stride) :] = torch.nan, 1e5
        wide.append(far)
    more = dnn_labels(replace(e, features=tuple(wide), grid=(48, 48)))
    v, u = e.valid_grid
    assert torch.equal(more[:v, :u], dnn_labels(e)[:v, :u])


class TestWayOfTheFeatures:
    BESIDE = {"TEST.PSEUDO_LABELS.BASELINES": ("dnn",)}
    X = toy_input(50, 60, [0, 2, 2, 3], seed=4) | {"height": 75, "width": 60}

    def test_nobody_keeps_them_whom_no_maker_asks_to(self):
        model = small_model().eval()
        images = model.preprocess([self.X])
        memory = model.encode(images)
        points = batch_points([self.X], tuple(images.tensor.shape[-2:]), model.device)
        assert memory.features == () == model.estimate(memory, points).features
        assert not small_model({"LABEL_MAKER": "nearest"}).labels_need_encoding

    @pytest.mark.parametrize(
        "changes", [BESIDE, {"LABEL_MAKER": "dnn"}, BESIDE | {"PAN_SUPERVISION": "full"}]
    )
    def test_the_label_is_that_of_the_backbones_maps(self, changes):
        """As label maker, beside the learned labels and beside full masks; in a batch."""
        model = small_model(changes | {"PSEUDO.FORCE_POINTS": True}).eval()
        neighbour = toy_input(64, 120, [1], seed=5)
        with torch.no_grad():
            images = model.preprocess([self.X, neighbour])
            maps = model.backbone(images.tensor)
            got = model.estimate_labels([self.X, neighbour])[0]["pseudo_labels"]
        want = dnn_labels(
            MakerInputs(
                self.X["point_coords"] * torch.tensor([1.0, 1.5]),
                self.X["point_index"], self.X["classes"], (75, 60), (1.0, 1.0),
                scale=(1.5, 1.0), image_size=(50, 60),
                features=tuple(maps[name][0] for name in ("res3", "res4", "res5")),
            )
        )  # fmt: skip
        assert torch.equal(got["dnn_free"], want) and want.unique().numel() > 1
        assert not torch.equal(got["dnn"], want)  # points hold their own cells

    @pytest.mark.parametrize("supervision", ["pseudo", "point"])
    def test_it_trains_without_a_branch(self, supervision):
        model = small_model({"LABEL_MAKER": "dnn", "PAN_SUPERVISION": supervision})
        assert model.label_branch is None and model.query_generator is None
        features = model.encode(model.preprocess([self.X])).features
        assert len(features) == 3 and not any(maps.requires_grad for maps in features)
        with EventStorage(1):
            losses = model([self.X])
        assert not any(name.startswith(("loss_pse", "loss_sem", "loss_emb")) for name in losses)
        total(losses).backward()
        kind = "dice" if supervision == "pseudo" else "point"
        assert losses[f"loss_thing_{kind}"] > 0 and losses[f"loss_stuff_{kind}"] > 0
        assert model.backbone.stem.conv1.weight.grad.abs().sum() > 0

    def test_the_labels_teach_nothing_of_their_own(self):
        """A baseline beside the learned labels changes neither losses nor gradients."""
        ends = []
        for changes in ({}, self.BESIDE):
            model = small_model(changes)
            with EventStorage(1):
                losses = model([self.X])
            total(losses).backward()
            ends.append((losses, model.backbone.stem.conv1.weight.grad))
        (one, grad), (other, same) = ends
        assert one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)
        assert torch.equal(grad, same)

    def test_the_memory_repeats_them(self):
        maps = tuple(torch.randn(2, 3, 8 >> i, 8 >> i) for i in range(3))
        memory = replace(toy_memory([(64, 64)] * 2, (64, 64)), features=maps)
        again = memory.repeat(1, 4).features
        assert all(
            torch.equal(a, m[1:].expand(4, -1, -1, -1)) for a, m in zip(again, maps, strict=True)
        )

    @pytest.mark.parametrize("changes", [BESIDE, {"LABEL_MAKER": "dnn"}])
    def test_its_quality_is_judged_without_masks(self, changes):
        model = small_model(changes).eval()
        x = toy_input(64, 64, [0, 3], points=4)
        (got,) = model.label_quality([x])
        dnn = got["makers"]["dnn"]
        assert dnn["share"].sum() == pytest.approx(1) and dnn["confidence"].isnan().all()
        free = model.estimate_labels([x])[0]["pseudo_labels"]["dnn_free"]
        assert dnn["share"].tolist() == [float((free == n).float().mean()) for n in range(2)]

    def test_a_left_out_point_is_found_by_its_features_alone(self):
        """Two materials in a checkerboard: the nearest points are those of the other one."""
        board = (torch.arange(8)[:, None] + torch.arange(8)) % 2
        features = torch.stack([1.0 + board, 5.0 - board]).float()
        x = toy_input(64, 64, [0, 3], points=2)
        coords = torch.tensor([[4.0, 4.0], [60.0, 60.0], [52.0, 60.0], [12.0, 4.0]])
        x = x | {"point_coords": coords}

        def estimate(points):
            return BranchOutput([], [], features=(features.expand(len(points.counts), -1, -1, -1),))

        count, found = leave_one_out(
            x, (64, 64), (64, 64), estimate, ["dnn", "nearest"], LabelSettings(dilate_side=0.0),
            torch.device("cpu"),
        )  # fmt: skip
        assert count.tolist() == [2, 2]
        assert found["dnn"].tolist() == [2, 2] and found["nearest"].tolist() == [0, 0]
