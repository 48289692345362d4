"""A thing is near its own points: the distance, the slope, and what must not move them."""

import math

import numpy as np
import pytest
import torch
from detectron2.utils.events import EventStorage

from fdd.modeling.label_branch.location_prior import LocationPrior, Places, point_distance
from fdd.modeling.label_maps import valid_cells
from fdd.modeling.structures import batch_points
from modeling_toys import THINGS, gradients, small_model, total, toy_input

torch.set_num_threads(1)
PRIOR = {"LOCATION_PRIOR.ENABLED": True}


def _distance(inputs, padded, num_things=THINGS):
    sizes = [tuple(x["image"].shape[1:]) for x in inputs]
    points = batch_points(inputs, padded, torch.device("cpu"))
    valid = valid_cells(sizes, 8, (padded[0] // 8, padded[1] // 8))
    return point_distance(points, num_things, valid)


def _reference(x, instance):
    """Straight from the definition, in float64, on the image's own cells."""
    height, width = x["image"].shape[1:]
    coords = x["point_coords"][x["point_index"] == instance].double().numpy()
    rows, columns = x["point_instance_map"].shape
    found = np.empty((rows, columns))
    for v in range(rows):
        for u in range(columns):
            offsets = coords - [8 * u + 4, 8 * v + 4]
            found[v, u] = np.sqrt((offsets**2).sum(1)).min()
    return torch.from_numpy(found / (0.1 * math.hypot(height, width)))


def test_is_the_distance_to_the_nearest_own_point():
    x = toy_input(72, 96, [0, 2, 0, 3], points=4)
    distance = _distance([x], (128, 128))
    rows, columns = x["point_instance_map"].shape
    for n in range(3):
        got = distance[0, n, :rows, :columns].double()
        torch.testing.assert_close(got, _reference(x, n), atol=1e-5, rtol=1e-5)


def test_stuff_and_padded_instances_have_no_place():
    inputs = [toy_input(64, 64, [0, 3, 4]), toy_input(64, 64, [1], seed=1)]
    distance = _distance(inputs, (64, 64))
    assert (distance[0, 1:] == 0).all() and (distance[1, 1:] == 0).all()
    assert (distance[0, 0] > 0).any() and (distance[1, 0] > 0).any()


@pytest.mark.parametrize("classes", [[], [3, 4]])
def test_without_things_it_is_zero(classes):
    distance = _distance([toy_input(64, 40, classes)], (64, 64))
    assert distance.shape == (1, max(1, len(classes)), 8, 8) and (distance == 0).all()


def test_instances_may_differ_in_their_number_of_points():
    x = toy_input(64, 64, [0, 1], points=5)
    keep = (x["point_index"] == 0) | (torch.arange(10) == 7)
    x |= {k: x[k][keep] for k in ("point_coords", "point_index")}
    distance = _distance([x], (64, 64))
    for n in range(2):
        torch.testing.assert_close(distance[0, n].double(), _reference(x, n), atol=1e-5, rtol=1e-5)


def test_padding_changes_nothing_and_continues_the_edge():
    x = toy_input(61, 83, [0, 1, 3])
    near, far = _distance([x], (64, 128)), _distance([x], (192, 256))
    rows, columns = x["point_instance_map"].shape
    assert torch.equal(near[..., :rows, :columns], far[..., :rows, :columns])
    assert torch.equal(
        far[..., rows:, :columns],
        far[..., rows - 1 : rows, :columns].expand(-1, -1, far.shape[2] - rows, -1),
    )
    assert far.isfinite().all()


def test_a_mirrored_image_has_the_mirrored_distance():
    x = toy_input(64, 96, [0, 1, 2])
    mirrored = x | {
        "point_coords": torch.stack([96 - x["point_coords"][:, 0], x["point_coords"][:, 1]], 1)
    }
    left, right = _distance([x], (64, 96)), _distance([mirrored], (64, 96))
    torch.testing.assert_close(left.flip(-1), right, atol=1e-5, rtol=1e-5)


def test_the_scale_of_the_image_cancels():
    """Twice the size: the same distance at the same place, since the diagonal doubles too."""
    small, large = toy_input(64, 96, [0, 1]), toy_input(128, 192, [0, 1])
    large["point_coords"] = 2 * small["point_coords"]
    # Every second pair of cell centres of the large grid lies around one of the small grid.
    coarse = torch.nn.functional.avg_pool2d(_distance([large], (128, 192)), 2)
    fine = _distance([small], (64, 96))
    assert (coarse - fine).abs().max() < 8 / (0.1 * math.hypot(128, 192))


def test_a_crop_keeps_the_slope_of_the_whole_image():
    """The crop's own diagonal would make the same distance in pixels cost more."""
    whole = toy_input(128, 128, [0])
    whole["point_coords"] = torch.tensor([[20.0, 20.0], [30.0, 20.0], [20.0, 30.0]])
    crop = toy_input(64, 64, [0]) | {"point_coords": whole["point_coords"]}
    crop["diagonal"] = math.hypot(128, 128)
    torch.testing.assert_close(
        _distance([crop], (64, 64)), _distance([whole], (128, 128))[..., :8, :8]
    )


@pytest.mark.parametrize("place", [(0.0, 0.0), (64.0, 64.0), (64.0, 0.0)])
def test_points_on_the_border(place):
    x = toy_input(64, 64, [0], points=1)
    x["point_coords"] = torch.tensor([place])
    got = _distance([x], (64, 64))
    torch.testing.assert_close(got[0, 0].double(), _reference(x, 0), atol=1e-5, rtol=1e-5)


def test_the_slope_of_a_class_is_softplus_and_negative():
    prior = LocationPrior(num_things=2, start=1.0)
    prior.slope.data = torch.tensor([0.5, -1.0])
    distance = torch.rand(1, 4, 3, 3)
    got, extents = prior(Places(distance), torch.tensor([[1, 0, 2, -1]]))
    assert extents is None
    slopes = [math.log1p(math.exp(-1.0)), math.log1p(math.exp(0.5))]
    for n, slope in enumerate(slopes):
        torch.testing.assert_close(got[0, n], -slope * distance[0, n])
    assert (got[0, 2:] == 0).all()


def _output(changes, batch):
    model = small_model(changes).eval()
    images = model.preprocess(batch)
    points = batch_points(batch, tuple(images.tensor.shape[-2:]), model.device)
    return model, model.estimate(model.encode(images), points), points


def test_every_layer_gets_it_and_the_semantic_branch_does_not():
    batch = [toy_input(64, 64, [0, 1, 3])]
    _, plain, _ = _output({}, batch)
    _, prior, _ = _output(PRIOR, batch)
    assert len(plain.instance) == len(prior.instance) == 2
    for without, having in zip(plain.instance, prior.instance, strict=True):
        torch.testing.assert_close(having, without + prior.prior)
    for without, having in zip(plain.semantic, prior.semantic, strict=True):
        assert torch.equal(without, having)
    assert (prior.prior[0, :2] < 0).any() and (prior.prior[0, 2] == 0).all()


def test_one_instance_is_not_affected():
    batch = [toy_input(64, 64, [0])]
    _, output, _ = _output(PRIOR, batch)
    assert (output.instance[-1].softmax(1) == 1).all()


@pytest.mark.parametrize("classes", [[3, 4], [], [0]])
def test_slopes_stay_in_the_graph(classes):
    """DDP waits for the gradient of every parameter, also where a batch has no thing."""
    model = small_model(PRIOR)
    with EventStorage(1):
        total(model([toy_input(64, 64, classes)])).backward()
    assert gradients(model)["label_branch.location_prior.slope"] is not None


def test_no_things_at_all_need_no_prior():
    model = small_model(PRIOR | {"NUM_THINGS": 0, "NUM_STUFF": 5})
    assert model.label_branch.location_prior is None
    with EventStorage(1):
        assert total(model([toy_input(64, 64, [1, 3])])).isfinite()


def test_the_points_that_the_query_does_not_see_are_hidden_from_it():
    x = toy_input(64, 64, [0, 1], points=4)
    seen = x["point_index"] * 0 + torch.tensor([1, 0, 0, 0, 1, 0, 0, 0]) > 0
    fewer = x | {k: x[k][seen] for k in ("point_coords", "point_index")}
    assert (_distance([fewer], (64, 64)) >= _distance([x], (64, 64))).all()
    assert (_distance([fewer], (64, 64)) > _distance([x], (64, 64))).any()


def test_takes_no_more_memory_than_two_maps_of_the_logits():
    batch = [toy_input(256, 256, [0] * 30, points=10)]
    points = batch_points(batch, (256, 256), torch.device("cpu"))
    valid = valid_cells([(256, 256)], 8, (32, 32))
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        size = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                self.size = max(self.size, out.numel())
            return out

    with Largest() as largest:
        point_distance(points, THINGS, valid)
    assert largest.size <= 30 * 32 * 32
