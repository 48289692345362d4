#!/usr/bin/env python3
"""Segment images with a trained model, as ``fdd predict`` does, with Detectron2's arguments."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from fdd.cli.predict import print_report, show_progress
from fdd.engine.acting_keys import refuse_idle_keys
from fdd.engine.configs import merge_cfg
from fdd.inference.prediction import (
    OUTPUT_FOLDERS,
    PredictionOptions,
    find_inputs,
    find_left_out,
    predict_files,
)
from fdd.inference.predictor import Predictor
from fdd.inference.trained_model import TrainedModel, load_trained


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config-file", required=True, metavar="FILE", help="the model's config")
    parser.add_argument(
        "--input", required=True, nargs="+", help="images, videos, folders, or quoted globs"
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="where the files go")
    parser.add_argument("--alpha", type=float, default=0.55, help="weight of the colours, 0 to 1")
    parser.add_argument(
        "--opts",
        default=[],
        nargs=argparse.REMAINDER,
        help="config keys and values, to stand last: --opts MODEL.WEIGHTS model.pth",
    )
    return parser


def load_model(config_file: str, opts: Sequence[str]) -> TrainedModel:
    """The model of a config with the weights that ``MODEL.WEIGHTS`` names.

    Raises:
        ValueError, FileNotFoundError: there are none, or they do not fit the model.
    """
    weights = merge_cfg(config_file, opts).MODEL.WEIGHTS
    if not weights:
        raise ValueError("MODEL.WEIGHTS is empty; add --opts MODEL.WEIGHTS path/to/model_final.pth")
    return load_trained(weights, config_file, opts)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo. Exit status: 1 where a file could not be read, 2 for wrong arguments."""
    args = get_parser().parse_args(argv)
    try:
        options = PredictionOptions(alpha=args.alpha)
        refuse_idle_keys("demo.py", args.opts, config_file=args.config_file)
        earlier = [f"{args.output}/{folder}" for folder in OUTPUT_FOLDERS]
        inputs = find_inputs(args.input, leave_out=earlier)
        left_out = find_left_out(args.input, leave_out=earlier)
        predictor = Predictor(load_model(args.config_file, args.opts))
        report = predict_files(predictor, inputs, args.output, options, progress=show_progress)
    except (ValueError, OSError) as error:
        print(f"demo.py: {error}", file=sys.stderr)
        return 2
    report.notes[:0] = left_out
    print_report(report, args.output)
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())
