"""Locks of files; tests of a training's folder try them between processes."""

from __future__ import annotations

import os
import socket

import pytest

from fdd.points.file_lock import FileHeldError, FileLock, lock_holder


def test_one_has_it_until_it_is_given_back(tmp_path):
    path = tmp_path / "é.lock"
    assert lock_holder(path) == "" and not path.exists()
    first = FileLock(path)
    me = f"process {os.getpid()} on {socket.gethostname()}"
    assert lock_holder(path) == me
    with pytest.raises(FileHeldError, match=me) as held:
        FileLock(path)
    assert held.value.who == me
    first.release()
    first.release()
    assert not path.exists()
    second = FileLock(path)
    first.release()
    assert lock_holder(path) == me
    second.release()


@pytest.mark.parametrize("content", [b"", b"[]", b'{"pid": 1, "host": "here"}'])
def test_what_a_dead_process_left_keeps_nobody_out(tmp_path, content):
    path = tmp_path / "a.lock"
    path.write_bytes(content)
    assert lock_holder(path) == ""
    lock = FileLock(path)
    assert f"process {os.getpid()}" in lock_holder(path)
    lock.release()


def test_a_fork_does_not_keep_it(tmp_path):
    lock = FileLock(tmp_path / "a.lock")
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        lock.release()  # not its own: the file stays
        os.read(reading, 1)
        os._exit(0)
    try:
        assert lock_holder(lock.path)
        lock.release()
        assert lock_holder(lock.path) == ""
        FileLock(lock.path).release()
    finally:
        os.write(writing, b"x")
        os.waitpid(child, 0)
        os.close(reading), os.close(writing)
