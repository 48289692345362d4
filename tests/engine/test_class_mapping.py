"""Weights of other classes are taken over by name."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fdd.engine.class_mapping import class_dimensions, map_weights, match_classes
from modeling_toys import small_cfg, small_model, toy_input

torch.set_num_threads(1)
EVERYTHING = {
    "LOCATION_PRIOR.ENABLED": True,
    "LOCATION_PRIOR.EXTENT": True,
    "PAN.DETECTOR": "centers",
    "PAN.TEST.SCORE_THRESH": 1e-4,  # or what fills up is shown, too
    "LAMBDA_SEM": 0.1,
}
KINDS = [True, True, True, False, False]  # of the toys: three things, two kinds of stuff
NAMES = ["cat", "dog", "cow", "sky", "sea"]


def _classes(names: list[str], kinds: list[bool]) -> list[dict[str, Any]]:
    return [
        {"id": n + 1, "name": name, "isthing": kind}
        for n, (name, kind) in enumerate(zip(names, kinds, strict=True))
    ]


OLD = _classes(NAMES, KINDS)


@pytest.mark.parametrize("changes", [{}, EVERYTHING])
def test_what_counts_classes_is_found(changes) -> None:
    found = class_dimensions(small_cfg(changes))
    assert set(found) == set(small_model(changes).state_dict())
    assert found["label_branch.position.weight"] == ("classes", "")
    if changes:
        assert found["label_branch.location_prior.slope"] == ("things",)
        assert found["label_branch.location_prior.thing_sizes"] == ("things", "")
    assert not any(any(kinds) for name, kinds in found.items() if name.startswith("backbone."))
    assert any("stuff" in kinds for kinds in found.values())


def _classes_of(segments: torch.Tensor, info: list[dict[str, Any]]) -> torch.Tensor:
    """Class of each pixel of a prediction, -1 none."""
    result = torch.full_like(segments, -1, dtype=torch.long)
    for segment in info:
        result[segments == segment["id"]] = segment["category_id"]
    return result


@pytest.mark.parametrize("changes", [{}, EVERYTHING])
def test_of_classes_in_another_order_everything_is_the_same(changes) -> None:
    order = [2, 0, 1, 4, 3]  # of the new classes, the old ones
    new = [OLD[n] for n in order]
    first, second = small_model(changes).eval(), small_model(changes).eval()
    generator = torch.Generator().manual_seed(3)
    for value in (*first.parameters(), *second.parameters()):
        value.data += 0.05 * torch.randn(value.shape, generator=generator)
    mapped = map_weights(
        first.state_dict(),
        second.state_dict(),
        class_dimensions(small_cfg(changes)),
        match_classes(OLD, new),
    )
    second.load_state_dict(mapped)
    x = toy_input(64, 96, [0, 1, 2, 3, 4], points=4)
    y = toy_input(64, 96, [order.index(n) for n in (0, 1, 2, 3, 4)], points=4)
    y |= {"image": x["image"]}
    labels = []
    for model, given in ((first, x), (second, y)):
        with torch.no_grad():
            images = model.preprocess([given])
            memory = model.encode(images)
            from fdd.modeling.structures import batch_points

            points = batch_points([given], tuple(images.tensor.shape[-2:]), model.device)
            labels.append(model.estimate(memory, points).instance[-1])
            prediction = model.predict([given], images, memory)[0]["panoptic_seg"]
            labels.append(_classes_of(*prediction))
    torch.testing.assert_close(labels[0], labels[2], rtol=1e-4, atol=1e-4)
    there = labels[3] >= 0
    labels[3][there] = torch.tensor(order)[labels[3][there]]
    assert (labels[1] == labels[3]).all() and there.any()


def test_new_classes_begin_as_they_are_and_gone_ones_go() -> None:
    new = _classes(["cow", "bird", "cat", "cave", "sea", "sky"], [True] * 3 + [False] * 3)
    mapping = match_classes(OLD, new)
    assert mapping.source == (2, -1, 0, -1, 4, 3)
    assert mapping.new == ("bird", "cave") and mapping.gone == ("dog",)
    changes = EVERYTHING | {"NUM_THINGS": 3, "NUM_STUFF": 3}
    old, fresh = small_model(EVERYTHING).state_dict(), small_model(changes).state_dict()
    fresh = {k: v + 1 for k, v in fresh.items()}
    mapped = map_weights(old, fresh, class_dimensions(small_cfg(changes)), mapping)
    name = "label_branch.position.weight"
    torch.testing.assert_close(mapped[name][[0, 2, 4, 5]], old[name][[2, 0, 4, 3]])
    torch.testing.assert_close(mapped[name][[1, 3]], fresh[name][[1, 3]])
    slope = "label_branch.location_prior.slope"
    torch.testing.assert_close(
        mapped[slope], torch.stack([old[slope][2], fresh[slope][1], old[slope][0]])
    )
    small_model(changes).load_state_dict(mapped)


def test_a_class_of_the_other_kind_is_a_new_one() -> None:
    new = _classes(["cat", "sea", "sky"], [True, True, False])
    mapping = match_classes(OLD, new)
    assert mapping.source == (0, -1, 3) and mapping.new == ("sea",)
    assert set(mapping.gone) == {"dog", "cow", "sea"}


def test_another_network_is_left_to_who_loads_it() -> None:
    old = {"label_branch.position.weight": torch.zeros(5, 999)}
    fresh = small_model({}).state_dict()
    mapped = map_weights(old, fresh, class_dimensions(small_cfg({})), match_classes(OLD, OLD))
    assert mapped["label_branch.position.weight"].shape == (5, 999)
