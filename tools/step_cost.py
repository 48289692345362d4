"""Count what a training step costs, part by part, without running it.

    python tools/step_cost.py --config-file configs/coco/fdd_R50_P10.yaml \
        --height 800 --width 1333 --instances 11 [--hot saved] [KEY VALUE ...]

The step runs on the meta device: no data, no memory, seconds. `--device cpu` really runs it.
"""

from __future__ import annotations

import argparse

import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

import fdd.modeling  # noqa: F401  (registers the model)
from fdd.config import add_fdd_config, check_fdd_config
from fdd.profiling import StepCost, count_step, synthetic_batch


def cost_of_config(
    config_file: str,
    height: int,
    width: int,
    instances: int,
    batch: int = 1,
    device: str = "meta",
    opts: list[str] | None = None,
    keep_grads: bool = False,
) -> StepCost:
    """Cost of one step of the model that a config describes, on made-up images of one size."""
    cfg = get_cfg()
    add_fdd_config(cfg)
    cfg.merge_from_file(config_file)
    cfg.merge_from_list(["MODEL.WEIGHTS", "", "MODEL.DEVICE", device, *(opts or [])])
    if cfg.MODEL.FDD.WARMUP_ITERS < 0:
        cfg.MODEL.FDD.WARMUP_ITERS = 0
    check_fdd_config(cfg)
    model = build_model(cfg).train()
    images = synthetic_batch(
        height,
        width,
        num_things=cfg.MODEL.FDD.NUM_THINGS,
        num_stuff=cfg.MODEL.FDD.NUM_STUFF,
        instances=instances,
        batch=batch,
    )
    # Iteration 1 is like most: diagnostics are logged at 0, 20, 40, ...
    with EventStorage(1):
        return count_step(
            model, lambda: torch.stack(list(model(images).values())).sum(), keep_grads=keep_grads
        )


def main() -> None:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True)
    parser.add_argument("--height", type=int, default=800, help="of the images, in pixels")
    parser.add_argument("--width", type=int, default=1333)
    parser.add_argument("--instances", type=int, default=11, help="labelled segments an image")
    parser.add_argument("--batch", type=int, default=1, help="images")
    parser.add_argument("--device", default="meta", help="meta counts only; cpu runs the step")
    parser.add_argument("--hot", nargs="*", default=["moved", "saved"], help="flops, kernels, ...")
    parser.add_argument("--by", default="line", choices=["line", "op"])
    parser.add_argument("--top", type=int, default=20)
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE, over the config")
    args = parser.parse_args()
    cost = cost_of_config(
        args.config_file,
        args.height,
        args.width,
        args.instances,
        args.batch,
        args.device,
        args.opts,
    )
    print(cost.table())
    for measure in args.hot:
        print(f"\n{measure}, dearest first:")
        print(cost.hot(args.by, measure, args.top))


if __name__ == "__main__":
    main()
