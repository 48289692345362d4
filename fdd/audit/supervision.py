"""Proof that a training on points is given points, and no box, area or mask.

Three checks of the training path itself (registration, loading, the loader, the mapper):

* every key of what the loader passes to the mapper, and the mapper to the model, is on a list, and
  the coordinates are those of the label file;
* every file opened on the way is an image, the label file or, for its list of categories alone,
  the JSON of the masks;
* with masks, boxes and areas scrambled, and with the masks removed, the mapper's output is the
  same, bit for bit. This holds whatever the first two may have missed of the masks that the data
  set file names; masks found in another way show up among the opened files.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode

from fdd.audit.file_trace import OpenedFile, trace_opens
from fdd.data import FDDDatasetMapper, resolve_dataset_files
from fdd.data.catalog import forget
from fdd.engine.configs import new_cfg
from fdd.engine.loader import build_train_loader, load_training_dicts
from fdd.points import read_points
from fdd.points.coco_panoptic import (
    PanopticWriter,
    is_inside,
    read_panoptic_json,
    save_segment_ids,
)
from fdd.points.files import write_json
from fdd.points.rules import CheckTarget, Finding
from fdd.points.void import without_void
from fdd.points.wording import counted

__all__ = [
    "DICT_KEYS",
    "EXAMPLE_KEYS",
    "AuditResult",
    "LoadDicts",
    "MakeMapper",
    "Run",
    "TrainingPath",
    "audit_supervision",
    "differences",
    "no_masks",
    "scrambled_masks",
    "write_dataset_file",
]

LoadDicts = Callable[[CfgNode], list[dict[str, Any]]]
MakeMapper = Callable[[CfgNode], Callable[[dict[str, Any]], dict[str, Any]]]


@dataclass
class Run:
    """The dataset dicts, what the mapper was given, and what it gave."""

    dicts: list[dict[str, Any]]
    given: list[dict[str, Any]]
    examples: list[dict[str, Any]]


@dataclass
class TrainingPath:
    """Loads and maps the first images of a training, in this process and always in one order."""

    num_images: int
    cfg: CfgNode | None
    load_dicts: LoadDicts
    make_mapper: MakeMapper

    def run(self, dataset_file: Path, keep: bool = False) -> Run:
        """Train on ``dataset_file`` as far as the model; ``keep`` leaves it registered."""
        cfg = new_cfg() if self.cfg is None else self.cfg.clone()
        cfg.defrost()
        cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (str(dataset_file),), ()
        cfg.SOLVER.IMS_PER_BATCH, cfg.DATALOADER.NUM_WORKERS = 1, 0
        cfg.DATALOADER.ASPECT_RATIO_GROUPING = False
        cfg.SEED, cfg.MODEL.DEVICE = max(0, cfg.SEED), "cpu"
        cfg.MODEL.FDD.PAN.NUM_QUERIES = 2**31  # too many things are another rule's matter
        resolve_dataset_files(cfg)
        try:
            dicts = self.load_dicts(cfg)
            mapper = self.make_mapper(cfg)
            given: list[dict[str, Any]] = []

            def recording(record: dict[str, Any]) -> dict[str, Any]:
                given.append(record)
                return mapper(record)

            count = min(self.num_images, len(dicts))
            loader = build_train_loader(cfg, dicts=dicts, mapper=recording)
            examples = [example for (example,) in islice(loader, count)]
        finally:
            if not keep:
                forget(cfg.DATASETS.TRAIN[0])
        return Run(dicts, given, examples)


def write_dataset_file(target: CheckTarget, path: Path, masks: tuple[Path, Path] | None) -> Path:
    """Describe the labels and images of ``target`` with these masks in ``path``."""
    entry: dict[str, Any] = {
        "images": str(Path(str(target.images)).absolute()),
        "points": str(target.points.absolute()),
    }
    if masks:
        entry["masks"] = {"json": str(masks[0].absolute()), "folder": str(masks[1].absolute())}
    path.write_text(json.dumps(entry), encoding="utf-8")  # JSON is YAML
    return path


def scrambled_masks(target: CheckTarget, run: Run, folder: Path) -> tuple[Path, Path]:
    """A copy of the masks with noise for pixels, boxes, areas, ids and classes.

    Only the PNGs of the images that went through the mapper are written.

    Raises:
        PointLabelError: the JSON is not a COCO panoptic JSON.
    """
    assert target.masks is not None
    read_panoptic_json(target.masks.json)  # for its checks
    rng = np.random.default_rng(0)
    document = json.loads(target.masks.json.read_bytes().decode("utf-8-sig"))
    sizes = {d["image_id"]: (d["height"], d["width"]) for d in run.examples}
    for annotation in document.get("annotations", ()):
        segments = annotation.get("segments_info", ())
        ids = rng.permutation(2**16)[: len(segments)] + 1
        classes = rng.permutation([s["category_id"] for s in segments]).tolist()
        for segment, number, category_id in zip(segments, ids.tolist(), classes, strict=True):
            segment.update(id=number, category_id=category_id, area=int(rng.integers(1, 1000)))
            segment["bbox"] = rng.integers(0, 100, 4).tolist()
        if annotation["image_id"] in sizes and is_inside(annotation["file_name"]):
            noise = rng.integers(0, 2**24, sizes[annotation["image_id"]])
            if len(ids):
                noise = ids[noise % len(ids)]
            save_segment_ids(folder / "masks" / annotation["file_name"], noise)
    (folder / "masks").mkdir(parents=True, exist_ok=True)
    write_json(folder / "masks.json", document, allow_nan=True)
    return folder / "masks.json", folder / "masks"


def no_masks(target: CheckTarget, folder: Path) -> tuple[Path, Path]:
    """A JSON of masks with the categories and nothing else, and an empty folder."""
    assert target.masks is not None
    document = json.loads(target.masks.json.read_bytes().decode("utf-8-sig"))
    (folder / "masks").mkdir(parents=True)
    PanopticWriter(document["categories"]).write(folder / "masks.json")
    return folder / "masks.json", folder / "masks"


def differences(first: Run, second: Run) -> Iterator[tuple[Any, str]]:
    """Image id and key of what is not the same in two runs."""
    if len(first.dicts) != len(second.dicts) or len(first.examples) != len(second.examples):
        yield None, "the number of images"
        return
    for a, b in zip(first.examples, second.examples, strict=True):
        for key in {**a, **b}:
            if key not in a or key not in b or not _same(a[key], b[key]):
                yield a.get("image_id"), key


def _same(a: Any, b: Any) -> bool:
    if torch.is_tensor(a) and torch.is_tensor(b):
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        return bool(np.array_equal(a, b))
    return type(a) is type(b) and bool(a == b)


#: What the loader may hand to the mapper. ``[]`` stands for every element of a list.
DICT_KEYS = frozenset(
    {
        "file_name",
        "height",
        "width",
        "image_id",
        "_seed",
        "points",
        "points[].instance_id",
        "points[].category_id",
        "points[].isthing",
        "points[].coords",
        "void",
        "void[].width",
        "void[].line",
    }
)
#: What the mapper may hand to the model: the image, and what follows from points.
EXAMPLE_KEYS = frozenset(
    {
        "file_name",
        "height",
        "width",
        "image_id",
        "image",
        "diagonal",
        "classes",
        "instance_ids",
        "point_coords",
        "point_index",
        "point_cells",
        "point_instance_map",
        "point_semantic_map",
        "void",
        "void_map",
    }
)
#: The only code that may open the JSON of masks; it takes its ``categories``.
_CATEGORY_READERS = ("fdd.data.catalog._find_categories", "fdd.data.catalog._read_categories")


@dataclass
class AuditResult:
    """What the audit saw.

    Attributes:
        images, points: number of training images and of their points.
        examined: number of images that went through loader and mapper.
        dict_keys, example_keys: the keys that were seen.
        opened: kind of file -> number of files that were opened.
        experiments: one sentence each.
        findings: of the rules E601 to E604; empty if the proof holds.
    """

    images: int = 0
    points: int = 0
    examined: int = 0
    dict_keys: list[str] = field(default_factory=list)
    example_keys: list[str] = field(default_factory=list)
    opened: dict[str, int] = field(default_factory=dict)
    experiments: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    def statement(self) -> str:
        """The result as a few lines of text."""
        verdict = f"FAILED, {counted(len(self.findings), 'finding')}" if self.findings else "passed"
        opened = ", ".join(f"{n:,} {kind}" for kind, n in self.opened.items())
        lines = [
            f"Supervision audit: {verdict} ({counted(self.images, 'image')}, "
            f"{counted(self.points, 'point')}; {self.examined:,} of the images went through loader "
            "and mapper)",
            f"  the loader hands on: {', '.join(self.dict_keys)}",
            f"  the mapper hands on: {', '.join(self.example_keys)}",
            f"  files opened: {opened}",
            *(f"  {sentence}" for sentence in self.experiments),
        ]
        return "\n".join(lines)


def audit_supervision(
    target: CheckTarget,
    num_images: int = 32,
    *,
    cfg: CfgNode | None = None,
    load_dicts: LoadDicts = load_training_dicts,
    make_mapper: MakeMapper = FDDDatasetMapper,
) -> AuditResult:
    """Run the training path on a data set and see what reaches the model.

    Args:
        target: the data set; needs an image folder and valid labels.
        num_images: how many images go through the loader and the mapper, drawn as training draws
            them. The keys of all dataset dicts are checked.
        cfg: a training config; by default the package's defaults. Its data sets are not used.
        load_dicts: the loader, ``load_dicts(cfg)``; to audit one's own.
        make_mapper: the mapper, ``make_mapper(cfg)``; likewise.

    Raises:
        ValueError, FileNotFoundError: the data set cannot be trained on, or the config asks for
            full masks.
    """
    if target.images is None:
        raise ValueError("the supervision audit needs the images: name their folder")
    if cfg is not None and cfg.MODEL.FDD.PAN_SUPERVISION == "full":
        raise ValueError(
            "MODEL.FDD.PAN_SUPERVISION is 'full': this config trains on masks, and says so"
        )
    path = TrainingPath(num_images, cfg, load_dicts, make_mapper)
    result = AuditResult()
    with tempfile.TemporaryDirectory(prefix="fdd-audit-") as folder, _quiet():
        file = _dataset_file(target, Path(folder))
        with trace_opens() as opened:
            plain = path.run(file, keep=file.parent != Path(folder))
        result.images, result.examined = len(plain.dicts), len(plain.examples)
        _check_dicts(plain, target, result)
        _check_examples(plain, result)
        _check_opens(opened, plain, target, file, result)
        _check_experiments(path, plain, target, Path(folder), result)
    return result


def _dataset_file(target: CheckTarget, folder: Path) -> Path:
    """The data set file itself, or one that says the same."""
    file = target.file
    if file is not None and (target.images, target.points) == (file.images, file.points):
        return file.path
    masks = (target.masks.json, target.masks.folder) if target.masks else None
    return write_dataset_file(target, folder / "data.yaml", masks)


def _check_dicts(run: Run, target: CheckTarget, result: AuditResult) -> None:
    """E601: keys that are not on the list, and coordinates that are not in the label file."""
    source = str(target.points)
    seen: dict[str, Any] = {}
    for record in (*run.dicts, *run.given):
        for key in _key_paths(record):
            seen.setdefault(key, record.get("image_id"))
    result.dict_keys = _ordered(seen, DICT_KEYS)
    for key in sorted(set(seen) - DICT_KEYS):
        message = f"image {seen[key]!r}: the loader hands {key!r} to the mapper"
        result.findings.append(Finding("E601", message, source, seen[key]))
    labels = {i.image_id: without_void(i) for i in read_points(target.points).images}
    for record in (*run.dicts, *run.given):
        image_id: Any = record.get("image_id")
        image = labels.get(image_id)
        wanted = {s.id: [list(p) for p in s.points] for s in image.segments} if image else {}
        found = {p.get("instance_id"): p.get("coords") for p in record.get("points", ())}
        if found != wanted:
            message = f"image {image_id!r}: the points that the loader hands on are not the file's"
            result.findings.append(Finding("E601", message, source, image_id))
    result.points = sum(len(s["coords"]) for d in run.dicts for s in d.get("points", ()))


def _check_examples(run: Run, result: AuditResult) -> None:
    """E602: keys that are not on the list."""
    seen: dict[str, Any] = {}
    for example in run.examples:
        for key in _key_paths(example):
            seen.setdefault(key, example.get("image_id"))
    result.example_keys = _ordered(seen, EXAMPLE_KEYS)
    for key in sorted(set(seen) - EXAMPLE_KEYS):
        message = f"image {seen[key]!r}: the mapper hands {key!r} to the model"
        result.findings.append(Finding("E602", message, None, seen[key]))


def _key_paths(value: Any, prefix: str = "") -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield f"{prefix}{key}"
            yield from _key_paths(inner, f"{prefix}{key}.")
    elif isinstance(value, (list, tuple)):
        for inner in value:
            if isinstance(inner, dict):
                yield from _key_paths(inner, f"{prefix.removesuffix('.')}[].")


def _ordered(seen: dict[str, Any], known: frozenset[str]) -> list[str]:
    return [k for k in seen if k in known] + sorted(set(seen) - known)


def _check_opens(
    opened: Sequence[OpenedFile],
    run: Run,
    target: CheckTarget,
    dataset_file: Path,
    result: AuditResult,
) -> None:
    """E603: files other than images, labels and the categories of the masks' JSON."""
    kinds: dict[str, set[str]] = {}
    images = {os.path.realpath(d["file_name"]) for d in run.dicts}
    labels, yaml = (os.path.realpath(p) for p in (target.points, dataset_file))
    masks = target.masks and os.path.realpath(target.masks.json)
    for file in opened:
        path = os.path.realpath(file.path)
        if path in images:
            kind = "images"
        elif path == labels:
            kind = "label file"
        elif path == yaml:
            kind = "data set file"
        elif path == masks and file.reader in _CATEGORY_READERS:
            kind = f"JSON of masks (its categories only, by {file.reader})"
        elif file.is_library and not _is_of_masks(path, target):
            continue
        else:
            kind = "OTHER FILES"
            message = f"{file.path}: opened by {file.reader or 'unknown code'}"
            if path not in kinds.get(kind, ()):
                result.findings.append(Finding("E603", message, str(target.points)))
        kinds.setdefault(kind, set()).add(path)
    result.opened = {kind: len(paths) for kind, paths in kinds.items()}
    if target.masks is not None and "OTHER FILES" not in kinds:
        result.opened["mask PNGs"] = 0


