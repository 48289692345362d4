"""Labels that follow the clicks."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fdd.annotate.live import LiveLabeller
from fdd.data import FDDDatasetMapper
from fdd.data.images import ImageFileError
from fdd.inference.trained_model import TrainedModel, load_trained
from fdd.modeling.label_makers import MakerInputs, nearest_labels
from fdd.points import Category
from fdd.points.structures import VoidStroke
from fdd.points.void import void_mask
from labels_toys import CATEGORIES, IMAGES, write_images, write_run

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "clicks": {"MODEL.FDD.CLICKS.RESIDUAL": True},
    "forced": {"MODEL.FDD.PSEUDO.FORCE_POINTS": True},
    "everything": {
        "MODEL.FDD.CLICKS.RESIDUAL": True,
        "MODEL.FDD.LOCATION_PRIOR.ENABLED": True,
        "MODEL.FDD.LOCATION_PRIOR.EXTENT": True,
        "MODEL.FDD.PSEUDO.SHARES": True,
        "MODEL.FDD.PSEUDO.REFINE": True,
    },
    "apart": {"MODEL.FDD.SHARE_LAYERS": False, "MODEL.FDD.LAMBDA_SEM": 0.1},
}


@dataclass(frozen=True)
class Segment:
    id: int
    category_id: int
    points: tuple[tuple[float, float], ...]


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("live")
    write_images(root)
    for name, changes in VARIANTS.items():
        write_run(root / name, root / "toy.yaml", changes)
    return root


@pytest.fixture(scope="module")
def trained(toy: Path) -> TrainedModel:
    return load_trained(toy / "clicks", full=True)


def draw_segments(size: tuple[int, int], each: int = 3, count: int = 9) -> list[Segment]:
    """Things and one segment of each stuff class, in no order."""
    rng = np.random.default_rng(each)
    kinds = [4, *(11 if n % 2 else 6 for n in range(count - 2)), 9]
    kinds[0], kinds[3] = kinds[3], kinds[0]
    points = rng.uniform(0, 1, (count, each, 2)) * (size[1], size[0])
    return [
        Segment(7 * n + 2, kind, tuple((float(x), float(y)) for x, y in own))
        for n, (kind, own) in enumerate(zip(kinds, points, strict=True))
    ]


def by_the_model(trained: TrainedModel, path: Path, segments: list[Segment]) -> np.ndarray:
    """What ``FDD.estimate_labels`` gives without refinement, as positions among the segments."""
    model: Any = trained.model
    contiguous = {c["id"]: n for n, c in enumerate(trained.categories)}
    points = [
        {
            "instance_id": position,
            "category_id": contiguous[s.category_id],
            "isthing": contiguous[s.category_id] < model.num_things,
            "coords": [list(p) for p in s.points],
        }
        for position, s in enumerate(segments)
    ]
    x = FDDDatasetMapper(trained.cfg, is_train=False)({"file_name": str(path), "points": points})
    before = model.label_settings
    model.label_settings = replace(before, refine=False)
    try:
        result = model.estimate_labels([x])[0]
    finally:
        model.label_settings = before
    return np.array(result["instance_ids"])[result["pseudo_labels"]["learned"].numpy()]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("image_id", ["first", 2])
@pytest.mark.parametrize("each", [1, 4])
def test_the_label_is_that_of_the_export(toy, variant, image_id, each) -> None:
    name, size = IMAGES[image_id]
    path, segments = toy / "images" / name, draw_segments(size, each)
    trained = load_trained(toy / variant, full=True)
    found = LiveLabeller(trained, CATEGORIES).label(path, segments, size)
    expected = by_the_model(trained, path, segments)
    assert found.label.dtype == np.int32 and found.label.shape == size
    assert found.maker == "learned" and found.milliseconds > 0
    assert found.confidence is not None
    assert found.confidence.dtype == np.uint8 and found.confidence.shape == size
    assert len(np.unique(expected)) >= 2, "a label that could not be wrong"
    assert (found.label != expected).mean() < 1e-3  # equal but for rounding
    if variant == "clicks":  # but for two clicks on one pixel
        held = [
            found.label[min(int(y), size[0] - 1), min(int(x), size[1] - 1)] == n
            for n, segment in enumerate(segments)
            for x, y in segment.points
        ]
        assert np.mean(held) > 0.9


def test_the_encoder_runs_when_an_image_is_opened_and_never_again(toy, trained, monkeypatch):
    encoded = []
    encode = trained.model.encode
    monkeypatch.setattr(trained.model, "encode", lambda x: encoded.append(1) or encode(x))
    name, size = IMAGES["first"]
    path, segments = toy / "images" / name, draw_segments(size)
    labeller = LiveLabeller(trained, CATEGORIES)
    assert labeller.open(path) > 0 and len(encoded) == 1
    for n in range(1, 4):
        labeller.label(path, segments[:n], size)
        labeller.suggestions(path, segments[:n], size)
    assert len(encoded) == 1


def test_few_images_are_kept_and_never_the_one_looked_at_is_dropped(toy, trained) -> None:
    files = [toy / "images" / name for name, _ in IMAGES.values()]
    labeller = LiveLabeller(trained, CATEGORIES, cached=2)
    labeller.open(files[0])
    for path in files[1:]:
        labeller.ahead(path)
        labeller._worker.join() if labeller._worker else None
        assert files[0] in labeller._images and len(labeller._images) <= 2
    assert files[-1] in labeller._images
    labeller.close()
    assert not labeller._images


def test_images_are_kept_as_far_as_there_is_room(toy, trained) -> None:
    files = [toy / "images" / name for name, _ in IMAGES.values()]
    plenty = LiveLabeller(trained, CATEGORIES, cached=4)
    for path in files:
        plenty.open(path)
    sizes = {path: image.bytes for path, image in plenty._images.items()}
    assert len(sizes) == 4 and min(sizes.values()) > 1000
    room = sizes[files[3]] + sizes[files[2]]
    for limit, left in ((room, files[2:]), (1, files[3:])):
        tight = LiveLabeller(trained, CATEGORIES, cached=4, cached_bytes=limit)
        for path in files:
            tight.open(path)
        assert list(tight._images) == left


def test_an_image_that_cannot_be_read_ahead_is_an_error_when_it_is_opened(toy, trained, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes((toy / "images" / "first.png").read_bytes()[:60])
    labeller = LiveLabeller(trained, CATEGORIES)
    labeller.ahead(broken)
    labeller.close()
    with pytest.raises(ImageFileError, match=r"broken\.png"):
        labeller.open(broken)
    with pytest.raises(FileNotFoundError, match="gone"):
        labeller.open(tmp_path / "gone.png")
    with pytest.raises(ImageFileError):
        labeller.label(broken, draw_segments((40, 56)), (40, 56))
    name, size = IMAGES["first"]  # and the next image is as if nothing had been
    assert labeller.label(toy / "images" / name, draw_segments(size), size).label.min() >= 0


def test_an_image_of_another_size_is_refused(toy, trained) -> None:
    labeller = LiveLabeller(trained, CATEGORIES)
    with pytest.raises(ImageFileError, match=r"56 x 40.*60 x 40"):
        labeller.label(toy / "images/first.png", draw_segments((40, 56)), (40, 60))


@pytest.mark.parametrize("with_model", [True, False])
def test_no_segments_one_segment_and_what_is_wrong_with_others(toy, trained, with_model) -> None:
    path, size = toy / "images/first.png", (40, 56)
    labeller = LiveLabeller(trained if with_model else None, CATEGORIES)
    nothing = labeller.label(path, [], size)
    assert (nothing.label == -1).all() and nothing.label.shape == size
    assert labeller.suggestions(path, [], size) == []
    alone = [Segment(3, 11, ((4.0, 5.0),))]
    assert (labeller.label(path, alone, size).label == 0).all()
    assert labeller.suggestions(path, alone, size)
    edge = [Segment(3, 11, ((56.0, 40.0),)), Segment(4, 4, ((0.0, 0.0),))]
    assert set(np.unique(labeller.label(path, edge, size).label)) == {0, 1}
    for wrong, match in (
        (Segment(5, 11, ((57.0, 4.0),)), r"segment 5.*57, 4.*outside.*56 x 40"),
        (Segment(5, 11, ((float("nan"), 4.0),)), "segment 5.*outside"),
        (Segment(5, 11, ()), "segment 5.*no point"),
        (Segment(5, 77, ((1.0, 1.0),)), "segment 5.*77"),
    ):
        with pytest.raises(ValueError, match=match):
            labeller.label(path, [*alone, wrong], size)
        with pytest.raises(ValueError, match=match):
            labeller.suggestions(path, [*alone, wrong], size)


def test_without_a_model_it_is_the_nearest_point_and_no_image_is_read() -> None:
    size = (50, 70)
    segments = draw_segments(size, 3)
    labeller = LiveLabeller(None, CATEGORIES)
    assert labeller.open(Path("nowhere.png")) < 1
    labeller.ahead(Path("nowhere.png"))
    found = labeller.label(Path("nowhere.png"), segments, size)
    coords = torch.tensor([p for s in segments for p in s.points])
    index = torch.arange(len(segments)).repeat_interleave(3)
    expected = nearest_labels(MakerInputs(coords, index, index, size, (1.0, 1.0)))
    assert found.maker == "nearest" and found.confidence is None
    assert (found.label == expected.numpy()).all()


@pytest.mark.parametrize("with_model", [True, False])
def test_a_large_image_is_labelled_at_the_size_shown(toy, trained, tmp_path, with_model) -> None:
    path, size = tmp_path / "large.png", (160, 224)
    Image.open(toy / "images/first.png").resize((224, 160)).save(path)
    segments = draw_segments(size)
    small = LiveLabeller(trained if with_model else None, CATEGORIES, max_side=112)
    large = LiveLabeller(trained if with_model else None, CATEGORIES)
    found, whole = (x.label(path, segments, size).label for x in (small, large))
    assert found.shape == (80, 112) and whole.shape == size
    assert (found == whole[1::2, 1::2]).mean() > 0.95


def test_a_model_with_other_classes_is_refused(trained) -> None:
    more = [*CATEGORIES, Category(12, "bird", True)]
    with pytest.raises(ValueError, match=r"bird.*cell.*"):
        LiveLabeller(trained, more)
    other = [replace(c, isthing=True) if c.name == "sea" else c for c in CATEGORIES]
    with pytest.raises(ValueError, match=r"'sea' is a thing.*stuff"):
        LiveLabeller(trained, other)
    nameless = replace(trained, named=False)
    LiveLabeller(nameless, CATEGORIES)
    with pytest.raises(ValueError, match="2 thing and 2 stuff"):
        LiveLabeller(nameless, more)


def test_classes_are_matched_by_name_whatever_their_ids(toy, trained) -> None:
    path, size = toy / "images/first.png", (40, 56)
    segments = draw_segments(size)
    other = {c.id: n for n, c in enumerate(reversed(CATEGORIES), 100)}
    renamed = [Category(other[c.id], c.name, c.isthing) for c in reversed(CATEGORIES)]
    moved = [replace(s, category_id=other[s.category_id]) for s in segments]
    first = LiveLabeller(trained, CATEGORIES).label(path, segments, size).label
    second = LiveLabeller(trained, renamed).label(path, moved, size).label
    assert (first == second).all()


def test_a_model_whose_labels_are_a_rules_is_refused(toy, tmp_path) -> None:
    write_run(tmp_path / "rule", toy / "toy.yaml", {"MODEL.FDD.LABEL_MAKER": "nearest"})
    with pytest.raises(ValueError, match=r"'nearest'.*learned"):
        LiveLabeller(load_trained(tmp_path / "rule", full=True), CATEGORIES)


def test_threads_get_the_labels_of_their_own_images(toy, trained) -> None:
    labeller = LiveLabeller(trained, CATEGORIES, cached=1)
    jobs = [(toy / "images" / name, size) for name, size in list(IMAGES.values())[:3]]
    alone = [labeller.label(path, draw_segments(size), size).label for path, size in jobs]
    wrong: list[Any] = []

    def work(n: int) -> None:
        path, size = jobs[n]
        for _ in range(4):
            if (labeller.label(path, draw_segments(size), size).label != alone[n]).any():
                wrong.append(n)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


STROKES = (VoidStroke(18.0, ((10.0, 12.0), (40.0, 12.0))),)


@pytest.mark.parametrize("with_model", [True, False])
def test_void_hides_points_and_pixels(toy, trained, with_model) -> None:
    name, size = IMAGES["first"]
    path, segments = toy / "images" / name, draw_segments(size, 4)
    mask = void_mask(STROKES, *size)
    shown = []
    for s in segments:
        kept = tuple((x, y) for x, y in s.points if not mask[int(y), int(x)])
        shown.append(replace(s, points=kept))
    # One that is hidden altogether, before others, so that positions would be wrong.
    lost = Segment(1000, segments[0].category_id, ((20.5, 12.5),))
    labeller = LiveLabeller(trained if with_model else None, CATEGORIES)
    found = labeller.label(path, [lost, *segments], size, STROKES).label
    plain = labeller.label(path, shown, size).label
    assert mask.any() and (found[mask] == -1).all()
    assert np.array_equal(found[~mask], plain[~mask] + 1)
    assert 0 not in found
    assert sum(len(s.points) for s in shown) < sum(len(s.points) for s in segments)
    places = labeller.suggestions(path, [lost, *segments], size, 5, STROKES)
    assert places and not any(mask[int(s.y), int(s.x)] for s in places)


def test_all_painted_over(toy, trained) -> None:
    name, size = IMAGES["first"]
    path, segments = toy / "images" / name, draw_segments(size, 2)
    everything = (VoidStroke(1e4, ((0.0, 0.0),)),)
    labeller = LiveLabeller(trained, CATEGORIES)
    found = labeller.label(path, segments, size, everything)
    assert (found.label == -1).all() and found.label.shape == size
    assert labeller.suggestions(path, segments, size, 3, everything) == []
    assert labeller.figures(path, segments, size, void=everything).gain == 0
