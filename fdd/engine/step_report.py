"""What a step has to tell the host: losses, gradient norm, and whether all of it is finite."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from detectron2.utils import comm
from torch import Tensor

from fdd.points.wording import listed

Batch = list[dict[str, Any]]
_MAX_NAMED = 8
ADVICE = (
    "The step was not taken and the last checkpoint is untouched. Look at these images and their "
    "points; lower SOLVER.BASE_LR, or switch SOLVER.AMP.ENABLED off, if they are sound."
)


class StepReport:
    """Values of one step on their way to the host.

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
