"""Training and evaluation as a command: what ``train_net.py`` and ``fdd train`` do."""

from __future__ import annotations

import argparse
from typing import Any

from detectron2.config import CfgNode
from detectron2.engine import default_argument_parser, default_setup, launch
from detectron2.evaluation import verify_results
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

import fdd.modeling  # noqa: F401  registers the meta-architecture
from fdd.data.dataset_files import resolve_name
from fdd.engine.configs import find_config, load_cfg, new_cfg
from fdd.engine.evaluate import (
    evaluate_label_quality,
    evaluate_predictions,
    evaluate_pseudo_labels,
)
from fdd.engine.trainer import Trainer

__all__ = [
    "add_training_arguments",
    "get_parser",
    "main",
    "parse_args",
    "run",
    "setup",
    "split_options",
]


def get_parser() -> argparse.ArgumentParser:
    """Detectron2's arguments, and the two evaluations of pseudo labels."""
    parser = default_argument_parser()
    add_evaluation_arguments(parser)
    return parser


def add_training_arguments(parser: argparse.ArgumentParser) -> None:
    """What :func:`get_parser` knows, for a parser of somebody else."""
    usual = default_argument_parser()
    parser.add_argument("--config-file", default="", metavar="FILE", help="the model's config")
    parser.add_argument(
        "--resume", action="store_true", help="go on from the last checkpoint of OUTPUT_DIR"
    )
    parser.add_argument("--eval-only", action="store_true", help="measure PQ on DATASETS.TEST")
    parser.add_argument("--num-gpus", type=int, default=1, help="processes on this machine")
    parser.add_argument("--num-machines", type=int, default=1)
    parser.add_argument("--machine-rank", type=int, default=0, help="of this machine, from 0")
    parser.add_argument(
        "--dist-url",
        default=usual.get_default("dist_url"),
        help="where the processes meet, see torch.distributed.init_process_group",
    )
    add_evaluation_arguments(parser)


def add_evaluation_arguments(parser: argparse.ArgumentParser) -> None:
    """The two evaluations of pseudo labels."""
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


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line, also with KEY VALUE behind the names of data sets."""
    return split_options(get_parser().parse_args(argv))


def split_options(args: argparse.Namespace) -> argparse.Namespace:
    """Move KEY VALUE that stand behind the names of data sets to the other keys."""
    keys = new_cfg()
    for option in ("eval_pseudo_labels", "eval_label_quality"):
        names = getattr(args, option) or []
        first_key = next((i for i, n in enumerate(names) if n.split(".")[0] in keys), len(names))
        if first_key < len(names):
            setattr(args, option, names[:first_key])
            args.opts = names[first_key:] + args.opts
    return args


def setup(args: argparse.Namespace) -> CfgNode:
    """Make the config of the command line, and the log and output folder of the run."""
    args.config_file = find_config(args.config_file)  # Detectron2 reads it for the log
    cfg, warning = load_cfg(args.config_file, args.opts)
    cfg.freeze()
    default_setup(cfg, args)
    logger = setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="fdd")
    if warning:
        logger.warning(warning)
    return cfg


def main(args: argparse.Namespace) -> dict[str, Any] | None:
    """Do what the arguments say, in one process."""
    cfg = setup(args)
    for names, evaluate in (
        (args.eval_pseudo_labels, evaluate_pseudo_labels),
        (args.eval_label_quality, evaluate_label_quality),
    ):
        if names is not None:
            names = [resolve_name(name, "points", args.config_file) for name in names]
            return evaluate(cfg, names, resume=args.resume)
    if args.eval_only:
        results = evaluate_predictions(Trainer, cfg, resume=args.resume)
        if comm.is_main_process():
            verify_results(cfg, results)
        return results
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    return trainer.train()


def run(args: argparse.Namespace) -> None:
    """Do what the arguments say, in as many processes as they say."""
    launch(
        main,
        args.num_gpus,
        num_machines=args.num_machines,
        machine_rank=args.machine_rank,
        dist_url=args.dist_url,
        args=(args,),
    )
