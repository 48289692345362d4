"""Hungarian matching against all permutations."""

from itertools import permutations

import numpy as np
import pytest
import torch
from torchvision.ops import box_convert

from fdd.modeling.losses import generalized_iou
from fdd.modeling.panoptic_branch.matcher import assign as assign_listed
from fdd.modeling.panoptic_branch.matcher import matching_cost

torch.set_num_threads(1)


def assign(cost, is_target, rounds=1):
    """All listed columns are targets."""
    return assign_listed(cost, is_target, is_target.numpy(), rounds)


def _pairs(matches, layer, image):
    of = (matches.table[0] == layer) & (matches.table[1] == image)
    return [tuple(pair) for pair in matches.table[2:, of].T.tolist()]


def _best(cost, columns):
    """Cheapest assignment of the columns, by trying all of them."""
    options = permutations(range(cost.shape[0]), len(columns))
    return min(sum(cost[q, t].item() for q, t in zip(o, columns, strict=True)) for o in options)


def test_equals_the_best_permutation():
    torch.manual_seed(0)
    cost = torch.randn(3, 2, 5, 4)
    is_target = torch.tensor([[True, False, True, True], [False, True, False, False]])
    matches = assign(cost, is_target)
    for layer in range(3):
        for image in range(2):
            columns = is_target[image].nonzero().flatten().tolist()
            pairs = _pairs(matches, layer, image)
            assert sorted(t for _, t in pairs) == columns
            assert len({q for q, _ in pairs}) == len(columns)
            assert [q for q, _ in pairs] == sorted(q for q, _ in pairs)
            got = sum(cost[layer, image, q, t].item() for q, t in pairs)
            assert got == pytest.approx(_best(cost[layer, image], columns))


def test_cost_by_hand():
    torch.manual_seed(0)
    logits, boxes = torch.randn(2, 1, 3, 4), torch.rand(2, 1, 3, 4) * 0.4 + 0.1
    classes, goals = torch.tensor([[2, 0]]), torch.rand(1, 2, 4) * 0.4 + 0.1
    got = matching_cost(
        logits,
        boxes,
        classes,
        goals,
        class_weight=2.0,
        l1_weight=5.0,
        giou_weight=2.0,
        alpha=0.25,
        gamma=2.0,
    )
    assert got.shape == (2, 1, 3, 2)
    for layer in range(2):
        for q in range(3):
            for t in range(2):
                p = logits[layer, 0, q, classes[0, t]].sigmoid()
                focal = 0.25 * (1 - p) ** 2 * -p.log() - 0.75 * p**2 * -(1 - p).log()
                box, goal = boxes[layer, 0, q], goals[0, t]
                giou = generalized_iou(
                    box_convert(box, "cxcywh", "xyxy"), box_convert(goal, "cxcywh", "xyxy")
                )
                want = 2 * focal + 5 * (box - goal).abs().sum() - 2 * giou
                torch.testing.assert_close(got[layer, 0, q, t], want, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("rounds", [1, 3])
def test_without_things_there_are_no_pairs(rounds):
    matches = assign(torch.randn(2, 2, 5, 3), torch.zeros(2, 3, dtype=torch.bool), rounds)
    assert matches.table.shape == (4, 0) and matches.table.dtype == np.int64
    assert all(x.dtype == torch.int64 and len(x) == 0 for x in matches.on(torch.device("cpu")))


def test_an_image_without_things_beside_one_with():
    is_target = torch.tensor([[False, False], [True, True]])
    matches = assign(torch.randn(1, 2, 4, 2), is_target)
    _, image, _, target = matches.table.tolist()
    assert image == [1, 1] and sorted(target) == [0, 1]


def test_only_listed_columns_that_the_device_confirms_are_targets():
    is_target = torch.tensor([[True, False, True]])
    listed = np.array([[True, True, False]])
    matches = assign_listed(torch.randn(1, 1, 4, 3), is_target, listed)
    assert matches.table[3].tolist() == [0]


def test_the_meta_device_gets_as_many_pairs():
    is_target = torch.tensor([[True, False, True], [False, True, False]])
    cost = torch.randn(2, 2, 5, 3)
    real = assign(cost, is_target, 3).table
    made_up = assign_listed(cost.to("meta"), is_target.to("meta"), is_target.numpy(), 3).table
    for row in (0, 1):
        assert made_up[row].tolist() == real[row].tolist()
    pairs = made_up[:3].T.tolist()
    assert len({*map(tuple, pairs)}) == len(pairs)


def test_more_things_than_queries_names_the_key():
    with pytest.raises(ValueError, match=r"image 1 .* 3 things .* 2 .*MODEL\.FDD\.PAN\.NUM_QUER"):
        is_target = torch.tensor([[True, False, False], [True, True, True]])
        assign(torch.randn(1, 2, 2, 3), is_target)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_costs_that_are_not_finite_are_the_worst(value):
    """The losses tell every process of them; one that stopped here would leave the others alone."""
    cost = torch.zeros(1, 1, 3, 2)
    cost[0, 0, 1] = value
    matches = assign(cost, torch.ones(1, 2, dtype=torch.bool))
    assert sorted(matches.table[2].tolist()) == [0, 2]
    cost[:] = value
    assert matches.table.shape == assign(cost, torch.ones(1, 2, dtype=torch.bool)).table.shape


@pytest.mark.parametrize(("queries", "each"), [(12, 3), (7, 2), (5, 1)])
def test_query_filter(queries, each):
    """Up to three different queries a thing, as many rounds as there are queries for."""
    torch.manual_seed(0)
    cost = torch.randn(2, 2, queries, 3)
    is_target = torch.tensor([[True, True, True], [True, False, False]])
    matches = assign(cost, is_target, rounds=3)
    # The layers' own pairs are those without the filter.
    assert np.array_equal(matches.of_layers(0, 2).table, assign(cost, is_target).table)
    last = matches.of_layers(1).table
    for image, want in ((0, each), (1, 3)):
        _, _, query, target = last[:, last[1] == image].tolist()
        assert len(set(query)) == len(query)
        things = is_target[image].nonzero().flatten().tolist()
        assert all(target.count(t) == want for t in things)


def test_later_rounds_take_the_next_best():
    cost = torch.tensor([0.5, 0.1, 0.9, 0.3]).view(1, 1, 4, 1)
    matches = assign(cost, torch.ones(1, 1, dtype=torch.bool), rounds=3)
    assert matches.table[0].tolist() == [0, 1, 2] and matches.table[2].tolist() == [1, 3, 0]
