"""Which image a Label Studio task is about, and what its file may be called on this disk."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from fdd.points.structures import PointLabelError

__all__ = ["image_entry", "image_names"]

_IMAGE_NAME = re.compile(r"\.(jpe?g|png|tiff?|bmp|webp|gif)(\?.*)?$", re.IGNORECASE)
#: Label Studio puts eight digits in front of the name of an uploaded file.
_UPLOAD_PREFIX = re.compile(r"^[0-9a-f]{8}-(?=.)")
_USUAL_KEYS = ("image", "img", "photo", "picture", "captioning", "ocr")


def image_entry(data: dict[str, Any], key: str | None, where: str) -> str:
    """The path or address of the image in the data of a task.

    Taken is the named key; else the only text; else the only text that ends like an image's name;
    else a key that is usual for images.

    Raises:
        PointLabelError: there is none, or several that could be; or several images a task.
    """
    if key is not None:
        if key not in data:
            raise PointLabelError(f"{where}: the data has no {key!r}; found {_listed(data)}")
        if not isinstance(data[key], str) or not data[key]:
            raise PointLabelError(
                f"{where}: {key!r} is no text; tasks of several images are not imported"
            )
        return data[key]
    texts = {k: v for k, v in data.items() if isinstance(v, str) and v}
    likely = {k: v for k, v in texts.items() if _IMAGE_NAME.search(v)}
    for candidates in (texts, likely):
        if len(candidates) == 1:
            return next(iter(candidates.values()))
    for usual in _USUAL_KEYS:
        if usual in (likely or texts):
            return texts[usual]
    raise PointLabelError(
        f"{where}: which entry of the data is the image? Found {_listed(data)}. Name it with "
        "--image-key KEY (image_key)"
    )


def image_names(address: str, where: str) -> tuple[str, tuple[str, ...]]:
    """The file's name below an image folder, and other names under which it may lie there.

    * ``/data/upload/1/0a1b2c3d-cat.jpg``: ``0a1b2c3d-cat.jpg``, as the server keeps it; or else
      ``cat.jpg``, as it was before the upload;
    * ``/data/local-files/?d=farm/cat.jpg``: ``farm/cat.jpg``;
    * ``s3://bucket/farm/cat.jpg``, ``gs://...``, ``https://host/farm/cat.jpg?token=...``:
      ``farm/cat.jpg``;
    * anything else, also ``C:\\farm\\cat.jpg``: as it is.

    Raises:
        PointLabelError: the image itself is in the export (``data:image/png;base64,...``), or the
            address names no file.
    """
    if address.startswith("data:"):
        raise PointLabelError(
            f"{where}: the image is part of the export (data:...); save it as a file and name that"
        )
    try:
        parts = urlsplit(address)
    except ValueError as error:
        raise PointLabelError(f"{where}: the image's address {address[:60]!r}: {error}") from error
    query = parse_qs(parts.query).get("d")
    # A scheme of one letter is a drive. Other paths may have % and ? in their names.
    remote = len(parts.scheme) > 1 and "://" in address
    if query and parts.path.rstrip("/").endswith("/local-files"):
        name = query[0]
    elif remote or address.startswith("/data/upload/"):
        name = unquote(parts.path).lstrip("/")
    else:
        name = address
    if not name or name.endswith("/"):
        raise PointLabelError(f"{where}: the image's address {address[:60]!r} names no file")
    base = name.rsplit("/", 1)[-1]
    if "data/upload/" in name and _UPLOAD_PREFIX.match(base):
        return base, (_UPLOAD_PREFIX.sub("", base),)
    return name, ()


def _listed(data: dict[str, Any]) -> str:
    return ", ".join(repr(key) for key in data) or "nothing"
