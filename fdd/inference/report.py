"""A page of every image's points, label, prediction and figures, worst first."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fdd.data.images import ImageFileError
from fdd.inference.report_source import ReportSource
from fdd.inference.report_text import report_text
from fdd.inference.trained_model import TrainedModel
from fdd.visualization.report import (
    Progress,
    Row,
    WrittenPage,
    check_page_options,
    sort_rows,
    spread,
    write_page,
)

__all__ = ["LabelReport", "write_label_report"]


@dataclass(frozen=True, kw_only=True)
class LabelReport(WrittenPage):
    """What was written; unreadable images are not on the page.

    Attributes:
        figures: of all images, see :meth:`fdd.evaluation.label_figures.LabelFigureTotals.overall`.
        worst: name and figure of each image, worst first.
        order_by: name of that figure.
        compared: the labels are not just those of the rule ``extent``, which then
            stand beside them.
    """

    figures: Mapping[str, float]
    worst: Sequence[tuple[str, float | None]]
    order_by: str
    compared: bool


def write_label_report(
    path: str | os.PathLike[str],
    trained: TrainedModel,
    dataset: str,
    *,
    title: str = "",
    max_images: int | None = None,
    thumbnail: int = 320,
    curves: Mapping[str, Sequence[tuple[float, float]]] | None = None,
    summary: Mapping[str, Any] | None = None,
    progress: Progress = iter,
) -> LabelReport:
    """Run a model on the images of a point set and write one self-contained HTML page about them.

    Args:
        path: the ``.html`` file.
        trained: loaded with its training-only parts (``load_trained(..., full=True)``).
        dataset: a data set file (``path#validation`` for its validation part), or a registered set
            of points, of masks, or of both. Where it names masks, PQ is measured against them.
            Without points there are no labels, and the page is about predictions.
        title: of the page.
        max_images: at most this many, evenly spread over the label file.
        thumbnail: longer side of the pictures, in pixels.
        curves: of the training, see :func:`fdd.visualization.read_curves`.
        summary: figures of the run for the head of the page, in place of those of its images; see
            :func:`fdd.visualization.write_report`.
        progress: wraps the list of images, for a progress bar.

    Raises:
        FileNotFoundError, ValueError: the data set is missing, invalid, does not fit the model, or
            has neither points nor masks; not one image can be read; the path is a folder.
    """
    check_page_options(path, "report.html", max_images, thumbnail)
    source = ReportSource(trained, dataset)
    samples = source.samples(progress(spread(source.records, max_images)), thumbnail)
    rows = sort_rows(Row(sample, thumbnail) for sample in samples)
    if not rows:
        raise ImageFileError(f"not one image can be read. {source.unreadable[0]}")
    size = sum(row.size for row in rows) / 2**20
    text = report_text(source, f"{thumbnail} px, {size:.1f} MiB in all")
    if summary is not None:
        text = replace(text, cards=())
    title = title or f"{'Labels from points' if source.pointed else 'Predictions'}: {source.title}"
    return LabelReport(
        path=write_page(path, title, summary or {}, rows, source.categories, curves, text=text),
        images=len(rows),
        unreadable=source.unreadable,
        figures=source.totals.overall(),
        worst=[(row.name, row.score) for row in rows],
        order_by=source.order_by,
        compared=source.compared,
    )
