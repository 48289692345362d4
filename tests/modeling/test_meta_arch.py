"""The whole model: a training step under every switch, predictions, errors."""

import pytest
import torch
from detectron2.utils.events import EventStorage

from fdd.modeling.device import subnormals_as_zero
from fdd.modeling.layers import MaskStack
from modeling_toys import gradients, small_model, total, toy_input

torch.set_num_threads(1)

PSEUDO = {"loss_pse_point", "loss_pse_color", "loss_pse_self"}
SEMANTIC = {"loss_sem_point", "loss_sem_color"}
THING = {"loss_thing_class", "loss_box_l1", "loss_box_giou", "loss_thing_dice"}
STUFF = {"loss_stuff_dice", "loss_stuff_class"}
POINTS_ALONE = {n.replace("dice", "point") for n in THING | STUFF}
EMBEDDING = {"loss_embedding"}

BATCHES = {
    "normal": [(64, 64, [0, 1, 3]), (48, 60, [2, 2, 4, 0])],
    "one image without points": [(64, 64, [0, 1, 3]), (48, 60, [])],
    "no points": [(64, 64, []), (48, 60, [])],
    "one instance": [(64, 64, [1])],
    "stuff only": [(64, 64, [3, 4])],
    "things only": [(64, 64, [0, 1])],
    "sizes far apart": [(20, 130, [0, 3]), (64, 33, [1, 4])],
}


def _batch(name="normal", masks=False):
    return [toy_input(*x, seed=i, masks=masks) for i, x in enumerate(BATCHES[name])]


def _step(model, batch, iteration=1, **options):
    """Losses and gradients of one step."""
    model.zero_grad()
    with EventStorage(iteration):
        losses = model(batch, **options)
    total(losses).backward()
    return losses, gradients(model)


def _check(losses, grads):
    assert all(v.dim() == 0 and v.isfinite() for v in losses.values()), losses
    missing = [n for n, g in grads.items() if g is None]
    assert not missing
    assert all(g.isfinite().all() for g in grads.values())


@pytest.mark.parametrize("name", BATCHES)
def test_a_step_reaches_every_parameter(name):
    losses, grads = _step(small_model(), _batch(name))
    assert set(losses) == PSEUDO | SEMANTIC | THING | STUFF
    _check(losses, grads)
    if name == "no points":
        assert all(v == 0 for v in losses.values())
        assert all((g == 0).all() for g in grads.values())
    else:
        assert losses["loss_sem_point"] > 0
        assert grads["backbone.stem.conv1.weight"].abs().sum() > 0
    if name == "one instance":
        assert all(losses[k] == 0 for k in PSEUDO)
    if name == "stuff only":
        assert all(losses[k] == 0 for k in THING)
    if name == "things only":
        assert all(losses[k] == 0 for k in STUFF)


