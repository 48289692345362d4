"""CVAT for images 1.1: ``annotations.xml``, or the zip archive that CVAT hands out.

**Points.** ``<points label="cell" points="x,y;x,y">`` of an ``<image>``, in pixels measured from
the upper left corner of the image, which CVAT shows upright; an x equal to the width is the right
edge. That is our own convention: coordinates are taken as they are.

**An instance** is one ``<points>`` shape with all its points. Shapes of one label with the same
``group_id`` (other than 0) in an image are one instance. A ``<skeleton>`` is one instance of its
own label; the names of its joints are not looked at.

**Left out**, and counted in the notes: points that are marked ``outside`` (not in the image), and
elements that this reader does not know. Attributes and image tags carry no points and are not
read. Boxes, polygons, polylines, ellipses, cuboids and masks are refused, or left out with
``skip_shapes``. Tracks ("CVAT for video") and tasks with flipped images are refused.

**Untrusted XML** is read as a stream, and nothing but the path to the current element is kept in
memory. A document type declaration is refused before anything expands: entities are declared there,
which can make a file of one kilobyte expand to gigabytes, or fetch other files, and no labelling
tool writes one. So are zip archives that unpack to too much.
"""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Callable, Hashable, Iterator
from pathlib import Path
from typing import IO, Any, NoReturn
from xml.parsers import expat

from fdd.points.importers.registry import ONLY_POINTS, RawImage, RawPoint, register_importer
from fdd.points.parsing import (
    coordinate,
    export_files,
    optional_side,
    read_head,
    refuse_shape,
)
from fdd.points.structures import PointLabelError

__all__ = ["parse_xml", "read", "recognizes"]

_MEMBER = "annotations.xml"
_SHAPES = frozenset({"box", "polygon", "polyline", "ellipse", "cuboid", "mask"})
_ROOT = re.compile(r"<(!DOCTYPE\s+)?annotations\b")
_IMAGE = ("annotations", "image")
_FLIPPED = ("annotations", "meta", "task", "flipped")

_HEAD = 4096
_CHUNK = 1 << 16
_MAX_DEPTH = 64
_MAX_UNPACKED = 1 << 30
#: Label files pack to a tenth or a fiftieth of their size, bombs to a thousandth.
_MAX_RATIO, _RATIO_FROM = 200, 16 << 20


def recognizes(path: Path, document: Any) -> bool:
    """Whether a file looks like this format, see :class:`.registry.Importer`."""
    if document is not None or not path.is_file():
        return False
    try:  # Reading says what is wrong with a broken archive.
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                return any(_base(name) == _MEMBER for name in archive.namelist())
        return bool(_ROOT.search(read_head(path, _HEAD)))
    except (OSError, zipfile.BadZipFile, NotImplementedError, ValueError):
        return False


@register_importer(
    "cvat",
    title="CVAT for images 1.1",
    summary="CVAT for images 1.1, XML",
    hint=f"{ONLY_POINTS} Was the task exported with its annotations saved, and from the right job?",
    recognizes=recognizes,
)
def read(source: Path, *, skip_shapes: bool = False) -> list[RawImage]:
    """Read an export, see the module.

    Args:
        source: an XML file, a zip archive with an ``annotations.xml``, or a folder of them.
        skip_shapes: leave out what is not a point instead of refusing it.

    Raises:
        FileNotFoundError: there is no such file.
        PointLabelError: naming file and line.
    """
    images: list[RawImage] = []
    for path in export_files(Path(source), ".xml", ".zip"):
        for name, stream in _streams(path):
            reader = _Reader(name, skip_shapes)
            parse_xml(stream, name, reader.tag, reader.text)
            if not reader.images:
                raise PointLabelError(f"{name}: no <image>; nothing was exported")
            images += reader.images
    return images


