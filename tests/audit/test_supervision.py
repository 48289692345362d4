"""The supervision audit passes on the package's own loader, and fails on every kind of leak."""

import json
import sysconfig

import cv2
import numpy as np
import pytest
from PIL import Image

from fdd.audit.file_trace import trace_opens
from fdd.audit.supervision import audit_supervision
from fdd.data import FDDDatasetMapper
from fdd.engine.configs import new_cfg
from fdd.engine.loader import load_training_dicts
from fdd.points.coco_panoptic import load_segment_ids, save_segment_ids
from fdd.points.rules import CheckTarget

HEIGHT, WIDTH = 40, 60


@pytest.fixture
def target(tmp_path):
    categories = [
        {"id": 1, "name": "dog", "isthing": True},
        {"id": 2, "name": "sky", "isthing": False},
    ]
    ids = np.full((HEIGHT, WIDTH), 9, np.int32)
    ids[5:15, 5:15] = 4
    names = ["a", "b", "c"]
    images = [{"id": n, "file_name": f"{n}.png", "height": HEIGHT, "width": WIDTH} for n in names]
    segments = [(4, 1, [[10.5, 10.5]]), (9, 2, [[30.5, 5.5], [2.5, 38.5]])]
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    for n in names:
        pixels = np.random.default_rng(ord(n)).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{n}.png")
        save_segment_ids(tmp_path / "masks" / f"{n}.png", ids)
    points = {
        "format": "fdd-points",
        "version": 1,
        "categories": categories,
        "images": [
            {**i, "segments": [{"id": s, "category_id": c, "points": p} for s, c, p in segments]}
            for i in images
        ],
    }
    infos = [
        {"id": s, "category_id": c, "iscrowd": 0, "area": int((ids == s).sum()), "bbox": [5] * 4}
        for s, c, _ in segments
    ]
    masks = {
        "images": images,
        "annotations": [
            {"image_id": n, "file_name": f"{n}.png", "segments_info": infos} for n in names
        ],
        "categories": categories,
    }
    (tmp_path / "points.json").write_text(json.dumps(points))
    (tmp_path / "masks.json").write_text(json.dumps(masks))
    entry = {
        "images": "images",
        "points": "points.json",
        "masks": {"json": "masks.json", "folder": "masks"},
    }
    (tmp_path / "data.yaml").write_text(json.dumps(entry))
    return CheckTarget.find(tmp_path / "data.yaml")


def codes(result):
    return {f.rule for f in result.findings}


def mask_folder(cfg):
    """Where the masks of the run's data set are, original or scrambled."""
    from detectron2.data import MetadataCatalog

    metadata = MetadataCatalog.get(cfg.DATASETS.TRAIN[0])
    return metadata.panoptic_json, metadata.panoptic_root


def test_the_packages_own_path_passes(target):
    result = audit_supervision(target, num_images=2)
    assert result.findings == []
    assert (result.images, result.points, result.examined) == (3, 9, 2)
    assert result.opened == {
        "data set file": 1,
        "label file": 1,
        "JSON of masks (its categories only, by fdd.data.catalog._find_categories)": 1,
        "images": 2,
        "mask PNGs": 0,
    }
    assert len(result.experiments) == 2
    assert all("the same, bit for bit" in text for text in result.experiments)
    text = result.statement()
    assert text.startswith("Supervision audit: passed (3 images, 9 points; 2 of the images went")
    assert "points[].coords" in text and "point_semantic_map" in text


def test_labels_without_masks_pass(target):
    result = audit_supervision(CheckTarget(target.points, target.images))
    assert result.findings == [] and result.examined == 3
    assert result.experiments == ["no masks belong to the labelled images: nothing to scramble"]


def test_a_leaked_box(target):
    def leaky(cfg):
        dicts = load_training_dicts(cfg)
        source, _ = mask_folder(cfg)
        with open(source, encoding="utf-8") as file:
            annotations = json.load(file)["annotations"]
        boxes = {a["image_id"]: [s["bbox"] for s in a["segments_info"]] for a in annotations}
        for record in dicts:
            for point, box in zip(
                record["points"], boxes.get(record["image_id"], []), strict=False
            ):
                point["bbox"] = box
        return dicts

    result = audit_supervision(target, load_dicts=leaky)
    # The mapper does not pass the box on, so what the model is given is the same.
    assert codes(result) == {"E601", "E603"}
    messages = [f.message for f in result.findings]
    assert any("'points[].bbox'" in m for m in messages)
    assert any("masks.json: opened by test_supervision.leaky" in m for m in messages)
    assert "FAILED" in result.statement() and "OTHER FILES" in result.statement()


