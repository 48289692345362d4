"""Deformable attention against a loop over every sample."""

import math

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from fdd.modeling.layers import MSDeformAttn, deform_attn, ms_deform_attn

torch.set_num_threads(1)
SHAPES = ((3, 4), (2, 1), (1, 1))


def _bilinear(level, x, y):
    """Value at cell coordinates (x, y); cells off the map are zero. level: (h, w, d)."""
    h, w, dim = level.shape
    out = torch.zeros(dim, dtype=level.dtype)
    x0, y0 = math.floor(x), math.floor(y)
    for v in (y0, y0 + 1):
        for u in (x0, x0 + 1):
            if 0 <= v < h and 0 <= u < w:
                out += (1 - abs(x - u)) * (1 - abs(y - v)) * level[v, u]
    return out


def _loop(value, shapes, locations, weights):
    batch, _, heads, dim = value.shape
    queries, points = locations.shape[1], locations.shape[4]
    levels = value.split([h * w for h, w in shapes], dim=1)
    out = torch.zeros(batch, queries, heads, dim, dtype=value.dtype)
    for b in range(batch):
        for q in range(queries):
            for k in range(heads):
                for i, (h, w) in enumerate(shapes):
                    level = levels[i][b, :, k].view(h, w, dim)
                    for p in range(points):
                        x, y = locations[b, q, k, i, p].tolist()
                        sample = _bilinear(level, x * w - 0.5, y * h - 0.5)
                        out[b, q, k] += weights[b, q, k, i, p] * sample
    return out.flatten(2)


def _random_inputs(queries=3, heads=2, dim=2, points=2):
    torch.manual_seed(0)
    length = sum(h * w for h, w in SHAPES)
    value = torch.randn(2, length, heads, dim, dtype=torch.float64)
    # From -0.3 to 1.3: many samples lie on a border or outside.
    locations = torch.rand(2, queries, heads, len(SHAPES), points, 2, dtype=torch.float64)
    locations = locations * 1.6 - 0.3
    weights = torch.rand(2, queries, heads, len(SHAPES), points, dtype=torch.float64)
    return value, locations, weights


def test_equals_the_loop():
    value, locations, weights = _random_inputs()
    got = ms_deform_attn(value, SHAPES, locations, weights)
    torch.testing.assert_close(got, _loop(value, SHAPES, locations, weights))


def test_gradients_are_right():
    value, locations, weights = _random_inputs(queries=1)
    inputs = [t.requires_grad_() for t in (value, locations, weights)]
    assert torch.autograd.gradcheck(lambda v, x, w: ms_deform_attn(v, SHAPES, x, w), inputs)


def test_samples_far_outside_are_zero():
    value, locations, weights = _random_inputs()
    got = ms_deform_attn(value, SHAPES, locations + 10, weights)
    assert (got == 0).all()


def test_a_level_of_one_cell_is_read_at_its_centre():
    value = torch.tensor([[[[5.0]]]])
    centre = torch.full((1, 1, 1, 1, 1, 2), 0.5)
    weights = torch.ones(1, 1, 1, 1, 1)
    assert ms_deform_attn(value, ((1, 1),), centre, weights).item() == 5
    # Half a cell off the centre, the neighbour (nothing) has half of the weight.
    assert ms_deform_attn(value, ((1, 1),), torch.zeros_like(centre), weights).item() == 1.25


def _module(heads=2, points=2):
    torch.manual_seed(0)
    module = MSDeformAttn(dim=8, num_heads=heads, num_levels=len(SHAPES), num_points=points)
    torch.nn.init.normal_(module.attention_weights.weight)
    return module


def _tokens():
    torch.manual_seed(1)
    return torch.randn(2, sum(h * w for h, w in SHAPES), 8)


