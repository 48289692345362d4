"""Results as text: a line while it runs, a summary, and the table of the documents.

``python -m benchmarks.report output/bench.json docs/performance.md`` puts the table between the
markers of the document.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"


def seconds(value: float | None) -> str:
    """1.23 s, 4.56 ms or 7.89 us, three figures."""
    if value is None:
        return "-"
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if value >= size or unit == "us":
            return f"{_three(value / size)} {unit}"
    raise AssertionError


def _three(value: float) -> str:
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:,.{digits}f}"


def _or_dash(value: float | None, suffix: str = "") -> str:
    return "-" if value is None else _three(value) + suffix


def _target(row: dict[str, Any]) -> str:
    parts = []
    if row["target"] is not None:
        parts.append(f"{row['target']:g}{'x' if row['unit'] == 'x' else ' ' + row['unit']}")
    if row["memory_target"] is not None:
        parts.append(f"{row['memory_target']:.3g}x memory")
    return ", ".join(parts) or "-"


def _gain(row: dict[str, Any]) -> str:
    if row["rate"] is not None:
        ratio = "" if row["ratio"] is None else f" ({_three(row['ratio'])}x)"
        return f"{_three(row['rate'])} {row['unit']}{ratio}"
    return _or_dash(row["ratio"], "x")


def _verdict(row: dict[str, Any]) -> str:
    if row["status"] != "ok":
        return row["status"]
    return {True: "yes", False: "**no**", None: "-"}[row["met"]]


def line(result: Any) -> str:
    """One result, for the terminal."""
    row = result.as_json()
    if row["status"] != "ok":
        return f"{row['name']:44} {row['status']}: {row['note']}"
    memory = ""
    if row["ours_mib"] is not None:
        memory = f"  {_or_dash(row['ours_mib'])} : {_or_dash(row['peer_mib'])} MiB"
    if row["memory_ratio"] is not None:
        memory += f" = {_three(row['memory_ratio'])}x"
    target = "" if row["met"] is None else f"  target {_target(row)}: {_verdict(row).strip('*')}"
    return (
        f"{row['name']:44} {seconds(row['ours_s'])} : {seconds(row['peer_s'])} = {_gain(row)}"
        f"{memory}  ({row['quiet_rounds']} of {row['rounds']} rounds quiet){target}"
    )


def summary(results: Sequence[Any], wall_s: float, path: Path | None) -> str:
    """What a whole run came to."""
    met = [r for r in results if r.met is not None]
    parts = [f"{len(results)} rows in {wall_s / 60:.1f} min"]
    parts.append(f"{sum(bool(r.met) for r in met)} of {len(met)} targets met")
    for status in ("failed", "skipped"):
        names = [r.name for r in results if r.status == status]
        if names:
            parts.append(f"{status}: {', '.join(names)}")
    missed = [r.name for r in met if not r.met]
    if missed:
        parts.append(f"missed: {', '.join(missed)}")
    return "; ".join(parts) + (f"; written to {path}" if path else "")


def table(content: dict[str, Any]) -> str:
    """The rows as Markdown, under the conditions of the measurement."""
    conditions = (
        f"`{content['command']}`, commit {content['commit']}, {content['date'][:10]}, "
        f"{content['machine']}, {content['cores']} cores, {content['threads']} threads, PyTorch "
        f"{content['torch']}, malloc: {content['malloc']}; {content['wall_s'] / 60:.1f} minutes. "
        "Times are medians of interleaved rounds, memory is the peak above what was there before."
    )
    lines = [
        conditions,
        "",
        "| row | what | ours | peer | gain | ours MiB | peer MiB | less memory | target | met |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in content["rows"]:
        cells = [
            *(f"`{row['name']}`", row["what"] or row["note"]),
            *(seconds(row["ours_s"]), seconds(row["peer_s"]), _gain(row)),
            *(_or_dash(row["ours_mib"]), _or_dash(row["peer_mib"])),
            *(_or_dash(row["memory_ratio"], "x"), _target(row), _verdict(row)),
        ]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def replace_between_markers(text: str, content: str) -> str:
    """``text`` with what stands between the two markers replaced.

    Raises:
        ValueError: not exactly one pair of markers, in order.
    """
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ValueError(f"expected one {BEGIN} and after it one {END} in the document")
    head, rest = text.split(BEGIN)
    _, tail = rest.split(END)
    return f"{head}{BEGIN}\n\n{content}\n\n{END}{tail}"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__)
    parser.add_argument("json", type=Path, help="result of python -m benchmarks.run")
    parser.add_argument("document", type=Path, help="Markdown file with the markers")
    args = parser.parse_args(argv)
    content = json.loads(args.json.read_text(encoding="utf-8"))
    try:
        text = replace_between_markers(args.document.read_text(encoding="utf-8"), table(content))
    except ValueError as error:
        print(f"{args.document}: {error}", file=sys.stderr)
        return 2
    args.document.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
