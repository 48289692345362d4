"""The photographs with clicks that are shipped, and the tool that draws what is made of them."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from fdd.cli.main import main as fdd_main
from fdd.points import read_points
from fdd.points.dataset_file import read_dataset_file
from fdd.visualization.files import read_rgb
from labels_toys import write_images, write_run
from run_toys import REPOSITORY

PHOTOS = REPOSITORY / "demo" / "photos" / "dataset.yaml"


@pytest.fixture(scope="module")
def draw_photos():
    sys.path.insert(0, str(REPOSITORY / "tools"))
    try:
        import draw_photos
    finally:
        sys.path.pop(0)
    return draw_photos


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    root = tmp_path_factory.mktemp("draw_photos")
    write_images(root)
    write_run(root / "run", root / "toy.yaml")
    return root


def draw(tool, toy: Path, output: Path, *more: str) -> np.ndarray:
    words = ["--model", str(toy / "run"), "--dataset", str(toy / "toy.yaml"), "--cell-width", "100"]
    tool.main([*words, "--output", str(output), *more])
    return read_rgb(output)


def test_the_shipped_points_pass_the_check_and_each_picture_has_its_terms(capsys):
    assert fdd_main(["points", "check", str(PHOTOS), "--decode"]) == 0
    assert "warning" not in capsys.readouterr().out
    file = read_dataset_file(PHOTOS)
    named = {image.file_name for image in read_points(file.points).images}
    pictures = {p.name: p.stat().st_size for p in Path(file.images).glob("*.jpg")}
    assert named == set(pictures) and sum(pictures.values()) < 400_000
    terms = (Path(file.images) / "README.md").read_text(encoding="utf-8")
    assert all(f"| `{name}` |" in terms for name in named)


def test_a_row_an_image_points_rule_and_learned_label(draw_photos, toy, tmp_path, capsys):
    names = ["--images", "third", "first"]
    sheet = draw(draw_photos, toy, tmp_path / "a.png", *names)
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "third.png: 12 points, 6 segments"
    assert said[1].startswith("first.png: ") and said[-1] == str(tmp_path / "a.png")
    assert sheet.shape[1] == 10 + 3 * (100 + 10)
    # Another rule changes its own column, and nothing else.
    other = draw(draw_photos, toy, tmp_path / "b.png", *names, "--rule", "polygon")
    changed = (sheet != other).any(axis=(0, 2))[: sheet.shape[1]]
    assert changed[120:220].any() and not changed[:115].any() and not changed[225:].any()


def test_what_it_cannot_draw_is_refused(draw_photos, toy, tmp_path):
    with pytest.raises(ValueError, match=r"--images nobody: .* it has first, second, third, none"):
        draw(draw_photos, toy, tmp_path / "x.png", "--images", "nobody")
    with pytest.raises(ValueError, match="class"):  # the photographs' classes are not the toy's
        draw_photos.main(["--model", str(toy / "run"), "--output", str(tmp_path / "x.png")])
    with pytest.raises(SystemExit):
        draw(draw_photos, toy, tmp_path / "x.png", "--rule", "learned")
    assert not (tmp_path / "x.png").exists()
