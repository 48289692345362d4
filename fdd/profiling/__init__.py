"""Cost of a training step, counted and not timed: FLOPs, bytes, kernels, waits of the host."""

from fdd.profiling.batch import synthetic_batch
from fdd.profiling.counter import OUTSIDE, PARTS, count_step
from fdd.profiling.report import Cost, StepCost

__all__ = ["OUTSIDE", "PARTS", "Cost", "StepCost", "count_step", "synthetic_batch"]
