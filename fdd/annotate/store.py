"""Points of all images of a data set, as they are edited: state, undo, recovery and saving.

Every edit goes to the journal (:mod:`fdd.annotate.journal`) before it counts, and all of them into
the points file when it is saved, where what is not edited stays as it is: keys that only other
programs know, images without points, the order.

The journal says by itself what an edited image was like before. So a session that was killed is
taken up image by image, whatever has become of the points file meanwhile: where the image there is
as it was at some step of the journal, the rest of the steps follow; where somebody else changed it,
theirs stays, and ours goes into a file beside.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fdd import __version__
from fdd.annotate.actions import (
    AnnotatedImage,
    Content,
    InvalidEdit,
    Segment,
    apply_action,
    clean_action,
)
from fdd.annotate.journal import Journal, JournalError, read_journal
from fdd.points.class_comparison import compare_classes, describe_differences
from fdd.points.classes import shown
from fdd.points.file_lock import FileHeldError, FileLock
from fdd.points.files import check_file_writable
from fdd.points.findings import raise_errors
from fdd.points.format import read_point_file, write_document
from fdd.points.structures import Category, PointImage, PointLabelError, VoidStroke, is_integer
from fdd.points.validation import validate_points
from fdd.points.void import parse_stroke, stroke_record
from fdd.points.wording import counted, listed

__all__ = [
    "AnnotatedImage",
    "AnnotationStore",
    "ImageState",
    "InvalidEdit",
    "JournalError",
    "PointsChanged",
    "Segment",
    "StaleEdit",
]

#: Steps that can be undone, of each image.
_UNDO_STEPS = 1000
MoreImages = Callable[[Sequence[AnnotatedImage]], Sequence[AnnotatedImage]]
MoreCategories = Callable[[Sequence[Category]], Sequence[Category]]


@dataclass(frozen=True)
class ImageState:
    """The points of an image after ``revision`` edits.

    Attributes:
        index: place in :attr:`AnnotationStore.images`.
        revision: raised by every edit, also by undo and redo.
        segments: in the order in which they were made.
        void: strokes over what is to be ignored, likewise.
        can_undo, can_redo: whether there is something to undo or redo.
    """

    index: int
    revision: int
    segments: tuple[Segment, ...]
    can_undo: bool
    can_redo: bool
    void: tuple[VoidStroke, ...] = ()

    @property
    def content(self) -> Content:
        return Content(self.segments, self.void)


class StaleEdit(Exception):
    """An edit that was made on another revision; nothing has changed. ``state`` is the image's."""

    def __init__(self, revision: int, state: ImageState) -> None:
        super().__init__(
            f"made on revision {revision}, but the image is at {state.revision}: another window "
            "changed it"
        )
        self.state = state


class PointsChanged(RuntimeError):
    """Another program changed the points file: it was left as it is, and the points of this session
    were written to ``recovered``."""

    def __init__(self, message: str, recovered: Path) -> None:
        super().__init__(message)
        self.recovered = recovered


@dataclass
class _History:
    """What an image is like, was like, and was like before an undo."""

    content: Content
    revision: int = 0
    undo: deque[Content] = field(default_factory=lambda: deque(maxlen=_UNDO_STEPS))
    redo: list[Content] = field(default_factory=list)
    next_id: int = 1

    def __post_init__(self) -> None:
        self._see(self.content.segments)

    def _see(self, segments: Sequence[Segment]) -> None:
        # An id is not given again: of what is deleted, somebody may still think.
        self.next_id = max([self.next_id, *(segment.id + 1 for segment in segments)])

    def do(self, content: Content) -> None:
        self.undo.append(self.content)
        self.redo.clear()
        self._go_to(content)
        self._see(content.segments[-1:])  # where a new one is

    def step_back(self, content: Content) -> None:
        """Undo; to what is known from elsewhere where this history does not reach so far back."""
        if self.undo:
            self.undo.pop()
        self.redo.append(self.content)
        self._go_to(content)
        self._see(content.segments)

    def step_forward(self, content: Content) -> None:
        if self.redo:
            self.redo.pop()
        self.undo.append(self.content)
        self._go_to(content)
        self._see(content.segments)

    def _go_to(self, content: Content) -> None:
        self.content = content
        self.revision += 1


