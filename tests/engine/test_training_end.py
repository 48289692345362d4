"""The last words of a training: what came out, and commands that can be run as they stand."""

from __future__ import annotations

import shlex
from types import SimpleNamespace

import pytest
from detectron2.utils.events import EventStorage

from fdd.cli.main import find_command, make_parser
from fdd.engine.command import describe_end


def last_words(folder):
    text = (folder / "log.txt").read_text()
    return text[text.index("Training is done") :]


def command_lines(text):
    lines = [line.strip() for line in text.splitlines()]
    return [shlex.split(line, comments=True) for line in lines if line.startswith("fdd ")]


def test_it_says_what_came_out_and_the_next_commands(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command("SOLVER.MAX_ITER", "2", "TEST.EVAL_PERIOD", "1")
    text = last_words(tmp_path / "out")
    assert "2 iterations" in text and "model_final.pth (validation panoptic_seg/PQ" in text
    assert "Nothing was evaluated" not in text
    found = {}
    for program, *words in command_lines(text):
        assert program == "fdd"
        known = find_command(words)
        found[known.name] = make_parser(known).parse_args(words[len(known.words) :])
    assert list(found) == ["predict"]  # no other program knows a set that a script registered
    assert found["predict"].model == "out"  # from where the user stands


def test_what_there_was_no_measure_of_is_said(command, tmp_path):
    command("SOLVER.MAX_ITER", "1", "DATASETS.TEST", "()")
    text = last_words(tmp_path / "out")
    assert "Nothing was evaluated" in text and "no validation figure known" in text
    assert str(tmp_path / "out") in text  # not below the working folder: the whole path


def test_a_training_that_failed_does_not_say_that_it_is_done(command, tmp_path, monkeypatch):
    def fail(self):
        raise RuntimeError("broken")

    monkeypatch.setattr("fdd.engine.trainer.Trainer.run_step", fail)
    with pytest.raises(RuntimeError):
        command("SOLVER.MAX_ITER", "1")
    assert "Training is done" not in (tmp_path / "out" / "log.txt").read_text()


def trainer(folder, storage, train="fdd_shapes_train_p10", **of_trainer):
    cfg = SimpleNamespace(
        OUTPUT_DIR=str(folder), DATASETS=SimpleNamespace(TEST=("x",), TRAIN=(train,))
    )
    known = {"start_iter": 0, "max_iter": 100, "has_points": True, "model": object()}
    return SimpleNamespace(cfg=cfg, storage=storage, **(known | of_trainer))


def test_labels_stand_beside_those_of_the_nearest_point(tmp_path):
    with EventStorage(0) as storage:
        for k in range(40):  # the first half is long past
            storage.put_scalar("labels/left_out", 0.1 if k < 20 else 0.71)
            storage.put_scalar("labels/left_out_nearest", 0.9 if k < 20 else 0.64)
            storage.step()
    text = describe_end(trainer(tmp_path, storage, start_iter=60), 200.0)
    assert "71 %" in text and "64 %" in text
    assert "100 iterations (40 of them since it was resumed), 3 minutes" in text


@pytest.mark.parametrize(("labels", "points"), [(False, True), (True, False)])
def test_a_model_without_labels_from_points_is_not_sent_to_them(tmp_path, labels, points):
    model = SimpleNamespace(estimate_labels=None) if labels else SimpleNamespace()
    with EventStorage(0) as storage:
        text = describe_end(trainer(tmp_path, storage, model=model, has_points=points), 1.0)
    assert [find_command(words[1:]).name for words in command_lines(text)] == ["predict"]


def test_a_set_is_named_as_other_programs_know_it(tmp_path, monkeypatch):
    """Its file, from where the user stands and quoted for the shell; a built-in one's name."""
    monkeypatch.chdir(tmp_path)
    data = tmp_path / "it's.yaml"
    data.write_text("")
    model = SimpleNamespace(estimate_labels=None)
    for train, shown in ((str(data), "it's.yaml"), (2 * ("fdd_shapes_train_p10",))):
        with EventStorage(0) as storage:
            text = describe_end(trainer(tmp_path / "my runs", storage, train, model=model), 1.0)
        found = {find_command(words[1:]).name: words for words in command_lines(text)}
        assert list(found) == ["report", "labels export", "predict"]
        for name in ("report", "labels export"):
            words = found[name]
            assert words[words.index("--model") + 1] == "my runs"
            assert words[words.index("--dataset") + 1] == shown
