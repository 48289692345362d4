"""A recipe as a config file that people read and change."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode

from fdd.config import check_fdd_config
from fdd.data.dataset_files import beside
from fdd.engine.configs import load_cfg, merge_cfg
from fdd.engine.recipe import NETWORKS, Recipe
from fdd.points.files import atomic_path

__all__ = ["write_config"]

_WIDTH = 96


def write_config(
    recipe: Recipe, path: str | os.PathLike[str], overrides: Sequence[str] = ()
) -> None:
    """Write a recipe as a config, if it is a sound one; data sets by their path from its folder.

    Args:
        recipe: what to write.
        path: the YAML file; replaced if it is there.
        overrides: config keys and values, in pairs, that are written in place of the recipe's.

    Raises:
        ValueError: for an override that is no config key, or has no sound value; for the path of a
            data set file.
    """
    target = Path(path).absolute()
    for file in filter(os.path.exists, recipe.keys["DATASETS.TRAIN"]):
        if target.exists() and os.path.samefile(target, file):
            raise ValueError(f"{path} is the data set file; name another file to write")
    network = NETWORKS[recipe.network]
    merge_cfg(f"fdd://{network.base}", overrides)  # so that a mistake is the command line's
    keys, notes = dict(recipe.keys), dict(recipe.notes)
    for key, text in zip(overrides[::2], overrides[1::2], strict=True):
        value = CfgNode._decode_cfg_value(text)
        keys[key] = text if isinstance(value, str) else value  # a text is decoded when it is read
        notes[key] = "given on the command line"
    for key in ("DATASETS.TRAIN", "DATASETS.TEST"):
        entries = [beside(entry, Path.cwd()) for entry in keys[key]]
        keys[key] = tuple(_relative(entry, target.parent) for entry in entries)
    head = (
        f"# Written by fdd init-config. {recipe.network}: {network.about}.\n"
        f'_BASE_: "fdd://{network.base}"\n'
    )
    with atomic_path(target) as temporary:
        temporary.write_text(head + _nested(keys, notes), encoding="utf-8")
        try:
            cfg, _ = load_cfg(temporary)
            check_fdd_config(cfg)
        except ValueError as error:
            raise ValueError(str(error).replace(str(temporary), str(path))) from error


def _relative(entry: Any, folder: Path) -> Any:
    if not (isinstance(entry, str) and os.path.isabs(entry)):  # a registered name
        return entry
    try:
        return Path(os.path.relpath(entry, folder)).as_posix()
    except ValueError:  # on another drive
        return entry


def _nested(keys: dict[str, Any], notes: dict[str, str]) -> str:
    """The keys as indented YAML, in their order, with the notes as comments."""
    tree: dict[str, Any] = {}
    for key, value in keys.items():
        *nodes, leaf = key.split(".")
        place = tree
        for node in nodes:
            place = place.setdefault(node, {})
        place[leaf] = (value, notes.get(key, ""))
    lines: list[str] = []

    def write(node: dict[str, Any], indent: str) -> None:
        for name, value in node.items():
            if isinstance(value, dict):
                lines.append(f"{indent}{name}:")
                write(value, indent + "  ")
            else:
                line, note = f"{indent}{name}: {_literal(value[0])}", value[1]
                if len(line) + len(note) > _WIDTH:  # above it, in lines of its own
                    lines.extend(f"{indent}# {part}" for part in textwrap.wrap(note, _WIDTH))
                    note = ""
                lines.append(f"{line}  # {note}" if note else line)

    write(tree, "")
    return "\n".join(lines) + "\n"


def _literal(value: Any) -> str:
    """Numbers as Detectron2's configs write them, whose tuples are read from their text; texts
    quoted, because paths may hold what YAML has a meaning for."""
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return '"' + "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in escaped) + '"'
    if isinstance(value, (tuple, list)) and any(isinstance(v, str) for v in value):
        return f"[{', '.join(map(_literal, value))}]"
    return repr(value)
