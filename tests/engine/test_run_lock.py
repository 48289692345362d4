"""Two trainings at a time do not share a folder, and a killed one does not block it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from engine_toys import Cut, make_trainer, toy_cfg

from fdd.engine.run_lock import LOCK, describe_holder, hold_folder, refuse_held_folder

ONE = ("SOLVER.MAX_ITER", 1)
# Begins a process for each folder that it reads: what it imports takes longer than these tests.
HOLDERS = """
import os, sys, time
from fdd.engine.run_lock import hold_folder
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


def test_a_killed_training_blocks_nobody(other, toy_set, tmp_path):
    folder = tmp_path / "out"
    os.kill(other, signal.SIGKILL)
    # Its parent does not ask for its end.
    while ") Z" not in Path(f"/proc/{other}/stat").read_text():
        time.sleep(0.01)
    assert (folder / LOCK).exists() and describe_holder(folder) == ""
    make_trainer(toy_cfg(folder, *ONE)).train()
    assert (folder / "model_final.pth").exists() and not (folder / LOCK).exists()


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


def written(folder):
    with hold_folder(folder):
        return json.loads((folder / LOCK).read_text())


@pytest.mark.parametrize("change", [{"host": "elsewhere"}, {"space": "pid:[1]"}])
def test_what_cannot_be_seen_from_here_is_said(tmp_path, change):
    """The process may be running on another machine, or in another container."""
    entry = written(tmp_path) | change | {"pid": 2**22 + 1}
    (tmp_path / LOCK).write_text(json.dumps(entry))
    with pytest.raises(FileExistsError) as error, hold_folder(tmp_path):
        pass
    text = str(error.value)
    assert entry["host"] in text and "another host" in text
    assert str(tmp_path / LOCK) in text and "delete" in text
    assert json.loads((tmp_path / LOCK).read_text()) == entry


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b'{"pid": 1}', b'{"pid": "1", "host": "", "space": "", "started": ""}'],
)
def test_half_a_lock_is_none(tmp_path, content):
    (tmp_path / LOCK).write_bytes(content)
    assert describe_holder(tmp_path) == ""
    assert written(tmp_path)["pid"] == os.getpid()


def test_a_number_that_another_process_has_now(tmp_path):
    """Numbers come back, in a container always the same ones."""
    entry = written(tmp_path)
    assert entry["host"] == socket.gethostname() and entry["started"]
    (tmp_path / LOCK).write_text(json.dumps(entry))
    assert f"process {os.getpid()}" in describe_holder(tmp_path)
    (tmp_path / LOCK).write_text(json.dumps(entry | {"started": entry["started"] + "0"}))
    assert describe_holder(tmp_path) == ""


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"), hold_folder(tmp_path / "file"):
        pass
