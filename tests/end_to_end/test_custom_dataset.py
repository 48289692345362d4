"""The worked example of docs/custom_dataset.md: every command, in its order, with fewer epochs."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from forked import run_forked

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs" / "custom_dataset.md"
BLOCK = re.compile(r"^```(bash|yaml)\n(.*?)^```$", re.M | re.S)
EPOCHS = re.compile(r"--epochs \d+")


def steps(text: str) -> list[tuple[str, str]]:
    """``("yaml", file)`` and ``("bash", command line)``, as a reader meets them."""
    found: list[tuple[str, str]] = []
    for language, content in BLOCK.findall(text):
        if language == "yaml":
            found.append(("yaml", content))
        else:
            lines = content.replace("\\\n", " ").splitlines()
            found += [("bash", line) for line in lines if line.strip()]
    return found


@pytest.fixture(scope="module")
def worked(tmp_path_factory) -> tuple[Path, dict[str, str]]:
    """The folder after all commands, and what each printed."""
    folder = tmp_path_factory.mktemp("custom_dataset")
    text, changed = EPOCHS.subn("--epochs 2", DOCUMENT.read_text(encoding="utf-8"))
    assert changed == 1, "the training is shortened"
    printed: dict[str, str] = {}
    for language, content in steps(text):
        if language == "yaml":
            name = re.match(r"# (\S+\.yaml)\n", content)
            assert name, f"a block without its file's name: {content[:60]!r}"
            (folder / name[1]).write_text(content, encoding="utf-8")
            continue
        program, *words = shlex.split(content, comments=True)
        assert program == "fdd", content
        done = run_forked(words, folder)
        assert done.returncode == 0, f"{content}\n{done.stdout[-2000:]}{done.stderr[-3000:]}"
        assert "Traceback" not in done.stderr, content
        printed[content] = done.stdout
    return folder, printed


def output_of(printed: dict[str, str], command: str) -> str:
    return next(text for line, text in printed.items() if line.startswith(command))


def test_every_command_of_the_way_is_there(worked) -> None:
    _, printed = worked
    for command in ("example", "points import", "points check", "points stats", "init-config"):
        assert output_of(printed, f"fdd {command}").strip(), command
    for command in ("train", "labels export", "report", "predict", "model export"):
        assert any(line.startswith(f"fdd {command}") for line in printed), command


def test_the_points_are_those_of_the_export(worked) -> None:
    folder, _ = worked
    points = json.loads((folder / "my_data" / "points.json").read_text())
    assert len(points["images"]) == 10
    imported = sum(len(s["points"]) for i in points["images"] for s in i["segments"])
    exports = (folder / "my_data" / "labelme").glob("*.json")
    assert imported == sum(len(json.loads(p.read_text())["shapes"]) for p in exports)
    assert [c["name"] for c in points["categories"]] == ["red cell", "white cell", "fibre", "glass"]


def test_the_labels_cover_the_training_images(worked) -> None:
    folder, _ = worked
    labels = json.loads((folder / "output" / "labels" / "panoptic.json").read_text())
    assert len(labels["images"]) == len(labels["annotations"]) == 10
    for annotation in labels["annotations"]:
        assert (folder / "output/labels/panoptic" / annotation["file_name"]).is_file()


def test_the_report_is_one_page(worked) -> None:
    folder, _ = worked
    page = (folder / "output" / "report.html").read_text(encoding="utf-8")
    assert all(f"slide_{n:02d}" in page for n in range(10))


def test_an_exported_model_predicts_the_same(worked) -> None:
    folder, _ = worked
    first, second = folder / "output/predictions", folder / "output/predictions_of_export"
    names = sorted(p.relative_to(first) for p in first.rglob("*.png"))
    assert names and names == sorted(p.relative_to(second) for p in second.rglob("*.png"))
    for name in names:
        assert (first / name).read_bytes() == (second / name).read_bytes(), name
    assert (folder / "output/cells.pth").stat().st_size < (
        folder / "output/my_data/model_final.pth"
    ).stat().st_size / 2
