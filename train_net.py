#!/usr/bin/env python3
"""Train or evaluate: ``train_net.py --config-file FILE [--num-gpus N] [--resume] KEY VALUE ...``"""

from __future__ import annotations

from fdd.engine.command import get_parser, main, parse_args, run, setup

__all__ = ["get_parser", "main", "parse_args", "run", "setup"]

if __name__ == "__main__":
    run(parse_args())
