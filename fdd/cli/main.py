"""Finds the sub-command, reads its arguments and turns users' mistakes into one message.

A sub-command is a module with

* a docstring, whose text is the head of ``--help``,
* ``EXAMPLES``, command lines for the end of ``--help``,
* ``add_arguments(parser)``, and ``run(args)``, which returns an exit status (None is 0).

Only the module of the sub-command that is called is imported, so that ``fdd --help`` and what works
on label files need not wait for PyTorch.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import os
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType

from fdd.cli.terminal import forgive_encoding, printable

__all__ = ["COMMANDS", "Command", "main", "make_parser", "parse"]


@dataclass(frozen=True)
class Command:
    """A sub-command: the words that call it, its module below ``fdd.cli``, one line about it."""

    words: tuple[str, ...]
    module: str
    summary: str

    @property
    def name(self) -> str:
        return " ".join(self.words)

    def load(self) -> ModuleType:
        return importlib.import_module(f"fdd.cli.{self.module}")


#: In the order of a user's way from labels to results.
COMMANDS = (
    Command(("example",), "example", "draw a small folder to try everything on"),
    Command(("points", "import"), "points_import", "points out of a labelling tool's export"),
    Command(("points", "sample"), "points_sample", "draw point labels from full masks"),
    Command(("points", "check"), "points_check", "find mistakes in labels, images and masks"),
    Command(("points", "stats"), "points_stats", "count labels, and estimate what they cost"),
    Command(("points", "report"), "points_report", "write one HTML page that shows the points"),
    Command(("init-config",), "init_config", "write a training config for a data set"),
    Command(("train",), "train", "train or evaluate a model, as train_net.py does"),
    Command(("labels", "export"), "labels_export", "write a model's dense labels as a data set"),
    Command(("report",), "report", "write one HTML page about labels and predictions"),
    Command(("predict",), "predict", "segment images, folders and videos"),
    Command(("model", "export"), "model_export", "write a trained model into one small file"),
    Command(("doctor",), "doctor", "say what is installed here, and whether it works"),
)

_OVERVIEW = """\
usage: fdd COMMAND [ARGUMENTS]

Panoptic segmentation trained from points.

{commands}

`fdd COMMAND --help` explains a command. --debug with any of them shows the traceback of an error.
"""
_BAD_USE, _INTERRUPTED, _NO_READER = 2, 130, 141


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status.

    0: done. 1: done, and something is wrong with what was looked at (as the command's help says).
    2: wrong arguments or input; nothing was done, or not all of it. 130: interrupted. 141: the
    reader of the output (head, less) has gone.
    """
    forgive_encoding()
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["--debug"]:
        words = [*words[1:], "--debug"]
    command = find_command(words)
    name = f"fdd {command.name}" if command else "fdd"
    try:
        try:
            return _explain(words) if command is None else _call(command, words)
        finally:
            sys.stdout.flush()  # after main, a reader that has gone would be an error
    except KeyboardInterrupt:
        print(f"\n{name}: interrupted", file=sys.stderr)
        return _INTERRUPTED
    except BrokenPipeError:
        _silence_stdout()
        return _NO_READER
    except OSError as error:
        # Of files: _call has said it. What is left is what was printed, into a file.
        if "--debug" in words or not _is_no_room(error):
            raise
        print(f"{name}: error: {_describe(error)}", file=sys.stderr)
        _silence_stdout()
        return _BAD_USE


def _silence_stdout() -> None:
    """What is left in the buffer would be an error again at the end of the process."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _is_no_room(error: OSError) -> bool:
    from fdd.points.files import is_no_room

    return is_no_room(error)


def _describe(error: OSError | ValueError) -> str:
    """An error for people; of a full disk, the file and what to do."""
    if not (isinstance(error, OSError) and _is_no_room(error)):
        return str(error)
    from fdd.points.files import NO_ROOM_CAUSES

    what = error.filename or "the output of the command, or a temporary file"
    return (
        f"{what}: {error.strerror}. {NO_ROOM_CAUSES}: make room, or write to another disk, and "
        "give the command again"
    )


def _call(command: Command, words: Sequence[str]) -> int:
    if not (sys.stdout.isatty() and sys.stderr.isatty()):
        os.environ["ANSI_COLORS_DISABLED"] = "1"  # read by what colours Detectron2's messages
    module = command.load()
    args = parse(make_parser(command, module), words[len(command.words) :])
    try:
        return int(module.run(args) or 0)
    except BrokenPipeError:
        raise
    except (OSError, ValueError) as error:
        if args.debug:
            raise
        print(f"fdd {command.name}: error: {printable(_describe(error))}", file=sys.stderr)
        return _BAD_USE


def parse(parser: argparse.ArgumentParser, words: Sequence[str]) -> argparse.Namespace:
    """Parse with options before, between and after what is no option (files, KEY VALUE)."""
    return parser.parse_intermixed_args(list(words))


def find_command(words: Sequence[str]) -> Command | None:
    """The sub-command that a command line begins with."""
    for command in COMMANDS:
        if tuple(words[: len(command.words)]) == command.words:
            return command
    return None


def make_parser(command: Command, module: ModuleType | None = None) -> argparse.ArgumentParser:
    """The parser of a sub-command's own arguments."""
    module = module or command.load()
    examples = textwrap.indent(textwrap.dedent(module.EXAMPLES).strip(), "  ")
    parser = argparse.ArgumentParser(
        prog=f"fdd {command.name}",
        description=module.__doc__,
        epilog=f"examples:\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(parser)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def overview(group: Sequence[str] = ()) -> str:
    """What ``fdd --help`` says, of all commands or of those that begin with ``group``."""
    shown = [c for c in COMMANDS if c.words[: len(group)] == tuple(group)] or list(COMMANDS)
    width = max(len(command.name) for command in shown)
    lines = [f"  {command.name:<{width}}  {command.summary}" for command in shown]
    return _OVERVIEW.format(commands="\n".join(lines))


def _explain(words: Sequence[str]) -> int:
    """Answer a command line that calls no sub-command."""
    if not words or words[0] in ("-h", "--help", "help"):
        asked = words[1:] if words[:1] == ["help"] else ()
        command = find_command(asked)
        if command is not None:
            make_parser(command).print_help()
            return 0
        if not asked or any(c.words[0] == asked[0] for c in COMMANDS):
            print(overview(asked[:1]), end="")
            return 0
        return _refuse(asked)
    if words[0] == "--version":
        from fdd import __version__

        print(f"fdd {__version__}")
        return 0
    group = any(c.words[0] == words[0] for c in COMMANDS)
    if group and (len(words) == 1 or words[1] in ("-h", "--help")):
        print(overview(words[:1]), end="")
        return 0 if len(words) > 1 else _BAD_USE
    return _refuse(words)


def _refuse(words: Sequence[str]) -> int:
    given = " ".join([words[0], *(word for word in words[1:2] if not word.startswith("-"))])
    close = difflib.get_close_matches(given, [c.name for c in COMMANDS], n=3, cutoff=0.5)
    hint = f" Did you mean: {', '.join(close)}?" if close else ""
    print(f"fdd: error: no command {given!r}.{hint} `fdd --help` lists them.", file=sys.stderr)
    return _BAD_USE
