"""Image files: which files are images by their names, where they are, and what a header says."""

from __future__ import annotations

import os
import warnings
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import ExifTags, Image

__all__ = [
    "IMAGE_ENDINGS",
    "ImageHeader",
    "ImageHeaderError",
    "is_image_name",
    "locate_files",
    "read_image_header",
    "verify_image",
    "walk_files",
    "walk_images",
]

#: Of the files that are taken for images, in small letters, for every reader of this package. What
#: is in a file decides whether it is one.
IMAGE_ENDINGS = (
    *(".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png"),
    *(".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp"),
)
_TURNED = (5, 6, 7, 8)  # EXIF orientations that exchange width and height
# Orientations whose stored x (y) runs against the axis of the displayed picture that it becomes.
_MIRRORED_X, _MIRRORED_Y = (2, 3, 7, 8), (3, 4, 6, 7)
_TIFF_WIDTH, _TIFF_HEIGHT = 256, 257
_PNG_METADATA = (b"eXIf", b"tEXt", b"zTXt", b"iTXt")


def is_image_name(name: str | os.PathLike[str]) -> bool:
    """Whether a file is an image by its ending, in small or capital letters."""
    return Path(name).suffix.lower() in IMAGE_ENDINGS


def walk_files(
    root: str | os.PathLike[str],
    *,
    recursive: bool = True,
    hidden: bool = False,
    leave_out: Collection[str | os.PathLike[str]] = (),
) -> list[tuple[Path, str]]:
    """Files below a folder, by their path and by their name from there with ``/``, sorted.

    Links are followed, and a folder that is met twice is looked into once. Hidden folders are
    passed over, and sub-folders that cannot be read.

    Args:
        root: the folder; without one there are no files.
        recursive: look into sub-folders, too.
        hidden: the hidden files instead of the others.
        leave_out: folders that are not looked into.

    Raises:
        PermissionError: ``root`` cannot be read.
    """
    seen = {os.path.realpath(folder) for folder in leave_out}
    found: list[tuple[Path, str]] = []
    folders: list[tuple[str, str]] = [(os.fspath(root), "")]
    links: list[tuple[str, str]] = []
    while folders or links:
        # Links last: what is there by itself is named by its own folder.
        folder, prefix = (folders or links).pop()
        real = os.path.realpath(folder)
        if real in seen:
            continue
        seen.add(real)
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name, reverse=True)
        except OSError as error:
            if isinstance(error, PermissionError) and not prefix:
                raise
            continue
        for entry in entries:
            dotted = entry.name.startswith(".")
            if entry.is_dir():
                if recursive and not dotted:
                    place = links if entry.is_symlink() else folders
                    place.append((entry.path, f"{prefix}{entry.name}/"))
            elif dotted == hidden and entry.is_file():
                found.append((Path(entry.path), f"{prefix}{entry.name}"))
    return sorted(found, key=lambda file: file[1].split("/"))


def walk_images(
    root: str | os.PathLike[str], *, leave_out: Collection[str | os.PathLike[str]] = ()
) -> list[tuple[Path, str]]:
    """The image files of :func:`walk_files`."""
    return [file for file in walk_files(root, leave_out=leave_out) if is_image_name(file[1])]


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


