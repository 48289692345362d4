"""Sums of what labels tell of their own quality."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

#: What is summed by class, for each maker.
FIELDS = (
    *("instances", "empty", "swallowing", "confidence", "confident"),
    *("points", "points_held", "left_out", "left_out_right"),
)
#: Figures in percent: name -> (numerator, denominator).
SHARES = {
    "agreement": ("left_out_right", "left_out"),
    "points_held": ("points_held", "points"),
    "confidence": ("confidence", "confident"),
    "empty": ("empty", "instances"),
}

ImageId = int | str


class LabelTotals:
    """Sums over images; can be pickled and merged.

    Args:
        num_classes: contiguous classes.
        max_worst: images to keep.

    Attributes:
        sums: maker -> float64 (C, fields), in the order in which the makers came.
        swallowed: maker -> images that one instance swallows.
        seen: ids of the images. labelled: how many have an instance.
        worst: rows of the images with the lowest agreement of the first maker.
    """

    def __init__(self, num_classes: int, max_worst: int) -> None:
        self.num_classes, self.max_worst = num_classes, max_worst
        self.sums: dict[str, np.ndarray] = {}
        self.swallowed: dict[str, int] = {}
        self.seen: set[ImageId] = set()
        self.labelled = 0
        self.worst: list[dict[str, Any]] = []

    def sums_of(self, maker: str) -> np.ndarray:
        """The maker's sums, to add to."""
        if maker not in self.sums:
            self.sums[maker] = np.zeros((self.num_classes, len(FIELDS)))
            self.swallowed[maker] = 0
        return self.sums[maker]

    def merge(self, other: LabelTotals) -> None:
        """Add what another process has summed."""
        for maker, sums in other.sums.items():
            self.sums_of(maker)[:] += sums
            self.swallowed[maker] += other.swallowed[maker]
        self.seen |= other.seen
        self.labelled += other.labelled
        self.worst += other.worst
        self.trim()

    def add(
        self, x: Mapping[str, Any], classes: np.ndarray, rows: Mapping[str, np.ndarray]
    ) -> None:
        """Add an image.

        Args:
            x: with ``image_id`` and ``file_name``.
            classes: int64 (N,).
            rows: by maker, see :func:`image_rows`.
        """
        self.seen.add(x["image_id"])
        self.labelled += bool(len(classes))
        for maker, row in rows.items():
            np.add.at(self.sums_of(maker), classes, row)
            self.swallowed[maker] += bool(row[:, FIELDS.index("swallowing")].any())
        total = named(next(iter(rows.values())))
        if total["left_out"] == 0:
            return
        self.worst.append(
            {
                "image_id": x["image_id"],
                "file_name": x.get("file_name"),
                "agreement": percent(total["left_out_right"], total["left_out"]),
                **{k: int(total[k]) for k in ("left_out", "instances", "empty", "swallowing")},
            }
        )
        if len(self.worst) > 4 * self.max_worst:
            self.trim()

    def averages(self, isthing: np.ndarray) -> OrderedDict[str, float]:
        """``<maker>/<share>`` in percent for each of ``SHARES``, also with ``_th`` and ``_st``, and
        ``<maker>/swallowing``; nan with nothing to average.

        Args:
            isthing: bool (C,).
        """
        out: OrderedDict[str, float] = OrderedDict()
        for maker, sums in self.sums.items():
            for suffix, group in (("", isthing | True), ("_th", isthing), ("_st", ~isthing)):
                total = named(sums[group])
                for name, (part, whole) in SHARES.items():
                    out[f"{maker}/{name}{suffix}"] = percent(total[part], total[whole])
            out[f"{maker}/swallowing"] = percent(self.swallowed[maker], self.labelled)
        return out

    def by_class(self, names: Sequence[str]) -> OrderedDict[str, float]:
        """``<maker>/<share>/<class>`` in percent, nan for a class that does not occur."""
        out: OrderedDict[str, float] = OrderedDict()
        for maker, sums in self.sums.items():
            for label, class_name in enumerate(names):
                total = named(sums[label : label + 1])
                for name, (part, whole) in SHARES.items():
                    key = f"{maker}/{name}/{class_name}"
                    # Two classes may share a name: never lose a figure for that.
                    key = key if key not in out else f"{key}#{label}"
                    out[key] = percent(total[part], total[whole])
        return out

    def counts(self) -> OrderedDict[str, int]:
        """``images``, ``instances``, ``points``, ``left_out``, and by maker the empty and the
        swallowing instances."""
        out: OrderedDict[str, int] = OrderedDict(images=len(self.seen))
        for maker, sums in self.sums.items():
            total = named(sums)
            for name in ("instances", "points", "left_out"):
                out.setdefault(name, int(total[name]))
            for name in ("empty", "swallowing"):
                out[f"{maker}/{name}"] = int(total[name])
        return out

    def trim(self) -> None:
        """Keep the worst images only, in order."""
        self.worst.sort(key=lambda r: (r["agreement"], -r["left_out"], str(r["image_id"])))
        del self.worst[self.max_worst :]


def image_rows(output: Mapping[str, Any], values: Mapping[str, Any], where: str) -> np.ndarray:
    """What one image adds to the sums of a maker, float64 (N, fields)."""
    confidence = np.asarray(values["confidence"], dtype=np.float64)
    confident = np.isfinite(confidence)
    columns = {
        "instances": np.ones(len(output["classes"])),
        "empty": values["empty"],
        "swallowing": values["swallowing"],
        "confidence": np.where(confident, confidence, 0),
        "confident": confident,
        "points": output["points"],
        "points_held": values["points_held"],
        "left_out": output["left_out"],
        "left_out_right": values["left_out_right"],
    }
    arrays = {name: np.asarray(column, dtype=np.float64) for name, column in columns.items()}
    shapes = {name: array.shape for name, array in arrays.items()}
    if set(shapes.values()) != {(len(output["classes"]),)}:
        raise ValueError(f"{where}: shapes {shapes}; expected ({len(output['classes'])},) for all")
    for part, whole in (("points_held", "points"), ("left_out_right", "left_out")):
        if (arrays[part] > arrays[whole]).any() or (arrays[part] < 0).any():
            raise ValueError(
                f"{where}: {part} is {arrays[part].tolist()} of {arrays[whole].tolist()} {whole}; "
                "expected no more than there are"
            )
    return np.stack([arrays[name] for name in FIELDS], 1)


def named(rows: np.ndarray) -> dict[str, float]:
    """Column sums of (N, fields) by the fields' names."""
    return dict(zip(FIELDS, rows.sum(0).tolist(), strict=True))


def percent(part: float, whole: float) -> float:
    """Nan of nothing."""
    return 100 * part / whole if whole else math.nan