class AnnotationStore:
    """Edits of the points of a data set; every method may be called from any thread.

    Args:
        points_file: the data set's point labels, which must exist.
        more_images: given the images that the file lists, further ones, which come into it with
            their first point.
        more_categories: given the classes of the file, further ones, which come into it when it is
            saved.

    Attributes:
        images: those of the points file in its order, then the further ones.
        categories: of the points file, in its order, then the further ones.
        points_file: its absolute path.
        notices: sentences for the user about what was found at the start, such as edits that were
            recovered from the journal of a killed session.

    Raises:
        FileNotFoundError: there is no points file.
        PointLabelError: it is invalid, or a further image has the id of another one.
        JournalError: there is a journal that cannot be read, or is of other classes.
        FileExistsError: another process has the points file open here.
        OSError: its folder cannot be written to.
    """

    def __init__(
        self,
        points_file: str | os.PathLike[str],
        *,
        more_images: MoreImages | None = None,
        more_categories: MoreCategories | None = None,
    ) -> None:
        self.points_file = Path(os.path.abspath(os.path.expanduser(points_file)))
        # Of a link, the file behind it: it is replaced there, and locked for whoever comes another
        # way.
        self._file = Path(os.path.realpath(self.points_file))
        self.notices: list[str] = []
        self._edits = threading.RLock()  # held for a moment
        self._saving = threading.Lock()  # held as long as a file is written
        self._closed = False
        self._check_writable()
        self._lock = self._take_lock()
        try:
            self._read(more_images, more_categories)
            head = {"points": self._file.name, "categories": self._head["categories"]}
            self._journal = Journal(_beside(self._file, ".journal"), head)
            self._recover()
        except BaseException:
            self._lock.release()
            raise

    def _check_writable(self) -> None:
        check_file_writable(self._file)
        if self._file.exists() and not os.access(self._file, os.W_OK):
            raise PermissionError(
                13, "no permission to write: edits could not be saved", str(self._file)
            )

    def _take_lock(self) -> FileLock:
        try:
            return FileLock(_beside(self._file, ".lock"))
        except FileHeldError as held:
            raise FileExistsError(
                f"{self.points_file}: it is being annotated by {held.who}. Go on in its browser "
                "window, or stop it (Ctrl-C saves) and start again"
            ) from None

    def _read(self, more_images: MoreImages | None, more_categories: MoreCategories | None) -> None:
        self._digest = _digest(self._file)
        points, findings = read_point_file(self.points_file)
        raise_errors(str(self.points_file), findings)
        assert points is not None, "or else there is a finding"
        validate_points(points.dataset, str(self.points_file))
        self._head = {key: value for key, value in points.document.items() if key != "images"}
        self._records: dict[int, dict[str, Any]] = dict(enumerate(points.document["images"]))
        try:
            json.dumps(points.document, allow_nan=False)
        except ValueError:  # now, and not when there are edits to be saved
            raise PointLabelError(
                f"{self.points_file}: NaN or Infinity outside of the points, which is not JSON; "
                "correct it by hand"
            ) from None
        self.categories = list(points.dataset.categories)
        added = more_categories(tuple(self.categories)) if more_categories is not None else ()
        self._categories = {c.id: c for c in self.categories}
        self._new_classes = False
        if added:
            self._take_in(added)
            names = listed([c.name for c in added], 5)
            self.notices.append(
                f"new classes, which the points file gets when it is saved: {names}"
            )
        listed_images = points.dataset.images
        self.images = [
            AnnotatedImage(i.image_id, i.file_name, i.height, i.width) for i in listed_images
        ]
        self._in_file: list[PointImage | None] = list(listed_images)
        self._index = {image.image_id: n for n, image in enumerate(self.images)}
        for image in more_images(tuple(self.images)) if more_images is not None else ():
            if self._index.setdefault(image.image_id, len(self.images)) != len(self.images):
                raise PointLabelError(
                    f"{self.points_file}: the id {image.image_id!r} of {image.file_name} is that "
                    "of another image; rename the file"
                )
            self.images.append(image)
            self._in_file.append(None)
        self._counts = [
            0 if image is None else sum(len(s.points) for s in image.segments)
            for image in self._in_file
        ]
        self._histories: dict[int, _History] = {}
        self._saved: dict[int, Content] = {}  # of images with a history, as in the points file
        self._extra: dict[int, dict[int, dict[str, Any]]] = {}  # their segments, as they were read
        self._in_journal: set[int] = set()  # images of which the journal says what they were like
        self._unsaved = 0
        self._recovered: Path | None = None

    def _history(self, index: int) -> _History:
        if not is_integer(index) or not 0 <= index < len(self.images):
            raise InvalidEdit(
                f"there is no image {shown(index)}; they are 0 to {len(self.images) - 1}"
            )
        if index not in self._histories:
            self._saved[index] = _content_of(self._in_file[index])
            self._histories[index] = _History(self._saved[index])
            record = self._records.get(index, {"segments": []})
            self._extra[index] = {entry["id"]: entry for entry in record["segments"]}
        return self._histories[index]

    # Editing.

    def state(self, index: int) -> ImageState:
        """The points of an image.

        Raises:
            InvalidEdit: there is no such image.
        """
        with self._edits:
            history = self._history(index)
            return ImageState(
                index,
                history.revision,
                history.content.segments,
                can_undo=bool(history.undo),
                can_redo=bool(history.redo),
                void=history.content.void,
            )

    def num_points(self) -> list[int]:
        """Number of points of each image."""
        with self._edits:
            return list(self._counts)

    @property
    def unsaved(self) -> int:
        """Number of edits that are in the journal, and not yet in the points file."""
        with self._edits:
            return self._unsaved

    def edit(self, index: int, revision: int, action: Mapping[str, Any]) -> ImageState:
        """Do one action (see :mod:`fdd.annotate.actions`; also ``undo`` and ``redo``); it is on the
        disk when this returns. One that changes nothing makes no revision.

        Raises:
            StaleEdit: the image is at another revision.
            InvalidEdit: the action cannot be done, or the store is closed.
            OSError: it cannot be written to the journal; nothing has changed.
        """
        with self._edits:
            if self._closed:
                raise InvalidEdit(f"{self.points_file} is closed; start `fdd annotate` again")
            history = self._history(index)
            if not is_integer(revision):
                raise InvalidEdit(f"the revision is {shown(revision)}; expected an integer")
            if revision != history.revision:
                raise StaleEdit(revision, self.state(index))
            clean = clean_action(action)
            image = self.images[index]
            after = _outcome(history, image, self._categories, clean, history.next_id)
            if after != history.content:
                entry: dict[str, Any] = {
                    "image": image.image_id,
                    "action": clean,
                    "new_id": history.next_id,
                }
                if clean["kind"] in ("undo", "redo"):
                    # A history that begins in the middle does not know what these led to.
                    entry |= _to_json(after, "segments")
                self._write(index, history, entry)
                _advance(history, clean["kind"], after)
                self._counts[index] = after.num_points
                self._unsaved += 1
            return self.state(index)

    def _write(self, index: int, history: _History, entry: dict[str, Any]) -> None:
        if index in self._in_journal:
            self._journal.append(entry)
            return
        image = self.images[index]
        before = {
            "image": image.image_id,
            **_to_json(history.content, "before"),
            "revision": history.revision,
            "file_name": image.file_name,
            "height": image.height,
            "width": image.width,
        }
        self._journal.append(before, entry)
        self._in_journal.add(index)

    def add_category(self, category: Category) -> None:
        """Add a class, and write it into the points file with all that is to be saved.

        Raises:
            InvalidEdit: its id or name is taken.
            PointsChanged, OSError: as :meth:`save`; the class is not added.
        """
        with self._saving:
            with self._edits:
                if self._closed:
                    raise InvalidEdit(f"{self.points_file} is closed; start `fdd annotate` again")
                if any(category.id == c.id or category.name == c.name for c in self.categories):
                    raise InvalidEdit(
                        f"there is a class {category.name!r}, or one of its id, already"
                    )
                head, unwritten = self._head, self._new_classes
                self._take_in([category])
            try:
                self._save()
            except BaseException:
                with self._edits:
                    self._head, self._new_classes = head, unwritten
                    self.categories = [c for c in self.categories if c.id != category.id]
                    del self._categories[category.id]
                raise

    def _take_in(self, added: Sequence[Category]) -> None:
        """Know further classes, which the points file gets when it is saved."""
        self.categories = [*self.categories, *added]
        entries = [{"id": c.id, "name": c.name, "isthing": int(c.isthing)} for c in added]
        self._head = {**self._head, "categories": [*self._head["categories"], *entries]}
        self._categories = {c.id: c for c in self.categories}
        self._new_classes = True

    # Saving.

    def save(self) -> None:
        """Write the points file, if there is something to write; other threads can edit meanwhile.

        Raises:
            PointsChanged: another program changed the file since it was read or written here.
            InvalidEdit: the store is closed.
            OSError: it cannot be written; the journal keeps every edit.
        """
        with self._saving:
            if self._closed:
                raise InvalidEdit(f"{self.points_file} is closed; start `fdd annotate` again")
            self._save()

    def _save(self) -> None:
        with self._edits:
            end, unsaved = self._journal.end, self._unsaved
            # What comes from now on is a journal of its own, of which the rest may be cut off.
            self._in_journal.clear()
            changed = {
                index: history.content
                for index, history in self._histories.items()
                if history.content != self._saved[index]
            }
        if not changed and not end and not self._new_classes:
            return
        if changed or self._new_classes or not self._file.exists():
            records = self._updated(changed)
            self._write_points(records)
            with self._edits:
                self._records = records
                self._saved.update(changed)
                self._new_classes = False
        with self._edits:
            self._journal.drop_before(end)
            self._unsaved -= unsaved

    def _updated(self, changed: Mapping[int, Content]) -> dict[int, dict[str, Any]]:
        """The entries of the images, in order, with the points of those that have changed."""
        records = dict(self._records)
        for index, content in changed.items():
            if index not in records and content == Content():
                continue
            image = self.images[index]
            entry: dict[str, Any] = {
                "id": image.image_id,
                "file_name": image.file_name,
                "height": image.height,
                "width": image.width,
            }
            extra = self._extra[index]
            written = [_segment_record(s, extra.get(s.id, {})) for s in content.segments]
            records[index] = {**records.get(index, entry), "segments": written}
            records[index].pop("void", None)
            if content.void:
                records[index]["void"] = list(map(stroke_record, content.void))
        return dict(sorted(records.items()))

    def _write_points(self, records: Mapping[int, dict[str, Any]]) -> None:
        note = {"tool": "fdd annotate", "version": __version__}
        head = {**self._head, "info": {**self._head.get("info", {}), "annotated": note}}
        # Of a file that is gone, nothing can be overwritten.
        if self._file.exists() and _digest(self._file) != self._digest:
            if self._recovered is None:
                self._recovered = _free_name(self._file)
            write_document(self._recovered, head, records.values(), durable=True)
            raise PointsChanged(
                f"{self.points_file} was changed by another program, and is left as that wrote it. "
                f"The points of this session are in {self._recovered}. Replace the one by the "
                "other, or stop and start again: images that only one of the two changed are taken "
                "from that one",
                self._recovered,
            )
        write_document(self._file, head, records.values(), durable=True)
        self._head, self._digest = head, _digest(self._file)

    def close(self) -> None:
        """Save and unlock; errors as :meth:`save`, unlocked all the same. Twice is no error."""
        with self._saving:
            with self._edits:
                if self._closed:
                    return
                self._closed = True
            try:
                self._save()
            finally:
                self._journal.close()
                self._lock.release()

    # Recovery of what a killed session left.

    def _recover(self) -> None:
        found = read_journal(self._journal.path)
        if found is None:
            return
        head, entries = found
        self._check_journal_classes(head)
        replays: dict[str | int, _Replay] = {}
        for number, entry in enumerate(entries, start=2):
            try:
                image_id = entry["image"]
                if "before" in entry and image_id not in replays:
                    index = self._index.get(image_id)
                    now = None if index is None else self._history(index).content
                    replays[image_id] = _Replay(entry, now)
                else:
                    replays[image_id].follow(entry, self._categories)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise JournalError(
                    f"{self._journal.path}, line {number}: an edit that cannot be followed "
                    f"({error}). Move the file elsewhere to go on without the edits in it"
                ) from error
        conflicts = {i: r for i, r in replays.items() if not self._take_up(r)}
        if conflicts:
            self._set_aside(conflicts)
        kept = [entry for entry in entries if entry["image"] not in conflicts]
        self._journal.rewrite(kept)
        self._in_journal = {self._index[i] for i in replays if i not in conflicts}
        self._unsaved = sum("action" in entry for entry in kept)
        if self._unsaved:
            self.notices.append(
                f"recovered {counted(self._unsaved, 'edit')} of "
                f"{counted(len(self._in_journal), 'image')} that an earlier session had not saved"
            )

    def _check_journal_classes(self, head: Mapping[str, Any]) -> None:
        try:
            differences = compare_classes(head["categories"], self.categories, ordered=False)
        except (KeyError, TypeError) as error:
            raise JournalError(f"{self._journal.path}: no valid classes in line 1") from error
        lost = [difference for difference in differences if difference.first is not None]
        if lost:
            text = describe_differences(lost, "the journal", "the points file")
            raise JournalError(
                f"{self._journal.path}: edits that were not saved are of other classes than "
                f"{self.points_file} has now: {text}. Put these classes back, or move the journal "
                "elsewhere to go on without its edits"
            )

    def _take_up(self, replay: _Replay) -> bool:
        """Go on where the journal ended; False if the image is another one now."""
        index = self._index.get(replay.image.image_id)
        if index is None or self.images[index] != replay.image:
            return False
        if not replay.met:
            return False
        self._histories[index] = replay.history
        self._counts[index] = replay.history.content.num_points
        return True

    def _set_aside(self, conflicts: Mapping[str | int, _Replay]) -> None:
        """Write what cannot be taken up into a file of its own, with all other points."""
        records = self._updated({i: h.content for i, h in self._histories.items()})
        position = len(self.images)
        for number, (image_id, replay) in enumerate(conflicts.items()):
            image = replay.image
            index = self._index.get(image_id, position + number)
            records[index] = {
                **records.get(index, {}),
                "id": image.image_id,
                "file_name": image.file_name,
                "height": image.height,
                "width": image.width,
                **_to_json(replay.history.content, "segments"),
            }
        place = _free_name(self._file)
        write_document(place, self._head, records.values(), durable=True)
        self.notices.append(
            f"another program changed {self.points_file} after edits that were not saved. What it "
            f"says of {counted(len(conflicts), 'image')} ({listed(list(conflicts), 3)}) is kept; "
            f"the edits of the same images are in {place}"
        )


