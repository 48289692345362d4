"""Hungarian matching against all permutations."""

from itertools import permutations

import pytest
import torch

from fdd.modeling.losses import box_cxcywh_to_xyxy, generalized_iou
from fdd.modeling.matcher import assign, matching_cost

torch.set_num_threads(1)


def _pairs(matches, layer, image):
    keep = (matches.layer == layer) & (matches.image == image)
    return list(zip(matches.query[keep].tolist(), matches.target[keep].tolist(), strict=True))


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
                giou = generalized_iou(box_cxcywh_to_xyxy(box), box_cxcywh_to_xyxy(goal))
                want = 2 * focal + 5 * (box - goal).abs().sum() - 2 * giou
                torch.testing.assert_close(got[layer, 0, q, t], want, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("rounds", [1, 3])
def test_without_things_there_are_no_pairs(rounds):
    matches = assign(torch.randn(2, 2, 5, 3), torch.zeros(2, 3, dtype=torch.bool), rounds)
    assert len(matches.query) == 0 and matches.query.dtype == torch.int64


def test_an_image_without_things_beside_one_with():
    is_target = torch.tensor([[False, False], [True, True]])
    matches = assign(torch.randn(1, 2, 4, 2), is_target)
    assert matches.image.tolist() == [1, 1] and sorted(matches.target.tolist()) == [0, 1]


def test_more_things_than_queries_names_the_key():
    with pytest.raises(ValueError, match=r"image 1 .* 3 things .* 2 .*MODEL\.FDD\.PAN\.NUM_QUER"):
        is_target = torch.tensor([[True, False, False], [True, True, True]])
        assign(torch.randn(1, 2, 2, 3), is_target)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_costs_that_are_not_finite(value):
    cost = torch.zeros(1, 1, 3, 1)
    cost[0, 0, 1, 0] = value
    with pytest.raises(FloatingPointError, match="not finite"):
        assign(cost, torch.ones(1, 1, dtype=torch.bool))


@pytest.mark.parametrize(("queries", "each"), [(12, 3), (7, 2), (5, 1)])
def test_query_filter(queries, each):
    """Up to three different queries a thing, as many rounds as there are queries for."""
    torch.manual_seed(0)
    cost = torch.randn(2, 2, queries, 3)
    is_target = torch.tensor([[True, True, True], [True, False, False]])
    matches = assign(cost, is_target, rounds=3)
    # The layers' own pairs are those without the filter.
    plain, own = assign(cost, is_target), matches.layer < 2
    assert torch.equal(matches.query[own], plain.query)
    assert torch.equal(matches.target[own], plain.target)
    last = matches.layer >= 1
    for image, want in ((0, each), (1, 3)):
        keep = last & (matches.image == image)
        query, target = matches.query[keep].tolist(), matches.target[keep].tolist()
        assert len(set(query)) == len(query)
        things = is_target[image].nonzero().flatten().tolist()
        assert all(target.count(t) == want for t in things)


def test_later_rounds_take_the_next_best():
    cost = torch.tensor([0.5, 0.1, 0.9, 0.3]).view(1, 1, 4, 1)
    matches = assign(cost, torch.ones(1, 1, dtype=torch.bool), rounds=3)
    assert matches.layer.tolist() == [0, 1, 2] and matches.query.tolist() == [1, 3, 0]
