"""`fdd model export`: what it says, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from export_toys import write_run
from fdd.cli.main import main
from fdd.engine.training_record import EXPORT_KEY
from fdd.inference import program_export
from fdd.inference.trained_model import load_trained


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("model_export") / "run")


def test_a_checkpoint_and_what_it_saves(run, tmp_path, capsys) -> None:
    output = tmp_path / "cells.pth"
    assert main(["model", "export", "--model", str(run), "--output", str(output)]) == 0
    said = capsys.readouterr().out
    assert f"Wrote {output}: " in said and "MiB" in said and "only training uses" in said
    assert "16-bit" not in said
    assert load_trained(output).model.label_branch is None


def test_keys_of_the_config_are_kept(run, tmp_path) -> None:
    output = tmp_path / "cells.pth"
    argv = ["model", "export", "--model", str(run), "--output", str(output), "--half"]
    assert main([*argv, "INPUT.MIN_SIZE_TEST", "77"]) == 0
    assert load_trained(output).cfg.INPUT.MIN_SIZE_TEST == 77
    assert torch.load(output, weights_only=True)[EXPORT_KEY]["half"]


@pytest.mark.parametrize("size", [None, (128, 192)])
def test_a_program_and_how_close_it_is(monkeypatch, capsys, size) -> None:
    """The export itself is tested in tests/engine/test_export_program.py: it takes its time."""

    def export_program(model, output, config_file, opts, *, size, weights):
        asked.append((model, output, config_file, opts, size, weights))
        source = Path("run/model_final.pth")
        return program_export.ExportedProgram(
            Path(output), 3 << 20, source, "some size", 4e-7, 0.9991
        )

    asked: list = []
    monkeypatch.setattr(program_export, "export_program", export_program)
    argv = [
        "model",
        "export",
        "--model",
        "run",
        "--output",
        "cells.pt2",
        "INPUT.MIN_SIZE_TEST",
        "77",
    ]
    assert main([*argv, *(["--size", *map(str, size)] if size else [])]) == 0
    assert asked == [("run", "cells.pt2", "", ["INPUT.MIN_SIZE_TEST", "77"], size, None)]
    said = capsys.readouterr().out
    assert "Wrote cells.pt2: 3.0 MiB, for images of some size\n" in said
    assert "Weights: run/model_final.pth (no validation figure known)" in said
    assert "within 4e-07 of the model's; 99.91% of the pixels" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--output", "cells.onnx"], "cells.onnx: its name has to end in .pth or .pt2"),
        (["--output", "cells.pth", "--size", "64", "64"], "--size is for .pt2 files"),
        (["--output", "cells.pt2", "--half"], "--half is for .pth files"),
        (["--output", "cells.bin", "--format", "checkpoint"], "ends in .pth"),
        (["--output", "cells.pth", "MODEL.NO_SUCH", "1"], "MODEL.NO_SUCH"),
    ],
)
def test_mistakes_are_one_line(run, tmp_path, monkeypatch, capsys, words, said) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["model", "export", "--model", str(run), *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("fdd model export: error: ") and said in error
    assert error.count("\n") == 1 and "Traceback" not in error
    assert list(tmp_path.iterdir()) == []
