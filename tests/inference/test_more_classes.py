"""A trained model for classes that it has not learned."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fdd.annotate.actions import Segment
from fdd.annotate.live import LiveLabeller
from fdd.inference.more_classes import with_classes
from fdd.inference.trained_model import TrainedModel, load_trained
from fdd.points import Category
from labels_toys import CATEGORIES, IMAGES, write_images, write_run

NEW = [Category(20, "bird", True), *CATEGORIES, Category(21, "land", False)]


@pytest.fixture
def trained(tmp_path: Path) -> TrainedModel:
    write_images(tmp_path)
    changes = {"MODEL.FDD.LOCATION_PRIOR.ENABLED": True, "MODEL.FDD.LOCATION_PRIOR.EXTENT": True}
    write_run(tmp_path / "run", tmp_path / "toy.yaml", changes)
    return load_trained(tmp_path / "run", full=True)


def _segments(*ids: int) -> list[Segment]:
    return [
        Segment(n + 1, c, ((5.5 + 9 * n, 7.5), (6.5 + 9 * n, 30.5), (9.5 + 9 * n, 20.5)))
        for n, c in enumerate(ids)
    ]


def test_classes_that_it_knows_are_labelled_as_before(trained: TrainedModel, tmp_path) -> None:
    more, new = with_classes(trained, NEW)
    assert new == ("bird", "land")
    assert [c["name"] for c in more.categories if c["isthing"]] == ["bird", "cell", "dog"]
    name, size = IMAGES["first"]
    path, segments = tmp_path / "images" / name, _segments(4, 11, 6, 9)
    before = LiveLabeller(trained, CATEGORIES).label(path, segments, size)
    after = LiveLabeller(more, NEW).label(path, segments, size)
    # The classes look at each other in the branch, so that a new one moves the others a little.
    assert (before.label == after.label).mean() > 0.7
    assert trained.cfg.MODEL.FDD.NUM_THINGS == 2, "the model that was given stays as it is"


def test_a_new_class_is_the_mean_of_its_kind(trained: TrainedModel) -> None:
    more, _ = with_classes(trained, NEW)
    old, new = (m.model.state_dict()["label_branch.position.weight"] for m in (trained, more))
    order = [str(c["name"]) for c in trained.categories]
    things = [n for n, c in enumerate(trained.categories) if c["isthing"]]
    torch.testing.assert_close(new[0], old[things].mean(0))
    for n, category in enumerate(more.categories):
        if category["name"] in order:
            torch.testing.assert_close(new[n], old[order.index(category["name"])])
    sizes = more.model.label_branch.location_prior.sizes
    assert sizes.count[0] == 0, "nobody has measured it"


def test_new_classes_can_be_clicked(trained: TrainedModel, tmp_path: Path) -> None:
    more, _ = with_classes(trained, NEW)
    name, size = IMAGES["first"]
    found = LiveLabeller(more, NEW).label(tmp_path / "images" / name, _segments(20, 21, 11), size)
    assert set(found.label.ravel()) == {0, 1, 2}


def test_what_does_not_fit_is_given_back(trained: TrainedModel) -> None:
    for categories in (
        CATEGORIES,
        CATEGORIES[:2],
        [Category(1, "car", True), Category(2, "road", False)],
        [*CATEGORIES, Category(30, "sky 2", False)][1:-1],
        [Category(4, "sky", True), *CATEGORIES[1:]],
    ):
        assert with_classes(trained, categories) == (trained, ())
