"""Tables 1 to 8 of the paper: each switch changes what it says, and nothing else."""

import numpy as np
import pytest
import torch
from detectron2.utils.events import EventStorage

from fdd.points.raster import rasterize_points
from fdd.points.sampling import STRATEGIES, sample_points
from modeling_toys import gradients, small_model, toy_input

torch.set_num_threads(1)

C, D = 5, 16  # classes and width of the small model
BRANCH = "label_branch."
PSE = {"loss_pse_point", "loss_pse_color", "loss_pse_self"}
SEM = {"loss_sem_point", "loss_sem_color"}
PAN = {
    "loss_thing_class", "loss_box_l1", "loss_box_giou", "loss_thing_dice", "loss_stuff_class",
    "loss_stuff_dice",
}  # fmt: skip


def batch():
    """Classes 0 and 3 are labelled in one image, 2 and 3 in the other; 1 and 4 nowhere."""
    return [toy_input(64, 64, [0, 0, 3], seed=1), toy_input(48, 60, [2, 3], seed=2)]


def shapes(model):
    return {n: tuple(p.shape) for n, p in model.named_parameters()}


def alike(changes, like):
    """A model under a switch, with the weights of another wherever it has the same parameter."""
    model = small_model(changes)
    missing, _ = model.load_state_dict(like.state_dict(), strict=False)
    return model, set(missing)


def losses_of(model, inputs=None):
    with EventStorage(1):
        return model(inputs or batch())


def reached(model, terms):
    """Which parameters the sum of some losses moves, of those with a gradient that is not zero."""
    model.zero_grad()
    losses = losses_of(model)
    sum(losses[name] for name in losses if name in terms).backward()
    return {n: g for n, g in gradients(model).items() if g is not None and g.any()}


def assert_equal(losses, others, names, exactly=True):
    for name in names:
        if exactly:
            assert torch.equal(losses[name], others[name]), name
        else:
            torch.testing.assert_close(losses[name], others[name], rtol=1e-5, atol=1e-6)


def test_the_default_has_all_terms_and_moves_all_parameters():
    model = small_model()
    assert set(losses_of(model)) == PSE | SEM | PAN
    sure = {n for n in shapes(model) if n.startswith((BRANCH, "query_generator."))}
    assert sure <= set(reached(model, PSE | SEM | PAN))


class TestTable1WeightOfTheSemanticBranch:
    @pytest.mark.parametrize("value", [1.5, 0.5, 0.1])
    def test_the_weight_is_on_the_semantic_terms(self, value):
        default = small_model()
        model, missing = alike({"LAMBDA_SEM": value}, default)
        assert shapes(model) == shapes(default) and not missing
        losses, others = losses_of(model), losses_of(default)
        assert set(losses) == set(others)
        assert_equal(losses, others, PSE | PAN)
        for name in SEM:
            torch.testing.assert_close(losses[name], value * others[name])

    def test_at_zero_there_is_no_semantic_branch_but_its_position_embeddings_stay(self):
        default = small_model()
        model, missing = alike({"LAMBDA_SEM": 0.0}, default)
        assert not missing
        assert shapes(default).items() - shapes(model).items() == {
            (f"{BRANCH}semantic_query.weight", (C, D))
        }
        assert shapes(model)[f"{BRANCH}position.weight"] == (C, D)
        assert reached(model, PSE)[f"{BRANCH}position.weight"].any(1).tolist() == [
            True, False, True, True, False,
        ]  # fmt: skip

    def test_at_zero_it_is_not_run(self):
        default = small_model()
        model, _ = alike({"LAMBDA_SEM": 0.0}, default)
        widths = {}
        for name, each in (("with", default), ("without", model)):
            each.label_branch.stack.register_forward_pre_hook(
                lambda _, args, name=name: widths.update({name: args[0].shape[1]})
            )
        losses, others = losses_of(model), losses_of(default)
        assert widths == {"with": 3 + C, "without": 3}
        assert set(losses) == PSE | PAN
        # Class queries never touch the instances': these see the same as with them.
        assert_equal(losses, others, PSE | PAN, exactly=False)


