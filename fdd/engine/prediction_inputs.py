"""Which images and videos a command line means, and what their results are called."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

__all__ = ["IMAGE_ENDINGS", "VIDEO_ENDINGS", "PredictionInput", "find_inputs"]

IMAGE_ENDINGS = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
VIDEO_ENDINGS = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".webm")


@dataclass(frozen=True)
class PredictionInput:
    """A file to segment.

    Attributes:
        path: of the file.
        file_name: path from the folder that was named, with ``/``; of a single file its name.
        name: unique; what its results are called, without an ending. May hold ``/``.
    """

    path: Path
    file_name: str
    name: str

    @property
    def is_video(self) -> bool:
        return self.path.suffix.lower() in VIDEO_ENDINGS


def find_inputs(
    entries: Sequence[str | os.PathLike[str]],
    *,
    recursive: bool = False,
    leave_out: Sequence[str | os.PathLike[str]] = (),
) -> list[PredictionInput]:
    """The files that paths, folders and glob patterns stand for, each once.

    Args:
        entries: files (of any ending), folders, patterns (``**`` reaches sub-folders).
        recursive: look into the sub-folders of folders, too. Hidden files and folders are passed
            over.
        leave_out: folders of which nothing is taken, such as an output in the middle of the input.

    Raises:
        FileNotFoundError: an entry stands for no image and no video.
        ValueError: all that it stands for lies in ``leave_out``.
    """
    hidden = [os.path.abspath(folder) + os.sep for folder in leave_out]
    found: dict[str, tuple[Path, str]] = {}
    for entry in (os.fspath(e) for e in entries):
        every = list(_expand(entry, recursive))
        if not every:
            raise FileNotFoundError(_nothing_found(entry, recursive))
        hits = [hit for hit in every if not os.path.abspath(hit[0]).startswith(tuple(hidden))]
        if not hits:
            raise ValueError(
                f"{entry}: lies where results are written, which would replace it. Choose another "
                "output folder"
            )
        for path, file_name in hits:
            found.setdefault(os.path.abspath(path), (path, file_name))
    names = _unique_names([file_name for _, file_name in found.values()])
    return [
        PredictionInput(path, file_name, name)
        for (path, file_name), name in zip(found.values(), names, strict=True)
    ]


def _expand(entry: str, recursive: bool) -> Iterator[tuple[Path, str]]:
    """Paths, and their names from the folder that was named."""
    path = Path(entry).expanduser()
    # A name with brackets is tried as a file before it is tried as a pattern.
    if path.is_file():
        yield path, path.name
    elif path.is_dir():
        for hit in sorted(path.rglob("*") if recursive else path.iterdir()):
            parts = hit.relative_to(path).parts
            usable = hit.suffix.lower() in IMAGE_ENDINGS + VIDEO_ENDINGS and hit.is_file()
            if usable and not any(part.startswith(".") for part in parts):
                yield hit, "/".join(parts)
    else:
        for text in sorted(glob.glob(str(path), recursive=True)):
            hit = Path(text)
            if hit.suffix.lower() in IMAGE_ENDINGS + VIDEO_ENDINGS and hit.is_file():
                yield hit, hit.name


def _nothing_found(entry: str, recursive: bool) -> str:
    endings = " ".join(IMAGE_ENDINGS + VIDEO_ENDINGS)
    if Path(entry).expanduser().is_dir():
        hint = "" if recursive else " --recursive looks into its sub-folders, too."
        return f"{entry}: no image or video in this folder (looked for {endings}).{hint}"
    if glob.has_magic(entry):
        return f"{entry}: no image or video matches this pattern (looked for {endings})"
    return f"{entry}: no such file or folder"


def _unique_names(file_names: Sequence[str]) -> list[str]:
    """Names without endings, made longer where two are the same (for some disks A is a).

    A video's name is not that of another's folder either: its frames lie in one.
    """
    stems = [str(PurePosixPath(file_name).with_suffix("")) for file_name in file_names]
    folders = {str(above).casefold() for stem in stems for above in PurePosixPath(stem).parents}
    taken: set[str] = set()
    names = []
    for stem, file_name in zip(stems, file_names, strict=True):
        name, number = stem, 2
        used = taken | folders if file_name.lower().endswith(VIDEO_ENDINGS) else taken
        while name.casefold() in used:
            name, number = f"{stem}_{number}", number + 1
        taken.add(name.casefold())
        names.append(name)
    return names
