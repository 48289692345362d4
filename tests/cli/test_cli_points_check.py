"""``fdd points check`` as a user meets it: listing, exit status, JSON, fixes."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from fdd.cli.main import main
from fdd.points.rules import RULES


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Two images with two things and stuff each, in the working folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    images = []
    for n, name in enumerate(("a", "b")):
        pixels = np.random.default_rng(n).integers(0, 256, (40, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{name}.png")
        segments = [
            {"id": 1, "category_id": 1, "points": [[10, 10]]},
            {"id": 2, "category_id": 1, "points": [[45, 30]]},
            {"id": 3, "category_id": 2, "points": [[30, 5]]},
        ]
        entry = {"id": name, "file_name": f"{name}.png", "height": 40, "width": 60}
        images.append({**entry, "segments": segments})
    categories = [
        {"id": 1, "name": "cell", "isthing": True},
        {"id": 2, "name": "background", "isthing": False},
    ]
    labels = {"format": "fdd-points", "version": 1, "categories": categories, "images": images}
    (tmp_path / "cells.yaml").write_text("images: images\npoints: points.json\n")

    class Folder:
        root, points = tmp_path, labels

        def write(self):
            (tmp_path / "points.json").write_text(json.dumps(self.points))

        def segment(self, n):
            return self.points["images"][0]["segments"][n]

    result = Folder()
    result.write()
    return result


def check(capsys, *words):
    status = main(["points", "check", *words])
    out, err = capsys.readouterr()
    return status, out, err


def test_clean_data(folder, capsys):
    status, out, _ = check(capsys, "cells.yaml", "--strict")
    assert status == 0
    assert "Supervision audit: passed (2 images, 6 points; 2 of the images went" in out
    assert out.splitlines()[-1] == "nothing found in 2 images, 6 segments, 6 points"


def test_labels_and_images_without_a_data_set_file(folder, capsys):
    status, out, _ = check(capsys, "points.json", "--images", "images")
    assert status == 0 and "Supervision audit: passed" in out
    status, out, _ = check(capsys, "points.json")
    assert status == 0 and "name their folder with --images" in out


def test_errors_warnings_and_exit_status(folder, capsys):
    folder.segment(0)["points"] += [[70, 5]]
    folder.segment(1)["points"] *= 2
    folder.write()
    status, out, _ = check(capsys, "cells.yaml")
    assert status == 1
    assert "E202 error: a point outside the image (1)" in out
    assert "    image 'a', segment 1: point (70, 5) lies outside the image" in out
    assert "  points.json:" in out
    assert "Supervision audit: not run, training would refuse the data (E202)" in out
    assert out.splitlines()[-1].startswith("1 error, 1 warning in 2 images")
    assert out.splitlines()[-1].endswith("; --fix fixes 1")
    assert check(capsys, "cells.yaml", "--ignore", "E202")[0] == 0
    assert check(capsys, "cells.yaml", "--ignore", "E202", "--strict")[0] == 1
    assert check(capsys, "cells.yaml", "--rules", "E3,w204")[0] == 0
    assert check(capsys, "cells.yaml", "--ignore", "E,W", "--strict")[0] == 0


def test_long_lists_are_cut_in_the_listing_only(folder, capsys):
    folder.segment(0)["points"] = [[100 + n, 5] for n in range(1000)]
    folder.write()
    status, out, _ = check(capsys, "cells.yaml", "--json", "out/findings.json")
    assert status == 1 and "    ... and 990 more\n" in out and len(out.splitlines()) < 30
    findings = json.loads((folder.root / "out" / "findings.json").read_text())
    assert len(findings) == 1000 and "all findings: out/findings.json" in out
    wanted = {
        "rule": "E202",
        "severity": "error",
        "image_id": "a",
        "segment_id": 1,
        "point": [100.0, 5.0],
        "fixable": False,
    }
    assert wanted.items() <= findings[0].items()
    assert findings[0]["file"].endswith("points.json")


def test_json_on_stdout_is_nothing_but_json(folder, capsys):
    status, out, err = check(capsys, "cells.yaml", "--json", "-")
    assert (status, json.loads(out)) == (0, [])
    assert "Supervision audit: passed" in err
    folder.segment(0)["points"] = []
    folder.write()
    status, out, err = check(capsys, "cells.yaml", "--json", "-")
    assert status == 1 and [f["rule"] for f in json.loads(out)] == ["E108"]
    assert "E108 error" in err


def test_fix_writes_beside_the_input_and_looks_again(folder, capsys):
    folder.segment(0)["points"] += [[10, 10], [60.5, 5]]
    folder.write()
    before = (folder.root / "points.json").read_bytes()
    status, out, _ = check(capsys, "cells.yaml", "--fix")
    assert status == 0
    assert "fixed E202" in out and "moved the point (60.5, 5) to (60, 5)" in out
    assert "2 fixes, written to" in out and "points.fixed.json" in out
    assert "name it under 'points' in" in out
    assert (folder.root / "points.json").read_bytes() == before
    fixed = json.loads((folder.root / "points.fixed.json").read_text())
    assert fixed["images"][0]["segments"][0]["points"] == [[10, 10], [60, 5]]
    # The second look is at the fixed file, with everything that belongs to a first.
    assert "Supervision audit: passed (2 images, 7 points" in out
    assert out.splitlines()[-1] == "nothing found in 2 images, 6 segments, 7 points"


def test_fix_of_some_and_in_place(folder, capsys):
    folder.segment(0)["points"] += [[10, 10], [99, 5]]
    folder.write()
    before = (folder.root / "points.json").read_bytes()
    status, out, _ = check(capsys, "cells.yaml", "--fix", "--in-place")
    assert status == 1 and "E202 error" in out and "W204 warning" not in out
    assert (folder.root / "points.json.bak").read_bytes() == before
    status, out, _ = check(capsys, "cells.yaml", "--fix", "--in-place")
    assert "nothing to fix, nothing written" in out
    assert not (folder.root / "points.json.bak2").exists()


def test_no_other_file_is_replaced(folder, capsys):
    folder.segment(0)["points"].append([10, 10])
    folder.write()
    before = {p.name: p.read_bytes() for p in folder.root.glob("*.*")}
    for words, said in (
        (("--fix", "--output", "cells.yaml"), "cells.yaml exists; choose another --output"),
        (("--json", "points.json"), "--json points.json would replace what is checked"),
        (("--json", "./cells.yaml"), "would replace what is checked"),
    ):
        status, out, err = check(capsys, "cells.yaml", "--no-audit", *words)
        assert (status, out) == (2, "") and said in err
    assert {p.name: p.read_bytes() for p in folder.root.glob("*.*")} == before
    # Its own earlier output is another matter.
    for _ in range(2):
        assert check(capsys, "cells.yaml", "--no-audit", "--fix", "--json", "found.json")[0] == 0


def test_the_audit_alone(folder, capsys):
    status, out, _ = check(capsys, "cells.yaml", "--audit", "--audit-images", "1")
    assert status == 0
    assert out.startswith("Supervision audit: passed (2 images, 6 points; 1 of the images went")
    status, _, err = check(capsys, "points.json", "--audit")
    assert status == 2 and "needs the images" in err
    folder.segment(0)["points"] = [[99, 5]]
    folder.write()
    status, _, err = check(capsys, "cells.yaml", "--audit")
    assert status == 2 and "outside" in err and "Traceback" not in err


def test_training_config(folder, capsys):
    (folder.root / "train.yaml").write_text(
        "INPUT:\n  MIN_SIZE_TRAIN: (16, 8)\nMODEL:\n  FDD:\n    PAN:\n      NUM_QUERIES: 1\n"
    )
    words = ("cells.yaml", "--config-file", "train.yaml", "--no-audit")
    _, out, _ = check(capsys, *words)
    assert "2 things, 1 query" in out and "at 12 x 8 px" in out
    _, out, _ = check(capsys, *words, "--short-side", "800", "--num-queries", "2")
    assert "W308" not in out and "W205" not in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["gone.yaml"], "gone.yaml"),
        (["gone.json"], "gone.json"),
        ([], "no DATA"),
        (["cells.yaml", "--rules", "E999"], "no rule 'E999'"),
        (["cells.yaml", "--output", "x.json"], "add --fix"),
        (["cells.yaml", "--fix", "--output", "x", "--in-place"], "not both"),
        (["cells.yaml", "--short-side", "0"], "--short-side is 0"),
        (["cells.yaml", "--config-file", "gone.yaml"], "gone.yaml"),
    ],
)
def test_what_cannot_be_looked_at(folder, capsys, words, said):
    status, out, err = check(capsys, *words)
    assert status == 2 and said in err and out == "" and "Traceback" not in err


def test_list_of_rules(capsys):
    status, out, _ = check(capsys, "--list-rules")
    assert status == 0 and all(code in out for code in RULES)


def test_labels_alone_need_no_torch(folder):
    code = (
        "import sys; from fdd.cli.main import main; "
        "status = main(['points', 'check', 'cells.yaml', '--no-audit']); "
        "print('torch' in sys.modules, status)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False 0"


def test_labels_without_a_point_fail(folder, capsys):
    for image in folder.points["images"]:
        image["segments"] = []
    folder.write()
    status, out, _ = check(capsys, "cells.yaml")
    assert status == 1 and "E111 error: no point in the whole file" in out
    assert "none of the 2 images has a point" in out
    assert "Supervision audit: not run, training would refuse the data (E111)" in out
