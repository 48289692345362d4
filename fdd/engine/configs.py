"""From a config file and KEY VALUE pairs to a config."""

from __future__ import annotations

import os
from collections.abc import Sequence

import yaml
from detectron2.config import CfgNode, get_cfg

from fdd.config import add_fdd_config
from fdd.data import resolve_dataset_files

from .checks import resolve_device

__all__ = ["load_cfg", "new_cfg"]


def new_cfg() -> CfgNode:
    """Detectron2's defaults and FDD's."""
    cfg = get_cfg()
    add_fdd_config(cfg)
    return cfg


def load_cfg(
    config_file: str | os.PathLike[str] = "", opts: Sequence[str] = ()
) -> tuple[CfgNode, str | None]:
    """The open config of a file and ``KEY VALUE`` pairs, its data set files registered.

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
    try:
        if config_file:
            cfg.merge_from_file(os.fspath(config_file))
    except (AssertionError, KeyError, yaml.YAMLError) as error:
        raise ValueError(f"config file {os.fspath(config_file)}: {_said(error)}") from error
    try:
        cfg.merge_from_list(list(opts))
    except (AssertionError, KeyError) as error:
        raise ValueError(
            f"{_said(error)}. Config keys and values stand in pairs at the end of the command line"
        ) from error
    return cfg


def _said(error: Exception) -> str:
    return str(error.args[0]) if error.args else repr(error)
