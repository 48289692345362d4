from __future__ import annotations

import pytest

from labels_toys import write_images, write_run


@pytest.fixture(scope="session")
def toy(tmp_path_factory):
    """Images, points and a run; read by all and changed by none."""
    root = tmp_path_factory.mktemp("labels_toy")
    write_images(root)
    write_run(root / "run", root / "toy.yaml")
    return root
