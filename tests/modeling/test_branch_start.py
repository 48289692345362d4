"""At the start, what tells instances of one class apart survives to the last layer."""

import pytest
import torch

from fdd.modeling.structures import batch_points
from modeling_toys import small_model, toy_input

torch.set_num_threads(1)


def _signal(layers, seed, **changes):
    """Spread over the image of the difference of two mask logits of one class, by layer."""
    model = small_model(
        {"PSEUDO.NUM_LAYERS": layers, "HIDDEN_DIM": 64, "NUM_HEADS": 4}
        | {f"PSEUDO.{k}": v for k, v in changes.items()},
        seed,
    ).eval()
    x = toy_input(128, 128, [0, 0, 0, 3], points=4, seed=seed)
    images = model.preprocess([x])
    points = batch_points([x], tuple(images.tensor.shape[-2:]), model.device)
    with torch.no_grad():
        output = model.estimate(model.encode(images), points)
    return [float((z[0, 1] - z[0, 0]).std() + (z[0, 2] - z[0, 0]).std()) for z in output.instance]


def _mean_ratio(layers, **changes):
    signals = torch.tensor([_signal(layers, seed, **changes) for seed in range(10)]).mean(0)
    return float(signals[-1] / signals[0])


@pytest.mark.parametrize("layers", [3, 6])
def test_the_default_keeps_at_least_half(layers):
    assert _mean_ratio(layers, RESIDUAL_INIT="zero") >= 0.5


def test_the_former_start_lost_nearly_all_of_it():
    """So the test above can fail."""
    assert _mean_ratio(6, POSITION_STD=1.0, RESIDUAL_INIT="xavier") < 0.2


def test_positions_have_the_spread_that_the_key_says():
    model = small_model({"PSEUDO.POSITION_STD": 0.3, "HIDDEN_DIM": 256, "SHARE_POS": False})
    for table in (model.label_branch.position, model.label_branch.instance_position):
        assert 0.25 < table.weight.std() < 0.35
    assert 0.9 < model.label_branch.semantic_query.weight.std() < 1.1


def test_layers_start_as_normalised_copies_of_their_queries():
    model = small_model({"PSEUDO.RESIDUAL_INIT": "zero"})
    for layer in model.label_branch.stack.layers:
        for linear in layer.residual_outputs:
            assert not linear.weight.any() and not linear.bias.any()
    others = [m.out_proj for m in model.panoptic_branch.stuff_stack.layers if m.update]
    assert all(linear.weight.any() for linear in others)
