#!/usr/bin/env python3
"""Count what a training step costs, part by part, without running it.

The step runs on the meta device: no data, no memory, a few seconds. Prints FLOPs, bytes moved,
bytes saved for the backward pass and kernels of every part, and the lines of code that move and
save most. ``--device cpu`` really runs it and takes the time of every operator: the fastest of
``--repeats`` steps is shown.
"""

from __future__ import annotations

import argparse

import torch

import fdd.modeling  # noqa: F401  registers the meta-architecture
from fdd.profiling import StepCost, cost_of, step_cfg


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config-file", required=True)
    parser.add_argument("--height", type=int, default=800, help="of the images, in pixels")
    parser.add_argument("--width", type=int, default=1333)
    parser.add_argument("--instances", type=int, default=11, help="labelled segments an image")
    parser.add_argument("--batch", type=int, default=1, help="images")
    parser.add_argument("--device", default="meta", help="meta counts only; cpu runs the step")
    parser.add_argument(
        "--hot",
        nargs="+",
        default=["moved", "saved"],
        choices=["moved", "saved", "flops", "kernels", "seconds"],
        help="list the dearest lines by these",
    )
    parser.add_argument("--repeats", type=int, default=3, help="steps on the CPU")
    parser.add_argument("--threads", type=int, help="of PyTorch, on the CPU")
    parser.add_argument("--by", default="line", choices=["line", "op"])
    parser.add_argument("--top", type=int, default=20, help="rows of each list")
    parser.add_argument("opts", nargs="*", help="KEY VALUE pairs for the config")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    cfg = step_cfg(args.config_file, args.opts, args.device)
    size = {"instances": args.instances, "batch": args.batch}
    repeats = args.repeats if args.device == "cpu" else 1
    costs = [cost_of(cfg, args.height, args.width, **size) for _ in range(repeats)]
    cost = min(costs, key=StepCost.seconds_of)
    print(cost.table())
    for measure in args.hot:
        print(f"\n{measure}, dearest first:")
        print(cost.hot(args.by, measure, args.top))


if __name__ == "__main__":
    main()
