"""Segment image and video files, and write overlays, panoptic PNGs and JSON files."""

from __future__ import annotations

import glob
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from fdd.data.images import read_image
from fdd.inference.predictor import Predictor
from fdd.inference.video import VideoCodecError, VideoFileError, VideoReader, VideoWriter
from fdd.points.coco_panoptic import PanopticWriter, save_segment_ids
from fdd.points.files import atomic_path, write_json
from fdd.points.image_files import IMAGE_ENDINGS, is_image_name, walk_files
from fdd.points.wording import listed
from fdd.visualization.files import write_rgb

__all__ = [
    "OUTPUT_FOLDERS",
    "VIDEO_ENDINGS",
    "PredictionInput",
    "PredictionOptions",
    "PredictionReport",
    "find_inputs",
    "find_left_out",
    "predict_files",
    "read_image_ids",
]

VIDEO_ENDINGS = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".webm")
_NAMES_SHOWN = 5


@dataclass(frozen=True)
class PredictionInput:
    """A file to segment.

    Attributes:
        path: of the file.
        file_name: path from the folder that was named, with ``/``; of a single file its name.
        name: unique; what its results are called, without an ending. May hold ``/``.
    """

    path: Path
    file_name: str
    name: str

    @property
    def is_video(self) -> bool:
        return self.path.suffix.lower() in VIDEO_ENDINGS


def find_inputs(
    entries: Sequence[str | os.PathLike[str]],
    *,
    recursive: bool = False,
    leave_out: Sequence[str | os.PathLike[str]] = (),
) -> list[PredictionInput]:
    """The files that paths, folders and glob patterns stand for, each once.

    Args:
        entries: files (of any ending), folders, patterns (``**`` reaches sub-folders).
        recursive: look into the sub-folders of folders, too. Hidden files and folders are passed
            over.
        leave_out: folders of which nothing is taken, such as an output in the middle of the input.

    Raises:
        FileNotFoundError: an entry stands for no image and no video.
        ValueError: all that it stands for lies in ``leave_out``.
    """
    closed = _closed(leave_out)
    found: dict[str, tuple[Path, str]] = {}
    for entry in (os.fspath(e) for e in entries):
        every = list(_expand(entry, recursive))
        if not every:
            raise FileNotFoundError(_nothing_found(entry, recursive))
        hits = [hit for hit in every if not _is_closed(hit[0], closed)]
        if not hits:
            raise ValueError(
                f"{entry}: lies where results are written, which would replace it. Choose another "
                "output folder"
            )
        for path, file_name in hits:
            found.setdefault(os.path.abspath(path), (path, file_name))
    names = _unique_names([file_name for _, file_name in found.values()])
    return [
        PredictionInput(path, file_name, name)
        for (path, file_name), name in zip(found.values(), names, strict=True)
    ]


def find_left_out(
    entries: Sequence[str | os.PathLike[str]],
    *,
    recursive: bool = False,
    leave_out: Sequence[str | os.PathLike[str]] = (),
) -> list[str]:
    """What lies in the folders and matches the patterns, and :func:`find_inputs` does not take.

    Args:
        entries, recursive, leave_out: as there. Hidden folders and what is in them, hidden files of
            other endings, and folders of ``leave_out`` are not counted.

    Returns:
        For each entry a sentence about files of other endings, one about hidden images and videos,
        and one about sub-folders, with their number and some names; none where there are none.
    """
    closed = _closed(leave_out)
    notes = []
    for entry in (os.fspath(e) for e in entries):
        path = Path(entry).expanduser()
        if path.is_file():
            continue
        is_folder = path.is_dir()
        hits = walk_files(path, recursive=recursive) if is_folder else _matching(path)
        files = [n for hit, n in hits if not _is_usable(hit) and not _is_closed(hit, closed)]
        if files:
            were = "files were" if len(files) > 1 else "file was"
            notes.append(
                f"{entry}: {len(files):,} {were} left out, not an image or a video by the ending: "
                f"{listed(files, _NAMES_SHOWN)}"
            )
        if not is_folder:
            continue
        hits = walk_files(path, recursive=recursive, hidden=True)
        hidden = [n for hit, n in hits if _is_usable(hit) and not _is_closed(hit, closed)]
        if hidden:
            were = "files were" if len(hidden) > 1 else "file was"
            notes.append(
                f"{entry}: {len(hidden):,} hidden {were} left out (named one by one they are "
                f"taken): {listed(hidden, _NAMES_SHOWN)}"
            )
        if recursive:
            continue
        own = {os.path.dirname(folder) for folder in closed}  # the folder of the results
        folders = [
            hit.name
            for hit in sorted(path.iterdir())
            if hit.is_dir()
            and not hit.name.startswith(".")
            and not _is_closed(hit, closed)
            and os.path.abspath(hit) not in own
        ]
        if folders:
            were = "sub-folders were" if len(folders) > 1 else "sub-folder was"
            notes.append(
                f"{entry}: {len(folders):,} {were} not looked into (--recursive does): "
                f"{listed(folders, _NAMES_SHOWN)}"
            )
    return notes


