"""Series of runs: resumed, side by side, and not ended by one that fails."""

from __future__ import annotations

import time

import pytest

from fdd.ablations.queue import RunQueue, finished_in
from fdd.ablations.records import Run, read_record, write_record
from fdd.ablations.tables import Setting

SCRIPT = """
import json, pathlib, sys, time
path, seed = pathlib.Path(sys.argv[1]), int(sys.argv[2])
with open(path.parents[3] / "started", "a") as f: f.write(f"{seed}\\n")
time.sleep(0.3)
if seed == 2: sys.exit("seed 2 is unlucky")
path.parent.mkdir(parents=True, exist_ok=True)
path.write_text(json.dumps({"config_digest": "d", "val": {"PQ": 50.0 + seed}, "labels": {}}))
"""


def make_queue(folder, jobs=1, said=None):
    records = folder / "records"
    records.mkdir(exist_ok=True)
    return RunQueue(
        lambda run: ["-c", SCRIPT, str(run.record(records)), str(run.seed)],
        finished_in(records, lambda run: "d"),
        folder / "runs",
        jobs,
        say=(said if said is not None else []).append,
    )


def some_runs(*seeds):
    return [Run(Setting("shapes", "P1", ()), seed) for seed in seeds]


def test_runs_that_have_a_record_are_skipped(tmp_path):
    said: list[str] = []
    assert make_queue(tmp_path, said=said).work(some_runs(1, 3))
    assert make_queue(tmp_path, said=said).work(some_runs(1, 3, 4))
    assert (tmp_path / "started").read_text().split() == ["1", "3", "4"]
    assert "2 of 3 runs are done already" in said
    assert "P1/default-s3" in said[1] and "PQ  53.0" in said[1]


def test_a_failed_run_is_named_and_the_others_go_on(tmp_path):
    said: list[str] = []
    queue = make_queue(tmp_path, said=said)
    assert not queue.work(some_runs(1, 2, 3))
    assert [run.seed for run in queue.failed] == [2]
    assert "seed 2 is unlucky" in "\n".join(said)
    assert read_record(some_runs(3)[0].record(tmp_path / "records")) is not None


def test_jobs_run_side_by_side(tmp_path):
    """Each of the two waits for the other to start."""
    meeting = """
import pathlib, sys, time
path, seed = pathlib.Path(sys.argv[1]), int(sys.argv[2])
here = path.parents[3]
(here / f"here-{seed}").touch()
for _ in range(600):
    if (here / f"here-{4 - seed}").exists(): break
    time.sleep(0.05)
else: sys.exit("nobody came")
path.parent.mkdir(parents=True, exist_ok=True)
path.write_text('{"config_digest": "d", "val": {"PQ": 1.0}, "labels": {}}')
"""
    queue = make_queue(tmp_path, jobs=2)
    records = tmp_path / "records"
    queue.command = lambda run: ["-c", meeting, str(run.record(records)), str(run.seed)]
    assert queue.work(some_runs(1, 3))


def test_a_run_that_another_series_did_meanwhile_is_not_repeated(tmp_path):
    queue = make_queue(tmp_path)
    first, second = some_runs(1, 3)
    command = queue.command

    def and_the_other(run):
        write_record(second.record(tmp_path / "records"), {"config_digest": "d"})
        return command(run)

    queue.command = and_the_other
    assert queue.work([first, second])
    assert (tmp_path / "started").read_text().split() == ["1"]


def test_each_job_gets_its_share_of_the_machine(tmp_path, monkeypatch):
    queue = make_queue(tmp_path, jobs=2)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    shares = [queue._share(slot) for slot in range(3)]
    assert [share["CUDA_VISIBLE_DEVICES"] for share in shares] == ["3", "5", "3"]
    assert {share["OMP_NUM_THREADS"] for share in shares} == {"4"}
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert queue._share(1)["CUDA_VISIBLE_DEVICES"] == "1"
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert queue._share(0)["OMP_NUM_THREADS"] == "1"


def test_a_record_of_another_config_or_no_record_does_not_count(tmp_path):
    (run,) = some_runs(1)
    path = run.record(tmp_path)
    finished = finished_in(tmp_path, lambda run: "d")
    assert finished(run) is None
    write_record(path, {"config_digest": "other"})
    assert finished(run) is None
    write_record(path, {"config_digest": "d"})
    assert finished(run) == {"config_digest": "d"}
    path.write_text("half of a rec")
    with pytest.raises(ValueError, match="delete it"):
        finished(run)


def test_no_job_is_left_behind_when_the_caller_gives_up(tmp_path):
    queue = make_queue(tmp_path)
    queue.command = lambda run: ["-c", "import time; time.sleep(60)"]
    calls = iter([None, KeyboardInterrupt])

    def interrupted(seconds):
        stop = next(calls)
        if stop:
            raise stop

    process = None
    original = time.sleep
    try:
        time.sleep = interrupted
        with pytest.raises(KeyboardInterrupt):
            queue.work(some_runs(1))
        process = queue._active[0].process
    finally:
        time.sleep = original
    assert process.wait(timeout=10) != 0


def test_no_jobs_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="jobs is 0"):
        make_queue(tmp_path, jobs=0)


def test_nothing_is_started_when_the_time_is_up(tmp_path):
    said: list[str] = []
    queue = make_queue(tmp_path, said=said)
    assert not queue.work(some_runs(1, 3, 4), seconds=0.05)  # the first takes longer and ends
    assert (tmp_path / "started").read_text().split() == ["1"] and not queue.failed
    assert "2 runs are not started" in said[-1] or "2 runs are not started" in said[-2]
    assert queue.work(some_runs(1, 3, 4), seconds=600)
