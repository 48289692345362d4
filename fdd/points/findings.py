"""The numbered rules of ``fdd points check``, and their findings.

A number never changes its meaning and is not used again. E: training or evaluation fails or is
wrong. W: probably not meant. I: good to know. ``docs/checks.md`` has the same table.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from fdd.points.structures import PointImage, raise_problems

__all__ = ["RULES", "Finding", "Rule", "raise_errors", "select_rules"]

_SEVERITIES = {"E": "error", "W": "warning", "I": "note"}


@dataclass(frozen=True)
class Rule:
    """A rule: its number, what it finds, and how to fix it."""

    code: str
    title: str
    fix: str
    fixable: bool = False

    @property
    def severity(self) -> str:
        return _SEVERITIES[self.code[0]]


@dataclass(frozen=True)
class Finding:
    """One thing that a rule found.

    Attributes:
        rule: code of the rule.
        message: one sentence or two; names image and segment, not the file.
        file: the file that it is in.
        image_id: as in the file.
        segment_id: likewise.
        point: x and y, where it is about one.
        fixable: whether ``--fix`` fixes it.
    """

    rule: str
    message: str
    file: str | None = None
    image_id: Any = None
    segment_id: Any = None
    point: tuple[float, float] | None = None
    fixable: bool = False

    @classmethod
    def about(
        cls,
        rule: str,
        image: PointImage,
        text: str,
        segment_id: Any = None,
        point: tuple[float, float] | None = None,
        fixable: bool = False,
    ) -> Finding:
        """A finding about an image, or one of its segments, which its message names first."""
        where = f"image {image.image_id!r}"
        if segment_id is not None:
            where += f", segment {segment_id!r}"
        return cls(rule, f"{where}: {text}", None, image.image_id, segment_id, point, fixable)

    @property
    def severity(self) -> str:
        return _SEVERITIES[self.rule[0]]

    def to_dict(self) -> dict[str, Any]:
        """For JSON; what JSON cannot write (NaN, invalid ids) becomes text."""
        point = None
        if self.point is not None:
            point = [p if abs(p) < float("inf") else repr(p) for p in self.point]
        return {
            "rule": self.rule,
            "severity": self.severity,
            "title": RULES[self.rule].title,
            "file": self.file,
            "image_id": _plain(self.image_id),
            "segment_id": _plain(self.segment_id),
            "point": point,
            "message": self.message,
            "fixable": self.fixable,
        }


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, (int, str)) else repr(value)


def raise_errors(source: str, findings: Iterable[Finding]) -> None:
    """Raise one error of all findings that are errors, if there are any.

    Raises:
        PointLabelError: its ``problems`` holds every message, its own message the first 20.
    """
    raise_problems(source, [f.message for f in findings if f.rule[0] == "E"])


_ALL = (
    # The label file.
    Rule("E101", "not readable as point labels", "Write the entry as datasets/README.md says."),
    Rule(
        "E102",
        "a box, mask or area in the point labels",
        "Remove the key: training from points must not know it.",
        fixable=True,
    ),
    Rule("E103", "invalid categories", "Give every class its own integer id and its own name."),
    Rule("E104", "invalid image id", "Give every image its own id, a text or an integer."),
    Rule("E105", "invalid file name or size of an image", "Write the path and the size in pixels."),
    Rule(
        "E106",
        "invalid segment id",
        "Number the segments of an image from 1, each number once.",
        fixable=True,
    ),
    Rule("E107", "a segment of a class that is not listed", "Correct it, or list the class."),
    Rule("E108", "a segment without points", "Label it, or remove the entry.", fixable=True),
    Rule(
        "E109",
        "the data set file and the labels list different classes",
        "Correct the list in the YAML file, or import the labels again with it.",
    ),
    Rule(
        "W110",
        "several segments of one stuff class in an image",
        "Merge them: a stuff class is one segment per image. Countable? Make it a thing class.",
        fixable=True,
    ),
    Rule(
        "E111",
        "no point in the whole file",
        "There is nothing to train on: label some images, or import again and look at what it "
        "leaves out.",
    ),
    Rule(
        "E112",
        "an invalid stroke of the void brush",
        "Write its width and its places in pixels, or delete it.",
    ),
    # Points.
    Rule(
        "E201",
        "a point that is not a pair of finite numbers",
        "Write it as [x, y] in pixels, or delete it.",
        fixable=True,
    ),
    Rule(
        "E202",
        "a point outside the image",
        "Correct or delete it; up to one pixel outside counts as rounding, and is moved inside.",
        fixable=True,
    ),
    Rule(
        "E203",
        "points of two segments on one pixel",
        "Move or delete one: a pixel belongs to one segment.",
    ),
    Rule("W204", "the same point twice in a segment", "Delete one of the two.", fixable=True),
    Rule(
        "W205",
        "two things in one cell of the training grid",
        "Their dilated points meet, and the nearer one labels the cell. Train on larger "
        "images (INPUT.MIN_SIZE_TRAIN); things that touch have some such cells at any size.",
    ),
    Rule(
        "W206",
        "a segment that loses all its cells of the training grid",
        "Neighbours' points are nearer everywhere. Move points apart, or train on larger images.",
    ),
    Rule(
        "W207",
        "all points in the upper left quarter",
        "Coordinates of a smaller copy, or fractions of 1? Import them again at full size.",
    ),
    Rule(
        "W208",
        "x and y look exchanged",
        "Points are [x, y], x to the right. Import them again with the columns exchanged.",
    ),
    Rule(
        "W209",
        "a point that is painted over as void",
        "It counts for nothing while the void is there: remove the one or the other.",
    ),
    # Images.
    Rule("E301", "a missing image file", "Put it there, or correct the folder or name."),
    Rule("E302", "an image that cannot be read", "Replace the file, or leave the image out."),
    Rule(
        "E303",
        "an image whose size differs from the labels",
        "Points follow the picture as viewers show it (turned by EXIF), at its full size.",
    ),
    Rule(
        "E304",
        "more than 8 bits per channel",
        "Convert the image to 8 bits, with a range that you choose.",
    ),
    Rule("W305", "an image in the folder without labels", "Label it, or ignore this rule."),
    Rule("W306", "an image without points", "It is left out of training: label it, or remove it."),
    Rule("I307", "an image without things", "Trained on, unless INPUT.POINTS.REQUIRE_THING."),
    Rule(
        "W308",
        "more things in an image than queries",
        "Training refuses it: raise MODEL.FDD.PAN.NUM_QUERIES, or cut the image into tiles.",
    ),
    Rule(
        "I309", "images of different sizes", "Nothing to do: all are resized by their short side."
    ),
    Rule(
        "I310",
        "images turned by EXIF",
        "Points must follow the picture as viewers show it. Look at some: fdd report.",
    ),
    Rule(
        "W311",
        "a very small image",
        "A side below INPUT.POINTS.MIN_IMAGE_SIDE: it is left out of training.",
    ),
    # Masks, for evaluation only.
    Rule("E401", "not readable as COCO panoptic masks", "Write it again in that format."),
    Rule(
        "W402",
        "masks without a thing class or without a stuff class",
        "panopticapi's own tool divides by zero; fdd's evaluation reports that part as absent.",
    ),
    Rule(
        "E403",
        "masks whose classes differ from those of the points",
        "Use the same ids, names and isthing in both.",
    ),
    Rule(
        "W404",
        "segments without iscrowd or area",
        "panopticapi's own tool stops (KeyError); fdd counts pixels. Add them for other tools.",
    ),
    Rule(
        "W405",
        "an area that is not the number of pixels",
        "panopticapi's own tool would report an absurd PQ (far above 100); fdd counts pixels.",
    ),
    Rule(
        "E406",
        "an invalid segment of the masks",
        "Ids from 1 to 16777215 (0 is void: PQ would be infinite), each once, of a listed class.",
    ),
    Rule("E407", "a mask PNG that is missing or not a panoptic PNG", "Write it again as RGB PNG."),
    Rule("E408", "the PNG and the JSON hold different segments", "Write both from one source."),
    Rule("E409", "a mask whose size differs from its image", "Write it at the image's size."),
    Rule(
        "E410",
        "points instead of masks as ground truth",
        "PQ would silently be 0: name the folder of the full masks.",
    ),
    Rule("E411", "no labelled pixel in any mask", "Name the folder of the full masks."),
    Rule("W412", "an image whose mask is void everywhere", "It counts for nothing: leave it out."),
    Rule("W413", "a PNG that the masks' JSON does not list", "Add it to the JSON, or remove it."),
    Rule("W414", "an image with points, but without a mask", "Use the same image ids in both."),
    Rule(
        "E415",
        "validation points and validation masks of different images",
        "PQ is measured on the images of the points, each of which needs its mask, and no other "
        "has one: use the same image ids in both.",
    ),
    # Classes and sets.
    Rule("W501", "a class that is never labelled", "Label some of it, or remove it from the list."),
    Rule(
        "W502",
        "a class that only the validation images have",
        "It cannot be learned, and its PQ will be 0: label some of it in the training images.",
    ),
    Rule("W503", "a class that only the training images have", "Its PQ will not be measured."),
    Rule(
        "E504",
        "an image in training and in validation",
        "PQ on it would be meaningless: remove it from one of the two.",
    ),
    Rule(
        "W505",
        "a thing class that has one segment in every image",
        "Were the points of several objects put into one segment? Group them, or make it stuff.",
    ),
    Rule(
        "W506",
        "every thing has one point, while stuff has several",
        "Group the points of an object, and import again. One click per thing is a valid way of "
        "labelling: if it is yours, leave the rule out (--ignore W506).",
    ),
    # The supervision audit.
    Rule(
        "E601", "training receives something that is not a point", "Remove the key in the loader."
    ),
    Rule("E602", "the mapper returns an unknown key", "Remove the key in the mapper."),
    Rule("E603", "the training path opens a forbidden file", "Fix the loader."),
    Rule(
        "E604", "training data that depend on the masks", "Fix the loader: masks must not matter."
    ),
)

RULES: dict[str, Rule] = {rule.code: rule for rule in _ALL}


def select_rules(only: Iterable[str] = (), ignore: Iterable[str] = ()) -> frozenset[str]:
    """Codes of the rules to apply.

    Args:
        only: codes, or beginnings of codes (``E``, ``W2``); none for all.
        ignore: likewise, taken off.

    Raises:
        ValueError: an entry is the beginning of no code.
    """
    chosen = _matching(only) if only else set(RULES)
    return frozenset(chosen - _matching(ignore))


def _matching(entries: Iterable[str]) -> set[str]:
    found: set[str] = set()
    for entry in entries:
        codes = {code for code in RULES if entry and code.startswith(entry.upper())}
        if not codes:
            close = difflib.get_close_matches(entry.upper(), RULES, n=2, cutoff=0.4)
            hint = f"; did you mean {' or '.join(close)}?" if close else "."
            raise ValueError(f"no rule {entry!r}{hint} --list-rules shows them")
        found |= codes
    return found