def _closed(folders: Sequence[str | os.PathLike[str]]) -> set[str]:
    return {place(folder) for folder in folders for place in (os.path.abspath, os.path.realpath)}


def _is_closed(path: Path, closed: Set[str]) -> bool:
    """Whether a path is one of the folders, or lies in one, also by way of a link."""
    real = Path(os.path.realpath(path))
    above = (path, *path.parents), (real, *real.parents)
    return any(not closed.isdisjoint(map(os.path.abspath, paths)) for paths in above)


def _expand(entry: str, recursive: bool) -> Iterator[tuple[Path, str]]:
    """Paths, and their names from the folder that was named."""
    path = Path(entry).expanduser()
    # A name with brackets is tried as a file before it is tried as a pattern.
    if path.is_file():
        yield path, path.name
    elif path.is_dir():
        yield from (hit for hit in walk_files(path, recursive=recursive) if _is_usable(hit[0]))
    else:
        yield from (hit for hit in _matching(path) if _is_usable(hit[0]))


def _matching(pattern: Path) -> list[tuple[Path, str]]:
    hits = map(Path, sorted(glob.glob(str(pattern), recursive=True)))
    return [(hit, hit.name) for hit in hits if hit.is_file()]


def _is_usable(path: Path) -> bool:
    return is_image_name(path) or path.suffix.lower() in VIDEO_ENDINGS


def _nothing_found(entry: str, recursive: bool) -> str:
    endings = " ".join(IMAGE_ENDINGS + VIDEO_ENDINGS)
    if Path(entry).expanduser().is_dir():
        hint = "" if recursive else " --recursive looks into its sub-folders, too."
        return f"{entry}: no image or video in this folder (looked for {endings}).{hint}"
    if glob.has_magic(entry):
        return f"{entry}: no image or video matches this pattern (looked for {endings})"
    return f"{entry}: no such file or folder"


def _unique_names(file_names: Sequence[str]) -> list[str]:
    """Names without endings, made longer where two are the same (for some disks A is a).

    A video's name is not that of another's folder either: its frames lie in one.
    """
    stems = [str(PurePosixPath(file_name).with_suffix("")) for file_name in file_names]
    folders = {str(above).casefold() for stem in stems for above in PurePosixPath(stem).parents}
    taken: set[str] = set()
    names = []
    for stem, file_name in zip(stems, file_names, strict=True):
        name, number = stem, 2
        used = taken | folders if file_name.lower().endswith(VIDEO_ENDINGS) else taken
        while name.casefold() in used:
            name, number = f"{stem}_{number}", number + 1
        taken.add(name.casefold())
        names.append(name)
    return names


#: ``PANOPTIC.json`` beside the folder ``PANOPTIC`` is where panopticapi looks for the PNGs.
PANOPTIC, SEGMENTS, OVERLAYS = "panoptic", "segments", "overlays"
OUTPUT_FOLDERS = (PANOPTIC, SEGMENTS, OVERLAYS)

ImageId = str | int
Progress = Callable[[Iterator[Any], int | None, str], Iterator[Any]]


@dataclass(frozen=True)
class PredictionOptions:
    """What :func:`predict_files` writes.

    Attributes:
        overlay: pictures, and for a video a video, of the segments over the image.
        alpha: weight of the colours in them, 0 to 1.
        max_side: their longest side in pixels.
        every: take every n-th frame of a video.
        frames: of a video's frames, too, write the PNG and the JSON.
    """

    overlay: bool = True
    alpha: float = 0.55
    max_side: int = 1920
    every: int = 1
    frames: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha {self.alpha}; expected a number from 0 to 1")
        if self.max_side < 16:
            raise ValueError(f"max_side {self.max_side}; expected at least 16 pixels")
        if self.every < 1:
            raise ValueError(f"every {self.every} frames; expected a number of at least 1")


