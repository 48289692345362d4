"""An image file as a picture that every browser shows: 8 bits a channel, upright, not too large."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps

from fdd.data.images import ImageFileError, is_ordinary_jpeg
from fdd.points.image_files import read_image_header

__all__ = ["MAX_SIDE", "Picture", "browser_picture"]

#: Pixels of the longer side: some browsers draw nothing of pictures much larger than this.
MAX_SIDE = 4096
#: Of the values of an image of more than 8 bits, what becomes black and white.
_BLACK, _WHITE = 0.5, 99.5
# Above this number of pixels a PNG takes long to send, and JPEG's losses are not seen.
_LOSSLESS = 1 << 21
_JPEG_QUALITY = 92


@dataclass(frozen=True)
class Picture:
    """An encoded picture: its MIME type, and the bytes."""

    kind: str
    data: bytes


def browser_picture(path: str | os.PathLike[str], max_side: int = MAX_SIDE) -> Picture:
    """The picture of an image file. An ordinary JPEG is handed on as it is.

    Args:
        path: of an image of any mode that Pillow knows. More than 8 bits a pixel are scaled from
            the 0.5th to the 99.5th percentile of its values.
        max_side: larger pictures are reduced to this many pixels.

    Raises:
        FileNotFoundError: there is no such file.
        ImageFileError: it is not a readable image.
    """
    try:
        header = read_image_header(path)
        if header.kind == "JPEG" and max(header.width, header.height) <= max_side:
            with open(path, "rb") as file:
                data = file.read()
            if is_ordinary_jpeg(data):
                return Picture("image/jpeg", data)
        with Image.open(path) as opened:
            opened.draft("RGB", (max_side, max_side))  # a huge JPEG is decoded smaller
            image = ImageOps.exif_transpose(opened)
            picture = _scaled(image) if header.is_deep else image.convert("RGB")
    except FileNotFoundError:
        raise
    # Pillow raises SyntaxError and ValueError, too, for broken files.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = getattr(error, "reason", error)
        raise ImageFileError(f"{os.fspath(path)}: not a readable image ({reason})") from error
    picture.thumbnail((max_side, max_side))
    written = io.BytesIO()
    if picture.width * picture.height <= _LOSSLESS:
        picture.save(written, "PNG", compress_level=1)
        return Picture("image/png", written.getvalue())
    picture.save(written, "JPEG", quality=_JPEG_QUALITY)
    return Picture("image/jpeg", written.getvalue())


def _scaled(image: Image.Image) -> Image.Image:
    """Of more than 8 bits a pixel: grey, from black at a low percentile to white at a high one."""
    values = np.asarray(image, np.float32)
    known = values[np.isfinite(values)]
    if not known.size:
        return Image.new("L", image.size)
    low, high = np.percentile(known, (_BLACK, _WHITE))
    if high <= low:  # nearly all of one value: the few others are what there is to see
        low, high = known.min(), known.max()
    shares = (np.nan_to_num(values, nan=low, posinf=high, neginf=low) - low) / max(high - low, 1e-9)
    return Image.fromarray(np.round(255 * shares.clip(0, 1)).astype(np.uint8))
