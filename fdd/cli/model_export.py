"""Write a trained model into one file for those who only use it.

A .pth file holds the weights that inference needs, the model's config and the names of the classes.
It is much smaller than what training writes, and works wherever a checkpoint is expected (fdd
predict, train --eval-only), but cannot be trained further, nor estimate labels from points.

A .pt2 file holds the model as a program (torch.export). It runs where PyTorch is, without fdd and
Detectron2; docs/export.md shows how."""

from __future__ import annotations

import argparse
from pathlib import Path

from fdd.cli.options import add_model_options, add_weights_choice
from fdd.cli.terminal import printable

EXAMPLES = """
fdd model export --model output/cells --output cells.pth
fdd model export --model output/cells --output cells_small.pth --half
fdd model export --model output/cells --output cells.pt2
fdd model export --model cells.pth --output cells.pt2 --size 512 768
"""

_FORMATS = {".pth": "checkpoint", ".pt2": "torch-export"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_options(parser)
    add_weights_choice(parser, "best")
    parser.add_argument(
        "--output", required=True, metavar="FILE", help="file to write: NAME.pth or NAME.pt2"
    )
    parser.add_argument(
        "--format",
        choices=list(_FORMATS.values()),
        help="what to write (default: as the ending of --output says)",
    )
    parser.add_argument(
        "--half",
        action="store_true",
        help=".pth: store weights in 16 bits, for half the size; says what that changes",
    )
    parser.add_argument(
        "--size",
        nargs=2,
        type=int,
        metavar=("H", "W"),
        help=".pt2: height and width in pixels of the images that the program takes (default: any)",
    )


def run(args: argparse.Namespace) -> None:
    ending = Path(args.output).suffix
    kind = args.format or _FORMATS.get(ending)
    if kind is None:
        raise ValueError(f"--output {args.output}: its name has to end in .pth or .pt2")
    from fdd.engine.acting_keys import refuse_idle_keys

    command = "model export .pth" if kind == "checkpoint" else "model export .pt2"
    refuse_idle_keys(command, args.opts, config_file=args.config_file, model=args.model)
    if kind == "checkpoint":
        if args.size:
            raise ValueError("--size is for .pt2 files; a checkpoint takes images of any size")
        _export_checkpoint(args)
    else:
        if args.half:
            raise ValueError("--half is for .pth files")
        _export_program(args)


def _export_checkpoint(args: argparse.Namespace) -> None:
    from fdd.engine.run_folder import describe_weights
    from fdd.inference.checkpoint_export import export_checkpoint

    done = export_checkpoint(
        args.model,
        args.output,
        args.config_file,
        args.opts,
        half=args.half,
        weights=args.weights,
    )
    print(printable(describe_weights(done.source)))
    print(
        f"Wrote {done.path}: {_size(done.bytes_after)} of {_size(done.bytes_before)}, "
        f"{done.parameters:,} weights; left out: {done.dropped:,} that only training uses, and "
        "the state of the optimiser"
    )
    if done.changed is not None:
        print(
            f"16-bit weights: {done.changed:.3%} of a drawn picture's pixels get another class. "
            "Measure your own images with `fdd train --eval-only`"
        )


def _export_program(args: argparse.Namespace) -> None:
    from fdd.engine.run_folder import describe_weights
    from fdd.inference.program_export import export_program

    size = tuple(args.size) if args.size else None
    done = export_program(
        args.model, args.output, args.config_file, args.opts, size=size, weights=args.weights
    )
    print(printable(describe_weights(done.source)))
    print(f"Wrote {done.path}: {_size(done.bytes)}, for images of {done.sizes}")
    print(
        f"On a drawn picture its masks and scores are within {done.difference:.1g} of the model's; "
        f"{done.same:.2%} of the pixels are the same"
    )


def _size(count: int) -> str:
    return f"{count / 2**20:.1f} MiB"
