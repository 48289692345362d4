"""What strangers' files say reaches the terminal as text, and nothing else."""

import io
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from fdd.cli.main import main
from fdd.cli.terminal import printable
from fdd.points import read_points

HEAD = {
    "version": "5.5.0",
    "imagePath": "a.png",
    "imageData": None,
    "flags": {},
}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("two\nlines\n", "two\nlines\n"),
        ("Kühe, 牛, \U0001f404", "Kühe, 牛, \U0001f404"),
        ("a\x1b[31mred\rb\x00", "a\\x1b[31mred\\rb\\x00"),
        ("a\tb\u00a0c\u3000d\u2028e", "a\tb c d e"),
        ("\udcff and \u202e", "\\udcff and \\u202e"),
        ("x" * 2001 + "\ny", "x" * 2000 + " ... (1 characters more)\ny"),
    ],
)
def test_printable(text, shown):
    assert printable(text) == shown


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.makedirs("my images")
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save("my images/a.png")
    (tmp_path / "classes.yaml").write_text("classes: {things: [cow], stuff: [grass]}\n")
    return tmp_path


def write_labels(folder, label="cow", kind="point"):
    shape = {"label": label, "points": [[1, 2]], "shape_type": kind, "group_id": None}
    (folder / "a.json").write_text(json.dumps({**HEAD, "shapes": [shape]}))


def run_import(*more):
    words = ["points", "import", "a.json", "--images", "my images", "--classes", "classes.yaml"]
    return main([*words, "--output", "points.json", *more])


def test_labels_with_control_characters(folder, capsys):
    write_labels(folder, "\x1b[2Jcow\r" + "x" * 5000)
    assert run_import() == 2
    said = capsys.readouterr().err
    assert "\\x1b[2Jcow" in said and "characters more" in said
    assert said.replace("\n", "").isprintable() and max(map(len, said.split("\n"))) < 2100


def test_shapes_of_a_kind_with_control_characters(folder, capsys):
    odd = {"type": "\x1b[31m\nred"}
    point = {"type": "points", "label_id": 0, "points": [1, 2]}
    categories = {"label": {"labels": [{"name": "cow"}]}}
    for annotations, code in (([odd], 2), ([odd, point], 0)):
        item = {"id": "a", "annotations": annotations, "image": {"path": "a.png"}}
        (folder / "a.json").write_text(json.dumps({"categories": categories, "items": [item]}))
        assert run_import("--skip-shapes") == code
        said = capsys.readouterr()
        assert "1 \\x1b[31m\\nred annotations" in (said.err if code else said.out)


def test_the_next_command_can_be_pasted(folder, capsys):
    write_labels(folder)
    assert run_import() == 0
    assert "next: fdd points check points.json --images 'my images'\n" in capsys.readouterr().out


def test_a_file_name_that_is_no_text(folder, capsys):
    """Is kept as it is: the file can be opened under it."""
    odd = os.fsdecode(b"my images/\xffb\n.png")
    os.rename("my images/a.png", odd)
    write_labels(folder)
    assert run_import("--images-without-points", "keep") == 2  # a.json's image is gone
    shape = {"label": "cow", "points": [[1, 2]], "shape_type": "point", "group_id": None}
    (folder / "a.json").write_text(json.dumps({**HEAD, "imagePath": odd, "shapes": [shape]}))
    assert run_import() == 0
    (image,) = read_points("points.json").images
    assert os.path.exists(os.path.join("my images", image.file_name))
    content = json.loads((folder / "points.json").read_text())
    content["images"][0]["segments"][0]["points"] = []
    (folder / "points.json").write_text(json.dumps(content))
    assert main(["points", "check", "points.json", "--images", "my images", "--no-audit"]) == 1
    said = capsys.readouterr().out
    assert "(\\udcffb\\n.png): " in said
    main(["points", "check", "points.json", "--images", "my images", "--no-audit", "--json", "f"])
    assert any(f["image_id"] == image.image_id for f in json.loads((folder / "f").read_text()))


def test_a_terminal_that_does_not_know_the_characters(folder):
    """The command has done its work; it must not end in an error about an encoding."""
    (folder / "classes.yaml").write_text("classes: {things: [牛]}\n", encoding="utf-8")
    write_labels(folder, "牛")
    arguments = ["a.json", "--images", "my images", "--classes", "classes.yaml", "-o", "p.json"]
    done = subprocess.run(
        [sys.executable, "-m", "fdd", "points", "import", *arguments],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "\\u725b " in done.stdout


def test_streams_that_cannot_be_told(folder, monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert sys.stdout.getvalue().startswith("fdd ")