VARIANTS = [
    ({"LAMBDA_SEM": 0.0}, PSEUDO | THING | STUFF),
    ({"LAMBDA_SEM": 0.0, "INJECT": "pos"}, PSEUDO | THING | STUFF),
    ({"SHARE_LAYERS": False}, None),
    ({"SHARE_POS": False}, None),
    ({"SHARE_LAYERS": False, "SHARE_POS": False}, None),
    ({"INJECT": "pos"}, None),
    ({"QUERY_SOURCE": "embedding2d"}, None),
    ({"SELF_TRAIN_SEM": True}, PSEUDO | SEMANTIC | THING | STUFF | {"loss_sem_self"}),
    ({"SELF_TRAIN_PSE": False}, (PSEUDO | SEMANTIC | THING | STUFF) - {"loss_pse_self"}),
    ({"COLOR_SEM": False}, (PSEUDO | SEMANTIC | THING | STUFF) - {"loss_sem_color"}),
    ({"COLOR_PSE": False}, (PSEUDO | SEMANTIC | THING | STUFF) - {"loss_pse_color"}),
    ({"PSEUDO.LOGIT_HEAD": "relu_affine"}, None),
    ({"PSEUDO.DEEP_SUPERVISION": False}, None),
    ({"PSEUDO.FORCE_POINTS": True}, None),
    ({"PSEUDO.POSITION_STD": 0.5}, None),
    ({"PSEUDO.RESIDUAL_INIT": "zero"}, None),
    ({"PSEUDO.COLOR_WARMUP": 4}, None),
    ({"PSEUDO.CLASS_AGREEMENT": 1.0}, PSEUDO | SEMANTIC | THING | STUFF | {"loss_pse_class"}),
    ({"PSEUDO.PROMPT_SUBSETS": 1.0}, None),
    ({"LOCATION_PRIOR.ENABLED": True}, None),
    (
        {"LOCATION_PRIOR.ENABLED": True, "LOCATION_PRIOR.EXTENT": True},
        PSEUDO | SEMANTIC | THING | STUFF | {"loss_pse_outside", "loss_sem_outside"},
    ),
    ({"CLICKS.RESIDUAL": True}, None),
    ({"PSEUDO.LABEL_MIN_PROB": 0.4}, None),
    ({"PSEUDO.LABEL_STRIDE": 8}, None),
    ({"PSEUDO.LABEL_STRIDE": 1}, None),
    ({"QUERY_GEN.FEATURES": "level0"}, None),
    ({"QUERY_GEN.ADD_POS": False}, None),
    ({"QUERY_GEN.KERNEL": 3}, None),
    ({"QUERY_GEN.NORM": "LN"}, None),
    ({"PAN.ATTN_TAIL": True, "PAN.QUERY_FILTER_MAX_POS": 3}, None),
    ({"PAN.RATIO_WEIGHTING": False}, None),
    ({"ENCODER.DROPOUT": 0.5, "PAN.DROPOUT": 0.5}, None),
    ({"LABEL_MAKER": "nearest"}, THING | STUFF),
    ({"LABEL_MAKER": "polygon"}, THING | STUFF),
    ({"PAN_SUPERVISION": "point"}, PSEUDO | SEMANTIC | POINTS_ALONE),
    (
        {"PAN_SUPERVISION": "point", "PAN.ATTN_TAIL": True, "CHECKPOINT": True}
        | {"PAN.FUSE_INIT": "xavier"},
        PSEUDO | SEMANTIC | POINTS_ALONE,
    ),
    ({"PAN_SUPERVISION": "point", "LABEL_MAKER": "nearest"}, POINTS_ALONE),
    ({"LABEL_MAKER": "point"}, THING | STUFF),
    ({"LABEL_MAKER": "distance"}, SEMANTIC | EMBEDDING | THING | STUFF),
    ({"LABEL_MAKER": "distance", "DISTANCE.EMBEDDING": False}, SEMANTIC | THING | STUFF),
    ({"LABEL_MAKER": "semantic_nearest"}, SEMANTIC | THING | STUFF),
    ({"LABEL_MAKER": "dnn"}, THING | STUFF),
    (
        {"IN_FEATURES": ["res3", "res4"], "SIZE_DIVISIBILITY": 32}
        | {"MODEL.RESNETS.OUT_FEATURES": ["res3", "res4"]},
        None,
    ),
    ({"INPUT.FORMAT": "BGR"}, None),
]


@pytest.mark.parametrize("name", ["one image without points", "no points"])
@pytest.mark.parametrize(("changes", "names"), VARIANTS, ids=[str(v[0]) for v in VARIANTS])
def test_a_step_under_every_switch(changes, names, name):
    losses, grads = _step(small_model(changes), _batch(name))
    assert set(losses) == (PSEUDO | SEMANTIC | THING | STUFF if names is None else names)
    _check(losses, grads)
    if name == "no points":
        assert all(v == 0 for v in losses.values())


