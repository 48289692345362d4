"""What a training wrote is changed by nothing that comes after, and least by what is refused."""

from __future__ import annotations

import hashlib
import json

import pytest
import torch
import yaml

from engine_toys import Cut, forget_record, make_trainer, toy_cfg
from fdd.data import register_points
from fdd.data.catalog import forget
from fdd.engine import CheckpointError, DatasetError
from fdd.engine.configs import new_cfg
from fdd.engine.run_folder import files_of_run, move_aside, used_files
from fdd.engine.training_record import RECORD_KEY
from fdd.inference.trained_model import load_trained

SHORT = ("SOLVER.MAX_ITER", "2")


def hashes(folder):
    """A digest of every file of a run but its logs."""
    return {
        p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in folder.rglob("*")
        if p.is_file() and not p.name.startswith(("log.txt", "events."))
    }


@pytest.fixture
def run(command, tmp_path):
    """The folder of a run with a validation, and the command that made it."""
    command(*SHORT, "SOLVER.CHECKPOINT_PERIOD", "1")
    return tmp_path / "out", command


@pytest.fixture
def other_set(toy_set, tmp_path):
    """Registers the toy points with other classes: ``other_set(change)`` edits the list."""
    names = []

    def make(change):
        content = json.loads((toy_set / "points.json").read_text())
        change(content["categories"])
        path = tmp_path / f"points_{len(names)}.json"
        path.write_text(json.dumps(content))
        names.append(f"engine_other_{len(names)}")
        register_points(names[-1], toy_set / "images", path)
        return names[-1]

    yield make
    for name in names:
        forget(name)


def renamed(categories):
    categories[0]["name"] = "ring"


def one_more(categories):
    categories.insert(1, {"id": 11, "name": "square", "isthing": True})


