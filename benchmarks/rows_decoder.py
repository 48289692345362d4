"""Mask decoder: one layer, and the two label branches in one pass or two."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from benchmarks.harness import Case, Row
from benchmarks.inputs import norm_deviation
from benchmarks.textbook.decoders import decode_masks
from benchmarks.textbook.parts import Arrangement, arrange
from fdd.modeling.label_branch.branch import PseudoLabelBranch
from fdd.modeling.layers import MaskStack, Memory

_DIM, _HEADS, _FFN = 256, 8, 1024
Outputs = tuple[list[Tensor], list[Tensor]]


def _memory(side: int) -> Memory:
    """Tokens of strides 8, 16 and 32 of a square image without padding."""
    generator = torch.Generator().manual_seed(side)
    shapes = tuple((side // stride, side // stride) for stride in (8, 16, 32))
    length = sum(h * w for h, w in shapes)
    tokens = torch.randn(1, length, _DIM, generator=generator).requires_grad_()
    return Memory(
        tokens=tokens,
        pos=torch.zeros_like(tokens),
        valid=torch.ones(1, length, dtype=torch.bool),
        shapes=shapes,
        valid_ratios=torch.ones(1, len(shapes), 2),
    )


def _gradients(
    outputs: Sequence[Tensor], weights: Sequence[Tensor], inputs: Sequence[Tensor]
) -> list[Tensor]:
    """Outputs, and the gradients of a weighted sum of them: of inputs, and of all parameters as one
    vector, because some of these are small differences of large sums."""
    total = torch.stack([(o * w).sum() for o, w in zip(outputs, weights, strict=True)]).sum()
    tokens, query, *rest = torch.autograd.grad(total, list(inputs), allow_unused=True)
    parameters = torch.cat([g.flatten() for g in rest if g is not None])
    return [o.detach() for o in outputs] + [tokens, query, parameters]


def _compare(
    ours: Callable[[], list[Tensor]], *others: Callable[[], list[Tensor]]
) -> Callable[[], float]:
    def check() -> float:
        found = ours()
        pairs = [zip(found, other(), strict=True) for other in others]
        return max(norm_deviation(a, b) for pair in pairs for a, b in pair)

    return check


def _random_weights(outputs: Sequence[Tensor]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(o.shape, generator=generator) for o in outputs]


def _layer(queries: int, side: int) -> Case:
    """One layer with self-attention, as in the label branches; forward and backward."""
    memory = _memory(side)
    torch.manual_seed(0)
    stack = MaskStack(
        dim=_DIM,
        num_heads=_HEADS,
        ffn_dim=_FFN,
        num_layers=1,
        self_attention=True,
        update_last=True,
    ).train()
    query = torch.randn(1, queries, _DIM, requires_grad=True)
    inputs = [memory.tokens, query, *stack.parameters()]
    with torch.no_grad():
        masks, refined = stack(query, None, memory)
    weights = _random_weights([masks[0], refined[0]])

    def ours() -> list[Tensor]:
        masks, refined = stack(query, None, memory)
        return _gradients([masks[0], refined[0]], weights, inputs)

    def published(parts: Arrangement) -> Callable[[], list[Tensor]]:
        def run() -> list[Tensor]:
            masks, refined = decode_masks(stack, query, None, memory, parts)
            return _gradients([masks[0][None], refined[0]], weights, inputs)

        return run

    peer, cheap = published(arrange()), published(arrange({"mask_head"}))
    return Case(ours, peer, _compare(ours, peer, cheap), {"cheap": cheap})


def _passes(instances: int, classes: int, layers: int, side: int) -> Case:
    """Both label branches: N and C queries side by side, or the stack once for each set."""
    memory = _memory(side)
    torch.manual_seed(0)
    branch = PseudoLabelBranch(
        dim=_DIM, num_classes=classes, num_heads=_HEADS, ffn_dim=_FFN, num_layers=layers
    ).train()
    labels = torch.randint(classes, (1, instances))
    generated = torch.randn(1, instances, _DIM, requires_grad=True)
    inputs = [memory.tokens, generated, *branch.parameters()]

    def together() -> list[Tensor]:
        output = branch(generated, labels, memory)
        return output.instance + output.semantic

    def apart(decode: Callable[[Tensor, Tensor], list[Tensor]]) -> list[Tensor]:
        every = torch.arange(classes)[None]
        passes = ((generated, labels), (branch.semantic_query.weight[None], every))
        return [
            branch.affine(mask, chosen)
            for query, chosen in passes
            for mask in decode(query, branch.position(chosen))
        ]

    def published(query: Tensor, pos: Tensor) -> list[Tensor]:
        masks, _ = decode_masks(branch.stack, query, pos, memory, arrange())
        return [mask[None] for mask in masks]

    def lean(query: Tensor, pos: Tensor) -> list[Tensor]:
        return branch.stack(query, pos, memory)[0]

    with torch.no_grad():
        weights = _random_weights(together())

    def run(form: Callable[[], list[Tensor]]) -> Callable[[], list[Tensor]]:
        return lambda: _gradients(form(), weights, inputs)

    ours, peer = run(together), run(lambda: apart(published))
    own_twice = run(lambda: apart(lean))
    return Case(ours, peer, _compare(ours, peer, own_twice), {"own_twice": own_twice})


def rows() -> list[Row]:
    layers = [
        Row(
            name=f"mask_layer/{queries}/512x512",
            what=f"one mask decoder layer, {queries} queries; heads of all levels up-sampled and "
            "concatenated (Panoptic SegFormer)",
            setup=lambda queries=queries: _layer(queries, 512),
            target=target,
            memory_target=1.5,
            tolerance=1e-4,
            seconds=6,
        )
        for queries, target in ((25, 1.3), (144, 1.8))
    ]
    passes = Row(
        name="label_branches/11+133/256x256",
        what="6 layers, 11 instance and 133 class queries in one pass; in two, in the published "
        "form (FDD, PSPS) and by our stack",
        setup=lambda: _passes(11, 133, 6, 256),
        target=1.4,
        tolerance=1e-3,  # six layers of ReLUs on either side of which rounding may fall
        seconds=8,
    )
    return [*layers, passes]
