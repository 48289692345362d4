"""What a training step costs, as numbers and as a table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import NamedTuple

from tabulate import tabulate


@dataclass
class Cost:
    """FLOPs, bytes that non-view operators read and write, kernels, and seconds in them.

    Seconds are measured where operators are done when they return: on the CPU only.
    """

    flops: int = 0
    moved: int = 0
    kernels: int = 0
    seconds: float = 0.0

    def __iadd__(self, other: Cost) -> Cost:
        for entry in fields(self):
            setattr(self, entry.name, getattr(self, entry.name) + getattr(other, entry.name))
        return self


class Origin(NamedTuple):
    """Where an operator ran: part of the model, pass, operator, and line of the forward pass."""

    part: str
    backward: bool
    op: str
    line: str


class Wait(NamedTuple):
    """The host waits for the device: where, and why (:func:`fdd.profiling.operators.wait_of`)."""

    why: str
    op: str
    part: str
    line: str


class Output(NamedTuple):
    """A result of an operator."""

    numel: int
    shape: tuple[int, ...]
    op: str
    part: str
    line: str


@dataclass
class StepCost:
    """Cost of one forward and backward pass. All sizes are bytes.

    Attributes:
        costs: by origin.
        saved: bytes kept for the backward pass, by part and line.
        peak: most bytes alive at once, above those that were there before the step: activations,
            temporary results and parameter gradients; no parameters, no workspace of a kernel.
        kept: of these, bytes alive when the forward pass ends.
        waits: where the host waits for the device.
        largest: the largest results, in falling order.
    """

    parts: tuple[str, ...]
    costs: dict[Origin, Cost] = field(default_factory=dict)
    saved: dict[tuple[str, str], int] = field(default_factory=dict)
    peak: int = 0
    kept: int = 0
    waits: list[Wait] = field(default_factory=list)
    largest: list[Output] = field(default_factory=list)

    def sum(self, keep: Callable[[Origin], bool] = lambda origin: True) -> Cost:
        """Sum over the origins that ``keep`` accepts."""
        total = Cost()
        for origin, cost in self.costs.items():
            if keep(origin):
                total += cost
        return total

    def saved_by(self, part: str | None = None) -> int:
        """Bytes saved for the backward pass by one part, or by all."""
        return sum(n for (owner, _), n in self.saved.items() if part in (None, owner))

    def by_part(self) -> dict[str, dict[str, int]]:
        """``flops``, ``moved``, ``saved`` and ``kernels`` of each part, and of the ``total``."""
        rows = {}
        for part in (*self.parts, "total"):
            name = None if part == "total" else part
            cost = self.sum(lambda origin, name=name: name in (None, origin.part))  # type: ignore[misc]
            rows[part] = {
                "flops": cost.flops,
                "moved": cost.moved,
                "saved": self.saved_by(name),
                "kernels": cost.kernels,
            }
        return rows

    def seconds_of(self, part: str | None = None) -> float:
        """Seconds in the operators of one part, or of all."""
        return self.sum(lambda origin: part in (None, origin.part)).seconds

    def table(self) -> str:
        """One row a part: GFLOP, GB moved, MiB saved, kernels, and shares of the step.

        On the CPU, milliseconds too.
        """
        parts = self.by_part()
        total, seconds = parts["total"], self.seconds_of()
        head = ["part", "GFLOP", "%", "GB moved", "%", "MiB saved", "%", "kernels"]
        digits = ["g", ".2f", ".1f", ".3f", ".1f", ".1f", ".1f", "g"]
        if seconds:
            head, digits = [*head, "ms", "%"], [*digits, ".1f", ".1f"]
        rows: list[list[object]] = []
        for part, row in parts.items():
            cells: list[object] = [part]
            for key, unit in (("flops", 1e9), ("moved", 1e9), ("saved", 2**20)):
                cells += [row[key] / unit, 100 * row[key] / max(total[key], 1)]
            cells.append(row["kernels"])
            if seconds:
                own = self.seconds_of(None if part == "total" else part)
                cells += [1000 * own, 100 * own / seconds]
            rows.append(cells)
        lines = [tabulate(rows, head, tablefmt="plain", floatfmt=digits)]
        lines.append(
            f"peak {self.peak / 2**20:.1f} MiB above the start, {self.kept / 2**20:.1f} MiB alive "
            f"after the forward pass; the host waits {len(self.waits)} times"
        )
        lines += [f"  {w.why}: {w.op} in {w.line} ({w.part})" for w in self.waits]
        return "\n".join(lines)

    def hot(self, group: str = "line", measure: str = "moved", top: int = 20) -> str:
        """The dearest lines or operators, one a row.

        Args:
            group: "line", "op" or "part".
            measure: "moved", "flops", "kernels", "seconds", or "saved" (by line only).
        """
        sums: dict[tuple[str, ...], float] = {}
        if measure == "saved":
            sums = {key: n for key, n in self.saved.items()}
        else:
            for origin, cost in self.costs.items():
                phase = "bwd" if origin.backward else "fwd"
                key = (origin.part, phase, getattr(origin, group))
                sums[key] = sums.get(key, 0) + getattr(cost, measure)
        total = sum(sums.values()) or 1
        best = sorted(sums.items(), key=lambda item: -item[1])[:top]
        style = ">16.4f" if measure == "seconds" else ">16,"
        return "\n".join(
            f"{n:{style}} {100 * n / total:>5.1f} %  {'  '.join(key)}" for key, n in best
        )