@dataclass
class PredictionReport:
    """What was done.

    Attributes:
        inputs: files asked for.
        images: image files segmented.
        frames: video frames segmented.
        seconds: spent in the model.
        kinds: number of things (True) and stuff regions (False) found.
        pixels: seen; void: of these, without a segment.
        failures: files that could not be read, with the reason.
        notes: what else a user should know.
        files: kinds of files written, such as ``panoptic/*.png``.
    """

    inputs: int = 0
    images: int = 0
    frames: int = 0
    seconds: float = 0.0
    kinds: Counter[bool] = field(default_factory=Counter)
    pixels: int = 0
    void: int = 0
    failures: list[tuple[Path, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)


def predict_files(
    predictor: Predictor,
    inputs: Sequence[PredictionInput],
    output: str | os.PathLike[str],
    options: PredictionOptions | None = None,
    *,
    image_ids: Mapping[str, ImageId] | None = None,
    progress: Progress | None = None,
) -> PredictionReport:
    """Segment files; every result is written whole or not at all.

    Below ``output``: ``panoptic/NAME.png`` (COCO panoptic segment ids), ``segments/NAME.json``
    (classes, scores, areas, boxes), ``overlays/NAME.jpg``, and at the end ``panoptic.json``, which
    makes a COCO panoptic data set of all of them. A video gives ``overlays/NAME.mp4``, or pictures
    of its frames where videos cannot be written, and with ``options.frames`` the other files of
    each frame as ``NAME/000012``.

    Args:
        predictor: the model.
        inputs: of :func:`fdd.inference.prediction.find_inputs`.
        output: folder; made if need be. Files of the same names are replaced.
        options: defaults if None.
        image_ids: ids in ``panoptic.json`` by file name (see :func:`read_image_ids`); by default an
            image's id is its ``name``.
        progress: wraps an iterator, given the number of its items if known and what they are.

    Raises:
        OSError: nothing can be written.
        ValueError: a video with neither overlay nor frames to write, an image without an id.
    """
    options = options or PredictionOptions()
    videos = [item for item in inputs if item.is_video]
    if videos and not (options.overlay or options.frames):
        raise ValueError(
            f"{videos[0].path}: a video without overlay; write its frames with --frames"
        )
    writer = _Writer(predictor, Path(output), options, image_ids)
    writer.check(inputs)
    images = [item for item in inputs if not item.is_video]
    steps: Iterator[PredictionInput] = iter(images)
    for item in progress(steps, len(images), "images") if progress and images else steps:
        writer.add_image(item)
    for item in videos:
        writer.add_video(item, progress)
    writer.finish()
    return writer.report


def read_image_ids(path: str | os.PathLike[str]) -> dict[str, ImageId]:
    """Ids by file name from a label file with a list ``images``: COCO's, or point labels.

    Raises:
        FileNotFoundError, ValueError: no such file, or without such a list.
    """
    try:
        document = json.loads(Path(path).read_bytes().decode("utf-8-sig"))
        return {str(i["file_name"]).replace("\\", "/"): i["id"] for i in document["images"]}
    except FileNotFoundError:
        raise FileNotFoundError(f"{os.fspath(path)}: no such label file") from None
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{os.fspath(path)}: not JSON with a list 'images' of id and file_name ({error!r})"
        ) from error


