"""Which images and videos a command line means, and what their results are called."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from fdd.points.image_files import IMAGE_ENDINGS, is_image_name, walk_files
from fdd.points.wording import listed

__all__ = ["VIDEO_ENDINGS", "PredictionInput", "find_inputs", "find_left_out"]

VIDEO_ENDINGS = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".webm")
_NAMES_SHOWN = 5


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


def find_left_out(
    entries: Sequence[str | os.PathLike[str]],
    *,
    recursive: bool = False,
    leave_out: Sequence[str | os.PathLike[str]] = (),
) -> list[str]:
    """What lies in the folders and matches the patterns, and :func:`find_inputs` does not take.

    Args:
        entries, recursive, leave_out: as there. Hidden folders and what is in them, hidden files of
            other endings, and folders of ``leave_out`` are not counted.

    Returns:
        For each entry a sentence about files of other endings, one about hidden images and videos,
        and one about sub-folders, with their number and some names; none where there are none.
    """
    closed = {os.path.abspath(folder) for folder in leave_out}
    notes = []
    for entry in (os.fspath(e) for e in entries):
        path = Path(entry).expanduser()
        if path.is_file():
            continue
        is_folder = path.is_dir()
        hits = walk_files(path, recursive=recursive) if is_folder else _matching(path)
        files = [n for hit, n in hits if not _is_usable(hit) and not _is_closed(hit, closed)]
        if files:
            were = "files were" if len(files) > 1 else "file was"
            notes.append(
                f"{entry}: {len(files):,} {were} left out, not an image or a video by the ending: "
                f"{listed(files, _NAMES_SHOWN)}"
            )
        if not is_folder:
            continue
        hits = walk_files(path, recursive=recursive, hidden=True)
        hidden = [n for hit, n in hits if _is_usable(hit) and not _is_closed(hit, closed)]
        if hidden:
            were = "files were" if len(hidden) > 1 else "file was"
            notes.append(
                f"{entry}: {len(hidden):,} hidden {were} left out (named one by one they are "
                f"taken): {listed(hidden, _NAMES_SHOWN)}"
            )
        if recursive:
            continue
        own = {os.path.dirname(folder) for folder in closed}  # the folder of the results
        folders = [
            hit.name
            for hit in sorted(path.iterdir())
            if hit.is_dir()
            and not hit.name.startswith(".")
            and not _is_closed(hit, closed)
            and os.path.abspath(hit) not in own
        ]
        if folders:
            were = "sub-folders were" if len(folders) > 1 else "sub-folder was"
            notes.append(
                f"{entry}: {len(folders):,} {were} not looked into (--recursive does): "
                f"{listed(folders, _NAMES_SHOWN)}"
            )
    return notes


def _is_closed(path: Path, closed: Set[str]) -> bool:
    """Whether a path is one of the folders, or lies in one."""
    return not closed.isdisjoint(map(os.path.abspath, (path, *path.parents)))


def _expand(entry: str, recursive: bool) -> Iterator[tuple[Path, str]]:
    """Paths, and their names from the folder that was named."""
    path = Path(entry).expanduser()
    # A name with brackets is tried as a file before it is tried as a pattern.
    if path.is_file():
        yield path, path.name
    elif path.is_dir():
        yield from (hit for hit in walk_files(path, recursive=recursive) if _is_usable(hit[0]))
    else:
        yield from (hit for hit in _matching(path) if _is_usable(hit[0]))


def _matching(pattern: Path) -> list[tuple[Path, str]]:
    hits = map(Path, sorted(glob.glob(str(pattern), recursive=True)))
    return [(hit, hit.name) for hit in hits if hit.is_file()]


def _is_usable(path: Path) -> bool:
    return is_image_name(path) or path.suffix.lower() in VIDEO_ENDINGS


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
