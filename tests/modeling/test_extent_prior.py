"""A thing of several points has the extent that they tell, in every layer and between the cells."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from detectron2.utils.events import EventStorage

from fdd.modeling.extents import fit_extents
from fdd.modeling.label_branch import ExtentPrior
from fdd.modeling.label_branch.criterion import _outside_classes, outside_cells
from fdd.modeling.label_makers import MakerInputs, learned_labels
from fdd.modeling.pseudo_labels.estimation import dense_labels, final_labels
from fdd.modeling.refinement import refined_logits
from fdd.modeling.structures import batch_points
from fdd.points import rasterize_points
from modeling_toys import gradients, permuted, small_model, total, toy_input

torch.set_num_threads(1)
DISTANCE = {"LOCATION_PRIOR.ENABLED": True}
EXTENT = DISTANCE | {"LOCATION_PRIOR.EXTENT": True}


def _output(changes, batch):
    model = small_model(changes).eval()
    images = model.preprocess(batch)
    points = batch_points(batch, tuple(images.tensor.shape[-2:]), model.device)
    return model.estimate(model.encode(images), points)


def _fewer(x, instance, keep):
    """The input with ``keep`` points of one instance."""
    own = torch.cumsum((x["point_index"] == instance).int(), 0)
    kept = (x["point_index"] != instance) | (own <= keep)
    return x | {k: x[k][kept] for k in ("point_coords", "point_index")}


def test_logits_follow_the_distance_from_the_extent():
    x = toy_input(64, 96, [0, 2, 3], points=6)
    output = _output(EXTENT | {"LOCATION_PRIOR.EXTENT_START": 5.0}, [x])
    coords, index = x["point_coords"].double().numpy(), x["point_index"].numpy()
    extents = fit_extents([(coords, index)], 3, "cpu")[0]
    place = torch.arange(12) * 8 + 4.0
    distance = extents.distance(place[None], place[:8, None])
    slope = np.log1p(np.exp(5.0)) * extents.sureness[:2, None, None]
    want = slope * (1 - distance[:2]).clamp(max=0.3)
    torch.testing.assert_close(output.prior[0, :2, :8, :12], want, rtol=1e-4, atol=1e-4)
    assert (output.prior[0, 2] == 0).all()
    plain = _output({}, [x])
    for without, having in zip(plain.instance, output.instance, strict=True):
        torch.testing.assert_close(having, without + output.prior)


def test_a_thing_of_few_points_keeps_the_distance_to_them():
    x = _fewer(toy_input(64, 64, [0, 1], points=4), 1, 2)
    by_extent, by_distance = (_output(changes, [x]) for changes in (EXTENT, DISTANCE))
    torch.testing.assert_close(by_extent.prior[:, 1], by_distance.prior[:, 1])
    assert (by_extent.prior[:, 0] - by_distance.prior[:, 0]).abs().max() > 1
    assert by_extent.extents.slope[0, 1] == 0 and by_distance.extents is None


def test_the_order_of_the_instances_does_not_matter():
    x, order = toy_input(64, 64, [0, 3, 1, 0], points=5), [2, 0, 3, 1]
    first, second = _output(EXTENT, [x]), _output(EXTENT, [permuted(x, order)])
    torch.testing.assert_close(first.prior[:, order], second.prior, rtol=1e-4, atol=1e-4)


def test_padding_and_a_neighbour_change_nothing():
    x, wide = toy_input(64, 64, [0, 1, 3], points=5), toy_input(96, 160, [2] * 5, seed=1)
    alone, beside = _output(EXTENT, [x]), _output(EXTENT, [x, wide])
    torch.testing.assert_close(
        alone.prior[0, :3, :8, :8], beside.prior[0, :3, :8, :8], rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("classes", [[3, 4], [], [0]])
def test_slopes_stay_in_the_graph(classes):
    model = small_model(EXTENT)
    with EventStorage(1):
        total(model([toy_input(64, 64, classes)])).backward()
    found = gradients(model)
    assert found["label_branch.location_prior.extent_slope"] is not None
    assert found["label_branch.location_prior.slope"] is not None


def test_slopes_are_learned():
    model = small_model(EXTENT)
    with EventStorage(1):
        total(model([_narrow()])).backward()
    assert gradients(model)["label_branch.location_prior.extent_slope"][0] != 0


def _thin(width=5):
    """Points of a thing some pixels wide and of the stuff around it, in an image of 64 x 64."""
    rng = np.random.default_rng(0)
    thing = rng.uniform((21, 10), (21 + width, 54), (10, 2))
    stuff = rng.uniform(0, 64, (10, 2))
    coords = torch.from_numpy(np.concatenate([thing, stuff])).float()
    index = torch.tensor([0] * 10 + [1] * 10)
    extents = fit_extents([(coords.double().numpy(), index.numpy())], 2, "cpu")[0]
    return coords, index, ExtentPrior(extents, torch.tensor([6.0, 0.0]))


def test_what_is_thinner_than_a_cell_is_drawn_between_the_cells():
    coords, index, prior = _thin()
    at_cells = prior.on_grid((8, 8), (8, 8))
    inputs = {"coords": coords, "index": index, "classes": torch.tensor([0, 3])}
    inputs |= {"grid": (64, 64), "stride": (1.0, 1.0), "instance": at_cells, "num_things": 3}
    label = learned_labels(MakerInputs(**inputs, extents=prior))
    wanted = prior.on_grid((64, 64), (1, 1)).argmax(0)
    assert (label == wanted).float().mean() > 0.999
    width = (wanted == 0).sum(1)[15:50].float().mean()
    assert 4 < width < 8
    up_sampled = learned_labels(MakerInputs(**inputs))
    assert (up_sampled == wanted).float().mean() < 0.97


def test_labels_at_another_scale_see_the_same_extent():
    coords, index, prior = _thin()
    inputs = {"coords": coords * 2, "index": index, "classes": torch.tensor([0, 3])}
    inputs |= {"instance": prior.on_grid((8, 8), (8, 8)), "num_things": 3, "extents": prior}
    label = learned_labels(
        MakerInputs(**inputs, grid=(128, 128), stride=(1.0, 1.0), scale=(2.0, 2.0))
    )
    wanted = prior.on_grid((128, 128), (0.5, 0.5)).argmax(0)
    assert (label == wanted).float().mean() > 0.999


def test_refined_maps_start_from_the_extent_itself():
    """Of one colour, an image hardly moves a boundary; interpolation does."""
    _, _, prior = _thin(width=8)
    image = torch.full((3, 64, 64), 120.0)
    at_cells = prior.on_grid((8, 8), (8, 8))
    wanted = prior.on_grid((32, 32), (2, 2)).argmax(0)
    drawn, up_sampled = (
        (refined_logits(at_cells, image, extents=extents).argmax(0) != wanted).float().mean()
        for extents in (prior, None)
    )
    assert drawn < 0.03 and up_sampled > 2 * drawn


def _narrow(share=0.3):
    """An input whose one thing is in the middle of its image, of that share of its sides."""
    x = toy_input(64, 96, [0, 3], points=6)
    coords = x["point_coords"].clone()
    coords[:6] = coords[:6] * share + torch.tensor([30.0, 20.0])
    labels = (x["point_index"].numpy(), x["classes"].numpy())
    raster = rasterize_points(coords.numpy(), *labels, 64, 96)
    maps = {k: torch.from_numpy(getattr(raster, k)) for k in ("instance_map", "semantic_map")}
    return x | {"point_coords": coords} | {f"point_{k}": v for k, v in maps.items()}


def test_cells_far_outside_are_not_the_things_own():
    x = _narrow()
    points = batch_points([x], (64, 96), torch.device("cpu"))
    keep = torch.ones(1, 8, 12, dtype=torch.bool)
    keep[:, :, 11] = False
    outside = outside_cells(points, keep, num_things=3)
    coords, index = x["point_coords"].double().numpy(), x["point_index"].numpy()
    place = torch.arange(12) * 8 + 4.0
    distance = fit_extents([(coords, index)], 2, "cpu")[0].distance(place[None], place[:8, None])
    assert (distance[outside[0]] > 1.1).all() and not outside[:, 1].any()
    assert not outside[:, :, :, 11].any()
    assert outside[0, 0][(distance[0] > 2) & keep[0]].all() and (distance[0] > 2).any()


def test_a_class_is_absent_where_all_its_things_are_outside():
    outside = torch.zeros(1, 4, 1, 3, dtype=torch.bool)
    outside[0, 0], outside[0, 1, 0, 0], outside[0, 2, 0, 1] = True, True, True
    absent = _outside_classes(outside, torch.tensor([[1, 1, 0, -1]]), 3)
    assert absent[0, :, 0].tolist() == [
        [False, True, False],
        [True, False, False],
        [False, False, False],
    ]


def test_the_losses_see_where_things_end():
    """Of a thing that the network draws too large, the loss is larger, and pushes it back."""
    model, x = small_model(EXTENT), _narrow()
    with EventStorage(1):
        before = model([x])
        model.label_branch.affine.bias.data[0] += 3
        after = model([x])
        for name in ("loss_pse_outside", "loss_sem_outside"):
            assert after[name] > before[name] >= 0
        (after["loss_pse_outside"] + after["loss_sem_outside"]).backward()
    assert model.label_branch.affine.bias.grad[0] > 0


@pytest.mark.parametrize("weight", [0.5, 3.0])
def test_the_weight_of_these_losses_is_a_key(weight):
    found = []
    for value in (1.0, weight):
        model = small_model(EXTENT | {"LOCATION_PRIOR.OUTSIDE_WEIGHT": value})
        with EventStorage(1):
            found.append(model([_narrow()]))
    for name in ("loss_pse_outside", "loss_sem_outside"):
        assert found[0][name] > 0
        torch.testing.assert_close(found[1][name], weight * found[0][name])


def test_labels_of_training_are_drawn_between_the_cells_too():
    """At the stride of the training's labels as at that of the cells, from the extent itself."""
    model, x = small_model(EXTENT | {"LOCATION_PRIOR.EXTENT_START": 40.0}).eval(), _narrow()
    images = model.preprocess([x])
    size = tuple(images.tensor.shape[-2:])
    points = batch_points([x], size, model.device)
    output = model.estimate(model.encode(images), points)
    settings = replace(model.label_settings, stride=2)
    labels, _ = dense_labels(output, points, images.image_sizes, size, settings)
    own = labels[0] == 0
    drawn = output.extents[0].on_grid(own.shape, (2.0, 2.0))[0] > 0
    assert (own == drawn).float().mean() > 0.98
    up_sampled = replace(output, extents=None)
    coarse, _ = dense_labels(up_sampled, points, images.image_sizes, size, settings)
    assert ((coarse[0] == 0) == drawn).float().mean() < (own == drawn).float().mean() - 0.005


