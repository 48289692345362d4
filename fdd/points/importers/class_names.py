"""From the class names of an export to classes, or to a message that says what is missing."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

import yaml

from fdd.points.classes import ClassList, label_key
from fdd.points.importers.registry import RawImage
from fdd.points.structures import Category, PointLabelError
from fdd.points.wording import counted

__all__ = ["LabelCount", "count_labels", "match_labels"]

_MAX_LABELS = 1000  # more are not classes
_SHOWN = 5


@dataclass
class LabelCount:
    """A label of an export: how many points have it, and where the first is."""

    label: str
    points: int
    where: str


def count_labels(images: Iterable[RawImage]) -> list[LabelCount]:
    """The labels of an export as :func:`label_key` has them, in the order they come."""
    found: dict[str, LabelCount] = {}
    for image in images:
        for point in image.points:
            label = label_key(point.label)
            if label in found:
                found[label].points += 1
            else:
                found[label] = LabelCount(label, 1, point.where)
    return list(found.values())


def match_labels(
    images: Iterable[RawImage], classes: ClassList | None, classes_source: str = "the classes"
) -> dict[str, Category | None]:
    """The class of each label (its :func:`label_key`), None for labels to leave out.

    Args:
        images: of the export.
        classes: None: the error asks for them.
        classes_source: what messages call ``classes``, a path.

    Raises:
        PointLabelError: there is no class list, or labels are not in it. The message ends with YAML
            to copy.
    """
    counts = count_labels(images)
    known = () if classes is None else (*classes.spellings, *classes.ignore)
    if len({count.label for count in counts}.difference(known)) > _MAX_LABELS:
        lines = [
            f"{len(counts)} different labels, too many for classes. Was a wrong column or",
            "attribute taken for the class? The first of them:",
            *(f"  {_describe(count)}" for count in counts[:_SHOWN]),
        ]
        raise PointLabelError("\n".join(lines))
    if classes is None:
        raise PointLabelError(_ask_for_classes(counts))
    unknown, result = [], dict[str, Category | None]()
    for count in counts:
        category = classes.find(count.label)
        if category is None and count.label not in classes.ignore:
            unknown.append(count)
        result[count.label] = category
    if unknown:
        raise PointLabelError(
            _explain_unknown(unknown, classes, classes_source),
            [_describe(count, classes.close_to(count.label)) for count in unknown],
        )
    return result


def _ask_for_classes(counts: list[LabelCount]) -> str:
    if not counts:
        return "no class list, and not one point to take classes from. Give --classes FILE"
    named = [count.label for count in counts if count.label]
    lines = [
        "no class list. Save this as classes.yaml and give --classes classes.yaml. First decide",
        "for each label: a thing (objects that are counted, each with points of its own) or stuff",
        "(a region such as sky or soil)? Move what is stuff to its line:",
        "",
        "classes:",
        f"  things: [{', '.join(_draft_entries(named))}]",
        "  stuff: []",
    ]
    if len(named) < len(counts):
        lines.append('ignore: [""]  # points that have no label')
    lines += ["", "found:", *(f"  {_describe(count)}" for count in counts)]
    return "\n".join(lines)


def _draft_entries(labels: list[str]) -> list[str]:
    """A class for each label; those that differ in capitals only are spellings of one."""
    spellings: dict[str, list[str]] = {}
    for label in labels:
        spellings.setdefault(label.casefold(), []).append(label)
    return [
        yaml_text(first)
        if not others
        else f"{{name: {yaml_text(first)}, aliases: [{', '.join(map(yaml_text, others))}]}}"
        for first, *others in spellings.values()
    ]


def _explain_unknown(unknown: list[LabelCount], classes: ClassList, source: str) -> str:
    close = {count.label: classes.close_to(count.label) for count in unknown}
    many = len(unknown) > 1
    lines = [f"{len(unknown)} label{'s are' if many else ' is'} not in {source}:"]
    lines += [f"  {_describe(count, close[count.label])}" for count in unknown]
    lines += [
        f"Correct the export, or put this into {source} in place of the same keys, after a look at",
        "the lines with a remark:",
        "",
        "classes:",
    ]
    aliases: dict[int, list[str]] = {category.id: [] for category in classes.categories}
    for label, number in classes.spellings.items():
        aliases[number].append(label)
    new, ignore = [], sorted(classes.ignore)
    for count in unknown:
        meant = classes.find(close[count.label][0]) if close[count.label] else None
        if meant is not None and count.label:
            aliases[meant.id].append(count.label)
        elif count.label:
            name = yaml_text(count.label)
            new.append(f"  - {{name: {name}, isthing: true}}  # new; false if it is a region")
        else:
            ignore.append("")
    added = {count.label for count in unknown}
    for category in classes.categories:
        others = [label for label in aliases[category.id] if label != category.name]
        text = f"id: {category.id}, name: {yaml_text(category.name)}, "
        text += f"isthing: {str(category.isthing).lower()}"
        if others:
            text += f", aliases: [{', '.join(map(yaml_text, others))}]"
        mark = "  # one more alias" if added & set(others) else ""
        lines.append(f"  - {{{text}}}{mark}")
    lines += new
    if ignore:
        lines.append(f"ignore: [{', '.join(map(yaml_text, ignore))}]")
    elif new:
        left_out = next(c.label for c in unknown if not close[c.label])
        lines.append(f"# or, to leave a label out: ignore: [{yaml_text(left_out)}]")
    return "\n".join(lines)


def _describe(count: LabelCount, close: Iterable[str] = ()) -> str:
    points = counted(count.points, "point")
    hint = " or ".join(map(repr, close))
    return f"{count.label!r}: {points}, first at {count.where}" + (
        f". Did you mean {hint}?" if hint else ""
    )


def yaml_text(text: str) -> str:
    """A text as an entry of a YAML list; in quotes where it would be read as something else."""
    try:
        plain = yaml.safe_load(f"[{text}, x]") == [text, "x"]
        plain = plain and yaml.safe_load(f"{{a: {text}, b: x}}") == {"a": text, "b": "x"}
    except yaml.YAMLError:
        plain = False
    return text if plain else json.dumps(text, ensure_ascii=False)
