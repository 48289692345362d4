"""Checkpoints for inference: smaller, complete, and the same model."""

from __future__ import annotations

import logging
import resource
from contextlib import contextmanager

import pytest
import torch
import yaml
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_model

import fdd
from engine_toys import CATEGORIES, MASKS
from export_toys import toy_input, write_run
from fdd.engine import CheckpointError
from fdd.engine.command import get_parser, main
from fdd.inference.checkpoint_export import (
    EXPORT_KEY,
    export_checkpoint,
    portable_config,
    write_whole,
)
from fdd.inference.trained_model import load_trained

TRAINING_ONLY = ("query_generator.", "label_branch.", "distance_embedding.")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("export") / "run")


@pytest.fixture(scope="module")
def exported(run):
    return export_checkpoint(run, run.parent / "small.pth")


def everything(model, height, width):
    """What inference says of an image: candidates and map."""
    x = {"image": toy_input(height, width, [0])["image"], "height": 2 * height, "width": width}
    with torch.no_grad():
        found = model.panoptic_branch.predict(model.encode(model.preprocess([x])))
        ids, segments = model([x])[0]["panoptic_seg"]
    assert len(segments) > 1, "the toy has to show something"
    return [*vars(found).values(), ids], segments


@pytest.mark.parametrize("size", [(64, 64), (90, 130)])
def test_outputs_are_those_of_the_full_model_bit_by_bit(run, exported, size):
    full = load_trained(run, full=True).model
    small = load_trained(exported.path).model
    assert full.label_branch is not None and small.label_branch is None
    tensors, segments = everything(full, *size)
    for expected, found in zip(tensors, everything(small, *size)[0], strict=True):
        assert torch.equal(expected, found)
    assert segments == everything(small, *size)[1]


def test_only_what_inference_needs_is_in_it(run, exported):
    before = torch.load(run / "model_final.pth", weights_only=True)
    after = torch.load(exported.path, weights_only=True)
    assert set(after) == {"model", EXPORT_KEY}
    names = {name for name in before["model"] if not name.startswith(TRAINING_ONLY)}
    assert set(after["model"]) == names < set(before["model"])
    for name, value in after["model"].items():
        assert value.dtype == before["model"][name].dtype
        assert torch.equal(value, before["model"][name])
    sizes = (run / "model_final.pth").stat().st_size, exported.path.stat().st_size
    assert (exported.bytes_before, exported.bytes_after) == sizes and sizes[1] < sizes[0] / 2
    left_out = set(before["model"]) - names
    assert exported.dropped == sum(before["model"][name].numel() for name in left_out) > 0


def test_the_file_tells_where_it_is_from_and_names_no_place(run, exported, tmp_path):
    entry = torch.load(exported.path, weights_only=True)[EXPORT_KEY]
    assert (entry["version"], entry["source"]) == (fdd.__version__, "model_final.pth")
    assert (entry["iteration"], entry["half"]) == (41, False)
    assert str(run.parent) not in entry["config"]
    again = export_checkpoint(exported.path, tmp_path / "again.pth")
    later = torch.load(again.path, weights_only=True)[EXPORT_KEY]
    assert later == entry, "an export of an export keeps the story"


def test_the_config_of_the_file_gives_the_same_model_anywhere(run, exported):
    original, found = load_trained(run).cfg.clone(), load_trained(exported.path).cfg.clone()
    for key in ("MODEL.FDD", "INPUT", "MODEL.SMALL_RESNET", "MODEL.RESNETS", "TEST"):
        a, b = original, found
        for part in key.split("."):
            a, b = a[part], b[part]
        assert a == b, key
    assert found.DATASETS.TRAIN == () and found.OUTPUT_DIR == "./output"
    changes = yaml.safe_load(portable_config(original))
    assert "FLOAT32_PRECISION" not in changes, "keys of other versions of Detectron2 stay out"
    assert changes["MODEL"]["FDD"]["WARMUP_ITERS"] == 0
    assert set(changes["MODEL"]["FDD"]) == set(original.MODEL.FDD), "FDD's defaults may change"


def test_classes_are_those_of_the_data_set(toy_set, tmp_path):
    changes = {"NUM_THINGS": 1, "NUM_STUFF": 1}
    run = write_run(tmp_path / "run", changes, [MASKS])
    done = export_checkpoint(run, tmp_path / "deep" / "small.pth")
    categories = load_trained(done.path).categories
    wanted = [(c.id, c.name, c.isthing) for c in CATEGORIES]
    assert [(c["id"], c["name"], c["isthing"]) for c in categories] == wanted


