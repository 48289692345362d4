"""The embedding head, its keys and its place in a training step."""

import pytest
import torch
from detectron2.utils.events import EventStorage

from fdd.modeling.distance_embedding import (
    DistanceEmbedding,
    count_contrasted_images,
    embedding_loss,
)
from fdd.modeling.losses import LabelledCells, region_info_nce
from fdd.modeling.structures import batch_points
from modeling_toys import gradients, permuted, small_model, total, toy_input, toy_memory

torch.set_num_threads(1)
DISTANCE = {"LABEL_MAKER": "distance"}
BESIDE = {"TEST.PSEUDO_LABELS.BASELINES": ("distance",)}


def _step(model, batch, **options):
    model.zero_grad()
    with EventStorage(1):
        losses = model(batch, **options)
    total(losses).backward()
    return losses, gradients(model)


def test_head_gives_unit_vectors_at_stride_8_and_sends_nothing_back():
    torch.manual_seed(0)
    head, memory = DistanceEmbedding(dim=16), toy_memory([(64, 64), (40, 64)], (64, 64))
    tokens = memory.tokens.clone().requires_grad_()
    out = head(type(memory)(**{**vars(memory), "tokens": tokens}))
    assert out.shape == (2, 128, 8, 8)
    torch.testing.assert_close(out.norm(dim=1), torch.ones(2, 8, 8))
    out[:, 0].sum().backward()
    assert tokens.grad is None and all(p.grad.abs().sum() > 0 for p in head.parameters())
    # Position and all three levels are looked at.
    for field, place in (("pos", 0), ("tokens", 64), ("tokens", 64 + 16)):
        moved = getattr(memory, field).clone()
        moved[:, place] += 1
        assert not torch.equal(head(type(memory)(**{**vars(memory), field: moved})), out)


@pytest.mark.parametrize(
    ("images", "num_stuff", "want"),
    [
        ([[0, 1], [0], [], [3]], 2, 3),  # a stuff class is a key whether it is labelled or not
        ([[0, 1], [0], []], 0, 1),
        ([[0], [2], [2, 0]], 1, 2),
        ([], 2, 0),
    ],
)
def test_images_with_two_keys_are_counted(images, num_stuff, want):
    batch = [{"classes": torch.tensor(c, dtype=torch.long)} for c in images]
    num_things = 3 if num_stuff == 2 else 2
    got = count_contrasted_images(batch, num_things, num_stuff)
    assert got.tolist() == [want] and got.dtype == torch.float32


def test_keys_are_things_and_stuff_classes():
    """Two instances of one stuff class share a key; the class that is not there has zeros."""
    x = toy_input(64, 60, [0, 0, 3, 3])
    points = batch_points([x], (64, 64), torch.device("cpu"))
    g = torch.Generator().manual_seed(0)
    embedding = torch.nn.functional.normalize(torch.randn(1, 6, 8, 8, generator=g), dim=1)
    labels = torch.randint(-1, 4, (1, 16, 16), generator=g)
    got = embedding_loss(
        embedding, labels, points, [(64, 60)], 1, num_things=3, num_stuff=2
    )  # fmt: skip
    key = torch.tensor([0, 1, 2, 2])
    cells = (x["point_coords"] / 8).floor().long().clamp(max=7)
    queries = LabelledCells(
        torch.zeros(12, dtype=torch.long), cells[:, 1], cells[:, 0], key[x["point_index"]]
    )
    regions = torch.where(labels >= 0, key[labels.clamp(min=0)], -1)
    want = region_info_nce(embedding, queries, regions, torch.ones(1, 4, dtype=torch.bool), 1)
    torch.testing.assert_close(got, want)


def test_the_order_of_instances_does_not_matter():
    x = toy_input(64, 64, [0, 1, 3])
    order = [2, 0, 1]
    g = torch.Generator().manual_seed(0)
    embedding = torch.nn.functional.normalize(torch.randn(1, 6, 8, 8, generator=g), dim=1)
    labels = torch.randint(-1, 3, (1, 8, 8), generator=g)
    new = torch.tensor(order).argsort()
    moved = torch.where(labels >= 0, new[labels.clamp(min=0)], -1)

    def loss(x, labels):
        points = batch_points([x], (64, 64), torch.device("cpu"))
        return embedding_loss(
            embedding, labels, points, [(64, 64)], 1, num_things=3, num_stuff=2
        )  # fmt: skip

    torch.testing.assert_close(loss(x, labels), loss(permuted(x, order), moved))


@pytest.mark.parametrize("changes", [DISTANCE, BESIDE])
@pytest.mark.parametrize("images", [[[0, 1, 3], [2, 4]], [[0, 1, 3], []], [[]], [[3]], [[1]]])
def test_every_parameter_learns_in_every_image(changes, images):
    batch = [toy_input(64, 64, c, seed=i) for i, c in enumerate(images)]
    losses, grads = _step(small_model(changes), batch)
    assert all(v.isfinite() for v in losses.values())
    assert all(g is not None and g.isfinite().all() for g in grads.values())
    labelled = any(images)
    assert (losses["loss_embedding"] > 0) == labelled


