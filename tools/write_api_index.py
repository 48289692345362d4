#!/usr/bin/env python3
"""Write docs/api.md: the public functions and classes of the package, room by room.

Public is what a package lists in ``__all__``; where it lists nothing, what its modules list.
``tests/test_documentation.py`` fails where the page is out of date.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

PAGE = Path(__file__).resolve().parent.parent / "docs" / "api.md"
HEAD = """\
# Python API

What scripts may call, room by room, from the lowest to the highest: a room imports only from the
rooms above it on this page. The first sentence of each docstring stands here; `help(NAME)` has the
rest, with shapes, dtypes, ranges and errors. [extend.md](extend.md) uses the registries. The page
is written by `python tools/write_api_index.py`.
"""
#: Packages in the order of the page, and modules that count as public beside what they list.
ROOMS = (
    "fdd",
    "fdd.config",
    "fdd.points",
    "fdd.points.importers",
    "fdd.points.rules",
    "fdd.data",
    "fdd.modeling",
    "fdd.modeling.label_branch",
    "fdd.modeling.label_makers",
    "fdd.modeling.pseudo_labels",
    "fdd.modeling.panoptic_branch",
    "fdd.modeling.layers",
    "fdd.modeling.losses",
    "fdd.evaluation",
    "fdd.export_formats",
    "fdd.visualization",
    "fdd.engine",
    "fdd.engine.configs",
    "fdd.engine.command",
    "fdd.recipe",
    "fdd.inference",
    "fdd.audit",
    "fdd.profiling",
    "fdd.doctor",
)


def public_names(module: ModuleType) -> Iterator[tuple[ModuleType, str]]:
    """The modules to import from, and the names in them."""
    names = getattr(module, "__all__", None)
    if names is None and not hasattr(module, "__path__"):
        # A module without a list: what it defines itself.
        own = {n: v for n, v in vars(module).items() if not n.startswith("_")}
        names = [n for n, v in own.items() if getattr(v, "__module__", "") == module.__name__]
    if names:
        yield from ((module, name) for name in sorted(names))
        return
    for info in pkgutil.iter_modules(module.__path__, f"{module.__name__}."):
        if not info.ispkg:
            yield from public_names(importlib.import_module(info.name))


def first_sentence(value: Any) -> str:
    """The beginning of a docstring on one line, without reStructuredText's roles."""
    text = " ".join((inspect.getdoc(value) or "").split("\n\n")[0].split())
    text = re.split(r"(?<!Eq)\.\s", text, maxsplit=1)[0].rstrip(".:;")
    text = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", text)
    return text.replace("``", "`")


class _Elided:
    """A default that is too long to print, or not printed alike everywhere."""

    def __repr__(self) -> str:
        return "..."


def signature_of(value: Any) -> str:
    """``(a, *, b=1)``, without annotations; empty where there is none."""
    try:
        signature = inspect.signature(value)
    except (TypeError, ValueError):
        return ""
    empty = inspect.Parameter.empty
    bare = []
    for parameter in signature.parameters.values():
        default = parameter.default
        if default is not empty and not re.fullmatch(r"[\w.(), '-]{,24}", repr(default)):
            default = _Elided()
        bare.append(parameter.replace(annotation=empty, default=default))
    return str(signature.replace(parameters=bare, return_annotation=inspect.Signature.empty))


def entries(room: str) -> Iterator[str]:
    """A line for each public function and class of a room; constants are left out."""
    for module, name in public_names(importlib.import_module(room)):
        value = getattr(module, name)
        if not (inspect.isclass(value) or inspect.isroutine(value)):
            continue
        doc = first_sentence(value)
        where = "" if module.__name__ == room else f"{module.__name__.removeprefix(f'{room}.')}."
        yield f"- `{where}{name}{signature_of(value)}`{f': {doc}' if doc else ''}"


def make_page() -> str:
    parts = [HEAD]
    for room in ROOMS:
        lines = list(entries(room))
        about = first_sentence(importlib.import_module(room))
        parts.append(f"## `{room}`\n\n{about}.\n")
        if lines:
            parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    PAGE.write_text(make_page(), encoding="utf-8")


if __name__ == "__main__":
    main()
