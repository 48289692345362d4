"""A trained model for a data set with classes that it has not learned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from detectron2.modeling import build_model
from torch import Tensor

from fdd.data.catalog import contiguous_categories
from fdd.engine.class_mapping import ClassMapping, class_dimensions, map_weights, match_classes
from fdd.inference.trained_model import TrainedModel
from fdd.points import Category

__all__ = ["with_classes"]


def with_classes(
    trained: TrainedModel, categories: Sequence[Category]
) -> tuple[TrainedModel, tuple[str, ...]]:
    """The model with the classes of a data set, and the names of those that are new to it.

    What belongs to a new class is the mean of the classes of its kind: things of it are labelled as
    things are, by their points. A model that knows all of the classes is given back as it is; so is
    one that has none of the kind of a new class, or no names for its classes: who uses it says why
    it does not fit.

    Args:
        trained: with its training-only parts.
        categories: of the data set.
    """
    wanted = [
        {"id": c.id, "name": c.name, "isthing": c.isthing}
        for c in contiguous_categories(categories)
    ]
    mapping = match_classes(trained.categories, wanted)
    names = {str(c["name"]) for c in trained.categories}
    kinds = {bool(c["isthing"]) for c in trained.categories}
    new = [c for c in wanted if c["name"] in mapping.new]
    if not trained.named or not new or len(mapping.new) == len(wanted):
        return trained, ()
    if any(c["name"] in names or bool(c["isthing"]) not in kinds for c in new):
        return trained, ()
    cfg = trained.cfg.clone()
    cfg.defrost()
    cfg.MODEL.FDD.NUM_THINGS = mapping.things
    cfg.MODEL.FDD.NUM_STUFF = len(wanted) - mapping.things
    cfg.freeze()
    model = build_model(cfg).eval()
    old, dimensions = trained.model.state_dict(), class_dimensions(cfg)
    fresh = model.state_dict()
    learned = {name for name, _ in model.named_parameters()}
    for name, dims in dimensions.items():
        for axis, kind in enumerate(dims):
            if kind and name in learned and name in old:
                fresh[name] = _as_usual(old[name], fresh[name], axis, kind, mapping)
    model.load_state_dict(map_weights(old, fresh, dimensions, mapping))
    return replace(trained, cfg=cfg, model=model, categories=wanted), mapping.new


def _as_usual(old: Tensor, fresh: Tensor, axis: int, kind: str, mapping: ClassMapping) -> Tensor:
    """The new tensor with every class as the mean of the old ones of its kind."""
    before, after = old.movedim(axis, 0), fresh.movedim(axis, 0).clone()
    if before.shape[1:] != after.shape[1:]:
        return fresh
    ranges = [(slice(None), slice(None))]
    if kind == "classes":
        a, b = mapping.old_things, mapping.things
        ranges = [(slice(0, a), slice(0, b)), (slice(a, None), slice(b, None))]
    for of, to in ranges:
        if len(before[of]):
            after[to] = before[of].mean(0)
    return after.movedim(0, axis)