def _is_of_masks(path: str, target: CheckTarget) -> bool:
    if target.masks is None:
        return False
    file, folder = (os.path.realpath(p) for p in (target.masks.json, target.masks.folder))
    return path == file or path.startswith(folder + os.sep)


def _check_experiments(
    path: TrainingPath, plain: Run, target: CheckTarget, folder: Path, result: AuditResult
) -> None:
    """E604: outputs that change with the masks."""
    if target.masks is None:
        result.experiments.append("no masks belong to the labelled images: nothing to scramble")
        return
    sets = {
        "masks, boxes and areas scrambled": scrambled_masks(target, plain, folder / "scrambled"),
        "masks taken away": no_masks(target, folder / "without"),
    }
    for what, masks in sets.items():
        file = write_dataset_file(target, folder / f"{masks[1].parent.name}.yaml", masks)
        try:
            other = path.run(file)
        # Any error of a loader whose masks are not as expected shows that it used them.
        except Exception as error:
            message = f"with {what}, the training path stops: {type(error).__name__}: {error}"
            result.findings.append(Finding("E604", message, str(target.masks.json)))
            result.experiments.append(f"{what}: the training path stops")
            continue
        different = list(differences(plain, other))
        for image_id, key in different:
            message = f"image {image_id!r}: with {what}, {key!r} is another"
            finding = Finding("E604", message, str(target.masks.json), image_id)
            result.findings.append(finding)
        verdict = f"{len(different)} differences" if different else "the same, bit for bit"
        result.experiments.append(f"{what}: what the model is given is {verdict}")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the log of this trial training off the terminal."""
    loggers = [logging.getLogger(name) for name in ("fdd", "detectron2")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
