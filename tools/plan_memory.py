#!/usr/bin/env python3
"""Which batch fits a card: micro-batch, passes a step and checkpointing, with the keys to set.

Counts the training step on the meta device for every micro-batch that divides the wanted number of
images, with and without checkpointing, and recommends the fastest that fits. Give the largest
images of the training set; with images of both orientations in a batch (no
DATALOADER.ASPECT_RATIO_GROUPING), padding makes them squares of the long side.
"""

from __future__ import annotations

import argparse
import shlex
from functools import cache

import torch

import fdd.modeling  # noqa: F401  registers the meta-architecture
from fdd.profiling import StepCost, cost_of, step_cfg, training_step
from fdd.profiling.planner import (
    GIB,
    Card,
    Plan,
    Weights,
    make_plans,
    overrides,
    recommend,
    table,
)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config-file", required=True)
    parser.add_argument("--card-gib", type=float, required=True, help="memory of one card, in GiB")
    parser.add_argument("--height", type=int, default=800, help="of the largest images, in pixels")
    parser.add_argument("--width", type=int, default=1333)
    parser.add_argument("--instances", type=int, default=20, help="labelled segments an image")
    parser.add_argument("--batch", type=int, help="images a step (default: the config's)")
    parser.add_argument("--num-gpus", type=int, default=1, help="cards that share the step")
    parser.add_argument("--amp", action="store_true", help="mixed precision (bfloat16)")
    parser.add_argument("--reserve-gib", type=float, default=1.0, help="kept for driver and cuDNN")
    parser.add_argument(
        "--tflops", type=float, help="matrix products reached (default 40; AMP 120)"
    )
    parser.add_argument("--gbps", type=float, default=700.0, help="memory bandwidth reached")
    parser.add_argument("opts", nargs="*", help="KEY VALUE pairs for the config")
    return parser.parse_args(argv)


def plan(args: argparse.Namespace) -> tuple[list[Plan], Card, Weights]:
    """Count and rank; see :mod:`fdd.profiling.planner`."""
    cfg = step_cfg(args.config_file, args.opts)
    images = args.batch or cfg.SOLVER.IMS_PER_BATCH * cfg.SOLVER.ACCUMULATE_STEPS
    card = Card(
        gib=args.card_gib,
        reserve_gib=args.reserve_gib,
        tflops=args.tflops or (120.0 if args.amp else 40.0),
        gbps=args.gbps,
    )
    dtype = torch.bfloat16 if args.amp else None

    @cache
    def measure(micro_batch: int, checkpoint: bool, accumulating: bool) -> StepCost:
        own = step_cfg(args.config_file, [*args.opts, "MODEL.FDD.CHECKPOINT", checkpoint])
        return cost_of(
            own,
            args.height,
            args.width,
            instances=args.instances,
            batch=micro_batch,
            amp_dtype=dtype,
            keep_grads=accumulating,
        )

    model, _ = training_step(cfg, args.height, args.width, instances=args.instances)
    weights = Weights.of(model, args.num_gpus)
    return make_plans(measure, weights, card, images, args.num_gpus), card, weights


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    plans, card, weights = plan(args)
    fixed = ", ".join(f"{k} {n / GIB:.2f}" for k, n in weights._asdict().items() if n)
    print(f"whatever the batch, in GiB: {fixed}\n\n{table(plans, card)}\n")
    best = recommend(plans)
    if best is None:
        print(
            f"Nothing fits {args.card_gib:g} GiB. Make the images smaller "
            "(INPUT.MIN_SIZE_TRAIN, INPUT.MAX_SIZE_TRAIN), or try --amp."
        )
        return 1
    keys = overrides(best, args.num_gpus, args.amp)
    print(f"recommended: {shlex.join([*keys, *args.opts])}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
