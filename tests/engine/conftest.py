from __future__ import annotations

import pytest
from engine_toys import registered, write_toy_files


@pytest.fixture(scope="session")
def toy_root(tmp_path_factory):
    root = tmp_path_factory.mktemp("engine_toy")
    write_toy_files(root)
    return root


@pytest.fixture
def toy_set(toy_root):
    with registered(toy_root):
        yield toy_root
