"""The dispatcher: help, exit statuses, and what an error looks like."""

from __future__ import annotations

import ast
import errno
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import fdd
from fdd.cli.main import COMMANDS, find_command, main, make_parser


def status(words: list[str]) -> int:
    """The exit status, also where argparse ends the process."""
    try:
        return main(words)
    except SystemExit as stopped:
        assert isinstance(stopped.code, int)
        return stopped.code


def test_overview_lists_every_command(capsys) -> None:
    assert status(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(command.name in text and command.summary in text for command in COMMANDS)
    assert status([]) == 0
    assert capsys.readouterr().out == text


def test_a_group_lists_its_commands(capsys) -> None:
    for words, code in ((["points"], 2), (["points", "--help"], 0)):
        assert status(words) == code
        text = capsys.readouterr().out
        assert "points import" in text and "labels export" not in text


def test_version(capsys) -> None:
    assert status(["--version"]) == 0
    assert capsys.readouterr().out.split() == ["fdd", fdd.__version__]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_help_of_a_command_is_for_newcomers(command, capsys) -> None:
    assert find_command([*command.words, "--anything"]) == command
    assert status([*command.words, "--help"]) == 0
    text = capsys.readouterr().out
    assert f"usage: fdd {command.name}" in text
    assert "examples:" in text and f"  fdd {command.name}" in text
    undocumented = [action.dest for action in make_parser(command)._actions if not action.help]
    assert undocumented == []


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_examples_of_a_command_are_understood(command) -> None:
    lines = command.load().EXAMPLES.strip().replace("\\\n", " ").splitlines()
    examples = [shlex.split(line, comments=True) for line in lines]
    assert any(examples)
    for words in filter(None, examples):
        assert words[: 1 + len(command.words)] == ["fdd", *command.words]
        make_parser().parse_args(words[1:])


def test_unknown_commands_are_refused_with_a_hint(capsys) -> None:
    assert status(["trian"]) == 2
    assert "Did you mean: train?" in capsys.readouterr().err
    assert status(["zzz", "--help"]) == 2
    assert "`fdd --help`" in capsys.readouterr().err
    assert status(["points", "imprt", "a.json"]) == 2
    assert "no command 'points imprt'. Did you mean: points import" in capsys.readouterr().err


def test_unknown_options_are_refused_by_the_command(capsys) -> None:
    assert status(["train", "--bogus"]) == 2
    assert "fdd train: error: unrecognized arguments: --bogus" in capsys.readouterr().err


def test_users_mistakes_are_one_line_and_debug_shows_more(tmp_path, capsys) -> None:
    missing = str(tmp_path / "none.yaml")
    words = ["init-config", missing, "--output", str(tmp_path / "out.yaml")]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith("fdd init-config: error: ") and missing in error
    assert error.count("\n") == 1 and "Traceback" not in error
    with pytest.raises(FileNotFoundError):
        main([*words, "--debug"])


@pytest.mark.parametrize("failure", [RuntimeError("a bug"), KeyError("a bug")])
def test_bugs_keep_their_traceback(failure, monkeypatch, tmp_path) -> None:
    def broken(args):
        raise failure

    monkeypatch.setattr("fdd.cli.init_config.run", broken)
    with pytest.raises(type(failure)):
        main(["init-config", "x.yaml", "--output", str(tmp_path / "y.yaml")])


@pytest.mark.parametrize("words", [[], *([*c.words] for c in COMMANDS)], ids=" ".join)
def test_help_needs_no_torch(words) -> None:
    code = (
        "import sys; from fdd.cli.main import main\n"
        f"try: main([*{words!r}, '--help'])\n"
        "except SystemExit: pass\n"
        "sys.exit('torch' in sys.modules or 'detectron2' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_module_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fdd", "no-such-command"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "no command 'no-such-command'" in done.stderr


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["example", "--help"], ["points"]])
def test_a_reader_that_stops_is_no_error(words) -> None:
    read, write = os.pipe()
    os.close(read)
    with open(write, "wb") as nobody:
        done = subprocess.run(
            [sys.executable, "-m", "fdd", *words], stdout=nobody, stderr=subprocess.PIPE, text=True
        )
    # 0: argparse itself keeps quiet where the output is not buffered.
    assert done.stderr == "" and done.returncode in (141, 0)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
