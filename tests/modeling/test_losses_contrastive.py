"""InfoNCE of points against regions: a loop in float64, and the cases at the edge."""

import math

import pytest
import torch

from fdd.modeling.losses import LabelledCells, region_info_nce

torch.set_num_threads(1)


def _inputs(block=2, seed=0, queries=9):
    g = torch.Generator().manual_seed(seed)
    embedding = torch.randn(2, 4, 3, 5, generator=g, dtype=torch.float64)
    embedding = embedding / embedding.norm(dim=1, keepdim=True)
    regions = torch.randint(-1, 4, (2, 3 * block, 5 * block), generator=g)
    valid = torch.tensor([[True, True, True, True], [True, False, True, False]])
    # Labels of places that are no key of the image do not happen; make them nobody's.
    regions[1][(regions[1] == 1) | (regions[1] == 3)] = -1
    image = torch.randint(0, 2, (queries,), generator=g)
    label = torch.where(image == 0, torch.randint(0, 4, (queries,), generator=g), 2 * (image > 0))
    cells = LabelledCells(
        image,
        torch.randint(0, 3, (queries,), generator=g),
        torch.randint(0, 5, (queries,), generator=g),
        label,
    )
    return embedding, cells, regions, valid


def _reference(embedding, cells, regions, valid, normalizer, temperature=0.07):
    total, block = 0.0, regions.shape[1] // embedding.shape[2]
    for b in range(len(embedding)):
        keys = {}
        for k in range(valid.shape[1]):
            members = [
                embedding[b, :, v // block, u // block]
                for v in range(regions.shape[1])
                for u in range(regions.shape[2])
                if regions[b, v, u] == k
            ]
            if valid[b, k]:
                zero = torch.zeros(embedding.shape[1], dtype=embedding.dtype)
                keys[k] = torch.stack(members).mean(0) if members else zero
        losses = []
        for i, v, u, k in zip(*(t.tolist() for t in cells), strict=True):
            if i == b:
                query = embedding[b, :, v, u]
                scores = {n: (query @ key) / temperature for n, key in keys.items()}
                every = torch.stack(list(scores.values()))
                losses.append(every.logsumexp(0) - scores[k])
        if losses:
            total = total + torch.stack(losses).mean()
    return total / max(normalizer, 1)


@pytest.mark.parametrize("block", [1, 2, 4])
@pytest.mark.parametrize("normalizer", [0, 1, 3])
def test_equals_a_loop_with_its_gradient(block, normalizer):
    embedding, cells, regions, valid = _inputs(block, seed=block)
    results = []
    for loss in (region_info_nce, _reference):
        leaf = embedding.clone().requires_grad_()
        value = loss(leaf, cells, regions, valid, normalizer)
        results.append((value, torch.autograd.grad(value, leaf)[0]))
    torch.testing.assert_close(results[0][0], results[1][0])
    torch.testing.assert_close(results[0][1], results[1][1])
    assert results[0][1].abs().sum() > 0


def test_known_values():
    """Two regions of opposite vectors: every query is as near to its key as can be."""
    embedding = torch.tensor([1.0, 1.0, -1.0, -1.0]).view(1, 1, 1, 4)
    regions = torch.tensor([[[0, 0, 1, 1]]])
    cells = LabelledCells(*torch.tensor([[0, 0], [0, 0], [0, 3], [0, 1]]))
    valid = torch.ones(1, 2, dtype=torch.bool)
    got = region_info_nce(embedding, cells, regions, valid, 1, temperature=0.5)
    assert got.item() == pytest.approx(math.log(1 + math.exp(-4)), abs=1e-6)
    # A third key of zeros: similarity 0.
    valid = torch.ones(1, 3, dtype=torch.bool)
    got = region_info_nce(embedding, cells, regions, valid, 1, temperature=0.5)
    assert got.item() == pytest.approx(math.log(1 + math.exp(-4) + math.exp(-2)), abs=1e-6)


def test_temperature_is_psps():
    embedding, cells, regions, valid = _inputs()
    default = region_info_nce(embedding, cells, regions, valid, 2)
    given = region_info_nce(embedding, cells, regions, valid, 2, temperature=0.07)
    assert default == given


def test_points_of_an_image_count_together_and_images_alike():
    """A query given twice in one image does not weigh on the other image."""
    embedding, cells, regions, valid = _inputs()
    alone = [
        region_info_nce(
            embedding, LabelledCells(*(t[cells.image == b] for t in cells)), regions, valid, 2
        )
        for b in (0, 1)
    ]
    both = region_info_nce(embedding, cells, regions, valid, 2)
    torch.testing.assert_close(both, alone[0] + alone[1])
    twice = LabelledCells(*(torch.cat([t[cells.image == 0], t]) for t in cells))
    torch.testing.assert_close(region_info_nce(embedding, twice, regions, valid, 2), both)


def test_one_key_alone_is_no_contrast():
    embedding, cells, regions, _ = _inputs()
    own = LabelledCells(*(t[cells.image == 1] for t in cells))
    valid = torch.tensor([[True] * 4, [False, False, True, False]])
    leaf = embedding.clone().requires_grad_()
    loss = region_info_nce(leaf, own, regions, valid, 1)
    loss.backward()
    assert loss == 0 and (leaf.grad == 0).all()


def test_without_queries_it_is_zero_but_attached():
    embedding, cells, regions, valid = _inputs()
    leaf = embedding.clone().requires_grad_()
    none = LabelledCells(*(t[:0] for t in cells))
    loss = region_info_nce(leaf, none, torch.full_like(regions, -1), valid & False, 0)
    loss.backward()
    assert loss == 0 and (leaf.grad == 0).all()


def test_half_precision_is_computed_in_float32():
    embedding, cells, regions, valid = _inputs()
    got = region_info_nce(embedding.bfloat16(), cells, regions, valid, 2)
    want = region_info_nce(embedding.bfloat16().double(), cells, regions, valid, 2)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(2, 5, 10), (2, 6, 15), (1, 6, 10), (2, 1, 2)])
def test_regions_must_fit(shape):
    embedding, cells, _, valid = _inputs()
    with pytest.raises(ValueError, match="whole number"):
        region_info_nce(embedding, cells, torch.zeros(shape, dtype=torch.long), valid, 1)
