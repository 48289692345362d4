#!/usr/bin/env python3
"""Draw point labels from COCO panoptic data; the same as ``fdd points sample``.

    python datasets/sample_points.py --dataset coco --split train --k 1 10
    python datasets/sample_points.py --panoptic-json J --panoptic-root R --output points.json --k 10

The same arguments always draw the same points. P1 is part of P10: several numbers after --k cost
one pass over the PNGs. Prints how many segments and points each class has.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from fdd.cli import points_sample


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    points_sample.add_arguments(parser)
    try:
        return points_sample.complete(parser.parse_args(argv))
    except ValueError as error:
        parser.error(str(error))


def main(argv: Sequence[str] | None = None) -> None:
    points_sample.run(parse_args(argv))


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
