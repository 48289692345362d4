"""Finds the shipped configuration files, from a checkout as well as from an installed wheel."""

from __future__ import annotations

import difflib
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
_BASE = "Base-FDD.yaml"
# Lies among the configs, but is a list of overrides.
_TABLES = "tables.yaml"


def get_config_root() -> Path:
    """Return the folder of the shipped configuration files.

    Returns:
        `fdd/configs` where the package came from a wheel, else `configs` beside the package, as in
        a checkout.

    Raises:
        FileNotFoundError: there is neither.
    """
    for folder in (_PACKAGE / "configs", _PACKAGE.parent / "configs"):
        # By the base file, because site-packages may hold another package's folder "configs".
        if (folder / _BASE).is_file():
            return folder
    raise FileNotFoundError(
        f"the configuration files of fdd are missing: no {_BASE} in {_PACKAGE / 'configs'}"
        f" nor in {_PACKAGE.parent / 'configs'}. Install fdd again, or run it from a complete"
        f" checkout."
    )


def list_config_files() -> list[str]:
    """Return the names that :func:`get_config_file` knows, sorted, such as `voc/NAME.yaml`."""
    root = get_config_root()
    paths = [path for path in root.rglob("*.yaml") if path.name != _TABLES]
    return sorted(path.relative_to(root).as_posix() for path in paths)


def get_config_file(name: str) -> str:
    """Return the path of a shipped configuration file.

    Args:
        name: its place below `configs`, such as `voc/NAME.yaml`; the ending may be left out.

    Returns:
        A path for `cfg.merge_from_file`.

    Raises:
        FileNotFoundError: there is no such file; the message names the closest ones.
    """
    names = list_config_files()
    wanted = name if name.endswith(".yaml") else f"{name}.yaml"
    if wanted not in names:
        closest = difflib.get_close_matches(wanted, names, n=5, cutoff=0.3) or names
        raise FileNotFoundError(
            f"no configuration file {name!r} in {get_config_root()}; closest: {', '.join(closest)}"
        )
    return str(get_config_root() / wanted)
