"""The registry of label makers, and what they need of a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from fdd.modeling.label_makers.inputs import BatchMakerInputs, MakerInputs

#: What a maker can need beside the points: fields of :class:`MakerInputs`, in words.
SOURCES = {
    "instance": "the pseudo label branch's logits",
    "semantic": "the semantic branch's logits",
    "embedding": "the embedding head's vectors",
    "prior": "the location prior's logits",
    "features": "the backbone's maps",
    "image": "the image's colours",
    "masks": "true masks",
}
# What to set for one that is missing.
_HINTS = {
    "instance": "that branch is built for MODEL.FDD.LABEL_MAKER 'learned' (and without full masks)",
    "semantic": "that branch runs for MODEL.FDD.LABEL_MAKER 'learned', 'distance' and "
    "'semantic_nearest' (and without full masks), if MODEL.FDD.LAMBDA_SEM is above 0",
    "embedding": "set MODEL.FDD.DISTANCE.EMBEDDING to True, with a semantic branch "
    "(MODEL.FDD.LAMBDA_SEM above 0)",
    "prior": "set MODEL.FDD.LOCATION_PRIOR.ENABLED to True, with MODEL.FDD.LABEL_MAKER 'learned' "
    "(and without full masks)",
    "features": "",
    "image": "",
    "masks": "training on points never opens them: set MODEL.FDD.PAN_SUPERVISION to 'full' and "
    "train on a mask set",
}
_OF_NETWORK = frozenset({"instance", "semantic", "embedding", "prior", "features"})
_SUFFIX = "_labels"

#: Inputs of one image -> its (h, w) int32 instance map, -1 where the maker has no opinion.
Rule = Callable[[MakerInputs], Tensor]
_Rule = TypeVar("_Rule", bound=Rule)
#: Inputs of a batch -> its (B, h, w) integer instance map.
BatchRule = Callable[[BatchMakerInputs], Tensor]


@dataclass(frozen=True)
class LabelMaker:
    """A way to make labels, and what it takes.

    Attributes:
        name: in configs.
        rule: makes the label of one image.
        needs: required names of :data:`SOURCES`; they decide what the model builds and runs.
        wants: names that it uses where they are available.
        batch_rule: the same for a batch at once, without waiting for the device; None: image by
            image.
        exact: -1 means "none of the instances", not "unknown": such labels are neither ignored in
            training nor overruled by points.
    """

    name: str
    rule: Rule
    needs: frozenset[str] = frozenset()
    wants: frozenset[str] = frozenset()
    batch_rule: BatchRule | None = None
    exact: bool = False

    @property
    def from_network(self) -> bool:
        """Whether outputs of the network go into the labels."""
        return bool(self.needs & _OF_NETWORK)

    def __call__(self, inputs: MakerInputs) -> Tensor:
        """Label of one image: (h, w) int32 on the device of the points.

        Raises:
            ValueError: something that the maker needs is missing.
        """
        missing = sorted(name for name in self.needs if getattr(inputs, name) is None)
        if missing:
            raise ValueError(
                f"label maker {self.name!r} needs {', '.join(SOURCES[m] for m in missing)} "
                f"({', '.join(missing)}), which is not there: see MODEL.FDD.LABEL_MAKER and "
                "TEST.PSEUDO_LABELS.BASELINES"
            )
        return self.rule(inputs)

    def of_batch(self, inputs: BatchMakerInputs) -> Tensor:
        """Labels of a batch, (B, h, w) integer; undefined on padding."""
        if self.batch_rule is not None:
            return self.batch_rule(inputs)
        return torch.stack([self(image) for image in inputs.images()])


_MAKERS: dict[str, LabelMaker] = {}


def register_label_maker(
    *,
    needs: Iterable[str] = (),
    wants: Iterable[str] = (),
    batch_rule: BatchRule | None = None,
    exact: bool = False,
) -> Callable[[_Rule], _Rule]:
    """Register the function ``x_labels`` as the label maker ``x`` of the configs.

    Import the module that registers a maker of your own before the configuration is checked, such
    as at the top of your ``train_net.py``.

    Args:
        needs, wants, batch_rule, exact: see :class:`LabelMaker`.

    Raises:
        ValueError: the function has another name, the name is taken, or a need is unknown.
    """

    def register(rule: _Rule) -> _Rule:
        name = getattr(rule, "__name__", "")
        if not name.endswith(_SUFFIX) or name == _SUFFIX:
            raise ValueError(f"a label maker is a function called ..._labels, not {name!r}")
        name = name.removesuffix(_SUFFIX)
        unknown = sorted({*needs, *wants} - set(SOURCES))
        if name in _MAKERS or unknown:
            why = (
                f"needs {unknown}; known: {sorted(SOURCES)}" if unknown else "is already registered"
            )
            raise ValueError(f"label maker {name!r} {why}")
        _MAKERS[name] = LabelMaker(
            name, rule, frozenset(needs), frozenset(wants), batch_rule, exact
        )
        return rule

    return register


def label_maker_names() -> list[str]:
    """Names of all registered makers."""
    return sorted(_MAKERS)


def get_label_maker(name: str) -> LabelMaker:
    """The maker called ``name``.

    Raises:
        ValueError: no such maker; the message lists the known ones.
    """
    if name not in _MAKERS:
        raise ValueError(
            f"label maker {name!r} is unknown; allowed: {', '.join(label_maker_names())}"
        )
    return _MAKERS[name]


def available_sources(
    maker: LabelMaker, lambda_sem: float, embedding: bool, location_prior: bool
) -> frozenset[str]:
    """What a model that trains on the labels of ``maker`` has for it and for other makers.

    Args:
        maker: of the training labels.
        lambda_sem: ``MODEL.FDD.LAMBDA_SEM``; at 0 the semantic branch is not run.
        embedding: ``MODEL.FDD.DISTANCE.EMBEDDING``.
        location_prior: ``MODEL.FDD.LOCATION_PRIOR.ENABLED``.

    Returns:
        Names of :data:`SOURCES`. Masks are available if the maker itself needs them.
    """
    found = {"image", "features"} | (maker.needs & {"instance", "masks"})
    if "instance" in found and location_prior:
        found.add("prior")
    if maker.needs & {"instance", "semantic"} and lambda_sem > 0:
        found.add("semantic")
        if embedding:
            found.add("embedding")
    return frozenset(found)


def check_label_makers(
    *,
    supervision: str,
    maker: str,
    baselines: Sequence[str],
    lambda_sem: float,
    embedding: bool,
    location_prior: bool,
) -> None:
    """Refuse label makers that are unknown or need what this configuration lacks.

    Args:
        supervision: ``MODEL.FDD.PAN_SUPERVISION``. With "full", ``maker`` is not read.
        maker: ``MODEL.FDD.LABEL_MAKER``.
        baselines: ``TEST.PSEUDO_LABELS.BASELINES``.
        lambda_sem, embedding, location_prior: see :func:`available_sources`.

    Raises:
        ValueError: naming key, value and what to do.
    """
    known = ", ".join(map(repr, label_maker_names()))
    if maker not in label_maker_names():
        raise ValueError(f"MODEL.FDD.LABEL_MAKER is {maker!r}; allowed: {known}")
    unknown = [name for name in baselines if name not in label_maker_names()]
    if unknown:
        raise ValueError(
            f"TEST.PSEUDO_LABELS.BASELINES: {unknown[0]!r} is unknown; allowed: {known}"
        )
    full = supervision == "full"
    chosen = get_label_maker("full" if full else maker)
    available = available_sources(chosen, lambda_sem, embedding, location_prior)
    if not full:
        _refuse("MODEL.FDD.LABEL_MAKER is", chosen, available - {"masks"})
    for name in baselines:
        # Masks to compare with are what an evaluation has.
        baseline = get_label_maker(name)
        _refuse("TEST.PSEUDO_LABELS.BASELINES names", baseline, available | {"masks"})


def _refuse(what: str, maker: LabelMaker, available: frozenset[str]) -> None:
    missing = sorted(maker.needs - available)
    if missing:
        raise ValueError(
            f"{what} {maker.name!r}, which needs {SOURCES[missing[0]]}; {_HINTS[missing[0]]}"
        )