class _Writer:
    """Writes one result after the other, and counts."""

    def __init__(
        self,
        predictor: Predictor,
        output: Path,
        options: PredictionOptions,
        image_ids: Mapping[str, ImageId] | None,
    ) -> None:
        self.predictor, self.output, self.options = predictor, output, options
        self.image_ids = image_ids
        self.report = PredictionReport()
        keys = ("id", "name", "isthing", "color")
        self._written = PanopticWriter(
            [
                {key: int(c[key]) if key == "isthing" else c[key] for key in keys if key in c}
                for c in predictor.categories
            ],
            {"description": f"Predictions of {predictor.trained.checkpoint.name}"},
        )

    def check(self, inputs: Sequence[PredictionInput]) -> None:
        """Find out before the work what would stop it."""
        self.output.mkdir(parents=True, exist_ok=True)
        self.report.inputs = len(inputs)
        if self.image_ids is None:
            return
        counts = Counter(i.file_name for i in inputs if not i.is_video)
        if twice := [name for name, count in counts.items() if count > 1]:
            raise ValueError(
                f"{counts[twice[0]]} images are called {twice[0]!r}, which has one id in the label "
                "file. Name the folder that its file names start from"
            )
        lost = [i for i in inputs if not i.is_video and i.file_name not in self.image_ids]
        if lost:
            raise ValueError(
                f"{len(lost)} of {len(inputs)} images have no id in the label file, the first is "
                f"{lost[0].file_name!r}. Name the folder that its file names start from"
            )

    def add_image(self, item: PredictionInput) -> None:
        try:
            image = read_image(str(item.path), "RGB", str(item.path), advice="")
        except (OSError, ValueError) as error:
            self.report.failures.append((item.path, str(error)))
            return
        ids, segments = self._predict(image)
        image_id = item.name if self.image_ids is None else self.image_ids[item.file_name]
        picture = self._draw(image, ids, segments) if self.options.overlay else None
        del image  # which may be large, and so is what writing needs
        self._write(item.name, item.file_name, image_id, ids, segments)
        if picture is not None:
            self._save_picture(item.name, picture)
        self.report.images += 1

    def add_video(self, item: PredictionInput, progress: Progress | None) -> None:
        try:
            video = VideoReader(item.path, self.options.every)
        except (OSError, VideoFileError) as error:
            self.report.failures.append((item.path, str(error)))
            return
        try:
            frames: Iterator[Any] = iter(video)
            if progress:
                frames = progress(frames, video.expected, item.path.name)
            self._add_frames(item, video, frames)
        except VideoFileError as error:
            self.report.failures.append((item.path, str(error)))
            return
        if video.cut_short:
            self.report.notes.append(f"{item.path}: ends earlier than its head says; cut short?")

    def _add_frames(self, item: PredictionInput, video: VideoReader, frames: Iterator[Any]) -> None:
        with ExitStack() as stack:
            target: VideoWriter | None = None
            as_pictures = False
            for number, frame in frames:
                name = f"{item.name}/{number:06d}"
                ids, segments = self._predict(frame)
                if self.options.frames:
                    self._write(name, f"{item.file_name}#{number}", name, ids, segments)
                self.report.frames += 1
                if not self.options.overlay:
                    continue
                picture = self._draw(frame, ids, segments)
                if target is None and not as_pictures:
                    path = self.output / OVERLAYS / f"{item.name}.mp4"
                    size = picture.shape[1], picture.shape[0]
                    try:
                        target = stack.enter_context(VideoWriter(path, video.fps, size))
                        self._wrote(OVERLAYS, ".mp4", "segments over the video")
                    except VideoCodecError as error:
                        as_pictures = True
                        self.report.notes.append(f"{item.path}: {error}; pictures instead")
                if target is not None:
                    target.write(picture)
                else:
                    self._save_picture(name, picture)

    def _predict(self, image: np.ndarray) -> tuple[np.ndarray, list[dict[str, Any]]]:
        start = time.perf_counter()
        ids, segments = self.predictor(image)
        self.report.seconds += time.perf_counter() - start
        self.report.kinds.update(bool(s["isthing"]) for s in segments)
        self.report.pixels += ids.size
        self.report.void += int(np.count_nonzero(ids == 0))
        return ids, segments

    def _write(
        self,
        name: str,
        file_name: str,
        image_id: ImageId,
        ids: np.ndarray,
        segments: list[dict[str, Any]],
    ) -> None:
        """The PNG and the JSON of an image, and its entry in the JSON of all."""
        if not len(self._written):
            # Of an earlier run: from here on it would describe other PNGs.
            (self.output / f"{PANOPTIC}.json").unlink(missing_ok=True)
        described = self.predictor.describe(ids, segments)
        save_segment_ids(self.output / PANOPTIC / f"{name}.png", ids)
        self._wrote(PANOPTIC, ".png", "segment ids, R + 256 G + 65536 B, 0 is void")
        size = {"height": ids.shape[0], "width": ids.shape[1]}
        record = {
            "file_name": file_name,
            "panoptic_file_name": f"{PANOPTIC}/{name}.png",
            **size,
            "segments_info": described,
        }
        write_json(self.output / SEGMENTS / f"{name}.json", record, indent=1, end="\n")
        self._wrote(SEGMENTS, ".json", "classes, scores, areas and boxes, image by image")
        self._written.add(image_id, file_name, ids.shape, f"{name}.png", described)

    def _draw(self, image: np.ndarray, ids: np.ndarray, segments: Sequence[Any]) -> np.ndarray:
        options = self.options
        return self.predictor.draw(
            image, ids, segments, alpha=options.alpha, max_side=options.max_side
        )

    def _save_picture(self, name: str, picture: np.ndarray) -> None:
        with atomic_path(self.output / OVERLAYS / f"{name}.jpg") as temporary:
            write_rgb(temporary, picture)
        self._wrote(OVERLAYS, ".jpg", "segments over the image; hatched pixels have none")

    def _wrote(self, folder: str, ending: str, what: str) -> None:
        self.report.files[f"{folder}/*{ending}"] = what

    def finish(self) -> None:
        """The JSON of all images; not one of none."""
        if not len(self._written):
            return
        self._written.write(self.output / f"{PANOPTIC}.json", end="\n")
        self.report.files[f"{PANOPTIC}.json"] = "all of them as a COCO panoptic data set"
