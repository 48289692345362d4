"""What a reader of a labelling tool's export hands over: points as the tool has them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass, field

__all__ = ["RawImage", "RawPoint"]


@dataclass(slots=True)
class RawPoint:
    """One point of an export.

    Attributes:
        label: the tool's class name, as written.
        x, y: continuous pixels of the image as it is displayed (turned upright by its EXIF tag);
            the centre of the first pixel is (0.5, 0.5). The reader has converted the tool's own
            convention.
        instance: the tool's own notion of an object; points of one image with equal ``instance``
            and labels of one class are one instance. None: the tool says nothing, the point is an
            instance of its own. Of stuff classes it is not looked at.
        where: file and line or element, for messages.
    """

    label: str
    x: float
    y: float
    instance: Hashable | None
    where: str


@dataclass(slots=True)
class RawImage:
    """One image of an export and its points.

    Attributes:
        file_name: path or name as the tool has it, maybe of another machine (``C:\\data\\a.jpg``).
        points: in the order of the export; may be empty.
        width, height: in pixels, where the tool says them; checked against the file.
        where: file and line or element, for messages.
        image_id: the export's own id, where it is to be kept; by default the file's path below the
            image folder, without extension.
        other_names: further names under which the file may lie on disk, to be tried after
            ``file_name``.
        notes: what the reader left out or assumed, in words that end the sentence "left out or
            assumed: 3 ...", and how often; for the summary.
        shift: what the reader has added to x and y of the points, from the index of a pixel to
            its centre; 0 where it took them as they are.
        normalized: the points are shares of the displayed image's width and height, in [0, 1], not
            pixels: for exports that do not say how large an image is.
    """

    file_name: str
    points: list[RawPoint] = field(default_factory=list)
    width: int | None = None
    height: int | None = None
    where: str = ""
    image_id: str | int | None = None
    other_names: tuple[str, ...] = ()
    notes: Counter[str] = field(default_factory=Counter)
    shift: float = 0.0
    normalized: bool = False