def test_classes_that_are_not_known_stay_so(exported):
    assert torch.load(exported.path, weights_only=True)[EXPORT_KEY]["categories"] == []
    trained = load_trained(exported.path)
    assert not trained.named and trained.categories[3]["name"] == "stuff 3"


def test_detectron2_reads_it_and_evaluates_it(toy_set, tmp_path, monkeypatch, caplog):
    changes = {"NUM_THINGS": 1, "NUM_STUFF": 1}
    run = write_run(tmp_path / "run", changes, [MASKS])
    done = export_checkpoint(run, tmp_path / "small.pth")
    trained = load_trained(run, full=True)
    model = build_model(trained.cfg)
    rest = DetectionCheckpointer(model).load(str(done.path))
    assert EXPORT_KEY in rest
    assert torch.equal(model.encoder.level_embed, trained.model.encoder.level_embed)

    monkeypatch.setattr("fdd.engine.command.collect_env_info", lambda: "")
    argv = ["--config-file", str(run / "config.yaml"), "--eval-only", "OUTPUT_DIR"]

    def evaluate(weights):
        out = str(tmp_path / weights.stem)
        return main(get_parser().parse_args([*argv, out, "MODEL.WEIGHTS", str(weights)]))

    caplog.clear()
    with caplog.at_level(logging.WARNING):
        assert evaluate(done.path) == evaluate(run / "model_final.pth")
    log = (tmp_path / "small" / "log.txt").read_text()
    assert "not found in the checkpoint" not in log, "what is left out is no surprise"


def test_labels_cannot_be_estimated_with_it(exported):
    with pytest.raises(CheckpointError, match=r"small\.pth: exported for inference.*model_final"):
        load_trained(exported.path, full=True)


def test_half_the_precision(run, exported, tmp_path):
    half = export_checkpoint(run, tmp_path / "half.pth", half=True)
    assert 0 <= half.changed < 0.05
    stored = torch.load(half.path, weights_only=True)["model"]
    full = torch.load(exported.path, weights_only=True)["model"]
    used = load_trained(half.path).model
    parameters = dict(used.named_parameters())
    assert {v.dtype for v in parameters.values()} == {torch.float32}
    for name, value in stored.items():
        halved = full[name].half() if name in parameters else full[name]
        assert value.dtype == halved.dtype and torch.equal(value, halved), name
    assert exported.changed is None
    weights = sum(v.numel() for v in parameters.values())
    # Two bytes a weight, but for what the file says of itself.
    assert abs(exported.bytes_after - half.bytes_after - 2 * weights) < 4096


def test_a_weight_that_16_bits_cannot_hold_is_named(run, tmp_path):
    content = torch.load(run / "model_final.pth", weights_only=True)
    content["model"]["encoder.level_embed"][0, 0] = 1e5
    torch.save(content, tmp_path / "large.pth")
    with pytest.raises(ValueError, match=r"^encoder\.level_embed has a value of 1e\+05"):
        export_checkpoint(
            tmp_path / "large.pth", tmp_path / "half.pth", run / "config.yaml", half=True
        )
    assert not (tmp_path / "half.pth").exists()


def test_outputs_that_make_no_sense(run, tmp_path):
    before = (run / "model_final.pth").read_bytes()
    with pytest.raises(ValueError, match="this is the model itself"):
        export_checkpoint(run, run / "model_final.pth")
    with pytest.raises(ValueError, match=r"ends in \.pth"):
        export_checkpoint(run, tmp_path / "small.bin")
    with pytest.raises(FileNotFoundError, match="no such checkpoint or folder"):
        export_checkpoint(tmp_path / "nowhere", tmp_path / "small.pth")
    assert (run / "model_final.pth").read_bytes() == before
    assert list(tmp_path.iterdir()) == []


@contextmanager
def full_disk():
    """No file may grow beyond 16 KiB, as if the disk were full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16384, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_an_error_and_leaves_the_old_file(run, tmp_path):
    target = tmp_path / "small.pth"
    target.write_bytes(b"old")
    with pytest.raises(OSError, match=r"small\.pth'$"), full_disk():
        export_checkpoint(run, target)
    assert target.read_bytes() == b"old" and list(tmp_path.iterdir()) == [target]
    # PyTorch's own writer of programs would end the process.
    program = torch.export.export(torch.nn.Linear(100, 100), (torch.zeros(100),))
    with pytest.raises(OSError, match=r"small\.pt2'$"), full_disk():
        write_whole(tmp_path / "small.pt2", lambda file: torch.export.save(program, file))
    assert list(tmp_path.iterdir()) == [target]
