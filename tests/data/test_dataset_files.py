"""Data sets by the path of their YAML file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog

from fdd.config import add_fdd_config
from fdd.data import get_metadata, register_dataset_file, resolve_dataset_files
from fdd.data.catalog import forget
from fdd.data.dataset_files import resolve_name
from fdd.data.shapes import generate_shapes

YAML = """
images: shapes/train
points: shapes/points_train_p10.json
masks: {json: shapes/panoptic_train.json, folder: shapes/panoptic_train}
validation:
  images: shapes/val
  masks: {json: shapes/panoptic_val.json, folder: shapes/panoptic_val}
"""


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("dataset_files")
    generate_shapes(root, num_train=2, num_val=1, size=64)
    return root


@pytest.fixture
def file(drawn: Path):
    path = drawn / "shapes.yaml"
    path.write_text(YAML)
    yield path
    for part in ("", "#masks", "#validation"):
        forget(f"{path}{part}")


def cfg_of(**datasets: tuple[str, ...]):
    cfg = get_cfg()
    add_fdd_config(cfg)
    for key, value in datasets.items():
        cfg.DATASETS[key] = value
    return cfg


def test_a_path_means_points_in_train_and_validation_in_test(file: Path) -> None:
    cfg = cfg_of(TRAIN=(str(file),), TEST=(str(file),))
    resolve_dataset_files(cfg)
    assert (str(file),) == cfg.DATASETS.TRAIN
    assert (f"{file}#validation",) == cfg.DATASETS.TEST
    train, test = (
        DatasetCatalog.get(cfg.DATASETS.TRAIN[0]),
        DatasetCatalog.get(f"{file}#validation"),
    )
    assert len(train) == 2 and len(test) == 1
    assert "points" in train[0] and not {"segments_info", "pan_seg_file_name"} & set(train[0])
    assert "segments_info" in test[0] and "points" not in test[0]
    assert get_metadata(str(file)).num_things == get_metadata(f"{file}#validation").num_things == 5


def test_colors_of_the_file_are_those_of_every_part(file: Path) -> None:
    classes = [
        {"name": c["name"], "isthing": c["isthing"]}
        for c in get_metadata(register_dataset_file(file)).categories
    ]
    classes[0]["color"], classes[-1]["color"] = "#010203", [250, 251, 252]
    file.write_text(YAML + yaml.safe_dump({"classes": classes}))
    for part in ("points", "masks", "validation"):
        metadata = get_metadata(register_dataset_file(file, part))
        assert metadata.categories[0]["color"] == metadata.thing_colors[0] == [1, 2, 3]
        assert metadata.stuff_colors[-1] == [250, 251, 252]


def test_full_supervision_trains_on_the_masks(file: Path) -> None:
    cfg = cfg_of(TRAIN=(str(file),))
    cfg.MODEL.FDD.PAN_SUPERVISION = "full"
    resolve_dataset_files(cfg)
    assert (f"{file}#masks",) == cfg.DATASETS.TRAIN
    assert "segments_info" in DatasetCatalog.get(f"{file}#masks")[0]


def test_names_and_parts_are_kept(file: Path) -> None:
    cfg = cfg_of(TRAIN=("fdd_shapes_train_p10",), TEST=(f"{file}#masks", f"{file}#validation"))
    resolve_dataset_files(cfg)
    assert cfg.DATASETS.TRAIN == ("fdd_shapes_train_p10",)
    assert (f"{file}#masks", f"{file}#validation") == cfg.DATASETS.TEST


def test_resolving_again_changes_nothing(file: Path) -> None:
    cfg = cfg_of(TRAIN=(str(file),), TEST=(str(file),))
    resolve_dataset_files(cfg)
    once = (cfg.DATASETS.TRAIN, cfg.DATASETS.TEST)
    resolve_dataset_files(cfg)
    assert once == (cfg.DATASETS.TRAIN, cfg.DATASETS.TEST)


def test_paths_start_from_the_config_or_the_working_folder(
    file: Path, tmp_path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert resolve_name("shapes.yaml", "points", file.parent / "config.yaml") == str(file)
    monkeypatch.chdir(file.parent)
    assert resolve_name("shapes.yaml", "points") == str(file)
    (tmp_path / "shapes.yaml").write_text("images: .\npoints: other.json\n")
    with pytest.raises(ValueError, match="the whole path"):
        resolve_name("shapes.yaml", "points", tmp_path / "config.yaml")


def test_validation_without_a_section_is_the_masks_of_the_same_images(file: Path) -> None:
    file.write_text(YAML[: YAML.index("validation")])
    name = register_dataset_file(file, "validation")
    assert len(DatasetCatalog.get(name)) == 2 and "segments_info" in DatasetCatalog.get(name)[0]


def test_a_changed_file_is_registered_anew(file: Path) -> None:
    assert len(DatasetCatalog.get(register_dataset_file(file))) == 2
    file.write_text("images: shapes/val\npoints: shapes/points_val_p1.json\n")
    assert len(DatasetCatalog.get(register_dataset_file(file))) == 1


def test_validation_with_points_serves_both(file: Path) -> None:
    file.write_text(YAML + "  points: shapes/points_val_p1.json\n")
    found = DatasetCatalog.get(register_dataset_file(file, "validation"))
    assert "points" in found[0]
    assert get_metadata(f"{file}#validation").panoptic_json.endswith("panoptic_val.json")


@pytest.mark.parametrize(
    ("entry", "error", "message"),
    [
        ("none.yaml", FileNotFoundError, r"DATASETS\.TEST names the data set file none\.yaml"),
        ("{file}#test", ValueError, "allowed: points, masks, validation"),
    ],
)
def test_what_cannot_be_resolved(file: Path, entry: str, error, message: str) -> None:
    with pytest.raises(error, match=message):
        resolve_dataset_files(cfg_of(TEST=(entry.format(file=file),)))


def test_what_is_no_name_is_refused() -> None:
    with pytest.raises(ValueError, match=r"DATASETS\.TRAIN has 3 in it"):
        resolve_dataset_files(cfg_of(TRAIN=(3,)))


def test_no_masks_to_evaluate_on(file: Path) -> None:
    file.write_text("images: shapes/train\npoints: shapes/points_train_p1.json\n")
    with pytest.raises(ValueError, match="add masks to compare with") as error:
        resolve_dataset_files(cfg_of(TEST=(str(file),)))
    assert str(file) in str(error.value)


def test_a_missing_file_of_a_data_set_file_is_not_looked_for_elsewhere(file: Path) -> None:
    from fdd.engine.checks import DatasetError, check_dataset

    file.write_text("images: gone\npoints: shapes/points_train_p1.json\n")
    with pytest.raises(DatasetError, match=r"gone does not exist.*shapes\.yaml names it") as error:
        check_dataset(cfg_of(), register_dataset_file(file), "DATASETS.TRAIN")
    assert "DETECTRON2_DATASETS" not in str(error.value)


def test_missing_labels_are_reported_with_the_file_that_names_them(file: Path) -> None:
    file.write_text("images: shapes/train\npoints: gone.json\nclasses: {things: [a]}\n")
    name = register_dataset_file(file)
    with pytest.raises(FileNotFoundError, match=r"gone\.json") as error:
        DatasetCatalog.get(name)
    assert "shapes.yaml names it" in str(error.value)


@pytest.mark.parametrize(
    ("classes", "fits"),
    [
        ("{things: [NAMES], stuff: [KINDS]}", True),
        ("{stuff: [KINDS], things: [NAMES]}", True),
        ("{things: [NAMES], stuff: [KINDS, more]}", False),
        ("{things: [NAMES, KINDS]}", False),
    ],
)
def test_classes_must_be_those_of_the_labels(file: Path, classes: str, fits: bool) -> None:
    from fdd.data.shapes_drawing import STUFF_NAMES, THING_NAMES

    text = classes.replace("NAMES", ", ".join(THING_NAMES)).replace("KINDS", ", ".join(STUFF_NAMES))
    file.write_text(YAML + f"classes: {text}\n")
    if fits:
        assert register_dataset_file(file) == str(file)
    else:
        with pytest.raises(ValueError, match="differ"):
            register_dataset_file(file)


def test_kept_predictions_of_a_set_named_by_its_path_stay_in_their_folder(
    file: Path, tmp_path
) -> None:
    from fdd.evaluation import PanopticEvaluator

    name = register_dataset_file(file, "validation")
    evaluator = PanopticEvaluator(name, output_dir=str(tmp_path), keep_predictions=True)
    (record,) = DatasetCatalog.get(name)
    size = (record["height"], record["width"])
    evaluator.process([record], [{"panoptic_seg": (np.zeros(size, np.int32), [])}])
    evaluator.evaluate()
    (folder,) = tmp_path.iterdir()
    assert folder.name.startswith("predictions_shapes.yaml_validation_")
    assert (folder / "panoptic.json").is_file()
