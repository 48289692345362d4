"""One optimizer step: micro-batches, mixed precision, global counts, no non-finite numbers."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from detectron2.config import CfgNode, configurable
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from fdd.engine.optimizer import full_model_clip
from fdd.modeling.device import upload
from fdd.points.wording import listed

Batch = list[dict[str, Any]]
_MAX_NAMED = 8
ADVICE = (
    "The step was not taken and the last checkpoint is untouched. Look at these images and their "
    "points; lower SOLVER.BASE_LR, or switch SOLVER.AMP.ENABLED off, if they are valid."
)


class StepReport:
    """Losses, gradient norm and their finiteness of one step, on their way to the host.

    They are made on the device and copied when :meth:`send` is called, without waiting;
    :meth:`read` waits for that copy alone. A step that is read after the next one's work has been
    queued therefore costs the device nothing.

    Attributes:
        iteration: of the step.
        spoilt: 0-d float, above 0 if a loss of any process is not finite.
        norm: 0-d float, L2 norm of all gradients together.
    """

    def __init__(
        self,
        names: Sequence[str],
        losses: Tensor,
        micro_batches: Sequence[Batch],
        data_time: float,
        iteration: int,
    ) -> None:
        """
        Args:
            names: of the losses. losses: (micro-batches, losses) of this process, on the device.
            micro_batches: of this process. data_time: seconds that they were waited for.
        """
        self.names, self.iteration, self.data_time = list(names), iteration, data_time
        self._losses, self._batches = losses, micro_batches
        spoilt = (~torch.isfinite(losses)).any().to(losses.dtype)
        self._summary = torch.cat([losses.sum(0), spoilt[None]])
        if comm.get_world_size() > 1:
            dist.all_reduce(self._summary)
        self.spoilt = self._summary[-1]
        self.norm = torch.zeros_like(self.spoilt)
        self._parameters: list[str] = []
        self._norms = losses.new_zeros(0)

    def add_gradients(self, names: list[str], norms: Tensor) -> None:
        """Note the (P,) norms of the gradients of the parameters ``names``."""
        self._parameters, self._norms = names, norms
        self.norm = torch.linalg.vector_norm(norms)

    def send(self) -> None:
        """Begin the copy to the host."""
        values = torch.cat([self._summary, self.norm[None].to(self._summary.dtype)])
        self._event = None
        if values.is_cuda:
            self._host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self._host.copy_(values, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()
        else:
            self._host = values

    def read(self) -> tuple[dict[str, float], float]:
        """Wait for the copy.

        Returns:
            Mean over the processes of each loss (the sum over micro-batches), and the norm of all
            gradients, which may be infinite or NaN.

        Raises:
            FloatingPointError: naming terms and images, when a loss of any process is not finite.
        """
        if self._event is not None:
            self._event.synchronize()
        *sums, spoilt, norm = self._host.tolist()
        if spoilt > 0:
            self._stop_at_losses()
        world = comm.get_world_size()
        return {n: s / world for n, s in zip(self.names, sums, strict=True)}, norm

    def _stop_at_losses(self) -> None:
        found = []
        for batch, row in zip(self._batches, self._losses.cpu(), strict=True):
            bad = ~torch.isfinite(row)
            if bad.any():
                terms = [f"{self.names[i]} = {row[i]:g}" for i in bad.nonzero().flatten().tolist()]
                found.append(f"{', '.join(terms)} for the images {image_names(batch)}")
        found = [text for texts in comm.all_gather(found) for text in texts]
        raise FloatingPointError(
            f"non-finite loss at iteration {self.iteration}: {'; '.join(found)}. {ADVICE}"
        )

    def stop_at_gradients(self) -> None:
        """Raise ``FloatingPointError`` that names the parameters whose gradient is not finite."""
        finite = torch.isfinite(self._norms).tolist()
        bad = [name for name, ok in zip(self._parameters, finite, strict=True) if not ok]
        images = image_names([sample for batch in self._batches for sample in batch])
        raise FloatingPointError(
            f"non-finite gradient at iteration {self.iteration} in "
            f"{listed(bad, _MAX_NAMED) or 'their norm'} ({len(bad)} of {len(finite)} "
            f"parameters), though every loss was finite. Images of this process: {images}. The "
            "step was not taken and the last checkpoint is untouched. Lower SOLVER.BASE_LR, or "
            "switch SOLVER.AMP.ENABLED off."
        )


def image_names(batch: Batch) -> str:
    """Ids and files of a batch's images, for messages."""
    return ", ".join(f"{d.get('image_id')} ({d.get('file_name')})" for d in batch)