@pytest.mark.parametrize("name", ["normal", "one image without points", "no points"])
def test_full_masks_in_panoptic_segformers_own_form(name):
    model = small_model(
        {"PAN_SUPERVISION": "full", "PAN.ATTN_TAIL": True, "PAN.QUERY_FILTER_MAX_POS": 3}
        | {"WARMUP_ITERS": 100}
    )
    assert model.label_branch is None and model.query_generator is None
    losses, grads = _step(model, _batch(name, masks=True))
    assert set(losses) == THING | STUFF
    _check(losses, grads)
    # Masks are no estimate: nothing to warm up.
    later, _ = _step(model, _batch(name, masks=True), iteration=100)
    assert total(losses) == total(later)


def test_full_masks_need_masks():
    with pytest.raises(ValueError, match="PAN_SUPERVISION is 'full' but the batch holds no masks"):
        _step(small_model({"PAN_SUPERVISION": "full"}), _batch())


@pytest.mark.parametrize(
    ("changes", "classes", "names"),
    [
        ({"NUM_STUFF": 0}, [0, 2, 1], THING),
        ({"NUM_THINGS": 0, "NUM_STUFF": 5}, [0, 2, 4], STUFF),
    ],
)
def test_only_things_and_only_stuff(changes, classes, names):
    model = small_model(changes)
    losses, grads = _step(model, [toy_input(64, 64, classes)])
    assert set(losses) == PSEUDO | SEMANTIC | names
    _check(losses, grads)
    panoptic, segments = model.eval()([toy_input(64, 64, classes)])[0]["panoptic_seg"]
    assert panoptic.shape == (64, 64)
    assert all(s["isthing"] == (names == THING) for s in segments)


def test_switches_change_the_losses():
    """Each ablation does something: no switch is read and forgotten."""
    batch, seen = _batch(), {}
    for changes, _ in VARIANTS:
        if "DROPOUT" not in str(changes) and "FORMAT" not in str(changes):
            losses, _ = _step(small_model(changes), batch)
            seen[str(changes)] = tuple(sorted((k, round(v.item(), 6)) for k, v in losses.items()))
    default, _ = _step(small_model(), batch)
    values = [*seen.values(), tuple(sorted((k, round(v.item(), 6)) for k, v in default.items()))]
    assert len(set(values)) == len(values)


def test_without_a_semantic_branch_there_is_nothing_to_agree_with():
    without = {"LAMBDA_SEM": 0.0}
    losses, _ = _step(small_model(without | {"PSEUDO.CLASS_AGREEMENT": 1.0}), _batch())
    assert losses == _step(small_model(without), _batch())[0]


def test_weights_of_the_losses():
    batch = _batch()
    plain, _ = _step(small_model({"SELF_TRAIN_SEM": True}), batch)
    half, _ = _step(small_model({"SELF_TRAIN_SEM": True, "LAMBDA_SEM": 0.5}), batch)
    color, _ = _step(small_model({"SELF_TRAIN_SEM": True, "PSEUDO.COLOR_WEIGHT": 6.0}), batch)
    for name, loss in plain.items():
        factor = 0.5 if "_sem_" in name else 1.0
        torch.testing.assert_close(half[name], loss * factor)
        factor = 2.0 if "_color" in name else 1.0
        torch.testing.assert_close(color[name], loss * factor)


def test_checkpointing_changes_nothing():
    results = [_step(small_model({"CHECKPOINT": flag}), _batch()) for flag in (False, True)]
    (losses, grads), (again, again_grads) = results
    for name, loss in losses.items():
        torch.testing.assert_close(loss, again[name])
    for name, grad in grads.items():
        torch.testing.assert_close(grad, again_grads[name])


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"PAN.ATTN_TAIL": True, "PAN.QUERY_FILTER_MAX_POS": 3},
        {"CHECKPOINT": True},
        {"PAN_SUPERVISION": "point"},
    ],
)
def test_mixed_precision(changes):
    model, batch = small_model(changes), _batch("one image without points")
    exact, _ = _step(model, batch)
    with torch.autocast("cpu", torch.bfloat16):
        losses, grads = _step(model, batch)
    _check(losses, grads)
    for name, loss in exact.items():
        assert losses[name].dtype == torch.float32
        torch.testing.assert_close(losses[name], loss, rtol=0.2, atol=0.05)
    with torch.autocast("cpu", torch.bfloat16):
        model.eval()
        assert model(batch)[0]["panoptic_seg"][0].shape == (64, 64)
        assert model.estimate_labels(batch)[0]["confidence"].dtype == torch.float32


