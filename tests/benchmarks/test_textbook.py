"""The textbook arrangement: the same losses and gradients as the model's own."""

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

from benchmarks import rows_step
from benchmarks.textbook import EQUAL, NOT_EQUAL, TextbookStep, arrange
from modeling_toys import gradients, small_cfg, total, toy_input

BATCHES = {
    "two sizes": [(64, 64, [0, 1, 3]), (48, 60, [2, 2, 4, 0, 1])],
    "one instance, and stuff only": [(64, 40, [1]), (33, 64, [3, 4])],
    "one image without points": [(64, 64, [0, 1, 3]), (48, 60, [])],
}
SMALL = [
    "MODEL.BACKBONE.NAME",
    "build_small_resnet_backbone",
    "MODEL.BACKBONE.FREEZE_AT",
    0,
    "MODEL.RESNETS.NORM",
    "",
    "MODEL.SMALL_RESNET.WIDTHS",
    (8, 12, 16, 20),
    "MODEL.FDD.HIDDEN_DIM",
    16,
    "MODEL.FDD.NUM_HEADS",
    2,
    "MODEL.FDD.PAN.NUM_QUERIES",
    12,
]


def _model(changes=None):
    cfg = small_cfg({"PSEUDO.LABEL_STRIDE": 1} | (changes or {}))
    torch.manual_seed(0)
    model = build_model(cfg).train()
    # Fresh offsets are whole cells, so that samples sit where the bilinear kernel has a kink and
    # rounding chooses the side whose gradient they get. Move them off.
    for name, parameter in model.named_parameters():
        if name.endswith("sampling_offsets.bias"):
            parameter.data.add_(torch.empty_like(parameter).uniform_(-0.4, 0.4))
    return model, cfg


def _batch(name="two sizes"):
    return [toy_input(*x, points=10, seed=i) for i, x in enumerate(BATCHES[name])]


def _step(model, function, batch):
    model.zero_grad()
    with EventStorage(1):
        losses = function(batch)
    total(losses).backward()
    return {k: v.item() for k, v in losses.items()}, gradients(model)


def _compare(ours, theirs):
    (losses, grads), (other_losses, other_grads) = ours, theirs
    assert set(losses) == set(other_losses)
    for name, value in losses.items():
        assert other_losses[name] == pytest.approx(value, rel=1e-5, abs=1e-6), name
    # Where the loss does not depend on a parameter (a common shift before a softmax), its gradient
    # is rounding: hence a bound relative to the whole.
    whole = torch.stack([g.norm() for g in grads.values()]).norm()
    for name, grad in grads.items():
        other = other_grads[name]
        difference = grad if other is None else other - grad
        assert difference.norm() <= 1e-3 * grad.norm() + 1e-6 * whole, name


@pytest.mark.parametrize("name", BATCHES)
def test_losses_and_gradients_are_those_of_the_model(name):
    model, cfg = _model()
    batch = _batch(name)
    ours = _step(model, model, batch)
    assert sum(ours[0].values()) > 10
    _compare(ours, _step(model, TextbookStep(model, cfg), batch))


@pytest.mark.parametrize(
    "changes",
    [
        {"PSEUDO.FORCE_POINTS": True, "INPUT.FORMAT": "BGR"},
        {"PAN.RATIO_WEIGHTING": False, "PAN.FUSE_INIT": "xavier"},
        {"LAMBDA_SEM": 0.1, "WARMUP_ITERS": 4, "PSEUDO.COLOR_KERNEL": 3},
    ],
    ids=str,
)
def test_settings_reach_the_losses(changes):
    batch = _batch()
    plain = _step(_model()[0], _model()[0], batch)[0]
    model, cfg = _model(changes)
    ours = _step(model, model, batch)
    assert any(ours[0][k] != pytest.approx(v, rel=1e-3) for k, v in plain.items())
    _compare(ours, _step(model, TextbookStep(model, cfg), batch))


