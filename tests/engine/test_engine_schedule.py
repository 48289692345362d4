from __future__ import annotations

import pytest

from engine_toys import toy_cfg
from fdd.engine import resolve_schedule


def test_the_recipe_in_epochs(tmp_path):
    """PSPS on VOC: 10,582 images, batch 16, 20 epochs, a drop after 15."""
    options = ("SOLVER.IMS_PER_BATCH", 4, "SOLVER.ACCUMULATE_STEPS", 4, "SOLVER.MAX_EPOCHS", 20)
    options += ("SOLVER.EPOCH_STEPS", (15,), "SOLVER.STEPS", (1, 2))
    cfg = toy_cfg(tmp_path, *options, "TEST.EVAL_PERIOD", -1, "SOLVER.CHECKPOINT_PERIOD", -2)
    cfg.freeze()
    resolved = resolve_schedule(cfg, 10582)
    assert resolved.SOLVER.MAX_ITER == 13240
    assert resolved.SOLVER.STEPS == (9930,)
    assert resolved.MODEL.FDD.WARMUP_ITERS == 662
    assert (resolved.TEST.EVAL_PERIOD, resolved.SOLVER.CHECKPOINT_PERIOD) == (662, 1324)
    assert resolved.is_frozen() and cfg.SOLVER.MAX_ITER == 6, "the given config stays as it was"
    assert resolve_schedule(resolved, 10582) == resolved


@pytest.mark.parametrize(
    ("max_iter", "given", "expected"), [(1000, -1, 50), (100, -1, 10), (100, 0, 0), (100, 7, 7)]
)
def test_loss_warm_up(tmp_path, max_iter, given, expected):
    cfg = toy_cfg(tmp_path, "SOLVER.MAX_ITER", max_iter, "MODEL.FDD.WARMUP_ITERS", given)
    resolved = resolve_schedule(cfg, 20)
    assert expected == resolved.MODEL.FDD.WARMUP_ITERS


def test_endless_warm_up_is_reported(tmp_path, caplog):
    resolve_schedule(toy_cfg(tmp_path, "SOLVER.MAX_ITER", 5), 20)
    assert "does not end" in caplog.text


@pytest.mark.parametrize(
    ("options", "key"),
    [
        (("SOLVER.MAX_EPOCHS", 4, "SOLVER.EPOCH_STEPS", (4,)), "EPOCH_STEPS"),
        (("SOLVER.MAX_EPOCHS", 4, "SOLVER.EPOCH_STEPS", (3, 2)), "EPOCH_STEPS"),
        (("SOLVER.MAX_ITER", 0), "MAX_ITER"),
        (("SOLVER.CHECKPOINT_PERIOD", 0), "CHECKPOINT_PERIOD"),
        (("MODEL.FDD.WARMUP_ITERS", -2), "WARMUP_ITERS"),
    ],
)
def test_nonsense_is_refused(tmp_path, options, key):
    with pytest.raises(ValueError, match=key):
        resolve_schedule(toy_cfg(tmp_path, *options), 20)
