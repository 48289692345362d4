"""Two trainings at a time do not share a folder, and a killed one does not block it."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from engine_toys import Cut, make_trainer, toy_cfg
from fdd.engine.run_folder import LOCK, describe_holder, hold_folder, refuse_held_folder

ONE = ("SOLVER.MAX_ITER", 1)
# Begins a process for each folder that it reads: what it imports takes longer than these tests.
HOLDERS = """
import os, sys, time
from fdd.engine.run_folder import hold_folder
for folder in iter(sys.stdin.readline, ""):
    if os.fork() == 0:
        with hold_folder(folder.rstrip()):
            print(os.getpid(), flush=True)
            time.sleep(600)
"""


@pytest.fixture(scope="module")
def holders():
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", HOLDERS], stdin=pipe, stdout=pipe, text=True) as p:
        yield p
        p.kill()


@pytest.fixture
def other(holders, tmp_path):
    """Number of another process, which holds ``tmp_path / "out"``."""
    print(tmp_path / "out", file=holders.stdin, flush=True)
    pid = int(holders.stdout.readline())
    yield pid
    os.kill(pid, signal.SIGKILL)


def contents(folder):
    return {p.name: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("options", [[], ["--overwrite"], ["--resume"]])
def test_a_running_training_is_left_alone(other, command, tmp_path, options):
    folder = tmp_path / "out"
    (folder / "model_0000001.pth").write_text("of the running one")
    before = contents(folder)
    with pytest.raises(FileExistsError, match=rf"{folder}: .*running.*process {other}\b"):
        command(*options, *map(str, ONE))
    assert contents(folder) == before, "not even the log"


def test_a_trainer_refuses_too(other, toy_set, tmp_path):
    trainer = make_trainer(toy_cfg(tmp_path / "out", *ONE))
    before = contents(tmp_path / "out")
    with pytest.raises(FileExistsError, match=f"process {other}"):
        trainer.train()
    assert contents(tmp_path / "out") == before


def gone(pid):
    """Wait until a process has ended; its parent need not have asked."""
    while Path(f"/proc/{pid}").exists() and ") Z" not in Path(f"/proc/{pid}/stat").read_text():
        time.sleep(0.01)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_training_blocks_nobody(other, toy_set, tmp_path, how):
    """Whatever it left: a scheduler stops trainings, and starts them on another machine."""
    folder = tmp_path / "out"
    os.kill(other, how)
    gone(other)
    assert (folder / LOCK).exists() and describe_holder(folder) == ""
    (folder / LOCK).write_text(json.dumps({"pid": os.getpid(), "host": "elsewhere"}))
    make_trainer(toy_cfg(folder, *ONE)).train()
    assert (folder / "model_final.pth").exists() and not (folder / LOCK).exists()


def test_a_worker_that_outlives_a_killed_training_does_not_hold_it(tmp_path):
    """As a loader's worker, which looks for its parent now and then only."""
    script = (
        "import os, time\n"
        "from fdd.engine.run_folder import hold_folder\n"
        f"with hold_folder({str(tmp_path)!r}):\n"
        "    if os.fork() == 0:\n"
        "        time.sleep(60)\n"
        "        os._exit(0)\n"
        "    print(flush=True)\n"
        "    time.sleep(60)\n"
    )
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=pipe, text=True, start_new_session=True
    ) as training:
        training.stdout.readline()
        assert f"process {training.pid}" in describe_holder(tmp_path)
        training.kill()
        training.wait()
        try:
            assert describe_holder(tmp_path) == ""
        finally:
            os.killpg(training.pid, signal.SIGKILL)


def test_the_end_of_a_training_does_not_free_the_folder_of_another(tmp_path):
    """Somebody deleted the first one's file, and began a second training."""
    first, second = ExitStack(), ExitStack()
    first.enter_context(hold_folder(tmp_path))
    (tmp_path / LOCK).unlink()
    second.enter_context(hold_folder(tmp_path))
    first.close()
    assert f"process {os.getpid()}" in describe_holder(tmp_path)
    second.close()
    assert not (tmp_path / LOCK).exists()


def test_the_lock_is_there_as_long_as_the_training(toy_set, tmp_path, monkeypatch):
    trainer = make_trainer(toy_cfg(tmp_path, "SOLVER.MAX_ITER", 3), cut_at=1)
    seen = []
    step = trainer.run_step
    monkeypatch.setattr(
        trainer, "run_step", lambda: (seen.append(describe_holder(tmp_path)), step())
    )
    with pytest.raises(Cut):
        trainer.train()
    assert seen and all(f"process {os.getpid()}" in text for text in seen)
    assert not (tmp_path / LOCK).exists()
    refuse_held_folder(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"pid": 1}'])
def test_what_the_file_says_counts_for_nothing(tmp_path, content):
    (tmp_path / LOCK).write_bytes(content)
    assert describe_holder(tmp_path) == ""
    with hold_folder(tmp_path):
        assert f"process {os.getpid()} on {socket.gethostname()}" in describe_holder(tmp_path)
        (tmp_path / LOCK).write_bytes(content)
        assert "a training is running" in describe_holder(tmp_path)


def test_a_disk_without_locks_keeps_nobody_out(tmp_path, monkeypatch):
    def flock(descriptor, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", flock)
    with hold_folder(tmp_path):
        assert describe_holder(tmp_path) == ""


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"), hold_folder(tmp_path / "file"):
        pass
