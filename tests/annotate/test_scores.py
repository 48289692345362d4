"""Label scores made while nobody waits."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from annotate_toys import CELL, GROUND, begin
from fdd.annotate.live import ImageFigures, LiveLabeller
from fdd.annotate.scores import LabelScores
from fdd.annotate.start import OpenedDataset, open_dataset
from fdd.inference.report import write_label_report
from fdd.inference.trained_model import load_trained
from labels_toys import CATEGORIES, IMAGES, write_images, write_run

NOTHING: dict[str, dict[str, float]] = {"scores": {}, "gains": {}}


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[OpenedDataset]:
    found = open_dataset(begin(tmp_path))
    yield found
    found.store.close()


def _click(opened: OpenedDataset, index: int, x: float, category: int = CELL) -> None:
    state = opened.store.state(index)
    action = {"kind": "add", "x": x, "y": 20.5, "segment": None, "category_id": category}
    opened.store.edit(index, state.revision, action)


def _until(condition, seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_images_with_points_are_scored_and_again_when_they_change(opened) -> None:
    made: list[int] = []

    def examine(index, content, between) -> ImageFigures:
        made.append(index)
        between()
        return ImageFigures(10.0 * index + len(content.segments), 1 / 3)

    _click(opened, 0, 20.5)
    _click(opened, 2, 30.5)
    scores = LabelScores(opened, examine, lambda: 1, quiet=0)
    _until(lambda: len(scores.record()["scores"]) == 2)
    assert scores.record() == {
        "scores": {"0": 1.0, "2": 21.0},
        "gains": {"0": 0.3333, "2": 0.3333},
    }
    time.sleep(1.2)
    assert sorted(made) == [0, 2]  # and not again
    _click(opened, 0, 60.5, GROUND)
    _until(lambda: scores.record()["scores"]["0"] == 2.0)
    scores.close()


def test_of_another_model_others(opened) -> None:
    version = [1]
    _click(opened, 0, 20.5)
    scores = LabelScores(
        opened, lambda *_: ImageFigures(version[0], 0.0), lambda: version[0], quiet=0
    )
    _until(lambda: scores.record()["scores"] == {"0": 1.0})
    version[0] = 0
    assert scores.record() == NOTHING
    version[0] = 2
    _until(lambda: scores.record()["scores"] == {"0": 2.0})
    scores.close()


def test_nothing_is_computed_while_somebody_waits_or_without_a_model(opened) -> None:
    _click(opened, 0, 20.5)
    made = threading.Event()

    def examine(*_) -> ImageFigures:
        made.set()
        return ImageFigures(1.0, 1.0)

    busy = LabelScores(opened, examine, lambda: 1, quiet=60)
    without = LabelScores(opened, examine, lambda: 0, quiet=0)
    assert not made.wait(1.5) and busy.record() == without.record() == NOTHING
    busy.close()
    without.close()


def test_what_has_no_score_is_not_tried_for_ever(opened) -> None:
    made: list[int] = []

    def examine(index, content, between) -> ImageFigures:
        made.append(index)
        if index == 0:
            raise OSError("gone")
        return ImageFigures(math.nan, 0.5)

    _click(opened, 0, 20.5)
    _click(opened, 1, 20.5)
    scores = LabelScores(opened, examine, lambda: 1, quiet=0)
    _until(lambda: len(made) == 2)
    time.sleep(1.2)
    assert made == [0, 1]
    none = {"0": None, "1": None}
    assert scores.record() == {"scores": none, "gains": {"0": None, "1": 0.5}}
    scores.close()


def test_what_has_begun_waits_for_a_click_and_ends_where_it_is_outdated(opened) -> None:
    stages: list[tuple[int, int]] = []
    goes_on = threading.Event()

    def examine(index, content, between) -> ImageFigures:
        stages.append((1, len(content.segments)))
        goes_on.wait(10)
        between()
        stages.append((2, len(content.segments)))
        return ImageFigures(50.0 + len(content.segments), 0.0)

    _click(opened, 0, 20.5)
    scores = LabelScores(opened, examine, lambda: 1, quiet=0.8)
    _until(lambda: stages == [(1, 1)])
    scores.disturb()
    at = time.monotonic()
    goes_on.set()
    _until(lambda: len(stages) == 2)
    assert time.monotonic() - at > 0.7 and stages == [(1, 1), (2, 1)]
    _until(lambda: scores.record()["scores"] == {"0": 51.0})
    # Another click: it begins anew; and one more meanwhile, so that nothing is made of the first.
    goes_on.clear()
    del stages[:]
    _click(opened, 0, 60.5)
    _until(lambda: stages == [(1, 2)])
    _click(opened, 0, 80.5)
    goes_on.set()
    _until(lambda: scores.record()["scores"] == {"0": 53.0})
    assert stages == [(1, 2), (1, 3), (2, 3)]
    scores.close()


def test_the_end_comes_after_the_stage_and_not_after_the_image(opened) -> None:
    begun, ended = threading.Event(), threading.Event()

    def examine(index, content, between) -> ImageFigures:
        scores._quiet = 60  # somebody clicks on and on
        scores.disturb()
        begun.set()
        try:
            between()
        finally:
            ended.set()
        return ImageFigures(1.0, 0.0)

    _click(opened, 0, 20.5)
    scores = LabelScores(opened, examine, lambda: 1, quiet=0)
    assert begun.wait(10)
    scores.close()
    assert ended.is_set() and scores.record() == NOTHING


@pytest.mark.slow
def test_the_score_is_that_of_the_report(tmp_path: Path) -> None:
    write_images(tmp_path)
    write_run(tmp_path / "run", tmp_path / "toy.yaml", {"MODEL.FDD.CLICKS.RESIDUAL": True})
    trained = load_trained(tmp_path / "run", full=True)
    report = write_label_report(str(tmp_path / "r.html"), trained, str(tmp_path / "toy.yaml"))
    opened = open_dataset(tmp_path / "toy.yaml")
    labeller = LiveLabeller(trained, CATEGORIES)
    scores: dict[str, float] = {}
    for n, (image, path) in enumerate(zip(opened.store.images, opened.paths, strict=True)):
        segments = opened.store.state(n).segments
        if segments:
            size = (image.height, image.width)
            figures = labeller.figures(path, segments, size)
            scores[image.file_name] = figures.score
            assert figures.gain == labeller.suggestions(path, segments, size)[0].gain > 0
    opened.store.close()
    assert len(scores) == len(IMAGES) - 1
    reported = {name: value for name, value in report.worst if value is not None}
    assert sorted(scores.values()) == pytest.approx(sorted(reported.values()), abs=0.1)
    assert math.isnan(labeller.figures(opened.paths[0], [], (40, 56)).score)
