"""Cut runs, and runs that break, with the real model."""

from __future__ import annotations

import json
import math

import pytest
import torch

from fdd.engine import Trainer
from run_toys import VAL, Cut, LossRecorder, make_trainer, run_cfg, weights_of

HALF = 5
# 6 images in steps of 4: five steps are three epochs and a third. At the cut the loss warm-up, the
# learning rate's warm-up and its decay are all on their way.
CHANGES = {
    "SOLVER.IMS_PER_BATCH": 2,
    "SOLVER.ACCUMULATE_STEPS": 2,
    "SOLVER.MAX_ITER": 2 * HALF,
    "SOLVER.CHECKPOINT_PERIOD": HALF,
    "SOLVER.WARMUP_ITERS": 7,
    "MODEL.FDD.WARMUP_ITERS": 8,
    "MODEL.FDD.ENCODER.DROPOUT": 0.1,
    "MODEL.FDD.PAN.DROPOUT": 0.1,
    "INPUT.MIN_SIZE_TRAIN": (56, 64),
    "INPUT.RANDOM_FLIP": "horizontal",
    "DATALOADER.NUM_WORKERS": 2,
    "DATASETS.TEST": (VAL,),
    "TEST.EVAL_PERIOD": HALF,
}


class WeighingTrainer(Trainer):
    """Adds to PQ, which may be 0 so early, a number that every weight has a part in."""

    @classmethod
    def test(cls, cfg, model, evaluators=None):
        results = super().test(cfg, model, evaluators)
        weights = torch.cat([p.detach().flatten() for p in model.parameters()]).double()
        results["panoptic_seg"]["PQ"] += float(weights.abs().mean())
        return results


def best_of(folder):
    return json.loads((folder / "model_best.json").read_text())


def test_resumed_run_equals_whole_run(shapes, tmp_path):
    losses = LossRecorder()
    cfg = run_cfg(tmp_path / "whole", CHANGES)
    whole = make_trainer(cfg, WeighingTrainer, after_step=losses)
    start = weights_of(whole)
    whole.train()

    cfg = run_cfg(tmp_path / "cut", CHANGES)
    with pytest.raises(Cut):
        # Two steps beyond the checkpoint, which have to be taken again.
        make_trainer(cfg, WeighingTrainer, cut_at=HALF + 2).train()
    torch.manual_seed(12345)
    losses_again = LossRecorder()
    resumed = make_trainer(cfg, WeighingTrainer, after_step=losses_again, resume=True)
    assert resumed.start_iter == HALF
    resumed.train()

    one, two = weights_of(whole), weights_of(resumed)
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=0, atol=1e-6, msg=name)
    assert max((one[n] - start[n]).abs().max() for n in one) > 5e-4, "the run went somewhere"
    for name, state in whole.optimizer.state_dict()["state"].items():
        other = resumed.optimizer.state_dict()["state"][name]
        torch.testing.assert_close(state, other, rtol=1e-6, atol=1e-6)
    for row, again in zip(losses.rows[HALF:], losses_again.rows, strict=True):
        for name in ("total_loss", "lr", "grad_norm", "loss_pse_point", "loss_thing_dice"):
            assert again[name] == pytest.approx(row[name], rel=1e-5), name
    best, best_again = best_of(tmp_path / "whole"), best_of(tmp_path / "cut")
    assert best["best_value"] == pytest.approx(best_again["best_value"], abs=1e-6)
    assert best["best_iteration"] == best_again["best_iteration"]

    # The losses on pseudo labels grow with the warm-up: the first step has none of them.
    assert losses.rows[0]["loss_thing_dice"] == losses.rows[0]["loss_pse_self"] == 0
    assert 0 < losses.rows[1]["loss_thing_dice"] < losses.rows[-1]["loss_thing_dice"]


def test_chance_takes_part(shapes, tmp_path):
    """Or the test above would prove little: another seed ends elsewhere, from the same start."""
    ends = []
    for name, changes in (("a", {}), ("b", {}), ("c", {"SEED": 8})):
        changes = CHANGES | {"SOLVER.MAX_ITER": 2, "DATASETS.TEST": ()} | changes
        trainer = make_trainer(run_cfg(tmp_path / name, changes))
        trainer.train()
        ends.append(weights_of(trainer))
    keys = ends[0].keys()
    assert all(torch.equal(ends[0][k], ends[1][k]) for k in keys)
    assert max((ends[0][k] - ends[2][k]).abs().max() for k in keys) > 1e-5


# ------------------------------------------------------------------- non-finite numbers


@pytest.mark.parametrize(
    ("where", "term"),
    [
        ("backbone.res5.0.conv1.weight", "loss_thing_class = nan"),
        ("label_branch.", "loss_pse_point = nan"),
        ("panoptic_branch.location", "loss_thing_class = nan"),
        ("panoptic_branch.thing_stack", "loss_thing_dice = nan"),
    ],
)
def test_weights_that_become_nan_end_the_run(shapes, tmp_path, where, term):
    changes = {"SOLVER.MAX_ITER": 5, "SOLVER.CHECKPOINT_PERIOD": 2}

    def spoil(trainer):
        if trainer.iter == 2:
            for name, parameter in trainer.model.named_parameters():
                if name.startswith(where):
                    parameter.data.fill_(math.nan)

    cfg = run_cfg(tmp_path, changes)
    trainer = make_trainer(cfg, after_step=spoil)
    with pytest.raises(FloatingPointError, match=r"non-finite .* at iteration 3") as caught:
        trainer.train()
    message = str(caught.value)
    batch = trainer._trainer.last_batches[0]
    assert len(batch) == 2 and all(x["image_id"] in message for x in batch)
    assert term in message and "last checkpoint is untouched" in message

    assert (tmp_path / "last_checkpoint").read_text() == "model_0000001.pth"
    assert not (tmp_path / "model_final.pth").exists()
    again = make_trainer(cfg, resume=True)
    assert again.start_iter == 2
    again.train()
    assert all(torch.isfinite(value).all() for value in weights_of(again).values())


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_image_with_non_finite_pixels_is_named(shapes, tmp_path, value):
    """The mapper gives bytes, but a user's own mapper may give floats."""

    class BrokenLoader(Trainer):
        @classmethod
        def build_train_loader(cls, cfg, start_iter=0, **options):
            for batch in super().build_train_loader(cfg, start_iter, **options):
                batch[0]["image"] = batch[0]["image"].float()
                batch[0]["image"][:, 20:30, 20:30] = value
                yield batch

    trainer = make_trainer(run_cfg(tmp_path), BrokenLoader)
    before = weights_of(trainer)
    with pytest.raises(FloatingPointError, match=r"non-finite loss at iteration 0") as caught:
        trainer.train()
    assert trainer._trainer.last_batches[0][0]["image_id"] in str(caught.value)
    after = weights_of(trainer)
    assert all(torch.equal(before[name], after[name]) for name in before)