def test_its_loss_trains_the_head_alone():
    model = small_model(DISTANCE)
    with EventStorage(1):
        model([toy_input(64, 64, [0, 1, 3])])["loss_embedding"].backward()
    reached = {n for n, g in gradients(model).items() if g is not None and g.abs().sum() > 0}
    assert reached and all(n.startswith("distance_embedding.") for n in reached)


def test_beside_a_learned_model_it_changes_nothing_else():
    batch = [toy_input(64, 64, [0, 1, 3]), toy_input(48, 60, [2, 4], seed=1)]
    plain, plain_grads = _step(small_model(), batch)
    beside, beside_grads = _step(small_model(BESIDE), batch)
    assert set(beside) - set(plain) == {"loss_embedding"}
    assert all(torch.equal(plain[n], beside[n]) for n in plain)
    assert all(torch.equal(g, beside_grads[n]) for n, g in plain_grads.items())


def test_weight_and_warm_up():
    batch = [toy_input(64, 64, [0, 1, 3])]
    half = _step(small_model(DISTANCE | {"DISTANCE.EMBEDDING_WEIGHT": 0.5}), batch)[0]
    early = _step(small_model(DISTANCE | {"WARMUP_ITERS": 10}), batch)[0]
    whole = _step(small_model(DISTANCE), batch)[0]
    torch.testing.assert_close(half["loss_embedding"] * 2, whole["loss_embedding"])
    for name, loss in whole.items():
        warmed = name.startswith(("loss_thing", "loss_box", "loss_stuff"))
        torch.testing.assert_close(early[name], loss * (0.1 if warmed else 1.0))


def test_points_alone_supervise_the_panoptic_branch_and_not_the_embedding():
    """It has the labels of "distance" as ever, at stride 8."""
    batch = [toy_input(64, 64, [0, 1, 3]), toy_input(48, 60, [2, 4], seed=1)]
    dense = _step(small_model(DISTANCE | {"PSEUDO.LABEL_STRIDE": 8}), batch)[0]
    losses, grads = _step(small_model(DISTANCE | {"PAN_SUPERVISION": "point"}), batch)
    assert losses["loss_embedding"] == dense["loss_embedding"] > 0
    assert "loss_thing_point" in losses and "loss_thing_dice" not in losses
    assert all(g is not None for g in grads.values())


@pytest.mark.parametrize("changes", [DISTANCE, BESIDE])
def test_two_halves_equal_one_batch(changes):
    """The count is of the whole step; one image has no point, one a single key."""
    changes = changes | {"NUM_STUFF": 0, "PAN.RATIO_WEIGHTING": False}
    images = [[0, 1, 2], [], [1], [2, 0]]
    batch = [toy_input(64, 64, c, seed=i) for i, c in enumerate(images)]
    model = small_model(changes)
    counts = model.count_normalizers(batch)
    assert counts.shape == (7,) and counts[-1] == 2
    assert torch.equal(counts, sum(model.count_normalizers([x]) for x in batch))
    one = _step(model, batch)[0]["loss_embedding"]
    halves = [_step(model, half, normalizers=counts)[0] for half in (batch[:2], batch[2:])]
    torch.testing.assert_close(one, sum(h["loss_embedding"] for h in halves))


def test_the_maker_uses_the_embedding():
    batch = [toy_input(96, 128, [0, 0, 1, 3])]
    model = small_model(DISTANCE).eval()
    with_it = model.estimate_labels(batch)[0]["pseudo_labels"]["distance_free"]
    # All alike: its term is 0 everywhere.
    with torch.no_grad():
        model.distance_embedding.proj[2].weight.zero_()
        model.distance_embedding.proj[2].bias.fill_(1.0)
    alike = model.estimate_labels(batch)[0]["pseudo_labels"]["distance_free"]
    model.distance_embedding = None
    without = model.estimate_labels(batch)[0]["pseudo_labels"]["distance_free"]
    assert torch.equal(alike, without) and not torch.equal(with_it, without)


def test_forced_points_and_free_labels():
    x = toy_input(64, 64, [0, 1, 3], seed=3)
    labels = small_model(DISTANCE).eval().estimate_labels([x])[0]["pseudo_labels"]
    assert {"distance", "distance_free"} <= labels.keys()
    changed = labels["distance"] != labels["distance_free"]
    own = (x["point_coords"] / 8).floor().long().clamp(max=7)
    cells = {(v, u) for u, v in own.tolist()}
    assert {(v // 8, u // 8) for v, u in changed.nonzero().tolist()} <= cells


def test_mixed_precision():
    batch = [toy_input(64, 64, [0, 1, 3])]
    model = small_model(DISTANCE)
    exact, _ = _step(model, batch)
    with torch.autocast("cpu", torch.bfloat16):
        losses, grads = _step(model, batch)
        assert "distance" in model.eval().estimate_labels(batch)[0]["pseudo_labels"]
    assert losses["loss_embedding"].dtype == torch.float32
    torch.testing.assert_close(
        losses["loss_embedding"], exact["loss_embedding"], rtol=0.2, atol=0.05
    )
    assert all(g.isfinite().all() for g in grads.values())
