"""``fdd init-config``: what it chooses, and what it says of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from fdd.cli.main import main
from fdd.data.catalog import forget
from fdd.data.shapes import generate_shapes
from fdd.engine.configs import merge_cfg


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("init_config")
    generate_shapes(root, num_train=3, num_val=1, size=64)
    return root


@pytest.fixture
def dataset(drawn: Path):
    path = drawn / "shapes.yaml"
    path.write_text("images: shapes/train\npoints: shapes/points_train_p10.json\n")
    yield path
    forget(str(path))


def init(dataset: Path, tmp_path: Path, *words: str) -> Path:
    config = tmp_path / "config.yaml"
    assert main(["init-config", str(dataset), "--output", str(config), *words]) == 0
    return config


@pytest.mark.parametrize("gpu", [True, False])
def test_the_network_is_the_machines(dataset, tmp_path, monkeypatch, capsys, gpu: bool) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: gpu)
    text = init(dataset, tmp_path, "--no-timing").read_text()
    said = capsys.readouterr().out
    assert ("Base-FDD.yaml" if gpu else "Base-Reduced.yaml") in text
    assert ("torch finds a GPU" if gpu else "torch finds no GPU") in said
    assert "--network small" in said, "how to take another"


def test_a_device_or_a_network_may_be_named(dataset, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    config = init(dataset, tmp_path, "--no-timing", "MODEL.DEVICE", "cpu")
    assert "Base-Reduced.yaml" in config.read_text() and merge_cfg(config).MODEL.DEVICE == "cpu"
    assert "because MODEL.DEVICE is not a GPU" in capsys.readouterr().out
    config = init(dataset, tmp_path, "--no-timing", "--overwrite", "--network", "small")
    assert "Base-Small.yaml" in config.read_text()
    assert "Network: small (others" in capsys.readouterr().out


def test_the_training_that_is_proposed_has_a_folder_of_its_own(dataset, tmp_path, capsys) -> None:
    """Each data set may have a config.yaml, and a folder that is in use is refused."""
    (tmp_path / "cells").mkdir()
    for config, name in (("cells/config.yaml", "cells"), ("houses.yaml", "houses")):
        output = str(tmp_path / config)
        assert main(["init-config", str(dataset), "--output", output, "--no-timing"]) == 0
        assert f"OUTPUT_DIR output/{name}\n" in capsys.readouterr().out


def test_the_time_is_measured(dataset, tmp_path, capsys) -> None:
    init(dataset, tmp_path, "--network", "small", "--epochs", "2", "MODEL.DEVICE", "cpu")
    said = capsys.readouterr().out
    line = next(line for line in said.splitlines() if line.startswith("Training: about "))
    assert "s a step, measured" in line and "1 CPU thread;" in line
    assert "px wide" in said


def test_a_time_that_cannot_be_measured_keeps_nobody_from_a_config(
    dataset, tmp_path, monkeypatch, capsys
) -> None:
    def fail(config):
        raise RuntimeError("no memory")

    monkeypatch.setattr("fdd.recipe.training_time.measure_training", fail)
    config = init(dataset, tmp_path)
    said = capsys.readouterr().out
    assert "could not be measured (RuntimeError: no memory)" in said and f"Wrote {config}" in said
    assert config.is_file()
    init(dataset, tmp_path, "--overwrite", "--no-timing")
    assert "measured" not in capsys.readouterr().out