class _Replay:
    """Steps of one image that a journal has.

    Attributes:
        image: as it was listed.
        history: at the end.
        met: whether the image was at some step as the points file has it now.
    """

    def __init__(self, entry: Mapping[str, Any], now: Content | None) -> None:
        self.image = AnnotatedImage(
            entry["image"], entry["file_name"], entry["height"], entry["width"]
        )
        self.history = _History(_from_json(entry, "before"), int(entry["revision"]))
        self._now = now
        self.met = self.history.content == now

    def follow(self, entry: Mapping[str, Any], categories: Mapping[int, Category]) -> None:
        """Do what an entry says.

        Raises:
            KeyError, TypeError, ValueError, AttributeError: it does not fit what came before.
        """
        if "before" in entry:
            if _from_json(entry, "before") != self.history.content:
                raise ValueError("the image was another one before it")
            return
        history, action, new_id = self.history, entry["action"], int(entry["new_id"])
        if action["kind"] in ("undo", "redo"):
            after = _from_json(entry, "segments")
        else:
            after = _outcome(history, self.image, categories, clean_action(action), new_id)
        history.next_id = max(history.next_id, new_id)
        _advance(history, action["kind"], after)
        self.met |= after == self._now


def _outcome(
    history: _History,
    image: AnnotatedImage,
    categories: Mapping[int, Category],
    action: Mapping[str, Any],
    new_id: int,
) -> Content:
    """An image after an action of :func:`clean_action`."""
    kind = action["kind"]
    if kind in ("undo", "redo"):
        steps: Sequence[Content] = history.undo if kind == "undo" else history.redo
        if not steps:
            raise InvalidEdit(f"image {image.image_id!r}: there is nothing to {kind}")
        return steps[-1]
    return apply_action(image, categories, history.content, action, new_id)