class ImageHeaderError(ValueError):
    """A file that is not a readable image; ``reason`` says why, without its name."""

    def __init__(self, source: str, reason: str) -> None:
        super().__init__(f"{source}: not a readable image ({reason})")
        self.source, self.reason = source, reason

    def __reduce__(self) -> tuple[Any, ...]:  # to reach the main process from another one
        return type(self), (self.source, self.reason)


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """An image as its header describes it.

    Attributes:
        width, height: pixels of the image as displayed: turned upright by its EXIF orientation.
        orientation: the EXIF orientation, 1 (upright as stored) to 8.
        mode: Pillow's name of the pixel format, such as ``RGB``, ``L``, ``P``, ``I;16``.
        kind: Pillow's name of the file format, such as ``JPEG``.
    """

    width: int
    height: int
    orientation: int = 1
    mode: str = "RGB"
    kind: str = ""

    @property
    def is_transposed(self) -> bool:
        """Whether the stored picture lies on its side: its width is the displayed height."""
        return self.orientation in _TURNED

    @property
    def stored_size(self) -> tuple[int, int]:
        """Width and height of the pixels as they are stored, not turned."""
        return (self.height, self.width) if self.is_transposed else (self.width, self.height)

    def displayed_point(self, x: float, y: float) -> tuple[float, float]:
        """Where a point of the stored picture is in the displayed one, in continuous pixels."""
        width, height = self.stored_size
        if self.orientation in _MIRRORED_X:
            x = width - x
        if self.orientation in _MIRRORED_Y:
            y = height - y
        return (y, x) if self.is_transposed else (x, y)

    @property
    def is_deep(self) -> bool:
        """Whether a pixel has more than 8 bits, which the training's image reader refuses."""
        return self.mode.startswith(("I", "F"))


def read_image_header(path: str | os.PathLike[str]) -> ImageHeader:
    """Read the header of an image file; no pixel is decoded.

    Raises:
        FileNotFoundError: there is no such file.
        ImageHeaderError: it is not an image that Pillow knows.
    """
    with _image_errors(path), Image.open(path) as picture:
        return _describe(picture, Path(path))


def verify_image(path: str | os.PathLike[str]) -> None:
    """Decode a whole image file, and check what its format has checksums of.

    Raises:
        FileNotFoundError: there is no such file.
        ImageHeaderError: it is damaged.
    """
    with _image_errors(path):
        with Image.open(path) as picture:
            picture.verify()  # a PNG with a damaged chunk would be decoded as far as it goes
        with Image.open(path) as picture:
            picture.load()


@contextmanager
def _image_errors(path: str | os.PathLike[str]) -> Iterator[None]:
    """Errors of Pillow in our words, and no warnings of large images and odd metadata: the size is
    the user's business, up to the limit beyond which Pillow refuses."""
    source = os.fspath(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except FileNotFoundError:
        raise FileNotFoundError(f"{source}: no such image file") from None
    # Pillow raises SyntaxError and ValueError, too, for broken files.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        why = str(error) or type(error).__name__
        if os.path.isfile(path) and os.path.getsize(path) == 0:
            why = "the file is empty"
        raise ImageHeaderError(source, why) from error


def _describe(picture: Image.Image, path: Path) -> ImageHeader:
    width, height = picture.size
    if picture.format == "TIFF":
        # Pillow's size is the stored or the displayed one, depending on its version.
        tags = picture.tag_v2  # type: ignore[attr-defined]
        width, height = int(tags[_TIFF_WIDTH]), int(tags[_TIFF_HEIGHT])
    orientation = _orientation(picture, path)
    if orientation in _TURNED:
        width, height = height, width
    return ImageHeader(width, height, orientation, picture.mode, picture.format or "")


def _orientation(picture: Image.Image, path: Path) -> int:
    """The EXIF orientation, 1 where there is none or nonsense, as every viewer takes it."""
    is_png = picture.format == "PNG"
    if is_png and (late := _has_late_metadata(path)):
        picture.load()
    try:
        # Pillow's own method for PNGs decodes the pixels, in case metadata come behind them.
        exif = Image.Image.getexif(picture) if is_png and not late else picture.getexif()
    except Exception:  # broken tags raise many kinds of errors; Detectron2 ignores them, too
        return 1
    orientation = exif.get(ExifTags.Base.Orientation, 1)
    return orientation if orientation in range(1, 9) else 1


def _has_late_metadata(path: Path) -> bool:
    """Whether a PNG has metadata behind its pixels, or is cut off before its end."""
    pixels_seen = False
    with open(path, "rb") as file:
        file.seek(8)
        while len(head := file.read(8)) == 8:
            kind = head[4:]
            if kind == b"IEND":
                return False
            pixels_seen |= kind == b"IDAT"
            if pixels_seen and kind in _PNG_METADATA:
                return True
            file.seek(int.from_bytes(head[:4], "big") + 4, os.SEEK_CUR)
    return True
