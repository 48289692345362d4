"""The time of a training, measured with the data set's own images."""

from __future__ import annotations

import logging
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog

from fdd.recipe.training_time import TrainingTime, measure_training

CONFIG = """
MODEL:
  META_ARCHITECTURE: "EngineToy"
  DEVICE: "cpu"
  WEIGHTS: "detectron2://nowhere/to/be/loaded.pkl"
  FDD: {NUM_THINGS: 1, NUM_STUFF: 1}
DATASETS: {TRAIN: ["toys.yaml"], TEST: ["toys.yaml"]}
DATALOADER: {NUM_WORKERS: 2}
INPUT: {MIN_SIZE_TRAIN: "(40,)", MIN_SIZE_TEST: 32}
SOLVER: {IMS_PER_BATCH: 3, MAX_ITER: 50, STEPS: (), ACCUMULATE_STEPS: 2}
TEST: {EVAL_PERIOD: 20}
VERSION: 2
"""


@pytest.fixture
def config(toy_root: Path, tmp_path: Path) -> Path:
    masks = f"masks: {{json: {toy_root}/panoptic.json, folder: {toy_root}/panoptic}}\n"
    (tmp_path / "toys.yaml").write_text(
        f"images: {toy_root}/images\npoints: {toy_root}/points.json\n{masks}"
    )
    (tmp_path / "config.yaml").write_text(CONFIG)
    return tmp_path / "config.yaml"


@pytest.fixture
def seen(monkeypatch):
    """(training?, number of images) of every forward pass, which takes a set time per image."""
    from engine_toys import EngineToy

    passes: list[tuple[bool, int]] = []
    clock = [0.0]
    forward = EngineToy.forward

    def timed(self, inputs, **options):
        passes.append((self.training, len(inputs)))
        clock[0] += 2.0 * len(inputs)
        return forward(self, inputs, **options)

    monkeypatch.setattr(EngineToy, "forward", timed)
    monkeypatch.setattr("fdd.recipe.training_time.time.perf_counter", lambda: clock[0])
    return passes


def test_a_step_is_a_whole_batch_where_there_is_time(config: Path, seen) -> None:
    found = measure_training(config, budget=1000)
    assert seen == [(True, 1), (True, 3), (True, 3), (False, 1)]
    assert found.whole_batch and found.steps == 50
    assert found.step == 2 * 3 * 2.0, "two micro-batches of three images of two seconds"
    assert found.evaluation == 3 * 7 * 2.0, "after 20, 40 and 50 steps, seven images each"
    assert found.peak_memory is not None and found.peak_memory > 2**20


@pytest.mark.parametrize(("budget", "passes"), [(7.0, 3), (1.0, 1)])
def test_with_little_time_it_follows_from_one_image(config, seen, budget, passes) -> None:
    found = measure_training(config, budget=budget)
    assert not found.whole_batch and found.step == 12.0 and found.peak_memory is None
    assert {size for _, size in seen} == {1} and len(seen) == passes
    assert "on one image" in found.describe()


def test_nothing_is_left_behind(config: Path, tmp_path: Path) -> None:
    registered = set(DatasetCatalog.list()), set(MetadataCatalog.list())
    files = sorted(tmp_path.iterdir())
    random.seed(3)
    np.random.seed(3)  # noqa: NPY002
    torch.manual_seed(3)
    expected = random.random(), np.random.rand(), torch.rand(())  # noqa: NPY002
    random.seed(3)
    np.random.seed(3)  # noqa: NPY002
    torch.manual_seed(3)
    measure_training(config)
    assert (random.random(), np.random.rand(), torch.rand(())) == expected  # noqa: NPY002
    assert (set(DatasetCatalog.list()), set(MetadataCatalog.list())) == registered
    assert sorted(tmp_path.iterdir()) == files
    assert logging.getLogger("fdd").isEnabledFor(logging.ERROR)


def test_nothing_is_left_behind_by_a_failure(config: Path, monkeypatch) -> None:
    from engine_toys import EngineToy

    def fail(self, inputs, **options):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(EngineToy, "forward", fail)
    registered = set(DatasetCatalog.list())
    with pytest.raises(RuntimeError, match="out of memory"):
        measure_training(config)
    assert set(DatasetCatalog.list()) == registered
    assert logging.getLogger("fdd").isEnabledFor(logging.ERROR)


@pytest.mark.parametrize(
    ("step", "steps", "evaluation", "text"),
    [
        (0.9, 600, 60.0, "about 10 minutes on this machine (2 CPU threads; 0.9 s a step, measured"),
        (0.05, 300, 0.0, "about 15 seconds on"),
        (12.0, 3000, None, "about 10.0 hours on"),
    ],
)
def test_it_is_said_in_words(step, steps, evaluation, text: str) -> None:
    time = TrainingTime(step, steps, evaluation, True, "2 CPU threads", 3 * 2**30)
    assert time.describe().startswith(text) and "3.0 GiB" in time.describe()
    assert ("not included" in time.describe()) == (evaluation is None)


def test_a_busy_machine_is_named() -> None:
    def said(undisturbed):
        return TrainingTime(1.0, 600, 0.0, True, "2 CPU threads", None, undisturbed).describe()

    assert "other programs are running: without them about 2 minutes" in said(0.2)
    assert "other programs" not in said(0.6) and "other programs" not in said(None)