def test_values_on_padding_count_as_zero():
    module, tokens = _module(), _tokens()
    valid = torch.rand(tokens.shape[:2]) > 0.4
    query, reference = torch.randn(2, 5, 8), torch.rand(2, 5, len(SHAPES), 2)
    got = module(query, reference, tokens, SHAPES, valid)
    spoiled = tokens.masked_fill(~valid[..., None], 1e6)
    assert torch.equal(got, module(query, reference, spoiled, SHAPES, valid))
    nothing = module(query, reference, tokens, SHAPES, torch.zeros_like(valid))
    torch.testing.assert_close(nothing, module.output_proj.bias.expand_as(nothing))


@pytest.mark.parametrize("box", [False, True])
def test_where_the_module_samples(box):
    """Offsets are cells around points, and shares of half a side around boxes."""
    module, tokens = _module(heads=2, points=2), _tokens()
    valid = torch.ones(tokens.shape[:2], dtype=torch.bool)
    query = torch.randn(2, 3, 8)
    reference = torch.rand(2, 3, len(SHAPES), 4 if box else 2)
    got = module(query, reference, tokens, SHAPES, valid)

    # At the start, offsets are the bias: head 0 looks along +x, head 1 along -x, point k k cells.
    steps = torch.tensor([[[1.0, 0], [2, 0]], [[-1, 0], [-2, 0]]])  # (heads, points, 2)
    locations = torch.empty(2, 3, 2, len(SHAPES), 2, 2)
    for i, (h, w) in enumerate(SHAPES):
        centre = reference[:, :, i, :2][:, :, None, None]
        side = reference[:, :, i, 2:][:, :, None, None] if box else None
        move = steps * side / (2 * 2) if box else steps / torch.tensor([float(w), float(h)])
        locations[:, :, :, i] = centre + move
    weights = module.attention_weights(query).view(2, 3, 2, -1).softmax(-1)
    value = module.value_proj(tokens).view(2, -1, 2, 4)
    want = _loop(value.double(), SHAPES, locations, weights.view(2, 3, 2, 3, 2).double()).float()
    torch.testing.assert_close(got, module.output_proj(want), atol=1e-5, rtol=1e-4)


def test_first_offsets_are_rings_of_growing_radius():
    module = MSDeformAttn(dim=16, num_heads=8, num_levels=2, num_points=4)
    offsets = module.sampling_offsets.bias.detach().view(8, 2, 4, 2)
    radius = offsets.abs().amax(-1)
    torch.testing.assert_close(radius, torch.arange(1.0, 5).expand(8, 2, 4))
    directions = {tuple(d.round().int().tolist()) for d in offsets[:, 0, 0]}
    assert len(directions) == 8
    assert (module.sampling_offsets.weight == 0).all()


def _arguments():
    return torch.rand(1, 5, 8), torch.rand(1, 5, len(SHAPES), 2), _tokens()[:1], SHAPES, None


def test_fake_tensors_and_evaluation_leave_nothing_behind_for_training():
    """What is kept between calls (sizes of the levels) is a plain tensor, whoever came first."""
    module, arguments = _module(), _arguments()
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert isinstance(module(*_arguments()), FakeTensor)
    with torch.inference_mode():
        want = module(*arguments).clone()
    got = module(*arguments)
    got.sum().backward()
    assert type(got) is torch.Tensor and not got.is_inference()
    torch.testing.assert_close(got.detach(), torch.tensor(want.tolist()))


def test_autocast_keeps_places_in_single_precision(monkeypatch):
    module, arguments, seen = _module(), _arguments(), []
    plain = deform_attn.attention.ms_deform_attn

    def watch(value, shapes, locations, weights, backend):
        seen.append((value.dtype, locations.dtype, weights.dtype))
        return plain(value, shapes, locations, weights, backend)

    monkeypatch.setattr(deform_attn.attention, "ms_deform_attn", watch)
    want = module(*arguments)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = module(*arguments)
    got.float().sum().backward()
    assert seen[1] == (torch.bfloat16, torch.float32, torch.float32)
    torch.testing.assert_close(got.float(), want, atol=0.05, rtol=0.05)
    assert all(p.grad.isfinite().all() for p in module.parameters())
