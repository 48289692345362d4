from __future__ import annotations

import errno
import multiprocessing
import os
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from engine_toys import assert_same_weights, make_trainer, toy_cfg, weights_of
from fdd.engine import CheckpointError, FDDCheckpointer, load_for_inference
from fdd.engine.checkpoint import write_atomically


def saved(folder, value, name="model_0000001"):
    model = nn.Linear(2, 2)
    nn.init.constant_(model.weight, value)
    FDDCheckpointer(model, str(folder)).save(name, iteration=1)


def loaded(folder):
    model = nn.Linear(2, 2)
    FDDCheckpointer(model, str(folder)).resume_or_load("", resume=True)
    return model.weight[0, 0].item()


def _die_while_saving(folder):
    save = torch.save

    def half(data, handle):
        import io

        buffer = io.BytesIO()
        save(data, buffer)
        handle.write(buffer.getvalue()[: buffer.tell() // 2])
        handle.flush()
        os._exit(9)

    torch.save = half
    saved(folder, 2.0)


def test_a_kill_while_writing_leaves_the_old_checkpoint(tmp_path):
    saved(tmp_path, 1.0)
    process = multiprocessing.get_context("fork").Process(
        target=_die_while_saving, args=(tmp_path,)
    )
    process.start()
    process.join()
    assert process.exitcode == 9
    assert loaded(tmp_path) == 1.0
    # What it left behind is neither taken for a checkpoint nor in the way.
    assert [f.name for f in tmp_path.glob("*.pth")] == ["model_0000001.pth"]
    saved(tmp_path, 3.0)
    assert loaded(tmp_path) == 3.0
    assert not list(tmp_path.glob("*.tmp"))


def test_an_error_while_writing_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    saved(tmp_path, 1.0)

    def full_disk(data, handle):
        handle.write(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="no space"):
        saved(tmp_path, 2.0, "model_0000002")
    monkeypatch.undo()
    assert loaded(tmp_path) == 1.0
    assert sorted(os.listdir(tmp_path)) == ["last_checkpoint", "model_0000001.pth"]


_FULL_DISK = """
import resource, sys, torch
from torch import nn
from fdd.engine import FDDCheckpointer
_, most = resource.getrlimit(resource.RLIMIT_FSIZE)
for limit in sys.argv[2:]:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), most))
    try:
        FDDCheckpointer(nn.Linear(300, 300), sys.argv[1]).save("model_0000002", iteration=2)
    except OSError as error:
        print(type(error).__name__, error.errno, error.filename)
"""


def test_a_full_disk_is_an_error_that_names_the_file(tmp_path):
    """At the first bytes, amid the weights, and in the table at the very end."""
    saved(tmp_path, 1.0)
    command = [sys.executable, "-c", _FULL_DISK, str(tmp_path), "0", "100000", "361500"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    said = f"OSError {errno.EFBIG} {tmp_path / 'model_0000002.pth'}\n"
    assert (done.returncode, done.stdout) == (0, 3 * said), done.stderr
    assert loaded(tmp_path) == 1.0
    assert sorted(os.listdir(tmp_path)) == ["last_checkpoint", "model_0000001.pth"]


def test_write_atomically_replaces(tmp_path):
    path = tmp_path / "file"
    for content in (b"old and long", b"new"):
        write_atomically(str(path), lambda handle, content=content: handle.write(content))
        assert path.read_bytes() == content


@pytest.mark.parametrize("size", [0, 10, -10])
def test_truncated_checkpoint(tmp_path, size):
    saved(tmp_path, 1.0, "model_0000001")
    saved(tmp_path, 2.0, "model_0000002")
    path = tmp_path / "model_0000002.pth"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(CheckpointError) as error:
        loaded(tmp_path)
    text = str(error.value)
    assert str(path) in text and "cut short" in text
    assert "model_0000001.pth" in text and "last_checkpoint" in text
    # And the advice works.
    (tmp_path / "last_checkpoint").write_text("model_0000001.pth")
    assert loaded(tmp_path) == 1.0


def run_advice(message, folder):
    """Do what a message says: run its command, which writes weights.pth."""
    (quoted,) = re.findall(r"python -c (.*?) \((?:where|there) they", message)
    (code,) = shlex.split(quoted)
    exec(code.replace("'weights.pth'", repr(str(folder / "weights.pth"))), {})
    return str(folder / "weights.pth")


def test_objects_beside_the_weights(tmp_path):
    """PyTorch loads no numpy scalar from a file that it does not trust."""
    model = nn.Linear(2, 2)
    path = str(tmp_path / "theirs.pth")
    torch.save({"model": model.state_dict(), "best": np.float64(0.5)}, path)
    for load in (
        lambda: load_for_inference(nn.Linear(2, 2), path),
        lambda: FDDCheckpointer(nn.Linear(2, 2), str(tmp_path)).resume_or_load(path, resume=False),
    ):
        with pytest.raises(CheckpointError, match=r"multiarray\.scalar.*trust") as error:
            load()
    assert path in str(error.value) and "\x1b" not in str(error.value)
    other = nn.Linear(2, 2)
    load_for_inference(other, run_advice(str(error.value), tmp_path))
    assert torch.equal(other.weight, model.weight)


@pytest.mark.parametrize("entry", ["state_dict", "model_state_dict", "net"])
def test_checkpoints_of_other_programs(tmp_path, entry):
    model = nn.Linear(2, 2)
    path = str(tmp_path / "theirs.ckpt")
    torch.save({entry: model.state_dict(), "epoch": 3, "callbacks": {}}, path)
    with pytest.raises(CheckpointError) as error:
        load_for_inference(nn.Linear(2, 2), path)
    text = str(error.value)
    assert path in text and "Lightning" in text and f"under {entry!r}" in text and "epoch" in text
    other = nn.Linear(2, 2)
    load_for_inference(other, run_advice(text, tmp_path))
    assert torch.equal(other.weight, model.weight)
    # Weights without anything around them are read as always.
    torch.save(model.state_dict(), path)
    load_for_inference(nn.Linear(2, 2), path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"model": [1, 2]}, "holds a list where weights by name"),
        ({"epoch": 3, "seed": 1}, "not weights: epoch, seed"),
        ({"model": {"weight": 3.0}}, "not weights: weight"),
    ],
)
def test_files_without_weights(tmp_path, content, message):
    torch.save(content, tmp_path / "theirs.pth")
    with pytest.raises(CheckpointError, match=message):
        load_for_inference(nn.Linear(2, 2), str(tmp_path / "theirs.pth"))