@pytest.mark.parametrize(
    "cheap",
    [*({part} for part in sorted(EQUAL)), set(EQUAL)],
    ids=lambda cheap: "+".join(sorted(cheap)),
)
def test_cheap_variants_change_nothing(cheap):
    model, cfg = _model()
    batch = _batch()
    _compare(
        _step(model, TextbookStep(model, cfg), batch),
        _step(model, TextbookStep(model, cfg, cheap), batch),
    )
    assert arrange(cheap) != arrange()


def test_a_coarser_dice_changes_dice_only():
    """The comparison would notice a part that computes something else."""
    model, cfg = _model()
    batch = _batch()
    plain, _ = _step(model, TextbookStep(model, cfg), batch)
    coarse, _ = _step(model, TextbookStep(model, cfg, NOT_EQUAL), batch)
    changed = {k for k, v in plain.items() if coarse[k] != pytest.approx(v, rel=1e-5)}
    assert changed == {"loss_thing_dice", "loss_stuff_dice"}
    assert all(coarse[k] == pytest.approx(plain[k], rel=0.2) for k in changed)


def test_nothing_of_the_models_own_arithmetic_is_used(monkeypatch):
    """The two sides must be independent: break every forward but backbone, box heads, layers."""
    model, cfg = _model()
    batch = _batch()
    expected, _ = _step(model, TextbookStep(model, cfg), batch)

    def broken(*_, **__):
        raise AssertionError("the textbook step called the model's arithmetic")

    for name, module in model.named_modules():
        single = type(module).__module__.startswith("torch.nn.") and not list(module.children())
        if not (single or name.startswith("backbone") or "box_heads" in name):
            monkeypatch.setattr(module, "forward", broken)
    with pytest.raises(AssertionError, match="the model's arithmetic"):
        model(batch)
    found, _ = _step(model, TextbookStep(model, cfg), batch)
    assert found == expected


def test_full_size_logits_live_until_the_next_step():
    model, cfg = _model()
    batch = _batch()
    step, cheap = TextbookStep(model, cfg), TextbookStep(model, cfg, {"full_maps"})
    for function in (step, cheap):
        with EventStorage(1):
            function(batch)
    shapes = [tuple(x.shape) for x in step.kept]
    assert shapes == [(2, 3, 64, 64)] + 3 * [(2, 5, 64, 64)]
    assert [len(x) for x in cheap.kept] == [1] * 4
    assert step.kept[0].requires_grad and not cheap.kept[0].requires_grad


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"PSEUDO.LABEL_STRIDE": 4}, "LABEL_STRIDE is 4, not 1"),
        ({"SELF_TRAIN_SEM": True}, "SELF_TRAIN_SEM is True"),
        ({"LAMBDA_SEM": 0.0}, "LAMBDA_SEM is 0.0, not above 0"),
    ],
)
def test_other_models_are_refused(changes, message):
    model, cfg = _model(changes)
    with pytest.raises(ValueError, match=message):
        TextbookStep(model, cfg)


def test_unknown_part():
    with pytest.raises(ValueError, match=r"no such parts: \['colour'\]; there are .*'color'"):
        arrange({"color", "colour"})


def test_rows_take_equal_steps_that_leave_the_weights():
    model, inputs = rows_step.build((64, 96), (3, 2), instances=3, batch=2, changes=SMALL)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    assert rows_step.check(model, inputs) < 1e-5
    assert rows_step.check(model, inputs, EQUAL) < 1e-5
    assert rows_step.check(model, inputs, NOT_EQUAL) > 1e-4
    norms = []
    for step in (
        rows_step.ours,
        rows_step.textbook,
        lambda *x: rows_step.textbook(*x, EQUAL),
    ):
        step(model, inputs)
        grads = [p.grad for p in model.parameters() if p.grad is not None]
        norms.append(torch.stack([g.norm() for g in grads]).norm().item())
    assert norms == pytest.approx([0.1] * 3, rel=1e-3)  # clipped
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
