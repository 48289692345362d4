from __future__ import annotations

import pytest

from fdd.data.shapes import generate_shapes
from run_toys import NUM_TRAIN, NUM_VAL, SIZE, registered


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
