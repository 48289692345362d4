"""What is made of the points while they are clicked: trainings, whose models are taken into use,
exported labels, and scores of labels."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from fdd.annotate.actions import Content
from fdd.annotate.jobs import Job, JobRunner, new_folder
from fdd.annotate.live import ImageFigures
from fdd.annotate.past_trainings import PastTraining, find_trainings, last_cut_off
from fdd.annotate.scores import LabelScores
from fdd.annotate.shelf import ModelShelf
from fdd.annotate.start import OpenedDataset
from fdd.annotate.train_on import (
    EXPORT_FORMATS,
    export_command,
    export_progress,
    resume_command,
    take_snapshot,
    training_commands,
    training_progress,
)

__all__ = ["Workshop"]


class Workshop:
    """Every method may be called from any thread."""

    def __init__(
        self,
        opened: OpenedDataset,
        shelf: ModelShelf,
        *,
        steps: int | None = None,
        opts: Sequence[str] = (),
        scores: bool = True,
    ) -> None:
        """
        Args:
            opened: the data set. shelf: its models.
            steps: of a training; None: 200 from a model's weights, the recipe's without.
            opts: config keys and values, in pairs, of a training without a model.
            scores: of labels, while nobody waits.
        """
        self._opened, self.shelf, self._steps, self._opts = opened, shelf, steps, list(opts)
        self._runner = JobRunner()
        self._past = find_trainings(opened.work)
        for training in self._past:
            shelf.offer(
                training.name if training.done else f"{training.name}, cut off", training.run
            )
        self._scores = LabelScores(opened, self._figures, lambda: shelf.version) if scores else None

    def record(self) -> dict[str, Any]:
        """For JSON: ``job``, the last one or None; ``models``, names; ``current`` of these, and
        ``model``, its name or None; ``unlearned``, names of classes that it has not learned;
        ``formats`` of labels; ``cut_off``, name of a training that can be resumed, or None."""
        job = self._runner.last
        return {
            "job": None if job is None else job.record(),
            "models": self.shelf.names,
            "current": self.shelf.current,
            "model": self.shelf.model,
            "unlearned": list(self.shelf.unlearned),
            "formats": list(EXPORT_FORMATS),
            "cut_off": None if self.cut_off is None else self.cut_off.name,
        }

    @property
    def cut_off(self) -> PastTraining | None:
        """The last training, if it was ended before it was done and nothing is running."""
        job = self._runner.last
        if job is not None and job.state == "running":
            return None
        return last_cut_off(self._past)

    def resume(self) -> None:
        """Go on with :attr:`cut_off`; errors of :meth:`train`."""
        training = self.cut_off
        if training is None:
            raise ValueError("no training was cut off: there is nothing to resume")
        self._runner.start(
            lambda: self._training_in(training.folder, [resume_command(training.config)])
        )

    def scores(self) -> dict[str, dict[str, float | None]] | None:
        """See :meth:`LabelScores.record`; None where they are not made."""
        return None if self._scores is None else self._scores.record()

    def disturb(self) -> None:
        """Somebody waits for a label: scores come later."""
        if self._scores is not None:
            self._scores.disturb()

    def _figures(self, index: int, content: Content, between: Callable[[], None]) -> ImageFigures:
        image, path = self._opened.store.images[index], self._opened.paths[index]
        size = image.height, image.width
        return self.shelf.figures(path, content.segments, size, between, content.void)

    def train(self) -> None:
        """Begin a training on the points that are there, from the weights in use.

        Raises:
            Busy: something is running. ValueError: no image has a point.
            PointsChanged, OSError: the points, or the folder, cannot be written.
        """
        self._refuse_without_points("train from")
        self._runner.start(self._training)

    def export(self, formats: Sequence[str]) -> None:
        """Begin an export of labels by the model in use; errors of :meth:`train`.

        Args:
            formats: some of :data:`EXPORT_FORMATS`.
        """
        unknown = [name for name in formats if name not in EXPORT_FORMATS]
        if unknown or not formats:
            known = ", ".join(EXPORT_FORMATS)
            raise ValueError(f"forms of labels {', '.join(map(str, formats))!r}; expected: {known}")
        if self.shelf.source is None:
            raise ValueError(
                "there is no model to make labels with: train one first, or start `fdd annotate` "
                "with --model"
            )
        self._refuse_without_points("label")
        self._runner.start(lambda: self._export(list(formats)))

    def stop(self) -> None:
        """End what is running."""
        self._runner.stop()

    def close(self) -> None:
        """End what is running, and make no more scores."""
        if self._scores is not None:
            self._scores.close()
        self._runner.stop()

    def _training(self) -> Job:
        folder, snapshot = self._begin("training")
        trained = self.shelf.trained
        commands = training_commands(
            snapshot, folder, None if trained is None else trained.cfg, self._steps, self._opts
        )
        return self._training_in(folder, commands)

    def _training_in(self, folder: Path, commands: Sequence[Sequence[str]]) -> Job:
        def take_over() -> str:
            self.shelf.add(folder.name, folder / "run")
            return f"{folder.name} makes the labels now"

        def ended() -> None:
            self._past = find_trainings(self._opened.work)

        progress = partial(training_progress, folder)
        return Job("training", folder, commands, take_over, progress, ended)

    def _export(self, formats: Sequence[str]) -> Job:
        folder, snapshot = self._begin("export")
        source = self.shelf.source
        assert source is not None
        output, images = folder / "labels", self._images_with_points()
        command = export_command(snapshot, output, *source, formats)
        return Job(
            "export",
            folder,
            [command],
            lambda: f"labels of {images:,} images are in {output}",
            lambda: export_progress(output, images),
        )

    def _begin(self, kind: str) -> tuple[Path, Path]:
        """A new folder, and the data set file in it; no folder where the points cannot be saved."""
        folder = new_folder(self._opened.work, kind)
        try:
            return folder, take_snapshot(self._opened, self._opened.store, folder)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def _images_with_points(self) -> int:
        return sum(map(bool, self._opened.store.num_points()))

    def _refuse_without_points(self, what: str) -> None:
        if not self._images_with_points():
            raise ValueError(f"no image has a point yet: there is nothing to {what}")