def test_weights_that_cannot_be_downloaded(tmp_path, monkeypatch):
    from urllib.error import URLError

    def unreachable(*_, **__):
        raise URLError("no network")

    monkeypatch.setattr("iopath.common.file_io.download", unreachable)
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))
    url = "https://example.invalid/weights.pkl"
    with pytest.raises(CheckpointError, match=f"weights {url} cannot be downloaded.*MODEL.WEIGHTS"):
        load_for_inference(nn.Linear(2, 2), url)


def test_missing_checkpoint(tmp_path):
    saved(tmp_path, 1.0)
    (tmp_path / "last_checkpoint").write_text("gone.pth")
    with pytest.raises(FileNotFoundError, match=r"gone.pth.*model_0000001.pth"):
        loaded(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"MODEL.WEIGHTS"):
        load_for_inference(nn.Linear(2, 2), str(tmp_path / "other.pth"))
    with pytest.raises(ValueError, match=r"MODEL.WEIGHTS is empty"):
        load_for_inference(nn.Linear(2, 2), "")


def test_resume_with_other_class_count_is_refused(toy_set, tmp_path):
    options = ("SOLVER.MAX_ITER", 1)
    trainer = make_trainer(toy_cfg(tmp_path, *options))
    trainer.train()
    trainer = make_trainer(toy_cfg(tmp_path, *options))
    trainer.model.head = nn.Linear(4, 5)
    with pytest.raises(CheckpointError) as error:
        trainer.resume_or_load(resume=True)
    text = str(error.value)
    assert "head.weight is (2, 4) in the checkpoint, (5, 4) in the model" in text
    assert "NUM_THINGS" in text and "2 places" in text


