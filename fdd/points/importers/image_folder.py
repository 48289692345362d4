"""Finding the images that an export names: it was written on another machine, in another folder."""

from __future__ import annotations

import difflib
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath

from fdd.points.image_header import IMAGE_SUFFIXES, ImageHeader, read_image_header
from fdd.points.structures import PointLabelError

__all__ = ["ImageFolder"]

_SHOWN = 5
# Close spellings cost time: not among more names than this, nor for more missing images.
_MAX_TO_COMPARE = 20_000
_MAX_HINTS = 20
_DRIVE = re.compile(r"^[A-Za-z]:(?=/|$)")


class ImageFolder:
    """The image files anywhere below a folder.

    Args:
        root: the folder. Hidden files and folders are not looked at; links are followed.

    Raises:
        FileNotFoundError: there is no such folder.
        PointLabelError: it is a file.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root)
        if not self.root.exists():
            raise FileNotFoundError(f"{self.root}: no such image folder")
        if not self.root.is_dir():
            raise PointLabelError(f"{self.root}: a file; expected the folder of the images")
        #: Paths below the folder, with forward slashes, sorted.
        self.names = sorted(_walk(self.root))
        self._known = frozenset(self.names)
        self._indexes = tuple(_index(self.names, key) for key in _KEYS)
        self._above = self.root.resolve().parts
        self._hints_left = _MAX_HINTS

    def find(self, name: str) -> str:
        """The file that an export means, as a path below the folder with forward slashes.

        The same relative path wins; else the one file with this base name, in any sub-folder; else
        the one with this name but another extension (or capitals). Among several of one name, the
        folders in the export's path decide.

        Raises:
            PointLabelError: no file fits, or several do; lists them.
        """
        parts = _parts(name)
        if not parts:
            raise PointLabelError(f"the image name {name!r} is empty")
        relative = "/".join(parts)
        if relative in self._known:
            return relative
        for key, index in zip(_KEYS, self._indexes, strict=True):
            candidates = index.get(key(parts[-1]), [])
            if candidates:
                return self._choose(name, parts, candidates)
        raise PointLabelError(f"no image {name!r} below {self.root}{self._hint(parts[-1])}")

    def header(self, name: str) -> ImageHeader:
        """Size and kind of one of :attr:`names`.

        Raises:
            ImageHeaderError: it is no readable image.
        """
        return read_image_header(self.root / name)

    def _choose(self, name: str, parts: list[str], candidates: list[str]) -> str:
        if len(candidates) == 1:
            return candidates[0]
        agreement = [self._common_folders(parts, candidate) for candidate in candidates]
        best = max(agreement)
        if best > 0 and agreement.count(best) == 1:
            return candidates[agreement.index(best)]
        raise PointLabelError(
            f"the image {name!r} may be any of {len(candidates)} files below {self.root}: "
            f"{_listed(candidates)}. Give them different names, or name a smaller folder"
        )

    def _common_folders(self, parts: list[str], candidate: str) -> int:
        """How many folders of the two paths agree, from the file upwards."""
        folders = (*self._above, *candidate.split("/")[:-1])
        count = 0
        for a, b in zip(reversed(parts[:-1]), reversed(folders), strict=False):
            if a.casefold() != b.casefold():
                break
            count += 1
        return count

    def _hint(self, base: str) -> str:
        if not self.names:
            return ", which holds no image at all"
        if len(self.names) > _MAX_TO_COMPARE or self._hints_left == 0:
            return ""
        self._hints_left -= 1
        bases = {PurePosixPath(n).name: n for n in self.names}
        close = difflib.get_close_matches(base, bases, n=3, cutoff=0.75)
        return f". Close to it: {_listed([bases[b] for b in close])}" if close else ""


def _walk(root: Path) -> Iterable[str]:
    """Relative names of image files; a folder that links lead to twice is looked at once."""
    seen: set[tuple[int, int]] = set()
    for folder, folders, files in os.walk(root, followlinks=True):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        for file in files:
            if not file.startswith(".") and os.path.splitext(file)[1].lower() in IMAGE_SUFFIXES:
                yield Path(folder, file).relative_to(root).as_posix()


def _parts(name: str) -> list[str]:
    """The components of a path of any system, without drive, root and leading ``..``."""
    text = _DRIVE.sub("", name.strip().replace("\\", "/"))
    parts: list[str] = []
    for part in text.split("/"):
        if part == ".." and parts:
            parts.pop()
        elif part not in ("", ".", ".."):
            parts.append(part)
    return parts


def _stem(name: str) -> str:
    """The name without an image's extension; another one (``scan.v2``) is a part of the name."""
    stem, suffix = os.path.splitext(name)
    return stem if suffix.lower() in IMAGE_SUFFIXES else name


# From exact to lenient. A file that is named exactly is never in doubt because of lenient matches.
_KEYS: tuple[Callable[[str], str], ...] = (
    lambda name: name,
    str.casefold,
    _stem,
    lambda name: _stem(name).casefold(),
)


def _index(names: list[str], key: Callable[[str], str]) -> dict[str, list[str]]:
    index: dict[str, list[str]] = defaultdict(list)
    for name in names:
        index[key(name.rpartition("/")[2])].append(name)
    return index


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(map(repr, names[:_SHOWN])) + more