_MIN_SCALE = 1e-3


def unwrap(model: nn.Module) -> nn.Module:
    """The model itself, out of its DistributedDataParallel shell."""
    return model.module if isinstance(model, DistributedDataParallel) else model


def amp_dtype(cfg: CfgNode) -> torch.dtype | None:
    """Data type of the forward pass, or None for fp32 (also wherever the model is not on a GPU)."""
    if not cfg.SOLVER.AMP.ENABLED:
        return None
    if not str(cfg.MODEL.DEVICE).startswith("cuda"):
        logging.getLogger(__name__).warning(
            "SOLVER.AMP.ENABLED has no effect on %s: training in fp32", cfg.MODEL.DEVICE
        )
        return None
    if cfg.SOLVER.AMP.DTYPE == "bfloat16" and not torch.cuda.is_bf16_supported():
        raise ValueError(
            f"SOLVER.AMP.DTYPE is bfloat16, which {torch.cuda.get_device_name()} cannot do; "
            "set it to float16, or SOLVER.AMP.ENABLED to False"
        )
    return {"bfloat16": torch.bfloat16, "float16": torch.float16}[cfg.SOLVER.AMP.DTYPE]


class StepRunner:
    """What :class:`Trainer` does between two hooks.

    The gradient of a step is the sum over its micro-batches and the mean over processes of
    ``model(batch)``'s losses. With a model that offers ``count_normalizers``, that is the gradient
    of one batch that holds all images of the step on one process (see :meth:`_global_counts`). Any
    other Detectron2 model works too: its losses are averaged over the micro-batches.

    On a GPU the host never waits for the step's numbers: whether they are finite is decided on the
    device, where a fused optimiser leaves a spoilt step out by itself, and the host reads and logs
    them after the next step's work has been queued. Call :meth:`settle` before anything that must
    not follow a spoilt step.

    Attributes:
        last_batches: the micro-batches of the last step, for hooks that draw them.
        seed: of the run.
    """

    @configurable
    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        accumulate_steps: int = 1,
        amp_dtype: torch.dtype | None = None,
        clip_norm: float | None = None,
        seed: int = 0,
        late: bool | None = None,
    ) -> None:
        """
        Args:
            model: in training mode, on its device, maybe in DistributedDataParallel.
            optimizer: over the model's parameters.
            accumulate_steps: micro-batches in a step.
            amp_dtype: type of the autocast forward pass on the GPU; None is fp32. fp16 scales its
                gradients.
            clip_norm: bound on the L2 norm of all gradients together; None does not clip.
            seed: seeds the step's torch draws.
            late: read a step's numbers one step late; None does so on a GPU. Needs an optimiser
                that can skip a step on the device (fused AdamW).
        """
        self.model = model
        self.optimizer = optimizer
        self.accumulate_steps = accumulate_steps
        self.amp_dtype = amp_dtype
        self.clip_norm = clip_norm
        self.seed = seed
        self.device = next(model.parameters()).device
        self.grad_scaler = torch.amp.GradScaler("cuda") if amp_dtype is torch.float16 else None
        self.last_batches: list[Batch] = []
        skips = bool(optimizer.param_groups[0].get("fused"))
        if late and not skips:
            raise ValueError("late=True needs a fused optimiser, which can skip a step by itself")
        self.late = skips and self.device.type == "cuda" if late is None else late
        self._pending: StepReport | None = None
        self._parameters = [
            (name, p) for name, p in unwrap(model).named_parameters() if p.requires_grad
        ]

    @classmethod
    def from_config(
        cls, cfg: CfgNode, model: nn.Module, optimizer: torch.optim.Optimizer
    ) -> dict[str, Any]:
        return {
            "model": model,
            "optimizer": optimizer,
            "accumulate_steps": cfg.SOLVER.ACCUMULATE_STEPS,
            "amp_dtype": amp_dtype(cfg),
            "clip_norm": full_model_clip(cfg),
        }

    def run(
        self, batches: Iterator[Batch], iteration: int, after_backward: Callable[[], None]
    ) -> None:
        """Load the micro-batches of step ``iteration``, take the step and log its losses.

        Args:
            batches: of this process.
            iteration: seeds the step.
            after_backward: called between the last backward pass and the optimiser step.

        Raises:
            FloatingPointError: for a non-finite loss, or a non-finite gradient other than a
                passing overflow of fp16, of this step (``late``: of the one before). On every
                process; weights and optimiser state are those before the bad step.
        """
        start = time.perf_counter()
        micro_batches = [next(batches) for _ in range(self.accumulate_steps)]
        data_time = time.perf_counter() - start
        self.last_batches = micro_batches

        # Every torch draw of a step (dropout) is a function of the iteration.
        state = np.random.SeedSequence([self.seed, iteration, comm.get_rank()])
        torch.manual_seed(int(state.generate_state(1, np.uint64)[0] >> np.uint64(1)))
        self.optimizer.zero_grad(set_to_none=True)
        names, losses = self._backward(micro_batches, iteration)
        after_backward()
        self.settle()  # the step before: this one's work is queued, so this costs no wait
        report = StepReport(names, losses, micro_batches, data_time, iteration)
        self._measure_gradients(report)
        self._pending = report
        report.send()
        if not self.late:
            self.settle()
        self._update(report)

    def settle(self) -> None:
        """Read and log the pending numbers of the last step.

        Raises:
            FloatingPointError: as :meth:`run`.
        """
        report, self._pending = self._pending, None
        if report is None:
            return
        losses, norm = report.read()
        storage = get_event_storage()
        storage.put_scalar("data_time", report.data_time)
        storage.put_scalar("total_loss", sum(losses.values()))
        storage.put_scalars(**losses)
        if math.isfinite(norm):
            storage.put_scalar("grad_norm", norm)
        # An overflow is normal with fp16: the scaler skips the step and lowers its scale. At a
        # scale this low it is something else.
        elif self.grad_scaler is None or self.grad_scaler.get_scale() < _MIN_SCALE:
            report.stop_at_gradients()

    def _backward(
        self, micro_batches: Sequence[Batch], iteration: int
    ) -> tuple[list[str], torch.Tensor]:
        """Accumulate the gradients; return loss names and values (micro-batches, losses)."""
        options, scale = self._global_counts(micro_batches)
        names: list[str] = []
        rows = []
        for index, batch in enumerate(micro_batches):
            # Processes exchange gradients once a step, in the last backward pass.
            waits: AbstractContextManager[Any] = nullcontext()
            if index < len(micro_batches) - 1 and isinstance(self.model, DistributedDataParallel):
                waits = self.model.no_sync()
            with waits:
                with self._autocast(), _name_images_on_error(batch, iteration):
                    loss_dict = self.model(batch, **options)
                    if isinstance(loss_dict, torch.Tensor):
                        loss_dict = {"loss": loss_dict}
                    values = torch.stack([loss.float() for loss in loss_dict.values()]) * scale
                total = values.sum()
                (self.grad_scaler.scale(total) if self.grad_scaler else total).backward()
            if names and names != list(loss_dict):
                raise RuntimeError(
                    f"the model returned the losses {list(loss_dict)} after {names} in the same "
                    "step; every forward pass must return the same losses, 0 where there is "
                    "nothing to learn"
                )
            names = list(loss_dict)
            rows.append(values.detach())
        return names, torch.stack(rows)

    def _global_counts(self, micro_batches: Sequence[Batch]) -> tuple[dict[str, Any], float]:
        """Keyword arguments of the forward passes, and the factor on their losses.

        The counts that losses are divided by are summed over the step's micro-batches and over all
        processes before the first forward pass; the model multiplies by the number of processes,
        which undoes the mean that DistributedDataParallel takes.
        """
        count = getattr(unwrap(self.model), "count_normalizers", None)
        if count is None:
            return {}, 1.0 / len(micro_batches)
        with torch.no_grad():
            counts = torch.stack([count(batch) for batch in micro_batches]).sum(0)
            counts = upload(counts, self.device)
        if comm.get_world_size() > 1:
            dist.all_reduce(counts)
        return {"normalizers": counts}, 1.0

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.amp_dtype is None:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.amp_dtype)

    def _measure_gradients(self, report: StepReport) -> None:
        """Norms of all gradients, and clipping by the norm of all together."""
        if self.grad_scaler is not None:
            self.grad_scaler.unscale_(self.optimizer)
        # Frozen or unused parameters have no gradient.
        named = [(name, p.grad) for name, p in self._parameters if p.grad is not None]
        gradients = [grad for _, grad in named]
        report.add_gradients([n for n, _ in named], torch.stack(torch._foreach_norm(gradients)))
        if self.clip_norm is not None:
            factor = (self.clip_norm / (report.norm + 1e-6)).clamp(max=1.0)
            torch._foreach_mul_(gradients, factor)

    def _update(self, report: StepReport) -> None:
        if self.grad_scaler is not None:
            self.grad_scaler.step(self.optimizer)
            self.grad_scaler.update()
        elif self.late:
            # What a gradient scaler tells a fused optimiser: a step with found_inf 1 changes
            # neither weights nor state.
            spoilt = ~torch.isfinite(report.norm) | (report.spoilt > 0)
            optimizer: Any = self.optimizer
            optimizer.grad_scale, optimizer.found_inf = None, spoilt.float()
            optimizer.step()
            del optimizer.grad_scale, optimizer.found_inf
        else:
            self.optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        """State of the optimiser and of the gradient scaler."""
        state = {"optimizer": self.optimizer.state_dict()}
        if self.grad_scaler is not None:
            state["grad_scaler"] = self.grad_scaler.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore :meth:`state_dict`. The fused kernel is kept or left as this device wants it."""
        for saved, own in zip(
            state["optimizer"]["param_groups"], self.optimizer.param_groups, strict=False
        ):
            for key in ("fused", "foreach"):
                saved[key] = own.get(key)
        self.optimizer.load_state_dict(state["optimizer"])
        if self.grad_scaler is not None and state.get("grad_scaler"):
            self.grad_scaler.load_state_dict(state["grad_scaler"])


def endless(loader: Iterable[Batch]) -> Iterator[Batch]:
    """Iterate over an infinite loader; one that ends, contrary to its contract, is an error."""
    yield from loader
    raise RuntimeError("the training loader ended; build_train_loader must return an infinite one")


@contextmanager
def _name_images_on_error(batch: Batch, iteration: int) -> Iterator[None]:
    try:
        yield
    except FloatingPointError as error:  # such as the matcher's, which knows of no images
        raise FloatingPointError(
            f"non-finite numbers in the forward pass at iteration {iteration}: {error}, for the "
            f"images {image_names(batch)}. {ADVICE}"
        ) from error
    except Exception:
        logging.getLogger(__name__).error(
            "The forward pass failed on the images %s", image_names(batch)
        )
        raise
