"""Training on and exporting from the annotation page, with a tiny real model."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from annotate_toys import TOKEN, Client, begin, serving
from fdd.annotate.server import AnnotationServer, AnnotationSession
from fdd.annotate.shelf import ModelShelf
from fdd.annotate.start import OpenedDataset, open_dataset
from fdd.annotate.store import PointsChanged
from fdd.annotate.train_on import training_progress
from fdd.annotate.workshop import Workshop
from fdd.inference.trained_model import load_trained
from fdd.points.format import read_points
from labels_toys import write_images, write_run

pytestmark = pytest.mark.slow


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    write_images(tmp_path)
    write_run(tmp_path / "first", tmp_path / "toy.yaml", {"MODEL.FDD.CLICKS.RESIDUAL": True})
    return tmp_path / "toy.yaml"


@pytest.fixture
def opened(dataset: Path) -> Iterator[OpenedDataset]:
    found = open_dataset(dataset)
    yield found
    found.store.close()


@pytest.fixture
def workshop(opened: OpenedDataset, dataset: Path) -> Iterator[Workshop]:
    run = str(dataset.with_name("first"))
    trained = load_trained(run, full=True)
    shelf = ModelShelf(opened.store.categories, trained, path=run)
    made = Workshop(opened, shelf, steps=2)
    yield made
    made.close()
    shelf.close()


def _wait(workshop: Workshop, seconds: float = 120) -> dict[str, Any]:
    end = time.monotonic() + seconds
    while (job := workshop.record()["job"])["state"] == "running" and time.monotonic() < end:
        time.sleep(0.1)
    return job


def _log(job: dict[str, Any]) -> str:
    return (Path(job["folder"]) / "log.txt").read_text()


def test_train_on_and_export(opened: OpenedDataset, workshop: Workshop) -> None:
    store = opened.store
    index = next(n for n, i in enumerate(store.images) if i.file_name == "first.png")
    state = store.state(index)
    state = store.edit(
        index,
        state.revision,
        {"kind": "add", "x": 30.25, "y": 20.75, "segment": None, "category_id": 11},
    )
    label = workshop.shelf.label(opened.paths[index], state.segments, (40, 56))
    workshop.train()
    job = _wait(workshop)
    assert job["state"] == "done", job["said"] + _log(job)
    folder = Path(job["folder"])
    assert folder == opened.work / "training_1" and (folder / "run" / "model_final.pth").exists()
    # It was trained on a copy of what is there, the last click with it.
    copied = read_points(folder / "points.json")
    assert [30.25, 20.75] in [list(p) for i in copied.images for s in i.segments for p in s.points]
    record = workshop.record()
    assert record["models"][1:] == ["training_1"] and record["model"] == "training_1"
    assert training_progress(folder) is None or training_progress(folder)[0] <= 1
    # The new weights make the labels, and those of before can be taken up again.
    workshop.shelf.use(0)
    again = workshop.shelf.label(opened.paths[index], state.segments, (40, 56))
    assert (again.label == label.label).all() and workshop.record()["current"] == 0
    with pytest.raises(ValueError, match="there is no model 2"):
        workshop.shelf.use(2)

    workshop.export(["panoptic", "yolo"])
    job = _wait(workshop)
    assert job["state"] == "done", job["said"] + _log(job)
    labels = Path(job["folder"]) / "labels"
    document = json.loads((labels / "panoptic.json").read_text())
    assert len(document["annotations"]) == 4 and (labels / "yolo").is_dir()
    # What was made is not taken for images of the data set.
    names = [image.file_name for image in opened.store.images]
    opened.store.close()
    assert [i.file_name for i in open_again(opened).store.images] == names


def open_again(opened: OpenedDataset) -> OpenedDataset:
    found = open_dataset(opened.dataset.path)
    found.store.close()
    return found


def test_a_class_that_is_new_is_trained(dataset: Path) -> None:
    text = dataset.read_text()
    known = read_points(dataset.with_name("points.json")).categories
    first = load_trained(dataset.with_name("first"), full=True)
    classes = dataset.with_name("first") / "classes.json"
    classes.write_text(json.dumps(first.categories))
    entries = [f"  - {{name: {c.name}, isthing: {str(c.isthing).lower()}}}" for c in known]
    entries.append("  - {name: bird, isthing: true}")
    head = [line for line in text.splitlines() if line.split(":")[0] in ("images", "points")]
    dataset.write_text("\n".join([*head, "classes:", *entries]) + "\n")
    opened = open_dataset(dataset)
    run = str(dataset.with_name("first"))
    shelf = ModelShelf(opened.store.categories, load_trained(run, full=True), path=run)
    workshop = Workshop(opened, shelf, steps=1, scores=False)
    try:
        assert workshop.record()["unlearned"] == ["bird"]
        bird = next(c for c in opened.store.categories if c.name == "bird")
        index = next(n for n, i in enumerate(opened.store.images) if i.file_name == "first.png")
        action = {"kind": "add", "x": 30.25, "y": 20.75, "segment": None, "category_id": bird.id}
        state = opened.store.edit(index, opened.store.state(index).revision, action)
        label = shelf.label(opened.paths[index], state.segments, (40, 56)).label
        assert label[20, 30] == len(state.segments) - 1
        workshop.train()
        job = _wait(workshop)
        assert job["state"] == "done", job["said"] + _log(job)
        assert "taken over by name: 4 of 5. New here: 'bird'" in _log(job)
        assert workshop.record()["unlearned"] == []
    finally:
        workshop.close()
        shelf.close()
        opened.store.close()


def test_a_class_is_added_while_a_model_makes_the_labels(
    opened: OpenedDataset, workshop: Workshop
) -> None:
    session = AnnotationSession(opened, workshop.shelf, workshop=workshop)
    answer = session.add_class({"name": "bird", "isthing": True})
    assert workshop.record()["unlearned"] == ["bird"]
    index = next(n for n, i in enumerate(opened.store.images) if i.file_name == "first.png")
    action = {"kind": "add", "x": 30.25, "y": 20.75, "segment": None, "category_id": answer["id"]}
    state = session.edit(index, {"revision": 0, "action": action})
    assert "label_error" not in state and state["label"]["maker"] == "learned"
    # Its training knows it, too.
    workshop.train()
    job = _wait(workshop)
    assert job["state"] == "done", job["said"] + _log(job)
    assert workshop.record()["unlearned"] == []


def test_a_training_that_fails_changes_nothing(opened: OpenedDataset, workshop: Workshop) -> None:
    missing = opened.paths[0]
    shutil.move(missing, missing.with_suffix(".away"))
    workshop.train()
    job = _wait(workshop)
    assert job["state"] == "failed" and missing.name in job["said"]
    record = workshop.record()
    assert record["current"] == 0 and len(record["models"]) == 1


def test_trainings_of_earlier_sessions_can_be_chosen(
    opened: OpenedDataset, dataset: Path, tmp_path: Path
) -> None:
    run, work = dataset.with_name("first"), opened.work
    shutil.copytree(run, work / "training_2" / "run")
    shutil.copytree(run, work / "training_10" / "run")
    (work / "training_3").mkdir()  # which has come to nothing
    (work / "training_notes").mkdir()
    shelf = ModelShelf(opened.store.categories, None)
    workshop = Workshop(opened, shelf, scores=False)
    try:
        assert workshop.record()["models"] == ["nearest point", "training_2", "training_10"]
        assert workshop.record()["model"] is None and workshop.cut_off is None
        shelf.use(2)
        assert workshop.record()["model"] == "training_10"
    finally:
        workshop.close()
        shelf.close()
    # One that is in use already is not listed twice.
    path = str(work / "training_2" / "run")
    shelf = ModelShelf(opened.store.categories, load_trained(path, full=True), path=path)
    assert Workshop(opened, shelf, scores=False).record()["models"] == [path, "training_10"]
    shelf.close()


def test_a_training_that_was_cut_off_goes_on(
    opened: OpenedDataset, workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fdd.annotate.train_on._CHECKPOINTS", 1)
    assert workshop.cut_off is None
    with pytest.raises(ValueError, match="nothing to resume"):
        workshop.resume()
    workshop.train()
    job = _wait(workshop)
    assert job["state"] == "done", job["said"] + _log(job)
    # As if it had been ended after its first step.
    run = Path(job["folder"]) / "run"
    (run / "last_checkpoint").write_text("model_0000000.pth")
    (run / "model_final.pth").unlink()
    shelf = ModelShelf(opened.store.categories, None)
    again = Workshop(opened, shelf, scores=False)
    try:
        record = again.record()
        assert record["cut_off"] == "training_1"
        assert record["models"] == ["nearest point", "training_1, cut off"]
        again.resume()
        assert again.record()["cut_off"] is None, "it is running"
        job = _wait(again)
        assert job["state"] == "done", job["said"] + _log(job)
        assert "Starting training from iteration 1" in _log(job)
        assert (run / "model_final.pth").exists()
        record = again.record()
        assert record["models"] == ["nearest point", "training_1"] and record["current"] == 1
        assert record["cut_off"] is None
    finally:
        again.close()
        shelf.close()


def test_how_far_a_training_is(tmp_path: Path) -> None:
    assert training_progress(tmp_path) is None
    (tmp_path / "run").mkdir()
    (tmp_path / "log.txt").write_text("d2: Starting training from iteration 0\n")
    assert training_progress(tmp_path) == (0.0, "first steps")
    reports = [
        {"iteration": 19, "eta_seconds": 160, "time": 2.0},
        {"iteration": 20, "labels/left_out": 0.8125},
        {"iteration": 39, "eta_seconds": 120.0, "time": 2.0},
    ]
    text = "".join(json.dumps(report) + "\n" for report in reports)
    (tmp_path / "run" / "metrics.json").write_text(text + '{"iteration": 59, "eta')
    found = training_progress(tmp_path)
    assert found is not None and found[0] == pytest.approx(0.4)
    for words in ("step 40 of about 100", "2 min left", "81% of left-out points"):
        assert words in found[1]


def test_points_that_another_program_has_changed_are_not_trained_on(
    opened: OpenedDataset, workshop: Workshop
) -> None:
    index = next(n for n, i in enumerate(opened.store.images) if i.file_name == "first.png")
    action = {"kind": "add", "x": 30.25, "y": 20.75, "segment": None, "category_id": 11}
    opened.store.edit(index, opened.store.state(index).revision, action)
    points = opened.store.points_file
    points.write_text(points.read_text().replace(" ", "  ", 1))
    with pytest.raises(PointsChanged):
        workshop.train()
    assert not list(opened.work.glob("*")) and workshop.record()["job"] is None
    with pytest.raises(PointsChanged):
        opened.store.close()


def test_without_points_and_without_a_model(tmp_path: Path) -> None:
    opened = open_dataset(begin(tmp_path))
    try:
        workshop = Workshop(opened, ModelShelf(opened.store.categories, None))
        with pytest.raises(ValueError, match="no image has a point"):
            workshop.train()
        with pytest.raises(ValueError, match="there is no model"):
            workshop.export(["panoptic"])
        with pytest.raises(ValueError, match="expected: panoptic"):
            workshop.export(["pdf"])
        assert not opened.work.exists() and workshop.record()["job"] is None
    finally:
        opened.store.close()


def test_the_routes(opened: OpenedDataset, workshop: Workshop) -> None:
    session = AnnotationSession(opened, workshop.shelf, workshop=workshop)
    with AnnotationServer(session, 0, token=TOKEN) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        client = Client(server)
        status, record, _ = client.get("/api/work")
        assert status == 200 and record["job"] is None and record["current"] == 0
        assert client.post("/api/work/train", {})[0] == 200
        status, answer, _ = client.post("/api/work/train", {})
        assert status == 409 and "running" in answer["error"]
        assert client.get("/api/work")[1]["job"]["kind"] == "training"
        status, record, _ = client.post("/api/work/stop", {})
        assert status == 200 and record["job"]["state"] == "stopped"
        for body in ({"model": 7}, {"model": "0"}, {"model": True}, {}):
            assert client.post("/api/work/model", body)[0] == 400
        assert client.post("/api/work/export", {"formats": ["pdf"]})[0] == 400
        assert client.post("/api/work/export", {"formats": "panoptic"})[0] == 400
        assert client.post("/api/work/nothing", {})[0] == 400
        assert client.post("/api/work/train", {}, Origin="http://evil.example")[0] == 403
        server.shutdown()
        thread.join()


def test_a_server_that_does_not_offer_it(tmp_path: Path) -> None:
    with serving(begin(tmp_path)) as server:
        client = Client(server)
        assert client.get("/api/work")[0] == 404 and client.post("/api/work/train", {})[0] == 404
        assert client.get("/api/set")[1]["work"] is None
