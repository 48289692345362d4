from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from engine_toys import MASKS, toy_cfg


@pytest.fixture(scope="session")
def train_net():
    path = Path(__file__).parents[2] / "train_net.py"
    spec = importlib.util.spec_from_file_location("train_net", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def command(train_net, toy_set, tmp_path, monkeypatch):
    """Runs train_net.py with the toy config in this process; the run is ``tmp_path / "out"``."""
    # Environment collection takes seconds, and is Detectron2's own.
    monkeypatch.setattr("fdd.engine.command.collect_env_info", lambda: "")
    config = toy_cfg(tmp_path / "out", "DATASETS.TEST", (MASKS,), "MODEL.DEVICE", "cuda")
    config_file = tmp_path / "config.yaml"
    config_file.write_text(config.dump())

    def run(*argv):
        return train_net.main(train_net.parse_args(["--config-file", str(config_file), *argv]))

    return run
