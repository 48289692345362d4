"""Which files are images, by their names, and where those of a data set are."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

__all__ = ["IMAGE_ENDINGS", "is_image_name", "locate_files"]

#: Of the files that are taken for images, in small letters, for every reader of this package. What
#: is in a file decides whether it is one.
IMAGE_ENDINGS = (
    *(".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png"),
    *(".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp"),
)


def is_image_name(name: str | os.PathLike[str]) -> bool:
    """Whether a file is an image by its ending, in whatever capitals."""
    return Path(name).suffix.lower() in IMAGE_ENDINGS


def locate_files(
    root: str | os.PathLike[str], names: Sequence[str], any_extension: bool
) -> tuple[list[str], list[int]]:
    """Paths of files below ``root``; each folder is listed once instead of asking for every file.

    Args:
        root: the folder that the names start from.
        names: of files, with folders.
        any_extension: find an image that was converted (``a.jpg`` is ``a.png`` on disk) by its
            stem, if only one has it.

    Returns:
        The paths, and the positions of those that are not there.
    """
    listings: dict[str, set[str]] = {}
    stems: dict[str, dict[str, list[str]]] = {}
    found: list[str] = []
    missing: list[int] = []
    for position, name in enumerate(names):
        folder, base = os.path.split(os.path.join(os.fspath(root), name))
        if folder not in listings:
            listings[folder] = set(os.listdir(folder)) if os.path.isdir(folder) else set()
        if base not in listings[folder] and any_extension:
            if folder not in stems:
                stems[folder] = _images_by_stem(listings[folder])
            candidates = stems[folder].get(Path(base).stem, [])
            if len(candidates) == 1:
                base = candidates[0]
        if base not in listings[folder]:
            missing.append(position)
        found.append(os.path.join(folder, base))
    return found, missing


def _images_by_stem(names: Iterable[str]) -> dict[str, list[str]]:
    by_stem: dict[str, list[str]] = {}
    for name in names:
        if is_image_name(name):
            by_stem.setdefault(Path(name).stem, []).append(name)
    return by_stem
