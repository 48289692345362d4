"""Training and evaluation as a command: what ``train_net.py`` and ``fdd train`` do."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from detectron2.config import CfgNode
from detectron2.engine import default_argument_parser, default_setup, launch
from detectron2.evaluation import verify_results
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

import fdd.modeling  # noqa: F401  registers the meta-architecture
from fdd.config import check_fdd_config
from fdd.data.dataset_files import resolve_name
from fdd.engine.checks import check_training
from fdd.engine.configs import find_config, load_cfg, new_cfg
from fdd.engine.evaluate import (
    evaluate_label_quality,
    evaluate_predictions,
    evaluate_pseudo_labels,
)
from fdd.engine.trainer import Trainer
from fdd.training_options import add_evaluation_arguments

__all__ = [
    "check",
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


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line, also with KEY VALUE behind the names of data sets."""
    return split_options(get_parser().parse_args(argv))


def split_options(args: argparse.Namespace) -> argparse.Namespace:
    """Move KEY VALUE that stand behind the names of data sets to the other keys, and choose where
    processes meet if nothing is said."""
    if args.dist_url is None:
        args.dist_url = default_argument_parser().get_default("dist_url")
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


def check(args: argparse.Namespace) -> None:
    """Refuse what every process would refuse, as long as there is one.

    Raises:
        FileNotFoundError, ValueError: as :func:`main`, of which only the config is looked at, and
            the data sets that it names.
    """
    cfg, _ = load_cfg(find_config(args.config_file), args.opts)
    if args.eval_only or args.eval_pseudo_labels is not None or args.eval_label_quality is not None:
        check_fdd_config(cfg)
    else:
        check_training(cfg, args.num_gpus * args.num_machines)


def run(args: argparse.Namespace, process: Callable[[argparse.Namespace], object] = main) -> None:
    """Do what the arguments say, in as many processes as they say.

    Args:
        args: of :func:`parse_args` or :func:`split_options`.
        process: what each process does.
    """
    if args.num_gpus * args.num_machines > 1:
        check(args)
    launch(
        process,
        args.num_gpus,
        num_machines=args.num_machines,
        machine_rank=args.machine_rank,
        dist_url=args.dist_url,
        args=(args,),
    )