COMMANDS = {
    "resume": ["--resume", "DATASETS.TRAIN", "('{}',)", "DATASETS.TEST", "()"],
    "labels": ["--resume", "--eval-pseudo-labels", "{}"],
    "labels of weights": ["--eval-pseudo-labels", "{}", "MODEL.WEIGHTS", "OUT/model_final.pth"],
    "predictions": ["--eval-only", "--resume", "DATASETS.TEST", "('{}',)"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_other_classes_are_refused_and_nothing_is_changed(run, other_set, monkeypatch, name):
    folder, command = run
    other = other_set(renamed)
    # These have to get as far as the comparison.
    monkeypatch.setattr("fdd.engine.checks.check_ground_truth", lambda *_: None)
    monkeypatch.setattr("fdd.evaluation.PseudoLabelEvaluator", lambda dataset_name: None)
    words = [w.format(other).replace("OUT", str(folder)) for w in COMMANDS[name]]
    before = hashes(folder)
    # Class 0 is named as both call it.
    with pytest.raises(DatasetError, match=r"class 0 is 'disc' .* checkpoint, 'ring' .* data set"):
        command(*words)
    assert hashes(folder) == before


def test_reordered_classes_are_refused(toy_set, tmp_path, other_set):
    """The counts agree, and so do the names: only the order does not."""

    def swapped(categories):
        one_more(categories)
        categories[0], categories[1] = categories[1], categories[0]

    options = ("MODEL.FDD.NUM_THINGS", 2, "SOLVER.MAX_ITER", 1)
    first, second = other_set(one_more), other_set(swapped)
    make_trainer(toy_cfg(tmp_path / "run", *options, "DATASETS.TRAIN", (first,))).train()
    before = hashes(tmp_path / "run")
    with pytest.raises(DatasetError, match=r"class 0 is 'disc' .*'square'"):
        make_trainer(toy_cfg(tmp_path / "run", *options, "DATASETS.TRAIN", (second,)), resume=True)
    assert hashes(tmp_path / "run") == before


@pytest.mark.parametrize(
    ("field", "value", "said"), [("id", 77, r"id 77\)"), ("name", "earth", "'earth'")]
)
def test_every_field_of_a_class_counts(toy_set, tmp_path, field, value, said):
    """The checkpoint says so, whatever stands beside it."""
    make_trainer(toy_cfg(tmp_path, "SOLVER.MAX_ITER", 1)).train()
    path = tmp_path / "model_final.pth"
    content = torch.load(path)
    content[RECORD_KEY]["categories"][1][field] = value
    torch.save(content, path)
    with pytest.raises(DatasetError, match=rf"class 1 is .*{said}.* in the checkpoint"):
        make_trainer(toy_cfg(tmp_path), resume=True)


REFUSED = {
    "one class more": (["--resume", "MODEL.FDD.NUM_THINGS", "2"], ValueError, "NUM_THINGS is 2"),
    "another model": (["--resume", "MODEL.META_ARCHITECTURE", "EngineToyWider"], CheckpointError,
                      "other.weight is in the model only"),
    "no such key": (["--resume", "MODEL.NO_SUCH", "1"], ValueError, "NO_SUCH"),
    "no such set": (["--resume", "DATASETS.TRAIN", "('gone',)"], ValueError, "gone"),
    "a second training": ([], FileExistsError, r"last_checkpoint.*--resume.*--overwrite"),
    "overwrite, mistaken": (["--overwrite", "DATASETS.TRAIN", "('gone',)"], ValueError, "gone"),
    "overwrite and resume": (["--overwrite", "--resume"], ValueError, "give only one of them"),
    "overwrite and evaluate": (["--overwrite", "--eval-only"], ValueError, "for training"),
    "evaluating no set": (["--eval-only", "--resume", "DATASETS.TEST", "()"], ValueError, "empty"),
    "evaluating nothing": (["--eval-only", "SEED", "9"], ValueError, "MODEL.WEIGHTS is empty"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_refused_command_changes_no_file(run, name):
    folder, command = run
    words, error, said = REFUSED[name]
    before = hashes(folder)
    assert {"config.yaml", "classes.json", "metrics.json", "model_best.json"} <= set(before)
    with pytest.raises(error, match=said):
        command(*words, "INPUT.MIN_SIZE_TEST", "40")
    assert hashes(folder) == before


def test_evaluations_add_their_results_and_change_nothing(run):
    folder, command = run
    before = hashes(folder)
    command("--eval-only", "--resume", "INPUT.MIN_SIZE_TEST", "40", "SEED", "3")
    command("--eval-pseudo-labels", "--resume", "INPUT.MIN_SIZE_TEST", "40")
    after = hashes(folder)
    assert set(after) - set(before) == {"eval_results.json", "pseudo_label_results.json"}
    assert {name: after[name] for name in before} == before
    assert load_trained(folder).cfg.INPUT.MIN_SIZE_TEST == 32


def test_config_and_classes_travel_inside_the_checkpoint(run, tmp_path):
    folder, _ = run
    alone = tmp_path / "elsewhere.pth"
    alone.write_bytes((folder / "model_final.pth").read_bytes())
    expected = load_trained(folder)
    for name in ("config.yaml", "classes.json"):
        (folder / name).write_text("spoilt: [")
    for model in (alone, folder):
        trained = load_trained(model)
        assert trained.cfg.INPUT.MIN_SIZE_TEST == 32 and trained.cfg.SOLVER.MAX_ITER == 2
        assert trained.categories == expected.categories and trained.named
    assert set(torch.load(alone, weights_only=True)[RECORD_KEY]) == {
        "config",
        "categories",
        "version",
    }


def test_an_inner_config_that_is_wrong_is_named(run):
    folder, _ = run
    path = folder / "model_final.pth"
    content = torch.load(path)
    content[RECORD_KEY]["config"] = "MODEL: {NO_SUCH: 1}"
    torch.save(content, path)
    with pytest.raises(ValueError, match=r"the config inside .*model_final\.pth.*NO_SUCH"):
        load_trained(folder)


def test_each_checkpoint_has_the_config_it_was_trained_with(run):
    folder, command = run
    command("--resume", "SOLVER.MAX_ITER", "3", "INPUT.MIN_SIZE_TEST", "40")
    assert load_trained(folder / "model_0000000.pth").cfg.INPUT.MIN_SIZE_TEST == 32
    assert load_trained(folder / "model_final.pth").cfg.INPUT.MIN_SIZE_TEST == 40
    beside = yaml.safe_load((folder / "config.yaml").read_text())
    assert beside["INPUT"]["MIN_SIZE_TEST"] == 40


def test_a_resumed_run_that_fails_at_once_leaves_the_config(toy_set, tmp_path):
    """Its config belongs to checkpoints that never came."""
    make_trainer(toy_cfg(tmp_path, "SOLVER.MAX_ITER", 2)).train()
    forget_record(tmp_path / "model_final.pth")  # what stands beside it is all that is known
    before = hashes(tmp_path)
    options = ("SOLVER.MAX_ITER", 9, "INPUT.MIN_SIZE_TEST", 40)
    with pytest.raises(Cut):
        make_trainer(toy_cfg(tmp_path, *options), cut_at=3, resume=True).train()
    after = hashes(tmp_path)
    assert before.pop("metrics.json") != after.pop("metrics.json"), "it has gone on"
    assert after == before
    make_trainer(toy_cfg(tmp_path, *options), resume=True).train()
    assert load_trained(tmp_path).cfg.INPUT.MIN_SIZE_TEST == 40


# ------------------------------------------------------------------- checkpoints of before


@pytest.mark.parametrize("beside", ["same", "other", "none", "{"])
def test_a_checkpoint_of_before_is_judged_by_the_classes_beside_it(
    toy_set, tmp_path, caplog, beside
):
    make_trainer(toy_cfg(tmp_path, "SOLVER.MAX_ITER", 1)).train()
    forget_record(tmp_path / "model_final.pth")
    classes = tmp_path / "classes.json"
    if beside == "other":
        classes.write_text(classes.read_text().replace("disc", "ring"))
        with pytest.raises(DatasetError, match="'ring'"):
            make_trainer(toy_cfg(tmp_path), resume=True)
        return
    if beside == "none":
        classes.unlink()
    elif beside == "{":
        classes.write_text("{")
    caplog.clear()
    assert make_trainer(toy_cfg(tmp_path), resume=True).start_iter == 1
    assert ("cannot be compared" in caplog.text) == (beside in ("none", "{"))


# ------------------------------------------------------------------- a second training


def test_overwrite_moves_the_earlier_run_aside(run):
    folder, command = run
    first = hashes(folder)
    (folder / "notes.txt").write_text("mine")
    for number in (1, 2):
        command("--overwrite", *SHORT, "SEED", "8")
        aside = folder / f"earlier_{number:03d}"
        if number == 1:
            assert hashes(aside) == first
        assert load_trained(aside).named
        lines = [len((f / "metrics.json").read_text().splitlines()) for f in (aside, folder)]
        assert lines[0] == lines[1] > 0, "only of this run"
        assert torch.load(folder / "model_final.pth")["iteration"] == 1
    assert (folder / "notes.txt").read_text() == "mine"
    assert hashes(folder / "earlier_001") == first


def test_a_folder_is_in_use_by_its_checkpoints_or_metrics(tmp_path):
    for name in ("weights.pth", "cells.pth", "log.txt", "model_x.pth"):
        (tmp_path / name).write_text("x")
    (tmp_path / "config.yaml").write_text(new_cfg().dump())
    (tmp_path / "metrics.json").touch()
    (tmp_path / "earlier_001").mkdir()
    assert used_files(tmp_path) == [] == used_files(tmp_path / "none")
    for name in ("model_0000012.pth", "model_best.pth", "last_checkpoint"):
        (tmp_path / name).write_text("x")
    (tmp_path / "metrics.json").write_text("{}")
    used = ["last_checkpoint", "metrics.json", "model_0000012.pth", "model_best.pth"]
    assert used_files(tmp_path) == used
    aside = move_aside(tmp_path)
    assert aside.name == "earlier_002" and used_files(tmp_path) == []
    assert sorted(p.name for p in aside.iterdir()) == sorted([*used, "config.yaml"])
    assert (tmp_path / "weights.pth").exists() and (tmp_path / "log.txt").exists()
    assert move_aside(tmp_path) is None


OWN = {
    "config.yaml": "MODEL: {DEVICE: cpu}",
    "classes.json": '[{"id": 5, "name": "disc", "isthing": true}]',
    "results.json": '{"mine": 1}',
}


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("options", [[], ["--overwrite"], ["--resume"]])
def test_files_of_the_users_own_are_refused_and_stay(command, tmp_path, name, options):
    """A training writes files of these names, but none has written these."""
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / name).write_text(OWN[name])
    with pytest.raises(FileExistsError, match=rf"{name} that no training wrote.*OUTPUT_DIR") as e:
        command(*options, *SHORT)
    assert str(folder) in str(e.value)
    assert hashes(folder) == hashes_of({name: OWN[name]})
    assert [p.name for p in folder.iterdir()] == [name], "not even a log"


def hashes_of(texts):
    return {name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()}


def test_what_of_a_folder_is_a_runs(tmp_path):
    for name, text in OWN.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "inference").mkdir()
    (tmp_path / "events.out.tfevents.1.host").write_text("of another program")
    assert files_of_run(tmp_path) == [] == files_of_run(tmp_path / "none")
    assert move_aside(tmp_path) is None
    (tmp_path / "eval_results.json").write_text('{"iteration": null, "results": {}}')
    ours = {"eval_results.json", "events.out.tfevents.1.host", "inference"}
    assert set(files_of_run(tmp_path)) == ours
    (tmp_path / "config.yaml").write_text(new_cfg().dump())
    assert set(files_of_run(tmp_path)) == ours | {"config.yaml", "classes.json"}


def test_a_run_that_was_cut_before_its_first_checkpoint_is_one(toy_set, tmp_path):
    """It has left no more than config.yaml and classes.json."""
    with pytest.raises(Cut):
        make_trainer(toy_cfg(tmp_path, "SOLVER.MAX_ITER", 9), cut_at=1).train()
    (tmp_path / "metrics.json").unlink(missing_ok=True)
    assert not used_files(tmp_path)
    make_trainer(toy_cfg(tmp_path, "SOLVER.MAX_ITER", 1)).train()
    aside = tmp_path / "earlier_001"
    assert {p.name for p in aside.iterdir()} >= {"config.yaml", "classes.json"}


def test_a_trainer_refuses_too(toy_set, tmp_path):
    cfg = toy_cfg(tmp_path, "SOLVER.MAX_ITER", 1)
    make_trainer(cfg).train()
    before = hashes(tmp_path)
    with pytest.raises(FileExistsError, match="--overwrite"):
        make_trainer(cfg).train()
    assert hashes(tmp_path) == before


def test_resuming_begins_a_run_that_was_cut_before_its_first_checkpoint(toy_set, tmp_path):
    (tmp_path / "metrics.json").write_text('{"iteration": 0}\n')
    (tmp_path / "model_best.pth").write_text("of an evaluation before the first checkpoint")
    cfg = toy_cfg(tmp_path, "SOLVER.MAX_ITER", 1)
    make_trainer(cfg, resume=True).train()
    # Which is not this run's: predictions would be made with it.
    assert not (tmp_path / "model_best.pth").exists()
    assert (tmp_path / "earlier_001" / "model_best.pth").exists()
    (tmp_path / "last_checkpoint").unlink()
    before = hashes(tmp_path)
    with pytest.raises(FileExistsError, match=r"model_final\.pth.*into .*last_checkpoint"):
        make_trainer(cfg, resume=True).train()
    assert hashes(tmp_path) == before


def test_weights_of_other_classes_start_a_run_with_a_warning(toy_set, tmp_path, other_set, caplog):
    make_trainer(toy_cfg(tmp_path / "a", "SOLVER.MAX_ITER", 1)).train()
    weights = ("MODEL.WEIGHTS", str(tmp_path / "a" / "model_final.pth"))
    caplog.clear()
    make_trainer(toy_cfg(tmp_path / "b", *weights))
    assert "was trained on" not in caplog.text
    make_trainer(toy_cfg(tmp_path / "b", *weights, "DATASETS.TRAIN", (other_set(renamed),)))
    assert "'disc'" in caplog.text and "'ring'" in caplog.text
