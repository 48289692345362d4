from __future__ import annotations

import pytest
import torch
from engine_toys import registered, write_toy_files


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def toy_root(tmp_path_factory):
    root = tmp_path_factory.mktemp("engine_toy")
    write_toy_files(root)
    return root


@pytest.fixture
def toy_set(toy_root):
    with registered(toy_root):
        yield toy_root
