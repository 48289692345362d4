"""Weights of a model with other classes: what belongs to a class goes where the class is now.

A training may begin from a model whose classes are in another order, some of them gone, others new.
Which dimensions of which weights count classes is seen by building the model with one class more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import Tensor

from fdd.points.structures import canonical_name

__all__ = ["ClassMapping", "class_dimensions", "map_weights", "match_classes"]

Categories = Sequence[Mapping[str, Any]]
#: Kind of each dimension of a tensor: "things", "stuff", "classes" (things, then stuff), or "".
Dimensions = dict[str, tuple[str, ...]]


@dataclass(frozen=True)
class ClassMapping:
    """Where the classes of a model come from.

    Attributes:
        source: of each class its place in the old model; -1 for a new one.
        things: thing classes of the new model. old_things, old_classes: of the old one.
        new, gone: names of classes that are in one model only; of the other kind counts as new.
    """

    source: tuple[int, ...]
    things: int
    old_things: int
    old_classes: int
    new: tuple[str, ...]
    gone: tuple[str, ...]

    def places(self, kind: str) -> tuple[tuple[int, ...], int]:
        """Of a dimension of this kind, where each entry comes from, and how many there were."""
        things, stuff = self.source[: self.things], self.source[self.things :]
        if kind == "things":
            return things, self.old_things
        if kind == "stuff":
            old = self.old_classes - self.old_things
            return tuple(p - self.old_things if p >= 0 else -1 for p in stuff), old
        return self.source, self.old_classes


def match_classes(old: Categories, new: Categories) -> ClassMapping:
    """Match classes by name and kind.

    Args:
        old, new: of each contiguous class (things first) ``name`` and ``isthing``.
    """

    def key(category: Mapping[str, Any]) -> tuple[str, bool]:
        return canonical_name(str(category["name"])), bool(category["isthing"])

    known = {key(category): place for place, category in enumerate(old)}
    source = tuple(known.get(key(category), -1) for category in new)
    return ClassMapping(
        source,
        things=sum(bool(c["isthing"]) for c in new),
        old_things=sum(bool(c["isthing"]) for c in old),
        old_classes=len(old),
        new=tuple(str(c["name"]) for c, place in zip(new, source, strict=True) if place < 0),
        gone=tuple(str(c["name"]) for place, c in enumerate(old) if place not in source),
    )


def class_dimensions(cfg: CfgNode) -> Dimensions:
    """Which dimensions of the weights of a config's model count classes.

    Args:
        cfg: with FDD's keys; not changed.
    """
    plain, thing, stuff = (_shapes(cfg, *more) for more in ((0, 0), (1, 0), (0, 1)))
    found: Dimensions = {}
    for name, shape in plain.items():
        kinds = []
        for size, with_thing, with_stuff in zip(shape, thing[name], stuff[name], strict=True):
            grows = (with_thing - size, with_stuff - size)
            kinds.append({(1, 0): "things", (0, 1): "stuff", (1, 1): "classes"}.get(grows, ""))
        found[name] = tuple(kinds)
    return found


def _shapes(cfg: CfgNode, things: int, stuff: int) -> dict[str, tuple[int, ...]]:
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = "meta"
    cfg.MODEL.FDD.NUM_THINGS += things
    cfg.MODEL.FDD.NUM_STUFF += stuff
    with torch.device("meta"):
        model = build_model(cfg)
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


def map_weights(
    old: Mapping[str, Tensor],
    fresh: Mapping[str, Tensor],
    dimensions: Dimensions,
    mapping: ClassMapping,
) -> dict[str, Tensor]:
    """The old weights as the new model has them; entries of new classes are the new model's own.

    Args:
        old: of the old model. fresh: of the new one, as it is initialised.
        dimensions: of :func:`class_dimensions`, of the new one.
        mapping: of :func:`match_classes`.

    Returns:
        Tensors of ``old``; those without a class as they are, also where the new model has another
        shape, or none.
    """
    result = dict(old)
    for name, kinds in dimensions.items():
        if not any(kinds) or name not in old or name not in fresh:
            continue
        value, into = old[name], fresh[name].detach().clone().cpu()
        if value.dim() != into.dim():
            continue
        source = [torch.arange(n) for n in value.shape]
        target = [torch.arange(n) for n in into.shape]
        for axis, kind in enumerate(kinds):
            if not kind:
                continue
            places, count = mapping.places(kind)
            # What follows the classes, such as "nothing", is no class and stays behind them.
            rest = min(value.shape[axis] - count, into.shape[axis] - len(places))
            chosen = [n for n, place in enumerate(places) if place >= 0]
            source[axis] = torch.tensor(
                [places[n] for n in chosen] + [count + n for n in range(rest)], dtype=torch.long
            )
            target[axis] = torch.tensor(
                chosen + [len(places) + n for n in range(rest)], dtype=torch.long
            )
        if any(len(s) != len(t) for s, t in zip(source, target, strict=True)):
            continue  # another network: said where weights are loaded
        into[torch.meshgrid(*target, indexing="ij")] = value.cpu()[
            torch.meshgrid(*source, indexing="ij")
        ].to(into.dtype)
        result[name] = into
    return result
