"""Labels while there is no model: by rules, one of which looks at a backbone's features."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fdd.annotate.actions import Segment
from fdd.annotate.live import LiveLabeller
from fdd.annotate.preview import NEAREST, Preview, load_preview
from fdd.annotate.shelf import ModelShelf
from fdd.data import FDDDatasetMapper
from fdd.engine.checkpoint import CheckpointError
from fdd.inference.trained_model import load_trained
from fdd.modeling.label_makers import MakerInputs, get_label_maker
from labels_toys import CATEGORIES, IMAGES, write_images, write_run

NAME, SIZE = IMAGES["first"]
CONTIGUOUS = {11: 0, 6: 1, 4: 2, 9: 3}


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("preview")
    write_images(root)
    write_run(root / "run", root / "toy.yaml", {"MODEL.FDD.CLICKS.RESIDUAL": True})
    return root


def draw_segments(each: int = 5) -> list[Segment]:
    """Two cells, a dog of two points, sky; of the cells the points are around a middle."""
    rng = np.random.default_rng(3)
    drawn = []
    kinds = ((11, (14, 12), each), (6, (40, 8), 2), (11, (38, 28), each), (4, (28, 20), 9))
    for n, (kind, middle, count) in enumerate(kinds):
        spread = 7 if kind == 11 else 18
        points = np.array(middle) + rng.uniform(-spread, spread, (count, 2))
        points = points.clip(0.5, np.array(SIZE[::-1]) - 0.5)
        drawn.append(Segment(10 * n + 1, kind, tuple((float(x), float(y)) for x, y in points)))
    return drawn


def by_maker(name: str, segments: list[Segment]) -> np.ndarray:
    inputs = MakerInputs(
        coords=torch.tensor([p for s in segments for p in s.points]),
        index=torch.tensor([n for n, s in enumerate(segments) for _ in s.points]),
        classes=torch.tensor([CONTIGUOUS[s.category_id] for s in segments]),
        grid=SIZE,
        stride=(1.0, 1.0),
        num_things=2,
    )
    return get_label_maker(name)(inputs).numpy()


def dnn(toy: Path, *opts: str) -> Preview:
    run = toy / "run"
    return load_preview(
        "dnn", run / "config.yaml", ["MODEL.WEIGHTS", str(run / "model_final.pth"), *opts]
    )


@pytest.mark.parametrize("rule", ["nearest", "extent"])
def test_rules_of_points_are_the_label_makers_and_read_no_image(rule: str) -> None:
    segments = draw_segments()
    labeller = LiveLabeller(None, CATEGORIES, preview=load_preview(rule))
    found = labeller.label(Path("nowhere.png"), segments, SIZE)
    assert found.maker == rule and found.confidence is None
    assert (found.label == by_maker(rule, segments)).all()
    assert (by_maker("nearest", segments) != by_maker("extent", segments)).any()
    assert labeller.suggestions(Path("nowhere.png"), segments, SIZE)
    assert (labeller.label(Path("nowhere.png"), [], SIZE).label == -1).all()


def test_a_preview_smaller_than_the_image_has_its_extents() -> None:
    segments, size = draw_segments(), (SIZE[0] * 4, SIZE[1] * 4)
    larger = [replace(s, points=tuple((4 * x, 4 * y) for x, y in s.points)) for s in segments]
    labeller = LiveLabeller(None, CATEGORIES, preview=load_preview("extent"), max_side=SIZE[1])
    found = labeller.label(Path("x"), larger, size).label
    assert found.shape == SIZE and (found == by_maker("extent", segments)).mean() > 0.99


def test_features_label_as_the_label_maker_of_a_model_with_the_backbone(toy: Path) -> None:
    path, segments = toy / "images" / NAME, draw_segments()
    labeller = LiveLabeller(None, CATEGORIES, preview=dnn(toy))
    found = labeller.label(path, segments, SIZE)
    assert found.maker == "dnn" and found.confidence is None
    trained = load_trained(toy / "run", full=True)
    model: Any = trained.model
    model.label_settings = replace(model.label_settings, baselines=("dnn",))
    points = [
        {
            "instance_id": n,
            "category_id": CONTIGUOUS[s.category_id],
            "isthing": CONTIGUOUS[s.category_id] < 2,
            "coords": [list(p) for p in s.points],
        }
        for n, s in enumerate(segments)
    ]
    x = FDDDatasetMapper(trained.cfg, is_train=False)({"file_name": str(path), "points": points})
    result = model.estimate_labels([x])[0]
    expected = np.array(result["instance_ids"])[result["pseudo_labels"]["dnn"].numpy()]
    assert len(np.unique(expected)) > 2
    assert (found.label != expected).mean() < 1e-3


def test_features_are_computed_once_an_image_and_looked_at_ahead(toy: Path, monkeypatch) -> None:
    preview = dnn(toy)
    assert preview.features is not None
    model, encoded = preview.features.model, []
    maps = model.backbone_maps
    monkeypatch.setattr(model, "backbone_maps", lambda x: encoded.append(1) or maps(x))
    labeller = LiveLabeller(None, CATEGORIES, preview=preview)
    path, segments = toy / "images" / NAME, draw_segments()
    for n in range(1, 4):
        labeller.label(path, segments[:n], SIZE)
    assert len(encoded) == 1 and labeller._used() > 0
    labeller.ahead(toy / "images" / IMAGES[2][0])
    worker = labeller._worker
    assert worker is not None
    worker.join()
    assert len(encoded) == 2
    # Hints need no features, and there are no scores of rules.
    assert labeller.suggestions(Path("nowhere"), segments, SIZE)
    assert labeller.figures(Path("nowhere"), segments, SIZE).gain == 0


def test_the_config_of_a_training_with_any_labels_has_a_backbone(toy: Path) -> None:
    for opts in (
        ["MODEL.FDD.PAN_SUPERVISION", "full"],
        ["MODEL.FDD.LOCATION_PRIOR.ENABLED", "True", "MODEL.FDD.LABEL_MAKER", "distance"],
    ):
        assert dnn(toy, *opts).features is not None


def test_a_shelf_labels_by_the_preview_until_there_is_a_model(toy: Path) -> None:
    shelf = ModelShelf(CATEGORIES, None, preview=load_preview("extent"))
    path, segments = toy / "images" / NAME, draw_segments()
    assert shelf.names == ["points and extents of things"] and shelf.model is None
    assert shelf.version == 0 and shelf.label(path, segments, SIZE).maker == "extent"
    shelf.add("first", toy / "run")
    assert shelf.label(path, segments, SIZE).maker == "learned"
    shelf.use(0)
    assert shelf.label(path, segments, SIZE).maker == "extent"
    shelf.close()


def test_weights_that_are_not_there_are_asked_for_and_not_downloaded(
    toy: Path, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    with pytest.raises(FileNotFoundError, match=r"R-50\.pkl.*MODEL\.WEIGHTS.*--preview extent"):
        load_preview("dnn", "", ["MODEL.DEVICE", "cpu"])
    assert not (tmp_path / "cache").exists()
    with pytest.raises(FileNotFoundError, match=r"nothing\.pkl: no such file.*nothing is down"):
        load_preview("dnn", "", ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "nothing.pkl"])
    with pytest.raises(FileNotFoundError, match=r"MODEL\.WEIGHTS is empty"):
        load_preview("dnn", toy / "run" / "config.yaml")


def test_weights_that_a_training_has_downloaded_are_found(toy, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))
    kept = tmp_path / "detectron2" / "Some" / "model_final.pth"
    kept.parent.mkdir(parents=True)
    kept.write_bytes((toy / "run" / "model_final.pth").read_bytes())
    weights = ["MODEL.WEIGHTS", "detectron2://Some/model_final.pth"]
    preview = load_preview("dnn", toy / "run" / "config.yaml", weights)
    assert preview.name == "features of model_final.pth"


def test_weights_of_another_backbone_are_refused(toy: Path) -> None:
    widths = ["MODEL.SMALL_RESNET.WIDTHS", "(8, 12, 16, 24)"]
    with pytest.raises(
        CheckpointError, match=r"model_final\.pth.*of the backbone.*res5.*MODEL\.RESNETS\.DEPTH"
    ):
        dnn(toy, *widths)


def test_a_preview_is_one_of_the_rules() -> None:
    with pytest.raises(ValueError, match=r"magic.*nearest"):
        Preview("magic", "magic")
    with pytest.raises(ValueError, match="features"):
        Preview("dnn", "features of nothing")
    assert load_preview("nearest") is NEAREST
