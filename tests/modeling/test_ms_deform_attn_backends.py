"""Every implementation of deformable attention against the textbook form, and who chooses."""

from __future__ import annotations

import pytest
import torch

from fdd.modeling.layers import MSDeformAttn, ms_deform_attn
from fdd.modeling.layers.deform_attn import (
    BackendError,
    attention_backend_names,
    backends,
    check_backend,
    compiled,
    register_attention_backend,
    sparse,
)

from modeling_toys import small_model, toy_input, total  # isort: skip
from detectron2.utils.events import EventStorage

torch.set_num_threads(1)
SHAPES = ((6, 5), (3, 4), (1, 1))


@pytest.fixture(autouse=True)
def _forget():
    """Choices are made and told once a process; here, once a test."""
    caches = (backends._announce, backends._trouble_with_triton, compiled.compiled_arithmetic)
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


@pytest.fixture
def eager_compiler(monkeypatch):
    """``torch.compile`` that traces, and then runs what it traced: seconds instead of a minute."""
    plain = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, **o: plain(f, backend="eager", **o))
    yield
    torch._dynamo.reset()


def inputs(batch=2, queries=7, heads=2, dim=4, points=2, shapes=SHAPES, spread=1.4, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.rand(shape, generator=generator, dtype=torch.float64)

    value = draw(batch, sum(h * w for h, w in shapes), heads, dim) - 0.5
    locations = (draw(batch, queries, heads, len(shapes), points, 2) - 0.5) * spread + 0.5
    weights = draw(batch, queries, heads, len(shapes), points)
    return [x.requires_grad_() for x in (value, locations, weights)]


def run(backend, tensors, shapes=SHAPES):
    """Output and the three gradients."""
    value, locations, weights = tensors
    out = ms_deform_attn(value, shapes, locations, weights, backend)
    seed = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
    return [out.detach(), *torch.autograd.grad(out, tensors, seed)]


def assert_equal(got, want, tolerance=1e-10):
    for a, b in zip(got, want, strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("blocks", [1, 100, 1 << 20])
@pytest.mark.parametrize("size", [{}, {"batch": 1, "queries": 1}, {"heads": 3, "points": 1}])
def test_sparse_products_equal_the_reference(monkeypatch, blocks, size):
    monkeypatch.setattr(sparse, "_CPU_BLOCK", blocks)
    tensors = inputs(**size)
    assert_equal(run("torch", tensors), run("reference", tensors))


def test_sparse_products_pass_gradcheck():
    tensors = inputs(batch=1, queries=2, dim=2, spread=1.1)
    assert torch.autograd.gradcheck(lambda *t: ms_deform_attn(t[0], SHAPES, *t[1:]), tensors)


def test_samples_far_outside_give_nothing():
    tensors = inputs()
    with torch.no_grad():
        tensors[1].add_(torch.tensor([3.0, -1e12], dtype=torch.float64))
    for backend in ("torch", "reference"):
        out, *grads = run(backend, tensors)
        assert (out == 0).all() and all((g == 0).all() for g in grads)


@pytest.mark.parametrize("backend", ["torch", "reference"])
def test_no_queries(backend):
    tensors = inputs(queries=0)
    out, d_value, d_locations, _ = run(backend, tensors)
    assert out.shape == (2, 0, 8) and (d_value == 0).all() and d_locations.numel() == 0


def test_tensors_that_are_not_contiguous():
    tensors = inputs()
    strange = [
        x.detach().transpose(0, 1).contiguous().transpose(0, 1).requires_grad_() for x in tensors
    ]
    assert not any(x.is_contiguous() for x in strange)
    assert_equal(run("torch", strange), run("torch", tensors))


def test_single_precision_is_close_to_double():
    tensors = inputs(queries=50)
    single = [x.detach().float().requires_grad_() for x in tensors]
    for a, b in zip(run("torch", single), run("reference", tensors), strict=True):
        error = (a.double() - b).abs() > 1e-4 * b.abs().max()
        # A sample on the border of a cell may fall to either side of it.
        assert a.dtype == torch.float32 and error.float().mean() < 1e-3


def test_sixteen_bit_values_keep_their_type():
    value, locations, weights = (x.detach().float() for x in inputs())
    half = value.bfloat16().requires_grad_()
    out = ms_deform_attn(half, SHAPES, locations, weights)
    out.float().sum().backward()
    assert out.dtype == half.grad.dtype == torch.bfloat16
    want = ms_deform_attn(half.detach().float(), SHAPES, locations, weights)
    torch.testing.assert_close(out.float(), want, atol=1e-2, rtol=1e-2)


def test_the_sorted_product_equals_scipys_and_repeats_itself():
    generator = torch.Generator().manual_seed(0)
    columns = torch.randint(0, 9, (20, 8), generator=generator, dtype=torch.int32)
    entries, grad = torch.rand(20, 8, generator=generator), torch.rand(20, 5, generator=generator)
    want = sparse.transposed_product(columns, entries, grad, 11)
    got = sparse.sorted_transposed_product(columns, entries, grad, 11)
    torch.testing.assert_close(got, want)
    assert torch.equal(got, sparse.sorted_transposed_product(columns, entries, grad, 11))
    assert (got[9:] == 0).all()


def test_only_the_inputs_are_kept():
    tensors, kept = inputs(), set()
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: kept.add(t.data_ptr()) or t, lambda t: t
    ):
        ms_deform_attn(tensors[0], SHAPES, *tensors[1:])
    assert kept == {t.data_ptr() for t in tensors}


def test_one_operator_that_keeps_pytorchs_rules():
    tensors = inputs(queries=3)
    arguments = (*tensors, [side for shape in SHAPES for side in shape], "torch")
    torch.library.opcheck(torch.ops.fdd.ms_deform_attn.default, arguments)


def test_one_operator_in_a_compiled_graph():
    graphs = []

    def keep(graph, _):
        graphs.append(graph)
        return graph.forward

    attend = torch.compile(
        lambda *t: ms_deform_attn(t[0], SHAPES, *t[1:]), backend=keep, fullgraph=True
    )
    tensors = [x.detach() for x in inputs()]
    torch.testing.assert_close(attend(*tensors), ms_deform_attn(tensors[0], SHAPES, *tensors[1:]))
    calls = [n.target for n in graphs[0].graph.nodes if n.op == "call_function"]
    assert [c for c in calls if "fdd" in str(c)] == [torch.ops.fdd.ms_deform_attn]
    assert not any("grid" in str(c) for c in calls)
    torch._dynamo.reset()


def test_a_location_that_is_no_number_reads_no_foreign_memory():
    tensors = inputs()
    with torch.no_grad():
        tensors[1][0, 0] = float("nan")
    out, _, _, d_weights = run("torch", tensors)
    assert out[0, 0].isnan().all() and d_weights[0, 0].isnan().all()
    clean = inputs()
    want = ms_deform_attn(clean[0], SHAPES, *clean[1:])
    torch.testing.assert_close(out[1], want[1])
    torch.testing.assert_close(out[0, 1:], want[0, 1:])


def test_the_meta_device_gets_shapes():
    tensors = [x.detach().to("meta").requires_grad_() for x in inputs()]
    out = ms_deform_attn(tensors[0], SHAPES, *tensors[1:])
    out.sum().backward()
    assert out.shape == (2, 7, 8) and tensors[1].grad.shape == tensors[1].shape


class TestCompiled:
    def test_equals_the_reference(self, eager_compiler):
        for size in ({}, {"queries": 3, "batch": 1}):
            tensors = inputs(**size)
            assert_equal(run("compiled", tensors), run("reference", tensors))

    def test_goes_on_in_plain_form_past_the_limit_of_kernels(self, eager_compiler, monkeypatch):
        monkeypatch.setattr(torch._dynamo.config, "recompile_limit", 1)
        monkeypatch.setattr(sparse, "_CPU_BLOCK", 100)  # some blocks of all heads, some of one
        for size in ({}, {"queries": 60}, {"batch": 1, "queries": 1, "heads": 1, "points": 1}):
            tensors = inputs(**size)
            assert_equal(run("compiled", tensors), run("reference", tensors))

    def test_without_a_compiler_it_says_so(self, monkeypatch):
        def broken(*args, **options):
            def call(*_):
                raise RuntimeError("Failed to find C++ compiler\nand much more")

            return call

        monkeypatch.setattr(torch, "compile", broken)
        with pytest.raises(BackendError, match=r"'compiled' cannot run.*Failed to find C"):
            check_backend("compiled", "cpu")

    def test_wrong_results_are_found_out(self, monkeypatch):
        def twisted(function, **options):
            return lambda *args: tuple(x + 1 for x in function(*args))

        monkeypatch.setattr(torch, "compile", twisted)
        with pytest.raises(BackendError, match="other results"):
            check_backend("compiled", "cpu")

    def test_is_for_the_cpu(self):
        with pytest.raises(BackendError, match="for the CPU, not cuda"):
            check_backend("compiled", "cuda")


class TestChoice:
    def test_the_log_names_the_backend_once(self, caplog):
        tensors = inputs()
        for _ in range(3):
            run("auto", tensors)
        run("reference", tensors)
        lines = [r.getMessage() for r in caplog.records if "attention runs as" in r.getMessage()]
        assert len(lines) == 2 and "'torch'" in lines[0] and "'reference'" in lines[1]

    def test_triton_needs_a_gpu(self):
        with pytest.raises(BackendError, match=r"needs an NVIDIA GPU.*ATTENTION_BACKEND"):
            check_backend("triton", "cpu")
        with pytest.raises(BackendError, match="needs an NVIDIA GPU"):
            run("triton", inputs())

    def test_unknown_names(self):
        with pytest.raises(BackendError, match="'cuda'; allowed: 'auto'"):
            check_backend("cuda", "cpu")
        assert attention_backend_names() == ["auto", "reference", "torch", "compiled", "triton"]

    def test_a_users_backend(self, monkeypatch):
        monkeypatch.setattr(backends, "_BACKENDS", dict(backends._BACKENDS))

        @register_attention_backend("mine")
        def mine(call, backward):
            assert call.dim == 4 and call.device.type == "cpu"
            return backends.Backend("mine", lambda *args: 2 * sparse.forward(*args))

        value, locations, weights = (x.detach() for x in inputs())
        mine_, torch_ = (
            ms_deform_attn(value, SHAPES, locations, weights, n) for n in ("mine", "torch")
        )
        assert torch.equal(mine_, 2 * torch_)
        with pytest.raises(ValueError, match="'mine' is already registered"):
            register_attention_backend("mine")(mine)

    def test_kernels_that_are_wrong_are_found_out(self):
        good = sparse.forward, sparse.backward
        call = backends.Call(torch.float32, torch.device("cpu"), 8, 3, 2)
        assert backends.compare_with_reference(*good, call) is None

        def wrong(*args):
            return good[0](*args) * 1.01

        def spoilt(*args):
            value, locations, weights = good[1](*args)
            return value, locations * float("nan"), weights

        assert "output is 1.0e-02 off" in backends.compare_with_reference(wrong, good[1], call)
        message = backends.compare_with_reference(good[0], spoilt, call)
        assert "d locations is nan off" in message

    def test_gpu_tensors_get_triton_or_the_deterministic_form(self, monkeypatch):
        value, _, weights = (x.detach().float().to("meta") for x in inputs())
        monkeypatch.setattr(
            torch.Tensor, "device", property(lambda self: torch.device("cuda")), raising=False
        )
        monkeypatch.setattr(backends, "_trouble_with_triton", lambda *a: "it is broken")
        assert backends.choose("auto", value, weights).name == "torch"
        with pytest.raises(BackendError, match="it is broken"):
            backends.choose("triton", value, weights)
        pytest.importorskip("triton")
        monkeypatch.setattr(backends, "_trouble_with_triton", lambda *a: None)
        assert backends.choose("auto", value, weights).name == "triton"
        torch.use_deterministic_algorithms(True)
        try:
            assert backends.choose("auto", value, weights, backward=True).name == "torch"
            assert backends.choose("auto", value, weights).name == "triton"
        finally:
            torch.use_deterministic_algorithms(False)

    def test_the_key_reaches_every_layer(self):
        losses = []
        for name in ("torch", "reference"):
            model = small_model({"ATTENTION_BACKEND": name})
            layers = [m for m in model.modules() if isinstance(m, MSDeformAttn)]
            assert len(layers) == 3 and {m.backend for m in layers} == {name}
            with EventStorage(1):
                losses.append(total(model([toy_input(64, 64, [0, 1, 3])])).item())
        assert losses[0] == pytest.approx(losses[1], rel=1e-5)

    def test_a_backend_that_cannot_run_is_refused_at_start_up(self):
        with pytest.raises(BackendError, match="'triton' cannot run"):
            small_model({"ATTENTION_BACKEND": "triton"})
