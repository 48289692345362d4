from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from engine_toys import MASKS, POINTS, toy_cfg
from fdd.data import register_panoptic, register_points
from fdd.engine import DatasetError, Trainer, check_testing, check_training, resolve_device
from fdd.engine.checks import check_dataset
from fdd.points.rules import CheckTarget, check_data


@pytest.fixture
def register():
    names = []

    def add(function, name, *paths):
        function(name, *paths)
        names.append(name)
        return name

    yield add
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def test_a_sound_config_passes(toy_set, tmp_path):
    check_training(toy_cfg(tmp_path, "DATASETS.TEST", (MASKS,)), 2)
    check_training(toy_cfg(tmp_path, "DATASETS.TEST", (POINTS,)), 1)  # points with masks beside


@pytest.mark.parametrize("key", ["NUM_THINGS", "NUM_STUFF"])
def test_wrong_class_count(toy_set, tmp_path, key):
    with pytest.raises(DatasetError) as error:
        check_training(toy_cfg(tmp_path, f"MODEL.FDD.{key}", 3), 1)
    text = str(error.value)
    assert f"MODEL.FDD.{key} is 3" in text and repr(POINTS) in text
    assert f"set MODEL.FDD.{key} to 1" in text
    assert f"has 1 {'thing' if key == 'NUM_THINGS' else 'stuff'} class;" in text


def test_a_trained_model_is_not_told_to_have_other_classes(toy_set, tmp_path):
    cfg = toy_cfg(tmp_path, "MODEL.FDD.NUM_STUFF", 3)
    with pytest.raises(DatasetError, match=r"NUM_STUFF is 3.*keeps its classes") as error:
        check_dataset(cfg, POINTS, "--dataset", trained=True)
    assert "set MODEL.FDD" not in str(error.value)
    (tmp_path / "last_checkpoint").write_text("model_final.pth")  # a training to be resumed
    with pytest.raises(DatasetError, match="keeps its classes"):
        check_training(cfg, 1)


def test_wrong_class_count_of_the_test_set(toy_set, tmp_path, register):
    content = json.loads((toy_set / "panoptic.json").read_text())
    content["categories"].append({"id": 11, "name": "more", "isthing": 1})
    (tmp_path / "more.json").write_text(json.dumps(content))
    paths = (toy_set / "images", tmp_path / "more.json", toy_set / "panoptic")
    name = register(register_panoptic, "engine_more", *paths)
    with pytest.raises(
        DatasetError, match=r"NUM_THINGS is 1.*'engine_more' \(DATASETS.TEST\) has 2 thing classes"
    ):
        check_training(toy_cfg(tmp_path, "DATASETS.TEST", (name,)), 1)


def test_other_class_order_of_the_test_set(toy_set, tmp_path, register):
    content = json.loads((toy_set / "panoptic.json").read_text())
    content["categories"][0]["name"] = "ring"
    (tmp_path / "ring.json").write_text(json.dumps(content))
    paths = (toy_set / "images", tmp_path / "ring.json", toy_set / "panoptic")
    name = register(register_panoptic, "engine_ring", *paths)
    with pytest.raises(DatasetError, match=r"0 is 'disc' .* the first, 'ring' "):
        check_training(toy_cfg(tmp_path, "DATASETS.TEST", (name,)), 1)


def test_unknown_set(toy_set, tmp_path):
    with pytest.raises(DatasetError, match=f"Did you mean {POINTS}"):
        check_training(toy_cfg(tmp_path, "DATASETS.TRAIN", ("engine_toy_pionts",)), 1)
    with pytest.raises(DatasetError, match=r"DATASETS.TRAIN is empty"):
        check_training(toy_cfg(tmp_path, "DATASETS.TRAIN", ()), 1)


def test_files_that_are_not_there(toy_set, tmp_path, register):
    name = register(register_points, "engine_gone", toy_set / "images", tmp_path / "gone.json")
    with pytest.raises(DatasetError, match=r"points_json .*gone.json does not exist.*Prepare"):
        check_training(toy_cfg(tmp_path, "DATASETS.TRAIN", (name,)), 1)


def empty_map(toy_set, n):
    with Image.open(toy_set / "panoptic" / f"img_{n}.png") as png:
        return np.zeros((png.height, png.width, 3), np.uint8)


