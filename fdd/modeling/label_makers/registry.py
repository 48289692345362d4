"""The registry of what turns points, and what a network said of them, into a dense label map."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from fdd.modeling.label_makers.evidence import BatchEvidence, Evidence

#: What a maker can ask for beside the points: fields of :class:`Evidence`, in words.
SOURCES = {
    "instance": "the pseudo label branch's logits",
    "semantic": "the semantic branch's logits",
    "embedding": "the embedding head's vectors",
    "prior": "the location prior's logits",
    "features": "the backbone's maps",
    "image": "the image's colours",
    "masks": "true masks",
}
_OF_NETWORK = frozenset({"instance", "semantic", "embedding", "prior", "features"})
_SUFFIX = "_labels"

#: Evidence of one image -> its (h, w) int32 instance map, -1 where the maker has no opinion.
Rule = Callable[[Evidence], Tensor]
#: Evidence of a batch -> its (B, h, w) integer instance map.
BatchRule = Callable[[BatchEvidence], Tensor]


@dataclass(frozen=True)
class LabelMaker:
    """A way to make labels, and what it takes.

    Attributes:
        name: in configs.
        rule: makes the label of one image.
        needs: names in :data:`SOURCES` that it cannot do without. What the model builds and runs
            follows from them.
        wants: names that it uses where they are there.
        batch_rule: the same for a batch at once, without waiting for the device; None: image by
            image.
        exact: -1 is knowledge ("none of the instances"), not ignorance; such labels are neither
            ignored in training nor overruled by points.
    """

    name: str
    rule: Rule
    needs: frozenset[str] = frozenset()
    wants: frozenset[str] = frozenset()
    batch_rule: BatchRule | None = None
    exact: bool = False

    @property
    def from_network(self) -> bool:
        """Whether what a network learned goes into the labels."""
        return bool(self.needs & _OF_NETWORK)

    def __call__(self, evidence: Evidence) -> Tensor:
        """Label of one image: (h, w) int32 on the device of the points.

        Raises:
            ValueError: something that the maker needs is missing.
        """
        missing = sorted(name for name in self.needs if getattr(evidence, name) is None)
        if missing:
            raise ValueError(
                f"label maker {self.name!r} needs {', '.join(SOURCES[m] for m in missing)} "
                f"({', '.join(missing)}), which is not there: see MODEL.FDD.LABEL_MAKER and "
                "TEST.PSEUDO_LABELS.BASELINES"
            )
        return self.rule(evidence)

    def of_batch(self, evidence: BatchEvidence) -> Tensor:
        """Labels of a batch, (B, h, w) integer; what is on padding does not matter."""
        if self.batch_rule is not None:
            return self.batch_rule(evidence)
        return torch.stack([self(image) for image in evidence.images()])


_MAKERS: dict[str, LabelMaker] = {}


def register_label_maker(
    *,
    needs: Iterable[str] = (),
    wants: Iterable[str] = (),
    batch_rule: BatchRule | None = None,
    exact: bool = False,
) -> Callable[[Rule], Rule]:
    """Register the function ``x_labels`` as the label maker ``x`` of the configs.

    To add one's own, import the module that does so before the configuration is checked
    (``train_net.py`` of one's own, say).

    Args:
        needs, wants, batch_rule, exact: see :class:`LabelMaker`.

    Raises:
        ValueError: the function has no such name, or it is taken, or a need is unknown.
    """

    def register(rule: Rule) -> Rule:
        name = getattr(rule, "__name__", "")
        if not name.endswith(_SUFFIX) or name == _SUFFIX:
            raise ValueError(f"a label maker is a function called ..._labels, not {name!r}")
        name = name.removesuffix(_SUFFIX)
        unknown = sorted({*needs, *wants} - set(SOURCES))
        if name in _MAKERS or unknown:
            why = f"needs {unknown}; there are {sorted(SOURCES)}" if unknown else "is there already"
            raise ValueError(f"label maker {name!r} {why}")
        _MAKERS[name] = LabelMaker(
            name, rule, frozenset(needs), frozenset(wants), batch_rule, exact
        )
        return rule

    return register


def label_maker_names() -> list[str]:
    """Names of all makers there are."""
    return sorted(_MAKERS)


def get_label_maker(name: str) -> LabelMaker:
    """The maker called ``name``.

    Raises:
        ValueError: no such maker; the message lists those there are.
    """
    if name not in _MAKERS:
        raise ValueError(
            f"label maker {name!r} is unknown; allowed: {', '.join(label_maker_names())}"
        )
    return _MAKERS[name]
