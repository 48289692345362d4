"""Instance queries: the maximum over an instance's own dilated cells."""

import pytest
import torch
import torch.nn.functional as F

from fdd.modeling.label_branch.query_generator import QueryGenerator
from fdd.modeling.structures import batch_points
from modeling_toys import toy_input, toy_memory

torch.set_num_threads(1)
CPU = torch.device("cpu")


def _generator(**changes):
    torch.manual_seed(0)
    return QueryGenerator(**({"dim": 16} | changes))


def _batch(*inputs, padded=(64, 64)):
    return batch_points(list(inputs), padded, CPU)


def test_maximum_over_own_cells_by_hand():
    generator = _generator()
    x, y = toy_input(64, 64, [0, 1, 4], seed=1), toy_input(40, 64, [2], seed=2)
    memory, points = toy_memory([(64, 64), (40, 64)], (64, 64)), _batch(x, y)
    feature = generator.project(memory)
    got = generator(memory, points)
    assert got.shape == (2, 3, 16)
    for b, image in enumerate((x, y)):
        for n in range(len(image["classes"])):
            cells = [(r, c) for i, r, c in image["point_cells"].tolist() if i == n]
            want = torch.stack([feature[b, :, r, c] for r, c in cells]).amax(0)
            assert torch.equal(got[b, n], want)
    assert (got[1, 1:] == 0).all()


def test_a_maximum_can_be_negative():
    """Cells of others, and the fill of the pooling, must not win over negative features."""
    generator = _generator()
    torch.nn.init.zeros_(generator.proj[2].weight)
    torch.nn.init.constant_(generator.proj[2].bias, -3.0)
    memory = toy_memory([(64, 64)], (64, 64))
    assert (generator(memory, _batch(toy_input(64, 64, [0, 1]))) == -3).all()


def test_instances_may_share_cells():
    x = toy_input(64, 64, [0, 1], points=1)
    x["point_cells"] = torch.tensor([[0, 2, 3], [0, 2, 4], [1, 2, 3]])
    generator, memory = _generator(), toy_memory([(64, 64)], (64, 64))
    feature = generator.project(memory)[0]
    got = generator(memory, _batch(x))[0]
    assert torch.equal(got[1], feature[:, 2, 3])
    assert torch.equal(got[0], torch.maximum(feature[:, 2, 3], feature[:, 2, 4]))


def test_an_image_without_points_keeps_the_projection_in_the_graph():
    generator = _generator(norm="LN")
    memory = toy_memory([(64, 64)], (64, 64))
    got = generator(memory, _batch(toy_input(64, 64, [])))
    assert got.shape == (1, 1, 16)
    got.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in generator.parameters())


def test_projection_is_two_convolutions_of_the_summed_levels():
    generator, memory = _generator(), toy_memory([(64, 64)], (64, 64))
    flat = memory.tokens + memory.pos
    maps = memory.split(flat.transpose(1, 2))
    summed = maps[0]
    for level in maps[1:3]:  # the fourth level is not used
        summed = summed + F.interpolate(level, size=(8, 8), mode="bilinear")
    first, second = generator.proj[0], generator.proj[2]
    want = second(first(summed).relu())
    torch.testing.assert_close(generator.project(memory), want)
    assert first.kernel_size == second.kernel_size == (1, 1)


@pytest.mark.parametrize(
    "changes",
    [{"features": "level0"}, {"add_pos": False}, {"kernel": 3}, {"norm": "LN"}],
)
def test_variants_differ_from_the_default(changes):
    memory, points = toy_memory([(64, 64)], (64, 64)), _batch(toy_input(64, 64, [0, 1]))
    got, default = _generator(**changes)(memory, points), _generator()(memory, points)
    assert got.shape == default.shape and not torch.allclose(got, default)


def test_a_level0_generator_reads_nothing_else():
    generator = _generator(features="level0", add_pos=False)
    memory = toy_memory([(64, 64)], (64, 64))
    want = generator.project(memory)
    memory.tokens[:, 64:] = 99
    memory.pos[:] = 99
    assert torch.equal(generator.project(memory), want)


def test_an_embedding_does_not_look_at_the_image():
    generator = _generator(source="embedding2d", embedding_size=(3, 5))
    points = _batch(toy_input(64, 64, [0, 1]))
    a = generator(toy_memory([(64, 64)], (64, 64), seed=1), points)
    b = generator(toy_memory([(64, 64)], (64, 64), seed=2), points)
    assert torch.equal(a, b)
    a.sum().backward()
    assert [n for n, _ in generator.named_parameters()] == ["embedding"]
    assert generator.embedding.grad.abs().sum() > 0


def test_an_embedding_is_resized_to_each_image_without_its_padding():
    generator = _generator(source="embedding2d", embedding_size=(3, 5))
    with torch.no_grad():
        got = generator.project(toy_memory([(64, 64), (40, 52)], (64, 96)))
        for image, (rows, columns) in zip(got, [(8, 8), (5, 6)], strict=True):
            want = F.interpolate(generator.embedding, size=(rows, columns), mode="bilinear")[0]
            torch.testing.assert_close(image[:, :rows, :columns], want)
    assert got.shape == (2, 16, 8, 12) and got.isfinite().all()


@pytest.mark.parametrize("changes", [{}, {"source": "embedding2d", "embedding_size": (3, 5)}])
def test_padding_does_not_matter(changes):
    sizes, x, y = [(64, 64), (40, 52)], toy_input(64, 64, [0, 1]), toy_input(40, 52, [2], seed=3)
    generator = _generator(**changes)
    near = generator(toy_memory(sizes, (64, 64)), _batch(x, y))
    far = generator(toy_memory(sizes, (128, 192)), _batch(x, y, padded=(128, 192)))
    torch.testing.assert_close(near, far)
