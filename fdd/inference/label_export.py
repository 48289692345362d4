"""Dense labels of a trained model as a data set: COCO panoptic, and other formats made from it."""

from __future__ import annotations

import hashlib
import itertools
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, DatasetFromList, MetadataCatalog
from detectron2.data import transforms as T
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

import fdd
from fdd.config import label_maker_of
from fdd.data import FDDDatasetMapper
from fdd.data.augmentation import HFlipTransform, ResizeShortestEdge, ResizeTransform
from fdd.data.dataset_files import resolve_name
from fdd.engine.checkpoint import CheckpointError
from fdd.engine.checks import DatasetError
from fdd.engine.loader import worker_options
from fdd.export_formats import (
    Export,
    ExportedImage,
    ExportFolder,
    Instance,
    check_formats,
    get_export_format,
    make_segments,
    png_names,
    write_formats,
    written_formats,
)
from fdd.export_formats.panoptic import PANOPTIC
from fdd.inference.trained_model import TrainedModel, check_model_dataset, load_trained
from fdd.modeling.label_makers import get_label_maker
from fdd.modeling.pseudo_labels.averaging import estimate_averaged
from fdd.points import read_points
from fdd.points.coco_panoptic import save_segment_ids
from fdd.points.files import atomic_path

__all__ = [
    "ExportOptions",
    "ExportSummary",
    "ImageSource",
    "ImageViews",
    "ResizeToScale",
    "Views",
    "build_view_loader",
    "choose_maker",
    "export_labels",
    "label_settings",
    "list_sources",
    "own_keys",
]


@dataclass(frozen=True)
class ExportOptions:
    """How labels are made and written.

    Attributes:
        maker: label maker, by default the model's own.
        min_confidence: in [0, 1]; pixels whose label is less probable become void, but for the
            points' own cells. None: ``MODEL.FDD.PSEUDO.LABEL_MIN_PROB``, as in training.
        scales: factors of the size at test time. The probabilities of all are averaged.
        flip: average over the mirrored image, too.
        confidence_maps: write ``confidence/*.png``, 255 times the probability.
        formats: names of :mod:`fdd.export_formats`; "panoptic" is always written.
        batch: images at a time, of those whose inputs have one size.
        workers: processes that read images; None: ``DATALOADER.NUM_WORKERS``.
        overwrite: replace an export with other settings.
        skip_unreadable: write the data set without the images that cannot be read.
    """

    maker: str = ""
    min_confidence: float | None = None
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    confidence_maps: bool = False
    formats: tuple[str, ...] = (PANOPTIC,)
    batch: int = 1
    workers: int | None = None
    overwrite: bool = False
    skip_unreadable: bool = False

    def check(self) -> None:
        """
        Raises:
            ValueError: a value is out of its range, or what is asked for does not go together.
        """
        bad = [s for s in self.scales if not (math.isfinite(s) and s > 0)]
        if not self.scales or bad or len(set(self.scales)) < len(self.scales):
            raise ValueError(
                f"scales are {list(self.scales)}; expected different numbers above 0, such as 1 1.5"
            )
        if self.min_confidence is not None and not 0 <= self.min_confidence <= 1:
            raise ValueError(f"the minimum confidence is {self.min_confidence}; expected 0 to 1")
        for name in self.formats:
            get_export_format(name)
        if self.batch < 1 or (self.workers or 0) < 0:
            raise ValueError("expected a batch of at least 1 image, and 0 workers or more")
        if self.maker and "masks" in get_label_maker(self.maker).needs:
            raise ValueError(
                f"label maker {self.maker!r} copies true masks; to export labels made from points, "
                "name another one"
            )
        if self.maker not in ("", "learned") and self.needs_probabilities:
            raise ValueError(
                f"label maker {self.maker!r} gives no probabilities: a minimum confidence, "
                "confidence maps, scales and flips need 'learned'"
            )

    @property
    def needs_probabilities(self) -> bool:
        """Whether only learned labels will do: views are averaged, or confidences are used."""
        averages = self.flip or tuple(self.scales) != (1.0,)
        return averages or self.confidence_maps or bool(self.min_confidence)


def own_keys(options: ExportOptions) -> list[str]:
    """The config keys, with values, of which some options are other names."""
    baselines = f"('{options.maker}',)" if options.maker else "()"
    keys = ["TEST.PSEUDO_LABELS.BASELINES", baselines]
    if options.min_confidence is not None:
        keys += ["MODEL.FDD.PSEUDO.LABEL_MIN_PROB", str(float(options.min_confidence))]
    if options.workers is not None:
        keys += ["DATALOADER.NUM_WORKERS", str(options.workers)]
    return keys


