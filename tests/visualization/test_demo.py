"""demo/demo.py and tools/visualize_data.py, end to end with a stub in place of the model."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import META_ARCH_REGISTRY, build_model
from torch import nn

from fdd.engine.configs import merge_cfg
from fdd.points.coco_panoptic import load_segment_ids, save_segment_ids
from fdd.visualization.files import read_rgb, write_rgb

ROOT = Path(__file__).resolve().parents[2]
CATEGORIES = [
    {"id": 11, "name": "кот", "isthing": True, "color": [200, 30, 30]},
    {"id": 5, "name": "grass", "isthing": False, "color": [30, 200, 30]},
]


class StubPanoptic(nn.Module):
    """Calls the brighter-in-red half a thing and the rest stuff; remembers what it was given."""

    seen: list[dict] = []

    def __init__(self, cfg) -> None:
        super().__init__()
        self.backbone = nn.Linear(1, 1)
        self.head = nn.Linear(2, 1)

    def forward(self, batched_inputs):
        assert not self.training and not torch.is_grad_enabled()
        outputs = []
        for one in batched_inputs:
            StubPanoptic.seen.append(one)
            seg = torch.zeros((one["height"], one["width"]), dtype=torch.int32)
            seg[:, : one["width"] // 2] = 1
            seg[:2, one["width"] // 2 :] = 300
            info = [
                {"id": 1, "category_id": 0, "isthing": True, "score": 0.91, "area": 0},
                {"id": 300, "category_id": 1, "isthing": False, "score": 0.5, "area": 0},
                {"id": 301, "category_id": 1, "isthing": False, "score": 0.5, "area": 0},
            ]
            outputs.append({"panoptic_seg": (seg, info)})
        return outputs


def load_script(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def demo() -> ModuleType:
    return load_script("demo/demo.py")


@pytest.fixture
def workplace(tmp_path: Path):
    """A config for the stub, its weights, a data set and a folder of images."""
    if "StubPanoptic" not in META_ARCH_REGISTRY:
        META_ARCH_REGISTRY.register(StubPanoptic)
    StubPanoptic.seen = []
    DatasetCatalog.register("stub_set", list)
    MetadataCatalog.get("stub_set").set(categories=CATEGORIES)
    torch.manual_seed(0)
    torch.save({"model": StubPanoptic(None).state_dict()}, tmp_path / "model.pth")
    (tmp_path / "config.yaml").write_text(
        "MODEL:\n  META_ARCHITECTURE: StubPanoptic\n  DEVICE: cpu\n  FDD:\n    NUM_THINGS: 1\n"
        "    NUM_STUFF: 1\nINPUT:\n  MIN_SIZE_TEST: 20\n  MAX_SIZE_TEST: 100\n"
        "DATASETS:\n  TEST: ('stub_set',)\n"
    )
    red = np.zeros((40, 60, 3), np.uint8)
    red[..., 0] = 255
    write_rgb(tmp_path / "images" / "a.png", red)
    write_rgb(tmp_path / "images" / "фото [1].jpg", red[:30])
    (tmp_path / "images" / "notes.txt").write_text("no image")
    yield tmp_path
    DatasetCatalog.remove("stub_set")
    MetadataCatalog.pop("stub_set")


def run(demo: ModuleType, place: Path, *inputs: str, opts: tuple[str, ...] = ()) -> int:
    arguments = ["--config-file", str(place / "config.yaml"), "--output", str(place / "out")]
    weights = ("MODEL.WEIGHTS", str(place / "model.pth"))
    return demo.main([*arguments, "--input", *inputs, "--opts", *weights, *opts])


def test_demo_end_to_end(demo: ModuleType, workplace: Path) -> None:
    assert run(demo, workplace, str(workplace / "images")) == 0
    out = workplace / "out"
    assert {p.relative_to(out).as_posix() for p in out.rglob("*.*")} == {
        "panoptic.json",
        *(f"overlays/{stem}.jpg" for stem in ("a", "фото [1]")),
        *(f"panoptic/{stem}.png" for stem in ("a", "фото [1]")),
        *(f"segments/{stem}.json" for stem in ("a", "фото [1]")),
    }
    assert read_rgb(out / "overlays" / "a.jpg").shape == (320, 480, 3)
    ids = load_segment_ids(out / "panoptic" / "a.png")
    assert ids.shape == (40, 60) and np.unique(ids).tolist() == [0, 1, 300]
    info = json.loads((out / "segments" / "a.json").read_text(encoding="utf-8"))
    assert (info["file_name"], info["height"], info["width"]) == ("a.png", 40, 60)
    cat, grass = info["segments_info"]
    assert cat == {
        "id": 1,
        "category_id": 11,
        "category_name": "кот",
        "isthing": 1,
        "area": 1200,
        "bbox": [0, 0, 30, 40],
        "iscrowd": 0,
        "score": 0.91,
    }
    assert (grass["category_id"], grass["area"], grass["bbox"]) == (5, 60, [30, 0, 30, 2])
    # The model got BGR (Detectron2's default) at the test size, and the original size beside it.
    image = StubPanoptic.seen[0]
    assert image["image"].dtype == torch.uint8 and image["image"].shape == (3, 20, 30)
    assert image["image"][2].min() == 255 and image["image"][:2].max() == 0
    assert (image["height"], image["width"]) == (40, 60)


def test_demo_rgb_globs_and_equal_names(demo: ModuleType, workplace: Path) -> None:
    write_rgb(workplace / "more" / "a.png", np.zeros((8, 9, 3), np.uint8))
    pattern = str(workplace / "*" / "a.png")
    file = str(workplace / "images" / "a.png")
    assert run(demo, workplace, pattern, file, opts=("INPUT.FORMAT", "RGB")) == 0
    assert len(StubPanoptic.seen) == 2, "an image named twice is predicted once"
    assert StubPanoptic.seen[0]["image"][0].min() == 255
    names = [
        json.loads(p.read_text())["height"]
        for p in sorted((workplace / "out" / "segments").glob("*.json"))
    ]
    assert sorted(names) == [8, 40]


def test_demo_falls_back_to_generic_names(demo: ModuleType, workplace: Path) -> None:
    image = str(workplace / "images" / "a.png")
    for sets in ("()", "('a_set_nobody_registered',)"):
        assert run(demo, workplace, image, opts=("DATASETS.TEST", sets)) == 0
        segments = json.loads((workplace / "out" / "segments" / "a.json").read_text())[
            "segments_info"
        ]
        assert [(s["category_name"], s["category_id"]) for s in segments] == [
            ("thing 0", 0),
            ("stuff 1", 1),
        ]


def test_demo_names_of_a_set_with_another_number_of_classes_are_not_used(
    demo: ModuleType, workplace: Path
) -> None:
    image = str(workplace / "images" / "a.png")
    assert run(demo, workplace, image, opts=("MODEL.FDD.NUM_STUFF", "2")) == 0
    text = (workplace / "out" / "segments" / "a.json").read_text(encoding="utf-8")
    assert "stuff 1" in text and "кот" not in text


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("", "MODEL.WEIGHTS is empty"),
        ("nowhere.pth", "nowhere.pth: no such checkpoint"),
        ("backbone", "head.weight is in the model only"),
        ("other classes", "head.weight is (3, 2) in the checkpoint, (1, 2) in the model"),
    ],
)
def test_demo_refuses_weights_that_are_no_model(
    demo: ModuleType, workplace: Path, capsys: pytest.CaptureFixture, weights: str, message: str
) -> None:
    if weights == "backbone":
        weights = str(workplace / "resnet.pth")
        torch.save({"model": {"backbone.weight": torch.ones(1, 1)}}, weights)
    elif weights == "other classes":
        weights = str(workplace / "other.pth")
        state = StubPanoptic(None).state_dict()
        state |= {"head.weight": torch.ones(3, 2), "head.bias": torch.ones(3)}
        torch.save({"model": state}, weights)
    assert run(demo, workplace, str(workplace / "images"), opts=("MODEL.WEIGHTS", weights)) == 2
    assert message in capsys.readouterr().err
    assert not (workplace / "out").exists() and not StubPanoptic.seen


def test_demo_skips_broken_images_and_says_so(demo: ModuleType, workplace: Path) -> None:
    (workplace / "images" / "broken.jpg").write_bytes(b"\xff\xd8 nothing")
    assert run(demo, workplace, str(workplace / "images")) == 1
    assert len(list((workplace / "out" / "segments").glob("*.json"))) == 2


def test_demo_refuses_inputs_without_images(
    demo: ModuleType, workplace: Path, capsys: pytest.CaptureFixture
) -> None:
    (workplace / "empty").mkdir()
    for wrong in ("empty", "none*.jpg"):
        assert run(demo, workplace, str(workplace / wrong)) == 2
        assert wrong in capsys.readouterr().err


@pytest.fixture
def train_set(tmp_path: Path):
    """A registered set with one image with points, and one with masks."""
    image = np.full((40, 60, 3), 128, np.uint8)
    write_rgb(tmp_path / "points.png", image)
    write_rgb(tmp_path / "masks.png", image)
    ids = np.ones((40, 60), int)
    save_segment_ids(tmp_path / "pan.png", ids)
    size = {"height": 40, "width": 60}
    point = {"instance_id": 1, "category_id": 0, "isthing": True, "coords": [[30.5, 20.5]]}
    segment = {"id": 1, "category_id": 1, "isthing": False, "iscrowd": 0}
    dicts = [
        {"file_name": str(tmp_path / "points.png"), "image_id": "p", "points": [point], **size},
        {
            "file_name": str(tmp_path / "masks.png"),
            "image_id": "m",
            "pan_seg_file_name": str(tmp_path / "pan.png"),
            "segments_info": [segment],
            **size,
        },
    ]
    DatasetCatalog.register("stub_train", lambda: dicts)
    MetadataCatalog.get("stub_train").set(categories=CATEGORIES)
    (tmp_path / "config.yaml").write_text("DATASETS:\n  TRAIN: ('stub_train',)\n")
    yield tmp_path
    DatasetCatalog.remove("stub_train")
    MetadataCatalog.pop("stub_train")


def test_visualize_annotations(train_set: Path) -> None:
    tool = load_script("tools/visualize_data.py")
    arguments = ["--source", "annotation", "--config-file", str(train_set / "config.yaml")]
    assert tool.main([*arguments, "--output-dir", str(train_set / "out")]) == 0
    points = read_rgb(train_set / "out" / "points_annotation.jpg")
    masks = read_rgb(train_set / "out" / "masks_annotation.jpg")
    assert masks.shape[1] > points.shape[1], "the masks have a column of their own"
    reddish = (points[..., 0] > 150) & (points[..., 1] < 80)
    assert reddish.any(), "the point is drawn"
    assert tool.main([*arguments, "--output-dir", str(train_set / "one"), "--num", "1"]) == 0
    assert len(list((train_set / "one").iterdir())) == 1
    assert tool.main([*arguments, "DATASETS.TRAIN", "()"]) == 2


def test_visualize_dataloader_panels() -> None:
    tool = load_script("tools/visualize_data.py")
    mapped = {
        "image": torch.zeros((3, 20, 36), dtype=torch.uint8),
        "classes": torch.tensor([0, 1]),
        "point_coords": torch.tensor([[4.0, 4.0], [20.0, 10.0]]),
        "point_index": torch.tensor([0, 1]),
        "point_instance_map": torch.tensor([[0, -1, 1, -1], [-1, -1, 1, -1]], dtype=torch.int32),
        "point_semantic_map": torch.tensor([[0, -1, 1, -1], [-1, -1, 1, -1]], dtype=torch.int32),
        "instance_map": torch.zeros((5, 9), dtype=torch.int32),
    }
    panels = tool.dataloader_panels(mapped, tool.as_palette(CATEGORIES), "BGR")
    assert len(panels) == 4 and len({p.shape for p in panels.values()}) == 1
    squares = panels["Classes of the squares"].any(axis=2)
    height, width = squares.shape
    # Cell (0, 0) is coloured, cell (0, 1) is not; a cell is 8 of 36 pixels wide.
    assert squares[height // 5, width * 4 // 36] and not squares[height // 5, width * 12 // 36]


def test_scripts_take_a_config_of_init_config(tmp_path: Path, demo) -> None:
    """Its base is a shipped config, its data sets are files beside it, named by their path."""
    from fdd.data.catalog import forget
    from fdd.data.shapes import generate_shapes
    from fdd.data.shapes_drawing import THING_NAMES

    generate_shapes(tmp_path, num_train=1, num_val=1, size=64)
    for name in ("one", "two"):
        (tmp_path / f"{name}.yaml").write_text(
            "images: shapes/train\npoints: shapes/points_train_p10.json\n"
            "validation:\n  images: shapes/val\n"
            "  masks: {json: shapes/panoptic_val.json, folder: shapes/panoptic_val}\n"
        )
    config = tmp_path / "config.yaml"
    config.write_text(
        '_BASE_: "fdd://shapes/Base-Shapes.yaml"\nDATASETS:\n'
        '  TRAIN: ["one.yaml", "two.yaml"]\n  TEST: ["one.yaml"]\n'
    )
    weights = str(tmp_path / "weights.pth")
    torch.save(
        {"model": build_model(merge_cfg(config, ["MODEL.DEVICE", "cpu"])).state_dict()}, weights
    )
    categories = demo.load_model(str(config), ["MODEL.WEIGHTS", weights]).categories
    assert tuple(c["name"] for c in categories)[: len(THING_NAMES)] == THING_NAMES
    assert [c["id"] for c in categories] != list(range(len(categories))), "the file's own"
    tool = load_script("tools/visualize_data.py")
    arguments = ["--source", "annotation", "--config-file", str(config)]
    assert tool.main([*arguments, "--output-dir", str(tmp_path / "out")]) == 0
    folders = sorted((tmp_path / "out").iterdir())
    assert len(folders) == 2 and all(len(list(folder.iterdir())) == 1 for folder in folders)
    for name in ("one.yaml", "two.yaml", "one.yaml#validation"):
        forget(str(tmp_path / name))
