"""Processes of one command: one that is lost ends the others, and each says what to do."""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.multiprocessing import ProcessRaisedException

from fdd.engine.processes import BAD_USE, ProcessLostError, start_processes

# All that a child of `spawn` imports is this module.
HERE = Path(__file__).parent


def _arguments(folder: Path | None, **more) -> argparse.Namespace:
    given = {"num_gpus": 2, "num_machines": 1, "machine_rank": 0, "dist_url": "auto"}
    return argparse.Namespace(folder=folder, **(given | more))


def _say(args: argparse.Namespace) -> None:
    total = torch.tensor(float(dist.get_rank() + 1))
    dist.all_reduce(total)
    (args.folder / f"said_{dist.get_rank()}").write_text(str(int(total)))


def _raise(args: argparse.Namespace) -> None:
    if dist.get_rank() == 1:
        raise ValueError("the data are wrong")
    time.sleep(60)


def _exit(args: argparse.Namespace) -> None:
    if dist.get_rank() == 1:
        sys.exit(args.status)
    time.sleep(60)


def _work(args: argparse.Namespace) -> None:
    """Exchange numbers for ever, as a training does, and say who one is."""
    (args.folder / f"pid_{dist.get_rank()}").write_text(str(os.getpid()))
    while True:
        dist.all_reduce(torch.zeros(1))
        time.sleep(0.02)


def test_all_of_them_run(tmp_path):
    start_processes(_say, _arguments(tmp_path))
    assert [(tmp_path / f"said_{rank}").read_text() for rank in (0, 1)] == ["3", "3"]


def test_an_error_of_one_is_raised_with_its_traceback(tmp_path):
    with pytest.raises(ProcessRaisedException, match="the data are wrong") as caught:
        start_processes(_raise, _arguments(tmp_path))
    assert "in _raise" in str(caught.value)


def test_one_that_has_said_why_ends_the_command_quietly(tmp_path):
    with pytest.raises(SystemExit) as caught:
        start_processes(_exit, _arguments(tmp_path, status=BAD_USE))
    assert caught.value.code == BAD_USE


def test_one_that_ends_without_a_word_is_named(tmp_path):
    with pytest.raises(ProcessLostError, match=r"process 1 of 2 .* exit status 7") as caught:
        start_processes(_exit, _arguments(tmp_path, status=7))
    assert "--resume" in str(caught.value)


def test_torchrun_and_our_own_processes_are_refused_together(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="--num-gpus is 2"):
        start_processes(_say, _arguments(None))


_MACHINE = """
import sys
from pathlib import Path
sys.path[:0] = {paths!r}
from fdd.engine.processes import ProcessLostError, start_processes
from test_processes import _arguments, _work

if __name__ == "__main__":
    rank, port = int(sys.argv[1]), sys.argv[2]
    args = _arguments(
        Path({folder!r}), num_machines=2, machine_rank=rank, dist_url="tcp://127.0.0.1:" + port
    )
    try:
        start_processes(_work, args)
    except ProcessLostError as error:
        print("LOST", error)
"""


@pytest.mark.slow
def test_two_machines_of_two_when_one_process_is_killed(tmp_path):
    """Each machine's command ends soon, and says whose fault it was and how to go on."""
    script = tmp_path / "machine.py"
    # The folder of the tests, for the children to import this module from.
    script.write_text(_MACHINE.format(paths=[str(HERE), *sys.path], folder=str(tmp_path)))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE), *sys.path])}
    machines = [
        subprocess.Popen(
            [sys.executable, str(script), str(rank), port],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        for rank in (0, 1)
    ]
    try:
        end = time.monotonic() + 120
        files = [tmp_path / f"pid_{rank}" for rank in range(4)]
        while not all(f.exists() and f.read_text() for f in files) and time.monotonic() < end:
            assert all(machine.poll() is None for machine in machines)
            time.sleep(0.1)
        os.kill(int(files[3].read_text()), 9)
        said = [machine.communicate(timeout=90)[0] for machine in machines]
    finally:
        for machine in machines:
            machine.kill()
    assert "lost the others" in said[0] and "of machine 0" in said[0]
    assert "process 3 of 4" in said[1] and "SIGKILL" in said[1] and "memory" in said[1]
    assert all("--resume" in text for text in said)
    for file in files:  # none is left behind
        assert not Path(f"/proc/{file.read_text()}").exists()
