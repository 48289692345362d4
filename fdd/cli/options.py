"""Arguments that several sub-commands have, and what they check of them."""

from __future__ import annotations

import argparse
import os

__all__ = [
    "add_config_options",
    "add_model_options",
    "add_model_path",
    "add_opts",
    "add_weights_choice",
    "comma_list",
    "refuse_existing",
]


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """``--model``, ``--config-file`` and config overrides, for
    :func:`fdd.inference.trained_model.load_trained`."""
    add_model_path(parser)
    add_config_options(parser)


def add_model_path(parser: argparse.ArgumentParser, *, without: str = "") -> None:
    """``--model`` and ``--config-file``; ``without`` says what happens without a model, which is
    required otherwise."""
    parser.add_argument(
        "--model",
        required=not without,
        metavar="PATH",
        help="the OUTPUT_DIR of a training, or a checkpoint (.pth)" + without,
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
        default: what None means, ``best`` (where there was a validation) or ``final``.
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


def add_opts(parser: argparse.ArgumentParser) -> None:
    """The same as an option, for commands with words of their own."""
    parser.add_argument(
        "--opts",
        nargs="*",
        default=[],
        metavar="KEY VALUE",
        help="config keys and values, such as --opts MODEL.DEVICE cpu",
    )


def comma_list(text: str | None) -> list[str]:
    """The parts of an option such as ``--ignore W205,W5``; none of one that is not given."""
    return [part.strip() for part in (text or "").split(",") if part.strip()]


def refuse_existing(output: str | os.PathLike[str], overwrite: bool) -> None:
    """Refuse an ``--output`` that would replace a file, before anything is computed for it.

    Raises:
        IsADirectoryError, FileExistsError: it is a folder, or exists and is not to be overwritten.
    """
    if os.path.isdir(output):
        raise IsADirectoryError(f"{output}: a folder; give the name of a file")
    if os.path.exists(output) and not overwrite:
        raise FileExistsError(f"{output} exists; choose another --output, or add --overwrite")
