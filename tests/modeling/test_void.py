"""What a person painted as void trains nothing, and is void in labels."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from detectron2.data import transforms as T
from detectron2.utils.events import EventStorage
from PIL import Image

from fdd.modeling.label_maps import POINT_STRIDE
from fdd.modeling.pseudo_labels.averaging import estimate_averaged
from fdd.modeling.structures import batch_points, count_normalizers
from fdd.points.structures import VoidStroke
from fdd.points.void import stroke_record, void_mask
from mapper_toys import make
from modeling_toys import small_model, total, toy_input

torch.set_num_threads(1)
STROKE = VoidStroke(20.0, ((40.0, 8.0), (44.0, 60.0)))


def _painted(x, *strokes):
    mask = void_mask(strokes, x["height"], x["width"])
    return x | {"void": list(strokes), "void_map": torch.from_numpy(mask[2::4, 2::4].copy())}


def _batch():
    plain, other = toy_input(64, 64, [0, 1, 3], seed=0), toy_input(48, 60, [2, 4], seed=1)
    return [_painted(plain, STROKE), other]


def test_cells_of_each_stride():
    points = batch_points(_batch(), (64, 64), torch.device("cpu"))
    mask = void_mask([STROKE], 64, 64)
    assert torch.equal(points.void[0], torch.from_numpy(mask[2::4, 2::4]))
    assert not points.void[1].any()
    coarse = points.void[0].float().view(8, 2, 8, 2).mean((1, 3)) >= 0.5
    assert torch.equal(points.void_at(8)[0], coarse) and coarse.any()
    assert torch.equal(points.void_at(2)[:, ::2, ::2], points.void)
    assert torch.equal(points.void_at(1)[:, 3::4, 3::4], points.void)
    plain = [toy_input(64, 64, [0, 1], seed=0)]
    assert batch_points(plain, (64, 64), torch.device("cpu")).void_at(8) is None


def test_normalisers_do_not_count_void():
    batch = _batch()
    plain = [{k: v for k, v in x.items() if k not in ("void", "void_map")} for x in batch]
    without, within = (count_normalizers(b, 3).tolist() for b in (plain, batch))
    void = int(batch_points(batch, (64, 64), torch.device("cpu")).void_at(8).sum())
    changed = [a - b for a, b in zip(without, within, strict=True)]
    assert changed == [0, 0, 0, void, 0, 0] and void > 0


CHANGES = [
    {"PSEUDO.CLASS_AGREEMENT": 1.0, "LAMBDA_SEM": 1.0, "SELF_TRAIN_SEM": True},
    {"PAN.DETECTOR": "centers"},
    {"CLICKS.RESIDUAL": True, "PSEUDO.FORCE_POINTS": False, "PSEUDO.LABEL_STRIDE": 8},
]


@pytest.mark.parametrize("changes", CHANGES)
def test_label_losses_do_not_look_at_void(changes):
    """But for the cross-entropy of points, which are kept out of void by the loader."""
    model, batch = small_model(changes), _batch()
    with EventStorage(100):
        images = model.preprocess(batch)
        memory = model.encode(images)
        step = model.step_context(batch, images, memory, None)
        output = model.estimate(memory, step.points)
        logits = [z.detach().requires_grad_() for z in output.instance]
        semantic = [z.detach().requires_grad_() for z in output.semantic]
        losses = model.label_criterion(replace(output, instance=logits, semantic=semantic), step)
    void = step.points.void_at(POINT_STRIDE)
    total({k: v for k, v in losses.items() if not k.endswith("_point")}).backward()
    for z in (*logits, *semantic):
        if z.grad is None:  # of a branch without such losses
            continue
        at_void = z.grad.movedim(1, -1)[void]
        assert (at_void == 0).all()
        assert z.grad.abs().sum() > 0


@pytest.mark.parametrize("changes", CHANGES[1:])
def test_targets_of_the_panoptic_branch_have_no_label_there(changes):
    model, batch = small_model(changes), _batch()
    with EventStorage(100):
        images = model.preprocess(batch)
        memory = model.encode(images)
        step = model.step_context(batch, images, memory, None)
        output = model.estimate_obeying(memory, step.points, step.image_sizes)
        for refined in (None, batch):
            targets, labels = model._panoptic_targets(output, step, refined=refined)
            assert (labels[step.points.void_at(model.label_settings.stride)] == -1).all()
            assert (labels[0] >= 0).any()
            assert torch.equal(targets.void, step.points.void_at(8))
            area = (labels >= 0).sum((1, 2)).float()
            assert torch.allclose(targets.fine.areas.sum(1), area)


def test_no_centre_is_learned_from_void():
    """Neither as one, nor as a place without one."""
    model, batch = small_model({"PAN.DETECTOR": "centers"}), _batch()
    seen = []
    decoder = model.panoptic_branch.centers

    def keep(module, args, output):
        output.logits.retain_grad()
        seen.append(output.logits)

    decoder.register_forward_hook(keep)
    with EventStorage(100):
        losses = model(batch)
    total(losses).backward()
    void = batch_points(batch, (64, 64), torch.device("cpu")).void_at(8)
    grad = seen[0].grad.movedim(1, -1)
    assert (grad[void] == 0).all() and (grad[~void] != 0).any()


def test_a_step_is_finite_where_all_is_void():
    batch = [_painted(toy_input(64, 64, [0, 3], seed=0), VoidStroke(1000.0, ((0.0, 0.0),)))]
    for changes in ({}, {"PAN.DETECTOR": "centers"}):
        with EventStorage(100):
            losses = small_model(changes)(batch)
        assert all(v.isfinite() for v in losses.values())


def test_labels_are_void_there_at_full_resolution_and_the_same_elsewhere():
    model = small_model().eval()
    batch = _batch()
    mask = torch.from_numpy(void_mask([STROKE], 64, 64))
    painted = model.estimate_labels(batch)
    plain = model.estimate_labels([x | {"void": []} for x in batch])
    for name, label in painted[0]["pseudo_labels"].items():
        assert (label[mask] == -1).all(), name
        assert torch.equal(label[~mask], plain[0]["pseudo_labels"][name][~mask]), name
    learned = painted[0]["pseudo_labels"]["learned"]
    assert torch.equal(painted[1]["pseudo_labels"]["learned"], plain[1]["pseudo_labels"]["learned"])
    averaged = estimate_averaged(model, [batch], [False])
    assert torch.equal(averaged[0].label.int(), learned.int())


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_void_follows_the_image_through_the_augmentations(tmp_path, flip):
    """A white image with black void, so that what is seen says where it is."""
    mask = void_mask([STROKE], 64, 96)
    Image.fromarray(np.where(mask[..., None], 0, 255).repeat(3, 2).astype(np.uint8)).save(
        tmp_path / "a.png"
    )
    record = {
        "file_name": str(tmp_path / "a.png"),
        "height": 64,
        "width": 96,
        "image_id": 0,
        "points": [{"instance_id": 1, "category_id": 0, "isthing": True, "coords": [[80.0, 20.0]]}],
        "void": [stroke_record(STROKE)],
    }
    mapper = make(T.Resize((128, 192), interp=Image.NEAREST), T.RandomFlip(prob=flip))
    example = mapper(record)
    assert example["void"] == [STROKE]
    # A cell's centre lies between two pixels: the right one of the original is the left one here.
    seen = example["image"][0, 2::4, (1 if flip else 2) :: 4] == 0
    assert torch.equal(example["void_map"], seen)
    assert example["void_map"].any() and not example["void_map"].all()
    del record["void"]
    assert "void_map" not in mapper(record)