class _Reader:
    """Collects the images of one document while it is parsed."""

    def __init__(self, source: str, skip_shapes: bool) -> None:
        self.images: list[RawImage] = []
        self._source = source
        self._skip_shapes = skip_shapes
        self._shapes = 0
        self._skeleton: tuple[str, Hashable] = ("", None)

    def tag(self, path: tuple[str, ...], attributes: dict[str, str], line: int) -> None:
        where = f"{self._source}, line {line}"
        name = path[-1]
        if len(path) == 1 and name != "annotations":
            raise PointLabelError(
                f"{where}: <{name}>; expected <annotations> of a 'CVAT for images 1.1' export"
            )
        if path == ("annotations", "track"):
            raise PointLabelError(
                f"{where}: a <track>: this is a 'CVAT for video' export. Export the task again as "
                "'CVAT for images 1.1', which splits tracks into images"
            )
        if path == _IMAGE:
            self._open_image(attributes, where)
        elif path[:2] == _IMAGE and len(path) == 3:
            self._shape(name, attributes, where)
        elif path[:3] == (*_IMAGE, "skeleton") and len(path) == 4:
            if name == "points":
                self._points(*self._skeleton, attributes, where)
            elif name != "attribute":
                self._other(name, where)

    def text(self, path: tuple[str, ...], data: str) -> None:
        if path == _FLIPPED and data.strip().lower() == "true":
            raise PointLabelError(
                f"{self._source}: the task says <flipped>True</flipped>: its points belong to "
                "images that were turned over. Turn the images, or export from a newer CVAT"
            )

    def _open_image(self, attributes: dict[str, str], where: str) -> None:
        width, height = (optional_side(attributes, side, where) for side in ("width", "height"))
        file_name = _attribute(attributes, "name", "image", where)
        self.images.append(RawImage(file_name, [], width, height, where))

    def _shape(self, name: str, attributes: dict[str, str], where: str) -> None:
        if name in ("points", "skeleton"):
            label = _attribute(attributes, "label", name, where)
            instance = self._instance(attributes, where)
            if name == "points":
                self._points(label, instance, attributes, where)
            else:
                self._skeleton = (label, instance)
        elif name not in ("tag", "attribute"):
            self._other(name, where)

    def _other(self, name: str, where: str) -> None:
        """An element that is not a point."""
        if name in _SHAPES and not self._skip_shapes:
            refuse_shape(where, f"<{name}>")
        kind = f"<{name}> shapes" if name in _SHAPES else f"unknown <{name}> elements"
        self.images[-1].notes[kind] += 1

    def _instance(self, attributes: dict[str, str], where: str) -> Hashable:
        said = attributes.get("group_id", "0").strip()
        try:
            group = int(said)
        except ValueError:
            raise PointLabelError(f"{where}: group_id is {said!r}; expected a number") from None
        if group:
            return (self._source, "group", group)
        self._shapes += 1
        return (self._source, "shape", self._shapes)

    def _points(
        self, label: str, instance: Hashable, attributes: dict[str, str], where: str
    ) -> None:
        image = self.images[-1]
        pairs = _attribute(attributes, "points", "points", where).split(";")
        if attributes.get("outside") == "1":
            image.notes["points marked as outside the image"] += len(pairs)
            return
        for pair in pairs:
            x, comma, y = pair.partition(",")
            if not comma:
                raise PointLabelError(f"{where}: the point {pair[:60]!r}; expected 'x,y'")
            image.points.append(
                RawPoint(label, coordinate(x, where), coordinate(y, where), instance, where)
            )


def _attribute(attributes: dict[str, str], key: str, tag: str, where: str) -> str:
    if not attributes.get(key, "").strip():
        raise PointLabelError(f"{where}: <{tag}> has no {key!r}")
    return attributes[key]


#: Called at each start tag with the path to it (``("annotations", "image")``), its attributes and
#: its line (from 1).
_TagHandler = Callable[[tuple[str, ...], dict[str, str], int], None]
#: Called with the path of an element and (a piece of) its text.
_TextHandler = Callable[[tuple[str, ...], str], None]


