"""The counter, against costs worked out by hand on small models."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fdd.profiling import OUTSIDE, StepCost, count_step

B, L, D, E = 2, 6, 8, 16
FLOAT = 4


class Chain(nn.Module):
    """Two parts, one after the other, and a loss outside of them."""

    def __init__(self, first: nn.Module, second: nn.Module):
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x)).square().sum()


CHAIN_PARTS = {"first": "first", "second": "second"}


def chain(first: nn.Module, second: nn.Module, shape: tuple[int, ...], **kwargs: Any) -> StepCost:
    model = Chain(first, second).to("meta")
    x = torch.empty(shape, device="meta")
    return count_step(model, lambda: model(x), parts=CHAIN_PARTS, **kwargs)


def ops_of(cost: StepCost, part: str, backward: bool) -> list[str]:
    return [o.op for o in cost.costs if o.part == part and o.backward == backward]


def test_linear_layers_cost_what_their_shapes_say() -> None:
    rows = B * L
    cost = chain(nn.Linear(D, E), nn.Linear(E, D), (rows, D))
    parts = cost.by_part()
    product = 2 * rows * D * E
    # The first layer's input needs no gradient: forward and weight gradient; the second has three.
    assert parts["first"]["flops"] == 2 * product
    assert parts["second"]["flops"] == 3 * product
    weight, small, large = D * E * FLOAT, rows * D * FLOAT, rows * E * FLOAT
    forward = small + weight + E * FLOAT + large
    # Backward: weight gradient from input and output gradient, bias gradient by a sum.
    backward = (large + small + weight) + (large + E * FLOAT)
    assert parts["first"]["moved"] == forward + backward
    assert parts["first"]["kernels"] == 3
    # x is an input and not made by the step; the second layer keeps its input.
    assert parts["first"]["saved"] == 0
    assert parts["second"]["saved"] == large
    # square: keeps its input, which the second layer made.
    assert parts[OUTSIDE]["saved"] == small


def test_parts_sum_to_the_total() -> None:
    cost = chain(nn.Sequential(nn.Linear(D, E), nn.GELU()), nn.Linear(E, D), (L, D))
    parts = cost.by_part()
    total = parts.pop("total")
    for key, value in total.items():
        assert value == sum(row[key] for row in parts.values())
        assert value > 0
    assert total["moved"] == cost.sum().moved


def test_the_backward_pass_of_a_part_belongs_to_the_part() -> None:
    cost = chain(nn.Sequential(nn.Linear(D, E), nn.Tanh()), nn.Sigmoid(), (L, D))
    assert "tanh_backward" in ops_of(cost, "first", True)
    assert "mm" in ops_of(cost, "first", True)
    assert ops_of(cost, "second", True) == ["sigmoid_backward"]
    assert ops_of(cost, "second", False) == ["sigmoid"]
    assert ops_of(cost, OUTSIDE, False) == ["pow", "sum"]


def test_convolutions_count_every_tap_and_both_gradients() -> None:
    cost = chain(nn.Conv2d(3, 5, 3, padding=1), nn.Conv2d(5, 7, 1), (B, 3, 8, 9))
    parts = cost.by_part()
    first, second = 2 * B * 5 * 8 * 9 * 3 * 9, 2 * B * 7 * 8 * 9 * 5
    assert parts["first"]["flops"] == 2 * first
    assert parts["second"]["flops"] == 3 * second


class Attention(nn.Module):
    def __init__(self, use_checkpoint: bool = False, mask: Tensor | None = None) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.use_checkpoint, self.mask = use_checkpoint, mask

    def attend(self, q: Tensor) -> Tensor:
        return F.dropout(F.scaled_dot_product_attention(q, q, q, self.mask), 0.1)

    def forward(self, x: Tensor) -> Tensor:
        q = x * self.scale
        return (
            checkpoint(self.attend, q, use_reentrant=False)
            if self.use_checkpoint
            else (self.attend(q))
        )


def test_attention_is_one_kernel_that_keeps_no_matrix() -> None:
    heads, length, dim = 2, 64, 8
    cost = chain(Attention(), nn.Identity(), (B, heads, length, dim))
    row = cost.by_part()["first"]
    product = 2 * B * heads * length * length * dim
    assert row["flops"] == 2 * product + 5 * product
    tokens = B * heads * length * dim * FLOAT
    matrix = B * heads * length * length * FLOAT
    assert row["saved"] < 2 * tokens + matrix / 2
    assert all(output.numel < matrix / FLOAT for output in cost.largest)
    assert not F.scaled_dot_product_attention.__module__.startswith("fdd")
    assert not F.dropout.__module__.startswith("fdd")


def test_attention_and_dropout_stay_fused_when_a_checkpoint_recomputes_them() -> None:
    shape = (B, 2, 64, 8)
    mask = torch.ones(B, 1, 64, 64, dtype=torch.bool, device="meta")
    plain = chain(Attention(mask=mask), nn.Identity(), shape).by_part()["first"]
    saving = chain(Attention(True, mask), nn.Identity(), shape).by_part()["first"]
    product = 2 * B * 2 * 64 * 64 * 8
    assert saving["flops"] == plain["flops"] + 2 * product
    assert saving["saved"] < plain["saved"]


class Checkpointed(nn.Module):
    def __init__(self, use: bool):
        super().__init__()
        self.use = use
        self.inner = nn.Sequential(nn.Linear(D, E), nn.Tanh(), nn.Linear(E, D))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.inner[0].bias[0]
        return checkpoint(self.inner, x, use_reentrant=False) if self.use else self.inner(x)


def test_checkpointing_saves_bytes_and_repeats_flops_in_its_own_part() -> None:
    plain = chain(Checkpointed(False), nn.Identity(), (L, D)).by_part()
    saving = chain(Checkpointed(True), nn.Identity(), (L, D)).by_part()
    small, large = L * D * FLOAT, L * E * FLOAT
    assert plain["first"]["saved"] == small + large  # input of the first, output of tanh
    assert saving["first"]["saved"] == small
    # The whole inner forward pass, but for the last operator, whose result nobody needs.
    again = saving["first"]["flops"] - plain["first"]["flops"]
    assert again in (2 * L * D * E, 4 * L * D * E)
    assert saving["second"] == plain["second"] and saving[OUTSIDE] == plain[OUTSIDE]


class SaveTwo(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        a, b = x * 2, x * 3
        ctx.save_for_backward(a, b)
        return a + b

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        a, b = ctx.saved_tensors
        return grad * a + b


class Own(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(D))

    def forward(self, x: Tensor) -> Tensor:
        return SaveTwo.apply(x + self.shift)


def test_a_custom_function_saves_and_works_in_its_part() -> None:
    cost = chain(Own(), nn.Identity(), (L, D))
    row, size = cost.by_part()["first"], L * D * FLOAT
    assert row["saved"] == 2 * size
    backward = ops_of(cost, "first", True)
    assert backward.count("mul") == 1 and backward.count("add") == 1


def test_expanded_tensors_views_and_empty_allocations_cost_nothing() -> None:
    weight = nn.Parameter(torch.ones(4, device="meta"))
    module = nn.Module()
    module.weight = weight

    def forward() -> Tensor:
        wide = weight.expand(1000, 4)
        torch.empty(10, device="meta")
        return (wide.view(10, 100, 4)[0] * 1.0)[0].sum()

    cost = count_step(module, forward, parts={})
    forward_ops = {o.op: c for o, c in cost.costs.items() if not o.backward}
    assert set(forward_ops) == {"mul", "sum"}
    assert forward_ops["mul"].moved == (4 + 100 * 4) * FLOAT


def test_look_ups_and_scatters_touch_what_they_use() -> None:
    table = nn.Embedding(10_000, 4, device="meta")
    index = torch.zeros(3, dtype=torch.long, device="meta")
    cost = count_step(table, lambda: table(index).sum(), parts={})
    assert cost.costs and all(c.moved < 200 for o, c in cost.costs.items() if o.op == "embedding")


def test_the_peak_holds_what_is_alive_at_once() -> None:
    size = 1000 * FLOAT
    module = nn.Module()
    module.weight = nn.Parameter(torch.ones(1000, device="meta"))

    def forward() -> Tensor:
        x = module.weight.exp()  # kept by exp
        y = x.detach() + 1
        z = y * 2  # two without gradient: alive together with x, then gone
        del y, z
        return x.sum()

    cost = count_step(module, forward, parts={})
    assert cost.peak == 3 * size
    assert cost.saved_by() == size
    assert cost.kept == size + FLOAT


def sync_of(forward: Any) -> list[tuple[str, str]]:
    module = nn.Module()
    module.weight = nn.Parameter(torch.ones(4, device="meta"))
    cost = count_step(module, lambda: forward(module.weight).sum(), parts={})
    assert all("test_counter" in wait.line for wait in cost.waits)
    return [(wait.why, wait.op) for wait in cost.waits]


@pytest.mark.parametrize(
    ("forward", "expected"),
    [
        (lambda w: w * 2, []),
        (lambda w: w * w.sum().item(), [("data-dependent", "_local_scalar_dense")]),
        (lambda w: w if w.sum() > 0 else -w, [("data-dependent", "_local_scalar_dense")]),
        (lambda w: w * float(w.detach().cpu().sum()), [("to host", "_to_copy")]),
        (lambda w: w * torch.tensor([1.0], device="meta"), [("to device", "lift_fresh")]),
        (lambda w: w * w.new_tensor([1.0]), [("to device", "lift_fresh")]),
        (lambda w: w * torch.ones(4).to("meta"), [("to device", "_to_copy")]),
        (lambda w: w * torch.ones(4).to("meta", non_blocking=True), []),
        (lambda w: w * torch.ones(4, device="meta").copy_(torch.ones(4)), [("to device", "copy_")]),
        (lambda w: w + w.detach()[torch.zeros(4, dtype=torch.long)], [("to device", "index")]),
        (lambda w: w[torch.zeros(2, dtype=torch.long, device="meta")], []),
        (lambda w: w.masked_fill(w > 0, 0.0), []),
    ],
)
def test_waits_of_the_host_are_found(forward: Any, expected: list[tuple[str, str]]) -> None:
    assert sync_of(forward) == expected


@pytest.mark.parametrize(
    "forward", [lambda w: w[w > 0], lambda w: w[w.nonzero()[:, 0]], lambda w: w.unique()]
)
def test_waits_are_found_on_the_cpu_too(forward: Any) -> None:
    module = nn.Module()
    module.weight = nn.Parameter(torch.ones(4))
    cost = count_step(module, lambda: forward(module.weight.detach()).sum() + module.weight.sum())
    assert [wait.why for wait in cost.waits] == ["data-dependent"]


def test_cpu_and_meta_count_the_same() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(D, E), nn.ReLU(), nn.Linear(E, 1))
    parts = {"in": "0", "out": "2"}
    on_cpu = count_step(model, lambda: model(torch.ones(L, D)).sum(), parts=parts)
    model.to("meta")
    on_meta = count_step(model, lambda: model(torch.ones(L, D, device="meta")).sum(), parts=parts)
    assert on_cpu.by_part() == on_meta.by_part()
    # Only the CPU is done with an operator when it returns.
    assert on_cpu.seconds_of() > on_cpu.seconds_of("in") > 0 == on_meta.seconds_of()
    assert " ms " in on_cpu.table() and " ms " not in on_meta.table()
    assert "mm" in on_cpu.hot("op", "seconds")


def test_gradients_are_left_as_asked() -> None:
    model = nn.Linear(D, 1, device="meta")
    x = torch.empty(L, D, device="meta")
    count_step(model, lambda: model(x).sum())
    assert model.weight.grad is None
    first = count_step(model, lambda: model(x).sum(), keep_grads=True)
    second = count_step(model, lambda: model(x).sum(), keep_grads=True)
    assert model.weight.grad is not None
    assert second.sum().kernels > first.sum().kernels  # now they are added up


def test_a_model_without_parameters_is_refused() -> None:
    with pytest.raises(ValueError, match="no parameters"):
        count_step(nn.Identity(), lambda: torch.ones(()))


def test_tables_name_parts_waits_and_lines() -> None:
    model = nn.Linear(D, 1, device="meta")
    x = torch.empty(L, D, device="meta")
    cost = count_step(model, lambda: model(x).sum() * x.sum().item(), parts={"all": ""})
    text = cost.table()
    assert "total" in text and "item" not in text and "_local_scalar_dense" in text
    assert "test_counter" in cost.hot() and "mm" in cost.hot("op", "flops", 3)
    assert cost.hot(measure="saved") is not None


def test_a_cpu_takes_attention_with_dropout_to_pieces() -> None:
    def saved(rate: float, kernels: str) -> int:
        weight = nn.Linear(8, 8, device="meta")
        x = torch.empty(B, 2, 64, 8, device="meta")

        def forward() -> Tensor:
            q = weight(x)
            return F.scaled_dot_product_attention(q, q, q, dropout_p=rate).sum()

        return count_step(weight, forward, kernels=kernels).saved_by()

    matrix = B * 2 * 64 * 64 * FLOAT
    assert saved(0.0, "cpu") == saved(0.0, "gpu") < matrix
    assert saved(0.1, "gpu") < matrix < saved(0.1, "cpu")
    with pytest.raises(ValueError, match="'tpu'"):
        saved(0.0, "tpu")
