"""Train a model from points, or evaluate one. The same as train_net.py, with Detectron2's usual
arguments: keys of the config and their values stand at the end of the command line."""

from __future__ import annotations

import argparse

from fdd.cli.options import add_config_options

EXAMPLES = """
fdd train --config-file cells.yaml OUTPUT_DIR output/cells
fdd train --config-file cells.yaml --resume OUTPUT_DIR output/cells
fdd train --config-file cells.yaml --eval-only MODEL.WEIGHTS output/cells/model_final.pth
fdd train --config-file cells.yaml --num-gpus 8 SOLVER.IMS_PER_BATCH 16
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from fdd.engine.command import add_training_arguments

    add_training_arguments(parser)
    add_config_options(parser)


def run(args: argparse.Namespace) -> None:
    from fdd.engine.command import run as run_training
    from fdd.engine.command import split_options

    run_training(split_options(args))
