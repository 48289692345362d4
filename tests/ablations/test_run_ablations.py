"""The command: what it plans, and what it refuses before anything runs."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "tools" / "run_ablations.py"


@pytest.fixture
def command(monkeypatch):
    """Run the script in this process; its exit status, or what it says as it gives up."""

    def run(*arguments: str) -> object:
        monkeypatch.setenv("PYTHONPATH", "")  # the script sets it where it is not
        monkeypatch.setattr("sys.argv", [str(SCRIPT), *arguments])
        with pytest.raises(SystemExit) as stopped:
            runpy.run_path(str(SCRIPT), run_name="__main__")
        return stopped.value.code

    return run


def test_a_dry_run_lists_the_runs_and_does_nothing(command, tmp_path, capsys):
    arguments = ["--table", "6", "--data", "shapes", "--seeds", "2", "--dry-run"]
    assert command(*arguments, "--output", str(tmp_path)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "16 runs of 8 settings" and len(lines) == 17
    assert any("P10/COLOR_SEM-False-s2" in line and "to do" in line for line in lines)
    # All settings with the first seed come before any with the second.
    seeds = [line.split()[3 if line.startswith("to do") else 2][-1] for line in lines[:-1]]
    assert seeds == ["1"] * 8 + ["2"] * 8 and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--table", "10", "--data", "shapes"), "expected 1, 2, 3"),
        (("--table", "1", "--data", "cityscapes"), "invalid choice"),
        (("--data", "shapes", "--seeds", "0"), "at least 1"),
        (("--data", "shapes", "MODEL.FDD.INJECT"), "KEY VALUE"),
        (("--data", "shapes", "MODEL.FDD.INJEKT", "pos"), "MODEL.FDD.INJEKT"),
        (("--data", "shapes", "MODEL.FDD.INJECT", "pos"), "MODEL.FDD.INJECT: the rows"),
        (("--data", "shapes", "MODEL.FDD.PAN.FUSE_INIT", "odd"), "'xavier', 'abs_scaled'"),
    ],
)
def test_what_cannot_work_is_refused_at_once(arguments, said, command, tmp_path, capsys):
    status = command("--output", str(tmp_path), *arguments)
    assert status != 0 and said in f"{status}{capsys.readouterr().err}"
