"""Recorded costs of training steps, and what to say when they change.

``python tests/toys/cost_guard.py`` counts them again and writes ``step_cost.json``. Do that
when a change of cost is wanted, look at the difference, and say in the commit why it is.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch

import fdd.modeling  # noqa: F401  registers the meta-architecture
from fdd.config_files import get_config_file
from fdd.profiling import StepCost, cost_of, step_cfg

RECORD = Path(__file__).resolve().parents[1] / "profiling" / "step_cost.json"
REGENERATE = "python tests/toys/cost_guard.py"
# On another PyTorch than the recorded one, operators are put together a little differently.
TOLERANCE = 0.02
_SLACK = {"flops": 1_000_000, "moved": 1_000_000, "saved": 1_000_000, "kernels": 6}


# Counting takes as long as there are operators: what all layers do alike shows in one of each.
ONE_LAYER = [
    *("MODEL.FDD.ENCODER.NUM_LAYERS", 1, "MODEL.FDD.PSEUDO.NUM_LAYERS", 1),
    *("MODEL.FDD.PAN.LOCATION_LAYERS", 1, "MODEL.FDD.PAN.THING_LAYERS", 1),
    *("MODEL.FDD.PAN.STUFF_LAYERS", 1),
]


class Step(NamedTuple):
    """Size of a step: image in pixels, thing and stuff classes, labelled segments, images; and
    whether the model has one layer of each kind instead of all."""

    height: int
    width: int
    things: int
    stuff: int
    instances: int
    batch: int = 1
    thin: bool = True

    def __str__(self) -> str:
        return (
            f"{self.height}x{self.width}, {self.things}+{self.stuff} classes, "
            f"{self.instances} segments, batch {self.batch}{', one layer' if self.thin else ''}"
        )


STEPS = (
    Step(256, 256, 20, 1, 4, thin=False),
    Step(800, 1333, 80, 53, 11, thin=False),
    Step(256, 256, 20, 1, 4),
    Step(256, 256, 20, 1, 4, batch=2),
    Step(512, 512, 20, 1, 4),
    Step(512, 512, 80, 53, 8),
    Step(600, 800, 20, 1, 4),
    Step(600, 800, 20, 1, 20),
    Step(600, 800, 20, 1, 100),
)


def count(step: Step, *opts: Any) -> StepCost:
    """Cost of one step of the published model on the meta device."""
    classes = ["MODEL.FDD.NUM_THINGS", step.things, "MODEL.FDD.NUM_STUFF", step.stuff]
    layers = ONE_LAYER if step.thin else []
    cfg = step_cfg(get_config_file("Base-FDD"), [*classes, *layers, *opts])
    return cost_of(cfg, step.height, step.width, instances=step.instances, batch=step.batch)


def differences(
    expected: dict[str, dict[str, int]], found: dict[str, dict[str, int]], exact: bool
) -> list[str]:
    """One line for each figure of a part that differs: from what to what, and by how much.

    Args:
        expected, found: part -> ``flops``, ``moved``, ``saved``, ``kernels``.
        exact: False lets a figure differ by 2 %, or by a few kernels or a megabyte.
    """
    lines = [f"part {part} is new" for part in found.keys() - expected.keys()]
    lines += [f"part {part} is gone" for part in expected.keys() - found.keys()]
    for part in expected.keys() & found.keys():
        for key, old in expected[part].items():
            new = found[part][key]
            slack = 0 if exact else max(TOLERANCE * old, _SLACK[key])
            if abs(new - old) > slack:
                change = f"{100 * (new - old) / old:+.2f} %" if old else "from nothing"
                lines.append(f"{part}: {key} {old:,} -> {new:,} ({new - old:+,}, {change})")
    return sorted(lines)


def version() -> str:
    """PyTorch without its build: 2.15.0."""
    return torch.__version__.split("+")[0]


def write_record() -> None:
    steps = {str(step): count(step).by_part() for step in STEPS}
    record = {"regenerate": REGENERATE, "torch": version(), "steps": steps}
    RECORD.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    write_record()
