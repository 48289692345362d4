"""One query a target, or one a point: what they are, and how points join into instances."""

import pytest
import torch
from detectron2.utils.events import EventStorage
from modeling_toys import THINGS, gradients, permuted, small_model, total, toy_input

from fdd.modeling.prompts import Prompts, instance_prompts, join_points, point_prompts
from fdd.modeling.structures import batch_points

torch.set_num_threads(1)
PER_POINT = {"QUERY_GEN.PER_POINT": True, "LOCATION_PRIOR.ENABLED": True}


def _points(batch, padded=(64, 64)):
    return batch_points(batch, padded, torch.device("cpu"))


def test_a_query_a_point_has_its_instance_class_and_place():
    batch = [toy_input(64, 64, [0, 3], points=2), toy_input(64, 40, [1], points=3, seed=1)]
    prompts = point_prompts(_points(batch))
    assert prompts.classes.tolist() == [[0, 0, 3, 3], [1, 1, 1, -1]]
    assert prompts.instance.tolist() == [[0, 0, 1, 1], [0, 0, 0, 2]]
    for b, x in enumerate(batch):
        assert torch.equal(prompts.own[b, : len(x["point_coords"]), 0], x["point_coords"])


def test_a_query_a_target_has_all_points_of_things():
    x = toy_input(64, 64, [0, 3, 1], points=3)
    prompts = instance_prompts(_points([x]), THINGS)
    assert prompts.own.shape == (1, 3, 3, 2)
    for n in (0, 2):
        want = x["point_coords"][x["point_index"] == n]
        assert {tuple(p) for p in prompts.own[0, n].tolist()} == {tuple(p) for p in want.tolist()}


@pytest.mark.parametrize("classes", [[], [3, 4]])
def test_images_without_things_or_points(classes):
    points = _points([toy_input(64, 64, classes)])
    assert instance_prompts(points, THINGS).own.shape[2] == 0
    assert point_prompts(points).classes.shape == (1, max(1, 3 * len(classes)))


def _join_reference(logits, instance, count):
    """Straight from the definition, in float64."""
    out = torch.full((count, *logits.shape[1:]), -torch.inf, dtype=torch.float64)
    for n in range(count):
        mine = logits.double()[instance == n]
        if len(mine):
            out[n] = mine.exp().sum(0).log()
    return out


def test_points_join_by_the_log_of_the_sum():
    torch.manual_seed(0)
    instance = torch.tensor([[0, 2, 2, 1, 0], [1, 1, 0, 3, 3]])
    classes = torch.tensor([[0, 1, 1, 3, 0], [2, 2, 0, -1, -1]])
    logits = 5 * torch.randn(2, 5, 3, 4)
    got = join_points(logits, Prompts(classes, torch.zeros(2, 5, 1, 2), instance, 3))
    for b in range(2):
        want = _join_reference(logits[b][classes[b] >= 0], instance[b][classes[b] >= 0], 3)
        torch.testing.assert_close(got[b].double(), want, atol=1e-5, rtol=1e-5)


def test_large_logits_do_not_overflow_and_gradients_are_shares():
    logits = torch.tensor([200.0, 199.0, -300.0]).view(1, 3, 1, 1).requires_grad_()
    prompts = Prompts(
        torch.zeros(1, 3).long(), torch.zeros(1, 3, 1, 2), torch.tensor([[0, 0, 1]]), 2
    )
    joined = join_points(logits, prompts)
    joined[0, 0].sum().backward()
    share = torch.tensor([200.0, 199.0]).softmax(0)
    torch.testing.assert_close(logits.grad[0, :2, 0, 0], share)
    assert joined[0, 1].item() == -300.0 and logits.grad[0, 2] == 0


def _output(batch, changes=PER_POINT):
    model = small_model(changes).eval()
    images = model.preprocess(batch)
    points = _points(batch, tuple(images.tensor.shape[-2:]))
    return model.estimate(model.encode(images), points)


def test_instances_keep_their_channels_when_they_are_permuted():
    x = toy_input(64, 64, [0, 1, 3, 0], points=3)
    order = [2, 0, 3, 1]
    first, second = _output([x]), _output([permuted(x, order)])
    for a, b in zip(first.instance, second.instance, strict=True):
        torch.testing.assert_close(a[:, order], b, atol=1e-4, rtol=1e-4)


def test_a_neighbour_with_more_points_changes_nothing():
    x, other = toy_input(64, 64, [0, 1], points=2), toy_input(64, 64, [3, 2, 1], points=5, seed=1)
    alone, beside = _output([x]).instance[-1], _output([x, other]).instance[-1]
    torch.testing.assert_close(alone[0], beside[0, :2], atol=1e-4, rtol=1e-4)
    assert (beside[0, 2] == -torch.inf).all()


def test_with_one_point_each_both_forms_see_the_same_prior():
    batch = [toy_input(64, 64, [0, 1, 3], points=1)]
    point = _output(batch).prior
    target = _output(batch, {"LOCATION_PRIOR.ENABLED": True}).prior
    torch.testing.assert_close(point, target, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("classes", [[], [3], [0, 1, 3]])
def test_every_parameter_stays_in_the_graph(classes):
    model = small_model(PER_POINT)
    with EventStorage(1):
        loss = total(model([toy_input(64, 64, classes)]))
    loss.backward()
    assert loss.isfinite()
    missing = [n for n, g in gradients(model).items() if g is None and "label_branch" in n]
    assert missing == [] and gradients(model)["query_generator.proj.0.weight"] is not None


def test_fewer_points_in_the_queries_of_a_step_and_all_in_the_labels():
    model = small_model(PER_POINT | {"PSEUDO.MAX_PROMPTS": 2})
    x, seen = toy_input(64, 64, [0, 1, 3], points=8), []
    generator = model.query_generator.forward
    model.query_generator.forward = lambda memory, points, prompts: (
        seen.append(prompts.classes.shape[1]) or generator(memory, points, prompts)
    )
    with EventStorage(1):
        model([x])
    model.eval().estimate_labels([x])
    assert seen == [6, 24]
