"""The traversing distance as a whole: against float64 loops, and what must not change it."""

import heapq
import math

import numpy as np
import pytest
import torch

from fdd.modeling.label_makers import MakerInputs, distance_labels
from fdd.modeling.label_makers.distance import image_edges
from fdd.modeling.label_maps import num_valid_cells
from fdd.points.raster import rasterize_points

torch.set_num_threads(1)
NUM_THINGS = 3  # of five classes


def _evidence(classes, size=(96, 128), points=2, seed=0, stride=4, spread=3.0, **changes):
    """Random logits, embedding and image of one picture, padded to a multiple of 64."""
    g = torch.Generator().manual_seed(seed)
    height, width = size
    padded = -(-height // 64) * 64, -(-width // 64) * 64
    cells = padded[0] // 8, padded[1] // 8
    index = torch.arange(len(classes)).repeat_interleave(points)
    unit = torch.randn(6, *cells, generator=g)
    fields = {
        "coords": torch.rand(len(index), 2, generator=g) * torch.tensor([width, height]),
        "index": index,
        "classes": torch.tensor(classes, dtype=torch.long),
        "grid": (padded[0] // stride, padded[1] // stride),
        "stride": (float(stride), float(stride)),
        "square_side": 9.0,
        "num_things": NUM_THINGS,
        "image_size": size,
        "semantic": spread * torch.randn(5, *cells, generator=g),
        "embedding": unit / unit.norm(dim=0),
        "image": torch.randint(0, 256, (3, height, width), generator=g).to(torch.uint8),
    }
    return MakerInputs(**(fields | changes))


def _sample(maps, y, x):
    """Bilinear values of (K, h, w) maps at fractional cells, float64, the edge continued."""
    maps = maps.double().numpy()
    y, x = (min(max(p, 0.0), n - 1.0) for p, n in zip((y, x), maps.shape[1:], strict=True))
    v, u = int(y), int(x)
    w, t = min(v + 1, maps.shape[1] - 1), min(u + 1, maps.shape[2] - 1)
    top = maps[:, v, u] * (1 - x + u) + maps[:, v, t] * (x - u)
    low = maps[:, w, u] * (1 - x + u) + maps[:, w, t] * (x - u)
    return top * (1 - y + v) + low * (y - v)


def _probabilities(e, grid, step):
    """p, all classes, (5, h, w)."""
    rows, columns = (num_valid_cells(n, 8) for n in e.image_size)
    logits = e.semantic[:, :rows, :columns]
    present = np.isin(np.arange(5), e.classes[e.index].numpy())
    p = np.zeros((5, *grid))
    for v in range(grid[0]):
        for u in range(grid[1]):
            z = _sample(logits, (v + 0.5) * step[0] / 8 - 0.5, (u + 0.5) * step[1] / 8 - 0.5)
            p[:, v, u] = np.exp(z) / np.exp(z).sum() * present
    return p


def _with_squares(p, e, step):
    """Raise p to 1 in the points' squares; the nearest point's class wins, ties of two nobody's."""
    for v in range(p.shape[1]):
        for u in range(p.shape[2]):
            claims = []
            for (x, y), n in zip(e.coords.tolist(), e.index.tolist(), strict=True):
                dy, dx = abs((v + 0.5) * step[0] - y), abs((u + 0.5) * step[1] - x)
                own = v == min(int(y // step[0]), p.shape[1] - 1)
                own = own and u == min(int(x // step[1]), p.shape[2] - 1)
                if max(dy, dx) <= e.square_side / 2 or own:
                    claims.append((max(dy, dx), int(e.classes[n])))
            if claims:
                near = {c for d, c in claims if d <= min(claims)[0] + 1e-3}
                if len(near) == 1:
                    p[near.pop(), v, u] = 1
    return p


def _walk(cost, starts, grid):
    best = dict.fromkeys(starts, 0.0)
    heap = [(0.0, s) for s in starts]
    while heap:
        far, (v, u) = heapq.heappop(heap)
        for y in range(max(v - 1, 0), min(v + 2, grid[0])):
            for x in range(max(u - 1, 0), min(u + 2, grid[1])):
                through = far + cost((v, u), (y, x))
                if (y, x) != (v, u) and through < best.get((y, x), math.inf):
                    best[y, x] = through
                    heapq.heappush(heap, (through, (y, x)))
    return np.array([[best[v, u] for u in range(grid[1])] for v in range(grid[0])])


def _reference(e):
    """Labels of the valid part by the definition, and how sure each is."""
    height, width = e.image_size
    apart = min(16, max(8, 16 * min(height, width) / 600))
    nodes = max(1, int(height / apart)), max(1, int(width / apart))
    step = height / nodes[0], width / nodes[1]
    p = _with_squares(_probabilities(e, nodes, step), e, step)
    edges = image_edges(e.image, nodes).double().numpy()
    f = None
    if e.embedding is not None:
        rows, columns = (num_valid_cells(n, 8) for n in e.image_size)
        at = [
            [
                _sample(
                    e.embedding[:, :rows, :columns],
                    (v + 0.5) * step[0] / 8 - 0.5,
                    (u + 0.5) * step[1] / 8 - 0.5,
                )
                for u in range(nodes[1])
            ]
            for v in range(nodes[0])
        ]
        f = np.array(at)

    def cost(i, j):
        c = np.abs(p[:, i[0], i[1]] - p[:, j[0], j[1]]).sum() + 0.1 * edges[j]
        return c if f is None else c + 0.1 * max(0.0, 1 - f[i] @ f[j])

    d = np.full((len(e.classes), *nodes), 10.0)
    for n in set(e.index.tolist()):
        starts = {
            (min(int(y // step[0]), nodes[0] - 1), min(int(x // step[1]), nodes[1] - 1))
            for x, y in e.coords[e.index == n].tolist()
        }
        d[n] = _walk(cost, starts, nodes)
    d = torch.from_numpy(d / (d[e.classes.numpy() < NUM_THINGS].max(initial=0) + 1e-5))

    stride = e.stride[0]
    grid = tuple(max(1, math.ceil(n / stride - 0.5)) for n in e.image_size)
    p = _with_squares(_probabilities(e, grid, (stride, stride)), e, (stride, stride))
    labels, sure = np.full(grid, -1), np.zeros(grid)
    for v in range(grid[0]):
        for u in range(grid[1]):
            q = p[:, v, u]
            order = np.sort(q)[::-1]
            label = int(q.argmax())
            sure[v, u] = order[0] - order[1]
            if label >= NUM_THINGS:
                first = e.classes.tolist().index(label)
                labels[v, u] = first if q[label] >= 0.5 else -1
                sure[v, u] = min(sure[v, u], abs(q[label] - 0.5))
                continue
            y, x = (v + 0.5) * stride / step[0] - 0.5, (u + 0.5) * stride / step[1] - 0.5
            s = 1 - _sample(d, y, x)
            score = {
                n: s[n] * (q[c] + q[NUM_THINGS:].sum())
                for n, c in enumerate(e.classes.tolist())
                if c < NUM_THINGS
            }
            best = sorted(score.values())[::-1]
            labels[v, u] = max(score, key=lambda n: score[n])
            if len(best) > 1:
                sure[v, u] = min(sure[v, u], best[0] - best[1])
    return torch.from_numpy(labels), torch.from_numpy(sure)


@pytest.mark.parametrize(
    ("classes", "options"),
    [
        ([0, 0, 2, 3, 4], {}),
        ([0, 0, 2, 3, 4], {"embedding": None}),
        ([1, 1, 1], {"size": (70, 100)}),
        ([0, 2, 4, 4], {"size": (41, 90), "stride": 8, "points": 1}),
        ([0, 1], {"size": (9, 7), "stride": 1}),
        ([2, 0, 1, 3], {"size": (37, 53), "seed": 3, "spread": 0.5}),
    ],
)
def test_equals_the_definition(classes, options):
    e = _evidence(classes, **options)
    got = distance_labels(e)
    want, sure = _reference(e)
    rows, columns = want.shape
    assert got.shape == e.grid and got.dtype == torch.int32
    clear = sure > 1e-5
    assert clear.float().mean() > 0.95
    assert torch.equal(got[:rows, :columns][clear].long(), want[clear])
    assert (got[rows:] == -1).all() and (got[:, columns:] == -1).all()


def test_the_original_size_is_another_canvas_of_the_same_label():
    """Twice the size a side: every cell of stride 1 becomes four pixels' worth of canvas."""
    e = _evidence([0, 0, 2, 3], size=(64, 96), stride=1, grid=(64, 96), square_side=8.0)
    one = distance_labels(e)
    same = MakerInputs(
        **{
            **{k: getattr(e, k) for k in ("index", "classes", "semantic", "embedding", "image")},
            "coords": e.coords * 2, "grid": (64, 96), "stride": (2.0, 2.0), "square_side": 16.0,
            "num_things": NUM_THINGS, "scale": (2.0, 2.0), "image_size": e.image_size,
        }
    )  # fmt: skip
    assert (distance_labels(same) == one).float().mean() > 0.999


def test_padding_more_changes_nothing():
    e = _evidence([0, 2, 3], size=(70, 100))
    rows, columns = num_valid_cells(70, 8), num_valid_cells(100, 8)
    wide = torch.nn.functional.pad(e.semantic, (0, 24, 0, 8))
    wide[:, rows:], wide[:, :, columns:] = 1e3, -1e3
    far = torch.nn.functional.pad(e.embedding, (0, 24, 0, 8))
    more = _evidence([0, 2, 3], size=(70, 100), semantic=wide, embedding=far, grid=(48, 80))
    got, want = distance_labels(more), distance_labels(e)
    valid = e.valid_grid
    assert torch.equal(got[: valid[0], : valid[1]], want[: valid[0], : valid[1]])
    assert (got >= 0).sum() == (want >= 0).sum() > 0


@pytest.mark.parametrize("seed", range(4))
def test_a_mirrored_image_has_the_mirrored_label(seed):
    e = _evidence([0, 0, 1, 3, 4], size=(128, 192), seed=seed)
    mirrored = {k: getattr(e, k).flip(-1) for k in ("semantic", "embedding", "image")}
    coords = torch.stack([192 - e.coords[:, 0], e.coords[:, 1]], 1)
    other = _evidence([0, 0, 1, 3, 4], size=(128, 192), seed=seed, coords=coords, **mirrored)
    agree = distance_labels(e) == distance_labels(other).flip(-1)
    assert agree.float().mean() > 0.999


@pytest.mark.parametrize("seed", range(4))
def test_instances_and_points_may_come_in_any_order(seed):
    g = torch.Generator().manual_seed(seed)
    # A node each: instances that share one are equally far from everything, and the first wins.
    node = torch.randperm(6 * 8, generator=g)[:10]
    coords = 16.0 * torch.stack([node % 8, node // 8], 1) + 16 * torch.rand(10, 2, generator=g)
    e = _evidence([0, 0, 1, 3, 4], seed=seed, coords=coords)
    order = torch.randperm(5, generator=g)
    new_of_old = order.argsort()
    points = torch.randperm(10, generator=g)
    other = _evidence(
        e.classes[order].tolist(),
        seed=seed,
        coords=e.coords[points],
        index=new_of_old[e.index[points]],
    )
    got, want = distance_labels(other), distance_labels(e)
    moved = torch.where(want >= 0, new_of_old[want.clamp(min=0)].int(), -1)
    assert torch.equal(got, moved)


def _two_fields(**changes):
    """A blue and a red half of 96 x 96 px each, one class of things everywhere."""
    image = torch.zeros(3, 96, 192, dtype=torch.uint8)
    image[2, :, :96], image[0, :, 96:] = 200, 200
    fields = {
        "image": image,
        "semantic": torch.tensor([8.0, 0, 0, 0, 0])[:, None, None].expand(5, 16, 24),
        "embedding": None,
        # Near the border on the left, far from it on the right.
        "coords": torch.tensor([[88.0, 40.0], [180.0, 40.0]]),
    }
    return _evidence([0, 0], size=(96, 192), points=1, **(fields | changes))


def test_an_edge_parts_two_fields():
    """Every pixel right of the edge up to the middle is nearer to the left point as the crow flies,
    but the walk there leads over the edge."""
    labels = distance_labels(_two_fields())[:24, :48]
    assert (labels[:, :23] == 0).all() and (labels[:, 26:] == 1).all()
    flat = _two_fields(image=torch.full((3, 96, 192), 90, dtype=torch.uint8))
    assert not (distance_labels(flat)[:24, 26:48] == 1).all()


def test_embeddings_part_what_colours_do_not():
    grey = torch.full((3, 96, 192), 90, dtype=torch.uint8)
    embedding = torch.zeros(2, 16, 24)
    embedding[0, :, :12], embedding[1, :, 12:] = 1, 1
    labels = distance_labels(_two_fields(image=grey, embedding=embedding))[:24, :48]
    assert (labels[4:20, :22] == 0).all() and (labels[4:20, 27:] == 1).all()


def test_one_thing_alone_is_everywhere():
    labels = distance_labels(_evidence([1], size=(64, 64)))
    assert (labels == 0).all()


def test_stuff_alone_is_where_it_is_likely():
    """Its first instance, whichever points are whose; nothing below one half."""
    e = _evidence([3, 3, 4], size=(64, 64), spread=1.0)
    labels = distance_labels(e)
    p = torch.nn.functional.interpolate(e.semantic[None], (16, 16), mode="bilinear")[0].softmax(0)
    raster = rasterize_points(
        e.coords.numpy(), e.classes[e.index].numpy(), np.arange(5), 64, 64, 9, 64, 4
    )
    forced = torch.from_numpy(raster.instance_map)
    for label, instance in ((3, 0), (4, 2)):
        likely = torch.where(forced >= 0, forced == label, p[label] >= 0.5)
        clear = (p[label] - 0.5).abs() > 1e-3
        assert torch.equal((labels == instance)[clear], likely[clear])
    assert (labels == 1).sum() == 0 and (labels == -1).any()


def test_without_points_there_is_no_label():
    e = _evidence([0, 3], points=0)
    assert len(e.coords) == 0 and (distance_labels(e) == -1).all()
    none = _evidence([], points=1)
    assert (distance_labels(none) == -1).all()


def test_an_instance_without_points_gets_nothing():
    """Its class is there through another instance; it is ten away from everything."""
    e = _evidence([0, 0, 3], points=1)
    lost = _evidence([0, 0, 3], coords=e.coords[[0, 2]], index=e.index[[0, 2]])
    labels = distance_labels(lost)
    assert (labels == 0).any() and not (labels == 1).any()
    alone = _evidence([2, 0, 3], coords=e.coords[[1, 2]], index=e.index[[1, 2]])
    labels = distance_labels(alone)
    assert (labels == 1).any() and not (labels == 0).any()


@pytest.mark.parametrize("size", [(9, 12), (3, 40), (1, 1), (15, 170)])
def test_small_sides(size):
    e = _evidence([0, 2, 3], size=size, stride=1)
    labels = distance_labels(e)
    valid = e.valid_grid
    assert valid == size and (labels[: size[0], : size[1]].amax() >= 0)
    assert set(labels.unique().tolist()) <= {-1, 0, 1, 2}


def test_logits_that_are_not_finite_are_refused():
    e = _evidence([0, 1], semantic=torch.full((5, 16, 16), torch.nan))
    with pytest.raises(FloatingPointError, match="not finite"):
        distance_labels(e)
