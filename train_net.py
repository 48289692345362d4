#!/usr/bin/env python3
"""Train or evaluate: ``train_net.py --config-file FILE [--num-gpus N] [--resume] KEY VALUE ...``"""

from __future__ import annotations

import argparse
from typing import Any

from detectron2.config import CfgNode, get_cfg
from detectron2.engine import default_argument_parser, default_setup, launch
from detectron2.evaluation import verify_results
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

import fdd.data
import fdd.modeling  # noqa: F401  registers the meta-architecture
from fdd.config import add_fdd_config
from fdd.engine import (
    Trainer,
    evaluate_label_quality,
    evaluate_predictions,
    evaluate_pseudo_labels,
    resolve_device,
)


def get_parser() -> argparse.ArgumentParser:
    """Detectron2's arguments, and the two evaluations of pseudo labels."""
    parser = default_argument_parser()
    parser.add_argument(
        "--eval-pseudo-labels",
        nargs="*",
        metavar="DATASET",
        help="evaluate the labels estimated for these point sets (default: DATASETS.TRAIN) "
        "against their masks",
    )
    parser.add_argument(
        "--eval-label-quality",
        nargs="*",
        metavar="DATASET",
        help="judge the labels estimated for these point sets (default: DATASETS.TRAIN) without "
        "masks: agreement with points that are left out, confidence, empty and image-swallowing "
        "instances, the worst images",
    )
    return parser


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line, also with KEY VALUE behind the names of data sets."""
    args = get_parser().parse_args(argv)
    keys = new_cfg()
    for option in ("eval_pseudo_labels", "eval_label_quality"):
        names = getattr(args, option) or []
        first_key = next((i for i, n in enumerate(names) if n.split(".")[0] in keys), len(names))
        if first_key < len(names):
            setattr(args, option, names[:first_key])
            args.opts = names[first_key:] + args.opts
    return args


def new_cfg() -> CfgNode:
    """Detectron2's defaults and FDD's."""
    cfg = get_cfg()
    add_fdd_config(cfg)
    return cfg


def setup(args: argparse.Namespace) -> CfgNode:
    """Make the config of the command line, and the log and output folder of the run."""
    cfg = new_cfg()
    if args.config_file:
        cfg.merge_from_file(args.config_file)
    cfg.merge_from_list(args.opts)
    warning = resolve_device(cfg)
    cfg.freeze()
    default_setup(cfg, args)
    logger = setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="fdd")
    if warning:
        logger.warning(warning)
    return cfg


def main(args: argparse.Namespace) -> dict[str, Any] | None:
    """Do what the arguments say, in one process."""
    cfg = setup(args)
    if args.eval_pseudo_labels is not None:
        return evaluate_pseudo_labels(cfg, args.eval_pseudo_labels, resume=args.resume)
    if args.eval_label_quality is not None:
        return evaluate_label_quality(cfg, args.eval_label_quality, resume=args.resume)
    if args.eval_only:
        results = evaluate_predictions(Trainer, cfg, resume=args.resume)
        if comm.is_main_process():
            verify_results(cfg, results)
        return results
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    return trainer.train()


if __name__ == "__main__":
    args = parse_args()
    launch(
        main,
        args.num_gpus,
        num_machines=args.num_machines,
        machine_rank=args.machine_rank,
        dist_url=args.dist_url,
        args=(args,),
    )
