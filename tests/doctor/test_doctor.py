"""The doctor: it names what is broken, and one failing probe does not stop the others."""

from __future__ import annotations

import json
import sys

import pytest
import torch
import torchvision

from fdd.data.builtin import register_builtin
from fdd.doctor import Section, diagnose, to_json, to_text
from fdd.doctor.probes import attention, data, hardware, software, step


def look(probe, slow: bool = False) -> Section:
    (section,) = diagnose(slow, [probe])
    return section


def test_a_working_machine_has_no_problems() -> None:
    sections = diagnose()
    assert [p for s in sections for p in s.problems if p.broken] == []
    lines = {name: value for s in sections for name, value in s.lines.items()}
    assert lines["torch"].startswith(torch.__version__.split("+")[0])
    assert lines["torchvision operators"] == "work"
    assert lines["auto on cpu"] == "takes torch"
    assert lines["torch on cpu"].endswith("x the fastest)") and " ms " in lines["torch on cpu"]
    assert "--slow" in lines["compiled on cpu"]
    assert "finite" in lines["cpu"] and "to train" in lines["cpu"]
    text = to_text(sections)
    assert all(s.title in text for s in sections)
    assert json.loads(to_json(sections))["sections"]["Software"]["torch"] == lines["torch"]


def test_a_probe_that_fails_does_not_stop_the_next() -> None:
    def bad(section: Section, slow: bool) -> None:
        """Bad."""
        section.lines["before"] = 1
        raise AttributeError("module 'x' has no attribute 'y'\nmore")

    def good(section: Section, slow: bool) -> None:
        """Good."""
        section.attempt("value", lambda: 1 // 0, "Divide by something", broken=False)
        section.lines["after"] = 2

    sections = diagnose(probes=[bad, good])
    assert [s.title for s in sections] == ["Bad", "Good"]
    assert sections[0].lines == {"before": 1} and sections[1].lines["after"] == 2
    text = to_text(sections)
    assert "BROKEN (Bad): AttributeError: module 'x' has no attribute 'y'\n" in text
    assert "note (Good): value: ZeroDivisionError" in text and "Divide by something" in text
    assert "Traceback" not in text and "1 // 0" in to_text(sections, traces=True)
    problems = json.loads(to_json(sections))["problems"]
    assert [(p["section"], p["broken"]) for p in problems] == [("Bad", True), ("Good", False)]
    assert set(problems[0]) == {"section", "what", "mend", "broken", "trace"}


@pytest.mark.parametrize(
    ("module", "broken", "fix"),
    [
        ("torchvision", True, "built for each other"),
        ("pycocotools", True, "pip install pycocotools"),
        ("panopticapi", False, "PQ cannot be measured"),
    ],
)
def test_a_package_that_is_missing(monkeypatch, module, broken, fix) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    section = look(software)
    (problem,) = [p for p in section.problems if p.what.startswith(f"{module}: ")]
    assert problem.broken == broken and fix in problem.fix
    assert section.lines[module].startswith("FAILED: ModuleNotFoundError")
    assert section.lines["numpy"][0].isdigit(), "the others are looked at"


def test_operators_of_torchvision_that_are_missing(monkeypatch) -> None:
    def missing(*args):
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr(torchvision.ops, "nms", missing)
    (problem,) = look(software).problems
    assert problem.broken and "torchvision::nms does not exist" in problem.what
    assert "matching pair" in problem.fix
    monkeypatch.setattr(torchvision.ops, "nms", lambda boxes, *_: torch.arange(len(boxes)))
    assert "keeps boxes [0, 1, 2]" in look(software).problems[0].what, "wrong results count, too"


def test_data_sets_and_their_roots(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    monkeypatch.setenv("FDD_DATASETS", str(tmp_path / "gone"))
    (tmp_path / "shapes" / "train").mkdir(parents=True)
    (tmp_path / "shapes" / "points_train_p10.json").touch()
    try:
        register_builtin(tmp_path)
        section = look(data)
    finally:
        monkeypatch.undo()
        register_builtin()
    assert section.lines["built-in sets on disk"] == "fdd_shapes_train_p10"
    assert section.lines["DETECTRON2_DATASETS"].startswith(f"{tmp_path} (")
    assert section.lines["FDD_DATASETS"] == f"{tmp_path / 'gone'} (not there)"
    (problem,) = section.problems
    assert not problem.broken and problem.what.startswith("FDD_DATASETS is ")


def test_little_memory_and_little_disk_are_noted(monkeypatch) -> None:
    monkeypatch.setattr("fdd.doctor.probes._free_memory", lambda: 0.5)
    assert "only 0.5 GiB of memory" in look(hardware).problems[0].what
    monkeypatch.setattr("fdd.doctor.probes._LEAST_DISK", 1e9)
    assert "of disk are free here" in look(data).problems[0].what


def test_a_working_folder_that_cannot_be_written_is_noted(monkeypatch, tmp_path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("os.access", lambda path, mode: False)  # root may write anywhere
    section = look(data)
    (problem,) = [p for p in section.problems if "working folder" in p.what]
    assert not problem.broken and str(tmp_path) in problem.what and "OUTPUT_DIR" in problem.fix
    assert "not writable" in section.lines["working folder"]


def test_a_gpu_that_cannot_be_asked(monkeypatch) -> None:
    def lost(index):
        raise RuntimeError("CUDA error: device-side assert")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lost)
    (problem,) = look(hardware).problems
    assert problem.broken and "GPU 0: RuntimeError: CUDA error" in problem.what


def test_attention_that_does_not_run(monkeypatch) -> None:
    from fdd.doctor import probes

    real = probes._time_attention

    def time_attention(backend, device):
        if backend == "torch":
            raise RuntimeError("no kernel")
        return real(backend, device)

    monkeypatch.setattr(probes, "_time_attention", time_attention)
    section = look(attention)
    assert section.lines["torch on cpu"] == "FAILED: RuntimeError: no kernel"
    assert section.lines["reference on cpu"].endswith("(1.0 x the fastest)")
    (problem,) = section.problems
    assert problem.broken and "'torch'" in problem.fix


def test_a_step_that_gives_nan(monkeypatch) -> None:
    from fdd.profiling import step as profiled

    real = profiled.training_step

    def training_step(*args, **kwargs):
        model, forward = real(*args, **kwargs)
        return model, lambda: forward() * float("nan")

    monkeypatch.setattr(profiled, "training_step", training_step)
    (problem,) = look(step).problems
    assert problem.broken and "the loss is nan" in problem.what
