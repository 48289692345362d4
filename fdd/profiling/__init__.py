"""Cost of a training step, counted and not timed: FLOPs, bytes, kernels, waits of the host."""

from fdd.profiling.cost import Cost, StepCost
from fdd.profiling.counter import OUTSIDE, PARTS, count_step
from fdd.profiling.step import cost_of, step_cfg, synthetic_batch, training_step

__all__ = [
    "OUTSIDE",
    "PARTS",
    "Cost",
    "StepCost",
    "cost_of",
    "count_step",
    "step_cfg",
    "synthetic_batch",
    "training_step",
]
