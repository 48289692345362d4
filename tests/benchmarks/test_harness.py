"""The harness on made-up rows: what it computes, refuses and reports. No real time is asserted."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks import measure, report, run, suite
from benchmarks.harness import Case, Options, Result, Row, Skip, skipped
from benchmarks.harness import run_row as run_row_and_variants

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")

_MIB = 2**20
_FAST = Options(threads=1, time_scale=0.01, min_rounds=2, memory=False, limit_s=20)


@pytest.fixture(autouse=True)
def _short_measurements(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "_MIN_SIDE_SECONDS", 0.01)


def sleep(seconds: float):
    return lambda: time.sleep(seconds)


def hold(mib: int):
    """A closure that writes to ``mib`` MiB of fresh memory and returns them."""
    return lambda: torch.ones(mib * _MIB // 4)


def run_row(row: Row, options: Options) -> Result:
    (result,) = run_row_and_variants(row, options)
    return result


def make_row(ours, peer, *, deviation: float = 0.0, **more) -> Row:
    return Row("fake/row", "made up", lambda: Case(ours, peer, lambda: deviation), **more)


def test_ratio_is_peer_over_ours_and_decides_the_target() -> None:
    # Sleeps last as long as asked for or longer: the busiest machine keeps their order.
    row = make_row(sleep(0.02), sleep(0.4), target=1.01)
    result = run_row(row, _FAST)
    assert result.status == "ok" and result.rounds >= 2
    assert result.ratio == pytest.approx(result.peer_s / result.ours_s)
    assert result.ours_s >= 0.02 and result.peer_s >= 0.4
    assert result.ours_min_s <= result.ours_s and 1.01 < result.ratio < 20.1
    assert result.met is True and result.memory_ratio is None


def test_a_missed_target_is_reported_not_fatal_unless_strict() -> None:
    result = run_row(make_row(sleep(0.4), sleep(0.02), target=1), _FAST)
    assert result.status == "ok" and result.met is False and result.ratio < 1
    assert run.exit_status([result], strict=False) == 0
    assert run.exit_status([result], strict=True) == 1


def test_items_a_second_without_a_peer() -> None:
    row = make_row(sleep(0.02), None, items=4, unit="images/s", target=1)
    result = run_row(row, _FAST)
    assert result.rate == pytest.approx(4 / result.ours_s) and result.rate <= 200
    assert result.met is True and result.ratio is None and result.peer_s is None


@pytest.mark.parametrize("deviation", [0.1, float("nan"), float("inf")])
def test_unequal_forms_are_not_timed(deviation: float) -> None:
    result = run_row(make_row(sleep(0), sleep(0), deviation=deviation, tolerance=1e-3), _FAST)
    assert result.status == "failed" and result.ours_s is None and result.met is None
    assert "differ" in result.note and "0.001" in result.note
    assert run.exit_status([result], strict=False) == 1


def test_deviation_within_the_tolerance_is_reported() -> None:
    result = run_row(make_row(sleep(0.01), sleep(0.01), deviation=5e-4, tolerance=1e-3), _FAST)
    assert result.status == "ok" and result.deviation == 5e-4 and result.met is None


def test_a_row_that_raises_dies_or_hangs_fails_alone() -> None:
    def raising() -> None:
        raise KeyError("lost")

    results = [
        run_row(make_row(raising, sleep(0)), _FAST),
        run_row(make_row(lambda: os._exit(3), sleep(0)), _FAST),
        run_row(make_row(sleep(30), sleep(0)), Options(threads=1, limit_s=0.5)),
    ]
    assert [r.status for r in results] == ["failed"] * 3
    assert "KeyError" in results[0].note and "lost" in results[0].note
    assert "status 3" in results[1].note and "stopped after" in results[2].note


def test_variants_are_rows_beside_the_same_peer() -> None:
    case = Case(sleep(0.01), sleep(0.04), lambda: 0.0, {"half": sleep(0.02), "none": sleep(0.04)})
    main, half, none = run_row_and_variants(Row("a/b", "c", lambda: case, target=2), _FAST)
    assert [r.name for r in (main, half, none)] == ["a/b", "a/b/half", "a/b/none"]
    assert main.met is True and half.met is None and half.target is None
    assert half.peer_s == none.peer_s == main.peer_s
    assert half.ratio == pytest.approx(main.peer_s / half.ours_s)
    assert main.ratio > half.ratio > none.ratio and half.rounds == main.rounds


def test_what_does_not_exist_here_is_skipped() -> None:
    def setup() -> Case:
        raise Skip("no compiler")

    result = run_row(Row("a/b", "c", setup, target=2), _FAST)
    assert (result.status, result.note, result.met) == ("skipped", "no compiler", None)
    assert run.exit_status([result], strict=True) == 0


def test_memory_of_each_side_is_taken_in_a_process_of_its_own() -> None:
    row = make_row(hold(32), hold(96), memory_target=2.5)
    result = run_row(row, Options(threads=1, time_scale=0.01, min_rounds=2))
    assert result.ours_mib == pytest.approx(32, rel=0.1)
    assert result.peer_mib == pytest.approx(96, rel=0.1)
    assert result.memory_ratio == pytest.approx(3, rel=0.1) and result.met is True
    # Speed and memory must both do.
    both = run_row(
        make_row(hold(32), hold(96), target=1000, memory_target=2.5),
        Options(threads=1, time_scale=0.01, min_rounds=2),
    )
    assert both.met is False


def test_without_memory_a_memory_target_has_no_verdict() -> None:
    result = run_row(make_row(sleep(0.01), sleep(0.1), target=2, memory_target=2), _FAST)
    assert result.ratio > 2 and result.met is None


def test_freed_memory_counts_towards_the_peak() -> None:
    def passing() -> float:
        return float(torch.ones(24 * _MIB // 4).sum())

    row = make_row(passing, lambda: None)
    assert run_row(row, Options(threads=1, time_scale=0.01)).ours_mib == pytest.approx(24, rel=0.1)


def test_median_and_least_use_quiet_rounds_only_if_there_are_three() -> None:
    seconds = {"ours": [1.0, 9.0, 2.0, 3.0, 9.0]}
    calm = measure.Timing(seconds, [True, False, True, True, False])
    assert calm.median("ours") == 2.0 and calm.least("ours") == 1.0
    loud = measure.Timing(seconds, [False, False, True, True, False])
    assert loud.median("ours") == 3.0 and loud.least("ours") == 1.0


def test_rounds_are_bounded_whatever_the_neighbours_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure.Neighbours, "share", lambda self: 1.0)
    timing = measure.time_rounds({"a": sleep(0.2)}, 0.1, min_rounds=2)
    assert timing.quiet == [False, False]
    forked = measure.time_rounds({"a": sleep(0.2)}, 0.1, min_rounds=2, filter_noise=False)
    assert forked.quiet == [True, True]


def test_own_work_is_no_neighbour(monkeypatch: pytest.MonkeyPatch) -> None:
    machine, own = iter([10.0, 13.0]), iter([4.0, 5.0])
    monkeypatch.setattr(measure, "_machine_cpu_seconds", lambda: next(machine))
    monkeypatch.setattr(measure, "_own_cpu_seconds", lambda: next(own))
    clock = iter([0.0, 4.0])
    monkeypatch.setattr(measure, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    assert measure.Neighbours().share() == pytest.approx((3.0 - 1.0) / 4.0)


@pytest.fixture
def fake_suite(monkeypatch: pytest.MonkeyPatch) -> None:
    def case(ours: float, peer: float, deviation: float = 0.0):
        return lambda: Case(sleep(ours), sleep(peer), lambda: deviation)

    def collect():
        rows = [
            Row("a/fast", "a", case(0.001, 0.01), target=2, seconds=0.1),
            Row("a/slow", "b", case(0.01, 0.001), target=2, seconds=0.1),
            Row("b/wrong", "c", case(0, 0, deviation=1.0)),
        ]
        return rows, [skipped("gone", "cannot be imported")]

    monkeypatch.setattr(suite, "collect", collect)


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["--only", "a"], 0),
        (["--only", "a", "--strict"], 1),
        (["--only", "a/fast", "--strict"], 0),
        (["--only", "b"], 1),
        (["--only", "gone"], 0),
        (["--only", "nothing"], 2),
        (["--list"], 0),
    ],
)
def test_exit_status(fake_suite: None, arguments: list[str], status: int) -> None:
    assert run.main([*arguments, "--quick", "--no-memory", "--threads", "1"]) == status


def test_json_holds_the_conditions_and_every_row(fake_suite: None, tmp_path: Path, capsys) -> None:
    path = tmp_path / "deep" / "bench.json"
    status = run.main(["--quick", "--no-memory", "--threads", "1", "--json", str(path)])
    assert status == 1
    content = json.loads(path.read_text())
    assert list(path.parent.iterdir()) == [path]  # no partial file is left
    for key in ("command", "commit", "date", "machine", "cores", "threads", "torch", "wall_s"):
        assert content[key] not in (None, ""), key
    rows = {row["name"]: row for row in content["rows"]}
    assert list(rows) == ["gone", "a/fast", "a/slow", "b/wrong"]
    wanted = {"name", "ours_s", "peer_s", "ratio", "ours_mib", "peer_mib", "target", "met"}
    wanted |= {"memory_ratio", "memory_target", "rounds", "quiet_rounds", "note", "status"}
    assert all(wanted <= set(row) for row in rows.values())
    assert rows["a/fast"]["met"] is True and rows["a/slow"]["met"] is False
    assert rows["b/wrong"]["status"] == "failed" and rows["gone"]["status"] == "skipped"
    text = capsys.readouterr().out
    assert "1 of 2 targets met" in text and "missed: a/slow" in text and "failed: b/wrong" in text


def test_a_whole_file_or_none(tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    run.write_json(path, {"rows": []})
    with pytest.raises(ValueError):
        run.write_json(path, {"ratio": float("nan")})
    assert json.loads(path.read_text()) == {"rows": []} and list(tmp_path.iterdir()) == [path]


def test_rows_are_chosen_by_prefix_or_pattern() -> None:
    names = ["dice/20/full", "dice/53/full", "dice/53/4", "boxes/50"]
    assert run.select(names, None) == names
    assert run.select(names, ["dice/53"]) == names[1:3]
    assert run.select(names, ["boxes", "dice/*/full"]) == [names[0], names[1], names[3]]
    with pytest.raises(ValueError, match=r"'masks'.*boxes/50"):
        run.select(names, ["dice", "masks"])


def test_a_source_that_cannot_be_imported_is_a_skipped_row() -> None:
    rows, missing = suite.collect({"nothing": "rows_of_nothing:rows"})
    assert rows == [] and [r.name for r in missing] == ["nothing"]
    assert missing[0].status == "skipped" and "rows_of_nothing" in missing[0].note


def test_two_rows_of_one_name_are_refused() -> None:
    twice = {"a": "rows_merge:rows", "b": "rows_merge:rows"}
    with pytest.raises(ValueError, match="merge/"):
        suite.collect(twice)


def test_every_source_is_at_hand_and_its_rows_say_what_they_are() -> None:
    rows, missing = suite.collect()
    assert not missing
    assert all("/" in row.name and len(row.what) > 20 for row in rows)
    assert all(row.seconds <= 60 for row in rows)


def test_table_between_markers() -> None:
    good = Result("a/b", "sizes | peer", ours_s=0.002, peer_s=0.5, ratio=250.0, target=100.0)
    late = Result("c", "", status="skipped", note="cannot be imported")
    content = {
        **{"command": "python -m benchmarks.run", "commit": "abc", "date": "2026-01-02T03:04"},
        **{"machine": "M", "cores": 2, "threads": 2, "torch": "2", "malloc": "kept"},
        **{"wall_s": 90.0, "rows": [good.as_json(), late.as_json()]},
    }
    text = f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n"
    new = report.replace_between_markers(text, report.table(content))
    assert new.startswith("before\n") and new.endswith("\nafter\n") and "old" not in new
    assert "| `a/b` | sizes \\| peer | 2.00 ms | 500 ms | 250x | - | - | - | 100x | - |" in new
    assert "| `c` | cannot be imported | - | - | - | - | - | - | - | skipped |" in new
    assert report.replace_between_markers(new, report.table(content)) == new
    for wrong in ("no markers", text + report.BEGIN, f"{report.END}{report.BEGIN}"):
        with pytest.raises(ValueError, match="bench:begin"):
            report.replace_between_markers(wrong, "x")


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (12.34, "12.3 s"), (0.5, "500 ms"), (1.5e-3, "1.50 ms"), (2e-7, "0.20 us")],
)
def test_seconds_are_readable(value: float | None, text: str) -> None:
    assert report.seconds(value) == text
