"""Pseudo label branch and semantic branch: one pass, two sets of queries."""

import dataclasses

import pytest
import torch

from fdd.modeling.label_branch.branch import ClassAffine, PseudoLabelBranch
from fdd.modeling.label_branch.criterion import present_argmax
from modeling_toys import toy_memory

torch.set_num_threads(1)
CLASSES = torch.tensor([[0, 2, 4], [3, -1, -1]])


def _branch(**changes):
    torch.manual_seed(0)
    settings = dict(dim=16, num_classes=5, num_heads=2, ffn_dim=32, num_layers=2)
    branch = PseudoLabelBranch(**(settings | changes))
    # Away from their start, at which every class is alike.
    for affine in {branch.affine, branch.semantic_affine}:
        torch.nn.init.uniform_(affine.scale, 0.5, 2)
        torch.nn.init.normal_(affine.bias)
    return branch


def _inputs():
    torch.manual_seed(1)
    return torch.randn(2, 3, 16), toy_memory([(64, 64), (40, 64)], (64, 64), levels=3)


def _plain(branch, query, pos, classes, memory, stack):
    """One set of queries of one image in a pass of its own."""
    only = dataclasses.replace(
        memory, tokens=memory.tokens[:1], pos=memory.pos[:1], valid=memory.valid[:1]
    )
    masks, _ = stack(query[None], pos[None], only)
    scale, bias = branch.affine.scale, branch.affine.bias
    return [m[0] * scale[classes][:, None, None] + bias[classes][:, None, None] for m in masks]


def _image(memory, index):
    pick = slice(index, index + 1)
    return dataclasses.replace(
        memory,
        tokens=memory.tokens[pick],
        pos=memory.pos[pick],
        valid=memory.valid[pick],
        valid_ratios=memory.valid_ratios[pick],
    )


@pytest.mark.parametrize("index", [0, 1])
def test_one_pass_equals_separate_passes(index):
    """Instances see no class query, no padded query and no other image, and the other way round."""
    branch, (generated, memory) = _branch(), _inputs()
    output = branch(generated, CLASSES, memory)
    own = _image(memory, index)
    classes = CLASSES[index][CLASSES[index] >= 0]
    query = generated[index, : len(classes)]
    instance = _plain(branch, query, branch.position.weight[classes], classes, own, branch.stack)
    every = torch.arange(5)
    content, pos = branch.semantic_query.weight, branch.position.weight
    semantic = _plain(branch, content, pos, every, own, branch.stack)
    assert len(output.instance) == len(output.semantic) == 2
    for i in range(2):
        got = output.instance[i][index]
        torch.testing.assert_close(got[: len(classes)], instance[i], atol=1e-5, rtol=1e-5)
        assert (got[len(classes) :] == -torch.inf).all()
        got = output.semantic[i][index]
        torch.testing.assert_close(got, semantic[i], atol=1e-5, rtol=1e-5)


def test_unshared_layers_are_a_second_stack():
    branch, (generated, memory) = _branch(share_layers=False), _inputs()
    semantic = branch(generated, CLASSES, memory).semantic[-1]
    torch.nn.init.zeros_(branch.stack.layers[0].q_proj.weight)
    torch.nn.init.constant_(branch.affine.bias, 7)
    assert torch.equal(branch(generated, CLASSES, memory).semantic[-1], semantic)
    masks, _ = branch.semantic_stack(
        branch.semantic_query.weight[None], branch.position.weight[None], _image(memory, 0)
    )
    want = branch.semantic_affine(masks[-1], torch.arange(5)[None])
    torch.testing.assert_close(semantic[:1], want, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "changes", [{}, {"share_layers": False}, {"share_pos": False}, {"inject": "pos"}]
)
def test_semantics_alone_are_those_of_the_whole_branch(changes):
    branch, (generated, memory) = _branch(**changes), _inputs()
    both = branch(generated, CLASSES, memory)
    alone = branch.semantics_alone(2, memory)
    assert alone.instance == [] and len(alone.semantic) == len(both.semantic) == 2
    for x, y in zip(alone.semantic, both.semantic, strict=True):
        torch.testing.assert_close(x, y, atol=1e-5, rtol=1e-5)
    assert _branch(run_semantic=False).semantics_alone(2, memory).semantic == []


def test_instances_may_come_in_any_order():
    branch, (generated, memory) = _branch(), _inputs()
    classes = torch.tensor([[0, 2, 4], [3, 1, 1]])
    order = torch.tensor([2, 0, 1])
    a = branch(generated, classes, memory)
    b = branch(generated[:, order], classes[:, order], memory)
    for x, y in zip(a.instance, b.instance, strict=True):
        torch.testing.assert_close(x[:, order], y, atol=1e-5, rtol=1e-5)
    for x, y in zip(a.semantic, b.semantic, strict=True):
        torch.testing.assert_close(x, y, atol=1e-5, rtol=1e-5)


