"""What happens between steps: evaluation, the best checkpoint, pictures, memory and speed."""

from __future__ import annotations

import json
import logging
import math
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from detectron2.engine import HookBase, hooks
from detectron2.utils import comm

from fdd.engine.checkpoint import FDDCheckpointer, write_atomically
from fdd.engine.step import StepRunner, unwrap
from fdd.points.wording import describe_duration


class EvalHook(hooks.EvalHook):
    """Detectron2's hook, which does not evaluate after a failure in the very last iteration."""

    def after_train(self) -> None:
        if self.trainer.iter >= self.trainer.max_iter:
            super().after_train()


class LateWriter(hooks.PeriodicWriter):
    """Opens the files of its writers when training begins: a run that is refused leaves none."""

    def __init__(self, build: Callable[[], Sequence[Any]], period: int) -> None:
        """
        Args:
            build: makes the writers.
            period: in iterations.
        """
        super().__init__([], period=period)
        self._build = build

    def before_train(self) -> None:
        self._writers = list(self._build())


class BestCheckpointer(HookBase):
    """Keeps the weights of the best evaluation, across resumes.

    Runs after the evaluation hook and looks for a fresh value of the metric. The best value is part
    of the trainer's checkpoint and, because the periodic checkpoint is written before an evaluation
    (which may fail), also stands in ``<file name>.json`` beside the weights. ``last_checkpoint`` is
    left alone.
    """

    def __init__(
        self, checkpointer: FDDCheckpointer, metric: str, *, file_name: str = "model_best"
    ) -> None:
        """
        Args:
            checkpointer: writes below its ``save_dir``.
            metric: name in the event storage; more is better.
            file_name: of the checkpoint, without ending.
        """
        self._checkpointer = checkpointer
        self._metric = metric
        self._file_name = file_name
        self.best_value: float | None = None
        self.best_iteration: int | None = None

    def before_train(self) -> None:
        if self.trainer.start_iter == 0:
            return
        try:
            with open(self._record_path) as handle:
                record = json.load(handle)
        except FileNotFoundError:
            return
        # A record from after the point of resumption belongs to a future that is being run again.
        past = record["best_iteration"] < self.trainer.start_iter
        if record["metric"] == self._metric and past:
            self.load_state_dict(record)

    def after_step(self) -> None:
        self._check(self.trainer.iter)

    def after_train(self) -> None:
        if self.trainer.iter >= self.trainer.max_iter:  # else a failure ended the run
            self._check(self.trainer.max_iter - 1)

    def _check(self, iteration: int) -> None:
        value, found_at = self.trainer.storage.latest().get(self._metric, (math.nan, -1))
        # Evaluations that did not just happen, and classes without ground truth (NaN), decide
        # nothing.
        if found_at != self.trainer.storage.iter or not math.isfinite(value):
            return
        logger = logging.getLogger(__name__)
        if self.best_value is not None and value <= self.best_value:
            logger.info(
                "%s is %.4f; the best stays %.4f of iteration %s",
                self._metric,
                value,
                self.best_value,
                self.best_iteration,
            )
            return
        self.best_value, self.best_iteration = float(value), iteration
        if comm.is_main_process():
            logger.info("%s is %.4f, the best so far", self._metric, value)
            self._checkpointer.save(self._file_name, tag_last=False, iteration=iteration)
            record = {"metric": self._metric, **self.state_dict()}
            write_atomically(self._record_path, json.dumps(record).encode())

    @property
    def _record_path(self) -> str:
        return os.path.join(self._checkpointer.save_dir, f"{self._file_name}.json")

    def state_dict(self) -> dict[str, Any]:
        if self.best_value is None:
            return {}
        return {"best_value": self.best_value, "best_iteration": self.best_iteration}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best_value = state["best_value"]
        self.best_iteration = state["best_iteration"]