def test_frozen_stages_stay_frozen():
    model = small_model({"MODEL.BACKBONE.FREEZE_AT": 2, "MODEL.RESNETS.NORM": "FrozenBN"})
    frozen = {n for n, p in model.named_parameters() if not p.requires_grad}
    assert frozen and all(n.startswith(("backbone.stem", "backbone.res2")) for n in frozen)
    _check(*_step(model, _batch()))


class TestPrediction:
    def test_form(self):
        model = small_model().eval()
        x, y = _batch()
        x |= {"height": 91, "width": 50}
        results = model([x, y])
        assert [r["panoptic_seg"][0].shape for r in results] == [(91, 50), (48, 60)]
        for r in results:
            panoptic, segments = r["panoptic_seg"]
            assert panoptic.dtype == torch.int32
            assert len(segments) > 0
            for s in segments:
                assert type(s["isthing"]) is bool and s["isthing"] == (s["category_id"] < 3)
                assert s["area"] == (panoptic == s["id"]).sum() > 0
            assert {s["id"] for s in segments} | {0} >= set(panoptic.unique().tolist())

    def test_labels_are_not_needed(self):
        model = small_model().eval()
        x = _batch()[0]
        bare = {k: x[k] for k in ("image", "height", "width")}
        a, b = model([x])[0]["panoptic_seg"], model([bare])[0]["panoptic_seg"]
        assert torch.equal(a[0], b[0]) and a[1] == b[1]
        only = model([{"image": x["image"]}])[0]["panoptic_seg"]
        assert torch.equal(only[0], a[0])

    def test_training_only_weights_are_not_read(self):
        model = small_model().eval()
        before = model(_batch())
        with torch.no_grad():
            for part in (model.query_generator, model.label_branch):
                for p in part.parameters():
                    p.fill_(float("nan"))
        for a, b in zip(before, model(_batch()), strict=True):
            assert torch.equal(a["panoptic_seg"][0], b["panoptic_seg"][0])
            assert a["panoptic_seg"][1] == b["panoptic_seg"][1] != []

    def test_training_only_parts_may_be_missing(self):
        model = small_model().eval()
        before = model(_batch())[0]["panoptic_seg"]
        model.query_generator = model.label_branch = None
        after = model(_batch())[0]["panoptic_seg"]
        assert torch.equal(before[0], after[0]) and before[1] == after[1]

    def test_only_the_last_masks_are_made(self, monkeypatch):
        made = []
        plain = MaskStack.forward

        def spy(self, *args, **options):
            masks, queries = plain(self, *args, **options)
            made.append(len(masks))
            return masks, queries

        monkeypatch.setattr(MaskStack, "forward", spy)
        small_model().eval()(_batch())
        assert made == [1, 1]


class TestHostileInput:
    def test_non_finite_image_in_training(self):
        x = _batch()[0]
        x["image"] = torch.full((3, 64, 64), float("nan"))
        with EventStorage():
            losses = small_model()([x])
        # Every term that the image enters says so; the trainer stops before the step.
        assert {n for n, v in losses.items() if v.isnan()} >= {"loss_thing_class", "loss_pse_point"}

    def test_non_finite_image_in_evaluation(self):
        with pytest.raises(ValueError, match="NaN or infinity"):
            small_model().eval()([{"image": torch.full((3, 64, 64), float("inf"))}])

    def test_an_image_of_another_shape(self):
        x = _batch()[0] | {"image": torch.zeros(1, 64, 64)}
        with pytest.raises(ValueError, match=r"image-0.*0\.jpg.*\(1, 64, 64\).*\(3, H, W\)"):
            _step(small_model(), [x])

    def test_images_without_point_labels(self):
        with pytest.raises(KeyError, match="no point labels"):
            _step(small_model(), [{"image": torch.zeros(3, 64, 64), "image_id": 7}])

    def test_more_things_than_queries(self):
        with pytest.raises(ValueError, match=r"MODEL\.FDD\.PAN\.NUM_QUERIES"):
            _step(small_model({"PAN.NUM_QUERIES": 2}), [toy_input(64, 64, [0, 1, 2])])

    def test_a_very_small_image(self):
        losses, grads = _step(small_model(), [toy_input(3, 5, [0, 3], points=1)])
        _check(losses, grads)

    def test_many_instances(self):
        losses, grads = _step(
            small_model({"PAN.NUM_QUERIES": 300}), [toy_input(128, 128, [0] * 280 + [4], points=1)]
        )
        _check(losses, grads)


