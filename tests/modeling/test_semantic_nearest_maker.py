"""Class by the semantic branch, instance by the nearest point: against float64 loops."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from fdd.modeling.label_makers import MakerInputs, get_label_maker, nearest_labels
from fdd.modeling.label_makers import semantic_nearest_labels as make
from fdd.modeling.label_maps import num_valid_cells
from modeling_toys import small_model, toy_input

torch.set_num_threads(1)
NUM_THINGS = 3  # of five classes


def _evidence(classes, size=(64, 96), points=2, seed=0, stride=4.0, scale=(1.0, 1.0), **changes):
    """Random logits and points of one picture, padded to a multiple of 64."""
    g = torch.Generator().manual_seed(seed)
    padded = [-(-side // 64) * 64 for side in size]
    index = torch.arange(len(classes)).repeat_interleave(points)
    whole = torch.tensor([size[1] * scale[1], size[0] * scale[0]])
    fields = {
        "coords": torch.rand(len(index), 2, generator=g) * whole,
        "index": index,
        "classes": torch.tensor(classes, dtype=torch.long),
        "grid": tuple(int(n * s / stride) for n, s in zip(padded, scale, strict=True)),
        "stride": (stride, stride),
        "num_things": NUM_THINGS,
        "scale": scale,
        "image_size": size,
        "semantic": torch.randn(5, padded[0] // 8, padded[1] // 8, generator=g),
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


def _reference(e):
    """Labels of the cells inside the image, and how clear each is."""
    rows, columns = (num_valid_cells(side, 8) for side in e.image_size)
    logits = e.semantic[:, :rows, :columns].double().numpy()
    coords, owner = e.coords.double().numpy(), e.index.numpy()
    classes = e.classes.numpy()
    present = sorted(set(classes[owner].tolist()))
    height, width = (
        math.ceil(n * s / t - 0.5) for n, s, t in zip(e.image_size, e.scale, e.stride, strict=True)
    )
    labels, clear = np.zeros((height, width), int), np.ones((height, width), bool)
    for v in range(height):
        for u in range(width):
            y, x = (v + 0.5) * e.stride[0], (u + 0.5) * e.stride[1]
            z = _bilinear(logits, y / e.scale[0] / 8 - 0.5, x / e.scale[1] / 8 - 0.5)[present]
            label = present[int(z.argmax())]
            clear[v, u] = len(z) == 1 or np.diff(np.sort(z))[-1] > 1e-5
            if label >= NUM_THINGS:
                labels[v, u] = classes.tolist().index(label)
                continue
            mine = np.flatnonzero(classes[owner] == label)
            far = np.hypot(coords[mine, 0] - x, coords[mine, 1] - y)
            labels[v, u] = owner[mine[far.argmin()]]
            clear[v, u] &= len(far) == 1 or np.diff(np.sort(far))[0] > 1e-4
    return torch.from_numpy(labels), torch.from_numpy(clear)


@pytest.mark.parametrize(
    ("classes", "options"),
    [
        ([0, 0, 2, 3, 4, 3], {}),
        ([1, 1, 1], {"size": (70, 100)}),
        ([4, 2, 2, 4], {"size": (41, 90), "stride": 8.0, "points": 1}),
        ([0, 3], {"size": (9, 7), "stride": 1.0}),
        ([2, 2, 4, 0], {"size": (37, 53), "stride": 1.0, "scale": (1.5, 0.75), "seed": 3}),
    ],
)
def test_equals_the_definition(classes, options):
    e = _evidence(classes, **options)
    got, (want, clear) = make(e), _reference(e)
    rows, columns = want.shape
    assert got.shape == e.grid and got.dtype == torch.int32 and clear.float().mean() > 0.98
    assert torch.equal(got[:rows, :columns][clear].long(), want[clear])
    assert (got[:rows, :columns] >= 0).all()
    assert (got[rows:] == -1).all() and (got[:, columns:] == -1).all()
    assert want.unique().numel() > 1 or min(e.image_size) < 12  # a single cell of logits


def test_it_counts_as_learned_from_the_network():
    maker = get_label_maker("semantic_nearest")
    assert maker.from_network and maker.needs == {"semantic"}


def test_no_points_and_one_point():
    assert (make(_evidence([])) == -1).all()
    assert (
        make(_evidence([2, 4], index=torch.zeros(0).long(), coords=torch.zeros(0, 2))) == -1
    ).all()
    one = make(_evidence([0, 2, 1], index=torch.tensor([1]), coords=torch.tensor([[96.0, 64.0]])))
    assert (one[:16, :24] == 1).all()  # on the far corner, and of the only class there is


def test_a_class_without_points_is_nobodys_however_likely():
    e = _evidence([0, 0, 3])
    loud = e.semantic.clone()
    loud[1], loud[4] = 1e3, 1e4
    assert torch.equal(make(replace(e, semantic=loud)), make(e))


def test_the_nearest_point_of_another_class_does_not_count():
    """One class everywhere: the labels are those of the nearest point among its things alone."""
    e = _evidence([0, 1, 0, 3], points=4)
    sure = torch.zeros_like(e.semantic)
    sure[0] = 9.0
    mine = (e.index == 0) | (e.index == 2)
    alone = nearest_labels(replace(e, coords=e.coords[mine], index=e.index[mine]))
    got = make(replace(e, semantic=sure))[: e.valid_grid[0], : e.valid_grid[1]]
    assert torch.equal(got, alone[: e.valid_grid[0], : e.valid_grid[1]])
    assert got.unique().tolist() == [0, 2]
    assert not torch.equal(got, nearest_labels(e)[: e.valid_grid[0], : e.valid_grid[1]])


def test_stuff_is_its_first_instance():
    e = _evidence([4, 0, 4])
    sure = torch.zeros_like(e.semantic)
    sure[4] = 9.0
    # The second one's points are nearer to all of the image.
    corner = torch.tensor([[0.0, 0.0], [0.0, 0.0]])
    coords = torch.cat([corner, e.coords[2:4], torch.tensor([[48.0, 32.0], [60.0, 40.0]])])
    assert (make(replace(e, semantic=sure, coords=coords))[:16, :24] == 0).all()


def test_instances_may_come_in_any_order():
    e = _evidence([0, 3, 0, 1, 4], seed=2)
    order = torch.tensor([3, 0, 4, 2, 1])  # new index i is old index order[i]
    back = order.argsort()
    other = make(replace(e, classes=e.classes[order], index=back[e.index]))
    want = make(e)
    assert torch.equal(other, torch.where(want >= 0, back[want.clamp(min=0).long()], -1).int())


def test_a_mirrored_image_has_the_mirrored_label():
    e = _evidence([0, 0, 2, 3], size=(64, 128), seed=4)
    coords = torch.stack([128 - e.coords[:, 0], e.coords[:, 1]], 1)
    mirrored = make(replace(e, coords=coords, semantic=e.semantic.flip(2)))
    assert (mirrored.flip(1) == make(e)).float().mean() > 0.999


def test_what_is_on_padding_changes_nothing():
    e = _evidence([0, 0, 2, 3], size=(70, 100))
    rows, columns = num_valid_cells(70, 8), num_valid_cells(100, 8)
    wide = torch.nn.functional.pad(e.semantic, (0, 24, 0, 8))
    wide[:, rows:], wide[:, :, columns:] = torch.nan, 1e5
    more = make(replace(e, semantic=wide, grid=(48, 80)))
    v, u = e.valid_grid
    assert torch.equal(more[:v, :u], make(e)[:v, :u])


def test_it_trains_on_the_semantic_branch_alone():
    model = small_model({"LABEL_MAKER": "semantic_nearest"}).eval()
    assert model.query_generator is None and model.distance_embedding is None
    x = toy_input(64, 64, [0, 2, 2, 3])
    (labels,) = model.estimate_labels([x])
    assert set(labels["pseudo_labels"]) == {
        "semantic_nearest", "semantic_nearest_free", "nearest", "polygon", "extent"
    }  # fmt: skip
    semantic = labels["semantic"]
    free = labels["pseudo_labels"]["semantic_nearest_free"].long()
    known = torch.isin(semantic, x["classes"].int())
    assert known.any() and torch.equal(x["classes"][free][known], semantic[known].long())
