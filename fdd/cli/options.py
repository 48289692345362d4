"""Arguments that several sub-commands have."""

from __future__ import annotations

import argparse

__all__ = ["add_config_options", "add_model_options", "add_model_path"]


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """``--model``, ``--config-file`` and config overrides, for
    :func:`fdd.engine.trained.load_trained`."""
    add_model_path(parser)
    add_config_options(parser)


def add_model_path(parser: argparse.ArgumentParser) -> None:
    """``--model`` and ``--config-file``."""
    parser.add_argument(
        "--model",
        required=True,
        metavar="PATH",
        help="the OUTPUT_DIR of a training, or a checkpoint (.pth)",
    )
    parser.add_argument(
        "--config-file",
        default="",
        metavar="FILE",
        help="the model's config (default: the one inside or beside the checkpoint)",
    )


def add_config_options(parser: argparse.ArgumentParser) -> None:
    """Config keys and values at the end of the command line, as ``opts``."""
    parser.add_argument(
        "opts",
        nargs="*",
        default=[],
        metavar="KEY VALUE",
        help="config keys and values, such as MODEL.DEVICE cpu",
    )
