"""What every test wants: one thread, and loggers as they were."""

from __future__ import annotations

import logging

import pytest
import torch


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def _loggers_as_they_were():
    """Trainers set up loggers that keep to themselves; later tests want to read."""
    loggers = [logging.getLogger(name) for name in ("detectron2", "fvcore", "fdd")]
    before = [(log, log.handlers[:], log.level, log.propagate) for log in loggers]
    for log in loggers:
        log.setLevel(logging.INFO)
    yield
    for log, log.handlers[:], level, log.propagate in before:
        log.setLevel(level)
