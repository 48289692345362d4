"""Runs every probe, whatever happens to another, and puts what they say together."""

from __future__ import annotations

import json
import textwrap
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Problem", "Section", "diagnose", "first_line", "to_json", "to_text"]


@dataclass(frozen=True)
class Problem:
    """Something that is not as it should be.

    Attributes:
        what: what was found.
        mend: what to do about it.
        broken: fdd cannot work so; else only something of it cannot.
        trace: the traceback, where there is one.
    """

    what: str
    mend: str
    broken: bool = True
    trace: str = ""


@dataclass
class Section:
    """What one probe says.

    Attributes:
        title: of the probe.
        lines: values by name, of plain types.
        problems: what it found wrong.
    """

    title: str
    lines: dict[str, Any] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def problem(self, what: str, mend: str, broken: bool = True, trace: str = "") -> None:
        self.problems.append(Problem(what, mend, broken, trace))

    def attempt(
        self, name: str, function: Callable[[], Any], mend: str, broken: bool = True
    ) -> Any:
        """Note the value of ``function()`` as ``name``, or the error that it ends with."""
        try:
            self.lines[name] = function()
        # A report on what is broken has to outlive whatever is broken.
        except Exception as error:
            self.lines[name] = f"FAILED: {first_line(error)}"
            self.problem(f"{name}: {first_line(error)}", mend, broken, traceback.format_exc())
            return None
        return self.lines[name]


def diagnose(slow: bool = False, probes: Sequence[Any] | None = None) -> list[Section]:
    """Look at everything.

    Args:
        slow: also try what takes longer than a few seconds (the compiled attention).
        probes: functions of a :class:`Section` and ``slow``; their docstrings' first lines are the
            titles. By default all of them.
    """
    if probes is None:
        from fdd.doctor.machine import PROBES as MACHINE
        from fdd.doctor.trials import PROBES as TRIALS

        probes = (*MACHINE, *TRIALS)
    sections = []
    for probe in probes:
        section = Section((probe.__doc__ or probe.__name__).splitlines()[0].rstrip("."))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                probe(section, slow)
            # As in Section.attempt.
            except Exception as error:
                mend = "It may follow from another problem; else see INSTALL.md"
                section.problem(first_line(error), mend, trace=traceback.format_exc())
        sections.append(section)
    return sections


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
        lines += [f"  {kind} ({title}): {problem.what}", f"    {problem.mend}"]
        if traces and problem.trace:
            lines.append(textwrap.indent(problem.trace.rstrip(), "    | "))
    return "\n".join(lines) + "\n"


def to_json(sections: Sequence[Section]) -> str:
    """As JSON: ``sections``, values by title and name, and ``problems``."""
    problems = [{"section": s.title, **vars(p)} for s in sections for p in s.problems]
    content = {"sections": {s.title: s.lines for s in sections}, "problems": problems}
    return json.dumps(content, indent=1, ensure_ascii=False, default=str) + "\n"


def first_line(error: Exception, limit: int = 200) -> str:
    """Class and first line of an error."""
    text = (str(error).strip().splitlines() or [""])[0][:limit]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
