"""The Trainer: Detectron2's ``DefaultTrainer``, exactly resumable, accumulating, failing early."""

from __future__ import annotations

import logging
import os
import weakref
from contextlib import suppress
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer, create_ddp_model, hooks
from detectron2.engine.train_loop import TrainerBase
from detectron2.evaluation import DatasetEvaluator
from detectron2.evaluation.testing import verify_results
from detectron2.utils import comm

from fdd.data import get_metadata
from fdd.engine.checkpoint import FDDCheckpointer
from fdd.engine.checks import check_training, runs_on_cpu
from fdd.engine.class_mapping import class_dimensions, map_weights, match_classes
from fdd.engine.evaluate import build_panoptic_evaluator, save_results
from fdd.engine.head_training import HeadTraining
from fdd.engine.hooks import (
    BestCheckpointer,
    EvalHook,
    LateWriter,
    PeriodicVisualizer,
    ResourceLogger,
    TimeEstimate,
)
from fdd.engine.loader import build_test_loader, build_train_loader, load_training_dicts
from fdd.engine.logs import set_up_logs
from fdd.engine.optimizer import (
    build_lr_scheduler,
    build_optimizer,
    resolve_schedule,
)
from fdd.engine.run_folder import hold_folder, move_aside, refuse_foreign_files, refuse_used_folder
from fdd.engine.step import StepRunner, endless, unwrap
from fdd.engine.training_record import (
    RECORD_KEY,
    check_classes,
    make_record,
    read_classes_beside,
    read_content,
    read_record,
    record_files,
)
from fdd.points.class_comparison import compare_classes
from fdd.points.files import NO_ROOM_CAUSES, find_no_room
from fdd.points.wording import listed

_METRIC = "panoptic_seg/PQ"
_PRINT_PERIOD = 20
_NAMED = 8  # classes in a line of the log


class DiskFullError(OSError):
    """A training that could not write any more. Says where it ended and how to resume."""


