from __future__ import annotations

import logging

import pytest
import torch
from run_toys import NUM_TRAIN, NUM_VAL, SIZE, registered

from fdd.data.shapes import generate_shapes


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
def shapes_root(tmp_path_factory):
    """A root of data sets that holds ``shapes/``, read by all and changed by none."""
    root = tmp_path_factory.mktemp("run_toy")
    generate_shapes(root, NUM_TRAIN, NUM_VAL, size=SIZE)
    return root


@pytest.fixture
def shapes(shapes_root):
    """The folder of the shapes, registered."""
    with registered(shapes_root / "shapes"):
        yield shapes_root / "shapes"