def test_resume_from_weights_alone_is_refused(toy_set, tmp_path):
    trainer = make_trainer(toy_cfg(tmp_path))
    torch.save({"model": trainer.model.state_dict()}, tmp_path / "weights.pth")
    (tmp_path / "last_checkpoint").write_text("weights.pth")
    before = weights_of(trainer)
    with pytest.raises(CheckpointError, match=r"no entry trainer.*MODEL.WEIGHTS"):
        trainer.resume_or_load(resume=True)
    assert_same_weights(before, weights_of(trainer), 0)
    # As weights they are fine.
    weights = ("MODEL.WEIGHTS", str(tmp_path / "weights.pth"))
    assert make_trainer(toy_cfg(tmp_path, *weights)).start_iter == 0


def test_a_file_that_only_some_machines_have(tmp_path, monkeypatch):
    """All processes raise, or those that read it would wait for the others for ever."""
    saved(tmp_path, 1.0)
    path = str(tmp_path / "model_0000001.pth")
    checkpointer = FDDCheckpointer(nn.Linear(2, 2), str(tmp_path))
    monkeypatch.setattr("detectron2.utils.comm.all_gather", lambda found: [found, False])
    for attempt in (checkpointer.has_checkpoint, lambda: checkpointer.load(path)):
        with pytest.raises(FileNotFoundError, match=r"missing for process 1 of 2.*share"):
            attempt()
    monkeypatch.setattr("detectron2.utils.comm.all_gather", lambda found: [True, found])
    checkpointer.load(path)
    with pytest.raises(FileNotFoundError, match=r"missing for process 1 of 2"):
        checkpointer.load(str(tmp_path / "other.pth"))


def test_finetuning_skips_what_does_not_fit(toy_set, tmp_path, caplog):
    source = make_trainer(toy_cfg(tmp_path / "a", "SOLVER.MAX_ITER", 1))
    source.train()
    weights = str(tmp_path / "a" / "model_final.pth")
    trainer = make_trainer(toy_cfg(tmp_path / "b", "MODEL.WEIGHTS", weights))
    assert_same_weights(weights_of(source), weights_of(trainer), 0)
    assert trainer.start_iter == 0
    trainer.model.head = nn.Linear(4, 5)
    trainer.resume_or_load(resume=True)  # nothing to resume: loads the weights
    assert "head.weight" in caplog.text


class Whole(nn.Module):
    training_only_prefixes = ("helper.",)

    def __init__(self):
        super().__init__()
        self.body, self.helper = nn.Linear(1, 1), nn.Linear(1, 1)


def test_inference_checkpoint_may_lack_the_training_parts(tmp_path):
    model = Whole()
    lean = {k: v for k, v in model.state_dict().items() if k.startswith("body.")}
    path = str(tmp_path / "lean.pth")
    torch.save({"model": lean}, path)
    load_for_inference(Whole(), path)
    with pytest.raises(CheckpointError, match=r"helper.weight is in the model only"):
        load_for_inference(Whole(), path, full=True)
    torch.save({"model": {**lean, "other": torch.zeros(1)}}, path)
    with pytest.raises(CheckpointError, match=r"other is in the checkpoint only"):
        load_for_inference(Whole(), path)


def test_inference_model_may_lack_the_training_parts(tmp_path):
    path = str(tmp_path / "whole.pth")
    torch.save({"model": Whole().state_dict()}, path)
    slim = Whole()
    del slim.helper
    load_for_inference(slim, path)
    with pytest.raises(CheckpointError, match=r"helper.weight is in the checkpoint only"):
        load_for_inference(slim, path, full=True)


def test_what_only_a_baseline_needs_may_be_left_out_but_not_missing(tmp_path):
    whole, slim = Whole(), Whole()
    whole.baseline_prefixes = slim.baseline_prefixes = ("helper.",)
    path, lean = str(tmp_path / "whole.pth"), str(tmp_path / "lean.pth")
    torch.save({"model": whole.state_dict()}, path)
    del slim.helper
    torch.save({"model": slim.state_dict()}, lean)
    load_for_inference(slim, path, full=True)
    assert torch.equal(slim.body.weight, whole.body.weight)
    with pytest.raises(CheckpointError, match=r"helper.weight is in the model only"):
        load_for_inference(whole, lean, full=True)
