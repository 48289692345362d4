"""Image files in, and what is written of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from panopticapi.evaluation import pq_compute_single_core
from PIL import Image

from fdd.data.images import read_image
from fdd.evaluation.ground_truth import PanopticGroundTruth
from fdd.inference import prediction
from fdd.inference.prediction import (
    PredictionOptions,
    find_inputs,
    find_left_out,
    predict_files,
    read_image_ids,
)
from fdd.points import Category, sample_panoptic
from fdd.points.coco_panoptic import load_segment_ids, read_panoptic_json
from prediction_toys import CATEGORIES, HalfPredictor, save


def files(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def names(entries, **options) -> list[str]:
    return [item.name for item in find_inputs(entries, **options)]


def test_folders_patterns_and_files(tmp_path) -> None:
    for name in ("b.JPG", "a.png", "sub/c.tif", "sub/.hidden.png", ".cache/d.png", "x[1].png"):
        save(tmp_path / name, format="PNG")
    (tmp_path / "notes.txt").write_text("no image")
    odd = save(tmp_path / "sub" / "odd.pic", format="PNG")
    assert names([tmp_path]) == ["a", "b", "x[1]"]
    assert names([tmp_path], recursive=True) == ["a", "b", "sub/c", "x[1]"]
    assert names([tmp_path / "*.png", tmp_path / "a.png"]) == ["a", "x[1]"], "each once"
    assert names([f"{tmp_path}/**/*.*"]) == ["a", "b", "c", "x[1]"]
    assert names([tmp_path / "x[1].png", odd]) == ["x[1]", "odd"], "a file is no pattern"
    (item,) = find_inputs([tmp_path / "sub"])
    assert (item.file_name, item.path) == ("c.tif", tmp_path / "sub" / "c.tif")


def test_a_link_to_the_results_is_not_followed(tmp_path) -> None:
    """Walks follow links: an earlier result would be segmented as an image."""
    results = tmp_path / "out" / "overlays"
    for path in (tmp_path / "in" / "a.png", results / "a.jpg"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "in" / "earlier").symlink_to(results)
    (tmp_path / "linked").symlink_to(results)
    for leave_out in (results, tmp_path / "linked"):
        found = find_inputs([tmp_path / "in"], recursive=True, leave_out=[leave_out])
        assert [item.file_name for item in found] == ["a.png"]


def test_what_is_left_out_is_named_and_counted(tmp_path) -> None:
    for name in ("in/a.jpg", "in/sub/c.jpg", "out/panoptic/d.png", "in/.cache/e.png"):
        save(tmp_path / name)
    for name in ("in/b.heic", "in/notes.txt", "in/.hidden"):
        (tmp_path / name).write_text("no image")
    files, folders = find_left_out([tmp_path / "in"])
    assert str(tmp_path / "in") in files and "2 files" in files and "b.heic, notes.txt" in files
    assert "1 sub-folder" in folders and "sub" in folders and "--recursive" in folders
    assert ".cache" not in folders and "hidden" not in files
    for name in ("in/.name.jpg", "in/._a.MP4", "in/.cache/e.png", "in/sub/.b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    same, hidden, _ = find_left_out([tmp_path / "in"])
    assert same == files and "2 hidden files were" in hidden
    assert "._a.MP4" in hidden and ".name.jpg" in hidden and ".cache" not in hidden
    assert "in/.hidden" not in hidden  # no image by its ending
    deeper = find_left_out([tmp_path / "in"], recursive=True)[1]
    assert "3 hidden files were" in deeper and "sub/.b.png" in deeper
    assert find_left_out([tmp_path / "in"], leave_out=[tmp_path / "in"]) == []
    for name in ("in/.name.jpg", "in/._a.MP4", "in/.cache/e.png", "in/sub/.b.png"):
        (tmp_path / name).unlink()
    assert find_left_out([tmp_path / "in"], recursive=True) == [files]
    (matched,) = find_left_out([tmp_path / "in" / "*"])
    assert "2 files" in matched
    assert find_left_out([tmp_path / "in" / "a.jpg", tmp_path / "in" / "*.jpg"]) == []
    # The results of an earlier call are no input that somebody misses.
    earlier = [tmp_path / "out" / "panoptic"]
    assert find_left_out([tmp_path / "out"], leave_out=earlier) == []
    assert "out" not in find_left_out([tmp_path], leave_out=earlier)[0].split(": ", 2)[-1]
    for n in range(9):
        (tmp_path / "in" / f"{n}.txt").write_text("")
    assert "11 files" in find_left_out([tmp_path / "in"])[0]


def test_names_of_results_differ(tmp_path) -> None:
    given = ("a.png", "a.jpg", "A.bmp", "a_2.png", "clip/000000.png", "clip.mp4")
    for name in given:
        save(tmp_path / name, format="PNG")
    found = names([tmp_path], recursive=True)
    assert len({name.casefold() for name in found}) == len(given)
    assert "clip" not in found, "that folder holds another image's results"
    save(tmp_path / "other" / "a.png")
    assert names([tmp_path / "a.png", tmp_path / "other" / "a.png"]) == ["a", "a_2"]


@pytest.mark.parametrize(
    ("entry", "message"),
    [("empty", "--recursive"), ("none*.png", "matches"), ("gone.png", "no such file or folder")],
)
def test_entries_that_stand_for_nothing(tmp_path, entry, message) -> None:
    save(tmp_path / "empty" / "sub" / "a.png")
    with pytest.raises(FileNotFoundError, match=message):
        find_inputs([tmp_path / entry])


def test_only_a_video_gives_way_to_a_folder(tmp_path) -> None:
    for name in ("w.png", "w/1.png", "v.mp4", "v/000000.png"):
        save(tmp_path / name, format="PNG")
    found = {i.file_name: i.name for i in find_inputs([tmp_path], recursive=True)}
    assert found == {"w.png": "w", "w/1.png": "w/1", "v.mp4": "v_2", "v/000000.png": "v/000000"}


def test_inputs_that_results_would_replace(tmp_path) -> None:
    path = save(tmp_path / "overlays" / "a.png")
    for entry in (path, path.parent, path.parent / "*.png"):
        with pytest.raises(ValueError, match=r"lies where results are written.* another output"):
            find_inputs([entry], leave_out=[path.parent])


def test_results_of_an_earlier_call_are_no_input(tmp_path) -> None:
    save(tmp_path / "a.png")
    for _ in range(2):
        leave_out = [tmp_path / f for f in prediction.OUTPUT_FOLDERS]
        inputs = find_inputs([tmp_path], recursive=True, leave_out=leave_out)
        assert [i.name for i in inputs] == ["a"]
        predict_files(HalfPredictor(), inputs, tmp_path)


def test_writes_png_json_picture_and_one_data_set(tmp_path) -> None:
    save(tmp_path / "in" / "a.png")
    save(tmp_path / "in" / "sub" / "b.jpg", 11, 40)
    out = tmp_path / "out"
    report = predict_files(HalfPredictor(), find_inputs([tmp_path / "in"], recursive=True), out)
    assert files(out) == {
        "panoptic.json",
        *(f"panoptic/{n}.png" for n in ("a", "sub/b")),
        *(f"segments/{n}.json" for n in ("a", "sub/b")),
        *(f"overlays/{n}.jpg" for n in ("a", "sub/b")),
    }
    assert (report.images, report.inputs, report.failures) == (2, 2, [])
    assert report.kinds == {True: 2, False: 2}
    assert (report.pixels, report.void) == (20 * 30 + 11 * 40, 10 * 15 + 6 * 20)

    ids = load_segment_ids(out / "panoptic" / "sub" / "b.png", 11, 40)
    assert ids[0, 0] == 1 and ids[4, 20] == 300 and ids[5, 20] == 0
    record = json.loads((out / "segments" / "sub" / "b.json").read_text(encoding="utf-8"))
    assert record["file_name"] == "sub/b.jpg" and (record["height"], record["width"]) == (11, 40)
    assert record["panoptic_file_name"] == "panoptic/sub/b.png"
    assert record["segments_info"][0]["category_name"] == "кот"

    categories, images = read_panoptic_json(out / "panoptic.json")
    assert categories == [Category(11, "кот", True), Category(5, "grass", False)]
    assert [(i.image_id, i.file_name, i.png_name) for i in images] == [
        ("a", "a.png", "a.png"),
        ("sub/b", "sub/b.jpg", "sub/b.png"),
    ]
    points = sample_panoptic(out / "panoptic.json", out / "panoptic", 1)
    assert [[s.id for s in i.segments] for i in points.images] == [[1, 300], [1, 300]]


def test_the_data_set_is_what_panopticapi_compares(tmp_path) -> None:
    save(tmp_path / "in" / "a.png")
    inputs = find_inputs([tmp_path / "in"])
    for folder, ids in (("truth", None), ("guess", {"a.png": 7}), ("truth7", {"a.png": 7})):
        predict_files(HalfPredictor(), inputs, tmp_path / folder, image_ids=ids)
    true, guess = (
        json.loads((tmp_path / f / "panoptic.json").read_text()) for f in ("truth7", "guess")
    )
    assert [a["image_id"] for a in guess["annotations"]] == [7]
    classes = {c["id"]: c for c in CATEGORIES}
    pairs = list(zip(true["annotations"], guess["annotations"], strict=True))
    folders = str(tmp_path / "truth7" / "panoptic"), str(tmp_path / "guess" / "panoptic")
    score = pq_compute_single_core(0, pairs, *folders, classes)
    average, _ = score.pq_average(classes, isthing=None)
    assert (average["pq"], average["n"]) == (1.0, 2)
    # As the ground truth of this package's evaluator, too.
    truth = PanopticGroundTruth.find(
        None, str(tmp_path / "guess" / "panoptic.json"), folders[1], None
    )
    np.testing.assert_array_equal(
        truth.load(7), load_segment_ids(Path(folders[1]) / "a.png", 20, 30)
    )


def test_ids_of_a_label_file(tmp_path) -> None:
    labels = tmp_path / "labels.json"
    labels.write_text(
        '\ufeff{"images": [{"id": 3, "file_name": "sub\\\\a.png"}]}', encoding="utf-8"
    )
    assert read_image_ids(labels) == {"sub/a.png": 3}
    for text in ("[1]", '{"images": [{"id": 3}]}', "{", ""):
        labels.write_text(text)
        with pytest.raises(ValueError, match="list 'images'"):
            read_image_ids(labels)
    with pytest.raises(FileNotFoundError, match="no such label file"):
        read_image_ids(tmp_path / "gone.json")


def test_images_without_an_id_or_with_one_for_two_are_told_before_the_work(tmp_path) -> None:
    save(tmp_path / "x" / "a.png")
    save(tmp_path / "y" / "a.png")
    predictor = HalfPredictor()
    with pytest.raises(ValueError, match=r"1 of 1 images have no id .*'a.png'"):
        predict_files(predictor, find_inputs([tmp_path / "x"]), tmp_path / "o", image_ids={"b": 1})
    both = find_inputs([tmp_path / "x", tmp_path / "y"])
    with pytest.raises(ValueError, match=r"2 images are called 'a.png'"):
        predict_files(predictor, both, tmp_path / "o", image_ids={"a.png": 1})
    assert not predictor.seen and not files(tmp_path / "o")


def test_reads_images_as_training_does(tmp_path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    made = [
        save(tmp_path / "grey.png", mode="L"),
        save(tmp_path / "alpha.png", mode="RGBA"),
        save(tmp_path / "palette.png", mode="P"),
        save(tmp_path / "print.jpg", mode="CMYK"),
        save(tmp_path / "turned.jpg", exif=exif),
    ]
    predictor = HalfPredictor()
    report = predict_files(predictor, find_inputs(made), tmp_path / "out")
    assert not report.failures
    for path, seen in zip(made, predictor.seen, strict=True):
        np.testing.assert_array_equal(seen, read_image(str(path), "RGB", "it"))
    assert predictor.seen[-1].shape == (30, 20, 3), "upright"
    assert json.loads((tmp_path / "out" / "segments" / "turned.json").read_text())["height"] == 30


def test_files_that_cannot_be_read_are_told_and_the_others_done(tmp_path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "broken.jpg").write_bytes(b"\xff\xd8 nothing")
    (tmp_path / "in" / "empty.png").touch()
    Image.fromarray(np.full((9, 9), 40_000, np.uint16)).save(tmp_path / "in" / "deep.png")
    save(tmp_path / "in" / "good.png")
    report = predict_files(HalfPredictor(), find_inputs([tmp_path / "in"]), tmp_path / "out")
    assert (report.inputs, report.images) == (4, 1)
    told = {path.name: reason for path, reason in report.failures}
    assert set(told) == {"broken.jpg", "deep.png", "empty.png"}
    assert all(str(tmp_path / "in" / name) in reason for name, reason in told.items())
    assert "more than 8 bits a pixel; convert it to 8 bits" in told["deep.png"]
    _, images = read_panoptic_json(tmp_path / "out" / "panoptic.json")
    assert [i.file_name for i in images] == ["good.png"]


def test_an_image_bomb_is_a_file_that_cannot_be_read(tmp_path, monkeypatch) -> None:
    save(tmp_path / "bomb.png", 64, 64)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    report = predict_files(HalfPredictor(), find_inputs([tmp_path / "bomb.png"]), tmp_path / "out")
    assert len(report.failures) == 1 and "bomb" in report.failures[0][1]
    assert not files(tmp_path / "out"), "no data set of no image"


def test_what_breaks_in_the_middle_leaves_whole_files(tmp_path, monkeypatch) -> None:
    for name in "abc":
        save(tmp_path / "in" / f"{name}.png")
    out = tmp_path / "out"

    def full_disk(path, picture):
        Path(path).write_bytes(b"half")
        if len(list((out / "overlays").glob("*.jpg"))) == 2:
            raise OSError("disk full")

    monkeypatch.setattr(prediction, "write_rgb", full_disk)
    with pytest.raises(OSError, match="disk full"):
        predict_files(HalfPredictor(), find_inputs([tmp_path / "in"]), out)
    assert {n for n in files(out) if n.startswith("overlays")} == {"overlays/a.jpg"}
    assert not any("tmp" in name for name in files(out)), "no temporary file is left"
    assert not (out / "panoptic.json").exists()


def test_the_data_set_of_an_earlier_call_does_not_outlive_its_files(tmp_path, monkeypatch) -> None:
    save(tmp_path / "in" / "a.png")
    predict_files(HalfPredictor(), find_inputs([tmp_path / "in"]), tmp_path / "out")
    save(tmp_path / "in" / "a.png", 40, 50)

    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(prediction, "write_rgb", full)
    with pytest.raises(OSError, match="No space left"):
        predict_files(HalfPredictor(), find_inputs([tmp_path / "in"]), tmp_path / "out")
    assert load_segment_ids(tmp_path / "out" / "panoptic" / "a.png", 40, 50).any(), "a new one"
    assert not (tmp_path / "out" / "panoptic.json").exists(), "it says 20 x 30"


def test_the_data_set_of_an_earlier_call_stays_where_nothing_can_be_read(tmp_path) -> None:
    save(tmp_path / "a.png")
    predict_files(HalfPredictor(), find_inputs([tmp_path]), tmp_path / "out")
    (tmp_path / "a.png").write_bytes(b"")
    report = predict_files(HalfPredictor(), find_inputs([tmp_path]), tmp_path / "out")
    (failure,) = report.failures
    assert "label file" not in failure[1], "there is none"
    assert len(read_panoptic_json(tmp_path / "out" / "panoptic.json")[1]) == 1


def test_options(tmp_path) -> None:
    save(tmp_path / "a.png", 40, 600)
    out = tmp_path / "out"
    inputs = find_inputs([tmp_path / "a.png"])
    predict_files(HalfPredictor(), inputs, out, PredictionOptions(overlay=False))
    assert files(out) == {"panoptic.json", "panoptic/a.png", "segments/a.json"}
    predict_files(HalfPredictor(), inputs, out, PredictionOptions(max_side=300))
    with Image.open(out / "overlays" / "a.jpg") as small:
        assert small.size == (300, 20)
    for wrong in ({"alpha": 1.5}, {"alpha": float("nan")}, {"max_side": 1}, {"every": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            PredictionOptions(**wrong)


def test_file_names_that_are_no_utf8(tmp_path) -> None:
    name = b"caf\xe9.png".decode("utf-8", "surrogateescape")
    try:
        save(tmp_path / "in" / name)
    except OSError:
        pytest.skip("this file system wants UTF-8")
    predict_files(HalfPredictor(), find_inputs([tmp_path / "in"]), tmp_path / "out")
    _, images = read_panoptic_json(tmp_path / "out" / "panoptic.json")
    assert images[0].file_name == name
    assert (tmp_path / "out" / "panoptic" / images[0].png_name).is_file()


def test_progress_sees_every_image(tmp_path) -> None:
    for name in "ab":
        save(tmp_path / f"{name}.png")
    said = []

    def progress(items, total, what):
        said.append((total, what))
        return items

    predict_files(HalfPredictor(), find_inputs([tmp_path]), tmp_path / "out", progress=progress)
    assert said == [(2, "images")]
