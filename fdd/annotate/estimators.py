"""What a network says of an image's segments, encoded once and asked at each click: the pseudo
label branch of a trained model, or the features of a backbone alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from detectron2.config import CfgNode
from torch import Tensor

from fdd.annotate.preview import FeatureModel
from fdd.data.catalog import contiguous_categories
from fdd.inference.trained_model import TrainedModel
from fdd.modeling.label_branch.location_prior import ExtentPrior
from fdd.modeling.label_makers import MakerInputs
from fdd.modeling.label_makers.dnn import instance_similarity
from fdd.modeling.structures import ReadyMemory, batch_points
from fdd.points import Category
from fdd.points.structures import canonical_name

__all__ = ["Estimator", "FeatureEstimator", "LearnedEstimator"]


class Estimator(Protocol):
    """Logits of the segments of images that were encoded before.

    Attributes:
        maker: name of the label maker.
        cfg: of the mapper. model: an :class:`fdd.modeling.meta_arch.FDD`.
        class_of: contiguous class in the model of each category id. num_things: classes below it
            are things.
        probable: whether the softmax of the logits is a probability.
    """

    maker: str
    cfg: CfgNode
    model: Any
    class_of: dict[int, int]
    num_things: int
    probable: bool

    def encode(self, images: Any, size: tuple[int, int]) -> Any:
        """What is kept of an image.

        Args:
            images: of ``model.preprocess``. size: (H, W) in px without padding.
        """

    def tensors(self, encoded: Any) -> Iterator[Tensor]:
        """The tensors in it, which are nearly all of its memory."""

    def estimate(
        self, encoded: Any, x: dict[str, Any], size: tuple[int, int], padded: tuple[int, int]
    ) -> tuple[Tensor, ExtentPrior | None]:
        """(N, h, w) float logits at stride 8, and the part of them that is known between the cells.

        Args:
            x: mapper output with N instances. size, padded: (H, W) without and with padding.
        """


class LearnedEstimator:
    """By the pseudo label branch; labels obey the clicks as the model says."""

    maker: str = "learned"
    probable: bool = True

    def __init__(self, trained: TrainedModel, categories: Sequence[Category]) -> None:
        """
        Raises:
            ValueError: the model lacks a class, or has it of the other kind; or it makes no labels
                from points.
        """
        self.cfg: CfgNode = trained.cfg
        self.model: Any = trained.model
        if self.model.label_branch is None or self.model.query_generator is None:
            raise ValueError(
                f"{trained.checkpoint}: makes no labels of its own from points (its labels come "
                f"from {self.model.label_settings.maker!r}). Name a model that was trained from "
                "points with MODEL.FDD.LABEL_MAKER 'learned', or none: then a rule makes the "
                "labels (--preview)"
            )
        self.class_of = _match_classes(trained, categories)
        self.num_things = sum(bool(c["isthing"]) for c in trained.categories)

    def encode(self, images: Any, size: tuple[int, int]) -> ReadyMemory:
        return self.model.make_ready(self.model.encode(images), [size])

    def tensors(self, encoded: ReadyMemory) -> Iterator[Tensor]:
        memory = encoded.memory
        yield from (memory.tokens, memory.pos, *memory.features, encoded.feature)
        for layer in encoded.projected:
            yield from layer
        if encoded.looks is not None:
            yield encoded.looks

    def estimate(
        self,
        encoded: ReadyMemory,
        x: dict[str, Any],
        size: tuple[int, int],
        padded: tuple[int, int],
    ) -> tuple[Tensor, ExtentPrior | None]:
        output = self.model.estimate_ready(encoded, batch_points([x], padded, self.model.device))
        logits = output.instance[-1][0].float()
        if output.residual is not None:
            logits = logits + output.residual[0]
        return logits, None if output.extents is None else output.extents[0]


class FeatureEstimator:
    """By how like a place is to the points in a backbone's features: label maker ``dnn``."""

    maker: str = "dnn"
    probable: bool = False

    def __init__(self, features: FeatureModel, categories: Sequence[Category]) -> None:
        self.cfg: CfgNode = features.cfg
        self.model: Any = features.model
        self.class_of = {c.id: n for n, c in enumerate(contiguous_categories(categories))}
        self.num_things = sum(c.isthing for c in categories)

    def encode(self, images: Any, size: tuple[int, int]) -> tuple[Tensor, ...]:
        return self.model.backbone_maps(images)

    def tensors(self, encoded: tuple[Tensor, ...]) -> Iterator[Tensor]:
        yield from encoded

    def estimate(
        self,
        encoded: tuple[Tensor, ...],
        x: dict[str, Any],
        size: tuple[int, int],
        padded: tuple[int, int],
    ) -> tuple[Tensor, None]:
        inputs = MakerInputs(
            coords=x["point_coords"].float(),
            index=x["point_index"],
            classes=x["classes"],
            grid=size,
            stride=(1.0, 1.0),
            image_size=size,
            features=tuple(maps[0] for maps in encoded),
        )
        return instance_similarity(inputs), None


def _match_classes(model: TrainedModel, categories: Sequence[Category]) -> dict[int, int]:
    """Contiguous class in the model of each category id.

    Raises:
        ValueError: the model lacks a class, or has it of the other kind.
    """
    advice = (
        "Use a model that was trained with these classes, or none: then a rule makes the labels "
        "(--preview)"
    )
    if not model.named:
        kinds = [bool(c["isthing"]) for c in model.categories]
        ordered = contiguous_categories(categories)
        if [c.isthing for c in ordered] != kinds:
            raise ValueError(
                f"{model.checkpoint}: has {sum(kinds)} thing and {len(kinds) - sum(kinds)} stuff "
                f"classes without names, other numbers than the data set. {advice}"
            )
        return {c.id: n for n, c in enumerate(ordered)}
    found = {canonical_name(str(c["name"])): n for n, c in enumerate(model.categories)}
    missing = [c.name for c in categories if c.name not in found]
    if missing:
        raise ValueError(
            f"{model.checkpoint}: does not know the data set's {_listed(missing)}; it knows "
            f"{_listed(list(found))}. {advice}"
        )
    for c in categories:
        if bool(model.categories[found[c.name]]["isthing"]) != c.isthing:
            other = "stuff" if c.isthing else "thing"
            raise ValueError(
                f"{model.checkpoint}: {c.name!r} is a {c.kind} class of the data set, and a "
                f"{other} class of the model. {advice}"
            )
    return {c.id: found[c.name] for c in categories}


def _listed(names: Sequence[str], most: int = 8) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(repr, names[:most])) + more
