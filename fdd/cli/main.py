"""The command ``fdd``: its parser, its exit statuses, and users' mistakes as one message.

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
from typing import Any, NoReturn

from fdd.cli.terminal import forgive_encoding, printable

__all__ = ["COMMANDS", "Command", "find_command", "main", "make_parser"]


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
    Command(("annotate",), "annotate", "click points in a browser, with their labels in view"),
    Command(("points", "sample"), "points_sample", "draw point labels from full masks"),
    Command(("points", "check"), "points_check", "find mistakes in labels, images and masks"),
    Command(("points", "stats"), "points_stats", "count labels, and estimate what they cost"),
    Command(("points", "report"), "points_report", "write one HTML page that shows the points"),
    Command(("points", "suggest"), "points_suggest", "say where the next points are worth most"),
    Command(("init-config",), "init_config", "write a training config for a data set"),
    Command(("train",), "train", "train or evaluate a model, as train_net.py does"),
    Command(("labels", "export"), "labels_export", "write a model's dense labels as a data set"),
    Command(("report",), "report", "write one HTML page about labels and predictions"),
    Command(
        ("evaluate-clicks",), "evaluate_clicks", "say how good labels get with each click, by masks"
    ),
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


class _CommandParser(argparse.ArgumentParser):
    """Parses the arguments of a sub-command, whose module is imported when it is needed.

    Options may stand before, between and after other arguments (files, KEY VALUE).
    """

    def __init__(self, command: Command) -> None:
        super().__init__(
            prog=f"fdd {command.name}", formatter_class=argparse.RawDescriptionHelpFormatter
        )
        self._command = command
        self._is_loaded = self._is_parsing = False

    def load(self) -> _CommandParser:
        """Add the arguments of the module."""
        if not self._is_loaded:
            self._is_loaded = True
            module = self._command.load()
            self.description = module.__doc__
            examples = textwrap.dedent(module.EXAMPLES).strip()
            self.epilog = f"examples:\n{textwrap.indent(examples, '  ')}"
            module.add_arguments(self)
            # No default: it would replace that of `fdd --debug COMMAND`.
            self.add_argument(
                "--debug",
                action="store_true",
                default=argparse.SUPPRESS,
                help="show the traceback of an error",
            )
        return self

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        if self._is_parsing:  # the next line may call this method in turn
            return super().parse_known_args(args, namespace)
        self.load()._is_parsing = True
        try:
            found, unknown = self.parse_known_intermixed_args(args, namespace)
        finally:
            self._is_parsing = False
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return found, unknown


class _CommandsParser(argparse.ArgumentParser):
    """Finds the sub-command of ``fdd``, or of a group such as ``fdd points``."""

    def __init__(self, group: tuple[str, ...] = ()) -> None:
        super().__init__(prog=" ".join(["fdd", *group]), allow_abbrev=False)
        self._group = group
        self._words: list[str] = []
        made: Any = lambda parser, **_: parser  # noqa: E731  add_parser is given a parser
        commands = self.add_subparsers(required=True, metavar="COMMAND", parser_class=made)
        for command in COMMANDS:
            head, *rest = command.words[len(group) :] or [""]
            if command.words[: len(group)] == group and head not in commands.choices:
                parser = _CommandsParser((*group, head)) if rest else _CommandParser(command)
                commands.add_parser(head, parser=parser)
        self._commands = commands.choices

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        self._words = list(args or ())
        return super().parse_known_args(args, namespace)

    def format_help(self) -> str:
        shown = [c for c in COMMANDS if c.words[: len(self._group)] == self._group]
        width = max(len(command.name) for command in shown)
        lines = [f"  {command.name:<{width}}  {command.summary}" for command in shown]
        return _OVERVIEW.format(commands="\n".join(lines))

    def print_help(self, file: Any = None) -> None:
        print(self.format_help(), end="", file=file)  # argparse passes over errors of writing

    def error(self, message: str) -> NoReturn:
        if not self._words:
            self.print_help()
            self.exit(_BAD_USE if self._group else 0)
        names = [word for word in self._words if not word.startswith("-")]
        if names and names[0] in self._commands:
            super().error(message)
        given = " ".join([*self._group, *names][:2] or self._words[:1])
        close = difflib.get_close_matches(given, [c.name for c in COMMANDS], n=3, cutoff=0.5)
        hint = f" Did you mean: {', '.join(close)}?" if close else ""
        text = f"fdd: error: no command {given!r}.{hint} `fdd --help` lists them.\n"
        self.exit(_BAD_USE, text)


def find_command(words: Sequence[str]) -> Command | None:
    """The sub-command that a command line begins with."""
    return next((c for c in COMMANDS if tuple(words[: len(c.words)]) == c.words), None)


def make_parser(command: Command | None = None) -> argparse.ArgumentParser:
    """The parser of ``fdd``, or of a sub-command's own arguments."""
    if command is not None:
        return _CommandParser(command).load()
    from fdd import __version__

    parser = _CommandsParser()
    parser.add_argument("--version", action="version", version=f"fdd {__version__}")
    parser.add_argument("--debug", action="store_true")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status.

    0: done. 1: done, and something is wrong with what was examined (as the command's help says).
    2: wrong arguments or input; nothing was done, or not all of it. 130: interrupted. 141: the
    reader of the output (head, less) has gone.

    Raises:
        SystemExit: as argparse does, after help and on wrong arguments.
    """
    forgive_encoding()
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["help"]:
        words = [*words[1:], "--help"]
    command = find_command([word for word in words if word != "--debug"])
    name = f"fdd {command.name}" if command else "fdd"
    try:
        try:
            return _run(command, name, words)
        finally:
            sys.stdout.flush()  # after main, a reader that has gone would be an error
    except KeyboardInterrupt:
        print(f"\n{name}: interrupted", file=sys.stderr)
        return _INTERRUPTED
    except BrokenPipeError:
        _silence_stdout()
        return _NO_READER
    except OSError as error:
        # Those of files are reported by _run. What is left is what was printed, into a file.
        if "--debug" in words or not _is_no_room(error):
            raise
        print(f"{name}: error: {_describe(error)}", file=sys.stderr)
        _silence_stdout()
        return _BAD_USE


def _run(command: Command | None, name: str, words: Sequence[str]) -> int:
    if not (sys.stdout.isatty() and sys.stderr.isatty()):
        os.environ["ANSI_COLORS_DISABLED"] = "1"  # read by what colours Detectron2's messages
    args = make_parser().parse_args(words)
    assert command is not None  # the parser has found one
    try:
        return int(command.load().run(args) or 0)
    except BrokenPipeError:
        raise
    except (OSError, ValueError) as error:
        if args.debug:
            raise
        print(f"{name}: error: {printable(_describe(error))}", file=sys.stderr)
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
