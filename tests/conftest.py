"""What many tests want: one thread, loggers as they were, and a toy data set."""

from __future__ import annotations

import gc
import logging

import pytest
import torch

from engine_toys import registered, write_toy_files


def pytest_collection_modifyitems(items):
    """Files marked slow come first: otherwise one worker would still run the last of them when the
    other one is done."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


def pytest_collection_finish():
    """Modules and tests stay: without this, every collection of garbage looks through them all."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish():
    gc.unfreeze()  # extension modules complain about what is left at the end


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


@pytest.fixture(scope="session")
def toy_root(tmp_path_factory):
    """Files of the toy data sets; read by all and changed by none."""
    root = tmp_path_factory.mktemp("engine_toy")
    write_toy_files(root)
    return root


@pytest.fixture
def toy_set(toy_root):
    """The toy data sets, registered."""
    with registered(toy_root):
        yield toy_root
