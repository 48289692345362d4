"""A simulated annotator: how good labels get with each click, by full masks.

One random point a segment, then one click after the other where the label is wrong (or where it is
suggested), each given to the segment that is there in truth. Pure functions: a labeller is anything
that makes a label of points.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import cv2
import numpy as np

from fdd.annotate.actions import Segment
from fdd.annotate.choices import STRATEGIES
from fdd.evaluation.ground_truth import SegmentTable
from fdd.evaluation.panoptic_quality import class_pq, match_segments
from fdd.points.pixel_counts import count_overlaps

__all__ = [
    "ClickCurve",
    "Truth",
    "inner_pixel",
    "largest_error",
    "simulate_clicks",
]

_BY_ERROR = ("middle", "random")  # of the label


@dataclass(frozen=True)
class Truth:
    """The full masks of an image.

    Attributes:
        label: (H, W) int32, position among the segments; -1 where nobody knows (void, crowd).
        ids: (S,) int64, of the segments. classes: (S,) int64, contiguous.
        categories: (S,) int64, the data set's category ids.
    """

    label: np.ndarray
    ids: np.ndarray
    classes: np.ndarray
    categories: np.ndarray

    @classmethod
    def of_masks(cls, id_map: np.ndarray, table: SegmentTable, category_ids: np.ndarray) -> Truth:
        """Of an image's masks; segments without a pixel, and crowd, are left out.

        Args:
            id_map: (H, W) integer segment ids, 0 is void.
            table: of the image.
            category_ids: (C,) category id of each contiguous class.
        """
        there = np.isin(table.ids, np.unique(id_map)) & ~table.crowd
        ids, classes = table.ids[there], table.classes[there]
        order = np.argsort(ids)
        label = np.full(id_map.shape, -1, np.int32)
        if len(ids):
            place = np.searchsorted(ids[order], id_map).clip(max=len(ids) - 1)
            known = ids[order][place] == id_map
            label[known] = order[place[known]]
        return cls(label, ids, classes, np.asarray(category_ids, np.int64)[classes])


@dataclass
class ClickCurve:
    """What an image's label is worth after 1, 2, ... clicks a segment.

    Attributes:
        segments: number of them.
        clicks: points that were laid, in all; fewer than asked for once nothing is wrong.
        quality: sum of IoU above 0.5 over the number of segments, in percent.
        pq: PQ, averaged over the classes of the image, in percent.
    """

    segments: int
    clicks: list[int] = field(default_factory=list)
    quality: list[float] = field(default_factory=list)
    pq: list[float] = field(default_factory=list)

    def add(self, clicks: int, label: np.ndarray, truth: Truth) -> None:
        quality, pq = score_label(label, truth)
        self.clicks.append(clicks)
        self.quality.append(quality)
        self.pq.append(pq)


#: Segments with points -> (H, W) integer position among them, -1 none.
Labeller = Callable[[Sequence[Segment]], np.ndarray]
#: Segments with points -> places (x, y) that are worth a click, the best first.
Suggester = Callable[[Sequence[Segment]], Sequence[tuple[float, float]]]


def simulate_clicks(
    truth: Truth,
    label_of: Labeller,
    clicks: int,
    *,
    strategy: str = "middle",
    suggest: Suggester | None = None,
    seed: int = 0,
) -> ClickCurve:
    """Click an image until each segment has, on average, ``clicks`` points.

    Args:
        truth: at least one segment.
        label_of: called before each click that depends on the label, and after the last one of
            every round.
        clicks: at least 1.
        strategy: one of :data:`~fdd.annotate.choices.STRATEGIES`; "suggested" needs ``suggest``. A
            suggestion in a void region, or on a point that is there, is passed over for the next;
            where none is left, a random pixel is clicked.
        seed: decides all that is random.

    Raises:
        ValueError: the truth has no segment, or the strategy is unknown or lacks ``suggest``.
    """
    if strategy not in STRATEGIES:
        raise ValueError(f"strategy is {strategy!r}; allowed: {', '.join(map(repr, STRATEGIES))}")
    if strategy == "suggested" and suggest is None:
        raise ValueError("strategy 'suggested' needs a labeller that makes suggestions")
    count = len(truth.ids)
    if count == 0:
        raise ValueError("the image has no segment to click")
    rng = np.random.default_rng(seed)
    segments = [
        Segment(int(n), int(c), ()) for n, c in zip(truth.ids, truth.categories, strict=True)
    ]
    for n in range(count):
        segments[n] = _clicked(segments[n], _random_pixel(truth.label == n, rng))
    curve = ClickCurve(count)
    label = label_of(segments)
    curve.add(count, label, truth)
    laid = count
    for goal in range(2, clicks + 1):
        while laid < goal * count:
            if strategy == "suggested":
                assert suggest is not None
                pixel = _suggested(suggest(segments), segments, truth, rng)
            elif strategy == "anywhere":
                pixel = _random_pixel(truth.label >= 0, rng)
            elif strategy == "points":
                pixel = _random_pixel(truth.label == laid % count, rng)
            else:
                wrong = largest_error(label, truth.label)
                if wrong is None:
                    break
                pixel = inner_pixel(wrong) if strategy == "middle" else _random_pixel(wrong, rng)
            owner = int(truth.label[pixel])
            segments[owner] = _clicked(segments[owner], pixel)
            laid += 1
            if strategy in _BY_ERROR:
                label = label_of(segments)
        if strategy not in _BY_ERROR:
            label = label_of(segments)
        curve.add(laid, label, truth)
    return curve


def largest_error(label: np.ndarray, truth: np.ndarray) -> np.ndarray | None:
    """The largest connected region of one true segment that is labelled otherwise.

    Args:
        label, truth: (H, W) integer position among the same segments; where ``truth`` is negative,
            nothing is wrong.

    Returns:
        (H, W) bool; None where nothing is wrong.
    """
    wrong = (label != truth) & (truth >= 0)
    best, found = 0, None
    for segment, area in zip(*np.unique(truth[wrong], return_counts=True), strict=True):
        if area <= best:
            continue
        mask = (wrong & (truth == segment)).astype(np.uint8)
        _, parts, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=4)
        part = 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
        if stats[part, cv2.CC_STAT_AREA] > best:
            best, found = int(stats[part, cv2.CC_STAT_AREA]), parts == part
    return found


def inner_pixel(mask: np.ndarray) -> tuple[int, int]:
    """Row and column of the pixel of a mask that is farthest from what is outside of it, of the
    image too; the first of equals."""
    padded = np.pad(mask.astype(np.uint8), 1)
    depth = cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    row, column = np.unravel_index(int(depth.argmax()), mask.shape)
    return int(row), int(column)


def score_label(label: np.ndarray, truth: Truth) -> tuple[float, float]:
    """Quality and PQ of :class:`ClickCurve`, in percent.

    Args:
        label: (H, W) integer position among the segments of ``truth``, -1 none.
    """
    positions = np.arange(1, len(truth.ids) + 1)
    overlaps = count_overlaps(truth.label + 1, label.astype(np.int32) + 1)
    found = overlaps.column_counts()[0]
    predicted = positions[np.isin(positions, found)]
    table = SegmentTable("", positions, truth.classes, np.zeros(len(positions), bool))
    matches = match_segments(
        overlaps.table(positions, predicted), table, truth.classes[predicted - 1]
    )
    by_class = class_pq(matches)
    pq = float(np.mean(list(by_class.values()))) if by_class else 0.0
    return 100 * float(matches.ious.sum()) / len(positions), pq


def _random_pixel(mask: np.ndarray, rng: np.random.Generator) -> tuple[int, int]:
    places = np.flatnonzero(mask)
    row, column = divmod(int(places[rng.integers(len(places))]), mask.shape[1])
    return row, column


def _suggested(
    places: Sequence[tuple[float, float]],
    segments: Sequence[Segment],
    truth: Truth,
    rng: np.random.Generator,
) -> tuple[int, int]:
    height, width = truth.label.shape
    taken = {point for segment in segments for point in segment.points}
    for x, y in places:
        pixel = (min(max(int(y), 0), height - 1), min(max(int(x), 0), width - 1))
        if truth.label[pixel] >= 0 and _centre(pixel) not in taken:
            return pixel
    return _random_pixel(truth.label >= 0, rng)


def _clicked(segment: Segment, pixel: tuple[int, int]) -> Segment:
    return replace(segment, points=(*segment.points, _centre(pixel)))


def _centre(pixel: tuple[int, int]) -> tuple[float, float]:
    """(x, y) of the centre of a pixel (row, column)."""
    return pixel[1] + 0.5, pixel[0] + 0.5
