"""What the report of labels says in words."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from fdd.engine.run_folder import read_validation
from fdd.engine.training_record import read_content
from fdd.inference.report_source import ReportSource, figure
from fdd.modeling.label_makers import get_label_maker
from fdd.modeling.pseudo_labels.estimation import LabelSettings
from fdd.points.wording import PQ_IN_WORDS, counted
from fdd.visualization.report import NO_LABEL, SHAPES, Card, Column, ReportText, made_now

__all__ = ["read_iteration", "report_text"]

_RECALLS = (
    Column(
        "point_recall",
        "Point recall %",
        "Share of the class's points that lie on the label of their own segment. The label is "
        "taken as the model estimates it, before it is made to obey its points.",
    ),
    Column(
        "class_recall",
        "Class recall %",
        "Share of the class's points that lie on a label of the class, whichever segment. Where "
        "it is high and the point recall low, segments run into each other.",
    ),
    Column(
        "found",
        "Left-out found %",
        "Share of the class's points that the label still finds when it is made without them.",
    ),
    Column(
        "rule_found",
        "Rule finds %",
        "The same of labels by the rule extent, which learns nothing.",
    ),
    Column(
        "confidence",
        "Confidence %",
        "Mean probability of the label inside its segments; segments without a pixel are left out.",
    ),
)
_COUNTS = (
    Column("images", "Images", "Images with the class in their points or masks.", percent=False),
    Column("instances", "Segments", "Segments with points.", percent=False),
    Column("points", "Points", "Points of these segments.", percent=False),
    Column("empty", "Empty", "Segments without a pixel before points are obeyed.", percent=False),
)
_MASKED = (
    Column(
        "label_pq",
        "Label PQ",
        "Panoptic quality (PQ) of the labels made from points, against the masks; at most 100.",
    ),
    Column(
        "rule_pq",
        "Rule PQ",
        "Panoptic quality of labels by the rule extent, which learns nothing.",
    ),
    Column(
        "prediction_pq",
        "Prediction PQ",
        "PQ of what the model predicts without points, against the masks.",
    ),
)
# Columns that compare with the rule, for labels that are not just that.
_OF_RULE = ("rule_pq", "rule_found")
# How labels are made to obey their points: by force, or by the residual of the clicks.
_FORCED = "small squares in it are points that were set by force where the estimate had lost them"
_GROWN = "where the estimate had lost a point, its segment has grown around it"


def report_text(source: ReportSource, pictures: str) -> ReportText:
    """All that stands around the images, once their figures are in the totals of ``source``;
    ``pictures`` is their size, in words."""
    if source.pointed:
        intro = (
            f"Dense labels that the model estimates from the points of {source.dataset}, and what "
            "it predicts when it sees the image alone. The worst images come first, by "
            f"{source.order_by}."
        )
        if source.name in source.trained.cfg.DATASETS.TRAIN:
            intro += " The model has learned from these points: expect lower figures on new images."
        every = (*(_MASKED if source.masked else ()), *_RECALLS, *_COUNTS)
        columns = [c for c in every if source.compared or c.key not in _OF_RULE]
    else:
        intro = (
            f"What the model predicts on the images of {source.dataset}, beside the masks. The "
            "data set has no points, so there are no labels of them to look at. The worst images "
            f"come first, by {source.order_by}."
        )
        columns = [_MASKED[-1], _COUNTS[0]]
    return ReportText(
        intro=intro,
        cards=list(_cards(source)),
        columns=columns,
        classes=source.totals.by_class(),
        class_note=f"{SHAPES} {NO_LABEL}",
        scale=("Confidence", "unsure", "sure") if source.pointed else None,
        image_note=_obeying(source) if source.pointed else "",
        order_by=source.order_by,
        foot=_foot(source) | {"Pictures": pictures},
        fold_curves=True,
    )


def _obeying(source: ReportSource) -> str:
    """What became of points that the estimate had lost; empty for a rule, and for the argmax."""
    model: Any = source.trained.model
    settings: LabelSettings = model.label_settings
    obeys = settings.force_points or settings.clicks is not None
    if not (get_label_maker(settings.maker).from_network and obeys):
        return ""
    how = _FORCED if settings.force_points else _GROWN
    return (
        f"The pseudo label is what `fdd labels export` writes: {how}. PQ and the label score are "
        "of that label; points held, confidence and empty segments are of the estimate before it."
    )


def _cards(source: ReportSource) -> Iterator[Card]:
    figures, total = source.totals.overall(), len(source.records)
    images, segments = int(figures["images"]), int(figures["instances"])
    left_out, scored = int(figures["left_out"]), int(figures["scored"])
    part = f"Of {total:,} in the data set, evenly spread." if images < total else ""
    only = f" Of the {scored:,} images with masks." if scored < images else ""
    prediction_pq = figure(figures["prediction_pq"])
    if not source.pointed:
        yield Card("Images", f"{images:,}", part)
        what = "Panoptic quality of what the model predicts, against the masks: 100 is perfect."
        yield Card("Prediction PQ", prediction_pq, what + only, lead=True)
        return
    points = counted(int(figures["points"]), "point")
    held = f"With {counted(segments, 'segment')} and {points}. {part}".rstrip()
    yield Card("Images", f"{images:,}", held)
    if source.masked:
        what = f"Of the labels against the masks, in {PQ_IN_WORDS}.{only}"
        yield Card("Label PQ", figure(figures["label_pq"]), what, lead=True)
        if source.compared:
            yield Card(
                "Rule PQ",
                figure(figures["rule_pq"]),
                "The same without a model: things where their points say that they reach, "
                "everything else by the nearest point.",
            )
        what = "The same of what the model predicts without any point."
        yield Card("Prediction PQ", prediction_pq, what)
    yield Card(
        "Label score",
        figure(figures["score"]),
        _score_in_words(source),
        lead=not source.masked,
    )
    yield Card(
        "Point recall",
        figure(figures["point_recall"], " %"),
        "Points that lie on the label of their own segment, before it is made to obey them.",
    )
    if left_out:  # nothing where no segment has two points
        rival = f" The rule finds {figure(figures['rule_found'], ' %')}."
        yield Card(
            "Left-out points found",
            figure(figures["found"], " %"),
            f"Of {left_out:,} points left out in turn, those on their segment's label from the "
            f"others.{rival if source.compared else ''}",
        )
    yield Card(
        "Class recall",
        figure(figures["class_recall"], " %"),
        "Points that lie on a label of their class, whichever segment.",
    )
    yield Card(
        "Confidence",
        figure(figures["confidence"], " %"),
        "Mean probability of the label inside its segments.",
    )
    yield Card(
        "Empty segments",
        f"{int(figures['empty']):,} of {segments:,}",
        "They have points, and no pixel in the label before it is made to obey them.",
    )
    yield Card(
        "Dominated images",
        f"{int(figures['swallowed']):,}",
        "One segment takes nearly all of the image from the others.",
    )


def _score_in_words(source: ReportSource) -> str:
    """What the label score says, and what of it rests on targets that can hide no point."""
    sums = source.totals.overall()
    lone, segments = int(sums["lone"]), int(sums["instances"])
    text = (
        "The PQ to expect of the labels, estimated without masks: from how much of each segment "
        "stays when its label is made from other points of it, from its size beside what its "
        "points are spread over, and from the points found that were left out."
    )
    if lone:
        which = "Every segment has" if lone == segments else f"{lone:,} of the segments have"
        text += (
            f" {which} a single point, which has no spread and cannot be left out: there only the "
            "first is known, and the score is rougher."
        )
    return text


def _foot(source: ReportSource) -> dict[str, str]:
    checkpoint = source.trained.checkpoint.absolute()
    iteration, validation = read_iteration(checkpoint), read_validation(checkpoint)
    date = datetime.fromtimestamp(checkpoint.stat().st_mtime)
    written = f"written {date:%Y-%m-%d %H:%M}"
    if iteration is not None:
        most = counted(source.trained.cfg.SOLVER.MAX_ITER, "iteration")
        written += f", {iteration:,} of {most}"
    if validation:
        written += f", validation {validation.metric} {validation.value:.1f}"
    return {
        "Model": f"{checkpoint} ({written})",
        "Data set": source.dataset,
        "Report": made_now(),
    }


def read_iteration(checkpoint: Path) -> int | None:
    """Iterations that a checkpoint has seen; None where it does not say."""
    iteration = read_content(checkpoint).get("iteration")
    return iteration + 1 if isinstance(iteration, int) else None
