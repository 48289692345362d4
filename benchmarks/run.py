"""All rows in one run: ``python -m benchmarks.run`` (``make bench``).

Exit status: 0; 1 where a row is unequal to its peer or crashes; 2 for wrong arguments or a machine
that cannot measure. A missed target is reported, and counts with ``--strict`` only.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
DEFAULT_JSON = "output/bench.json"


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument("--list", action="store_true", help="name the rows and stop")
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="NAME",
        help="rows whose name begins so, or matches the pattern (dice, 'dice/*/800x1333')",
    )
    parser.add_argument(
        "--json",
        metavar="FILE",
        help=f"where the rows go (default: {DEFAULT_JSON} for a whole run, else nowhere)",
    )
    parser.add_argument("--quick", action="store_true", help="a fifth of the time, rough figures")
    parser.add_argument("--threads", type=int, default=2, help="of PyTorch (default: 2)")
    parser.add_argument(
        "--default-malloc",
        action="store_true",
        help="do not keep pages while time is taken: first-touch page faults count too",
    )
    parser.add_argument("--no-memory", action="store_true", help="leave the memory peaks out")
    parser.add_argument("--strict", action="store_true", help="a missed target is a failure")
    args = parser.parse_args(argv)
    if args.threads < 1:
        parser.error(f"--threads is {args.threads}; it must be at least 1")
    return args


def select(names: Sequence[str], wanted: Sequence[str] | None) -> list[str]:
    """Names that begin like one of ``wanted`` or match it as a pattern, in the order of ``names``.

    Raises:
        ValueError: an entry of ``wanted`` fits no name.
    """
    if wanted is None:
        return list(names)

    def fits(name: str, entry: str) -> bool:
        return name.startswith(entry) or fnmatch(name, entry)

    for entry in wanted:
        if not any(fits(name, entry) for name in names):
            raise ValueError(
                f"no row is called like {entry!r}; the rows: " + ", ".join(sorted(names))
            )
    return [name for name in names if any(fits(name, entry) for entry in wanted)]


def header(options: Any, argv: Sequence[str]) -> dict[str, Any]:
    """Under which conditions the rows were measured."""
    import torch

    return {
        "command": shlex.join(["python", "-m", "benchmarks.run", *argv]),
        "commit": commit(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": f"{_processor()}, {_memory_gib():.0f} GiB, {platform.system()}",
        "cores": os.cpu_count(),
        "threads": options.threads,
        "malloc": "pages kept" if options.keep_pages else "default",
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def commit() -> str:
    from fdd.checkout import checkout_commit

    found = checkout_commit()
    if found is None or not found[0]:
        return "unknown"
    return found[0] + " with changes" * found[1]


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _memory_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a whole file or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        partial.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def exit_status(results: Sequence[Any], strict: bool) -> int:
    """0, or 1 where a row failed, or (``strict``) missed a target."""
    failed = any(r.status == "failed" for r in results)
    return int(failed or (strict and any(r.met is False for r in results)))


def main(argv: Sequence[str] | None = None) -> int:
    argv = list(sys.argv[1:] if argv is None else argv)
    args = parse(argv)
    if not sys.platform.startswith("linux"):
        print(
            f"the benchmarks read /proc and so need Linux; this is {platform.system()}",
            file=sys.stderr,
        )
        return 2
    # Not before the arguments are known to be right: it takes seconds.
    from benchmarks.harness import Options, run_row
    from benchmarks.report import line, summary
    from benchmarks.suite import collect

    rows, missing = collect()
    try:
        chosen = select([r.name for r in rows] + [r.name for r in missing], args.only)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    if args.list:
        for item in (*rows, *missing):
            if item.name in chosen:
                print(f"{item.name:44} {getattr(item, 'note', '') or item.what}")
        return 0
    options = Options(
        threads=args.threads,
        keep_pages=not args.default_malloc,
        time_scale=0.2 if args.quick else 1.0,
        min_rounds=2 if args.quick else 3,
        memory=not args.no_memory,
    )
    path = Path(args.json or DEFAULT_JSON) if args.json or not args.only else None
    content: dict[str, Any] = header(options, argv)
    results = [r for r in missing if r.name in chosen]
    start = time.perf_counter()
    for row in rows:
        if row.name not in chosen:
            continue
        for result in run_row(row, options):
            results.append(result)
            print(line(result), flush=True)
        content |= {
            "wall_s": time.perf_counter() - start,
            "rows": [r.as_json() for r in results],
        }
        if path is not None:  # after each row: an interrupted run keeps what it has
            write_json(path, content)
    print(summary(results, time.perf_counter() - start, path))
    return exit_status(results, args.strict)


if __name__ == "__main__":
    sys.exit(main())
