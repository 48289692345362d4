"""The arguments of training and evaluation, without PyTorch, so that ``--help`` is quick."""

from __future__ import annotations

import argparse

__all__ = [
    "add_evaluation_arguments",
    "add_init_argument",
    "add_overwrite_argument",
    "add_training_arguments",
]


def add_training_arguments(parser: argparse.ArgumentParser) -> None:
    """What Detectron2's ``default_argument_parser`` knows, and the evaluations of pseudo labels.

    ``dist_url`` is None where it is not given; ``fdd.engine.command.split_options`` fills it in.
    """
    parser.add_argument("--config-file", default="", metavar="FILE", help="the model's config")
    parser.add_argument(
        "--resume", action="store_true", help="continue from the last checkpoint of OUTPUT_DIR"
    )
    add_init_argument(parser)
    add_overwrite_argument(parser)
    parser.add_argument("--eval-only", action="store_true", help="measure PQ on DATASETS.TEST")
    parser.add_argument(
        "--num-gpus", type=int, default=1, metavar="N", help="processes on this machine (default 1)"
    )
    parser.add_argument(
        "--num-machines", type=int, default=1, metavar="N", help="machines in all (default 1)"
    )
    parser.add_argument(
        "--machine-rank", type=int, default=0, metavar="N", help="of this machine, from 0"
    )
    parser.add_argument(
        "--dist-url",
        metavar="URL",
        help="where the processes meet, see torch.distributed.init_process_group (default: a port "
        "of this machine)",
    )
    add_evaluation_arguments(parser)


def add_init_argument(parser: argparse.ArgumentParser) -> None:
    """Whose weights a training begins from."""
    parser.add_argument(
        "--init-from",
        metavar="RUN",
        help="begin from the weights of another training (its OUTPUT_DIR, or a checkpoint), those "
        "of classes by their names: the same as MODEL.WEIGHTS CHECKPOINT",
    )


def add_overwrite_argument(parser: argparse.ArgumentParser) -> None:
    """What to do with a training that is in ``OUTPUT_DIR`` already, other than to resume it."""
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="begin a new training though OUTPUT_DIR holds one: its files are moved into a "
        "sub-folder earlier_001, earlier_002, ...",
    )


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
        "masks: agreement with points that are left out, confidence, empty and dominating "
        "segments, the worst images",
    )
