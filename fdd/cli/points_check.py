"""Find what is wrong with point labels before hours of training are lost to it.

DATA is a data set file (YAML), whose labels, images, masks and validation part are all checked,
or a file of point labels (JSON). Every finding has the number of a rule, says where it is, and how
to fix it: E is an error (training or evaluation fails, or is quietly wrong), W a warning (probably
not meant), I a note. --list-rules shows all of them.

At the end the supervision audit runs the loader on some images and proves that no box, area or mask
reaches training.

Exit status: 0 without errors (with --strict: nor warnings), 1 with some, 2 if it failed."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fdd.cli.options import comma_list
from fdd.cli.terminal import printable
from fdd.points.wording import counted

if TYPE_CHECKING:
    from fdd.points.rules import CheckOptions, CheckResult, CheckTarget

EXAMPLES = """
fdd points check cells.yaml
fdd points check points.json --images images --fix
fdd points check cells.yaml --config-file train.yaml --strict --json findings.json
fdd points check cells.yaml --ignore W205,I --audit-images 200
"""

_DEFAULT_AUDIT_IMAGES = 32


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", metavar="DATA", nargs="?", help="data set file, or point labels")
    parser.add_argument(
        "--images", metavar="DIR", help="folder of the images (default: the data set file's)"
    )
    parser.add_argument("--json", metavar="FILE", help="write all findings as JSON; - is stdout")
    parser.add_argument("--strict", action="store_true", help="let warnings fail, too")
    parser.add_argument(
        "--rules", metavar="LIST", help="only these, e.g. E202,W2 (W2: all that begin so)"
    )
    parser.add_argument("--ignore", metavar="LIST", help="without these, e.g. W205,I")
    parser.add_argument("--list-rules", action="store_true", help="show all rules, and stop")
    fix = parser.add_argument_group("fixing")
    fix.add_argument(
        "--fix", action="store_true", help="fix what is safe to fix, say what, and check again"
    )
    fix.add_argument(
        "--output", metavar="FILE", help="fixed labels (default: NAME.fixed.json beside the old)"
    )
    fix.add_argument(
        "--in-place", action="store_true", help="fix the file itself; NAME.json.bak keeps the old"
    )
    _add_training_arguments(parser.add_argument_group("how training will see it"))
    looks = parser.add_argument_group("how closely to check")
    looks.add_argument(
        "--decode", action="store_true", help="decode every image and mask (default: headers)"
    )
    looks.add_argument("--no-images", action="store_true", help="open no image and no mask")
    looks.add_argument("--audit", action="store_true", help="the supervision audit alone")
    looks.add_argument("--no-audit", action="store_true", help="leave the supervision audit out")
    looks.add_argument(
        "--audit-images",
        metavar="N",
        type=int,
        default=_DEFAULT_AUDIT_IMAGES,
        help="images that the audit runs through the loader (default: %(default)s)",
    )


def _add_training_arguments(group: Any) -> None:
    group.add_argument(
        "--config-file", metavar="FILE", help="take the following from this training config"
    )
    group.add_argument(
        "--short-side",
        metavar="PX",
        type=int,
        help="short side of images in training (default: 800; least of INPUT.MIN_SIZE_TRAIN)",
    )
    group.add_argument(
        "--max-side",
        metavar="PX",
        type=int,
        help="longest side of images in training (default: 1333; INPUT.MAX_SIZE_TRAIN)",
    )
    group.add_argument(
        "--num-queries",
        metavar="N",
        type=int,
        help="most things in an image (default: MODEL.FDD.PAN.NUM_QUERIES of --config-file)",
    )


def run(args: argparse.Namespace) -> int:
    from fdd.points.rules import CheckResult, CheckTarget, check_data
    from fdd.points.rules.listing import list_rules

    if args.list_rules:
        print(list_rules())
        return 0
    if args.data is None:
        raise ValueError("no DATA given: name a data set file (YAML) or a file of point labels")
    cfg, options = _options(args)
    target = CheckTarget.find(args.data, args.images)
    if args.json and Path(args.json).resolve() in (
        Path(args.data).resolve(),
        target.points.resolve(),
    ):
        raise ValueError(f"--json {args.json} would replace what is checked; choose another file")
    out = sys.stderr if args.json == "-" else sys.stdout
    if args.audit:
        result = CheckResult()
        statement = _audit(target, args, cfg, result, must=True)
    else:
        if args.fix:
            target = _fix(target, args, options, out)
        result = check_data(target, options)
        statement = "" if args.no_audit else _audit(target, args, cfg, result, must=False)
    result.keep(options.rules)
    _report(result, statement, args, out)
    return int(result.failed(args.strict))


def _options(args: argparse.Namespace) -> tuple[Any, CheckOptions]:
    """The training config, where there is one, and how to check."""
    from fdd.points.rules import CheckOptions, Grid, select_rules

    for name in ("short_side", "max_side", "num_queries", "audit_images"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name.replace('_', '-')} is {value}; expected at least 1")
    if (args.output or args.in_place) and not args.fix:
        raise ValueError("--output and --in-place say where --fix writes; add --fix")
    if args.output and args.in_place:
        raise ValueError("give --output or --in-place, not both")
    if args.output and Path(args.output).exists():
        raise FileExistsError(f"{args.output} exists; choose another --output")
    options = CheckOptions(
        rules=select_rules(comma_list(args.rules), comma_list(args.ignore)),
        read_files=not args.no_images,
        decode=args.decode,
        progress=_progress,
    )
    cfg = None
    if args.config_file:
        from fdd.config import most_things
        from fdd.engine.configs import merge_cfg

        cfg = merge_cfg(args.config_file)
        points, sizes = cfg.INPUT.POINTS, cfg.INPUT.MIN_SIZE_TRAIN
        grid = Grid(
            short_side=min(sizes) if isinstance(sizes, (tuple, list)) else sizes,
            max_side=cfg.INPUT.MAX_SIZE_TRAIN,
            dilate_side=points.DILATE_SIDE,
            dilate_reference=points.DILATE_REFERENCE,
        )
        options = replace(
            options,
            grid=grid,
            num_queries=most_things(cfg),
            min_side=points.MIN_IMAGE_SIDE,
        )
    grid = replace(
        options.grid,
        short_side=args.short_side or options.grid.short_side,
        max_side=args.max_side or options.grid.max_side,
    )
    return cfg, replace(options, grid=grid, num_queries=args.num_queries or options.num_queries)


def _progress(items: Iterable[Any], total: int, what: str) -> Iterable[Any]:
    from tqdm import tqdm

    # A bar for people only, and only for what takes a while.
    return tqdm(items, total=total, desc=what, unit="", leave=False, disable=None, delay=1)


def _fix(target: CheckTarget, args: argparse.Namespace, options: CheckOptions, out: Any) -> Any:
    """Fix the labels; the data set with the fixed file."""
    from fdd.points.rules import fix_points, read_point_file, write_fixed
    from fdd.points.rules.listing import list_fixes, short_path

    points, _ = read_point_file(target.points)
    fixes = fix_points(points, options.rules) if points is not None else []
    if points is None or not fixes:
        print("--fix: nothing to fix, nothing written\n", file=out)
        return target
    written, backup = write_fixed(points, args.output, args.in_place)
    print(printable(list_fixes(fixes)), file=out)
    old = short_path(str(backup or target.points))
    kept = f"the old file is {old}" if backup else f"{old} is as it was"
    written_to = f"{counted(len(fixes), 'fix', 'fixes')}, written to {short_path(str(written))}"
    print(f"--fix: {written_to}; {kept}", file=out)
    if not args.in_place and target.file is not None:
        print(
            f"  To use it, name it under 'points' in {short_path(str(target.file.path))}", file=out
        )
    print("What is left:\n", file=out)
    return replace(target, points=written)


def _audit(
    target: CheckTarget, args: argparse.Namespace, cfg: Any, result: CheckResult, must: bool
) -> str:
    """Run the supervision audit, if the data allow it; adds its findings."""
    in_the_way = [f for f in result.findings if f.rule[:2] in ("E1", "E2", "E3")]
    if not must:
        if args.no_images or target.images is None:
            return "Supervision audit: not run, it needs the images"
        if cfg is not None and cfg.MODEL.FDD.PAN_SUPERVISION == "full":
            return "Supervision audit: not run, the config trains on masks (PAN_SUPERVISION 'full')"
        if in_the_way or not result.points:
            why = f"training would refuse the data ({in_the_way[0].rule})" if in_the_way else ""
            return f"Supervision audit: not run, {why or 'there are no points'}"
    from fdd.audit.supervision import audit_supervision

    try:
        found = audit_supervision(target, args.audit_images, cfg=cfg)
    except (OSError, ValueError) as error:
        if must:
            raise
        return f"Supervision audit: not run: {error}"
    result.findings += found.findings
    return found.statement()


def _report(result: CheckResult, statement: str, args: argparse.Namespace, out: Any) -> None:
    from fdd.points.rules.listing import (
        findings_json,
        list_findings,
        summary,
        write_findings,
    )

    if result.findings:
        print(printable(list_findings(result.findings)), file=out)
    for remark in result.remarks:
        print(printable(f"({remark})"), file=out)
    if statement:
        print(printable(statement), file=out)
    if not args.audit:
        print(summary(result), file=out)
    if args.json == "-":
        print(findings_json(result.findings), end="")
    elif args.json:
        write_findings(args.json, result.findings)
        print(f"all findings: {args.json}", file=out)