class Trainer(DefaultTrainer):
    """Trains FDD, or any Detectron2 model, as the config says.

    Used like ``DefaultTrainer``: ``trainer = Trainer(cfg); trainer.resume_or_load(resume);
    trainer.train()``. Differences: checks come before the model is built;
    ``SOLVER.ACCUMULATE_STEPS`` micro-batches make a step; a resumed run equals one that was never
    cut (order, augmentations, dropout, schedule and best value are functions of seed and iteration,
    or saved); non-finite numbers end the run before they reach the weights.

    Attributes:
        cfg: the config with the schedule resolved to iterations (:func:`resolve_schedule`).
        seed: ``SEED``, or a drawn one that the checkpoints hold.
        overwrite: a new run may move the files of an earlier one in ``OUTPUT_DIR`` into a
            sub-folder; else it is refused there.
    """

    overwrite = False

    def __init__(self, cfg: CfgNode, *, check_masks: bool = True) -> None:
        """
        Args:
            cfg: a frozen or open config; not changed.
            check_masks: look into the masks of ``DATASETS.TEST`` first; not needed in a process
                whose parent has done so.

        Raises:
            ValueError: for a config or data set that cannot work, before anything is put on the
                device.
        """
        TrainerBase.__init__(self)
        logs = ("detectron2", "fdd")
        set_up_logs(names=[n for n in logs if not logging.getLogger(n).isEnabledFor(logging.INFO)])
        cfg = DefaultTrainer.auto_scale_workers(cfg, comm.get_world_size())
        check_training(cfg, comm.get_world_size(), masks=check_masks)
        self._dicts = load_training_dicts(cfg)
        self.cfg = cfg = resolve_schedule(cfg, len(self._dicts))
        self.seed = cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed()
        logging.getLogger(__name__).info(
            "%d images, %d iterations, loss warm-up over %d, seed %d",
            len(self._dicts),
            cfg.SOLVER.MAX_ITER,
            cfg.MODEL.FDD.WARMUP_ITERS,
            self.seed,
        )

        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        on_gpu = next(model.parameters()).is_cuda
        self._trainer = StepRunner(
            cfg,
            # Every parameter reaches the loss on every image, so nothing needs to be searched for
            # unused ones.
            create_ddp_model(
                model,
                broadcast_buffers=False,
                find_unused_parameters=False,
                **({} if on_gpu else {"device_ids": None}),
            ),
            optimizer,
            seed=self.seed,
        )
        self._trainer.model.train()
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.checkpointer = FDDCheckpointer(
            self._trainer.model, cfg.OUTPUT_DIR, trainer=weakref.proxy(self)
        )
        record = make_record(cfg)
        self.checkpointer.entries = {RECORD_KEY: record}
        self.checkpointer.companions = record_files(record)
        self._resuming = False
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        self._data_loader: Any = None
        self._batches: Any = endless(())
        self._last_eval_results: dict[str, Any] | None = None
        self.register_hooks(self.build_hooks())

    @property
    def has_points(self) -> bool:
        """Whether the training images have points, of which labels can be made."""
        return any(record.get("points") for record in self._dicts)

    @property
    def data_loader(self) -> Any:
        """The training loader, built on first use: only then it is known where the run starts."""
        if self._data_loader is None:
            self._data_loader = self.build_train_loader(
                self.cfg, self.start_iter, dicts=self._dicts, seed=self.seed
            )
        return self._data_loader

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: torch.nn.Module) -> torch.optim.Optimizer:
        return build_optimizer(cfg, model)

    @classmethod
    def build_lr_scheduler(cls, cfg: CfgNode, optimizer: torch.optim.Optimizer) -> Any:
        return build_lr_scheduler(cfg, optimizer)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode, start_iter: int = 0, **options: Any) -> Any:
        """See :func:`fdd.engine.loader.build_train_loader`."""
        return build_train_loader(cfg, start_iter, **options)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> Any:
        return build_test_loader(cfg, dataset_name)

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
        return build_panoptic_evaluator(cfg, dataset_name)

    def resume_or_load(self, resume: bool = True) -> None:
        """Resume from the last checkpoint of ``OUTPUT_DIR`` if wanted and there, else load weights.

        Resuming restores everything; it refuses a checkpoint of another model, of other classes, or
        of weights alone. Otherwise ``MODEL.WEIGHTS`` gives the weights, those of classes by their
        names where they are known, and what does not fit is reported in the log.
        """
        self._resuming = resume
        self.checkpointer.strict = resume and self.checkpointer.has_checkpoint()
        if self.checkpointer.strict:
            check_classes(
                self.checkpointer.get_checkpoint_file(),
                self.cfg.DATASETS.TRAIN[:1],  # the others have the same, or there is no trainer
                "Resume with the classes that the run was begun with; for others, start a new run "
                "in another OUTPUT_DIR, from its weights with MODEL.WEIGHTS if they are of use",
            )
        by_class = (
            not self.checkpointer.strict
            and os.path.isfile(self.cfg.MODEL.WEIGHTS)
            and self._load_by_class(self.cfg.MODEL.WEIGHTS)
        )
        if not by_class:
            self.checkpointer.resume_or_load(self.cfg.MODEL.WEIGHTS, resume=resume)
        model: Any = unwrap(self.model)
        if not self.checkpointer.strict and self.has_points and hasattr(model, "measure_sizes"):
            # Every process measures the same. A resumed run goes on with what it has measured.
            model.measure_sizes(self._dicts)
        if self.checkpointer.strict:
            # The checkpoint holds the last iteration that was finished.
            self.start_iter = self.iter + 1

    def _load_by_class(self, weights: str) -> bool:
        """Load weights of a training with other classes: by position, each class would begin with
        the weights of another.

        Returns:
            Whether they were loaded; else the classes are the same, or nobody knows them.
        """
        content = read_content(weights)
        known = read_record(content).get("categories")
        if known is None:
            with suppress(OSError, ValueError):  # then nobody knows them
                known = read_classes_beside(weights)
        categories = get_metadata(self.cfg.DATASETS.TRAIN[0]).categories
        if not known or not compare_classes(known, categories, ids=False):
            return False
        mapping = match_classes(known, categories)
        logging.getLogger(__name__).info(
            "Weights of classes are taken over by name: %d of %d. New here: %s. Not here: %s",
            len(categories) - len(mapping.new),
            len(categories),
            listed([*map(repr, mapping.new)], _NAMED) or "none",
            listed([*map(repr, mapping.gone)], _NAMED) or "none",
        )
        model = unwrap(self.model)
        mapped = map_weights(
            content["model"], model.state_dict(), class_dimensions(self.cfg), mapping
        )
        self.checkpointer.load_content(weights, mapped)
        return True

    def build_hooks(self) -> list[Any]:
        cfg = self.cfg
        step_images = cfg.SOLVER.IMS_PER_BATCH * cfg.SOLVER.ACCUMULATE_STEPS
        result: list[Any] = [
            TimeEstimate(on_cpu=runs_on_cpu(cfg.MODEL.DEVICE)),
            hooks.IterationTimer(),
            hooks.LRScheduler(),
            ResourceLogger(step_images),
        ]
        if cfg.VIS_PERIOD > 0 and hasattr(unwrap(self.model), "estimate_labels"):
            result.append(
                PeriodicVisualizer(
                    cfg.VIS_PERIOD,
                    self._trainer,
                    metadata=get_metadata(cfg.DATASETS.TRAIN[0]),
                    image_format=cfg.INPUT.FORMAT,
                )
            )
        if cfg.SOLVER.HEAD_ITERS > 0:
            if not hasattr(unwrap(self.model), "panoptic_example"):
                network = cfg.MODEL.META_ARCHITECTURE
                raise ValueError(
                    f"SOLVER.HEAD_ITERS is {cfg.SOLVER.HEAD_ITERS}, but {network} has no panoptic "
                    "branch that learns alone; set it to 0"
                )
            # Before the last checkpoint and evaluation, which are of what it makes.
            result.append(HeadTraining(cfg, self._dicts, self.seed))
        if comm.is_main_process():
            # Before the evaluation, so that its failure costs no training.
            result.append(
                hooks.PeriodicCheckpointer(self.checkpointer, cfg.SOLVER.CHECKPOINT_PERIOD)
            )
        if cfg.DATASETS.TEST:
            result.append(EvalHook(cfg.TEST.EVAL_PERIOD, self._evaluate))
            metric = _METRIC if len(cfg.DATASETS.TEST) == 1 else f"{cfg.DATASETS.TEST[0]}/{_METRIC}"
            result.append(BestCheckpointer(self.checkpointer, metric))
        if comm.is_main_process():
            result.append(LateWriter(self.build_writers, period=_PRINT_PERIOD))
        return result

    def _evaluate(self) -> dict[str, Any]:
        results = self.test(self.cfg, unwrap(self.model))
        self._last_eval_results = results
        if comm.is_main_process():
            path = os.path.join(self.cfg.OUTPUT_DIR, "results.json")
            save_results(path, results, iteration=min(self.iter, self.max_iter - 1))
        return results

    def train(self) -> dict[str, Any] | None:
        """Run the remaining iterations.

        Returns:
            Results of the last evaluation on the main process, or None where there was none.

        Raises:
            DiskFullError: checkpoints, metrics or predictions could not be written.
            FileExistsError: ``OUTPUT_DIR`` holds another training (see :attr:`overwrite`), which
                may be running, or files of others under names that a training writes.
        """
        try:
            with hold_folder(self.cfg.OUTPUT_DIR):
                TrainerBase.train(self, self.start_iter, self.max_iter)
        except Exception as error:
            if (no_room := find_no_room(error)) is None:
                raise
            raise DiskFullError(self._describe_end(no_room)) from error
        if comm.is_main_process() and len(self.cfg.TEST.EXPECTED_RESULTS):
            if not self._last_eval_results:
                raise ValueError(
                    "TEST.EXPECTED_RESULTS is set, but nothing was evaluated; set DATASETS.TEST"
                )
            verify_results(self.cfg, self._last_eval_results)
        return self._last_eval_results or None

    def _describe_end(self, error: OSError) -> str:
        """Error of a training whose disk is full: where it ended, and how to resume."""
        folder = self.cfg.OUTPUT_DIR
        what = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
        kept = "No checkpoint had been written: make room, and start it again."
        # Not has_checkpoint(), which waits for processes that know nothing of the error.
        if last := self.checkpointer.get_checkpoint_file():
            kept = f"{last} is complete: make room, and resume from it with --resume."
        return (
            f"nothing more can be written to {folder} ({what}), so the training ended at iteration "
            f"{self.iter} of {self.max_iter}. {kept} {NO_ROOM_CAUSES}"
        )

    def before_train(self) -> None:
        """
        Raises:
            FileExistsError: see :meth:`train`.
        """
        if self.start_iter == 0:
            folder = self.cfg.OUTPUT_DIR
            if not self.overwrite:
                refuse_used_folder(folder, resume=self._resuming)
            refuse_foreign_files(folder)
            if comm.is_main_process():
                # Also what a run that was cut before its first checkpoint left, such as a best
                # model: it does not belong to this run.
                move_aside(folder)
                self.checkpointer.write_companions()
        self._batches = endless(self.data_loader)
        super().before_train()

    def after_train(self) -> None:
        try:
            super().after_train()
        finally:
            self._batches.close()  # ends the workers

    def run_step(self) -> None:
        after_backward = getattr(self, "after_backward", lambda: None)  # newer than Detectron2 v0.6
        self._trainer.run(self._batches, self.iter, after_backward)
        if self._hooks_look():
            self._trainer.settle()

    def _hooks_look(self) -> bool:
        """Whether hooks save, evaluate or draw after this iteration, or the run ends: none of that
        may follow a spoilt step."""
        cfg, done = self.cfg, self.iter + 1
        periods = (
            cfg.SOLVER.CHECKPOINT_PERIOD,
            cfg.TEST.EVAL_PERIOD,
            cfg.VIS_PERIOD,
            _PRINT_PERIOD,
        )
        return done >= self.max_iter or any(p > 0 and done % p == 0 for p in periods)

    def state_dict(self) -> dict[str, Any]:
        state = TrainerBase.state_dict(self)
        state["_trainer"] = self._trainer.state_dict()
        state["seed"] = self.seed
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        TrainerBase.load_state_dict(self, state_dict)
        self._trainer.load_state_dict(state_dict["_trainer"])
        saved = state_dict.get("seed", self.seed)
        if saved == self.seed:
            return
        if self.cfg.SEED >= 0:
            logging.getLogger(__name__).warning(
                "SEED is %d, but the run was started with %d: images and dropout continue in "
                "another order",
                self.cfg.SEED,
                saved,
            )
            return
        self.seed = self._trainer.seed = saved
        self._data_loader = None
