"""Training of the panoptic branch alone, after the joint training. Ours, not the paper's.

The labels are good after some hundred steps; to find things on new images the panoptic branch needs
some thousand. Most of a joint step goes to backbone, encoder and label branch, whose results are as
they will stay by then. So features and targets of each image are made once (twice, where images are
flipped) and kept, and the branch takes many small steps on them.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.engine import HookBase
from detectron2.utils import comm
from torch import Tensor, nn

from fdd.data import FDDDatasetMapper
from fdd.engine.step import unwrap
from fdd.modeling.layers import Memory
from fdd.modeling.panoptic_branch import PanopticTargets
from fdd.modeling.structures import StepContext
from fdd.points.wording import counted, describe_duration

# Views of an image: as it is and flipped; more where training crops, as each shows a part.
_VIEWS, _CROPPED_VIEWS = 2, 8
# Draws of the augmentation, after which a second view that equals the first is taken.
_TRIES = 6
# Bytes of features and targets that are kept; those of further images are made at each use, of
# labels that are not refined.
_KEPT_BYTES = 2 << 30
_LOG_PERIOD = 200
_WARM_UP = 50


@dataclass(frozen=True)
class Example:
    """One image as the panoptic branch sees it: tokens in half precision, targets, counts."""

    memory: Memory
    targets: PanopticTargets
    step: StepContext

    @property
    def bytes(self) -> int:
        """Of what it does not share with other examples."""
        fine = self.targets.fine
        kept = [self.memory.tokens] + ([] if fine is None else [fine.adjoint, fine.stencil])
        return sum(t.numel() * t.element_size() for t in kept)


class Examples:
    """The training images' examples, each made when it is first asked for."""

    def __init__(
        self,
        model: Any,
        mapper: Any,
        dicts: Sequence[dict[str, Any]],
        seed: int,
        *,
        cropped: bool = False,
    ) -> None:
        """
        Args:
            model: :class:`fdd.modeling.FDD`.
            mapper: of the training, with its augmentations.
            dicts: dataset dicts.
            seed: of the augmentations.
            cropped: the mapper gives parts of the images.
        """
        self._model, self._mapper, self._dicts, self._seed = model, mapper, dicts, seed
        self._views = _CROPPED_VIEWS if cropped else _VIEWS
        self._kept: dict[int, Example] = {}
        self._positions: dict[tuple[Any, ...], Tensor] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return self._views * len(self._dicts)

    def __getitem__(self, index: int) -> Example:
        found = self._kept.get(index)
        if found is None:
            found = self._make(*divmod(index, self._views))
            if self._bytes + found.bytes <= _KEPT_BYTES:
                self._bytes += found.bytes
                self._kept[index] = found
        return found

    def _make(self, image: int, view: int) -> Example:
        model = self._model
        training = model.training
        model.eval()  # no dropout: these are the features of a test
        try:
            # What is not kept is made again at each use, where refining it would take too long.
            inputs, refine = [self._view(image, view)], self._bytes < _KEPT_BYTES
            memory, targets, step = model.panoptic_example(inputs, refine=refine)
        finally:
            model.train(training)
        # Positions are those of all images of a size.
        size = memory.shapes, *step.image_sizes
        position = self._positions.setdefault(size, memory.pos)
        memory = replace(memory, tokens=memory.tokens.half(), pos=position, features=())
        # The branch's losses look at no colours.
        points = replace(step.points, images=(), dense_map=None)
        return Example(memory, targets, replace(step, points=points, rgb=step.rgb[:0]))

    def _view(self, image: int, view: int) -> dict[str, Any]:
        if view == 0:
            return self._draw(image, 0, 0)
        first = self._draw(image, 0, 0)["image"]
        for attempt in range(_TRIES):
            mapped = self._draw(image, view, attempt)
            if not torch.equal(mapped["image"], first):
                break
        return mapped

    def _draw(self, image: int, view: int, attempt: int) -> dict[str, Any]:
        state = np.random.SeedSequence([self._seed, image, view, attempt])
        seed = int(state.generate_state(1)[0])
        mapped: dict[str, Any] = self._mapper({**self._dicts[image], "_seed": seed})
        return mapped


