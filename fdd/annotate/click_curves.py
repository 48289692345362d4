"""Curves of a data set: how good labels get with each click of a simulated annotator."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.data import DatasetCatalog

from fdd.annotate.actions import Segment
from fdd.annotate.live import LiveLabeller
from fdd.annotate.simulate import Labeller, Suggester, Truth, simulate_clicks
from fdd.data import FDDDatasetMapper, get_metadata
from fdd.data.catalog import contiguous_categories
from fdd.data.dataset_files import resolve_name
from fdd.data.images import ImageFileError
from fdd.engine.checks import DatasetError
from fdd.evaluation import PanopticGroundTruth
from fdd.inference.trained_model import TrainedModel, check_model_dataset
from fdd.modeling.label_makers import MakerInputs, get_label_maker
from fdd.modeling.pseudo_labels.estimation import estimate_image
from fdd.points import Category
from fdd.points.raster import dilated_side

__all__ = ["click_curves"]

# Labels are compared with masks at the original size.
_ANY_SIZE = 10**9


def click_curves(
    trained: TrainedModel,
    dataset: str,
    makers: Sequence[str],
    *,
    images: int,
    clicks: int,
    strategy: str,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[dict[str, Any], list[str]]:
    """The curves of all makers, for JSON, and what is wrong with images that cannot be read.

    Raises:
        ValueError: the data set has no masks or other classes than the model, or no image of it has
            a segment.
    """
    name = resolve_name(dataset, "points")
    check_model_dataset(trained, name, "the data set of the clicks")
    truth = PanopticGroundTruth.find(name, None, None, None)
    metadata = get_metadata(name)
    classes = [Category(c["id"], c["name"], bool(c["isthing"])) for c in metadata.categories]
    category_ids = np.array([c.id for c in classes])
    live = {"nearest": LiveLabeller(None, classes, max_side=_ANY_SIZE)}
    if "learned" in makers:
        live["learned"] = LiveLabeller(trained, classes, max_side=_ANY_SIZE)
    of_model = [m for m in makers if m != "learned" and get_label_maker(m).needs]
    rules = _ModelRules(trained, classes, of_model) if of_model else None
    with_masks = [
        r
        for r in DatasetCatalog.get(name)
        if r["image_id"] in truth and len(truth[r["image_id"]].ids)
    ]
    chosen = _spread(with_masks, images)
    rows: list[dict[str, Any]] = []
    unreadable: list[str] = []
    spent: dict[str, list[float]] = {maker: [] for maker in makers}
    for done, record in enumerate(chosen):
        image_id = record["image_id"]
        masks = Truth.of_masks(truth.read(image_id), truth[image_id], category_ids)
        if not len(masks.ids):
            continue
        height, width = masks.label.shape
        size, path = (height, width), Path(record["file_name"])
        row: dict[str, Any] = {"image_id": image_id, "segments": len(masks.ids), "makers": {}}
        try:
            for maker in makers:
                label_of = _labeller(maker, live, path, size, spent[maker], masks, trained, rules)
                suggest = _suggester(live.get(maker), path, size)
                if (labeller := live.get(maker)) is not None:
                    labeller.open(path)
                curve = simulate_clicks(
                    masks, label_of, clicks, strategy=strategy, suggest=suggest, seed=seed
                )
                values = {"clicks": curve.clicks, "segments": curve.quality, "pq": curve.pq}
                row["makers"][maker] = values
        except (ImageFileError, OSError) as error:
            unreadable.append(str(error))
            continue
        rows.append(row)
        if progress is not None:
            progress(done + 1, len(chosen))
    if not rows:
        problem = unreadable[0] if unreadable else "no image has a mask of a segment"
        raise DatasetError(f"{dataset}: nothing to click. {problem}")
    curves = {
        maker: {
            key: np.mean([row["makers"][maker][key] for row in rows], 0).round(3).tolist()
            for key in ("segments", "pq")
        }
        | {"milliseconds": round(float(np.median(spent[maker])), 2)}
        for maker in makers
    }
    head: dict[str, Any] = {
        "model": str(trained.checkpoint),
        "dataset": dataset,
        "strategy": strategy,
    }
    head |= {"seed": seed, "clicks_a_segment": list(range(1, clicks + 1))}
    return head | {"makers": curves, "images": rows}, unreadable


class _ModelRules:
    """Labels by rules that look at a model's semantic branch or at its backbone's features. The
    pseudo label branch does not run, and the network runs once an image."""

    def __init__(self, trained: TrainedModel, classes: Sequence[Category], names: Sequence[str]):
        self.model: Any = trained.model
        makers = map(get_label_maker, names)
        self._sources = frozenset[str]().union(*(maker.needs | maker.wants for maker in makers))
        self._mapper = FDDDatasetMapper(trained.cfg, is_train=False)
        ids = {c.id: n for n, c in enumerate(contiguous_categories(classes))}
        self._class_of, self._things = ids, trained.cfg.MODEL.FDD.NUM_THINGS
        self._path: Path | None = None

    @torch.no_grad()
    def open(self, path: Path) -> None:
        """Run the network, if the image is not the last one."""
        if path == self._path:
            return
        record = {"file_name": str(path), "image_id": path.name}
        self._example, self._transforms = self._mapper.read(record)
        images = self.model.preprocess([self._example])
        height, width = images.image_sizes[0]
        self._size = int(height), int(width)
        self._output = self.model.estimate_without_points(images, self._sources)
        self._path = path

    @torch.no_grad()
    def label(self, maker: str, path: Path, segments: Sequence[Segment]) -> np.ndarray:
        """(H, W) int position among the segments, at the original size."""
        self.open(path)
        points = [
            {
                "instance_id": position,
                "category_id": self._class_of[segment.category_id],
                "isthing": self._class_of[segment.category_id] < self._things,
                "coords": [[float(x), float(y)] for x, y in segment.points],
            }
            for position, segment in enumerate(segments)
        ]
        record = self._example | {"points": points}
        x = self._example | self._mapper.map_points(record, self._transforms, self._size)
        settings = replace(self.model.label_settings, maker=maker, baselines=())
        result = estimate_image(x, 0, self._output, self._size, settings)
        label = result["pseudo_labels"][maker].numpy()
        order = np.array(x["instance_ids"], np.int32)
        return np.where(label >= 0, order[label.clip(min=0)], -1)


def _labeller(
    maker: str,
    live: Mapping[str, LiveLabeller],
    path: Path,
    size: tuple[int, int],
    spent: list[float],
    masks: Truth,
    trained: TrainedModel,
    rules: _ModelRules | None,
) -> Labeller:
    """A labeller of an image, which notes the milliseconds that each label took."""
    labeller = live.get(maker)
    if labeller is not None:

        def by_live(segments: Sequence[Segment]) -> np.ndarray:
            found = labeller.label(path, segments, size)
            spent.append(found.milliseconds)
            return found.label

        return by_live

    if rules is not None and get_label_maker(maker).needs:
        rules.open(path)

        def by_model_rule(segments: Sequence[Segment]) -> np.ndarray:
            start = time.perf_counter()
            label = rules.label(maker, path, segments)
            spent.append(1000 * (time.perf_counter() - start))
            return label

        return by_model_rule

    rule, points = get_label_maker(maker), trained.cfg.INPUT.POINTS
    side = dilated_side(size[0], size[1], points.DILATE_SIDE, points.DILATE_REFERENCE, 1)

    def by_rule(segments: Sequence[Segment]) -> np.ndarray:
        start = time.perf_counter()
        counts = torch.tensor([len(s.points) for s in segments])
        inputs = MakerInputs(
            coords=torch.tensor([p for s in segments for p in s.points]),
            index=torch.arange(len(segments)).repeat_interleave(counts),
            classes=torch.from_numpy(masks.classes),
            grid=(size[0], size[1]),
            stride=(1.0, 1.0),
            square_side=side,
            num_things=trained.cfg.MODEL.FDD.NUM_THINGS,
        )
        label = rule(inputs).numpy()
        spent.append(1000 * (time.perf_counter() - start))
        return label

    return by_rule


def _suggester(
    labeller: LiveLabeller | None, path: Path, size: tuple[int, int]
) -> Suggester | None:
    if labeller is None:
        return None
    return lambda segments: [(s.x, s.y) for s in labeller.suggestions(path, segments, size)]


def _spread(records: Sequence[Any], count: int) -> list[Any]:
    """At most ``count``, evenly spread."""
    if len(records) <= count:
        return list(records)
    return [records[n * len(records) // count] for n in range(count)]
