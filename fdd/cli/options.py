"""Arguments that several sub-commands have."""

from __future__ import annotations

import argparse

__all__ = ["add_config_options", "add_model_options", "add_model_path", "add_weights_choice"]


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """``--model``, ``--config-file`` and config overrides, for
    :func:`fdd.inference.trained_model.load_trained`."""
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


def add_weights_choice(parser: argparse.ArgumentParser, default: str) -> None:
    """``--weights``, for :func:`fdd.inference.trained_model.find_checkpoint`; None if not given.

    Args:
        default: what that means, ``best`` (where there was a validation) or ``final``.
    """
    shown = "best where there was a validation, else final" if default == "best" else default
    parser.add_argument(
        "--weights",
        choices=["best", "final"],
        help="which checkpoint of an OUTPUT_DIR: best, of the best validation (model_best.pth), or "
        f"final, the last one (default: {shown})",
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
