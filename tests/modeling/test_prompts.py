"""Random subsets of the points as prompts."""

import pytest
import torch
from detectron2.utils.events import EventStorage

from fdd.modeling.pseudo_labels.estimation import LabelSettings
from fdd.modeling.pseudo_labels.leave_one_out import hide_points
from modeling_toys import small_model, toy_input

torch.set_num_threads(1)


def _counts(x):
    return torch.bincount(x["point_index"], minlength=len(x["classes"])).tolist()


def test_instances_keep_some_of_their_points_and_lose_none_of_them_entirely():
    x = toy_input(64, 64, [0, 1, 3], points=6)
    torch.manual_seed(0)
    seen = set()
    for _ in range(40):
        [fewer] = hide_points([x], 1.0, LabelSettings())
        counts = _counts(fewer)
        assert len(set(counts)) == 1 and 1 <= counts[0] <= 6
        seen.add(counts[0])
        kept = {tuple(p) for p in fewer["point_coords"].tolist()}
        assert kept <= {tuple(p) for p in x["point_coords"].tolist()}
        owner = dict(
            zip(map(tuple, x["point_coords"].tolist()), x["point_index"].tolist(), strict=True)
        )
        assert [owner[tuple(p)] for p in fewer["point_coords"].tolist()] == fewer[
            "point_index"
        ].tolist()
        assert set(fewer["point_cells"][:, 0].tolist()) == {0, 1, 2}
    assert seen == {1, 2, 3, 4, 5, 6}


def test_an_instance_with_fewer_points_keeps_what_it_has():
    x = toy_input(64, 64, [0, 1], points=6)
    keep = (x["point_index"] == 0) | (torch.arange(12) == 8)
    x |= {k: x[k][keep] for k in ("point_coords", "point_index")}
    torch.manual_seed(1)
    for _ in range(10):
        [fewer] = hide_points([x], 1.0, LabelSettings())
        assert _counts(fewer)[1] == 1


@pytest.mark.parametrize("classes", [[], [0]])
def test_images_without_a_choice_stay_as_they_are(classes):
    x = toy_input(64, 64, classes, points=1)
    assert hide_points([x], 1.0, LabelSettings())[0] is x


def test_a_share_of_the_images_is_chosen():
    inputs = [toy_input(64, 64, [0, 1], points=8, seed=i) for i in range(60)]
    torch.manual_seed(0)
    changed = sum(
        a is not b for a, b in zip(hide_points(inputs, 0.5, LabelSettings()), inputs, strict=True)
    )
    assert 10 <= changed <= 45
    assert all(
        a is b for a, b in zip(hide_points(inputs, 0.0, LabelSettings()), inputs, strict=True)
    )


def test_losses_look_at_all_points():
    """The queries change with the subset; what is labelled, and counted, does not."""
    model, x = small_model({"PSEUDO.PROMPT_SUBSETS": 1.0}), toy_input(64, 64, [0, 1, 3], points=8)
    seen = []
    estimate = model.estimate

    def spy(memory, points, **options):
        seen.append(len(points.coords))
        return estimate(memory, points, **options)

    model.estimate = spy
    torch.manual_seed(3)
    with EventStorage(1):
        for _ in range(5):
            losses = model([x])
            assert losses["loss_pse_point"].isfinite()
    assert min(seen) < 24 and all(n % 3 == 0 for n in seen)
