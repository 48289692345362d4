"""Can what a configuration asks for be had? What its label maker needs decides what is built."""

from __future__ import annotations

from collections.abc import Sequence

from fdd.modeling.label_makers.registry import (
    SOURCES,
    LabelMaker,
    get_label_maker,
    label_maker_names,
)

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


def available_sources(
    maker: LabelMaker, lambda_sem: float, embedding: bool, location_prior: bool
) -> frozenset[str]:
    """What a model whose labels ``maker`` makes can give to it, and to others beside it.

    Args:
        maker: of the training labels.
        lambda_sem: ``MODEL.FDD.LAMBDA_SEM``; at 0 the semantic branch is not run.
        embedding: ``MODEL.FDD.DISTANCE.EMBEDDING``.
        location_prior: ``MODEL.FDD.LOCATION_PRIOR.ENABLED``.

    Returns:
        Names in :data:`SOURCES`. Masks are there if the maker itself lives on them.
    """
    there = {"image", "features"} | (maker.needs & {"instance", "masks"})
    if "instance" in there and location_prior:
        there.add("prior")
    if maker.needs & {"instance", "semantic"} and lambda_sem > 0:
        there.add("semantic")
        if embedding:
            there.add("embedding")
    return frozenset(there)


def check_label_makers(
    *,
    supervision: str,
    maker: str,
    baselines: Sequence[str],
    lambda_sem: float,
    embedding: bool,
    location_prior: bool,
) -> None:
    """Refuse label makers that are unknown, or that need what this configuration does not have.

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
    there = available_sources(chosen, lambda_sem, embedding, location_prior)
    if not full:
        _refuse("MODEL.FDD.LABEL_MAKER is", chosen, there - {"masks"})
    for name in baselines:
        # Masks to compare with are what an evaluation has.
        baseline = get_label_maker(name)
        _refuse("TEST.PSEUDO_LABELS.BASELINES names", baseline, there | {"masks"})


def _refuse(what: str, maker: LabelMaker, there: frozenset[str]) -> None:
    missing = sorted(maker.needs - there)
    if missing:
        raise ValueError(
            f"{what} {maker.name!r}, which needs {SOURCES[missing[0]]}; {_HINTS[missing[0]]}"
        )
