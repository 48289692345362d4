"""Say what is installed here and whether it works, as text to paste into a bug report: versions,
memory, GPUs, data folders, the speed of the attention, one training step of a small model. Takes
some ten seconds and writes nothing. The exit status is 1 if something is broken."""

from __future__ import annotations

import argparse

EXAMPLES = """
fdd doctor
fdd doctor --slow
fdd doctor --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--slow", action="store_true", help="also try the compiled attention (half a minute)"
    )


def run(args: argparse.Namespace) -> int:
    from fdd.doctor import diagnose, to_json, to_text

    sections = diagnose(slow=args.slow)
    text = to_json(sections) if args.json else to_text(sections, traces=args.debug)
    print(text, end="")
    return int(any(problem.broken for section in sections for problem in section.problems))
