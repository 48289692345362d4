"""A trained model by the path of its run or its checkpoint."""

from __future__ import annotations

import pytest
import torch

from engine_toys import POINTS, forget_record, make_trainer, toy_cfg, weights_of
from fdd.engine import CheckpointError
from fdd.engine.run_folder import find_checkpoint
from fdd.engine.training_record import EXPORT_KEY
from fdd.inference.trained_model import load_trained


@pytest.fixture
def run(toy_set, tmp_path):
    """The folder of a finished run and its weights."""
    trainer = make_trainer(toy_cfg(tmp_path / "run", "SOLVER.MAX_ITER", 2))
    trainer.train()
    return tmp_path / "run", weights_of(trainer)


def assert_is(model: torch.nn.Module, weights: dict[str, torch.Tensor]) -> None:
    assert not model.training
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, weights[name], rtol=0, atol=0)


@pytest.mark.parametrize("name", ["", "model_final.pth", "config"])
def test_a_run_is_found_by_folder_and_by_checkpoint(run, tmp_path, name: str) -> None:
    folder, weights = run
    if name == "config":
        config = (folder / "config.yaml").rename(tmp_path / "elsewhere.yaml")
        trained = load_trained(folder / "model_final.pth", config)
    else:
        trained = load_trained(folder / name)
    assert trained.checkpoint == folder / "model_final.pth"
    assert_is(trained.model, weights)
    assert [c["name"] for c in trained.categories] == ["disc", "ground"]
    assert [c["id"] for c in trained.categories] == [5, 9], "the label file's own ids"
    assert trained.cfg.is_frozen() and str(trained.checkpoint) == trained.cfg.MODEL.WEIGHTS


def test_the_last_checkpoint_counts(run) -> None:
    folder, _ = run
    (folder / "model_final.pth").rename(folder / "model_0000007.pth")
    (folder / "last_checkpoint").write_text("model_0000007.pth\n")
    assert find_checkpoint(folder) == folder / "model_0000007.pth"


def test_keys_can_be_changed(run) -> None:
    assert load_trained(run[0], opts=["INPUT.MIN_SIZE_TEST", "48"]).cfg.INPUT.MIN_SIZE_TEST == 48
    with pytest.raises(ValueError, match="NO_SUCH"):
        load_trained(run[0], opts=["INPUT.NO_SUCH", "48"])


def without_data_set(folder) -> None:
    """A run of before: its checkpoint holds neither config nor classes."""
    forget_record(folder / "model_final.pth")
    config = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(config.replace(POINTS, "gone_" + POINTS))


def test_classes_are_kept_when_the_data_set_is_gone(run) -> None:
    without_data_set(run[0])
    trained = load_trained(run[0])
    assert [(c["id"], c["name"]) for c in trained.categories] == [(5, "disc"), (9, "ground")]
    assert trained.named


@pytest.mark.parametrize("beside", [None, "[]", "{", '[{"name": "disc"}, 5]'])
def test_classes_that_nobody_knows_are_numbered(run, caplog, beside) -> None:
    without_data_set(run[0])
    if beside is None:
        (run[0] / "classes.json").unlink()
    else:
        (run[0] / "classes.json").write_text(beside)
    trained = load_trained(run[0])
    assert [(c["name"], c["isthing"]) for c in trained.categories] == [
        ("thing 0", True),
        ("stuff 1", False),
    ]
    assert not trained.named
    assert "Generic class names" in caplog.text and "gone_" in caplog.text


def test_an_export_needs_no_other_file(run, tmp_path) -> None:
    folder, weights = run
    content = {
        "model": weights,
        EXPORT_KEY: {
            "config": (folder / "config.yaml").read_text(),
            "categories": [
                {"id": 1, "name": "a", "isthing": True},
                {"id": 2, "name": "b", "isthing": False},
            ],
        },
    }
    torch.save(content, tmp_path / "alone.pth")
    trained = load_trained(tmp_path / "alone.pth")
    assert_is(trained.model, weights)
    assert [c["name"] for c in trained.categories] == ["a", "b"]
    with pytest.raises(CheckpointError, match="exported for inference"):
        load_trained(tmp_path / "alone.pth", full=True)


def test_what_is_not_there(run, tmp_path) -> None:
    folder, _ = run
    with pytest.raises(FileNotFoundError, match="no such checkpoint or folder"):
        load_trained(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no checkpoint in this folder"):
        load_trained(tmp_path / "empty")
    address = "detectron2://ImageNetPretrained/torchvision/R-50.pkl"  # of every config for a GPU
    with pytest.raises(FileNotFoundError, match=f"^{address}: an address"):
        load_trained(address)
    (folder / "config.yaml").unlink()
    assert load_trained(folder).named, "all is in the checkpoint"
    forget_record(folder / "model_final.pth")
    with pytest.raises(FileNotFoundError, match="--config-file"):
        load_trained(folder)


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04 cut short"])
def test_a_damaged_checkpoint_is_named(run, content: bytes) -> None:
    folder, _ = run
    (folder / "model_final.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"cannot read checkpoint .*model_final\.pth"):
        load_trained(folder)


def test_another_model_is_refused(run) -> None:
    with pytest.raises((CheckpointError, ValueError), match=r"head\.weight"):
        load_trained(run[0], opts=["MODEL.FDD.NUM_THINGS", "3"])