def parse_xml(
    stream: IO[bytes], source: str, tag: _TagHandler, text: _TextHandler | None = None
) -> None:
    """Call the handlers for each element of an XML document.

    Args:
        stream: bytes; UTF-8, UTF-16 or what the XML declaration says.
        source: the name for messages.

    Raises:
        PointLabelError: not valid XML (with line and column), or has a document type declaration.
    """
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parents: list[tuple[str, ...]] = [()]

    def start(name: str, attributes: dict[str, str]) -> None:
        line = parser.CurrentLineNumber
        path = (*parents[-1], name)
        if len(path) > _MAX_DEPTH:
            raise PointLabelError(f"{source}, line {line}: elements nested over {_MAX_DEPTH} deep")
        parents.append(path)
        tag(path, attributes, line)

    def refuse(*_: object) -> NoReturn:
        raise PointLabelError(
            f"{source}, line {parser.CurrentLineNumber}: a document type or entity declaration "
            "(<!DOCTYPE ...>), which may expand without end or fetch other files. Labelling tools "
            "write none; remove it if you trust the file"
        )

    parser.StartElementHandler = start
    parser.EndElementHandler = lambda _: parents.pop()
    parser.StartDoctypeDeclHandler = refuse
    parser.EntityDeclHandler = refuse
    if text is not None:
        parser.CharacterDataHandler = lambda data: text(parents[-1], data)
    try:
        while chunk := stream.read(_CHUNK):
            parser.Parse(chunk, False)
        parser.Parse(b"", True)
    except expat.ExpatError as error:
        raise PointLabelError(
            f"{source}, line {error.lineno}, column {error.offset + 1}: not valid XML: "
            f"{expat.ErrorString(error.code)}. Was the file cut short? Export it again"
        ) from error
    except LookupError as error:  # <?xml encoding="something"?>
        raise PointLabelError(f"{source}, line 1: {error}; save it as UTF-8") from error
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise PointLabelError(f"{source}: a damaged zip archive: {error}") from error


def _streams(path: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """The XML documents of a file: itself, or the annotations in a zip archive.

    Yields:
        The name for messages, and the open stream, which is closed afterwards.

    Raises:
        PointLabelError: an archive is damaged, locked, lacks the file, or unpacks to too much.
    """
    if not zipfile.is_zipfile(path):
        with open(path, "rb") as stream:
            yield str(path), stream
        return
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise PointLabelError(f"{path}: a damaged zip archive: {error}") from error
    with archive:
        names = [i for i in archive.infolist() if _base(i.filename) == _MEMBER]
        if not names:
            raise PointLabelError(f"{path}: a zip archive without {_MEMBER}")
        for info in names:
            source = f"{path}/{info.filename}"
            _check_member(info, source)
            try:
                unpacked = archive.open(info)
            except (zipfile.BadZipFile, NotImplementedError) as error:
                raise PointLabelError(f"{source}: a damaged zip archive: {error}") from error
            with unpacked:
                yield source, unpacked


def _base(name: str) -> str:
    return name.rsplit("/", 1)[-1]


def _check_member(info: zipfile.ZipInfo, source: str) -> None:
    """Refuse what cannot or should not be unpacked. The sizes are those that the archive states;
    ``zipfile`` does not read more."""
    if info.flag_bits & 0x1:
        raise PointLabelError(f"{source}: locked with a password; unpack it first")
    ratio = info.file_size / max(info.compress_size, 1)
    if info.file_size > _MAX_UNPACKED or (info.file_size > _RATIO_FROM and ratio > _MAX_RATIO):
        raise PointLabelError(
            f"{source}: unpacks to {info.file_size / 2**20:,.0f} MiB, {ratio:,.0f} times its size: "
            "this does not look like a label file. Unpack it yourself if you trust it"
        )