@pytest.mark.parametrize("words", [["--help"], ["points"], ["doctor", "--help"]])
@pytest.mark.parametrize("buffered", [True, False])
def test_an_output_that_takes_no_more_is_said_once(words, buffered) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, *([] if buffered else ["-u"]), "-m", "fdd", *words],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    if words[-1] == "--help" and len(words) > 1 and not done.stderr:
        return  # argparse itself keeps quiet where the output is not buffered
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("fdd") and "No space left" in done.stderr
    assert "output of the command" in done.stderr and "make room" in done.stderr


def test_a_full_disk_is_said_with_the_file_and_what_to_do(monkeypatch, capsys) -> None:
    def full(args):
        raise OSError(errno.ENOSPC, "No space left on device", "big.json")

    monkeypatch.setattr("fdd.cli.points_stats.run", full)
    assert main(["points", "stats", "points.json"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("fdd points stats: error: big.json: No space left")
    assert "quota" in said and "make room" in said and said.count("\n") == 1


def test_names_that_cannot_be_printed_end_no_command() -> None:
    code = (
        "import fdd.cli.init_config as c\n"
        "c.run = lambda args: print('gr\\u00f6\\u00dfe', 'caf\\udce9.png')\n"
        "from fdd.cli.main import main\n"
        "raise SystemExit(main(['init-config', 'x', '--output', 'y']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.split() == [b"gr\\xf6\\xdfe", b"caf\\udce9.png"]


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["help"], "usage: fdd COMMAND"),
        (["help", "points"], "  points import"),
        (["help", "points", "import"], "usage: fdd points import"),
        (["help", "init-config"], "usage: fdd init-config"),
    ],
)
def test_help_is_a_word_too(words, shown: str, capsys) -> None:
    assert status(words) == 0
    assert shown in capsys.readouterr().out
    assert status(["help", "nothing"]) == 2


def test_debug_may_stand_first(tmp_path, capsys) -> None:
    words = ["--debug", "init-config", str(tmp_path / "none"), "--output", str(tmp_path / "out")]
    with pytest.raises(FileNotFoundError):
        main(words)
    assert status(["--debug", "no-such"]) == 2
    assert "no command 'no-such'" in capsys.readouterr().err


@pytest.mark.parametrize("place", ["load", "run"])
def test_an_interrupt_leaves_no_traceback_wherever_it_comes(place, monkeypatch, capsys) -> None:
    def interrupted(*args):
        raise KeyboardInterrupt

    if place == "load":
        monkeypatch.setattr("fdd.cli.main.Command.load", interrupted)
    else:
        monkeypatch.setattr("fdd.cli.init_config.run", interrupted)
    assert main(["init-config", "x.yaml", "--output", "y.yaml"]) == 130
    assert capsys.readouterr().err == "\nfdd init-config: interrupted\n"


def test_scripts_do_not_pass_on_what_pytorch_says_to_detectron2() -> None:
    root = Path(fdd.__file__).resolve().parents[1]
    done = subprocess.run(
        [sys.executable, "-W", "always", str(root / "tools/label_curve.py"), "--help"],
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "usage" in done.stdout
    assert "torch.jit.script" not in done.stderr


def test_every_script_imports_this_package_before_detectron2() -> None:
    """It silences that warning, which comes when Detectron2 is imported."""
    root = Path(fdd.__file__).resolve().parents[1]
    scripts = [root / "train_net.py", *(root / "demo").glob("*.py"), *(root / "tools").glob("*.py")]
    seen = 0
    for script in scripts:
        for node in ast.parse(script.read_text(encoding="utf-8")).body:
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found = {name.split(".")[0] for name in names} & {"fdd", "detectron2"}
            if found:
                assert found == {"fdd"}, script
                seen += 1
                break
    assert seen > 5