def _advance(history: _History, kind: str, after: Content) -> None:
    step = {"undo": history.step_back, "redo": history.step_forward}.get(kind, history.do)
    step(after)


def _content_of(image: PointImage | None) -> Content:
    if image is None:
        return Content()
    segments = (
        Segment(int(s.id), int(s.category_id), tuple((float(x), float(y)) for x, y in s.points))
        for s in image.segments
    )
    strokes = (
        VoidStroke(float(s.width), tuple((float(x), float(y)) for x, y in s.line))
        for s in image.void
    )
    return Content(tuple(segments), tuple(strokes))


def _to_json(content: Content, key: str) -> dict[str, Any]:
    """What an entry says of an image: its segments under ``key``, and ``void``, if any."""
    entry: dict[str, Any] = {key: [_segment_record(segment, {}) for segment in content.segments]}
    if content.void:
        entry["void"] = list(map(stroke_record, content.void))
    return entry


def _from_json(entry: Mapping[str, Any], key: str) -> Content:
    strokes = (parse_stroke(stroke, "a stroke") for stroke in entry.get("void", ()))
    return Content(tuple(map(_segment, entry[key])), tuple(strokes))


def _segment(entry: Mapping[str, Any]) -> Segment:
    points = tuple((float(x), float(y)) for x, y in entry["points"])
    return Segment(int(entry["id"]), int(entry["category_id"]), points)


def _segment_record(segment: Segment, extra: Mapping[str, Any]) -> dict[str, Any]:
    """An entry of the points file; ``extra`` is what the file had there, whose other keys stay."""
    new = {"id": segment.id, "category_id": segment.category_id}
    if extra and _segment(extra) == segment:
        return dict(extra)  # numbers stay as they were written
    return {**extra, **new, "points": [list(point) for point in segment.points]}


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)


def _free_name(path: Path) -> Path:
    """``points.recovered.json`` beside ``points.json``, with a number where that is taken."""
    number = 1
    while True:
        ending = f".recovered{number if number > 1 else ''}{path.suffix}"
        place = path.with_name(path.stem + ending)
        if not place.exists():
            return place
        number += 1


def _digest(path: Path) -> bytes:
    """Of a file's content; empty where there is none."""
    with suppress(FileNotFoundError):
        return hashlib.sha256(path.read_bytes()).digest()
    return b""
