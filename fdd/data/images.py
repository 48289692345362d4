"""Image files to arrays: ordinary JPEGs by OpenCV, everything else by Pillow."""

from __future__ import annotations

import cv2
import numpy as np
from detectron2.data import detection_utils as utils
from PIL import Image

__all__ = ["ImageFileError", "decode_ordinary_jpeg", "is_ordinary_jpeg", "read_image"]

_START, _END = b"\xff\xd8", b"\xff\xd9"
_BASELINE_FRAME, _SCAN, _EXIF_OR_XMP = 0xC0, 0xDA, 0xE1
# Markers 0xC0 to 0xCF are frames of all kinds, but for these (tables and a reserved one).
_OTHER_FRAMES = frozenset(range(0xC1, 0xD0)) - {0xC4, 0xC8, 0xCC}


class ImageFileError(ValueError):
    """An image file that cannot be read, or not as what its label file says."""


_ADVICE = "Replace the file, or remove the image from the label file."


def read_image(
    file_name: str, image_format: str, where: str, *, advice: str = _ADVICE
) -> np.ndarray:
    """Read an image and turn it upright by its EXIF orientation.

    Args:
        file_name: path of a picture of 8 bits a channel, of any mode that Pillow knows.
        image_format: ``RGB`` or ``BGR``, the order of the result's channels.
        where: what messages call the image.
        advice: what the message about an unreadable image ends with.

    Returns:
        uint8 ``(H, W, 3)``, contiguous, writable.

    Raises:
        FileNotFoundError: there is no such file.
        ImageFileError: it is not an image, is damaged, or has more than 8 bits a channel.
    """
    try:
        with open(file_name, "rb") as file:
            data = file.read()
        image = decode_ordinary_jpeg(data, image_format)
        return _read_by_pillow(file_name, image_format) if image is None else image
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{where}: no such file. Put it there, or correct the root of its data set."
        ) from None
    # Pillow raises SyntaxError and ValueError, too, for broken files.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ImageFileError(
            f"{where}: not a readable image ({error}). {advice}".rstrip()
        ) from error


def decode_ordinary_jpeg(data: bytes, image_format: str) -> np.ndarray | None:
    """Decode a file that :func:`is_ordinary_jpeg`; None for any other.

    Both libraries leave the work to libjpeg-turbo, so the pixels are Pillow's; OpenCV writes them
    where they belong, without Pillow's copies. But it takes a truncated file without a word, turns
    CMYK its own way, and must therefore see ordinary files only.
    """
    if not is_ordinary_jpeg(data):
        return None
    try:
        flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:  # beyond its limits of size; Pillow has limits, too, and a message
        return None
    if image is not None and image_format == "RGB":
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    return image


def is_ordinary_jpeg(data: bytes) -> bool:
    """Whether a file is a whole baseline JPEG, grey or of three channels, that is not to be turned.

    Whole: the end marker stands at its end. It cannot occur within the coded pixels (there, a byte
    0xFF is followed by 0 or by a restart marker), and the segments before them are walked over, so
    a file cut off anywhere does not have it.
    """
    if not (data.startswith(_START) and data.endswith(_END)):
        return False
    position, channels = 2, 0
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == _SCAN:
            return channels in (1, 3)
        length = int.from_bytes(data[position + 2 : position + 4], "big")
        if marker in _OTHER_FRAMES:
            return False
        if marker == _EXIF_OR_XMP and _may_turn(data[position + 4 : position + 2 + length]):
            return False
        if marker == _BASELINE_FRAME:
            if position + 10 > len(data) or data[position + 4] != 8:
                return False
            channels = data[position + 9]
        position += 2 + length
    return False


def _may_turn(segment: bytes) -> bool:
    return segment.startswith(b"Exif") or b"Orientation" in segment


def _read_by_pillow(file_name: str, image_format: str) -> np.ndarray:
    with Image.open(file_name) as header:
        mode = header.mode
        header.verify()  # a PNG with a damaged chunk would be decoded as far as it goes
    if mode.startswith(("I", "F")):
        # Pillow clips these to white (or rounds them to black) without a word.
        raise ValueError(f"mode {mode}: more than 8 bits a pixel; convert it to 8 bits")
    with Image.open(file_name) as picture:
        # Pillow turns a TIFF itself while it decodes, and takes the tag away. Detectron2 looks
        # at the tag before that, and would turn it a second time.
        picture.load()
        image = utils.convert_PIL_to_numpy(utils._apply_exif_orientation(picture), image_format)
    return np.array(image, order="C")  # Pillow's array is read-only, Detectron2's BGR a view