def choose_maker(cfg: CfgNode, options: ExportOptions) -> str:
    """The label maker that a model's labels are exported of.

    Raises:
        ValueError: the model makes none, or not what the options ask for.
    """
    maker = options.maker or label_maker_of(cfg)
    if maker == "full":
        raise ValueError(
            "the model was trained on full masks (MODEL.FDD.PAN_SUPERVISION 'full') and makes no "
            "labels from points; name a rule with --maker, such as 'nearest', or another model"
        )
    if maker != "learned" and options.needs_probabilities:
        raise ValueError(
            f"the model's label maker is {maker!r}, which gives no probabilities: a minimum "
            "confidence, confidence maps, scales and flips need a model that learned its labels "
            "(MODEL.FDD.LABEL_MAKER 'learned')"
        )
    return maker


@dataclass(frozen=True)
class ImageSource:
    """An image to export: its dataset dict, and what the label file calls it."""

    record: dict[str, Any]
    file_name: str
    png: str
    instances: dict[int, Instance]

    @property
    def image_id(self) -> str | int:
        return self.record["image_id"]


def list_sources(trained: TrainedModel, name: str) -> list[ImageSource]:
    """The set's images, checked against the model's classes."""
    check_model_dataset(trained, name, "--dataset")
    metadata = MetadataCatalog.get(name)
    if not metadata.get("points_json"):
        raise DatasetError(
            f"{name!r} has no point labels to make dense ones from; name a point set"
        )
    categories = metadata.categories
    dicts = DatasetCatalog.get(name)
    if not dicts:
        raise DatasetError(f"{name!r} holds no image; check its label file")
    file_names = [image.file_name for image in read_points(metadata.points_json).images]
    return [
        ImageSource(
            record,
            file_name,
            png,
            {
                s["instance_id"]: Instance(
                    s["instance_id"], categories[s["category_id"]]["id"], bool(s["isthing"])
                )
                for s in record["points"]
            },
        )
        for record, file_name, png in zip(dicts, file_names, png_names(file_names), strict=True)
    ]


def label_settings(
    trained: TrainedModel, name: str, maker: str, options: ExportOptions
) -> dict[str, Any]:
    """What decides the labels. Another value of any makes another data set."""
    metadata, cfg = MetadataCatalog.get(name), trained.cfg.clone()
    cfg.defrost()
    cfg.MODEL.WEIGHTS = cfg.MODEL.DEVICE = ""
    cfg.MODEL.FDD.PSEUDO.LABEL_MIN_PROB = 0.0  # is named below
    config = cfg.MODEL.dump() + cfg.INPUT.dump()
    return {
        "checkpoint": _checksum(trained.checkpoint),
        "config": hashlib.sha256(config.encode()).hexdigest(),
        "points file": _checksum(metadata.points_json),
        "image folder": os.path.abspath(metadata.image_root),
        "maker": maker,
        "min_confidence": float(trained.cfg.MODEL.FDD.PSEUDO.LABEL_MIN_PROB),
        "scales": [float(s) for s in options.scales],
        "flip": options.flip,
        "confidence_maps": options.confidence_maps,
    }


def _checksum(path: str | os.PathLike[str]) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


class ResizeToScale(T.Augmentation):
    """The test time resize, and from its size on by a factor; at 1 it is exactly that resize."""

    def __init__(self, min_size: int, max_size: int, scale: float) -> None:
        """
        Args:
            min_size, max_size: ``INPUT.MIN_SIZE_TEST`` (0 keeps the image's size) and
                ``INPUT.MAX_SIZE_TEST``.
            scale: factor, above 0.
        """
        super().__init__()
        self.min_size, self.max_size, self.scale = min_size, max_size, scale

    def get_transform(self, image: Any) -> T.Transform:
        """The resize of this image."""
        usual = ResizeShortestEdge(self.min_size, self.max_size, "choice").get_transform(image)
        height, width = image.shape[:2]
        size = (usual.new_h, usual.new_w) if isinstance(usual, ResizeTransform) else (height, width)
        new = [max(1, round(side * self.scale)) for side in size]
        return ResizeTransform(height, width, *new)


class _Mirror(T.Augmentation):
    def get_transform(self, image: Any) -> T.Transform:
        return HFlipTransform(image.shape[1])


