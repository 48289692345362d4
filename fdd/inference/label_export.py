"""Dense labels of a trained model as a data set: COCO panoptic, and other forms made from it."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog
from PIL import Image
from tqdm import tqdm

import fdd
from fdd.data.dataset_files import resolve_name
from fdd.engine.checkpoint import CheckpointError
from fdd.export_formats import (
    Export,
    ExportedImage,
    ExportFolder,
    check_formats,
    make_segments,
    write_formats,
    written_formats,
)
from fdd.export_formats.panoptic_writer import PANOPTIC
from fdd.inference.label_options import ExportOptions, choose_maker, own_keys
from fdd.inference.label_sources import ImageSource, label_settings, list_sources
from fdd.inference.label_views import Views, build_view_loader
from fdd.inference.trained_model import TrainedModel, load_trained
from fdd.modeling.label_makers import get_label_maker
from fdd.modeling.pseudo_labels.averaging import estimate_averaged
from fdd.points.coco_panoptic import save_segment_ids
from fdd.points.files import atomic_path

__all__ = ["ExportOptions", "ExportSummary", "export_labels"]

CONFIDENCE = "confidence"


@dataclass(frozen=True)
class ExportSummary:
    """What became of an export.

    Attributes:
        folder: of the data set.
        images, labelled: in it, and those of them with any point.
        segments, things: in it.
        vanished: (image id, segment id) of what was left without a pixel.
        void: share of the pixels without a label, in [0, 1].
        confidence: mean score of the segments, None without probabilities.
        resumed: images that an earlier call had done.
        unreadable: what is wrong with the images that could not be read.
        written: a line about each form.
        complete: whether the data set's files (the JSONs) were written.
        checkpoint: whose labels they are.
    """

    folder: Path
    images: int
    labelled: int
    segments: int
    things: int
    vanished: list[tuple[str | int, int]]
    void: float
    confidence: float | None
    resumed: int = 0
    unreadable: list[str] = field(default_factory=list)
    written: list[str] = field(default_factory=list)
    complete: bool = True
    checkpoint: Path | None = None


def export_labels(
    model: str | os.PathLike[str],
    dataset: str,
    output: str | os.PathLike[str],
    options: ExportOptions | None = None,
    config_file: str | os.PathLike[str] = "",
    opts: Sequence[str] = (),
    progress: bool = False,
    weights: str | None = None,
) -> ExportSummary:
    """Write the dense labels that a model makes of a data set's points.

    An export that was interrupted is gone on with: images that are done are not computed again.
    ``panoptic.json``, and the lists of the other forms, appear when all images are done.

    Args:
        model, config_file, opts: see :func:`fdd.inference.trained_model.load_trained`. The
            checkpoint needs the parts that estimate labels.
        dataset: a registered point set, or the path of a data set file.
        output: folder; new, empty, or with an earlier export.
        options: by default ``ExportOptions()``.
        progress: show progress bars (on a terminal).
        weights: of a run, ``"best"`` or ``"final"`` (the default).

    Returns:
        Numbers for a report. With unreadable images and without ``skip_unreadable`` the data set is
        not complete: all other images are done, the lists are not written.

    Raises:
        FileNotFoundError, ValueError: something named is missing or does not go together.
    """
    options = options or ExportOptions()
    options.check()
    folder = ExportFolder(output)
    folder.check()
    name = resolve_name(dataset, "points", config_file)
    trained = _load(model, config_file, opts, options, weights)
    maker = choose_maker(trained.cfg, options)
    images = list_sources(trained, name)
    check_formats(options.formats, MetadataCatalog.get(name).categories)
    settings = label_settings(trained, name, maker, options)
    folder.begin(settings, options.overwrite)
    done = folder.read([PANOPTIC, CONFIDENCE][: 1 + options.confidence_maps])
    resumed = sum(image.image_id in done for image in images)
    job = _Job(trained, folder, options, maker, progress)
    unreadable = job.run([image for image in images if image.image_id not in done], done)
    exported = [
        _exported(image, done[image.image_id]) for image in images if image.image_id in done
    ]
    complete = bool(exported) and (not unreadable or options.skip_unreadable)
    metadata = MetadataCatalog.get(name)
    written: list[str] = []
    if complete:
        info = _info(metadata.points_json, settings)
        export = Export(folder.root, metadata.categories, exported, info)
        # What an earlier call left would lack the images that are new.
        earlier = written_formats(folder.root) if len(done) > resumed else []
        names = {*options.formats, *earlier}
        written = write_formats(export, names, _progress(progress))
        if options.confidence_maps:
            written.append(f"{CONFIDENCE}/: 255 times the probability of each pixel's label")
    things = {c["id"] for c in metadata.categories if c["isthing"]}
    summary = _summarise(folder.root, exported, [done[i.image_id] for i in exported], things)
    return replace(
        summary,
        resumed=resumed,
        unreadable=unreadable,
        written=written,
        complete=complete,
        checkpoint=trained.checkpoint,
    )


def _load(
    model: str | os.PathLike[str],
    config_file: str | os.PathLike[str],
    opts: Sequence[str],
    options: ExportOptions,
    weights: str | None,
) -> TrainedModel:
    try:
        keys = [*opts, *own_keys(options)]
        return load_trained(model, config_file, keys, full=True, weights=weights)
    except CheckpointError as error:
        if options.maker and "embedding" in get_label_maker(options.maker).wants:
            raise CheckpointError(
                f"{error} Where the model was not trained for label maker {options.maker!r}, add "
                "MODEL.FDD.DISTANCE.EMBEDDING False, and its labels do without the learned part."
            ) from error
        raise


class _Job:
    """Computes and writes the labels of images."""

    def __init__(
        self,
        trained: TrainedModel,
        folder: ExportFolder,
        options: ExportOptions,
        maker: str,
        progress: bool,
    ) -> None:
        self.model: Any = trained.model
        self.cfg, self.folder = trained.cfg, folder
        self.options, self.maker, self.progress = options, maker, progress

    def run(
        self, images: Sequence[ImageSource], done: dict[str | int, dict[str, Any]]
    ) -> list[str]:
        """Do all of ``images`` and add their records to ``done``; returns what went wrong."""
        if not images:
            return []
        views = Views(self.cfg, self.options.scales, self.options.flip)
        if self.options.batch > 1:
            images = sorted(images, key=lambda i: (i.record["height"], i.record["width"]))
        loader = build_view_loader(
            self.cfg, [image.record for image in images], views, self.options.batch
        )
        problems = []
        total = len(images) + len(done)
        with _bar(self.progress, total=total, initial=len(done), desc="labels") as bar:
            for batch in loader:
                readable = [x for x in batch if "problem" not in x]
                problems += [x["problem"] for x in batch if "problem" in x]
                # Padding to a larger neighbour would change the features near the border.
                for _, group in itertools.groupby(readable, key=_input_sizes):
                    alike = list(group)
                    sources = [images[x["index"]] for x in alike]
                    for record in self._label(alike, sources, views):
                        done[record["image_id"]] = record
                bar.update(len(batch))
        return problems

    def _label(
        self, batch: list[dict[str, Any]], sources: list[ImageSource], views: Views
    ) -> list[dict[str, Any]]:
        inputs = [[x["views"][v] for x in batch] for v in range(len(views.mappers))]
        if self.maker == "learned":
            found = estimate_averaged(self.model, inputs, views.flipped)
            labels: list[Any] = [(f.label, f.probability) for f in found]
        else:
            results = self.model.estimate_labels(inputs[0])
            labels = [(r["pseudo_labels"][self.maker], None) for r in results]
        return [
            self._write(source, x, label.numpy(), None if prob is None else prob.numpy())
            for source, x, (label, prob) in zip(sources, inputs[0], labels, strict=True)
        ]

    def _write(
        self, source: ImageSource, x: dict[str, Any], label: np.ndarray, prob: np.ndarray | None
    ) -> dict[str, Any]:
        instances = [source.instances[n] for n in x["instance_ids"]]
        where = f"image {source.image_id!r}"
        segmented = make_segments(label, instances, prob, where)
        if self.options.confidence_maps and prob is not None:
            path = self.folder.root / CONFIDENCE / source.png
            with atomic_path(path) as temporary:
                Image.fromarray(np.round(255 * prob).astype(np.uint8)).save(temporary)
        save_segment_ids(self.folder.root / PANOPTIC / source.png, segmented.ids)
        record = {
            "image_id": source.image_id,
            "png": source.png,
            "segments": segmented.segments,
            "vanished": segmented.vanished,
            "void": int((segmented.ids == 0).sum()),
        }
        self.folder.add(record)
        return record


def _input_sizes(x: dict[str, Any]) -> list[tuple[int, ...]]:
    return [tuple(view["image"].shape) for view in x["views"]]


def _info(points_json: str, settings: dict[str, Any]) -> dict[str, Any]:
    kept = ("maker", "min_confidence", "scales", "flip")
    return {key: settings[key] for key in kept} | {
        "description": f"Dense labels made from the points of {Path(points_json).name}",
        "contributor": f"fdd {fdd.__version__}",
    }


def _summarise(
    root: Path,
    images: Sequence[ExportedImage],
    records: Sequence[dict[str, Any]],
    things: set[int],
) -> ExportSummary:
    segments = [s for image in images for s in image.segments]
    scores = [s["score"] for s in segments if "score" in s]
    pixels = sum(image.height * image.width for image in images)
    return ExportSummary(
        folder=root,
        images=len(images),
        labelled=sum(image.labelled for image in images),
        segments=len(segments),
        things=sum(s["category_id"] in things for s in segments),
        vanished=[(r["image_id"], n) for r in records for n in r["vanished"]],
        void=sum(r["void"] for r in records) / max(1, pixels),
        confidence=float(np.mean(scores)) if scores else None,
    )


def _exported(source: ImageSource, record: dict[str, Any]) -> ExportedImage:
    return ExportedImage(
        image_id=source.image_id,
        file_name=source.file_name,
        height=int(source.record["height"]),
        width=int(source.record["width"]),
        source=source.record["file_name"],
        png=record["png"],
        segments=record["segments"],
        labelled=bool(source.record["points"]),
    )


def _progress(show: bool) -> Callable[[str, Sequence[ExportedImage]], Iterable[ExportedImage]]:
    return lambda name, images: _bar(show, iterable=images, desc=name)


def _bar(show: bool, **options: Any) -> Any:
    # None: only where somebody looks, not in a log file.
    return tqdm(unit="image", disable=None if show else True, smoothing=0.1, **options)