def test_points_that_masks_have_moved(target):
    """No key of a mask, and the masks are read by C++ code, which no trace sees."""

    def leaky(cfg):
        dicts = load_training_dicts(cfg)
        _, folder = mask_folder(cfg)
        for record in dicts:
            mask = cv2.imread(f"{folder}/{record['image_id']}.png")
            if mask is not None:
                y, x = np.nonzero(mask[..., 2] == 4)
                centre = [float(x.mean()) + 0.5, float(y.mean()) + 0.5] if len(x) else [1.0, 1.0]
                record["points"][0]["coords"] = [centre]
        return dicts

    result = audit_supervision(target, load_dicts=leaky)
    assert codes(result) == {"E601", "E604"}
    keys = {f.message.split("'")[-2] for f in result.findings if f.rule == "E604"}
    assert keys >= {"point_coords", "point_cells"}


def test_a_mapper_that_looks_at_masks(target):
    def make_mapper(cfg):
        mapper, (_, folder) = FDDDatasetMapper(cfg, is_train=True), mask_folder(cfg)

        def leaky(record):
            example = mapper(record)
            ids = load_segment_ids(f"{folder}/{record['image_id']}.png", HEIGHT, WIDTH)
            return {**example, "areas": [int((ids == 4).sum())]}

        return leaky

    result = audit_supervision(target, make_mapper=make_mapper)
    assert codes(result) == {"E602", "E603", "E604"}
    assert len([f for f in result.findings if f.rule == "E603"]) == 3
    stops = [f.message for f in result.findings if "stops" in f.message]
    assert stops and "taken away" in stops[0]


@pytest.mark.parametrize(("kind", "leaked"), [("data", "boxes.json"), ("purelib", "masks/a.png")])
def test_a_project_inside_the_python_environment(target, tmp_path, monkeypatch, kind, leaked):
    """``python -m venv .``: files of the project are not the environment's."""
    paths = {**sysconfig.get_paths(), kind: str(tmp_path)}
    monkeypatch.setattr(sysconfig, "get_paths", lambda: paths)

    (tmp_path / "boxes.json").write_text("{}")

    def leaky(cfg):
        (tmp_path / leaked).read_bytes()
        return load_training_dicts(cfg)

    result = audit_supervision(target, load_dicts=leaky)
    assert codes(result) == {"E603"} and leaked in result.findings[0].message
    assert audit_supervision(target).findings == []


@pytest.mark.parametrize("absolute", [False, True])
def test_names_of_pngs_do_not_lead_out_of_the_copy(target, tmp_path, absolute):
    masks = json.loads((tmp_path / "masks.json").read_text())
    for annotation in masks["annotations"]:
        name = annotation["file_name"]
        annotation["file_name"] = str(tmp_path / "masks" / name) if absolute else f"../masks/{name}"
    (tmp_path / "masks.json").write_text(json.dumps(masks))
    before = {p.name: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    assert audit_supervision(target).findings == []
    assert {p.name: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize(
    "spoil",
    [
        lambda m: m["annotations"].pop(),
        lambda m: m["annotations"].append(3),
        lambda m: m["annotations"][0].clear(),
        lambda m: m["annotations"][0].update(file_name=None),
        lambda m: m["annotations"][0].update(file_name=""),
        lambda m: m["annotations"][0]["segments_info"][0].update(category_id=[]),
        lambda m: m["annotations"][0]["segments_info"][0].update(id="a"),
        lambda m: m["images"][0].update(width="wide"),
        lambda m: m["images"][0].update(height=1e999),
        lambda m: m["categories"][0].update(id=None),
        lambda m: m["categories"][0].update(id=[1]),
        lambda m: m["categories"][0].update(id="1"),
    ],
)
def test_masks_of_another_form_are_a_clear_error(target, tmp_path, spoil):
    masks = json.loads((tmp_path / "masks.json").read_text())
    spoil(masks)
    (tmp_path / "masks.json").write_text(json.dumps(masks))
    with pytest.raises(ValueError, match=r"masks\.json"):
        audit_supervision(target)


def test_full_supervision_is_refused(target):
    cfg = new_cfg()
    cfg.MODEL.FDD.PAN_SUPERVISION = "full"
    with pytest.raises(ValueError, match="trains on masks"):
        audit_supervision(target, cfg=cfg)


def test_no_images(target):
    with pytest.raises(ValueError, match="needs the images"):
        audit_supervision(CheckTarget(target.points))


def test_the_trace_sees_reading_and_not_writing(tmp_path):
    read, written = tmp_path / "read.txt", tmp_path / "written.txt"
    read.write_text("x")
    with trace_opens() as opened:
        with trace_opens() as inner:
            read.read_text()
        written.write_text("y")
    read.read_bytes()
    assert [f.path for f in opened] == [f.path for f in inner] == [str(read)]
    assert opened[0].reader.endswith("test_the_trace_sees_reading_and_not_writing")
    assert not opened[0].is_library