def train_head(
    model: Any,
    examples: Examples,
    *,
    steps: int,
    batch: int,
    rate: float,
    weight_decay: float,
    clip: float | None,
    seed: int,
) -> None:
    """Take steps of AdamW on the panoptic branch, with a rate that falls by cosine.

    Args:
        model: :class:`fdd.modeling.FDD`; other parts than its panoptic branch are left as they are.
        examples: what it learns from.
        steps: optimiser steps.
        batch: examples a step.
        rate: learning rate at first.
        weight_decay: of AdamW.
        clip: largest L2 norm of the gradient; None does not clip.
        seed: of the order of the examples, and of torch's draws.

    Raises:
        FloatingPointError: a loss that is not finite; the weights are those before its step.
    """
    branch: nn.Module = model.panoptic_branch
    parameters = list(branch.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=weight_decay)
    order = _orders(len(examples), np.random.default_rng(seed))
    torch.manual_seed(seed)
    log, begun = logging.getLogger(__name__), time.perf_counter()
    for step in range(steps):
        warm = min(1.0, (step + 1) / _WARM_UP)
        for group in optimizer.param_groups:
            group["lr"] = rate * warm * 0.5 * (1 + math.cos(math.pi * step / steps))
        losses = head_losses(model, [examples[next(order)] for _ in range(batch)])
        total = torch.stack(list(losses.values())).sum()
        values = {name: loss.item() for name, loss in losses.items()}
        if not math.isfinite(sum(values.values())):
            found = ", ".join(f"{name} = {value:g}" for name, value in values.items())
            raise FloatingPointError(
                f"non-finite loss in step {step} of SOLVER.HEAD_ITERS: {found}. Lower "
                "SOLVER.BASE_LR, or set SOLVER.HEAD_ITERS to 0"
            )
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(parameters, clip)
        optimizer.step()
        if (step + 1) % _LOG_PERIOD == 0 or step + 1 == steps:
            text = "  ".join(f"{name}: {value:.3g}" for name, value in values.items())
            left = (time.perf_counter() - begun) / (step + 1) * (steps - step - 1)
            log.info("head step %d  %s  left: %s", step + 1, text, describe_duration(left))


def head_losses(model: Any, batch: Sequence[Example]) -> dict[str, Tensor]:
    """Losses of the panoptic branch on some examples, as of one batch of them."""
    names = batch[0].step.counts
    counts = {k: torch.stack([e.step.counts[k] for e in batch]).sum() for k in names}
    sums: dict[str, Tensor] = {}
    for example in batch:
        tokens = example.memory.tokens.to(example.memory.pos.dtype)
        memory = replace(example.memory, tokens=tokens)
        step = replace(example.step, counts=counts, warmup=1.0)
        losses = model.panoptic_criterion(model.panoptic_branch, memory, example.targets, step)
        for name, loss in losses.items():
            sums[name] = sums[name] + loss if name in sums else loss
    return sums


def _orders(number: int, rng: np.random.Generator) -> Iterator[int]:
    while True:
        yield from rng.permutation(number).tolist()


class HeadTraining(HookBase):
    """Runs :func:`train_head` after the last joint step, before anything is saved or evaluated.

    Each process takes the same steps; the weights of the first one hold. A training that is cut
    here goes on from its last checkpoint.
    """

    def __init__(self, cfg: CfgNode, dicts: Sequence[dict[str, Any]], seed: int) -> None:
        """
        Args:
            cfg: of the training.
            dicts: its dataset dicts.
            seed: of the run.
        """
        self._cfg, self._dicts, self._seed = cfg, dicts, seed

    def after_step(self) -> None:
        if self.trainer.iter + 1 < self.trainer.max_iter:
            return
        solver = self._cfg.SOLVER
        model: Any = unwrap(self.trainer.model)
        mapper = FDDDatasetMapper(self._cfg, is_train=True)
        logging.getLogger(__name__).info(
            "The panoptic branch goes on alone for %s, on features and labels as they are now",
            counted(solver.HEAD_ITERS, "step"),
        )
        clip = solver.CLIP_GRADIENTS
        train_head(
            model,
            Examples(model, mapper, self._dicts, self._seed, cropped=self._cfg.INPUT.CROP.ENABLED),
            steps=solver.HEAD_ITERS,
            batch=solver.IMS_PER_BATCH * solver.ACCUMULATE_STEPS,
            rate=solver.BASE_LR,
            weight_decay=solver.WEIGHT_DECAY,
            clip=float(clip.CLIP_VALUE) if clip.ENABLED else None,
            seed=self._seed,
        )
        if comm.get_world_size() > 1:
            for parameter in model.panoptic_branch.parameters():
                torch.distributed.broadcast(parameter.data, 0)
