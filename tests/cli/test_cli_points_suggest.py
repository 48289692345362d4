"""`fdd points suggest`: where to click next, as a file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fdd.cli.main import main
from fdd.points.structures import VoidStroke
from fdd.points.void import stroke_record, void_mask
from labels_toys import IMAGES, write_images, write_run


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    write_images(tmp_path)
    write_run(tmp_path / "run", tmp_path / "toy.yaml", {})
    return tmp_path


def _suggest(toy: Path, *more: str) -> int:
    words = ["--model", toy / "run", "--dataset", toy / "toy.yaml", "--output", toy / "s.json"]
    return main(["points", "suggest", *map(str, words), *more])


def test_places_of_all_images_with_more_to_gain_first(toy: Path, capsys) -> None:
    assert _suggest(toy, "--count", "2") == 0
    images = json.loads((toy / "s.json").read_text())["images"]
    assert {image["image_id"] for image in images} == set(IMAGES)
    gains = [image["gain"] for image in images]
    assert gains[-1] is None and images[-1]["image_id"] == "none"
    assert images[-1]["suggestions"] == []
    assert gains[:-1] == sorted(gains[:-1], reverse=True) and gains[0] > 0
    for image in images[:-1]:
        height, width = IMAGES[image["image_id"]][1]
        assert 1 <= len(image["suggestions"]) <= 2
        best = [place["gain"] for place in image["suggestions"]]
        assert best == sorted(best, reverse=True) and best[0] == image["gain"]
        for place in image["suggestions"]:
            assert 0 <= place["x"] <= width and 0 <= place["y"] <= height and place["reason"]
            assert place["segment"] in (70, 3, 512, 9, 8, 66000)
    assert "s.json" in capsys.readouterr().out


def test_nothing_is_suggested_where_there_is_void(toy: Path) -> None:
    points = toy / "points.json"
    document = json.loads(points.read_text())
    stroke = VoidStroke(24.0, ((0.0, 20.0), (100.0, 20.0)))
    for image in document["images"]:
        image["void"] = [stroke_record(stroke)]
    points.write_text(json.dumps(document))
    assert _suggest(toy, "--count", "5") == 0
    found = 0
    for image in json.loads((toy / "s.json").read_text())["images"]:
        mask = void_mask([stroke], *IMAGES[image["image_id"]][1])
        for place in image["suggestions"]:
            assert not mask[int(place["y"]), int(place["x"])]
            found += 1
    assert found


def test_only_the_images_with_most_to_gain(toy: Path, capsys) -> None:
    assert _suggest(toy) == 0
    every = json.loads((toy / "s.json").read_text())
    assert every["examined"] == len(IMAGES)
    capsys.readouterr()
    for images in (2, 99):
        assert _suggest(toy, "--overwrite", "--images", str(images)) == 0
        few = json.loads((toy / "s.json").read_text())
        assert few["images"] == every["images"][:images] and few["examined"] == len(IMAGES)
        assert f"with most to gain of {len(IMAGES)}" in capsys.readouterr().out


def test_an_image_that_cannot_be_read_is_named_and_the_others_are_done(toy: Path, capsys) -> None:
    (toy / "images" / "first.png").write_bytes(b"nothing")
    assert _suggest(toy) == 1
    assert "first.png" in capsys.readouterr().err
    assert len(json.loads((toy / "s.json").read_text())["images"]) == len(IMAGES) - 1


def test_what_it_refuses(toy: Path, capsys) -> None:
    assert _suggest(toy, "--count", "0") == 2
    assert "--count 0" in capsys.readouterr().err and not (toy / "s.json").exists()
    assert _suggest(toy, "--images", "0") == 2
    assert "--images 0" in capsys.readouterr().err and not (toy / "s.json").exists()
    (toy / "s.json").write_text("mine")
    assert _suggest(toy) == 2
    assert (toy / "s.json").read_text() == "mine"