def test_more_padded_instances_change_nothing():
    branch, (generated, memory) = _branch(), _inputs()
    a = branch(generated, CLASSES, memory)
    more = torch.cat([generated, torch.full((2, 4, 16), 5.0)], 1)
    b = branch(more, torch.nn.functional.pad(CLASSES, (0, 4), value=-1), memory)
    for x, y in zip(a.instance, b.instance, strict=True):
        torch.testing.assert_close(x, y[:, :3], atol=1e-5, rtol=1e-5)
        assert (y[:, 3:] == -torch.inf).all()


def test_an_image_without_instances_has_finite_logits():
    branch, (generated, memory) = _branch(), _inputs()
    output = branch(generated, torch.full((2, 3), -1), memory)
    assert all(z.isfinite().all() for z in output.instance + output.semantic)


@pytest.mark.parametrize("share", [True, False])
def test_position_is_that_of_the_class(share):
    branch, (generated, _) = _branch(share_pos=share), _inputs()
    query, pos = branch.instance_queries(generated, CLASSES)
    table = branch.position.weight if share else branch.instance_position.weight
    assert torch.equal(query, generated)
    assert torch.equal(pos[0], table[[0, 2, 4]]) and torch.equal(pos[1, 0], table[3])
    assert (branch.instance_position is None) == share


def test_injection_as_position():
    branch, (generated, memory) = _branch(inject="pos"), _inputs()
    query, pos = branch.instance_queries(generated, CLASSES)
    assert torch.equal(pos, generated)
    assert torch.equal(query[0], branch.semantic_query.weight[[0, 2, 4]])
    assert branch(generated, CLASSES, memory).instance[-1].shape == (2, 3, 8, 8)


def test_affine_is_that_of_the_class_and_starts_as_the_identity():
    affine, maps = ClassAffine(5), torch.randn(2, 3, 4, 4)
    assert torch.equal(affine(maps, CLASSES.clamp(min=0)), maps)
    torch.nn.init.normal_(affine.scale)
    torch.nn.init.normal_(affine.bias)
    got = affine(maps, CLASSES.clamp(min=0))
    torch.testing.assert_close(got[0, 1], maps[0, 1] * affine.scale[2] + affine.bias[2])


def test_relu_head_is_bounded_by_the_bias():
    branch, (generated, memory) = _branch(logit_head="relu_affine"), _inputs()
    output = branch(generated, CLASSES, memory)
    assert (output.instance[0][0] >= branch.affine.bias[[0, 2, 4], None, None] - 1e-6).all()
    plain = _branch()(generated, CLASSES, memory)
    assert (plain.semantic[0] < branch.affine.bias[:, None, None] - 1e-3).any()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"share_layers": False},
        {"share_pos": False},
        {"share_layers": False, "share_pos": False},
        {"inject": "pos"},
        {"inject": "pos", "share_pos": False},
        {"run_semantic": False},
        {"run_semantic": False, "share_layers": False, "share_pos": False},
        {"run_semantic": False, "inject": "pos"},
        {"deep_supervision": False},
        {"logit_head": "relu_affine"},
    ],
)
def test_every_parameter_learns(changes):
    branch, (generated, memory) = _branch(**changes), _inputs()
    output = branch(generated, CLASSES, memory)
    parts = [z[z.isfinite()].square().sum() for z in output.instance + output.semantic]
    sum(parts).backward()
    assert all(p.grad is not None for p in branch.parameters())
    assert len(output.instance) == (1 if changes.get("deep_supervision") is False else 2)
    assert len(output.semantic) == (
        0 if changes.get("run_semantic") is False else len(output.instance)
    )


def test_last_only_is_the_last_layer():
    branch, (generated, memory) = _branch(), _inputs()
    every, last = (branch(generated, CLASSES, memory, last_only=x) for x in (False, True))
    assert len(last.instance) == len(last.semantic) == 1
    assert torch.equal(every.instance[-1], last.instance[0])
    assert torch.equal(every.semantic[-1], last.semantic[0])


def test_semantic_argmax_knows_which_classes_are_present():
    logits = torch.tensor([3.0, 1, 2, 0, 9]).view(1, 5, 1, 1).repeat(2, 1, 2, 2)
    keep = torch.tensor([[True, True], [True, False]]).expand(2, 2, 2)
    got = present_argmax(
        logits,
        torch.tensor([[1, 2, -1], [-1, -1, -1]]),
        keep & (torch.tensor([True, False])[:, None, None]),
    )
    assert got.tolist() == [[[2, 2], [2, -1]], [[-1, -1], [-1, -1]]]


def test_the_semantic_branch_alone_is_the_auxiliary_branch():
    """Same weights, same semantic logits, with instances beside it or without."""
    both, (generated, memory) = _branch(), _inputs()
    alone = _branch(run_instances=False)
    alone.load_state_dict(both.state_dict())
    got, want = alone(None, CLASSES, memory), both(generated, CLASSES, memory)
    assert got.instance == [] and len(got.semantic) == 2
    for a, b in zip(got.semantic, want.semantic, strict=True):
        torch.testing.assert_close(a, b)
    sum(m.sum() for m in got.semantic).backward()
    assert all(p.grad is not None for p in alone.parameters())


def test_one_of_the_branches_must_run():
    with pytest.raises(ValueError, match="neither"):
        _branch(run_instances=False, run_semantic=False)
