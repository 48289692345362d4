"""How long a training will take, said once at its start."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest
import torch

from engine_toys import toy_cfg
from fdd.engine import command
from fdd.engine.hooks import TimeEstimate


@pytest.fixture
def said(monkeypatch, caplog):
    """Runs steps of set lengths; returns (level, text) of what is said."""
    clock = [0.0]
    monkeypatch.setattr("fdd.engine.hooks.time.perf_counter", lambda: clock[0])
    caplog.set_level(logging.INFO, "fdd")

    def run(seconds, max_iter, *, start=0, **options):
        caplog.clear()
        hook = TimeEstimate(**{"on_cpu": True, **options})
        hook.trainer = SimpleNamespace(iter=start, max_iter=max_iter)
        for hook.trainer.iter, length in enumerate(seconds, start):
            hook.before_step()
            clock[0] += length
            hook.after_step()
            clock[0] += 99.0  # evaluations and other hooks
        return [(r.levelno, r.getMessage()) for r in caplog.records]

    return run


def test_it_is_said_once_after_the_first_steps(said) -> None:
    # The first step is slower, and one is disturbed.
    ((level, text),) = said([5.0, 2.0, 2.0, 3.0, 2.0] + [2.0] * 20, 1810)
    assert level == logging.INFO
    assert "1,800 iterations" in text and "2 s each" in text and "about 60 minutes" in text
    assert said([2.0] * 9, 1000) == [], "not before ten steps, or half a minute"


def test_long_steps_are_not_waited_for(said) -> None:
    ((level, text),) = said([40.0], 1001, on_cpu=False)
    assert level == logging.INFO and "11.1 hours" in text


def test_many_hours_on_a_cpu_are_a_warning_that_helps(said) -> None:
    ((level, text),) = said([40.0], 1001)
    assert level == logging.WARNING and "11.1 hours" in text
    assert "fdd init-config" in text and "--network reduced" in text


def test_of_a_resumed_training_what_is_left_counts(said) -> None:
    ((_, text),) = said([60.0], 101, start=90)
    assert "10 iterations are left" in text and "10 minutes" in text
    assert said([60.0], 91, start=90) == [], "nothing is left"


def args(**changes):
    return SimpleNamespace(**{"num_gpus": 1, "num_machines": 1, **changes})


def test_processes_without_gpus_are_said(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    cfg = toy_cfg(tmp_path)
    text = command.describe_processes(args(num_gpus=2), cfg)
    assert "--num-gpus is 2" in text and "no GPU" in text and "2 processes on the CPU" in text
    assert command.describe_processes(args(), cfg) is None
    command.check_processes(args(num_gpus=2))


def test_more_processes_than_gpus_are_refused(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ValueError, match=r"--num-gpus is 3, but torch finds 2"):
        command.check_processes(args(num_gpus=3))
    command.check_processes(args(num_gpus=2))
    cfg = toy_cfg(tmp_path, "MODEL.DEVICE", "cuda")
    assert "MODEL.DEVICE cpu" in command.describe_processes(args(num_gpus=0), cfg)


@pytest.mark.parametrize("changes", [{"num_gpus": -1}, {"num_machines": 0}])
def test_numbers_of_processes_that_mean_nothing(changes) -> None:
    with pytest.raises(ValueError, match="expected 1 or more"):
        command.check_processes(args(**changes))
