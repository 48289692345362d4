"""Finding the images that an export names, which was written on another machine."""

from __future__ import annotations

import difflib
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from fdd.points.image_files import ImageHeader, is_image_name, read_image_header, walk_images
from fdd.points.structures import PointLabelError
from fdd.points.wording import listed

__all__ = ["AmbiguousImageError", "ImageFolder"]

_SHOWN = 5
# Close spellings take time to find: not among more names, nor for more missing images.
_MAX_TO_COMPARE = 20_000
_MAX_HINTS = 20
_DRIVE = re.compile(r"^[A-Za-z]:(?=/|$)")


class AmbiguousImageError(PointLabelError):
    """Several files have the name, so the image exists, but it is not clear which one is meant."""


class ImageFolder:
    """The image files anywhere below a folder.

    Args:
        root: the folder. Hidden files and folders are skipped; links are followed.

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
        self.names = sorted(name for _, name in walk_images(self.root))
        self._known = frozenset(self.names)
        self._indexes = tuple(_index(self.names, key) for key in _KEYS)
        self._above = self.root.resolve().parts
        self._tails: dict[int, dict[tuple[str, ...], str | None]] = {}
        self._hints_left = _MAX_HINTS

    def find(self, *names: str) -> str:
        """The file that an export means, as a path below the folder with forward slashes.

        The same relative path wins; else the one file with this base name, in any sub-folder; else
        the one with this name but another extension (or other capitals or Unicode form). Among
        several of one name, the folders in the export's path decide.

        Args:
            names: that the image may have; a file with exactly one of them is preferred to files
                with similar names.

        Raises:
            PointLabelError: no file matches, or several do; lists them.
        """
        paths = [(name, parts) for name in names if (parts := _parts(name))]
        if not paths:
            raise PointLabelError(f"the image name {names[0]!r} is empty")
        for _, parts in paths:
            if "/".join(parts) in self._known:
                return "/".join(parts)
        for key, index in zip(_KEYS, self._indexes, strict=True):
            ambiguous = []
            for name, parts in paths:
                candidates = index.get(key(parts[-1]), [])
                found = self._choose(parts, candidates) if candidates else None
                if found is not None:
                    return found
                if candidates:
                    ambiguous.append((name, candidates))
            if ambiguous:
                raise self._ambiguous(*ambiguous[0])
        shown = " or ".join(repr(name) for name, _ in paths)
        raise PointLabelError(f"no image {shown} below {self.root}{self._hint(paths[-1][1][-1])}")

    def header(self, name: str) -> ImageHeader:
        """Size and kind of one of :attr:`names`.

        Raises:
            ImageHeaderError: the file is not a readable image.
        """
        return read_image_header(self.root / name)

    def _choose(self, parts: list[str], candidates: list[str]) -> str | None:
        """The candidate that the folders of the path select, if there is one."""
        if len(candidates) == 1:
            return candidates[0]
        tails = self._tails.setdefault(id(candidates), {}) or self._index_tails(candidates)
        wanted = tuple(map(_fold, reversed(parts[:-1])))
        agreeing = [tails[wanted[:n]] for n in range(1, len(wanted) + 1) if wanted[:n] in tails]
        return agreeing[-1] if agreeing else None

    def _ambiguous(self, name: str, candidates: list[str]) -> AmbiguousImageError:
        text = (
            f"the image {name!r} may be any of {len(candidates)} files below {self.root}: "
            f"{_quoted(candidates)}. "
        )
        if len({PurePosixPath(candidate).name for candidate in candidates}) > 1:
            return AmbiguousImageError(f"{text}Write the full name of the file into the export")
        return AmbiguousImageError(
            f"{text}Write the folder into the export, too ({candidates[0]!r}), or, if all of its "
            "images are in one of the folders, give that one with --images"
        )

    def _index_tails(self, candidates: list[str]) -> dict[tuple[str, ...], str | None]:
        """Folders, from the file upwards -> the candidate in them; None: several are."""
        tails = self._tails[id(candidates)]
        for candidate in candidates:
            folders = tuple(map(_fold, reversed((*self._above, *candidate.split("/")[:-1]))))
            for n in range(1, len(folders) + 1):
                tails[folders[:n]] = None if folders[:n] in tails else candidate
        return tails

    def _hint(self, base: str) -> str:
        if not self.names:
            return ", which contains no images"
        if len(self.names) > _MAX_TO_COMPARE or self._hints_left == 0:
            return ""
        self._hints_left -= 1
        bases = {PurePosixPath(n).name: n for n in self.names}
        close = difflib.get_close_matches(base, bases, n=3, cutoff=0.75)
        return f". Close to it: {_quoted([bases[b] for b in close])}" if close else ""


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
    """The name without an image's extension; any other one (``scan.v2``) is part of the name."""
    return os.path.splitext(name)[0] if is_image_name(name) else name


def _fold(name: str) -> str:
    """Capitals do not matter, nor whether ü is one character, or two as on macOS."""
    return unicodedata.normalize("NFC", name).casefold()


# From exact to lenient. A file that is named exactly is never ambiguous by lenient matches.
_KEYS: tuple[Callable[[str], str], ...] = (
    lambda name: name,
    _fold,
    _stem,
    lambda name: _fold(_stem(name)),
)


def _index(names: list[str], key: Callable[[str], str]) -> dict[str, list[str]]:
    index: dict[str, list[str]] = defaultdict(list)
    for name in names:
        index[key(name.rpartition("/")[2])].append(name)
    return index


def _quoted(names: list[str]) -> str:
    return listed([repr(name) for name in names], _SHOWN)
