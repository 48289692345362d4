"""Where to click next, for all images of a data set, as a record."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog

from fdd.annotate.actions import Segment
from fdd.annotate.live import LiveLabeller
from fdd.annotate.suggest import image_gain
from fdd.data import get_metadata
from fdd.data.dataset_files import resolve_name
from fdd.data.images import ImageFileError
from fdd.engine.checks import DatasetError
from fdd.inference.trained_model import TrainedModel, check_model_dataset
from fdd.points import Category
from fdd.points.void import parse_stroke

__all__ = ["suggest_for_dataset"]


def suggest_for_dataset(
    trained: TrainedModel,
    dataset: str,
    *,
    count: int,
    images: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[dict[str, Any], list[str]]:
    """Suggestions, for JSON, and what is wrong with images that cannot be read.

    Args:
        trained: with its training-only parts.
        dataset: a data set file, or a registered name, with points.
        count: places of an image, at most.
        images: that are given back, at most, those with most to gain; None: all.
        progress: called with the number of images that are done, and of all.

    Returns:
        ``model``, ``dataset``, ``examined``, the number of images that were read, and ``images``:
        of each image ``image_id``, ``file_name``, ``gain`` (of its best place) and ``suggestions``:
        ``x``, ``y`` (pixels of the original), ``reason``, ``kind``, ``gain``, and ``segment``, the
        id of the likeliest one there. Images with more to gain come first, those without a point
        last, with gain None.

    Raises:
        ValueError: the data set has no points, no images, or other classes than the model.
    """
    name = resolve_name(dataset, "points")
    check_model_dataset(trained, name, "the data set of the suggestions")
    metadata = get_metadata(name)
    categories = [Category(c["id"], c["name"], bool(c["isthing"])) for c in metadata.categories]
    records = DatasetCatalog.get(name)
    if not records or "points" not in records[0]:
        raise DatasetError(f"{dataset}: no image with point labels in it")
    labeller = LiveLabeller(trained, categories, cached=1)
    rows: list[dict[str, Any]] = []
    unreadable: list[str] = []
    for done, record in enumerate(records):
        segments = [
            Segment(
                int(s["instance_id"]),
                categories[s["category_id"]].id,
                tuple((float(x), float(y)) for x, y in s["coords"]),
            )
            for s in record["points"]
            if s["coords"]
        ]
        size = (record["height"], record["width"])
        try:
            void = [parse_stroke(stroke, "a stroke") for stroke in record.get("void", ())]
            found = labeller.suggestions(Path(record["file_name"]), segments, size, count, void)
        except (ImageFileError, OSError) as error:
            unreadable.append(str(error))
            continue
        places = [
            {
                "x": round(s.x, 2),
                "y": round(s.y, 2),
                "reason": s.reason,
                "kind": s.kind,
                "gain": s.gain,
                "segment": segments[s.segment].id,
            }
            for s in found
        ]
        row = {"image_id": record["image_id"], "file_name": record["file_name"]}
        gain = image_gain(found) if segments else None
        rows.append(row | {"gain": gain, "suggestions": places})
        if progress is not None:
            progress(done + 1, len(records))
    rows.sort(key=lambda row: -1.0 if row["gain"] is None else row["gain"], reverse=True)
    head = {"model": str(trained.checkpoint), "dataset": dataset, "examined": len(rows)}
    return head | {"images": rows[:images]}, unreadable
