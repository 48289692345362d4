"""CVAT for images 1.1: ``annotations.xml``, or the zip archive that CVAT hands out.

**Points.** ``<points label="cell" points="x,y;x,y">`` of an ``<image>``, in pixels measured from
the upper left corner of the image, which CVAT shows upright; an x equal to the width is the right
edge. That is our own convention: coordinates are taken as they are.

**An instance** is one ``<points>`` shape with all its points. Shapes of one label with the same
``group_id`` (other than 0) in an image are one instance. A ``<skeleton>`` is one instance of its
own label; the names of its joints are not looked at.

**Left out**, and counted in the notes: points that are marked ``outside`` (not in the image), and
elements that this reader does not know. Attributes and image tags carry no points and are passed
over. Boxes, polygons, polylines, ellipses, cuboids and masks are refused, or left out with
``skip_shapes``. Tracks ("CVAT for video") and tasks with flipped images are refused.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

from fdd.points.importers.records import RawImage, RawPoint
from fdd.points.importers.xml_safe import parse_xml, xml_head, xml_streams
from fdd.points.parsing import coordinate, export_files, positive_int, refuse_shape
from fdd.points.structures import PointLabelError

__all__ = ["TITLE", "read", "recognizes"]

TITLE = "CVAT for images 1.1"

_MEMBER = "annotations.xml"
_SHAPES = frozenset({"box", "polygon", "polyline", "ellipse", "cuboid", "mask"})
_ROOT = re.compile(r"<(!DOCTYPE\s+)?annotations\b")
_IMAGE = ("annotations", "image")
_FLIPPED = ("annotations", "meta", "task", "flipped")


def read(source: Path, *, skip_shapes: bool = False) -> list[RawImage]:
    """Read an export, see the module.

    Args:
        source: an XML file, a zip archive with an ``annotations.xml``, or a folder of them.
        skip_shapes: leave out what is no point instead of refusing it.

    Raises:
        FileNotFoundError: there is no such file.
        PointLabelError: naming file and line.
    """
    images: list[RawImage] = []
    for path in export_files(Path(source), ".xml", ".zip"):
        for name, stream in xml_streams(path, _MEMBER):
            reader = _Reader(name, skip_shapes)
            parse_xml(stream, name, reader.tag, reader.text)
            if not reader.images:
                raise PointLabelError(f"{name}: no <image>; nothing was exported")
            images += reader.images
    return images


def recognizes(path: Path, document: Any) -> bool:
    """Whether a file looks like this format; ``document`` is its parsed JSON, if it is JSON."""
    return document is None and path.is_file() and bool(_ROOT.search(xml_head(path, _MEMBER)))


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
        width, height = (
            positive_int(attributes[side], f"{where}: {side!r}") if side in attributes else None
            for side in ("width", "height")
        )
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
        """An element that is no point."""
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
