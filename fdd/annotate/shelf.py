"""The models of a session: one makes the labels; others can take its place while clicks go on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fdd.annotate.actions import Segment
from fdd.annotate.live import ImageFigures, LiveLabel, LiveLabeller
from fdd.annotate.preview import NEAREST, Preview
from fdd.annotate.suggest import Suggestion
from fdd.inference.more_classes import with_classes
from fdd.inference.trained_model import TrainedModel, load_trained
from fdd.points import Category
from fdd.points.structures import VoidStroke

__all__ = ["ModelShelf"]


@dataclass(frozen=True)
class _Entry:
    name: str
    path: str | None
    weights: str | None = None
    config_file: str = ""
    opts: tuple[str, ...] = ()


class ModelShelf:
    """A :class:`LiveLabeller` whose model can be changed; only one is in memory.

    Every method may be called from any thread. A label that is being made is waited for.

    Attributes:
        categories: of the data set.
        trained: the model in use, with these classes; None: the preview.
        unlearned: names of classes that it has not learned.
    """

    def __init__(
        self,
        categories: Sequence[Category],
        trained: TrainedModel | None,
        *,
        preview: Preview = NEAREST,
        path: str | None = None,
        weights: str | None = None,
        config_file: str = "",
        opts: Sequence[str] = (),
    ) -> None:
        """
        Args:
            categories: of the data set.
            trained: the first model, with its training-only parts; None: the preview.
            preview: makes labels while no model is in use.
            path, weights, config_file, opts: what it was loaded with, to take it up again; see
                :func:`load_trained`.

        Raises:
            ValueError: it does not fit the data set, see :class:`LiveLabeller`.
        """
        self.categories, self._preview = list(categories), preview
        self._using = threading.Lock()  # held while a label is made
        self._changing = threading.RLock()  # held while a model is loaded
        self.trained, self.unlearned = self._fitted(trained)
        self._labeller = LiveLabeller(self.trained, self.categories, preview=preview)
        name = preview.name if trained is None else str(path)
        self._entries = [_Entry(name, path, weights, config_file, tuple(opts))]
        self._current = 0
        self._changes = 1
        self._version = 0 if trained is None else self._changes

    @property
    def version(self) -> int:
        """Another number for each change of the model; 0 for the preview."""
        return self._version

    @property
    def names(self) -> list[str]:
        return [entry.name for entry in self._entries]

    @property
    def current(self) -> int:
        """Place among the names of what makes the labels."""
        return self._current

    @property
    def model(self) -> str | None:
        """Name of the model in use; None: the preview."""
        entry = self._entries[self._current]
        return None if entry.path is None else entry.name

    @property
    def source(self) -> tuple[str, str | None] | None:
        """Path and choice of weights of the model in use."""
        entry = self._entries[self._current]
        return None if entry.path is None else (entry.path, entry.weights)

    def offer(self, name: str, path: Path) -> None:
        """List a further model, which is loaded when it is used; one that is listed already is not
        listed again."""
        if self._place_of(path) is None:
            self._entries.append(_Entry(name, str(path)))

    def _place_of(self, path: Path) -> int | None:
        for place, entry in enumerate(self._entries):
            if entry.path is not None and Path(entry.path).resolve() == path.resolve():
                return place
        return None

    def add(self, name: str, path: Path) -> None:
        """Take a further model into use, or one that is listed and has other weights now.

        Raises:
            OSError, ValueError: it cannot be loaded, or does not fit; the one before stays.
        """
        self._change(_Entry(name, str(path)), self._place_of(path))

    def use(self, place: int) -> None:
        """Take an earlier one into use again; errors of :meth:`add`."""
        if not 0 <= place < len(self._entries):
            raise ValueError(f"there is no model {place}; they are 0 to {len(self._entries) - 1}")
        if place != self._current:
            self._change(self._entries[place], place)

    def know(self, categories: Sequence[Category]) -> None:
        """Go on with these classes in place of those of before; the model in use is loaded anew.

        Raises:
            OSError, ValueError: it cannot be, or does not fit; the classes of before stay.
        """
        with self._changing:  # a model that is being loaded comes first, and is the one that stays
            before, self.categories = self.categories, list(categories)
            try:
                self._change(self._entries[self._current], self._current)
            except BaseException:
                self.categories = before
                raise

    def _change(self, entry: _Entry, place: int | None) -> None:
        with self._changing:
            trained = None
            if entry.path is not None:
                trained = load_trained(
                    entry.path, entry.config_file, entry.opts, full=True, weights=entry.weights
                )
            trained, unlearned = self._fitted(trained)
            labeller = LiveLabeller(trained, self.categories, preview=self._preview)
            with self._using:
                before, self._labeller, self.trained = self._labeller, labeller, trained
                self.unlearned = unlearned
                if place is None:
                    place = len(self._entries)
                    self._entries.append(entry)
                self._entries[place] = entry
                self._current = place
                self._changes += 1
                self._version = 0 if trained is None else self._changes
            before.close()

    def _fitted(self, trained: TrainedModel | None) -> tuple[TrainedModel | None, tuple[str, ...]]:
        """The model with the data set's classes, and those that it has not learned."""
        return (None, ()) if trained is None else with_classes(trained, self.categories)

    # What a labeller does.

    def ahead(self, path: Path) -> None:
        self._labeller.ahead(path)

    def label(
        self,
        path: Path,
        segments: Sequence[Segment],
        size: tuple[int, int],
        void: Sequence[VoidStroke] = (),
    ) -> LiveLabel:
        with self._using:
            return self._labeller.label(path, segments, size, void)

    def suggestions(
        self,
        path: Path,
        segments: Sequence[Segment],
        size: tuple[int, int],
        void: Sequence[VoidStroke] = (),
    ) -> list[Suggestion]:
        with self._using:
            return self._labeller.suggestions(path, segments, size, void=void)

    def figures(
        self,
        path: Path,
        segments: Sequence[Segment],
        size: tuple[int, int],
        between: Callable[[], None] = lambda: None,
        void: Sequence[VoidStroke] = (),
    ) -> ImageFigures:
        """See :meth:`LiveLabeller.figures`; labels are made meanwhile."""
        return self._labeller.figures(path, segments, size, between, void)

    def close(self) -> None:
        self._labeller.close()
