"""Jobs beside the server: one at a time, ended with it, and what they say when they fail."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from fdd.annotate.jobs import Busy, Job, JobRunner, new_folder


def _python(text: str) -> list[str]:
    return [sys.executable, "-c", text]


def _job(folder: Path, *commands: list[str], finish=lambda: "all is well", **more) -> Job:
    folder.mkdir(exist_ok=True)
    return Job("training", folder, commands, finish, **more)


def _wait(job: Job, seconds: float = 30) -> Job:
    end = time.monotonic() + seconds
    while job.state == "running" and time.monotonic() < end:
        time.sleep(0.02)
    assert job.state != "running"
    return job


def test_commands_run_in_turn_and_then_it_is_finished(tmp_path):
    order, runner = tmp_path / "order", JobRunner()
    say = "open({!r}, 'a').write('{}'); print('said {}')"
    commands = [_python(say.format(str(order), n, n)) for n in (1, 2)]

    def finish() -> str:
        return order.read_text()

    job = _wait(runner.start(lambda: _job(tmp_path / "j", *commands, finish=finish)))
    assert (job.state, job.said) == ("done", "12")
    assert (tmp_path / "j" / "log.txt").read_text().split("\n")[:2] == ["said 1", "said 2"]
    record = job.record()
    assert record["state"] == "done" and record["said"] == "12" and record["kind"] == "training"


def test_the_first_that_fails_ends_it_with_its_last_lines(tmp_path):
    runner, after = JobRunner(), tmp_path / "after"
    wrong = _python("print('before'); raise SystemExit('the disk is on fire')")
    then = _python(f"open({str(after)!r}, 'w')")
    job = _wait(runner.start(lambda: _job(tmp_path / "j", wrong, then)))
    assert job.state == "failed" and not after.exists()
    assert "exit status 1" in job.said and "the disk is on fire" in job.said
    assert str(tmp_path / "j" / "log.txt") in job.said


def test_of_this_programs_errors_only_the_error_is_said(tmp_path):
    text = "import sys; print('noise'); print('fdd train: error: no weights\\nhere'); sys.exit(2)"
    job = _wait(JobRunner().start(lambda: _job(tmp_path / "j", _python(text))))
    assert "failed (exit status 2): no weights\nhere\nSee " in job.said
    assert "noise" not in job.said


def test_what_cannot_be_started_or_taken_over_fails(tmp_path):
    runner = JobRunner()
    job = _wait(runner.start(lambda: _job(tmp_path / "a", [str(tmp_path / "no such program")])))
    assert job.state == "failed" and "no such program" in job.said

    def finish() -> str:
        raise ValueError("of other classes")

    job = _wait(runner.start(lambda: _job(tmp_path / "b", _python("pass"), finish=finish)))
    assert (job.state, job.said) == ("failed", "of other classes")


def test_one_at_a_time(tmp_path):
    runner = JobRunner()
    job = runner.start(lambda: _job(tmp_path / "a", _python("import time; time.sleep(60)")))
    made = []
    with pytest.raises(Busy, match="a training is running"):
        runner.start(lambda: made.append(1))  # type: ignore[arg-type,return-value]
    assert not made and runner.last is job
    runner.stop()
    assert job.state == "stopped"
    assert _wait(runner.start(lambda: _job(tmp_path / "b", _python("pass")))).state == "done"


def test_a_job_that_cannot_be_made_leaves_the_runner_free(tmp_path):
    runner = JobRunner()

    def make() -> Job:
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space"):
        runner.start(make)
    assert runner.last is None
    assert _wait(runner.start(lambda: _job(tmp_path / "b", _python("pass")))).state == "done"


@pytest.mark.skipif(not hasattr(__import__("os"), "killpg"), reason="needs process groups")
def test_stopping_ends_what_it_has_begun_and_keeps_what_is_there(tmp_path):
    runner, alive = JobRunner(), tmp_path / "alive"
    child = f"import time\nwhile True: open({str(alive)!r}, 'a').write('x'); time.sleep(0.05)"
    parent = (
        "import signal, subprocess, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        f"subprocess.run([sys.executable, '-c', {child!r}])"
    )
    finished: list[int] = []
    begun = time.monotonic()
    job = runner.start(
        lambda: _job(tmp_path / "j", _python(parent), finish=lambda: str(finished.append(1)))
    )
    while not alive.exists() and time.monotonic() < begun + 30:
        time.sleep(0.02)
    runner.stop()
    assert job.state == "stopped" and not finished and str(tmp_path / "j") in job.said
    size = alive.stat().st_size
    time.sleep(0.3)
    assert alive.stat().st_size == size


def test_progress_is_asked_while_it_runs(tmp_path):
    runner = JobRunner()
    job = runner.start(
        lambda: _job(
            tmp_path / "j",
            _python("import time; time.sleep(60)"),
            progress=lambda: (0.25, "1 of 4"),
        )
    )
    record = job.record()
    assert (record["share"], record["words"]) == (0.25, "1 of 4")
    runner.stop()
    assert job.record()["words"] == ""


def test_folders_are_new(tmp_path):
    first, second = (new_folder(tmp_path / "work", "training") for _ in range(2))
    assert (first.name, second.name) == ("training_1", "training_2")
    (tmp_path / "work" / "training_3").write_text("a file")
    assert new_folder(tmp_path / "work", "training").name == "training_4"


@pytest.mark.parametrize("given", ["3", None])
def test_the_number_of_threads_is_the_users_to_choose(tmp_path, monkeypatch, given):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if given is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    say = _python("import os; print('threads', os.environ['OMP_NUM_THREADS'])")
    job = _wait(JobRunner().start(lambda: _job(tmp_path / "j", say)))
    assert job.state == "done"
    assert (tmp_path / "j" / "log.txt").read_text() == f"threads {given or 7}\n"


def test_what_is_done_at_the_end_cannot_leave_it_running(tmp_path):
    def ended() -> None:
        raise OSError("the folder is gone")

    job = _wait(JobRunner().start(lambda: _job(tmp_path / "j", _python(""), ended=ended)))
    assert job.state == "done"