def test_the_image_reaches_the_colour_prior_as_rgb():
    rgb, bgr = small_model({"INPUT.FORMAT": "RGB"}), small_model({"INPUT.FORMAT": "BGR"})
    x = _batch()[0]
    images = rgb.preprocess([x])
    size = tuple(images.tensor.shape[-2:])
    height, width = x["image"].shape[1:]
    seen = rgb.small_rgb(images, size)[0, :, :height, :width]
    torch.testing.assert_close(seen, x["image"].float(), atol=1e-3, rtol=0)
    seen = bgr.small_rgb(bgr.preprocess([x]), size)[0, :, :height, :width]
    torch.testing.assert_close(seen, x["image"].flip(0).float(), atol=1e-3, rtol=0)


def test_diagnostics_are_logged():
    with EventStorage(20) as storage:
        small_model()(_batch("one image without points"))
        logged = storage.latest()
    for name in ("points_right", "confidence", "empty_things"):
        assert 0 <= logged[f"labels/{name}"][0] <= 1
    with EventStorage(20) as storage:
        small_model()(_batch("no points"))
        assert not any(k.startswith("labels/") for k in storage.latest())


def test_memory_format_does_not_matter():
    losses = [_step(small_model({"CHANNELS_LAST": on}), _batch())[0] for on in (False, True)]
    for name, value in losses[0].items():
        torch.testing.assert_close(losses[1][name], value, atol=1e-5, rtol=1e-4)


def test_gradients_have_the_strides_of_their_weights():
    """What DistributedDataParallel asks for, or it warns and copies."""
    for on in (False, True):
        model = small_model({"CHANNELS_LAST": on})
        _step(model, _batch())
        odd = [n for n, p in model.named_parameters() if p.grad.stride() != p.stride()]
        assert odd == []


def test_static_parts_can_be_compiled(monkeypatch):
    """Traced whole, with the weights' names as they are; the backend here runs what was traced."""
    compiled, plain = [], torch.nn.Module.compile

    def compile_eagerly(self):
        compiled.append(type(self).__name__)
        plain(self, backend="eager", fullgraph=True)

    monkeypatch.setattr(torch.nn.Module, "compile", compile_eagerly)
    model = small_model({"COMPILE": True, "ENCODER.NUM_LAYERS": 2})
    assert compiled == ["ResNet", "EncoderLayer", "EncoderLayer"]
    want, want_grads = _step(small_model({"ENCODER.NUM_LAYERS": 2}), _batch())
    got, grads = _step(model, _batch())
    assert grads.keys() == want_grads.keys()
    for name, value in want.items():
        torch.testing.assert_close(got[name], value, atol=1e-5, rtol=1e-4)
    torch._dynamo.reset()


def test_numbers_that_are_too_small_to_matter_do_not_matter():
    tiny, changes = torch.tensor(1e-30), {"MODEL.FDD.LOCATION_PRIOR.ENABLED": True}
    with_them = _step(small_model(changes), _batch())
    with subnormals_as_zero():
        assert tiny * 1e-10 == 0
        without = _step(small_model(changes), _batch())
    assert tiny * 1e-10 > 0
    torch.testing.assert_close(without, with_them, rtol=1e-6, atol=1e-12)