class TestTable2Sharing:
    def test_unshared_layers_are_a_second_stack_of_the_same_size(self):
        default = small_model()
        model, missing = alike({"SHARE_LAYERS": False}, default)
        extra = dict(shapes(model).items() - shapes(default).items())
        assert not shapes(default).items() - shapes(model).items()
        # A shared scale and bias has both names in a checkpoint.
        assert missing == {n for n in extra if "_affine" not in n}
        second = {n.replace(".semantic_", "."): s for n, s in extra.items()}
        own = {n: s for n, s in shapes(default).items() if ".stack." in n or ".affine." in n}
        assert second == {n: s for n, s in own.items() if n.startswith(BRANCH)} != {}

    def test_unshared_layers_learn_from_their_own_branch_only(self):
        model = small_model({"SHARE_LAYERS": False})
        instance, semantic = reached(model, PSE), reached(model, SEM)
        names = [n for n in shapes(model) if n.startswith(BRANCH)]
        assert {n for n in names if "semantic_" in n} & set(instance) == set()
        assert {n for n in names if ".stack." in n or ".affine." in n} & set(semantic) == set()
        assert any(".semantic_stack." in n for n in semantic)
        assert any(n.startswith(f"{BRANCH}stack.") for n in instance)
        # What is still shared is moved by both.
        assert f"{BRANCH}position.weight" in set(instance) & set(semantic)

    def test_shared_layers_learn_from_both(self):
        model = small_model()
        both = set(reached(model, PSE)) & set(reached(model, SEM))
        stack = {n for n in shapes(model) if n.startswith(f"{BRANCH}stack.")}
        # The last layer's refined query feeds nobody, so it has no such weights to begin with.
        assert stack <= both

    def test_unshared_positions_are_a_second_table(self):
        default = small_model()
        model, missing = alike({"SHARE_POS": False}, default)
        name = f"{BRANCH}instance_position.weight"
        assert shapes(model).items() - shapes(default).items() == {(name, (C, D))}
        assert missing == {name} and len(shapes(model)) == len(shapes(default)) + 1
        instance, semantic = reached(model, PSE), reached(model, SEM)
        # Selected by class: rows of classes that are not labelled do not move.
        assert instance[name].any(1).tolist() == [True, False, True, True, False]
        assert f"{BRANCH}position.weight" not in instance
        assert name not in semantic and semantic[f"{BRANCH}position.weight"].any(1).all()

    @pytest.mark.parametrize("layers", [True, False])
    @pytest.mark.parametrize("positions", [True, False])
    def test_equal_copies_give_equal_losses(self, layers, positions):
        """Sharing is all that the switches change: with equal values on both sides, no number."""
        default = small_model()
        model, missing = alike({"SHARE_LAYERS": layers, "SHARE_POS": positions}, default)
        assert (missing == set()) == (layers and positions)
        branch = model.label_branch
        if not layers:
            branch.semantic_stack.load_state_dict(branch.stack.state_dict())
            branch.semantic_affine.load_state_dict(branch.affine.state_dict())
        if not positions:
            branch.instance_position.load_state_dict(branch.position.state_dict())
        losses, others = losses_of(model), losses_of(default)
        assert set(losses) == set(others)
        assert_equal(losses, others, losses, exactly=False)


class TestTable3Injection:
    def test_generated_vectors_are_positions_and_class_contents_are_queries(self):
        default = small_model()
        model, missing = alike({"INJECT": "pos"}, default)
        assert shapes(model) == shapes(default) and not missing
        seen = {}
        for name, each in (("query", default), ("pos", model)):
            each.label_branch.stack.register_forward_pre_hook(
                lambda _, args, name=name: seen.update({name: args[:2]})
            )
            each.query_generator.register_forward_hook(
                lambda _, args, out, name=name: seen.update({f"{name} made": out})
            )
            losses_of(each)
        rows = torch.tensor([0, 0, 3])
        contents, positions = (
            default.label_branch.get_submodule(n).weight for n in ("semantic_query", "position")
        )
        for name, where, table in (("query", 0, positions), ("pos", 1, contents)):
            assert torch.equal(seen[name][where][:, :3], seen[f"{name} made"])
            assert torch.equal(seen[name][1 - where][0, :3], table[rows])
            # The classes' own queries stay as they are.
            assert torch.equal(seen[name][0][1, 3:], contents)
            assert torch.equal(seen[name][1][1, 3:], positions)

    def test_what_learns(self):
        model = small_model({"INJECT": "pos"})
        instance, semantic = reached(model, PSE), reached(model, SEM)
        contents = f"{BRANCH}semantic_query.weight"
        assert instance[contents].any(1).tolist() == [True, False, True, True, False]
        assert f"{BRANCH}position.weight" not in instance
        assert f"{BRANCH}position.weight" in semantic and contents in semantic
        generator = {n for n in shapes(model) if n.startswith("query_generator.")}
        assert generator <= set(instance) and not generator & set(semantic)

    def test_the_semantic_branch_does_not_notice(self):
        default = small_model()
        model, _ = alike({"INJECT": "pos"}, default)
        losses, others = losses_of(model), losses_of(default)
        assert_equal(losses, others, SEM, exactly=False)
        assert not torch.allclose(losses["loss_pse_point"], others["loss_pse_point"])

    def test_without_a_semantic_branch_the_contents_stay_and_the_positions_go(self):
        model, default = small_model({"INJECT": "pos", "LAMBDA_SEM": 0.0}), small_model()
        gone = shapes(default).items() - shapes(model).items()
        assert gone == {(f"{BRANCH}position.weight", (C, D))}
        assert len(shapes(model)) == len(shapes(default)) - 1