class PeriodicVisualizer(HookBase):
    """Shows TensorBoard the points and pseudo labels of the current batch now and then."""

    def __init__(
        self,
        period: int,
        runner: StepRunner,
        *,
        metadata: Any,
        image_format: str = "BGR",
        max_images: int = 2,
    ) -> None:
        """
        Args:
            period: in iterations.
            runner: holds the batches of the step that was just taken, and a model with
                ``estimate_labels``.
            metadata: of the training set.
            image_format: channel order of the inputs, ``INPUT.FORMAT``.
            max_images: drawn each time.
        """
        self._period = period
        self._runner = runner
        self._metadata = metadata
        self._image_format = image_format
        self._max_images = max_images

    def after_step(self) -> None:
        if (self.trainer.iter + 1) % self._period or not comm.is_main_process():
            return
        model = unwrap(self._runner.model)
        inputs = [sample for batch in self._runner.last_batches for sample in batch]
        inputs = inputs[: self._max_images]
        training = model.training
        try:
            self._draw(model.eval(), inputs)
        except Exception:
            # A picture that cannot be drawn must not end days of training.
            logging.getLogger(__name__).exception(
                "Cannot draw image %s; pictures are missing at iteration %d",
                ", ".join(str(sample.get("image_id")) for sample in inputs),
                self.trainer.iter,
            )
        finally:
            model.train(training)

    def _draw(self, model: Any, inputs: list[dict[str, Any]]) -> None:
        # Drawing is only needed here, and brings in heavy libraries.
        from fdd.visualization import training_sheet

        with torch.no_grad():
            labels = model.estimate_labels(inputs)
        for index, (sample, label) in enumerate(zip(inputs, labels, strict=True)):
            sheet = training_sheet(sample, label, self._metadata, image_format=self._image_format)
            self.trainer.storage.put_image(f"training/{index}", sheet.transpose(2, 0, 1))


class TimeEstimate(HookBase):
    """Says once, after the first steps, how long the training will take at their speed.

    Without a GPU many hours are a warning that names smaller networks. Stands first in the list of
    hooks, so that it times the steps and no other hook.
    """

    def __init__(
        self, *, on_cpu: bool, steps: int = 10, enough: float = 30.0, long: float = 4 * 3600.0
    ) -> None:
        """
        Args:
            on_cpu: there is no GPU.
            steps: to be timed, the first of which counts only if it is the only one.
            enough: seconds after which no further step is waited for.
            long: seconds of a training that is warned of.
        """
        self._on_cpu, self._steps, self._enough, self._long = on_cpu, steps, enough, long
        self._times: list[float] = []
        self._start = 0.0
        self._said = False

    def before_step(self) -> None:
        self._start = time.perf_counter()

    def after_step(self) -> None:
        if self._said:
            return
        self._times.append(time.perf_counter() - self._start)
        if len(self._times) < self._steps and sum(self._times) < self._enough:
            return
        self._said = True
        step = statistics.median(self._times[1:] or self._times)
        left = self.trainer.max_iter - self.trainer.iter - 1
        if left < 1 or not comm.is_main_process():
            return
        seconds = step * left
        text = (
            f"{left:,} iterations are left, at {step:.2g} s each: about "
            f"{describe_duration(seconds)}, without evaluations"
        )
        logger = logging.getLogger(__name__)
        if self._on_cpu and seconds > self._long:
            logger.warning(
                "%s. That is long for a CPU; a smaller network needs a fraction of it: "
                "`fdd init-config DATASET.yaml --network reduced` (or small)",
                text,
            )
        else:
            logger.info(text)


def peak_resident_memory() -> int:
    """Largest resident set of this process so far, without its workers, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


class ResourceLogger(HookBase):
    """Logs the peak memory of this process and the training speed, every ``period`` iterations.

    ``max_gpu_memory_mb`` is what torch allocated on the GPU at most, ``max_memory_mb`` the peak
    resident set of the main process without its workers, both in MiB; ``images_per_second`` counts
    all processes.
    """

    def __init__(self, images_per_step: int, *, period: int = 20) -> None:
        self._images_per_step = images_per_step
        self._period = period

    def after_step(self) -> None:
        if (self.trainer.iter + 1) % self._period:
            return
        storage = self.trainer.storage
        if torch.cuda.is_available():
            peak = torch.cuda.max_memory_allocated() / 2**20
            storage.put_scalar("max_gpu_memory_mb", peak, smoothing_hint=False)
        storage.put_scalar("max_memory_mb", peak_resident_memory() / 2**20, smoothing_hint=False)
        if "time" in storage.histories():
            seconds = storage.history("time").median(self._period)
            speed = self._images_per_step / max(seconds, 1e-9)
            storage.put_scalar("images_per_second", speed, smoothing_hint=False)