class Views:
    """Which views are made of an image."""

    def __init__(self, cfg: CfgNode, scales: Sequence[float] = (1.0,), flip: bool = False) -> None:
        """
        Args:
            cfg: of the model.
            scales: factors of the size at test time; the first one's cells are the points' own.
            flip: each scale is also looked at mirrored left to right.
        """
        self.flipped: list[bool] = []
        self.mappers: list[FDDDatasetMapper] = []
        for scale in scales:
            resize = ResizeToScale(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST, scale)
            for flipped in (False, True)[: 1 + flip]:
                steps = [_Mirror(), resize] if flipped else [resize]
                mapper = FDDDatasetMapper(cfg, is_train=False, augmentations=steps)
                self.mappers.append(mapper)
                self.flipped.append(flipped)


class ImageViews(Dataset):
    """An image as a dict: ``index``, and ``views`` or, if it cannot be read, ``problem``."""

    def __init__(self, dicts: Sequence[dict[str, Any]], views: Views) -> None:
        self.dicts = DatasetFromList(list(dicts), copy=True, serialize=True)
        self.views = views

    def __len__(self) -> int:
        return len(self.dicts)

    def __getitem__(self, index: int) -> dict[str, Any]:
        record = self.dicts[index]
        try:
            return {"index": index, "views": [mapper(record) for mapper in self.views.mappers]}
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            return {"index": index, "problem": str(error)}


def build_view_loader(
    cfg: CfgNode, dicts: Sequence[dict[str, Any]], views: Views, batch: int = 1
) -> DataLoader[Any]:
    """Yields lists of up to ``batch`` images as :class:`ImageViews` has them, in order."""
    dataset = ImageViews(dicts, views)
    return DataLoader(dataset, batch_size=batch, shuffle=False, **worker_options(cfg))


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
        written: a line about each format.
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

    An interrupted export is continued: images that are done are not computed again.
    ``panoptic.json``, and the lists of the other formats, appear when all images are done.

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
    keys = [*opts, *own_keys(options)]
    try:
        trained = load_trained(model, config_file, keys, full=True, weights=weights)
    except CheckpointError as error:
        if options.maker and "embedding" in get_label_maker(options.maker).wants:
            raise CheckpointError(
                f"{error} Where the model was not trained for label maker {options.maker!r}, add "
                "MODEL.FDD.DISTANCE.EMBEDDING False: its labels then do without the learned part."
            ) from error
        raise
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
        ExportedImage(
            image_id=image.image_id,
            file_name=image.file_name,
            height=int(image.record["height"]),
            width=int(image.record["width"]),
            source=image.record["file_name"],
            png=done[image.image_id]["png"],
            segments=done[image.image_id]["segments"],
            labelled=bool(image.record["points"]),
        )
        for image in images
        if image.image_id in done
    ]
    complete = bool(exported) and (not unreadable or options.skip_unreadable)
    metadata = MetadataCatalog.get(name)
    written: list[str] = []
    if complete:
        points_file = Path(metadata.points_json).name
        info = {key: settings[key] for key in ("maker", "min_confidence", "scales", "flip")} | {
            "description": f"Dense labels made from the points of {points_file}",
            "contributor": f"fdd {fdd.__version__}",
        }
        export = Export(folder.root, metadata.categories, exported, info)
        # Formats that an earlier call wrote would lack the images that are new.
        earlier = written_formats(folder.root) if len(done) > resumed else []
        written = write_formats(
            export,
            {*options.formats, *earlier},
            lambda name, images: _bar(progress, iterable=images, desc=name),
        )
        if options.confidence_maps:
            written.append(f"{CONFIDENCE}/: 255 times the probability of each pixel's label")
    records = [done[image.image_id] for image in exported]
    segments = [s for image in exported for s in image.segments]
    scores = [s["score"] for s in segments if "score" in s]
    things = {c["id"] for c in metadata.categories if c["isthing"]}
    pixels = sum(image.height * image.width for image in exported)
    return ExportSummary(
        folder=folder.root,
        images=len(exported),
        labelled=sum(image.labelled for image in exported),
        segments=len(segments),
        things=sum(s["category_id"] in things for s in segments),
        vanished=[(r["image_id"], n) for r in records for n in r["vanished"]],
        void=sum(r["void"] for r in records) / max(1, pixels),
        confidence=float(np.mean(scores)) if scores else None,
        resumed=resumed,
        unreadable=unreadable,
        written=written,
        complete=complete,
        checkpoint=trained.checkpoint,
    )


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


def _bar(show: bool, **options: Any) -> Any:
    # None: on a terminal only, not in a log file.
    return tqdm(unit="image", disable=None if show else True, smoothing=0.1, **options)
