"""From a config file and KEY VALUE pairs to a config."""

from __future__ import annotations

import difflib
import logging
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import CfgNode, get_cfg
from detectron2.utils.file_io import PathManager

from fdd.config import RENAMED_KEYS, add_fdd_config
from fdd.config_files import get_config_file
from fdd.data import resolve_dataset_files
from fdd.data.dataset_files import beside
from fdd.engine.checks import resolve_device

__all__ = [
    "SHIPPED",
    "config_keys",
    "current_names",
    "find_config",
    "load_cfg",
    "merge_cfg",
    "new_cfg",
]

#: What the name of a shipped config begins with where paths are meant, as in
#: ``_BASE_: "fdd://shapes/Base-Shapes.yaml"``: so a file of any folder can build on one.
SHIPPED = "fdd://"
_LONG = 300
_LOGGER = logging.getLogger(__name__)


class _Files(CfgNode):
    """Reads files whose ``_BASE_`` may be a shipped one, and finds data set files beside the file
    that names them. Never merged: that compares types."""

    @classmethod
    def _open_cfg(cls, filename: str) -> Any:
        return PathManager.open(filename, "rb")  # YAML is UTF-8, whatever the locale is

    @classmethod
    def load_yaml_with_base(cls, filename: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        # By now fvcore has put the folder of the file that names the base before it.
        _, shipped, name = filename.rpartition(SHIPPED)
        if shipped:
            filename = get_config_file(name)
        loaded = super().load_yaml_with_base(filename, *args, **kwargs)
        _rename_keys(loaded, filename)
        datasets = loaded.get("DATASETS") if isinstance(loaded, dict) else None
        for key in ("TRAIN", "TEST"):
            if isinstance(datasets, dict) and key in datasets:
                # A base's entries are absolute by now.
                names = cls._decode_cfg_value(datasets[key])
                if isinstance(names, (list, tuple)):
                    datasets[key] = tuple(beside(entry, Path(filename).parent) for entry in names)
        return loaded


def new_cfg() -> CfgNode:
    """Detectron2's defaults and FDD's."""
    cfg = get_cfg()
    add_fdd_config(cfg)
    return cfg


def load_cfg(
    config_file: str | os.PathLike[str] = "", opts: Sequence[str] = ()
) -> tuple[CfgNode, str | None]:
    """The open config of a file and ``KEY VALUE`` pairs, its data set files registered.

    Args:
        config_file: a path, or the name of a shipped config; see :func:`find_config`.
        opts: config keys and values, in pairs.

    Returns:
        The config; a warning for the log (no GPU), or None.

    Raises:
        FileNotFoundError, ValueError: a file is missing, or a key or value is not known.
    """
    cfg = merge_cfg(config_file, opts)
    warning = resolve_device(cfg)
    resolve_dataset_files(cfg, config_file)
    return cfg, warning


def merge_cfg(config_file: str | os.PathLike[str] = "", opts: Sequence[str] = ()) -> CfgNode:
    """The defaults with a file and ``KEY VALUE`` pairs; neither device nor data sets are checked.

    Raises:
        FileNotFoundError, ValueError: as for :func:`load_cfg`.
    """
    cfg = new_cfg()
    if config_file:
        _merge_file(cfg, find_config(config_file))
    _merge_pairs(cfg, opts)
    return cfg


def _merge_pairs(cfg: CfgNode, opts: Sequence[str]) -> None:
    """As ``cfg.merge_from_list``, but any mistake is a ValueError that says how to fix it."""
    pairs = "Config keys and values stand in pairs at the end of the command line"
    if len(opts) % 2:
        config = " If it is the config, give it as --config-file FILE"
        hint = config * opts[-1].lower().endswith((".yaml", ".yml"))
        raise ValueError(f"{opts[-1]!r} has no value after it. {pairs}.{hint}")
    for key, text in zip(opts[::2], opts[1::2], strict=True):
        key = _renamed(key)
        try:
            cfg.merge_from_list([key, text])
        except ValueError as error:
            raise ValueError(_wrong_value(cfg, key, text)) from error
        except (AssertionError, AttributeError, KeyError, TypeError) as error:
            close = difflib.get_close_matches(key, config_keys(cfg), n=2, cutoff=0.8)
            hint = f"Did you mean {' or '.join(close)}?" if close else pairs
            raise ValueError(f"Non-existent key: {key}. {hint}") from error


def current_names(text: str) -> str:
    """A config as text, of a checkpoint say, with the current names of its keys."""
    try:
        loaded = yaml.safe_load(text)
    except yaml.YAMLError:
        return text  # reading it will say why
    return yaml.safe_dump(loaded, sort_keys=False) if _rename_keys(loaded) else text


@cache
def _warn_of_name(where: str, key: str) -> None:
    new = RENAMED_KEYS[key]
    _LOGGER.warning("%s: %s is now called %s; rename it there", where, key, new)


def _renamed(key: str) -> str:
    """The current name of a key of the command line."""
    if key not in RENAMED_KEYS:
        return key
    _warn_of_name("the command line", key)
    return RENAMED_KEYS[key]


def _rename_keys(loaded: Any, path: str | None = None) -> bool:
    """Give renamed keys in the content of a file and its bases their current names; whether there
    were any.

    Those of the bases have them by now, so an older name is the file's own, and counts.
    """
    found = False
    for old, new in RENAMED_KEYS.items():
        *groups, name = old.split(".")
        node: Any = loaded
        for group in groups:
            node = node.get(group) if isinstance(node, dict) else None
        if isinstance(node, dict) and name in node:
            found = True
            if path is not None:
                _warn_of_name(f"config file {path}", old)
            node[new.rpartition(".")[2]] = node.pop(name)
    return found


def config_keys(cfg: CfgNode, prefix: str = "") -> list[str]:
    """All keys of a config, without its groups."""
    nodes = [(f"{prefix}{key}", value) for key, value in cfg.items()]
    below = [k for key, v in nodes if isinstance(v, CfgNode) for k in config_keys(v, f"{key}.")]
    return [key for key, value in nodes if not isinstance(value, CfgNode)] + below


def _wrong_value(cfg: CfgNode, key: str, text: str) -> str:
    current: Any = cfg
    for part in key.split("."):
        current = current[part]
    if isinstance(current, CfgNode):
        return (
            f"{key} is a group of keys; give one of them a value: {key}.{next(iter(current))}, ..."
        )
    if isinstance(current, (list, tuple)):
        inner = repr(text) if not current or isinstance(current[0], str) else text
        return f'{key} is {text!r}; expected a list, in quotes: "({inner},)"'
    return f"{key} is {text!r}; expected {type(current).__name__}, such as {current!r}"


def _merge_file(cfg: CfgNode, path: str) -> None:
    """As ``cfg.merge_from_file``, but with shipped bases, and no YAML that runs code: configs
    travel inside of checkpoints."""
    try:
        loaded = _Files.load_yaml_with_base(path, allow_unsafe=False)
        if not isinstance(loaded, dict):
            raise TypeError
        if (version := loaded.setdefault("VERSION", cfg.VERSION)) != cfg.VERSION:
            raise ValueError(f"VERSION is {version}, expected {cfg.VERSION}")
        cfg.merge_from_other_cfg(CfgNode(loaded))
    except TypeError as error:  # fvcore, too, meets an empty file with it
        raise ValueError(f"config file {path}: it or its _BASE_ holds no KEY: VALUE") from error
    except KeyError as error:
        hint = ""
        if {"images", "points"} <= set(loaded):
            hint = ". This is a data set file: `fdd init-config` writes a config for it"
        raise ValueError(f"config file {path}: {error.args[0]}{hint}") from error
    except (AssertionError, ValueError, yaml.YAMLError) as error:
        text = str(error)
        if text.startswith("Type mismatch") and len(text) > _LONG:  # it shows a whole group of keys
            text = f"{text[: _LONG // 2]} ... {text[-_LONG // 2 :]}".replace("\n", " ")
        raise ValueError(f"config file {path}: {text}") from error


def find_config(config_file: str | os.PathLike[str]) -> str:
    """The path of a config file.

    Args:
        config_file: a path; or, where no such file is, the place of a shipped config below
            ``configs``, such as ``coco/NAME.yaml``; or that behind ``fdd://``. Empty: no file.

    Raises:
        FileNotFoundError: there is neither; the message names the closest shipped ones.
    """
    path = os.fspath(config_file)
    if path.startswith(SHIPPED):
        return get_config_file(path.removeprefix(SHIPPED))
    if not path or os.path.isfile(path) or os.path.isabs(path):
        return path
    try:
        return get_config_file(path)
    except FileNotFoundError as error:
        beside = _closest_beside(path)
        if beside:
            raise FileNotFoundError(f"{path}: no such file; did you mean {beside}?") from error
        raise FileNotFoundError(f"{path}: no such file, and {error}") from error


def _closest_beside(path: str) -> str:
    """The config file in the same folder whose name is closest to a mistyped one; may be empty."""
    folder = os.path.dirname(path)
    try:
        names = [n for n in os.listdir(folder or ".") if n.endswith((".yaml", ".yml"))]
    except OSError:
        return ""
    close = difflib.get_close_matches(os.path.basename(path), names, n=1)
    return os.path.join(folder, close[0]) if close else ""
