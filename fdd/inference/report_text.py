"""What the report of labels says in words."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

import fdd
from fdd.engine.run_folder import read_validation
from fdd.engine.training_record import read_content
from fdd.evaluation.label_figures import InstanceFigures, LabelFigureTotals
from fdd.evaluation.panoptic_quality import ImageQuality, class_pq
from fdd.inference.trained_model import TrainedModel
from fdd.modeling.label_makers import get_label_maker
from fdd.modeling.pseudo_labels.estimation import LabelSettings
from fdd.points.wording import PQ_IN_WORDS, counted
from fdd.visualization.confidence import confidence_colors
from fdd.visualization.page.classes import Column
from fdd.visualization.page.parts import Card, scale_note, shape_note
from fdd.visualization.report import ReportText

__all__ = ["describe_image", "describe_prediction", "read_iteration", "report_text"]

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
        "nearest_found",
        "Nearest finds %",
        "The same of the label of each pixel's nearest point, which learns nothing.",
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
    Column("points", "Points", "Points of these.", percent=False),
    Column("empty", "Empty", "Segments whose label has no pixel.", percent=False),
)
_MASKED = (
    Column(
        "label_pq",
        "Label PQ",
        "Panoptic quality (PQ) of the labels made from points, against the masks; at most 100.",
    ),
    Column(
        "nearest_pq",
        "Nearest PQ",
        "Panoptic quality of the label of each pixel's nearest point, which learns nothing.",
    ),
    Column(
        "prediction_pq",
        "Prediction PQ",
        "PQ of what the model predicts without points, against the masks.",
    ),
)
# Columns that compare with the nearest point, for labels that are not just that.
_OF_NEAREST = ("nearest_pq", "nearest_found")
# How labels are made to obey their points: by force, or by the residual of the clicks.
_FORCED = "small squares in it are points that were set by force where the estimate had lost them"
_GROWN = "where the estimate had lost a point, its segment has grown around it"


def _obeying(settings: LabelSettings) -> str:
    """What became of points that the estimate had lost, as a paragraph; empty for the argmax."""
    if not settings.force_points and settings.clicks is None:
        return ""
    how = _FORCED if settings.force_points else _GROWN
    return (
        f'<p class="note">The pseudo label is what training learns from: {how}. Figures are taken '
        "before that, PQ after.</p>"
    )


def describe_image(
    figures: InstanceFigures,
    label: ImageQuality | None,
    prediction: ImageQuality | None,
    nearest: ImageQuality | None,
    names: Sequence[str],
    *,
    masked: bool,
) -> dict[str, Any]:
    """Figures, warnings and what to sort by of one image, for
    :func:`fdd.visualization.write_report`.

    Args:
        label, prediction, nearest: their matches with the image's masks; see
            :meth:`fdd.evaluation.label_figures.LabelFigureTotals.add`.
        names: of the classes.
        masked: the data set has masks: then images are sorted by PQ, and the score of an image
            without masks, another scale, does not come between.
    """
    count, points, held = len(figures.classes), int(figures.points.sum()), int(figures.held.sum())
    certain = figures.confidence[np.isfinite(figures.confidence)]
    confidence = 100 * float(certain.mean()) if len(certain) else math.nan
    found: dict[str, Any] = {"warnings": _warnings(figures, names)}
    shown: dict[str, str] = {}
    values = {"confidence": confidence, "instances": float(count)}
    classes: dict[int, float | None] = dict.fromkeys(np.unique(figures.classes).tolist())
    if label is not None and prediction is not None:
        classes |= class_pq(label)
        found["pq"] = _mean(class_pq(label).values())
        values["prediction"] = _mean(class_pq(prediction).values())
        shown["Label PQ"] = _number(found["pq"])
        if nearest is not None:
            shown["Nearest point PQ"] = _number(_mean(class_pq(nearest).values()))
        shown["Prediction PQ"] = _number(values["prediction"])
    elif not masked:
        classes |= figures.class_scores()
        found["score"] = figures.score()
    shown["Label score"] = _number(figures.score())
    shown["Confidence"] = _number(confidence, " %")
    shown["Points held"] = f"{held} of {points}"
    if left_out := int(figures.left_out.sum()):
        shown["Left-out points found"] = f"{int(figures.found.sum())} of {left_out}"
        shown["by the nearest point"] = f"{int(figures.nearest_found.sum())}"
    shown["Segments"] = f"{count}"
    return found | {"figures": shown, "values": values, "classes": classes}


def describe_prediction(prediction: ImageQuality | None) -> dict[str, Any]:
    """The same of an image of a data set without points.

    Args:
        prediction: its matches with the image's masks; None where it has none.
    """
    classes = {} if prediction is None else class_pq(prediction)
    pq = _mean(classes.values())
    warnings = ["no masks"] if prediction is None else []
    shown = {"Prediction PQ": _number(pq)}
    return {"pq": pq, "figures": shown, "classes": classes, "warnings": warnings}


def report_text(
    trained: TrainedModel,
    dataset: str,
    totals: LabelFigureTotals,
    *,
    total: int,
    pictures: str,
    order_by: str,
    masked: bool,
    pointed: bool,
    trained_on: bool,
    compared: bool,
) -> ReportText:
    """All that stands around the images.

    Args:
        dataset: as the user named it.
        total: images of the data set.
        pictures: their size, in words.
        order_by: name of the figure that says what is worst.
        masked: PQ is measured.
        pointed: there are points, and labels of them.
        trained_on: the model has learned from these points.
        compared: the nearest point's figures are shown, too.
    """
    figures = totals.overall()
    if not pointed:
        return ReportText(
            intro=f"What the model predicts on the images of {dataset}, beside the masks. The data "
            "set has no points, so there are no labels of them to look at. The worst images come "
            f"first, by {order_by}.",
            cards=_prediction_cards(figures, total),
            columns=[_MASKED[-1], _COUNTS[0]],
            classes=totals.by_class(),
            class_note=shape_note(),
            order_by=order_by,
            foot=_foot(trained, dataset) | {"Pictures": pictures},
            fold_curves=True,
        )
    intro = (
        f"Dense labels that the model estimates from the points of {dataset}, and what it predicts "
        f"when it sees the image alone. The worst images come first, by {order_by}."
    )
    if trained_on:
        intro += " The model has learned from these points: expect lower figures on new images."
    model: Any = trained.model
    maker = get_label_maker(model.label_settings.maker)
    scale = scale_note(confidence_colors()[:: 255 // 5], "unsure", "sure")
    return ReportText(
        intro=intro,
        cards=_cards(figures, total, masked, compared),
        columns=[
            c
            for c in (*(_MASKED if masked else ()), *_RECALLS, *_COUNTS)
            if compared or c.key not in _OF_NEAREST
        ],
        classes=totals.by_class(),
        class_note=f"{shape_note()} Confidence: {scale}.",
        image_note=_obeying(model.label_settings) if maker.from_network else "",
        order_by=order_by,
        foot=_foot(trained, dataset) | {"Pictures": pictures},
        fold_curves=True,
    )


def _cards(figures: Mapping[str, float], total: int, masked: bool, compared: bool) -> list[Card]:
    images, segments = int(figures["images"]), int(figures["instances"])
    part = f" Of {total:,} in the data set, evenly spread." if images < total else ""
    cards = [
        Card(
            "Images",
            f"{images:,}",
            f"With {counted(segments, 'segment')} and "
            f"{counted(int(figures['points']), 'point')}.{part}",
        )
    ]
    if masked:
        scored = int(figures["scored"])
        only = f" Of the {scored:,} images with masks." if scored < images else ""
        cards += [
            Card(
                "Label PQ",
                _number(figures["label_pq"]),
                f"Of the labels against the masks, in {PQ_IN_WORDS}.{only}",
                lead=True,
            ),
        ]
        if compared:
            cards.append(
                Card(
                    "Nearest point PQ",
                    _number(figures["nearest_pq"]),
                    "The same where each pixel takes the label of its nearest point: what there "
                    "is without a model.",
                )
            )
        cards += [
            Card(
                "Prediction PQ",
                _number(figures["prediction_pq"]),
                "The same of what the model predicts without any point.",
            ),
        ]
    cards += [
        Card(
            "Label score",
            _number(figures["score"]),
            "A guess at the quality without masks, from 0 to 100: how sure the label is, times how "
            "many of its points each segment holds.",
            lead=not masked,
        ),
        Card(
            "Point recall",
            _number(figures["point_recall"], " %"),
            "Points that lie on the label of their own segment, before it is made to obey them.",
        ),
        *_left_out_cards(figures, compared),
        Card(
            "Class recall",
            _number(figures["class_recall"], " %"),
            "Points that lie on a label of their class, whichever segment.",
        ),
        Card(
            "Confidence",
            _number(figures["confidence"], " %"),
            "Mean probability of the label inside its segments.",
        ),
        Card(
            "Empty segments",
            f"{int(figures['empty']):,} of {segments:,}",
            "They have points, and no pixel in the label.",
        ),
        Card(
            "Dominated images",
            f"{int(figures['swallowed']):,}",
            "One segment takes nearly all of the image from the others.",
        ),
    ]
    return cards


def _left_out_cards(figures: Mapping[str, float], compared: bool) -> list[Card]:
    """What the label finds that it was not told; nothing where no segment has two points."""
    if not figures["left_out"]:
        return []
    rival = f" Their nearest point finds {_number(figures['nearest_found'], ' %')}."
    return [
        Card(
            "Left-out points found",
            _number(figures["found"], " %"),
            f"Of {int(figures['left_out']):,} points left out in turn, those on their segment's "
            f"label from the others.{rival if compared else ''}",
        )
    ]


def _prediction_cards(figures: Mapping[str, float], total: int) -> list[Card]:
    images, scored = int(figures["images"]), int(figures["scored"])
    part = f"Of {total:,} in the data set, evenly spread." if images < total else ""
    only = f" Of the {scored:,} images with masks." if scored < images else ""
    return [
        Card("Images", f"{images:,}", part),
        Card(
            "Prediction PQ",
            _number(figures["prediction_pq"]),
            "Panoptic quality of what the model predicts, against the masks: 100 is perfect."
            + only,
            lead=True,
        ),
    ]


def _warnings(figures: InstanceFigures, names: Sequence[str]) -> list[str]:
    if not len(figures.classes):
        return ["no points"]
    found = []
    for mask, text in (
        (figures.empty, "no pixel for"),
        (figures.swallowing, "dominated by"),
    ):
        counts = Counter(names[k] for k in figures.classes[mask].tolist())
        parts = [name if n == 1 else f"{n} x {name}" for name, n in counts.most_common(4)]
        if counts:
            more = len(counts) - len(parts)
            found.append(
                f"{text} {', '.join(parts)}"
                + (f" and {counted(more, 'class', 'classes')} more" if more else "")
            )
    return found


def _foot(trained: TrainedModel, dataset: str) -> dict[str, str]:
    checkpoint = trained.checkpoint.absolute()
    iteration, validation = read_iteration(checkpoint), read_validation(checkpoint)
    date = datetime.fromtimestamp(checkpoint.stat().st_mtime)
    done = (
        ""
        if iteration is None
        else f", {iteration:,} of {counted(trained.cfg.SOLVER.MAX_ITER, 'iteration')}"
    )
    figure = f", validation {validation.metric} {validation.value:.1f}" if validation else ""
    return {
        "Model": f"{checkpoint} (written {date:%Y-%m-%d %H:%M}{done}{figure})",
        "Data set": dataset,
        "Report": f"made {datetime.now():%Y-%m-%d %H:%M} with fdd {fdd.__version__}",
    }


def read_iteration(checkpoint: Path) -> int | None:
    """Iterations that a checkpoint has seen; None where it does not say."""
    iteration = read_content(checkpoint).get("iteration")
    return iteration + 1 if isinstance(iteration, int) else None


def _mean(values: Any) -> float:
    found = list(values)
    return float(np.mean(found)) if found else math.nan


def _number(value: float, unit: str = "") -> str:
    return f"{value:.1f}{unit}" if math.isfinite(value) else "–"
