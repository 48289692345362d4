"""What ``--fix`` does: mends that lose nothing anybody could have meant.

They work on the parsed JSON, so that what is left as it is, sound or not, stays as it is.
"""

from __future__ import annotations

import itertools
import math
import os
import shutil
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fdd.points.format import write_document
from fdd.points.rules.point_file import ROUNDING, Labels, dense_entries, dense_keys
from fdd.points.structures import PointLabelError
from fdd.points.validation import is_integer, is_side

__all__ = ["Mend", "default_output", "mend_labels", "write_labels"]


@dataclass(frozen=True)
class Mend:
    """One thing that was done: for which rule, and what, in a sentence."""

    rule: str
    message: str


def mend_labels(labels: Labels, rules: Collection[str]) -> list[Mend]:
    """Mend ``labels.document`` in place.

    Keys of masks and boxes are removed (E102), and points that are not finite (E201); points at
    most a pixel outside are moved inside (E202); the second of two equal points of a segment goes
    (W204); segments of one stuff class become one (W110), and with them entries of one id (E106);
    ids below 1 get a free number (E106); segments that have no point, or had none but such, go
    (E108).

    Args:
        labels: of :func:`read_labels`; its ``dataset`` is not changed and must be read again.
        rules: the rules to mend.

    Returns:
        What was done, in the order of the file.
    """
    done: list[Mend] = []
    if "E102" in rules:
        # Listed first: they are changed on the way.
        for entry, _, _, where in list(dense_entries(labels.document)):
            for key in dense_keys(entry):
                del entry[key]
                done.append(Mend("E102", f"{where}: removed {key!r}"))
    stuff = {c.id for c in labels.dataset.categories if not c.isthing}
    for image in labels.document["images"]:
        if isinstance(image, dict) and isinstance(image.get("segments"), list):
            _ImageMender(image, rules, done).mend(stuff)
    return done


@dataclass
class _ImageMender:
    image: dict[str, Any]
    rules: Collection[str]
    done: list[Mend]
    sound: list[dict[str, Any]] = field(default_factory=list)

    def mend(self, stuff: set[int]) -> None:
        segments = self.image["segments"]
        self.sound = [
            s
            for s in segments
            if isinstance(s, dict)
            and isinstance(s.get("points"), list)
            and is_integer(s.get("id"))
            and is_integer(s.get("category_id"))
        ]
        for segment in self.sound:
            self._mend_points(segment)
        gone: set[int] = set()
        if {"W110", "E106"} & set(self.rules):
            gone |= self._merge(stuff)
        if "E108" in self.rules:
            gone |= self._drop_empty(gone)
        if gone:
            segments[:] = [s for s in segments if id(s) not in gone]
            self.sound = [s for s in self.sound if id(s) not in gone]
        if "E106" in self.rules:
            self._renumber()

    def _say(self, rule: str, segment: dict[str, Any], text: str) -> None:
        where = f"image {self.image.get('id')!r}, segment {segment['id']!r}"
        self.done.append(Mend(rule, f"{where}: {text}"))

    def _mend_points(self, segment: dict[str, Any]) -> None:
        kept: list[Any] = []
        seen: set[tuple[float, float]] = set()
        for point in segment["points"]:
            if not _is_pair(point):
                kept.append(point)
                continue
            if not all(map(_is_finite, point)):
                if "E201" in self.rules:
                    shown = ", ".join(f"{n!r:.40}" for n in point)
                    self._say("E201", segment, f"removed the point ({shown})")
                else:
                    kept.append(point)
                continue
            if "E202" in self.rules:
                point = self._move_inside(segment, point)
            key = (float(point[0]), float(point[1]))
            if "W204" in self.rules and key in seen:
                text = f"removed the second point ({key[0]:g}, {key[1]:g})"
                self._say("W204", segment, text)
                continue
            seen.add(key)
            kept.append(point)
        segment["points"] = kept

    def _move_inside(self, segment: dict[str, Any], point: list[float]) -> list[float]:
        size: list[Any] = [self.image.get("width"), self.image.get("height")]
        if not all(map(is_side, size)):
            return point
        moved = [min(max(p, 0), n) for p, n in zip(point, size, strict=True)]
        if moved == point or any(abs(a - b) > ROUNDING for a, b in zip(moved, point, strict=True)):
            return point
        text = f"moved the point ({point[0]:g}, {point[1]:g}) to ({moved[0]:g}, {moved[1]:g})"
        self._say("E202", segment, text)
        return moved

    def _merge(self, stuff: set[int]) -> set[int]:
        """Put the points of a stuff class into its first segment; addresses of the others."""
        first: dict[int, dict[str, Any]] = {}
        known: dict[int, set[tuple[float, ...]]] = {}  # points of those, by class
        gone = set()
        for segment in self.sound:
            category_id = segment["category_id"]
            target = first.setdefault(category_id, segment) if category_id in stuff else segment
            if target is segment:
                continue
            # Without W110, only entries that share an id are one.
            if "W110" not in self.rules and target["id"] != segment["id"]:
                continue
            # Points that both have would be doubles now.
            if category_id not in known:
                known[category_id] = {tuple(p) for p in target["points"] if _is_pair(p)}
            seen = known[category_id]
            target["points"] += [
                p for p in segment["points"] if not _is_pair(p) or tuple(p) not in seen
            ]
            seen.update(tuple(p) for p in segment["points"] if _is_pair(p))
            rule = "W110" if "W110" in self.rules else "E106"
            text = f"put into segment {target['id']!r} of the same stuff class"
            self._say(rule, segment, text)
            gone.add(id(segment))
        return gone

    def _drop_empty(self, gone: set[int]) -> set[int]:
        empty = [s for s in self.sound if not s["points"] and id(s) not in gone]
        for segment in empty:
            self._say("E108", segment, "removed, it has no point")
        return {id(segment) for segment in empty}

    def _renumber(self) -> None:
        taken = {segment["id"] for segment in self.sound}
        free = (n for n in itertools.count(1) if n not in taken)
        for segment in self.sound:
            if segment["id"] <= 0:
                number = next(free)
                self._say("E106", segment, f"renumbered to {number}")
                segment["id"] = number


