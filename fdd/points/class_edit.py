"""Adding a class to a YAML file that lists some: comments, order and style stay as they are."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml

from fdd.points.classes import ClassFileError, parse_classes
from fdd.points.files import atomic_path
from fdd.points.importers.class_names import yaml_text

__all__ = ["add_class", "with_class"]


def add_class(path: str | os.PathLike[str], name: str, isthing: bool) -> None:
    """Write one more class into a YAML file that lists some; see :func:`with_class`.

    Raises:
        ClassFileError: see there; the file is as it was.
        OSError: it cannot be read or written.
    """
    file = Path(os.path.realpath(path))  # of a link, the file behind it
    text = file.read_bytes().decode("utf-8")
    changed = with_class(text, name, isthing, os.fspath(path))
    with atomic_path(file, durable=True) as temporary:
        temporary.write_bytes(changed.encode("utf-8"))


def with_class(text: str, name: str, isthing: bool, source: str = "the file") -> str:
    """The text of a YAML file with one more class at the end of its kind.

    Args:
        text: of a valid file with ``classes`` (see :mod:`fdd.points.classes`).
        name: of the new class.
        source: what messages call the file.

    Raises:
        ClassFileError: the name is taken, or the text is of a form that is not understood well
            enough to be changed.
    """
    by_hand = (
        f"{source}: {name!r} could not be added to 'classes' as it is written there; add it by "
        "hand, and start again"
    )
    before = yaml.safe_load(text)
    try:
        at, added = _insertion(text, name, isthing)
        changed = text[:at] + added + text[at:]
        after = yaml.safe_load(changed)
    except (ValueError, AttributeError, IndexError, yaml.YAMLError):
        raise ClassFileError(by_hand) from None
    _check(before, after, name, isthing, source, by_hand)
    return changed


def _check(before: Any, after: Any, name: str, isthing: bool, source: str, by_hand: str) -> None:
    """Whether one class, and nothing else, has come in."""
    ignore = after.get("ignore") or () if isinstance(after, dict) else ()
    if not isinstance(after, dict) or "classes" not in after:
        raise ClassFileError(by_hand)
    old = parse_classes(before["classes"], ignore, source).categories
    new = parse_classes(after["classes"], ignore, source).categories
    kinds = {c.name: c.isthing for c in new}
    rest = [(c.name, c.isthing) for c in new if c.name != name]
    same = {k: v for k, v in before.items() if k != "classes"} == {
        k: v for k, v in after.items() if k != "classes"
    }
    if not same or kinds.get(name) is not isthing or rest != [(c.name, c.isthing) for c in old]:
        raise ClassFileError(by_hand)


def _insertion(text: str, name: str, isthing: bool) -> tuple[int, str]:
    """Where something is to be inserted, and what."""
    classes = _value(yaml.compose(text, Loader=yaml.SafeLoader), "classes")
    if isinstance(classes, yaml.SequenceNode):
        entry = f"{{name: {yaml_text(name)}, isthing: {'true' if isthing else 'false'}}}"
        return _append(text, classes, entry)
    kind, entry = "things" if isthing else "stuff", yaml_text(name)
    listed = _value(classes, kind)
    if isinstance(listed, yaml.SequenceNode):
        return _append(text, listed, entry)
    if listed is not None:  # nothing, or null
        if listed.end_mark.index > listed.start_mark.index:
            raise ValueError("a list in another form")
        return listed.start_mark.index, f" [{entry}]"
    if classes.flow_style:
        return classes.end_mark.index - 1, f", {kind}: [{entry}]"
    return _new_line(text, classes, f"{kind}: [{entry}]", classes.start_mark.column)


def _value(node: Any, key: str) -> Any:
    """The node under a key of a mapping node; None if it has no such key."""
    if not isinstance(node, yaml.MappingNode):
        raise ValueError("not a mapping")
    return next((value for name, value in node.value if name.value == key), None)


def _append(text: str, node: yaml.SequenceNode, entry: str) -> tuple[int, str]:
    if node.flow_style:
        return node.end_mark.index - 1, f"{', ' if node.value else ''}{entry}"
    return _new_line(text, node, f"- {entry}", node.start_mark.column)


def _new_line(text: str, after: Any, line: str, column: int) -> tuple[int, str]:
    """A line of its own below the last thing in a node, and below what is said behind that."""
    last = after
    while not isinstance(last, yaml.ScalarNode) and not last.flow_style and last.value:
        last = last.value[-1]
        last = last[1] if isinstance(last, tuple) else last
    end = text.find("\n", last.end_mark.index)
    end = len(text) if end < 0 else end
    if end > 0 and text[end - 1] == "\r":
        end -= 1
    return end, ("\r\n" if "\r\n" in text else "\n") + " " * column + line