def test_what_normalises_the_losses_is_what_they_see():
    model, x = small_model(EXTENT), _narrow(0.12)
    images = model.preprocess([x])
    with EventStorage(1):
        step = model.step_context([x], images, model.encode(images), None)
    cells = step.points.instance_cells
    assert len(cells.image) == int(step.counts["instance_cells"])
    assert len(cells.image) < int((x["point_instance_map"] >= 0).sum())


def test_the_panoptic_branch_alone_learns_from_refined_labels():
    changes = EXTENT | {"CLICKS.RESIDUAL": True}
    x, labels = _narrow(), []
    for refine in (False, True):
        model = small_model(changes | {"PSEUDO.REFINE": refine}).eval()
        images = model.preprocess([x])
        size = tuple(images.tensor.shape[-2:])
        points = batch_points([x], size, model.device)
        output = model.estimate_obeying(model.encode(images), points, images.image_sizes)
        made = (output, [x], points, images.image_sizes, size, model.label_settings)
        labels.append(final_labels(*made)[0][0, :16, :24])
    column, row = (x["point_coords"] / 4).long().unbind(1)
    for label in labels:
        assert (label[row, column] == x["point_index"]).float().mean() > 0.8
    # The label of an export, looked at in the middle of each of these cells.
    whole = small_model(changes | {"PSEUDO.REFINE": True}).eval().estimate_labels([x])[0]
    wanted = whole["pseudo_labels"]["learned"][2::4, 2::4]
    assert (labels[1] == wanted).float().mean() > 0.95
    assert (labels[0] != labels[1]).any()
