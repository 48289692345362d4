"""The GPU benchmark's code path on tiny sizes, and what it says without a GPU. No timings."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path

import pytest
import torch

from benchmarks import gpu, gpu_measure, gpu_rows
from benchmarks.gpu_measure import GpuCase, GpuResult, run_row
from benchmarks.harness import Result, Row

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


def _nothing() -> None:
    pass


def _row(case: GpuCase, **more) -> Row:
    return Row("fake/row", "made up", lambda: case, **more)


def test_without_a_gpu_one_line_and_status_2(monkeypatch, capsys) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main([]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    assert "no CUDA device" in captured.err


def test_cpu_without_tiny_is_refused(capsys) -> None:
    with pytest.raises(SystemExit) as caught:
        gpu.main(["--device", "cpu"])
    assert caught.value.code == 2 and "--tiny" in capsys.readouterr().err


def test_unknown_row_is_named(capsys) -> None:
    assert gpu.main(["--device", "cpu", "--tiny", "--only", "nonsense"]) == 2
    assert "nonsense" in capsys.readouterr().err


def test_tiny_run_writes_every_row(tmp_path: Path, capsys) -> None:
    path = tmp_path / "deep" / "bench_gpu.json"
    status = gpu.main(["--device", "cpu", "--tiny", "--json", str(path)])
    content = json.loads(path.read_text(encoding="utf-8"))
    rows = {row["name"]: row for row in content["rows"]}
    assert status == 0, [row["note"] for row in rows.values()]
    assert list(rows) == [row.name for row in gpu_rows.all_rows("cpu", tiny=True)]
    for key in ("command", "commit", "date", "machine", "torch", "triton", "driver", "device"):
        assert key in content, key
    assert content["command"].startswith("python -m benchmarks.gpu --device cpu --tiny")
    assert {name.split("/")[0] for name in rows} == {"step", "msda", "color_prior"}
    for row in rows.values():
        assert set(Result("", "").as_json()) <= set(row)
        assert row["status"] == "ok" and row["ours_s"] > 0 and row["rounds"] >= 1
        assert row["deviation"] <= row["tolerance"] and row["met"] is None
        assert (row["ratio"] is None) == (row["peer_s"] is None)
    alone = rows["step/voc/64x96/B2/fp32"]
    assert alone["images_s"] == pytest.approx(2 / alone["ours_s"]) and alone["peer_s"] is None
    assert "msda/" in capsys.readouterr().out


def test_names_on_a_gpu_are_unique_and_targets_stand() -> None:
    rows = gpu_rows.all_rows("cuda")
    names = [row.name for row in rows]
    assert len(set(names)) == len(names)
    by_name = {row.name: row for row in rows}
    assert by_name["msda/bf16/22223/B2/300/triton"].target == 3
    assert by_name["msda/fp32/5440/B1/all/torch"].target is None
    assert by_name["color_prior/133/100x167/triton"].target == 1.5
    assert by_name["step/512x512/compiled"].memory_target == 2
    assert names[-1] == "step/512x512/compiled"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (torch.cuda.OutOfMemoryError("too large"), "failed"),
        (RuntimeError("kernel"), "failed"),
        (ImportError("No module named 'x'"), "skipped"),
    ],
)
def test_a_failing_row_costs_no_other(error: Exception, status: str) -> None:
    def broken() -> None:
        raise error

    good = GpuCase(_nothing, None, lambda: 0.0)
    rows = [_row(GpuCase(broken, None, lambda: 0.0)), _row(good)]
    kept: list[int] = []
    args = Namespace(device="cpu", tiny=True, budget=60.0)
    first, second = gpu.measure_all(rows, args, lambda r, _: kept.append(len(r)))
    assert first.status == status and str(error) in first.note and first.ours_s is None
    assert second.status == "ok" and kept == [1, 2]


def test_unequal_forms_are_not_timed() -> None:
    calls: list[int] = []
    case = GpuCase(lambda: calls.append(1), _nothing, lambda: float("nan"))
    result = run_row(_row(case, tolerance=1.0), "cpu")
    assert result.status == "failed" and "differ" in result.note and not calls


def test_sides_are_timed_in_turns_in_alternating_order() -> None:
    order: list[str] = []
    sides = {name: lambda name=name: (order.append(name), time.sleep(0.02)) for name in "ab"}
    timing = gpu_measure.time_in_turns(sides, 0.0, "cpu")
    assert len(timing.quiet) == len(timing.seconds["a"]) == len(timing.seconds["b"]) == 5
    assert order[-10:] == list("abbaabbaab") and timing.least("a") >= 0.02


class _FakeEvent:
    """Counts 5 ms from one record to the next."""

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        pass

    def elapsed_time(self, end: _FakeEvent) -> float:
        return 5.0


@pytest.fixture
def fake_cuda(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "Event", _FakeEvent)
    for name in ("synchronize", "empty_cache", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, _nothing)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 3 << 20)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 10 << 20)


def test_a_gpu_s_figures_are_of_its_events_and_above_the_start(fake_cuda) -> None:
    case = GpuCase(_nothing, _nothing, lambda: 0.0, images=1, inputs_mib=3, floor_mib=5)
    result = run_row(_row(case, target=1, memory_target=2, seconds=0.0), "cuda")
    # A first call of 5 ms makes rounds of four calls, which also last 5 ms together.
    assert result.ours_s == pytest.approx(0.005 / 4) and result.ratio == 1
    assert result.ours_mib == 7 and result.peer_mib == 7 and result.rounds == 5
    assert result.floor_ratio == 2 and result.met is False  # half the memory was wanted


def test_a_lost_device_ends_the_run_with_a_reason(fake_cuda, monkeypatch) -> None:
    def illegal() -> None:
        raise RuntimeError("illegal memory access")

    monkeypatch.setattr(torch.cuda, "synchronize", illegal)
    rows = [_row(GpuCase(illegal, None, lambda: 0.0)), _row(GpuCase(_nothing, None, lambda: 0.0))]
    args = Namespace(device="cuda", tiny=False, budget=60.0)
    first, second = gpu.measure_all(rows, args, lambda *_: None)
    assert first.status == "failed" and "illegal" in first.note
    assert second.status == "skipped" and first.name in second.note


def test_an_interrupt_is_no_row_s_failure() -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_row(_row(GpuCase(interrupt, None, lambda: 0.0)), "cpu")


def test_rows_after_the_budget_are_skipped() -> None:
    args = Namespace(device="cpu", tiny=True, budget=-1.0)
    (result,) = gpu.measure_all([_row(GpuCase(_nothing, None, lambda: 0.0))], args, lambda *_: None)
    assert result.status == "skipped" and "--only" in result.note


@pytest.mark.parametrize(("peak", "met"), [(110.0, True), (150.0, False)])
def test_memory_is_judged_by_the_floor(peak: float, met: bool) -> None:
    case = GpuCase(
        _nothing, None, lambda: 0.0, images=2, inputs_mib=100, floor_mib=200, judge_floor=True
    )
    base = GpuResult("a", "b", met=True, ours_mib=peak, ours_s=0.5)
    result = gpu_measure.with_derived(base, case)
    assert result.floor_ratio == pytest.approx((100 + peak) / 200) and result.met is met
    assert result.images_s == 4 and result.ours_gib == pytest.approx(peak / 1024)


def test_samples_keep_away_from_cell_borders() -> None:
    shapes = ((5, 7), (3, 4))
    (value, locations, weights), grad = gpu_rows.attention_inputs(
        torch.float32, shapes, 2, None, "cpu"
    )
    assert value.shape[:2] == (2, 47) and grad.shape == (2, 47, value[0, 0].numel())
    torch.testing.assert_close(weights.sum((-1, -2)), torch.ones(2, 47, value.shape[2]))
    sizes = torch.tensor([[7.0, 5.0], [4.0, 3.0]])[:, None]
    part = (locations.detach() * sizes - 0.5) % 1
    assert float(part.min()) > 0.04 and float(part.max()) < 0.96


def test_module_runs_as_a_command() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2 and "no CUDA device" in done.stderr
