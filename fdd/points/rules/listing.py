"""Findings as text for people, and as JSON for programs."""

from __future__ import annotations

import json
import os
import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from fdd.points.files import atomic_path
from fdd.points.findings import RULES, Finding
from fdd.points.rules.check import CheckResult
from fdd.points.rules.fixes import Fix
from fdd.points.wording import counted

__all__ = [
    "findings_json",
    "list_findings",
    "list_fixes",
    "list_rules",
    "short_path",
    "summary",
    "write_findings",
]

_SHOWN = 10
_WIDTH = 100


def list_findings(findings: Sequence[Finding], shown: int = _SHOWN) -> str:
    """Findings by rule: what it is, how to fix it, the first few, and how many more there are."""
    groups: dict[str, list[Finding]] = {}
    for finding in findings:
        groups.setdefault(finding.rule, []).append(finding)
    return "\n".join("\n".join(_group(code, groups[code], shown)) for code in groups)


def _group(code: str, findings: list[Finding], shown: int) -> Iterator[str]:
    rule = RULES[code]
    yield f"{code} {rule.severity}: {rule.title} ({len(findings):,})"
    fixable = sum(f.fixable for f in findings)
    of_them = "" if fixable == len(findings) else f" for {fixable:,} of them"
    yield _wrap(f"{rule.fix} --fix does it{of_them}." if fixable else rule.fix)
    place, here = None, os.getcwd() + os.sep
    for finding in findings[:shown]:
        if finding.file != place:
            place = finding.file
            yield f"  {short_path(place)}:" if place else "  -"
        message = finding.message.replace(here, "").replace("\n", "\\n")  # of a file's name
        yield f"    {message}"
    if len(findings) > shown:
        yield f"    ... and {len(findings) - shown:,} more"
    yield ""


def _wrap(text: str) -> str:
    return textwrap.fill(text, _WIDTH, initial_indent="  -> ", subsequent_indent="     ")


def short_path(path: str) -> str:
    """A path from the working folder, where that is shorter."""
    try:
        near = os.path.relpath(path)
    except ValueError:  # on another drive
        return path
    return near if len(near) < len(path) else path


def summary(result: CheckResult) -> str:
    """One line: how much was found in how much, and whether ``--fix`` would help."""
    found = [counted(n, name) for name in ("error", "warning", "note") if (n := result.count(name))]
    checked = ", ".join(
        counted(getattr(result, f"{name}s"), name) for name in ("image", "segment", "point")
    )
    fixable = sum(f.fixable for f in result.findings)
    hint = f"; --fix fixes {fixable:,}" if fixable else ""
    return f"{', '.join(found) or 'nothing found'} in {checked}{hint}"


def list_fixes(fixes: Sequence[Fix], shown: int = _SHOWN) -> str:
    """What was fixed, by rule, the first few of each."""
    lines = []
    for code, count in sorted(Counter(f.rule for f in fixes).items()):
        lines.append(f"fixed {code}: {RULES[code].title} ({count:,})")
        messages = [f.message for f in fixes if f.rule == code]
        lines += [f"    {message}" for message in messages[:shown]]
        if count > shown:
            lines.append(f"    ... and {count - shown:,} more")
    return "\n".join(lines)


def list_rules() -> str:
    """All rules, one or two lines each."""
    lines = []
    for rule in RULES.values():
        lines.append(f"{rule.code}  {rule.title}{' (--fix)' * rule.fixable}")
        lines.append(
            textwrap.fill(rule.fix, _WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6)
        )
    return "\n".join(lines)


def findings_json(findings: Sequence[Finding]) -> str:
    """A JSON list, one finding a line."""
    lines = (json.dumps(f.to_dict(), ensure_ascii=False, allow_nan=False) for f in findings)
    return "[\n" + ",\n".join(lines) + "\n]\n" if findings else "[]\n"


def write_findings(path: str | os.PathLike[str], findings: Sequence[Finding]) -> None:
    """Write :func:`findings_json`, atomically."""
    with atomic_path(path) as temporary:
        Path(temporary).write_text(findings_json(findings), "utf-8", "backslashreplace")
