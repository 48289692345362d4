"""The label of an image while its points are clicked: encoded once, answered at each click."""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from fdd.annotate.actions import Segment
from fdd.annotate.estimators import Estimator, FeatureEstimator, LearnedEstimator
from fdd.annotate.preview import NEAREST, Preview
from fdd.annotate.suggest import Evidence, Suggestion, image_gain, suggest
from fdd.data import FDDDatasetMapper
from fdd.data.catalog import contiguous_categories
from fdd.data.images import ImageFileError
from fdd.inference.report_source import examine_image
from fdd.inference.trained_model import TrainedModel
from fdd.modeling.label_makers import NETWORK_STRIDE, MakerInputs
from fdd.modeling.label_makers.rules import extent_labels
from fdd.modeling.pseudo_labels.estimation import obey_points
from fdd.modeling.tiled_argmax import argmax_of_logits, nearest_points
from fdd.points import Category, num_valid_cells
from fdd.points.structures import PointImage, PointSegment, VoidStroke
from fdd.points.void import void_mask, without_void

__all__ = ["ImageFigures", "LiveLabel", "LiveLabeller"]

# Cells of a side of the grid that suggestions are looked for on, where no network gives one.
_CELLS = 96


@dataclass(frozen=True)
class LiveLabel:
    """The label of an image.

    Attributes:
        label: (H, W) int32, position among the segments as they were given; -1 where there is
            void, and without segments. As large as the original image, or smaller: at most
            ``max_side`` on the longer side.
        confidence: (H, W) uint8, probability of the label, 255 sure; None where a rule makes it.
        maker: "learned", or without a model the rule of the preview.
        milliseconds: from points to label, without the encoding.
    """

    label: np.ndarray
    confidence: np.ndarray | None
    maker: str
    milliseconds: float


@dataclass(frozen=True)
class ImageFigures:
    """What is known of an image's label without masks.

    Attributes:
        score: label score, as the report has it, in percent; nan where there is none.
        gain: see :func:`fdd.annotate.suggest.image_gain`.
    """

    score: float
    gain: float


@dataclass(frozen=True)
class _Encoded:
    """An image in memory.

    Attributes:
        example: of the mapper, without the image and its points.
        transforms: that made its image. input_size: (H, W) of it. padded: with padding.
        known: what an :class:`Estimator` keeps of it. bytes: of that, which is nearly all.
    """

    example: dict[str, Any]
    transforms: Any
    input_size: tuple[int, int]
    padded: tuple[int, int]
    known: Any
    bytes: int


