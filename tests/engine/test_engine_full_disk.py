"""A training whose disk is full, and logs in pipes: as processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import engine_toys
from engine_toys import POINTS, toy_cfg

# The command with the toy model. From iteration LIMIT_AT on no file may grow beyond a few bytes.
_TRAIN = """
import resource, sys
from pathlib import Path
sys.path.insert(0, {here!r})
from engine_toys import registered
from detectron2.engine import HookBase
from fdd.cli.main import main
from fdd.engine import Trainer

class FullDisk(HookBase):
    def before_step(self):
        if self.trainer.iter == {limit_at}:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))

build = Trainer.build_hooks
Trainer.build_hooks = lambda self: [FullDisk(), *build(self)]
with registered(Path({root!r})):
    sys.exit(main(["train", "--config-file", {config!r}, *{words!r}]))
"""


@pytest.fixture
def train(toy_root, tmp_path):
    def run(*words: str, limit_at: int = -1) -> subprocess.CompletedProcess[str]:
        config = tmp_path / "config.yaml"
        config.write_text(toy_cfg(tmp_path / "out", "DATASETS.TRAIN", (POINTS,)).dump())
        code = _TRAIN.format(
            here=str(Path(engine_toys.__file__).parent),
            limit_at=limit_at,
            root=str(toy_root),
            config=str(config),
            words=words,
        )
        return subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            timeout=600,
            # What a continuous integration sets: its logs are files all the same.
            env={**os.environ, "FORCE_COLOR": "1", "TERM": "xterm-256color"},
        )

    return run


@pytest.mark.parametrize("words", [["SOLVER.CHECKPOINT_PERIOD", "2"], []])
def test_a_full_disk_ends_a_training_with_a_sentence(train, tmp_path, words) -> None:
    """At a checkpoint, or else at the metrics of the last iteration."""
    out = tmp_path / "out"
    done = train(*words, "SOLVER.MAX_ITER", "6", limit_at=3)
    assert done.returncode == 2, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("fdd train: error: ")
    assert str(out) in last and "File too large" in last and "ulimit -f" in last
    if words:
        assert f"{out}/model_0000001.pth is complete" in last and "--resume" in last
        assert f"{out}/model_0000003.pth" in last and "iteration 3 of 6" in last
    else:
        assert "No checkpoint had been written" in last
    assert "no more log lines" in done.stderr and "Logging error" not in done.stderr
    assert not list(out.glob("*.tmp"))
    assert not (out / "model_0000003.pth").exists() and not (out / "model_final.pth").exists()
    if not words:
        assert not (out / "last_checkpoint").exists()
        return
    assert (out / "last_checkpoint").read_text() == "model_0000001.pth"
    assert torch.load(out / "model_0000001.pth", weights_only=True)["iteration"] == 1
    # And the advice works.
    done = train("--resume", "SOLVER.MAX_ITER", "4")
    assert done.returncode == 0, done.stderr
    assert "Starting training from iteration 2" in done.stdout
    assert torch.load(out / "model_final.pth", weights_only=True)["iteration"] == 3


def test_there_are_no_colours_in_pipes_and_log_files(train, tmp_path) -> None:
    done = train("SOLVER.MAX_ITER", "1", "MODEL.DEVICE", "cuda")
    assert done.returncode == 0, done.stderr
    log = (tmp_path / "out" / "log.txt").read_text()
    for text in (done.stdout, done.stderr, log):
        assert "\x1b" not in text
    for text in (done.stdout, log):
        assert text.count("Running with full config") == 1, "each line once"
        assert text.count("7 images, 1 iterations") == 1
        assert torch.cuda.is_available() or "WARNING" in text
    # Whole configs, environments and networks are for the file.
    assert "META_ARCHITECTURE: EngineToy" in log and "(head): Linear" in log
    assert "META_ARCHITECTURE" not in done.stdout and "(head): Linear" not in done.stdout
    assert len(done.stdout.splitlines()) < 60 < len(log.splitlines())
    metrics = (tmp_path / "out" / "metrics.json").read_text().splitlines()
    assert json.loads(metrics[-1])["iteration"] == 0