def test_points_are_no_ground_truth(toy_set, tmp_path, register):
    name = register(register_points, "engine_bare", toy_set / "images", toy_set / "points.json")
    with pytest.raises(DatasetError, match=r"DATASETS.TEST 'engine_bare' has no masks"):
        check_testing(toy_cfg(tmp_path, "DATASETS.TEST", (name,)))

    # The sparse PNGs of point archives have the ids of the masks, at a few pixels.
    (tmp_path / "sparse").mkdir()
    for n in range(7):
        ids = empty_map(toy_set, n)
        ids[5, 5, 0], ids[30, 30, 0] = 1, 2
        Image.fromarray(ids).save(tmp_path / "sparse" / f"img_{n}.png")
    paths = (toy_set / "images", toy_set / "panoptic.json", tmp_path / "sparse")
    name = register(register_panoptic, "engine_sparse", *paths)
    with pytest.raises(DatasetError, match=r"these are points, not masks"):
        check_testing(toy_cfg(tmp_path, "DATASETS.TEST", (name,)))


def test_small_things_on_void_ground_are_ground_truth(toy_set, tmp_path, register):
    (tmp_path / "small").mkdir()
    for n in range(7):
        ids = empty_map(toy_set, n)
        ids[5:8, 5:8, 0], ids[30:33, 30:33, 0] = 1, 2  # 1 % of the picture
        Image.fromarray(ids).save(tmp_path / "small" / f"img_{n}.png")
    paths = (toy_set / "images", toy_set / "panoptic.json", tmp_path / "small")
    name = register(register_panoptic, "engine_small", *paths)
    check_testing(toy_cfg(tmp_path, "DATASETS.TEST", (name,)))


def test_more_things_than_queries(toy_set, tmp_path):
    with pytest.raises(DatasetError) as error:
        Trainer(toy_cfg(tmp_path, "MODEL.FDD.PAN.NUM_QUERIES", 0))
    text = str(error.value)
    assert (
        "img_0" in text and "1 labelled things" in text and "MODEL.FDD.PAN.NUM_QUERIES (0)" in text
    )


def test_supervision_and_set_must_agree(toy_set, tmp_path):
    with pytest.raises(DatasetError, match=r"'full', but .* is a point set"):
        Trainer(toy_cfg(tmp_path, "MODEL.FDD.PAN_SUPERVISION", "full"))
    with pytest.raises(DatasetError, match=r"has masks and no points"):
        Trainer(toy_cfg(tmp_path, "DATASETS.TRAIN", (MASKS,)))


def test_no_image_left(toy_set, tmp_path):
    with pytest.raises(ValueError, match=r"none of the 7 training images .*MIN_IMAGE_SIDE"):
        Trainer(toy_cfg(tmp_path, "INPUT.POINTS.MIN_IMAGE_SIDE", 1000))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("SOLVER.IMS_PER_BATCH", 3), "SOLVER.IMS_PER_BATCH is 3; with 2 processes"),
        (("SOLVER.IMS_PER_BATCH", 0), "SOLVER.IMS_PER_BATCH is 0"),
        (("SOLVER.ACCUMULATE_STEPS", 0), "SOLVER.ACCUMULATE_STEPS is 0"),
        (("MODEL.FDD.LABEL_MAKER", "lerned"), "MODEL.FDD.LABEL_MAKER is 'lerned'"),
    ],
)
def test_config_values(toy_set, tmp_path, options, text):
    with pytest.raises(ValueError, match=text):
        check_training(toy_cfg(tmp_path, *options), 2)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_cpu_is_used(tmp_path):
    cfg = toy_cfg(tmp_path, "MODEL.DEVICE", "cuda")
    assert "using the CPU" in resolve_device(cfg) and cfg.MODEL.DEVICE == "cpu"
    assert resolve_device(cfg) is None


