"""How the losses of the two branches are weighted and wired; formulas have their own tests."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from fdd.modeling.label_branch import BranchOutput, LabelCriterion
from fdd.modeling.losses import class_agreement_loss, class_distribution, labelled_cells
from modeling_toys import toy_step

torch.set_num_threads(1)
CLASSES = torch.tensor([[1, 0, 1], [2, -1, -1]])


def _losses(warmup: float, **changes):
    """The loss alone, on two layers of random logits; the logits, and which cells count."""
    g = torch.Generator().manual_seed(0)
    instance = [
        torch.randn(2, 3, 4, 5, generator=g).masked_fill((CLASSES < 0)[..., None, None], -torch.inf)
        for _ in range(2)
    ]
    semantic = [torch.randn(2, 3, 4, 5, generator=g) for _ in range(2)]
    for z in (*instance, *semantic):
        z.requires_grad_()
    keep = torch.rand(2, 4, 5, generator=g) < 0.8
    nowhere = torch.zeros(2, 4, 5, dtype=torch.int64) - 1
    counts = {"images": 2, "instance_cells": 3, "semantic_cells": 5, "valid_cells": 7}
    criterion = LabelCriterion(color_pse=False, color_sem=False, **changes)
    cells = SimpleNamespace(
        classes=CLASSES,
        instance_cells=labelled_cells(nowhere),
        semantic_cells=labelled_cells(nowhere),
    )
    counts = {name: torch.tensor(float(count)) for name, count in counts.items()}
    step = toy_step(points=cells, counts=counts, warmup=warmup)
    output, affinity = BranchOutput(instance, semantic), torch.zeros(2, 24, 4, 5, dtype=torch.bool)
    losses = criterion.instance_losses(output, affinity, keep, step)
    losses |= criterion.semantic_losses(output, affinity, keep, step)
    return losses, instance, semantic, keep


@pytest.mark.parametrize("warmup", [0.0, 0.25, 1.0])
def test_instances_agree_with_the_semantic_branchs_last_layer(warmup):
    losses, instance, semantic, keep = _losses(warmup, lambda_sem=0.3, class_agreement=2.0)
    target = class_distribution(semantic[-1], CLASSES)
    want = sum(class_agreement_loss(z, CLASSES, target, keep, 7) for z in instance)
    torch.testing.assert_close(losses["loss_pse_class"], 0.3 * 2.0 * warmup * want)


def test_the_semantic_branch_does_not_learn_from_the_instances():
    losses, instance, semantic, _ = _losses(1.0, lambda_sem=1.0, class_agreement=1.0)
    losses["loss_pse_class"].backward()
    assert all(z.grad is None for z in semantic)
    assert all(z.grad[CLASSES >= 0].abs().sum() > 0 for z in instance)


def test_without_a_weight_there_is_no_such_loss():
    assert "loss_pse_class" not in _losses(1.0, class_agreement=0.0)[0]
