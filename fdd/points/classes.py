"""The list of classes in a small YAML file: names, thing or stuff, ids, other spellings.

Short form and long form, which may be mixed::

    classes:                          classes:
      things: [cell, nucleus]           - {name: cell, isthing: true, aliases: [Cell, cells]}
      stuff: [background]               - {id: 9, name: background, isthing: false}
                                        - {name: sky, isthing: false, color: "#87beeb"}
    ignore: [ruler]                   # labels to leave out

Ids are given from 1 in the order of the list where the file does not give them, and colours, in
which pictures and pages show a class, by its name (:mod:`fdd.points.class_colors`).
"""

from __future__ import annotations

import difflib
import os
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from fdd.points.class_colors import read_color
from fdd.points.structures import Category, canonical_name, is_integer

__all__ = [
    "ClassFileError",
    "ClassList",
    "label_key",
    "parse_classes",
    "read_classes",
    "read_yaml",
    "shown",
]

_ENTRY_KEYS = ("name", "isthing", "id", "aliases", "color")
_REPR = reprlib.Repr()
_REPR.maxstring, _REPR.maxlevel, _REPR.maxlist = 200, 2, 4
#: ``repr``, but short: a few bytes of YAML can stand for gigabytes of nested lists.
shown = _REPR.repr


class ClassFileError(ValueError):
    """An invalid YAML file; names the file and the entry."""


def label_key(label: str) -> str:
    """The form in which labels are compared: no surrounding blanks, one Unicode form."""
    return canonical_name(label.strip())


@dataclass(frozen=True)
class ClassList:
    """Classes and the spellings under which labels may name them.

    Attributes:
        categories: in the order of the file.
        spellings: every accepted label, as :func:`label_key` has it -> id.
        ignore: labels to leave out silently, likewise.
        colors: name -> RGB in [0, 255], of the classes to which the file gives one.
    """

    categories: tuple[Category, ...]
    spellings: Mapping[str, int] = field(default_factory=dict)
    ignore: frozenset[str] = frozenset()
    colors: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.spellings:
            object.__setattr__(self, "spellings", {c.name: c.id for c in self.categories})

    def find(self, label: str) -> Category | None:
        """The class that a label names, compared by :func:`label_key`."""
        found = self.spellings.get(label_key(label))
        return None if found is None else next(c for c in self.categories if c.id == found)

    def close_to(self, label: str) -> list[str]:
        """Spellings that the label may have meant, closest first."""
        folded = {name.casefold(): name for name in self.spellings}
        hits = difflib.get_close_matches(label_key(label).casefold(), folded, n=3)
        return [folded[hit] for hit in hits]


def read_classes(path: str | os.PathLike[str]) -> ClassList:
    """Read the keys ``classes`` and ``ignore`` of a YAML file; others (of a data set) may be there.

    Raises:
        FileNotFoundError: there is no such file.
        ClassFileError: it is not YAML, or has no valid classes.
    """
    source = os.fspath(path)
    document = read_yaml(path)
    if "classes" not in document:
        raise ClassFileError(
            f"{source}: no key 'classes'. Expected, for example:\n"
            "classes:\n  things: [cell]\n  stuff: [background]"
        )
    return parse_classes(document["classes"], document.get("ignore") or (), source)


