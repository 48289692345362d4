"""`fdd points import`: what it says, what it writes, and that it never writes half of it."""

import json

import pytest
from PIL import Image

from fdd.cli import points_import
from fdd.cli.main import COMMANDS, main, make_parser
from fdd.points import read_points
from fdd.points.importers import importer_names


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Two images and a table, as the working folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    Image.new("RGB", (30, 20)).save("images/a.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (30, 20)).save("images/b.png", exif=exif)
    rows = ["a.jpg,cow,1,1,2", "a.jpg,cow,1,1,2", "a.jpg,ruler,,3,3", "b.png,grass,,19,29"]
    (tmp_path / "a.csv").write_text("image,category,instance,x,y\n" + "\n".join(rows))
    (tmp_path / "classes.yaml").write_text(
        "classes: {things: [cow, calf], stuff: [grass]}\nignore: [ruler]\n"
    )
    return tmp_path


def run(*words):
    return main(["points", "import", *map(str, words), "--images", "images"])


GOOD = ("a.csv", "--classes", "classes.yaml", "--output", "p.json")


def test_a_table_becomes_point_labels(folder, capsys):
    assert run(*GOOD) == 0
    dataset = read_points("p.json")
    assert [i.file_name for i in dataset.images] == ["a.jpg", "b.png"]
    assert dataset.info["format"] == "csv" and dataset.info["ignored"] == {"ruler": 1}
    assert str(folder) not in (folder / "p.json").read_text()  # nobody's own paths
    out, err = capsys.readouterr()
    assert not err
    for said in (
        "a.csv: recognized as table of points (CSV, TSV) (--format csv)",
        "p.json: 2 images, 2 segments, 2 points",
        "never labelled",
        "1 point of the label 'ruler'",
        "1 point exactly on another",
        "displayed, turned upright by the EXIF tag of 1 file (b.png)",
        "fdd points check p.json --images images",
    ):
        assert said in out, out


def test_the_same_twice_is_the_same_file(folder):
    run(*GOOD)
    first = (folder / "p.json").read_bytes()
    run(*GOOD, "--overwrite")
    assert (folder / "p.json").read_bytes() == first


def test_files_are_not_replaced_unasked(folder, capsys):
    (folder / "p.json").write_text("mine")
    assert run(*GOOD) == 2
    assert "p.json exists; choose another --output, or add --overwrite" in capsys.readouterr().err
    assert (folder / "p.json").read_text() == "mine"
    assert run(*GOOD, "--overwrite") == 0
    assert len(read_points("p.json").images) == 2
    assert run(*GOOD[:-1], "images", "--overwrite") == 2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"a.csv": ""}, "a.csv: an empty file"),
        ({"a.csv": "image,category,x,y\na.jpg,cow,1,x\n"}, "a.csv, line 2: coordinate 'x'"),
        ({"a.csv": "image,category,x,y\na.jpg,cow,1,99\n"}, "a.csv, line 2: the point (1, 99)"),
        ({"a.csv": "image,category,x,y\nq.jpg,cow,1,9\n"}, "a.csv, line 2: no image 'q.jpg'"),
        (
            {"a.csv": "image,category,x,y\na.jpg,cat,1,9\n"},
            "'cat': 1 point, first at a.csv, line 2",
        ),
        ({"images/a.jpg": "words"}, "images/a.jpg: not a readable image"),
        ({"classes.yaml": "classes: {things: [cow"}, "classes.yaml: not valid YAML"),
        ({"classes.yaml": "things: [cow]"}, "classes.yaml: no key 'classes'"),
    ],
)
@pytest.mark.parametrize("before", [None, "mine"])
def test_nothing_is_written_on_an_error(folder, capsys, change, said, before):
    for name, content in change.items():
        (folder / name).write_text(content)
    if before:
        (folder / "p.json").write_text(before)
    names = {p.name for p in folder.iterdir()}
    assert run(*GOOD, "--overwrite") == 2
    out, err = capsys.readouterr()
    assert err.startswith("fdd points import: error: ") and said in err and not out
    assert "Traceback" not in err
    assert {p.name for p in folder.iterdir()} == names
    assert not before or (folder / "p.json").read_text() == before


