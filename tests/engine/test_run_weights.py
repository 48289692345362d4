"""Which checkpoint of a run is used, and what its validation said."""

from __future__ import annotations

import json

import pytest
import torch

from fdd.engine.run_folder import describe_weights, find_checkpoint, read_validation

METRIC = "panoptic_seg/PQ"


@pytest.fixture
def folder(tmp_path):
    """A run whose validation was better in the middle than at the end."""
    torch.save({"model": {}, "iteration": 2999}, tmp_path / "model_best.pth")
    torch.save({"model": {}, "iteration": 9999}, tmp_path / "model_final.pth")
    (tmp_path / "last_checkpoint").write_text("model_final.pth")
    record = {"metric": METRIC, "best_value": 43.21, "best_iteration": 2999}
    (tmp_path / "model_best.json").write_text(json.dumps(record))
    results = {"iteration": 9999, "results": {"panoptic_seg": {"PQ": 39.87, "PQ_th": 1.0}}}
    (tmp_path / "results.json").write_text(json.dumps(results))
    return tmp_path


@pytest.mark.parametrize(
    ("weights", "default", "name"),
    [
        (None, "final", "model_final.pth"),
        (None, "best", "model_best.pth"),
        ("final", "best", "model_final.pth"),
        ("best", "final", "model_best.pth"),
    ],
)
def test_best_or_final(folder, weights, default, name) -> None:
    assert find_checkpoint(folder, weights, default=default) == folder / name


def test_without_a_validation_the_final_weights_are_the_default(folder) -> None:
    (folder / "model_best.pth").unlink()
    assert find_checkpoint(folder, default="best") == folder / "model_final.pth"
    with pytest.raises(FileNotFoundError, match=r"no model_best\.pth.*--weights final"):
        find_checkpoint(folder, "best")


def test_a_file_leaves_nothing_to_choose(folder) -> None:
    path = folder / "model_final.pth"
    assert find_checkpoint(path, default="best") == path
    for weights in ("best", "final"):
        with pytest.raises(ValueError, match="nothing for --weights to choose"):
            find_checkpoint(path, weights)
    with pytest.raises(ValueError, match="'last'; expected one of best, final"):
        find_checkpoint(folder, "last")


def test_the_figure_is_that_of_the_file(folder) -> None:
    best = read_validation(folder / "model_best.pth")
    assert (best.metric, best.value, best.iterations) == (METRIC, 43.21, 3000)
    assert read_validation(folder / "model_final.pth").value == 39.87
    torch.save({"model": {}, "iteration": 4999}, folder / "model_0004999.pth")
    assert read_validation(folder / "model_0004999.pth") is None
    (folder / "old.pth").write_bytes(b"no checkpoint")
    assert read_validation(folder / "old.pth") is None


def test_of_several_validation_sets_the_first_decides(folder) -> None:
    metric = f"/data/a.yaml#validation/{METRIC}"
    record = {"metric": metric, "best_value": 43.21, "best_iteration": 2999}
    (folder / "model_best.json").write_text(json.dumps(record))
    sets = {n: {"panoptic_seg": {"PQ": v}} for n, v in (("b", 1.0), ("/data/a.yaml#validation", 2))}
    (folder / "results.json").write_text(json.dumps({"iteration": 9999, "results": sets}))
    assert read_validation(folder / "model_final.pth").value == 2


NOTHING = ["{", "[]", '{"iteration": 9999}', '{"iteration": 9999, "results": {"panoptic_seg": 3}}']


@pytest.mark.parametrize("content", NOTHING)
def test_files_that_say_nothing(folder, content) -> None:
    (folder / "results.json").write_text(content)
    assert read_validation(folder / "model_final.pth") is None
    assert "no validation figure known; model_best.pth" in describe_weights(
        folder / "model_final.pth"
    )


def test_a_line_names_file_figure_and_a_better_one(folder) -> None:
    line = describe_weights(folder / "model_final.pth")
    assert f"{folder / 'model_final.pth'} (validation {METRIC} 39.9 after 10,000" in line
    assert "model_best.pth: panoptic_seg/PQ 43.2 after 3,000" in line
    line = describe_weights(folder / "model_best.pth")
    assert "43.2" in line and "39.9" not in line
    results = {"iteration": 9999, "results": {"panoptic_seg": {"PQ": 43.21}}}
    (folder / "results.json").write_text(json.dumps(results))
    assert "model_best" not in describe_weights(folder / "model_final.pth"), "no better"