def _is_finite(number: float) -> bool:
    try:
        return math.isfinite(number)
    except OverflowError:  # an integer beyond all floats, which counts as infinite
        return False


def _is_pair(point: Any) -> bool:
    return (
        isinstance(point, list)
        and len(point) == 2
        and all(isinstance(n, (int, float)) and not isinstance(n, bool) for n in point)
    )


def default_output(path: str | os.PathLike[str]) -> Path:
    """``points.fixed.json`` beside ``points.json``."""
    source = Path(path)
    return source.with_name(f"{source.stem}.fixed{source.suffix}")


def write_labels(
    labels: Labels, output: str | os.PathLike[str] | None = None, in_place: bool = False
) -> tuple[Path, Path | None]:
    """Write a mended document.

    Args:
        labels: the mended labels.
        output: the file to write, by default :func:`default_output`.
        in_place: replace the file that was read, whose old state is kept as ``.bak``.

    Returns:
        The file written, and the backup, if there is one.

    Raises:
        PointLabelError: ``output`` is the input, or a number that JSON does not know stands where
            nothing was mended.
        OSError: it cannot be written.
    """
    source = Path(labels.file)
    target = source if in_place else Path(output or default_output(source))
    if not in_place and target.exists() and target.samefile(source):
        raise PointLabelError(
            f"{target}: the output is the input. Choose another --output, or --in-place, which "
            "keeps a backup."
        )
    backup = _back_up(source) if in_place else None
    head = {key: value for key, value in labels.document.items() if key != "images"}
    try:
        write_document(target, head, labels.document["images"])
    except ValueError as error:
        if backup is not None:
            backup.unlink()
        raise PointLabelError(
            f"{source}: NaN or Infinity stands where no point is ({error}); correct it by hand"
        ) from error
    return target, backup


def _back_up(source: Path) -> Path:
    """Copy a file to ``.bak``, or ``.bak2`` and so on where that is taken."""
    for n in itertools.count(1):
        backup = source.with_name(f"{source.name}.bak{n if n > 1 else ''}")
        if not backup.exists():
            break
    shutil.copy2(source, backup)
    return backup
