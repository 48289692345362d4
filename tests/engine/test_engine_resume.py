"""A run that was cut and resumed is the run that was not."""

from __future__ import annotations

import json

import pytest
import torch

from engine_toys import (
    Cut,
    ScoredTrainer,
    assert_same_weights,
    make_trainer,
    toy_cfg,
    weights_of,
)

# 7 images in steps of 4: every cut falls into the middle of an epoch.
OPTIONS = (
    "SOLVER.ACCUMULATE_STEPS", 2, "SOLVER.MAX_ITER", 9, "SOLVER.CHECKPOINT_PERIOD", 3,
    "SOLVER.WARMUP_ITERS", 5, "SOLVER.STEPS", (7,), "DATALOADER.NUM_WORKERS", 2,
)  # fmt: skip


def cut_and_resume(cfg, cut_at, trainer_class=ScoredTrainer):
    with pytest.raises(Cut):
        make_trainer(cfg, trainer_class, cut_at=cut_at).train()
    # Whatever state the interpreter is left in must not matter.
    torch.manual_seed(12345)
    trainer = make_trainer(cfg, trainer_class, resume=True)
    assert trainer.start_iter == cut_at // 3 * 3
    trainer.train()
    return trainer


@pytest.mark.parametrize("grouping", [False, True])
def test_resumed_run_equals_whole_run(toy_set, tmp_path, grouping):
    options = (*OPTIONS, "DATALOADER.ASPECT_RATIO_GROUPING", grouping)
    whole = make_trainer(toy_cfg(tmp_path / "whole", *options), ScoredTrainer)
    whole.train()
    resumed = cut_and_resume(toy_cfg(tmp_path / "cut", *options), cut_at=5)

    assert_same_weights(weights_of(whole), weights_of(resumed))
    states = [t.optimizer.state_dict() for t in (whole, resumed)]
    assert states[0]["param_groups"] == states[1]["param_groups"]
    for key, state in states[0]["state"].items():
        torch.testing.assert_close(state, states[1]["state"][key], rtol=0, atol=1e-6)
    # The schedule really moved: warm-up and one step down.
    assert resumed.optimizer.param_groups[-1]["lr"] == pytest.approx(0.001)


def test_dropout_and_augmentation_take_part(toy_set, tmp_path):
    """Or the test above would prove little: another seed ends elsewhere."""
    ends = []
    for seed in (7, 8):
        cfg = toy_cfg(tmp_path / str(seed), "SEED", seed)
        trainer = make_trainer(cfg, ScoredTrainer)
        trainer.train()
        ends.append(weights_of(trainer)["head.weight"])
    assert (ends[0] - ends[1]).abs().max() > 1e-4


def test_drawn_seed_is_kept(toy_set, tmp_path):
    resumed = cut_and_resume(toy_cfg(tmp_path / "cut", *OPTIONS, "SEED", -1), cut_at=7)
    saved = torch.load(tmp_path / "cut" / "model_0000002.pth")["trainer"]["seed"]
    assert resumed.seed == saved >= 0
    whole = make_trainer(toy_cfg(tmp_path / "whole", *OPTIONS, "SEED", saved), ScoredTrainer)
    whole.train()
    assert_same_weights(weights_of(whole), weights_of(resumed))


def test_a_new_explicit_seed_is_taken_with_a_warning(toy_set, tmp_path, caplog):
    with pytest.raises(Cut):
        make_trainer(toy_cfg(tmp_path, *OPTIONS), cut_at=3).train()
    trainer = make_trainer(toy_cfg(tmp_path, *OPTIONS, "SEED", 8), resume=True)
    assert trainer.seed == 8 and "SEED is 8" in caplog.text


def test_best_value_survives(toy_set, tmp_path):
    class Trainer(ScoredTrainer):
        # Best at iteration 2; after the resume everything is worse, though better than nothing.
        scores = {2: 50.0, 5: 30.0, 8: 40.0, 9: 45.0}

    options = (*OPTIONS, "TEST.EVAL_PERIOD", 3, "DATASETS.TEST", ("engine_toy_masks",))
    cut_and_resume(toy_cfg(tmp_path, *options), cut_at=4, trainer_class=Trainer)
    best = json.loads((tmp_path / "model_best.json").read_text())
    assert best == {"metric": "panoptic_seg/PQ", "best_value": 50.0, "best_iteration": 2}
    assert torch.load(tmp_path / "model_best.pth")["iteration"] == 2
    # A best model never becomes the point that a resume starts from.
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"


def test_best_value_is_in_the_checkpoint_too(toy_set, tmp_path):
    class Trainer(ScoredTrainer):
        scores = {2: 50.0, 5: 30.0, 8: 40.0, 9: 45.0}

    options = (*OPTIONS, "TEST.EVAL_PERIOD", 3, "DATASETS.TEST", ("engine_toy_masks",))
    with pytest.raises(Cut):
        make_trainer(toy_cfg(tmp_path, *options), Trainer, cut_at=7).train()
    (tmp_path / "model_best.json").unlink()
    (tmp_path / "model_best.pth").unlink()
    make_trainer(toy_cfg(tmp_path, *options), Trainer, resume=True).train()
    assert not (tmp_path / "model_best.pth").exists()


def test_best_value_grows(toy_set, tmp_path):
    class Trainer(ScoredTrainer):
        scores = {2: 50.0, 5: float("nan"), 8: 51.0, 9: 60.0}

    options = (*OPTIONS, "TEST.EVAL_PERIOD", 3, "DATASETS.TEST", ("engine_toy_masks",))
    make_trainer(toy_cfg(tmp_path, *options), Trainer).train()
    best = json.loads((tmp_path / "model_best.json").read_text())
    # The last evaluation comes after the last step, which is iteration 8.
    assert (best["best_value"], best["best_iteration"]) == (60.0, 8)
    results = json.loads((tmp_path / "results.json").read_text())
    assert results == {"iteration": 8, "results": {"panoptic_seg": {"PQ": 60.0}}}
