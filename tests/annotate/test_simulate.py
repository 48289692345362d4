"""A simulated annotator, and curves of its clicks."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fdd.annotate.actions import Segment
from fdd.annotate.choices import CLICK_MAKERS, STRATEGIES, SUGGESTING
from fdd.annotate.click_curves import _ModelRules
from fdd.annotate.live import LiveLabeller
from fdd.annotate.simulate import (
    Truth,
    inner_pixel,
    largest_error,
    score_label,
    simulate_clicks,
)
from fdd.cli.main import main
from fdd.evaluation.ground_truth import SegmentTable
from fdd.inference.label_export import ExportOptions, export_labels
from fdd.inference.trained_model import load_trained
from fdd.modeling.label_makers import get_label_maker, label_maker_names
from fdd.points import Category, read_points
from fdd.points.coco_panoptic import load_segment_ids
from labels_toys import CATEGORIES, IMAGES, write_images, write_run

CLASSES = [Category(5, "disc", True), Category(8, "ground", False)]


def draw_truth(seed: int = 0, size: tuple[int, int] = (48, 64)) -> Truth:
    """Two discs of class 5 on ground of class 8, a crowd and a void strip."""
    y, x = np.mgrid[: size[0], : size[1]]
    ids = np.full(size, 300, np.int32)
    ids[(y - 14) ** 2 + (x - 16) ** 2 < 81] = 7
    ids[(y - 30) ** 2 + (x - 44) ** 2 < 100] = 9
    ids[:, :3], ids[:4, 30:40] = 0, 12
    table = SegmentTable(
        "x.png",
        np.array([9, 300, 7, 12]),
        np.array([0, 1, 0, 0]),
        np.array([False, False, False, True]),
    )
    return Truth.of_masks(ids, table, np.array([5, 8]))


def nearest(truth: Truth):
    labeller = LiveLabeller(None, CLASSES)
    size = truth.label.shape
    return lambda segments: labeller.label(Path("x"), segments, size).label


def test_the_truth_leaves_out_crowd_and_void() -> None:
    truth = draw_truth()
    assert truth.ids.tolist() == [9, 300, 7] and truth.categories.tolist() == [5, 8, 5]
    assert truth.label[0, 0] == -1 and truth.label[1, 35] == -1
    assert truth.label[14, 16] == 2 and truth.label[30, 44] == 0 and truth.label[40, 10] == 1


@pytest.mark.parametrize("strategy", ["anywhere", "points"])
def test_random_places_and_random_points(strategy: str) -> None:
    truth = draw_truth()
    given: list[list[int]] = []

    def label_of(segments):
        given.append([len(s.points) for s in segments])
        for n, segment in enumerate(segments):
            for x, y in segment.points:
                assert truth.label[int(y), int(x)] == n
        return truth.label

    curve = simulate_clicks(truth, label_of, 4, strategy=strategy)
    assert curve.clicks == [3, 6, 9, 12] and len(given) == 4
    if strategy == "points":
        assert given == [[n] * 3 for n in (1, 2, 3, 4)]
    else:  # the ground is large
        assert given[-1][1] > 6


def test_the_makers_of_the_command_are_label_makers_and_need_no_masks() -> None:
    assert {*CLICK_MAKERS} <= {*label_maker_names()} and {*SUGGESTING} <= {*CLICK_MAKERS}
    assert not any("masks" in get_label_maker(name).needs for name in CLICK_MAKERS)


def test_the_largest_error_is_one_region_of_one_segment() -> None:
    truth = np.array([[0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1, 1], [2, 2, -1, 2, 2, 2]])
    label = truth.copy()
    assert largest_error(label, truth) is None
    label[0, :2], label[2, 3:], label[2, 0], label[2, 2] = 1, 0, 0, 1
    found = largest_error(label, truth)
    assert found is not None and np.argwhere(found).tolist() == [[2, 3], [2, 4], [2, 5]]


def test_the_inner_pixel_is_far_from_the_edge_of_the_image_too() -> None:
    assert inner_pixel(np.ones((9, 15), bool))[0] == 4
    mask = np.zeros((9, 15), bool)
    mask[0, 0] = True
    assert inner_pixel(mask) == (0, 0)


def test_scores_are_those_by_hand() -> None:
    truth = Truth(
        np.array([[0, 0, 1, 1], [2, 2, 2, -1]], np.int32),
        np.array([4, 5, 6]),
        np.array([0, 0, 1]),
        np.array([5, 5, 8]),
    )
    label = np.array([[0, 0, 0, 1], [2, 2, 2, 1]])
    # Thing 0: 2 of 3; thing 1: 1 of 2, not above a half; ground whole.
    quality, pq = score_label(label, truth)
    assert quality == pytest.approx(100 * (2 / 3 + 1) / 3)
    assert pq == pytest.approx(100 * ((2 / 3) / 2 + 1) / 2)
    assert score_label(np.full((2, 4), -1), truth) == (0, 0)
    assert score_label(truth.label, truth) == pytest.approx((100, 100))


@pytest.mark.parametrize("strategy", ["middle", "random"])
def test_clicks_make_labels_better(strategy: str) -> None:
    truth = draw_truth()
    curve = simulate_clicks(truth, nearest(truth), 12, strategy=strategy, seed=3)
    assert curve.clicks == [3 * n for n in range(1, 13)] and curve.segments == 3
    assert curve.quality[-1] > 75 > curve.quality[0]
    assert curve.pq[-1] > curve.pq[0]
    again = simulate_clicks(truth, nearest(truth), 12, strategy=strategy, seed=3)
    assert again == curve
    other = simulate_clicks(truth, nearest(truth), 12, strategy=strategy, seed=4)
    assert other != curve


def test_points_lie_in_their_own_segments_and_where_the_label_is_wrong() -> None:
    truth, label_of = draw_truth(), nearest(draw_truth())
    seen = []

    def spy(segments):
        seen.append(segments[:])
        return label_of(segments)

    simulate_clicks(truth, spy, 6)
    for before, after in pairwise(seen):
        (changed,) = [n for n in range(3) if before[n] != after[n]]
        x, y = after[changed].points[-1]
        assert truth.label[int(y), int(x)] == changed
        assert label_of(before)[int(y), int(x)] != changed


def test_nothing_is_clicked_once_nothing_is_wrong() -> None:
    truth = draw_truth()
    curve = simulate_clicks(truth, lambda _: truth.label, 4)
    assert curve.clicks == [3, 3, 3, 3] and curve.quality == [100] * 4


def test_a_suggestion_is_clicked_with_its_true_class_and_void_is_passed_over() -> None:
    truth, seen = draw_truth(), []

    def label_of(segments):
        seen.append(segments[:])
        return np.zeros(truth.label.shape, np.int32)

    places = [(0.5, 0.5), (-3.0, 900.0), (44.5, 30.5), (16.2, 14.9)]
    simulate_clicks(truth, label_of, 2, strategy="suggested", suggest=lambda _: places)
    first, second = (s for s in seen[-1] if s.id != 300)
    assert (44.5, 30.5) in first.points and (16.5, 14.5) in second.points


def test_what_cannot_be_simulated_is_refused() -> None:
    truth = draw_truth()
    with pytest.raises(ValueError, match=r"corner.*middle"):
        simulate_clicks(truth, nearest(truth), 2, strategy="corner")
    with pytest.raises(ValueError, match="suggest"):
        simulate_clicks(truth, nearest(truth), 2, strategy="suggested")
    none = np.zeros(0, np.int64)
    with pytest.raises(ValueError, match="no segment"):
        simulate_clicks(Truth(np.full((3, 3), -1, np.int32), none, none, none), nearest(truth), 2)


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy with masks: stripes of three segments."""
    root = tmp_path_factory.mktemp("clicks")
    write_images(root)
    write_run(root / "run", root / "toy.yaml", {"MODEL.FDD.CLICKS.RESIDUAL": True})
    (root / "panoptic").mkdir()
    images, annotations = [], []
    for n, (image_id, (name, (height, width))) in enumerate(IMAGES.items()):
        ids = np.ones((height, width), np.uint8)
        ids[height // 3 :], ids[2 * height // 3 :] = 2, 3
        Image.fromarray(np.stack([ids, 0 * ids, 0 * ids], -1)).save(root / f"panoptic/{n}.png")
        images.append({"id": image_id, "file_name": name, "height": height, "width": width})
        infos = [
            {"id": k, "category_id": c, "iscrowd": 0, "area": 1, "bbox": [0, 0, 1, 1]}
            for k, c in ((1, 4), (2, 11), (3, 9))
        ]
        annotations.append({"image_id": image_id, "file_name": f"{n}.png", "segments_info": infos})
    categories = [{"id": c.id, "name": c.name, "isthing": int(c.isthing)} for c in CATEGORIES]
    document = {"images": images, "annotations": annotations, "categories": categories}
    (root / "panoptic.json").write_text(json.dumps(document))
    text = "images: images\npoints: points.json\nmasks: {json: panoptic.json, folder: panoptic}\n"
    (root / "masked.yaml").write_text(text)
    return root


def call(toy: Path, output: Path, *more: str, dataset: str = "masked.yaml") -> int:
    words = ["--model", str(toy / "run"), "--dataset", str(toy / dataset)]
    return main(["evaluate-clicks", *words, "--output", str(output), *more])


def test_rules_that_look_at_the_model_are_those_of_the_export(toy, tmp_path) -> None:
    makers = ["semantic_nearest", "distance", "dnn", "extent"]
    more = ["--images", "2", "--clicks", "2", "--makers", ",".join(makers)]
    assert call(toy, tmp_path / "curves.json", *more) == 0
    result = json.loads((tmp_path / "curves.json").read_text())
    assert list(result["makers"]) == makers
    trained = load_trained(toy / "run", full=True)
    rules = _ModelRules(trained, CATEGORIES, makers)
    name, (height, width) = IMAGES["first"]
    points = read_points(toy / "points.json")
    image = next(i for i in points.images if i.image_id == "first")
    segments = [Segment(s.id, s.category_id, tuple(map(tuple, s.points))) for s in image.segments]
    for maker in ("semantic_nearest", "distance", "dnn"):
        label = rules.label(maker, toy / "images" / name, segments)
        out = tmp_path / maker
        more = ["MODEL.FDD.DISTANCE.EMBEDDING", "False"]
        options = ExportOptions(maker=maker)
        export_labels(toy / "run", str(toy / "toy.yaml"), out, options, opts=more)
        document = json.loads((out / "panoptic.json").read_text())
        entry = next(a for a in document["annotations"] if a["image_id"] == "first")
        ids = load_segment_ids(out / "panoptic" / entry["file_name"])
        assert label.shape == (height, width)
        # An export has one segment of each kind of stuff; the toy has two of the sky.
        names = {s.id: s.id if s.category_id != 4 else 4 for s in segments}
        ours = np.array([*(names[s.id] for s in segments), 0])[label]
        assert (ours == np.vectorize(names.get)(ids, 0)).all()


def test_rules_run_no_label_branch_and_the_network_once_an_image(toy, monkeypatch) -> None:
    trained = load_trained(toy / "run", full=True)
    model = trained.model
    ran: list[str] = []
    for part in ("backbone", "encoder", "query_generator"):
        module = getattr(model, part)
        module.register_forward_hook(lambda *_, part=part: ran.append(part))
    instances = model.label_branch.instance_queries
    monkeypatch.setattr(
        model.label_branch, "instance_queries", lambda *a: ran.append("instances") or instances(*a)
    )
    name, size = IMAGES["first"]
    segments = [Segment(1, 11, ((9.5, 9.5),)), Segment(2, 4, ((30.5, 30.5),))]
    for makers, expected in (
        (["dnn"], ["backbone"]),
        (["semantic_nearest", "dnn", "distance"], ["backbone", "encoder"]),
    ):
        ran.clear()
        rules = _ModelRules(trained, CATEGORIES, makers)
        for _ in range(3):
            for maker in makers:
                assert rules.label(maker, toy / "images" / name, segments).shape == size
        assert ran == expected


def test_features_are_enough_where_the_model_has_no_label_branch(toy, tmp_path, capsys) -> None:
    write_run(tmp_path / "plain", toy / "toy.yaml", {"MODEL.FDD.LABEL_MAKER": "nearest"})
    words = ["--dataset", str(toy / "masked.yaml"), "--clicks", "2", "--images", "1"]
    words += ["--model", str(tmp_path / "plain"), "--output"]
    output = tmp_path / "curves.json"
    assert main(["evaluate-clicks", *words, str(output), "--makers", "dnn,extent"]) == 0
    assert list(json.loads(output.read_text())["makers"]) == ["dnn", "extent"]
    capsys.readouterr()
    none = tmp_path / "none.json"
    assert main(["evaluate-clicks", *words, str(none), "--makers", "semantic_nearest"]) == 2
    assert "semantic branch" in capsys.readouterr().err and not none.exists()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_command_writes_curves_of_each_maker(toy, tmp_path, capsys, strategy) -> None:
    more = ["--images", "2", "--clicks", "2", "--strategy", strategy]
    assert call(toy, tmp_path / "curves.json", *more) == 0
    result = json.loads((tmp_path / "curves.json").read_text())
    assert result["clicks_a_segment"] == [1, 2] and result["strategy"] == strategy
    assert set(result["makers"]) == {"learned", "nearest"}
    assert [row["segments"] for row in result["images"]] == [3, 3]
    for maker, curve in result["makers"].items():
        for key in ("segments", "pq"):
            rows = [row["makers"][maker][key] for row in result["images"]]
            assert curve[key] == pytest.approx(np.mean(rows, 0).tolist(), abs=1e-3)
    said = capsys.readouterr().out
    assert "nearest PQ" in said and "curves.json" in said
    assert call(toy, tmp_path / "curves.json", *more) == 2, "a file that is there is kept"
    assert "exists" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "match"),
    [
        (["--makers", "learned,magic"], "magic"),
        (["--images", "0"], "--images 0"),
        (["--clicks", "-2"], "--clicks -2"),
        (["--strategy", "suggested", "--makers", "polygon"], "suggested"),
    ],
)
def test_wrong_arguments_change_nothing(toy, tmp_path, capsys, more, match) -> None:
    assert call(toy, tmp_path / "curves.json", *more) == 2
    assert match in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_a_set_without_masks_and_one_with_other_classes_are_refused(toy, tmp_path, capsys) -> None:
    assert call(toy, tmp_path / "curves.json", dataset="toy.yaml") == 2
    assert "masks" in capsys.readouterr().err
    text = (toy / "points.json").read_text().replace('"dog"', '"wolf"')
    (toy / "other.json").write_text(text)
    masks = (toy / "panoptic.json").read_text().replace('"dog"', '"wolf"')
    (toy / "other_masks.json").write_text(masks)
    (toy / "other.yaml").write_text(
        "images: images\npoints: other.json\nmasks: {json: other_masks.json, folder: panoptic}\n"
    )
    assert call(toy, tmp_path / "curves.json", dataset="other.yaml") == 2
    assert "wolf" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_an_image_that_cannot_be_read_is_named_and_left_out(toy, tmp_path, capsys) -> None:
    path = toy / "images/first.png"
    before = path.read_bytes()
    path.write_bytes(before[:50])
    try:
        assert call(toy, tmp_path / "curves.json", "--clicks", "1", "--makers", "learned") == 1
    finally:
        path.write_bytes(before)
    assert "first.png" in capsys.readouterr().err
    result = json.loads((tmp_path / "curves.json").read_text())
    assert [row["image_id"] for row in result["images"]] == ["2", 2, "none"]