class LiveLabeller:
    """Labels images from points; may be called from several threads, and answers one at a time.

    The encoder runs when an image is opened. A click costs a pass of the label branch over all
    segments, and the label's argmax at the size shown.
    """

    def __init__(
        self,
        model: TrainedModel | None,
        categories: Sequence[Category],
        *,
        preview: Preview = NEAREST,
        max_side: int = 1600,
        cached: int = 3,
        cached_bytes: int = 640 << 20,
    ) -> None:
        """
        Args:
            model: with its training-only parts (``load_trained(..., full=True)``); None: the
                preview makes the labels.
            categories: of the data set; the model's are matched by name.
            preview: makes them where there is no model.
            max_side: of the labels, in pixels.
            cached: encoded images kept in memory, at least 1.
            cached_bytes: of all of these; the one looked at and the latest are kept in any case.

        Raises:
            ValueError: the model lacks a class, or has it of the other kind; or it makes no labels
                from points.
        """
        self.categories, self.max_side, self.cached = list(categories), max_side, max(1, cached)
        self.cached_bytes = cached_bytes
        self._names = {c.id: c.name for c in categories}
        self._labelling, self._encoding, self._state = (threading.Lock() for _ in range(3))
        self._images: OrderedDict[Path, _Encoded] = OrderedDict()
        self._open: Path | None = None
        self._next: Path | None = None
        self._worker: threading.Thread | None = None
        self._rule = preview.rule
        self._source: Estimator | None = None
        if model is not None:
            self._source = LearnedEstimator(model, self.categories)
        elif preview.features is not None:
            self._source = FeatureEstimator(preview.features, self.categories)
        if self._source is not None:
            self._mapper = FDDDatasetMapper(self._source.cfg, is_train=False)

    def open(self, path: Path) -> float:
        """Encode an image, or wait for :meth:`ahead` to; returns the seconds that it took.

        Raises:
            OSError, ImageFileError: it cannot be read. Without a network nothing is read.
        """
        start = time.perf_counter()
        if self._source is not None:
            self._encoded(Path(path), True)
        return time.perf_counter() - start

    def ahead(self, path: Path) -> None:
        """Encode an image in the background. At most one waits, the latest; errors are those of
        :meth:`open`, later. Where only one image is kept, nothing happens."""
        if self._source is None or self.cached < 2:
            return
        with self._state:
            self._next = Path(path)
            if self._worker is None:
                self._worker = threading.Thread(target=self._work, name="encode", daemon=True)
                self._worker.start()

    def close(self) -> None:
        """Wait for what is encoded in the background, and forget all images."""
        with self._state:
            self._next, worker = None, self._worker
        if worker is not None:
            worker.join()
        with self._state:
            self._images.clear()
            self._open = None

    def label(
        self,
        path: Path,
        segments: Sequence[Segment],
        size: tuple[int, int],
        void: Sequence[VoidStroke] = (),
    ) -> LiveLabel:
        """The label of an image; opens it if it is not open.

        Args:
            size: (height, width) of the original image, upright.
            void: what is to be ignored: points under it count for nothing.

        Raises:
            OSError, ImageFileError: as :meth:`open`; also an image of another size.
            ValueError: a segment has no point, an unknown class, or a point outside of the image.
        """
        self._check(segments, size)
        shown = _shown(size, self.max_side)
        given, segments = segments, _in_sight(segments, void, size)
        sure = None
        if self._source is None or not segments:
            start = time.perf_counter()
            label = self._by_points(segments, size, shown)
            if self._source is not None and self._source.probable:
                sure = np.zeros(shown, np.uint8)
        else:
            image = self._encoded(Path(path), True)
            _check_size(image, path, size)
            with self._labelling:
                start = time.perf_counter()
                x, logits, extents = self._estimate(self._source, image, segments)
                label, sure = self._paint(self._source, image, x, logits, extents, shown)
        maker = self._rule if self._source is None else self._source.maker
        if void:
            label = _with_void(label, given, segments, _void_at(tuple(void), size, shown))
        return LiveLabel(label, sure, maker, _since(start))

    def suggestions(
        self,
        path: Path,
        segments: Sequence[Segment],
        size: tuple[int, int],
        count: int = 3,
        void: Sequence[VoidStroke] = (),
    ) -> list[Suggestion]:
        """Where to click next, best first; none without segments. The segments of the suggestions
        are those in sight (see ``void`` of :meth:`label`). Errors of :meth:`label`."""
        self._check(segments, size)
        segments = _in_sight(segments, void, size)
        if not segments:
            return []
        source = self._source
        if source is None or not source.probable:
            likely = _nearness(segments, size)
        else:
            image = self._encoded(Path(path), True)
            _check_size(image, path, size)
            with self._labelling:
                likely = self._likely(source, image, segments)
        return suggest(self._evidence(likely, segments, size, void), count)

    def figures(
        self,
        path: Path,
        segments: Sequence[Segment],
        size: tuple[int, int],
        between: Callable[[], None] = lambda: None,
        void: Sequence[VoidStroke] = (),
    ) -> ImageFigures:
        """Label score and gain of an image; nan and 0 without a model or without segments.

        It takes some seconds, reads the image anew, and neither keeps other threads waiting nor an
        image in memory. Errors of :meth:`label`.

        Args:
            between: see :func:`fdd.inference.report_source.examine_image`.
        """
        self._check(segments, size)
        segments = _in_sight(segments, void, size)
        source = self._source
        if source is None or not source.probable or not segments:
            return ImageFigures(math.nan, 0.0)
        image = self._find(path, False) or self._encode(source, path)
        _check_size(image, path, size)
        between()
        likely = self._likely(source, image, segments)
        del image
        gain = image_gain(suggest(self._evidence(likely, segments, size, void)))
        between()
        record = {"file_name": str(path), "image_id": path.name}
        x = self._mapper(record | {"points": _points_of(source, segments)})
        return ImageFigures(examine_image(source.model, x, between)["figures"].score(), gain)

    def _likely(
        self, source: Estimator, image: _Encoded, segments: Sequence[Segment]
    ) -> np.ndarray:
        """(N, h, w) probabilities of the segments, in their order."""
        x, logits, _ = self._estimate(source, image, segments)
        rows, columns = (num_valid_cells(n, NETWORK_STRIDE) for n in image.input_size)
        likely = logits[:, :rows, :columns].softmax(0).cpu().numpy()
        return likely[np.argsort(np.array(x["instance_ids"]))]

    def _evidence(
        self,
        likely: np.ndarray,
        segments: Sequence[Segment],
        size: tuple[int, int],
        void: Sequence[VoidStroke],
    ) -> Evidence:
        points = [np.asarray(s.points, np.float64).reshape(-1, 2) for s in segments]
        things = {c.id for c in self.categories if c.isthing}
        return Evidence(
            likely=likely,
            size=size,
            points=np.concatenate(points),
            names=[self._names[s.category_id] for s in segments],
            things=np.array([s.category_id in things for s in segments]),
            void=_void_at(tuple(void), size, likely.shape[1:]) if void else None,
        )

    def _encoded(self, path: Path, opened: bool) -> _Encoded:
        """The image, encoded now if it is not in memory. ``opened``: it is the one looked at, which
        is never dropped."""
        found = self._find(path, opened)
        if found is not None:
            return found
        assert self._source is not None
        with self._encoding:
            found = self._find(path, opened)
            if found is not None:
                return found
            image = self._encode(self._source, path)
            with self._state:
                self._open = path if opened else self._open
                self._images[path] = image
                while len(self._images) > self.cached or self._used() > self.cached_bytes:
                    others = (p for p in self._images if p not in (self._open, path))
                    oldest = next(others, None)
                    if oldest is None:
                        break
                    del self._images[oldest]
            return image

    def _used(self) -> int:
        return sum(image.bytes for image in self._images.values())

    def _find(self, path: Path, opened: bool) -> _Encoded | None:
        with self._state:
            found = self._images.get(path)
            if found is not None and opened:
                self._images.move_to_end(path)
                self._open = path
            return found

    def _work(self) -> None:
        while True:
            with self._state:
                path, self._next = self._next, None
                if path is None:
                    self._worker = None
                    return
            try:
                self._encoded(path, False)
            except Exception:  # whoever opens the image gets it
                continue

    @torch.no_grad()
    def _encode(self, source: Estimator, path: Path) -> _Encoded:
        example, transforms = self._mapper.read({"file_name": str(path), "image_id": path.name})
        images = source.model.preprocess([example])
        height, width = images.image_sizes[0]
        size = (int(height), int(width))
        known = source.encode(images, size)
        used = sum(t.numel() * t.element_size() for t in source.tensors(known))
        del example["image"]
        padded = images.tensor.shape[-2:]
        return _Encoded(example, transforms, size, (int(padded[0]), int(padded[1])), known, used)

    @torch.no_grad()
    def _estimate(
        self, source: Estimator, image: _Encoded, segments: Sequence[Segment]
    ) -> tuple[dict[str, Any], Tensor, Any]:
        """Mapper output, whose ``instance_ids`` are positions among the segments; the logits of its
        instances, (N, h, w), which obey the clicks where the model's do; and their extents."""
        record = image.example | {"points": _points_of(source, segments)}
        fields = self._mapper.map_points(record, image.transforms, image.input_size)
        x = image.example | fields
        logits, extents = source.estimate(image.known, x, image.input_size, image.padded)
        return x, logits, extents

    def _by_points(
        self, segments: Sequence[Segment], size: tuple[int, int], shown: tuple[int, int]
    ) -> np.ndarray:
        """The label of a rule that looks at nothing but the points."""
        if self._rule != "extent" or not segments:
            return _nearest(segments, size, shown)
        return _by_extents(segments, self.categories, size, shown)

    def _paint(
        self,
        source: Estimator,
        image: _Encoded,
        x: dict[str, Any],
        logits: Tensor,
        extents: Any,
        shown: tuple[int, int],
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Label and, where it is known, confidence at the size shown."""
        height, width = image.input_size
        scale = (shown[0] / height, shown[1] / width)
        label = torch.from_numpy(argmax_of_logits(logits, shown, scale, extents))
        settings = source.model.label_settings
        kept = obey_points(label, x, image.input_size, scale, settings).numpy()
        order = np.array(x["instance_ids"], np.int32)
        if not source.probable:
            return order[kept], None
        rows, columns = (num_valid_cells(n, NETWORK_STRIDE) for n in image.input_size)
        sure = logits[:, :rows, :columns].softmax(0).amax(0).mul_(255).cpu().numpy()
        across, down = NETWORK_STRIDE * scale[1], NETWORK_STRIDE * scale[0]
        # As the label is up-sampled: the centre of the first cell is half a cell from the edge.
        grid = np.array([[1 / across, 0, 0.5 / across - 0.5], [0, 1 / down, 0.5 / down - 0.5]])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        sure = cv2.warpAffine(
            sure, grid, (shown[1], shown[0]), flags=flags, borderMode=cv2.BORDER_REPLICATE
        )
        return order[kept], (sure + 0.5).astype(np.uint8)

    def _check(self, segments: Sequence[Segment], size: tuple[int, int]) -> None:
        height, width = size
        for segment in segments:
            where = f"segment {segment.id}"
            if segment.category_id not in self._names:
                known = ", ".join(map(str, sorted(self._names)))
                raise ValueError(
                    f"{where}: category_id {segment.category_id} is not among the data set's "
                    f"classes ({known})"
                )
            if not len(segment.points):
                raise ValueError(f"{where}: has no point; a segment has at least one")
            for x, y in segment.points:
                if not (0 <= x <= width and 0 <= y <= height):
                    raise ValueError(
                        f"{where}: the point ({x:g}, {y:g}) is outside of the image, which is "
                        f"{width} x {height} px"
                    )


def _check_size(image: _Encoded, path: Path, size: tuple[int, int]) -> None:
    found = (image.example["height"], image.example["width"])
    if found != tuple(size):
        raise ImageFileError(
            f"{path}: {found[1]} x {found[0]} px (width x height, upright by EXIF), but the points "
            f"are of an image of {size[1]} x {size[0]}. Correct the size in the points file"
        )


def _shown(size: tuple[int, int], most: int) -> tuple[int, int]:
    factor = min(1.0, most / max(size))
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def _in_sight(
    segments: Sequence[Segment], void: Sequence[VoidStroke], size: tuple[int, int]
) -> Sequence[Segment]:
    """The segments without points under the void, and only those that have others."""
    if not void:
        return segments
    given = [PointSegment(n, 0, list(s.points)) for n, s in enumerate(segments)]
    seen = without_void(PointImage(0, "", *size, given, list(void))).segments
    return [replace(segments[s.id], points=tuple(s.points)) for s in seen]


@lru_cache(4)  # a click does not wait until strokes are drawn that were there before it
def _void_at(
    void: tuple[VoidStroke, ...], size: tuple[int, int], shown: tuple[int, int]
) -> np.ndarray:
    """Bool, as large as ``shown``: the void of an image of another size; read-only."""
    y, x = (s / n for s, n in zip(shown, size, strict=True))
    scaled = [
        VoidStroke(stroke.width * (x + y) / 2, tuple((px * x, py * y) for px, py in stroke.line))
        for stroke in void
    ]
    mask = void_mask(scaled, *shown)
    mask.flags.writeable = False
    return mask


def _with_void(
    label: np.ndarray, given: Sequence[Segment], seen: Sequence[Segment], void: np.ndarray
) -> np.ndarray:
    """A label of the segments in sight as one of those that were given."""
    place = {segment.id: n for n, segment in enumerate(given)}
    places = np.array([*(place[s.id] for s in seen), -1], np.int32)  # -1 is the last one
    return np.where(void, np.int32(-1), places[label])


def _nearest(
    segments: Sequence[Segment], size: tuple[int, int], shown: tuple[int, int]
) -> np.ndarray:
    if not segments:
        return np.full(shown, -1, np.int32)
    owner = np.repeat(np.arange(len(segments), dtype=np.int32), [len(s.points) for s in segments])
    coords = np.concatenate([np.asarray(s.points, np.float64) for s in segments])
    scale = np.array([shown[1] / size[1], shown[0] / size[0]])
    return owner[nearest_points(coords * scale, shown)]


def _by_extents(
    segments: Sequence[Segment],
    categories: Sequence[Category],
    size: tuple[int, int],
    shown: tuple[int, int],
) -> np.ndarray:
    """Label maker ``extent``, with a faster way to the nearest point."""
    class_of = {c.id: n for n, c in enumerate(contiguous_categories(categories))}
    scale = torch.tensor([shown[1] / size[1], shown[0] / size[0]])
    inputs = MakerInputs(
        coords=torch.tensor([p for s in segments for p in s.points], dtype=torch.float32) * scale,
        index=torch.arange(len(segments)).repeat_interleave(
            torch.tensor([len(s.points) for s in segments])
        ),
        classes=torch.tensor([class_of[s.category_id] for s in segments]),
        grid=shown,
        stride=(1.0, 1.0),
        num_things=sum(c.isthing for c in categories),
    )
    return extent_labels(inputs, _nearest_instance).numpy()


def _nearest_instance(inputs: MakerInputs) -> Tensor:
    """As ``nearest_labels``, on a canvas of single pixels."""
    owner = nearest_points(inputs.coords.numpy(), inputs.grid)
    return inputs.index.to(torch.int32)[torch.from_numpy(owner).long()]


def _points_of(source: Estimator, segments: Sequence[Segment]) -> list[dict[str, Any]]:
    """As a dataset dict has them; ids are positions."""
    things = source.num_things
    return [
        {
            "instance_id": position,
            "category_id": source.class_of[segment.category_id],
            "isthing": source.class_of[segment.category_id] < things,
            "coords": [[float(x), float(y)] for x, y in segment.points],
        }
        for position, segment in enumerate(segments)
    ]


def _nearness(segments: Sequence[Segment], size: tuple[int, int]) -> np.ndarray:
    """(N, h, w) how likely segments are on a coarse grid, as far as distances from points tell: of
    two that are equally near each is as likely."""
    step = max(size) / _CELLS
    y, x = ((np.arange(max(1, round(n / step))) + 0.5) * step for n in size)
    distances = []
    for segment in segments:
        nearest = np.full((len(y), len(x)), np.inf)
        for px, py in segment.points:
            np.minimum(nearest, (y - py)[:, None] ** 2 + (x - px)[None] ** 2, out=nearest)
        distances.append(nearest)
    weight = 1 / (np.stack(distances) + (0.5 * step) ** 2)
    return weight / weight.sum(0)


def _since(start: float) -> float:
    return 1000 * (time.perf_counter() - start)