def test_the_message_without_classes_leads_to_a_working_file(folder, capsys):
    assert run("a.csv", "--output", "p.json") == 2
    message = capsys.readouterr().err
    start, end = message.index("classes:\n"), message.index("\n\nfound:")
    (folder / "classes.yaml").write_text(message[start:end])
    assert run(*GOOD) == 0


def test_options_reach_the_reader(folder, capsys):
    (folder / "t.tsv").write_text("cx\tcy\n50\t25\n")
    words = ["t.tsv", "--classes", "classes.yaml", "--output", "p.json", "--units", "percent"]
    words += ["--column", "x=cx", "--column", "y=cy", "--image", "a.jpg", "--category", "cow"]
    assert run(*words) == 0
    assert read_points("p.json").images[0].segments[0].points == [(15.0, 5.0)]
    for column in ("x", "z=cx", "x="):
        assert run(*words, "--overwrite", "--column", column) == 2
        assert f"--column {column!r}: expected NAME=HEADER" in capsys.readouterr().err
    (folder / "a.json").write_text(json.dumps({"shapes": [], "imagePath": "a.jpg"}))
    assert run("a.json", *GOOD[1:], "--pixel-centers", "--overwrite") == 2
    assert "--pixel-centers" in capsys.readouterr().err


def test_points_that_fit_nowhere(folder, capsys):
    rows = ["a.jpg;cow;1,5;2", "a.jpg;calf;1,25;2,5", "a.jpg;cow;30,5;1", "a.jpg;cow;7;7"]
    (folder / "a.csv").write_text("image;category;x;y\n" + "\n".join(rows))
    assert run(*GOOD, "--decimal", "comma") == 2
    said = capsys.readouterr().err
    assert "2 problems" in said and "--drop outside" in said and "--drop shared-pixel" in said
    assert not (folder / "p.json").exists()
    drop = ("--drop", "outside", "--drop", "shared-pixel")
    assert run(*GOOD, "--decimal", "comma", *drop) == 0
    said = capsys.readouterr().out
    assert "left out or assumed: 1 points outside their image\n" in said
    assert "2 points on one pixel with a point of another object\n" in said
    assert "2 objects or regions of which no point is left\n" in said
    dataset = read_points("p.json")
    assert [s.points for s in dataset.images[0].segments] == [[(7, 7)]]
    assert sum(dataset.info["left_out"].values()) == 5


def test_debug_shows_the_traceback(folder):
    with pytest.raises(ValueError, match=r"no class list"):
        run("a.csv", "--output", "p.json", "--debug")


def test_help_names_every_format_and_option():
    (command,) = [c for c in COMMANDS if c.words == ("points", "import")]
    text = make_parser(command).format_help()
    assert all(name in text for name in importer_names())
    assert all(f"--{name.replace('_', '-')}" in text for name in points_import._READER_OPTIONS)


def test_points_of_the_stored_pixels(folder, capsys):
    (folder / "a.csv").write_text("image,category,x,y\nb.png,cow,29,5\n")
    assert run(*GOOD) == 2
    assert "--exif stored" in capsys.readouterr().err
    assert run(*GOOD, "--exif", "stored") == 0
    assert read_points("p.json").images[0].segments[0].points == [(15, 29)]
    out = capsys.readouterr().out
    assert "turned: the points of 1 file (b.png), from the stored to the displayed" in out


def test_clicks_that_are_not_grouped(folder, capsys):
    rows = [f"a.jpg,cow,{x},{y}" for x in range(0, 25, 5) for y in (1, 5, 9)]
    rows += [f"a.jpg,grass,{x},18" for x in range(0, 25, 5)]
    (folder / "a.csv").write_text("image,category,x,y\n" + "\n".join(rows))
    assert run(*GOOD) == 0
    out = capsys.readouterr().out
    assert "beware: 15 of 15 things have exactly one point" in out and "'instance'" in out


def test_an_import_of_nothing_writes_nothing(folder, capsys):
    (folder / "a.csv").write_text("image,category,x,y\n")
    assert run(*GOOD) == 2 and "not one point" in capsys.readouterr().err
    assert not (folder / "p.json").exists()
