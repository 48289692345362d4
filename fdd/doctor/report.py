"""What the probes find, as text and as JSON."""

from __future__ import annotations

import json
import textwrap
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Problem", "Section", "first_line", "to_json", "to_text"]


@dataclass(frozen=True)
class Problem:
    """Something that is wrong.

    Attributes:
        what: was found.
        fix: what to do about it.
        broken: fdd does not work; else only a part of it does not.
        trace: the traceback, where there is one.
    """

    what: str
    fix: str
    broken: bool = True
    trace: str = ""


@dataclass
class Section:
    """The findings of one probe.

    Attributes:
        title: of the probe.
        lines: values by name, of plain types.
        problems: that it found.
    """

    title: str
    lines: dict[str, Any] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def problem(self, what: str, fix: str, broken: bool = True, trace: str = "") -> None:
        self.problems.append(Problem(what, fix, broken, trace))

    def attempt(self, name: str, function: Callable[[], Any], fix: str, broken: bool = True) -> Any:
        """Note the value of ``function()`` as ``name``, or the error that it ends with."""
        try:
            self.lines[name] = function()
        # A report on what is broken has to outlive it.
        except Exception as error:
            self.lines[name] = f"FAILED: {first_line(error)}"
            self.problem(f"{name}: {first_line(error)}", fix, broken, traceback.format_exc())
            return None
        return self.lines[name]


def to_text(sections: Sequence[Section], traces: bool = False) -> str:
    """As text to read and to paste, with tracebacks if wanted."""
    lines = []
    for section in sections:
        lines.append(f"{section.title}:")
        width = max((len(name) for name in section.lines), default=0)
        lines += [f"  {name:<{width}}  {value}" for name, value in section.lines.items()]
    problems = [(s.title, problem) for s in sections for problem in s.problems]
    lines.append("Problems:" if problems else "Problems: none")
    for title, problem in problems:
        kind = "BROKEN" if problem.broken else "note"
        lines += [f"  {kind} ({title}): {problem.what}", f"    {problem.fix}"]
        if traces and problem.trace:
            lines.append(textwrap.indent(problem.trace.rstrip(), "    | "))
    return "\n".join(lines) + "\n"


def to_json(sections: Sequence[Section]) -> str:
    """As JSON: ``sections``, values by title and name, and ``problems``."""
    problems = [
        {"section": s.title, "what": p.what, "mend": p.fix, "broken": p.broken, "trace": p.trace}
        for s in sections
        for p in s.problems
    ]
    content = {"sections": {s.title: s.lines for s in sections}, "problems": problems}
    return json.dumps(content, indent=1, ensure_ascii=False, default=str) + "\n"


def first_line(error: Exception, limit: int = 200) -> str:
    """Class and first line of an error."""
    text = (str(error).strip().splitlines() or [""])[0][:limit]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
