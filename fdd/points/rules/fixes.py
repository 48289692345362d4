"""What ``--fix`` does: fixes that lose nothing anybody could have meant.

They work on the parsed JSON, so that what is left as it is, valid or not, stays as it is.
"""

from __future__ import annotations

import itertools
import math
import os
import shutil
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fdd.points.format import PointFile, dense_entries, dense_keys, write_document
from fdd.points.structures import PointLabelError, is_integer, is_side
from fdd.points.validation import ROUNDING

__all__ = ["Fix", "default_output", "fix_points", "write_fixed"]


@dataclass(frozen=True)
class Fix:
    """One thing that was done: for which rule, and what, in a sentence."""

    rule: str
    message: str


def fix_points(points: PointFile, rules: Collection[str]) -> list[Fix]:
    """Fix ``points.document`` in place.

    Keys of masks and boxes are removed (E102), and points that are not finite (E201); points at
    most a pixel outside are moved inside (E202); the second of two equal points of a segment goes
    (W204); segments of one stuff class become one (W110), and with them entries of one id (E106);
    ids below 1 get a free number (E106); segments that have no point, or had none but such, go
    (E108).

    Args:
        points: of :func:`fdd.points.format.read_point_file`; its ``dataset`` is not changed and
            must be read again.
        rules: the rules to fix.

    Returns:
        What was done, in the order of the file.
    """
    done: list[Fix] = []
    if "E102" in rules:
        # Listed first: they are changed on the way.
        for entry, _, _, where in list(dense_entries(points.document)):
            for key in dense_keys(entry):
                del entry[key]
                done.append(Fix("E102", f"{where}: removed {key!r}"))
    stuff = {c.id for c in points.dataset.categories if not c.isthing}
    for image in points.document["images"]:
        if isinstance(image, dict) and isinstance(image.get("segments"), list):
            _ImageFixer(image, rules, done).fix(stuff)
    return done


class _ImageFixer:
    """Fixes the segments of one image; those of another form stay as they are."""

    def __init__(self, image: dict[str, Any], rules: Collection[str], done: list[Fix]) -> None:
        self.image, self.rules, self.done = image, rules, done
        self.segments: list[dict[str, Any]] = [
            s
            for s in image["segments"]
            if isinstance(s, dict)
            and isinstance(s.get("points"), list)
            and is_integer(s.get("id"))
            and is_integer(s.get("category_id"))
        ]

    def fix(self, stuff: set[int]) -> None:
        for segment in self.segments:
            self._fix_points(segment)
        if "W110" in self.rules or "E106" in self.rules:
            self._remove(self._merge(stuff))
        if "E108" in self.rules:
            empty = [segment for segment in self.segments if not segment["points"]]
            for segment in empty:
                self._say("E108", segment, "removed, it has no point")
            self._remove(empty)
        if "E106" in self.rules:
            self._renumber()

    def _say(self, rule: str, segment: dict[str, Any], text: str) -> None:
        where = f"image {self.image.get('id')!r}, segment {segment['id']!r}"
        self.done.append(Fix(rule, f"{where}: {text}"))

    def _remove(self, segments: list[dict[str, Any]]) -> None:
        gone = set(map(id, segments))
        for entries in (self.image["segments"], self.segments) if gone else ():
            entries[:] = [entry for entry in entries if id(entry) not in gone]

    def _fix_points(self, segment: dict[str, Any]) -> None:
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

    def _merge(self, stuff: set[int]) -> list[dict[str, Any]]:
        """Put the points of a stuff class into its first segment; the others, to be removed."""
        first: dict[int, dict[str, Any]] = {}
        known: dict[int, set[tuple[float, ...]]] = {}  # points of those, by class
        merged = []
        rule = "W110" if "W110" in self.rules else "E106"
        for segment in self.segments:
            category_id = segment["category_id"]
            target = first.setdefault(category_id, segment) if category_id in stuff else segment
            # Without W110, only entries that share an id are one.
            if target is segment or (rule == "E106" and target["id"] != segment["id"]):
                continue
            # Points that both have would be doubles now.
            if category_id not in known:
                known[category_id] = {tuple(p) for p in target["points"] if _is_pair(p)}
            seen = known[category_id]
            target["points"] += [
                p for p in segment["points"] if not _is_pair(p) or tuple(p) not in seen
            ]
            seen.update(tuple(p) for p in segment["points"] if _is_pair(p))
            self._say(rule, segment, f"put into segment {target['id']!r} of the same stuff class")
            merged.append(segment)
        return merged

    def _renumber(self) -> None:
        taken = {segment["id"] for segment in self.segments}
        free = (n for n in itertools.count(1) if n not in taken)
        for segment in self.segments:
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


def write_fixed(
    points: PointFile, output: str | os.PathLike[str] | None = None, in_place: bool = False
) -> tuple[Path, Path | None]:
    """Write a fixed document.

    Args:
        points: the fixed points.
        output: the file to write, by default :func:`default_output`.
        in_place: replace the file that was read, whose old state is kept as ``.bak``.

    Returns:
        The file written, and the backup, if there is one.

    Raises:
        PointLabelError: ``output`` is the input, or a number that JSON does not know stands where
            nothing was fixed.
        OSError: it cannot be written.
    """
    source = Path(points.file)
    target = source if in_place else Path(output or default_output(source))
    if not in_place and target.exists() and target.samefile(source):
        raise PointLabelError(
            f"{target}: the output is the input. Choose another --output, or --in-place, which "
            "keeps a backup."
        )
    backup = _back_up(source) if in_place else None
    head = {key: value for key, value in points.document.items() if key != "images"}
    try:
        write_document(target, head, points.document["images"])
    except ValueError as error:
        if backup is not None:
            backup.unlink()
        raise PointLabelError(
            f"{source}: NaN or Infinity outside the points ({error}); correct it by hand"
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
