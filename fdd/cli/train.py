"""Train a model from points, or evaluate one. The same as train_net.py, with Detectron2's usual
arguments: keys of the config and their values stand at the end of the command line."""

from __future__ import annotations

import argparse
import sys

from fdd.cli.options import add_config_options
from fdd.training_options import add_training_arguments

EXAMPLES = """
fdd train --config-file cells.yaml OUTPUT_DIR output/cells
fdd train --config-file cells.yaml --resume OUTPUT_DIR output/cells
fdd train --config-file cells.yaml --eval-only MODEL.WEIGHTS output/cells/model_final.pth
fdd train --config-file cells.yaml --num-gpus 8 SOLVER.IMS_PER_BATCH 16
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_training_arguments(parser)
    add_config_options(parser)


def run(args: argparse.Namespace) -> int:
    if not (args.config_file or args.opts):
        raise ValueError("no config; give --config-file FILE (`fdd init-config` writes one)")
    from fdd.engine.command import run as run_training
    from fdd.engine.command import split_options

    args = split_options(args)
    run_training(args, process, program="train")
    return 0


def process(args: argparse.Namespace) -> None:
    """What one of the processes does: as main(), but of many, each says its own errors."""
    from detectron2.utils import comm

    from fdd.engine.command import main
    from fdd.engine.processes import BAD_USE

    try:
        main(args)
    except (OSError, ValueError) as error:
        if args.debug or comm.get_world_size() == 1:
            raise
        print(f"fdd train: error in process {comm.get_rank()}: {error}", file=sys.stderr)
        sys.exit(BAD_USE)
