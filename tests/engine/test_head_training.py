"""Training of the panoptic branch alone: what it changes, keeps, and refuses."""

import pytest
import torch
from detectron2.utils.events import EventStorage

from engine_toys import make_trainer, registered, toy_cfg, weights_of, write_toy_files
from fdd.engine import head_training
from fdd.engine.head_training import Examples, head_losses, train_head
from modeling_toys import SMALL, small_model, toy_input

torch.set_num_threads(1)
SETTINGS = dict(batch=2, rate=1e-3, weight_decay=0.05, clip=1.0, seed=1)


class _Mapper:
    """Gives toy images, flipped by the seed."""

    def __init__(self, flips=True):
        self.flips, self.calls = flips, 0

    def __call__(self, record):
        self.calls += 1
        flipped = self.flips and record["_seed"] % 2
        return toy_input(64, 64 + 32 * record["wide"], [0, 1, 4], seed=record["n"] + 9 * flipped)


def _dicts(number=3):
    return [{"n": n, "wide": n % 2} for n in range(number)]


def _examples(model, number=3, **options):
    return Examples(model, _Mapper(**options), _dicts(number), seed=5)


@pytest.fixture
def storage():
    with EventStorage(1000) as found:
        yield found


@pytest.mark.parametrize("detector", ["queries", "centers"])
def test_only_the_panoptic_branch_changes_and_gets_better(storage, detector):
    model = small_model({"PAN.DETECTOR": detector})
    before = {k: v.clone() for k, v in model.state_dict().items()}
    examples = _examples(model)
    torch.manual_seed(0)
    first = sum(head_losses(model, [examples[i] for i in range(6)]).values())
    train_head(model, examples, steps=30, **SETTINGS | {"rate": 1e-2})
    torch.manual_seed(0)
    last = sum(head_losses(model, [examples[i] for i in range(6)]).values())
    assert last.item() < 0.9 * first.item()
    changed = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert changed and all(k.startswith("panoptic_branch.") for k in changed)
    assert model.training


def test_examples_together_cost_what_their_batch_costs(storage):
    model = small_model({"PAN.DROPOUT": 0.0, "ENCODER.DROPOUT": 0.0})
    mapper = _Mapper(flips=False)
    examples = Examples(model, mapper, [{"n": n, "wide": 0} for n in range(2)], seed=5)
    got = head_losses(model, [examples[0], examples[2]])
    model.eval()
    memory, targets, step = model.panoptic_example(
        [mapper({"n": n, "wide": 0, "_seed": 0}) for n in range(2)]
    )
    model.train()
    want = model.panoptic_criterion(model.panoptic_branch, memory, targets, step)
    assert got.keys() == want.keys()
    for name, value in want.items():  # tokens are kept in half precision
        assert float(got[name]) == pytest.approx(float(value), rel=2e-2, abs=1e-3), name


def test_an_image_is_mapped_and_encoded_once_a_view(storage):
    model = small_model()
    examples = _examples(model)
    mapper = examples._mapper
    made = [examples[i] for i in range(len(examples))]
    calls = mapper.calls
    assert all(examples[i] is example for i, example in enumerate(made))
    assert mapper.calls == calls
    tokens = [example.memory.tokens for example in made]
    assert not torch.equal(tokens[0], tokens[1]), "the second view is the flipped one"
    # Equal sizes share their positions.
    assert made[0].memory.pos is made[4].memory.pos is not made[2].memory.pos


def test_views_differ_whichever_is_asked_for_first(storage):
    examples = _examples(small_model(), 6)
    for image in range(6):
        second, first = examples[2 * image + 1], examples[2 * image]
        assert not torch.equal(first.memory.tokens, second.memory.tokens), image


def test_crops_have_more_views(storage):
    model = small_model()
    whole, cropped = _examples(model), Examples(model, _Mapper(), _dicts(), 5, cropped=True)
    assert len(cropped) > len(whole) == 6
    assert cropped[len(cropped) - 1].step.image_sizes == whole[4].step.image_sizes


def test_what_is_kept_holds_no_picture(storage):
    example = _examples(small_model())[0]
    assert not example.step.points.images and example.step.rgb.numel() == 0


def test_processes_do_not_add_up_their_counts(storage, monkeypatch):
    """Each of them takes the whole of the same steps."""
    model, x = small_model(), toy_input(64, 64, [0, 1, 4])
    alone = model.panoptic_example([x])[2].counts
    monkeypatch.setattr("detectron2.utils.comm.get_world_size", lambda: 2)

    def never(*args, **kwargs):
        raise AssertionError("nothing is to be exchanged")

    monkeypatch.setattr(torch.distributed, "all_reduce", never)
    assert model.panoptic_example([x])[2].counts == alone


def test_without_room_examples_are_made_again(storage, monkeypatch):
    monkeypatch.setattr(head_training, "_KEPT_BYTES", 0)
    examples = _examples(small_model())
    one = examples[0]
    assert examples[0] is not one
    assert torch.equal(examples[0].memory.tokens, one.memory.tokens)


def test_a_set_that_is_never_flipped_has_two_equal_views(storage):
    examples = _examples(small_model(), flips=False)
    assert torch.equal(examples[0].memory.tokens, examples[1].memory.tokens)


def test_a_loss_that_is_not_finite_ends_it_with_the_weights_of_before(storage):
    model = small_model({"PAN.DETECTOR": "centers"})
    with torch.no_grad():
        model.panoptic_branch.centers.box_head.bias.fill_(float("nan"))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(FloatingPointError, match=r"HEAD_ITERS.*loss_thing_dice = nan"):
        train_head(model, _examples(model), steps=3, **SETTINGS)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name], equal_nan=True, rtol=0, atol=0)


@pytest.mark.slow
def test_a_training_ends_with_it_and_saves_what_it_made(tmp_path):
    write_toy_files(tmp_path)
    with registered(tmp_path):

        def trained(folder, iters, **cut):
            small = SMALL | {"MODEL.FDD.NUM_STUFF": 1, "MODEL.FDD.NUM_THINGS": 1}
            options = [x for pair in small.items() for x in pair]
            cfg = toy_cfg(folder, *options, "SOLVER.HEAD_ITERS", iters, "SOLVER.MAX_ITER", 3)
            cfg.SOLVER.CHECKPOINT_PERIOD = 2
            trainer = make_trainer(cfg, **cut)
            trainer.train()
            return weights_of(trainer)

        without, with_it = trained(tmp_path / "a", 0), trained(tmp_path / "b", 4)
        differ = {k for k, v in without.items() if not torch.equal(v, with_it[k])}
        assert differ and all(k.startswith("panoptic_branch.") for k in differ)
        saved = torch.load(tmp_path / "b" / "model_final.pth", weights_only=False)["model"]
        assert all(torch.equal(v, saved[k]) for k, v in with_it.items())


def test_another_network_is_refused(tmp_path):
    write_toy_files(tmp_path)
    with registered(tmp_path), pytest.raises(ValueError, match=r"HEAD_ITERS.*EngineToy"):
        make_trainer(toy_cfg(tmp_path / "run", "SOLVER.HEAD_ITERS", 4))