class _Loader(yaml.SafeLoader):
    """Refuses a key that occurs twice, of which PyYAML would silently take the second."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in seen:
                    problem = f"the key {key.value!r} occurs twice; keep one of the two"
                    raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
                seen.add((key.tag, key.value))
        return super().construct_mapping(node, deep)


def read_yaml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """A YAML file whose top is a mapping.

    Raises:
        FileNotFoundError: there is no such file.
        ClassFileError: it is not YAML, has a key twice, or its top is something else.
    """
    source = os.fspath(path)
    try:
        document = yaml.load(Path(path).read_bytes(), _Loader)
    except FileNotFoundError:
        raise FileNotFoundError(f"{source}: no such YAML file") from None
    except IsADirectoryError:
        raise ClassFileError(f"{source}: a folder; expected a YAML file") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ClassFileError(f"{source}: not valid YAML: {error}") from error
    if not isinstance(document, dict):
        found = "it is empty" if document is None else f"its top is {type(document).__name__}"
        raise ClassFileError(f"{source}: {found}; expected keys such as 'classes:'")
    return document


def parse_classes(classes: Any, ignore: Any = (), source: str = "classes") -> ClassList:
    """The class list of parsed YAML, see the module.

    Raises:
        ClassFileError: naming the entry.
    """
    entries = _entries(classes, source)
    if not entries:
        raise ClassFileError(f"{source}: 'classes' is empty; list at least one class")
    taken = {e["id"] for e in entries if e.get("id") is not None}
    free = (n for n in range(1, len(entries) + len(taken) + 2) if n not in taken)
    categories: list[Category] = []
    spellings: dict[str, int] = {}
    for entry in entries:
        number = entry["id"] if entry.get("id") is not None else next(free)
        if any(c.id == number for c in categories):
            raise ClassFileError(f"{source}: id {number} is used by two classes; change one")
        category = Category(number, entry["name"], entry["isthing"])
        categories.append(category)
        for label in (category.name, *entry.get("aliases", ())):
            if label in spellings:
                raise ClassFileError(f"{source}: the label {label!r} stands for two classes")
            spellings[label] = category.id
    left_out = frozenset(_names(ignore, f"{source}: 'ignore'"))
    both = sorted(left_out & set(spellings))
    if both:
        raise ClassFileError(f"{source}: {both} are classes and under 'ignore'; choose one")
    colors = {e["name"]: e["color"] for e in entries if e.get("color") is not None}
    return ClassList(tuple(categories), spellings, left_out, colors)


def _entries(classes: Any, source: str) -> list[dict[str, Any]]:
    """Entries with ``name`` and ``isthing`` (bool), of the short or the long form."""
    if isinstance(classes, dict):
        wrong = sorted(set(map(str, classes)) - {"things", "stuff"})
        if wrong:
            raise ClassFileError(
                f"{source}: 'classes' has the key {wrong[0]!r}; expected 'things' and 'stuff', or "
                "a list of entries with 'name' and 'isthing'"
            )
        return [
            _entry(item, kind == "things", f"{source}: classes, {kind}, position {i}")
            for kind in ("things", "stuff")
            for i, item in enumerate(_sequence(classes.get(kind), f"{source}: {kind!r}"))
        ]
    items = _sequence(classes, f"{source}: 'classes'")
    return [_entry(item, None, f"{source}: classes, position {i}") for i, item in enumerate(items)]


def _entry(item: Any, isthing: bool | None, where: str) -> dict[str, Any]:
    entry = dict(item) if isinstance(item, dict) else {"name": item}
    unknown = sorted(set(map(str, entry)) - set(_ENTRY_KEYS))
    if unknown:
        raise ClassFileError(f"{where}: key {unknown[0]!r}; expected {', '.join(_ENTRY_KEYS)}")
    name = entry.get("name")
    if not isinstance(name, str) or not name.strip():
        hint = " Put it in quotes." if isinstance(name, (bool, int, float)) else ""
        raise ClassFileError(f"{where}: the name is {shown(name)}; expected a text.{hint}")
    said = entry.get("isthing", isthing)
    if isthing is not None and said is not isthing:
        raise ClassFileError(
            f"{where}: {name!r} has isthing {shown(said)} in the list of the others"
        )
    if not isinstance(said, bool):
        raise ClassFileError(
            f"{where}: {name!r} is thing or stuff? Write isthing: true for countable objects, of "
            "which each has its own points, isthing: false for regions such as sky"
        )
    number = entry.get("id")
    if number is not None and not (is_integer(number) and number >= 0):
        raise ClassFileError(f"{where}: id {shown(number)} of {name!r}; expected an integer >= 0")
    aliases = _names(entry.get("aliases"), f"{where}: aliases of {name!r}")
    color = _color(entry.get("color"), f"{where}: the colour of {name!r}")
    return {
        "name": label_key(name),
        "isthing": said,
        "id": number,
        "aliases": aliases,
        "color": color,
    }


def _color(value: Any, where: str) -> tuple[int, int, int] | None:
    """``"#1e90ff"`` or ``[30, 144, 255]``; None is none."""
    if value is None:
        return None
    if (color := read_color(value)) is not None:
        return color
    raise ClassFileError(
        f'{where} is {shown(value)}; expected "#1e90ff", in quotes, or [30, 144, 255]'
    )


def _names(value: Any, where: str) -> list[str]:
    names = _sequence(value, where)
    for name in names:
        if not isinstance(name, str):
            raise ClassFileError(f"{where}: {shown(name)} is not a text; put it in quotes")
    return [label_key(name) for name in names]


def _sequence(value: Any, where: str) -> Sequence[Any]:
    if value is None:
        return ()
    if isinstance(value, str) or not isinstance(value, Iterable) or isinstance(value, Mapping):
        raise ClassFileError(f"{where} is {shown(value)}; expected a list")
    return list(value)