class TestTable4QuerySource:
    def test_a_learned_map_stands_in_for_the_convolutions(self):
        default = small_model()
        model, missing = alike({"QUERY_SOURCE": "embedding2d"}, default)
        name = "query_generator.embedding"
        assert shapes(model).items() - shapes(default).items() == {(name, (1, D, 3, 4))}
        assert missing == {name}
        gone = {n for n in shapes(default) if n not in shapes(model)}
        assert gone == {f"query_generator.proj.{i}.{k}" for i in (0, 2) for k in ("weight", "bias")}
        assert reached(model, PSE)[name].isfinite().all()
        assert name not in reached(model, SEM | PAN)

    def test_queries_do_not_depend_on_the_image(self):
        default = small_model()
        model, _ = alike({"QUERY_SOURCE": "embedding2d"}, default)
        made = []
        for each in (model, default):
            each.query_generator.register_forward_hook(lambda _, args, out: made.append(out))
            losses_of(each)
            losses_of(each, [x | {"image": 255 - x["image"]} for x in batch()])
        assert torch.equal(made[0], made[1]) and not torch.allclose(made[2], made[3])

    def test_the_semantic_branch_does_not_notice(self):
        default = small_model()
        model, _ = alike({"QUERY_SOURCE": "embedding2d"}, default)
        losses, others = losses_of(model), losses_of(default)
        assert set(losses) == set(others)
        assert_equal(losses, others, SEM, exactly=False)
        assert not torch.allclose(losses["loss_pse_point"], others["loss_pse_point"])


@pytest.mark.parametrize("pseudo", [True, False])
@pytest.mark.parametrize("semantic", [True, False])
@pytest.mark.parametrize(
    ("key", "term"), [("SELF_TRAIN", "self"), ("COLOR", "color")], ids=["Table 5", "Table 6"]
)
def test_tables_5_and_6_switch_one_term_of_one_branch(key, term, pseudo, semantic):
    everything = small_model({"SELF_TRAIN_SEM": True})
    changes = {"SELF_TRAIN_SEM": True, f"{key}_PSE": pseudo, f"{key}_SEM": semantic}
    model = small_model(changes)
    # The same seed gives the same weights: nothing else is built.
    for a, b in zip(model.parameters(), everything.parameters(), strict=True):
        assert torch.equal(a, b)
    losses, others = losses_of(model), losses_of(everything)
    off = {f"loss_pse_{term}"} if not pseudo else set()
    off |= {f"loss_sem_{term}"} if not semantic else set()
    assert set(others) - set(losses) == off and set(losses) <= set(others)
    assert_equal(losses, others, losses)
    assert all(
        losses[f"loss_{b}_{term}"] > 0 for b in ("pse", "sem") if f"loss_{b}_{term}" not in off
    )