FAULTS = {
    "an image without annotation": (
        lambda d, r: d["annotations"].pop(3),
        "image 'img_3' has no annotation",
    ),
    "segment id 0": (
        lambda d, r: d["annotations"][3]["segments_info"][0].update(id=0),
        "image 'img_3', segment 0: the id is not an integer from 1",
    ),
    "a PNG with ids that the JSON does not have": (
        lambda d, r: d["annotations"][3]["segments_info"].pop(),
        "img_3.png): id 2 of the PNG is not in segments_info",
    ),
    "ids of the JSON that the PNG does not have": (
        lambda d, r: d["annotations"][3]["segments_info"][0].update(id=77),
        "img_3.png): segment 77 of the JSON has no pixel",
    ),
    "no PNG": (lambda d, r: (r / "img_3.png").unlink(), "img_3.png"),
    "a broken PNG": (lambda d, r: (r / "img_3.png").write_bytes(b""), "not a readable picture"),
    "a PNG of another size": (
        lambda d, r: Image.new("RGB", (3, 4), (1, 0, 0)).save(r / "img_3.png"),
        "3 x 4 px (width x height), the JSON says",
    ),
}


def number_ids(document, root):
    """Ids in the annotations are texts, those of the images numbers."""
    for n, (image, annotation) in enumerate(
        zip(document["images"], document["annotations"], strict=True)
    ):
        image["id"], annotation["image_id"] = n, f"{n}"


FAULTS["ids of another type"] = (
    number_ids,
    "image 3 has no annotation (there is '3': a text and a number are different ids)",
)


def spoilt(toy_set, folder, spoil):
    """Paths of a copy of the toys' masks with one fault."""
    shutil.copytree(toy_set / "panoptic", folder / "png")
    document = json.loads((toy_set / "panoptic.json").read_text())
    spoil(document, folder / "png")
    (folder / "masks.json").write_text(json.dumps(document))
    return folder / "masks.json", folder / "png"


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("kind", ["masks", "points"])
def test_invalid_validation_masks_end_a_training_before_its_first_iteration(
    toy_set, tmp_path, register, name, kind
):
    spoil, text = FAULTS[name]
    masks = spoilt(toy_set, tmp_path, spoil)
    if kind == "masks":
        register(register_panoptic, "engine_spoilt", toy_set / "images", *masks)
    else:
        paths = (toy_set / "images", toy_set / "points.json", *masks)
        register(register_points, "engine_spoilt", *paths)
    with pytest.raises(DatasetError, match=r"(?s)DATASETS.TEST 'engine_spoilt'") as error:
        Trainer(toy_cfg(tmp_path / "out", "DATASETS.TEST", ("engine_spoilt",)))
    assert text in str(error.value)
    # The same, as `fdd points check` says it.
    (tmp_path / "data.yaml").write_text(
        json.dumps(
            {
                "images": str(toy_set / "images"),
                "points": str(toy_set / "points.json"),
                "validation": {"masks": {"json": "masks.json", "folder": "png"}},
            }
        )
    )
    result = check_data(CheckTarget.find(tmp_path / "data.yaml"))
    assert any(text in f.message and f.rule[0] == "E" for f in result.findings)


def test_points_and_masks_of_other_images(toy_set, tmp_path, register):
    def rename(document, root):
        for key, entries in (("id", document["images"]), ("image_id", document["annotations"])):
            entries[3][key] = "else"

    paths = (toy_set / "images", toy_set / "points.json", *spoilt(toy_set, tmp_path, rename))
    name = register(register_points, "engine_spoilt", *paths)
    with pytest.raises(DatasetError) as error:
        check_training(toy_cfg(tmp_path, "DATASETS.TEST", (name,)), 1)
    assert "image 'img_3' of " in str(error.value) and "has no mask" in str(error.value)
    assert "image 'else' has a mask, but is not in " in str(error.value)


def test_a_large_set_is_decoded_in_part_and_says_so(
    toy_set, tmp_path, register, monkeypatch, caplog
):
    def last(document, root):
        document["annotations"][6]["segments_info"].pop()

    name = register(
        register_panoptic, "engine_spoilt", toy_set / "images", *spoilt(toy_set, tmp_path, last)
    )
    cfg = toy_cfg(tmp_path, "DATASETS.TEST", (name,))
    monkeypatch.setattr("fdd.engine.checks.DECODED", 2)
    with caplog.at_level("INFO", logger="fdd.engine.checks"):
        check_testing(cfg)  # images 0 and 4
    assert "decoded 2 of 7 masks" in caplog.text
    monkeypatch.setattr("fdd.engine.checks.DECODED", 7)
    with pytest.raises(DatasetError, match=r"img_6\.png"):
        check_testing(cfg)
