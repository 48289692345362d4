"""From a config file and KEY VALUE pairs to a config."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import yaml
from detectron2.config import CfgNode, get_cfg

from fdd.config import add_fdd_config
from fdd.config_files import get_config_file
from fdd.data import resolve_dataset_files

from .checks import resolve_device

__all__ = ["SHIPPED", "find_config", "load_cfg", "merge_cfg", "new_cfg"]

#: What the name of a shipped config begins with where paths are meant, as in
#: ``_BASE_: "fdd://shapes/Base-Shapes.yaml"``: so a file of any folder can build on one.
SHIPPED = "fdd://"


class _Files(CfgNode):
    """Reads files whose ``_BASE_`` may be a shipped one. Never merged: that compares types."""

    @classmethod
    def load_yaml_with_base(cls, filename: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        # By now fvcore has put the folder of the file that names the base before it.
        _, shipped, name = filename.rpartition(SHIPPED)
        if shipped:
            filename = get_config_file(name)
        return super().load_yaml_with_base(filename, *args, **kwargs)


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
    """The defaults with a file and ``KEY VALUE`` pairs; nothing but the file is looked at.

    Raises:
        FileNotFoundError, ValueError: as for :func:`load_cfg`.
    """
    cfg = new_cfg()
    if config_file:
        _merge_file(cfg, find_config(config_file))
    try:
        cfg.merge_from_list(list(opts))
    except (AssertionError, KeyError) as error:
        raise ValueError(
            f"{error.args[0]}. Config keys and values stand in pairs at the end of the command line"
        ) from error
    return cfg


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
        raise ValueError(f"config file {path}: {error.args[0]}") from error
    except (AssertionError, ValueError, yaml.YAMLError) as error:
        raise ValueError(f"config file {path}: {error}") from error


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
        raise FileNotFoundError(f"{path}: no such file, and {error}") from error