class TestTable7Sampling:
    def _input(self, strategy):
        """A disc and what is around it, with points drawn by the strategy."""
        y, x = np.mgrid[:64, :64] + 0.5
        inside = (x - 32) ** 2 + (y - 32) ** 2 < 24**2
        coords = []
        for n, mask in enumerate((inside, ~inside)):
            coords += sample_points(mask, 10, strategy, 0, "disc", n).tolist()
        index, classes = np.repeat([0, 1], 10), [0, 3]
        raster = rasterize_points(np.array(coords), index, classes, 64, 64)
        return toy_input(64, 64, classes, points=10) | {
            "point_coords": torch.tensor(coords, dtype=torch.float32),
            "point_cells": torch.from_numpy(raster.cells),
            "point_instance_map": torch.from_numpy(raster.instance_map),
            "point_semantic_map": torch.from_numpy(raster.semantic_map),
        }

    def test_the_strategy_is_in_the_points_alone(self):
        model, found = small_model(), {}
        state = {n: v.clone() for n, v in model.state_dict().items()}
        for strategy in STRATEGIES:
            found[strategy] = losses_of(model, [self._input(strategy)])
        for losses in found.values():
            assert set(losses) == PSE | SEM | PAN
        assert len({v["loss_pse_point"].item() for v in found.values()}) == len(STRATEGIES) == 3
        # The colour prior looks at the image, not at the points of the semantic branch.
        colours = [v["loss_sem_color"] for v in found.values()]
        assert torch.allclose(colours[0], colours[1]) and torch.allclose(colours[0], colours[2])
        assert all(torch.equal(v, model.state_dict()[n]) for n, v in state.items())


class TestTable8Supervision:
    def test_the_label_branches_are_left_alone(self):
        default, model = small_model(), small_model({"PAN_SUPERVISION": "point"})
        for (n, a), (m, b) in zip(
            default.named_parameters(), model.named_parameters(), strict=True
        ):
            assert n == m and torch.equal(a, b)
        losses, others = losses_of(model), losses_of(default)
        assert set(losses) == PSE | SEM | {n.replace("dice", "point") for n in PAN}
        assert_equal(losses, others, PSE | SEM)
        for name in ("loss_box_l1", "loss_box_giou"):
            assert not torch.allclose(losses[name], others[name]), name
        assert_equal(losses, others, ["loss_stuff_class"])  # which classes are there is known
        mine, theirs = reached(model, PSE | SEM), reached(default, PSE | SEM)
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[n], theirs[n]) for n in mine)

    def test_estimated_labels_have_no_say(self):
        """Whatever the label branch says, and however labels are made of it."""
        changes = {"PAN_SUPERVISION": "point"}
        first = small_model(changes)
        terms = set(losses_of(first)) - PSE - SEM
        assert not {n for n in reached(first, terms) if n.startswith((BRANCH, "query_gen"))}
        second, _ = alike(changes | {"PSEUDO.LABEL_STRIDE": 8, "PSEUDO.FORCE_POINTS": False}, first)
        with torch.no_grad():
            for p in second.label_branch.parameters():
                p.mul_(-3)
        assert_equal(losses_of(first), losses_of(second), terms)
        pseudo = small_model()
        before = losses_of(pseudo)
        with torch.no_grad():
            for p in pseudo.label_branch.parameters():
                p.mul_(-3)
        assert not torch.allclose(losses_of(pseudo)["loss_thing_dice"], before["loss_thing_dice"])

    def test_nothing_changes_at_test_time(self):
        default, model = small_model().eval(), small_model({"PAN_SUPERVISION": "point"}).eval()
        for a, b in zip(default(batch()), model(batch()), strict=True):
            assert torch.equal(a["panoptic_seg"][0], b["panoptic_seg"][0])
            assert a["panoptic_seg"][1] == b["panoptic_seg"][1] != []
        labels = (m.estimate_labels(batch())[0]["pseudo_labels"] for m in (default, model))
        for a, b in zip(*(each.values() for each in labels), strict=True):
            assert torch.equal(a, b)

    def test_boxes_follow_the_keys(self):
        """50 px at a short side of 200 px are 16 at one of 64."""
        keys = {"PAN_SUPERVISION": "point", "PAN.POINT_BOX_SIDE": 50.0}
        model = small_model(keys | {"INPUT.POINTS.DILATE_REFERENCE": 200.0})
        inputs = [toy_input(64, 80, [0], points=1)]
        images = model.preprocess(inputs)
        with EventStorage():
            step = model.step_context(inputs, images, model.encode(images), None)
        targets, _ = model._panoptic_targets(None, step)
        x, y = inputs[0]["point_coords"][0].tolist()
        left, right = max(x - 8, 0), min(x + 8, 80)
        low, high = max(y - 8, 0), min(y + 8, 64)
        want = [(left + right) / 160, (low + high) / 128, (right - left) / 80, (high - low) / 64]
        torch.testing.assert_close(targets.boxes[0, 0], torch.tensor(want))
