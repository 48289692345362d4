"""Videos in and out, by OpenCV."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np

from fdd.points.files import atomic_path

__all__ = ["VideoCodecError", "VideoFileError", "VideoReader", "VideoWriter"]

_FALLBACK_FPS = 25.0
_CODEC = "mp4v"  # MPEG-4 part 2: what OpenCV's own wheels can write on every system


class VideoFileError(ValueError):
    """A video that cannot be read."""


class VideoCodecError(ValueError):
    """This OpenCV cannot write videos."""


class VideoReader:
    """Every ``every``-th frame of a video, from the first on.

    Args:
        path: the file.
        every: 1 for all frames.

    Attributes:
        fps: frames a second of what is read; 25 where the file does not say.
        expected: number of frames to be read by the file's head, or None.
        cut_short: whether the file ended well before its head says; known after the iteration.

    Raises:
        VideoFileError: no video that this OpenCV can open; while iterating: no frame in it.
    """

    def __init__(self, path: str | os.PathLike[str], every: int = 1) -> None:
        if every < 1:
            raise ValueError(f"every {every} frames; expected a number of at least 1")
        self.path, self.every = os.fspath(path), every
        if not os.path.isfile(self.path):
            raise FileNotFoundError(f"{self.path}: no such video")
        self._capture = cv2.VideoCapture(self.path)
        if not self._capture.isOpened():
            raise VideoFileError(
                f"{self.path}: not a video that OpenCV can open. Is the file whole? Convert it to "
                "an .mp4 (H.264), or give its frames as images"
            )
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        known = math.isfinite(fps) and 0 < fps <= 1000
        self.fps = (fps if known else _FALLBACK_FPS) / every
        count = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self._count = int(count) if math.isfinite(count) and count > 0 else None
        self.expected = None if self._count is None else -(-self._count // every)
        self.cut_short = False

    def __iter__(self) -> Iterator[tuple[int, np.ndarray]]:
        """Frame numbers (from 0) and frames, uint8 ``(H, W, 3)`` RGB."""
        number = 0
        while self._capture.grab():
            if number % self.every == 0:
                good, frame = self._capture.retrieve()
                if not good:
                    break
                yield number, cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
            number += 1
        self._capture.release()
        if number == 0:
            raise VideoFileError(f"{self.path}: no frame of this video can be decoded")
        # Heads are off by a frame or two at times, without anything being lost.
        self.cut_short = self._count is not None and number < 0.9 * self._count


class VideoWriter:
    """An .mp4 that takes its name once it is complete; a context manager.

    Args:
        path: ``.mp4``.
        fps: frames a second.
        size: width and height of the frames; an odd one loses its last pixel, which the codec
            cannot take.

    Raises:
        VideoCodecError: on entering.
    """

    def __init__(self, path: str | os.PathLike[str], fps: float, size: tuple[int, int]) -> None:
        self.path = Path(path)
        self._fps = fps
        self._size = (max(2, size[0] // 2 * 2), max(2, size[1] // 2 * 2))
        self._stack = ExitStack()

    def __enter__(self) -> VideoWriter:
        with ExitStack() as stack:
            self._temporary = stack.enter_context(atomic_path(self.path))
            code = cv2.VideoWriter.fourcc(*_CODEC)
            self._writer = cv2.VideoWriter(str(self._temporary), code, self._fps, self._size)
            if not self._writer.isOpened():
                raise VideoCodecError(f"this OpenCV cannot write {_CODEC} videos")
            self._stack = stack.pop_all()
        return self

    def write(self, picture: np.ndarray) -> None:
        """Add a uint8 ``(h, w, 3)`` RGB picture; one of another size is resized."""
        width, height = self._size
        if abs(picture.shape[0] - height) > 1 or abs(picture.shape[1] - width) > 1:
            picture = cv2.resize(np.ascontiguousarray(picture), self._size)
        frame = picture[:height, :width]
        if frame.shape[:2] != (height, width):
            frame = cv2.resize(np.ascontiguousarray(frame), self._size)
        self._writer.write(cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2BGR))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._writer.release()
        with self._stack:
            if error is not None:
                raise error
            # OpenCV says nothing of a full disk, but leaves a file that does not open.
            if not cv2.VideoCapture(str(self._temporary)).isOpened():
                raise OSError(f"{self.path}: the video could not be written. Is the disk full?")
