"""The config that is written for a data set."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog

from engine_toys import NUM_IMAGES
from fdd.config import check_fdd_config, most_things
from fdd.data import get_metadata, register_dataset_file
from fdd.data.catalog import forget
from fdd.engine.checks import DatasetError, check_instance_count, runs_on_cpu
from fdd.engine.configs import load_cfg, merge_cfg
from fdd.modeling.label_branch.location_prior import LocationPrior, Places
from fdd.points.dataset_file import read_dataset_file
from fdd.recipe.recipe import NETWORKS, default_network, make_recipe, scaled_rate, write_config

YAML = "images: images\npoints: points.json\n"
MASKS = "masks: {json: panoptic.json, folder: panoptic}\n"


@pytest.fixture
def dataset(toy_root: Path):
    path = toy_root / "toys.yaml"
    path.write_text(YAML)
    yield path
    for part in ("", "#validation"):
        forget(f"{path}{part}")


def recipe_for(path: Path, change=None, **options):
    name = register_dataset_file(path)
    dicts = DatasetCatalog.get(name)
    if change:
        change(dicts)
    return make_recipe(read_dataset_file(path), dicts, get_metadata(name).categories, **options)


@pytest.mark.parametrize("network", NETWORKS)
def test_networks_are_those_of_their_configs(network: str) -> None:
    net, cfg = (
        NETWORKS[network],
        merge_cfg(f"{Path(__file__).parents[2]}/configs/{NETWORKS[network].base}"),
    )
    assert math.isclose(cfg.SOLVER.BASE_LR, net.rate)
    low, high = net.rate_batches
    assert low <= net.batch <= high
    check_fdd_config(cfg)


def test_the_reduced_network_keeps_its_imagenet_weights_as_they_are() -> None:
    cfg, published = merge_cfg("Base-Reduced.yaml"), merge_cfg("Base-FDD.yaml")
    assert cfg.MODEL.WEIGHTS == published.MODEL.WEIGHTS != ""
    assert cfg.MODEL.BACKBONE.FREEZE_AT == 5 and cfg.MODEL.RESNETS == published.MODEL.RESNETS
    assert cfg.MODEL.FDD.HIDDEN_DIM < published.MODEL.FDD.HIDDEN_DIM


@pytest.mark.parametrize("network", NETWORKS)
def test_every_recipe_binds_labels_to_their_points(dataset: Path, network: str, tmp_path) -> None:
    write_config(recipe_for(dataset, network=network), tmp_path / "config.yaml")
    fdd = merge_cfg(tmp_path / "config.yaml").MODEL.FDD
    assert (
        fdd.LOCATION_PRIOR.ENABLED
        and fdd.LOCATION_PRIOR.EXTENT
        and fdd.CLICKS.RESIDUAL
        and not fdd.PSEUDO.FORCE_POINTS
    )
    assert fdd.PSEUDO.CLASS_AGREEMENT == 1.0 and fdd.PSEUDO.REFINE and fdd.PSEUDO.SHARES
    assert fdd.PAN.DETECTOR == "centers"
    assert fdd.PSEUDO.COLOR_WEIGHT == 0.5, "3 ends in one instance everywhere in a short run"
    base = merge_cfg(NETWORKS[network].base).MODEL.FDD
    own = network == "resnet50"  # whose base is the published method
    assert base.LOCATION_PRIOR.ENABLED == base.CLICKS.RESIDUAL == (not own)
    assert (0 if own else 1) == base.PSEUDO.CLASS_AGREEMENT


@pytest.mark.parametrize(("points", "sizes"), [(1, False), (2, False), (3, True), (10, True)])
def test_sizes_by_class_are_for_branches_that_learn_from_extents(
    dataset: Path, points: int, sizes: bool
) -> None:
    def things_of(dicts):
        for segment in (s for d in dicts for s in d["points"] if s["isthing"]):
            segment["coords"] = [[5.0 + n, 5.0 + n % 2] for n in range(points)]

    keys = recipe_for(dataset, things_of).keys
    assert keys.get("MODEL.FDD.LOCATION_PRIOR.SIZES", False) == sizes


@pytest.mark.parametrize("width", [8.0, 12.0])
def test_the_location_prior_falls_by_the_size_of_the_things(dataset: Path, width: float) -> None:
    def things_of_width(dicts):
        rng = np.random.default_rng(0)
        for record in dicts:
            record["height"], record["width"] = 120, 160  # diagonal 200
            for n, segment in enumerate(record["points"]):
                spread = width * rng.uniform(size=(40, 2))
                segment["coords"] = (20 + 30 * n + spread).tolist()

    start = recipe_for(dataset, things_of_width).keys["MODEL.FDD.LOCATION_PRIOR.START"]
    with torch.no_grad():
        prior = LocationPrior(num_things=1, start=start)
        away = torch.full((1, 1, 1, 1), width / 20.0)  # the width, in tenths of the diagonal
        fall = -float(prior(Places(away), torch.zeros(1, 1, dtype=torch.int64))[0])
    assert fall == pytest.approx(3.4, rel=0.1)


def test_things_of_all_sizes_get_the_prior_of_the_large_ones(dataset: Path) -> None:
    def start(widths: list[float]) -> float:
        def things(dicts):
            rng = np.random.default_rng(0)
            for record in dicts:
                record["height"], record["width"] = 120, 160
                thing = next(s for s in record["points"] if s["isthing"])
                record["points"] = [
                    {**thing, "coords": (20 + width * rng.uniform(size=(40, 2))).tolist()}
                    for width in widths
                ]

        return recipe_for(dataset, things).keys.get("MODEL.FDD.LOCATION_PRIOR.START", 1.0)

    assert start([8, 8, 8, 8]) == pytest.approx(start([8, 8, 8, 9]), abs=0.5)
    assert start([8, 8, 30, 30]) < start([8, 8, 8, 30]) - 1


def test_large_things_and_unknown_sizes_leave_the_location_prior_as_it_is(dataset: Path) -> None:
    def large(dicts):
        for segment in (s for d in dicts for s in d["points"]):
            segment["coords"] = [[1.5, 2.5], [30.5, 29.5], [17.0, 30.0], [5.0, 28.0], [28.0, 4.0]]

    def no_things(dicts):
        for d in dicts:
            d["points"] = [s for s in d["points"] if not s["isthing"]]

    for change in (large, no_things):
        assert "MODEL.FDD.LOCATION_PRIOR.START" not in recipe_for(dataset, change).keys


def test_things_of_no_size_do_not_ask_for_an_endless_slope(dataset: Path, tmp_path) -> None:
    def specks(dicts):
        for d in dicts:
            d["height"] = d["width"] = 4000
            for s in d["points"]:
                s["coords"] = [[9.5, 9.5], [9.5 + 1e-6, 9.5 + 1e-6]]

    write_config(recipe_for(dataset, specks), tmp_path / "config.yaml")
    assert merge_cfg(tmp_path / "config.yaml").MODEL.FDD.LOCATION_PRIOR.START <= 12


def test_rates() -> None:
    assert scaled_rate(0.001, 8, (8, 16)) == scaled_rate(0.001, 16, (8, 16)) == 0.001
    assert scaled_rate(0.001, 2, (8, 16)) == 0.0005
    assert scaled_rate(0.001, 64, (8, 16)) == 0.002
    assert scaled_rate(0.001, 1, (4, 8)) == 0.0005


def test_the_machine_chooses_the_network(monkeypatch) -> None:
    for there in (True, False):
        monkeypatch.setattr("torch.cuda.is_available", lambda there=there: there)
        assert runs_on_cpu("cpu") and runs_on_cpu("cuda") != there
    assert (default_network(True), default_network(False)) == ("reduced", "resnet50")


def test_the_figures_follow_from_the_data(dataset: Path) -> None:
    recipe = recipe_for(dataset, epochs=30, batch=2)
    keys = recipe.keys
    assert (keys["MODEL.FDD.NUM_THINGS"], keys["MODEL.FDD.NUM_STUFF"]) == (1, 1)
    assert recipe.images == NUM_IMAGES and "30 epochs" in recipe.notes["SOLVER.MAX_ITER"]
    assert keys["SOLVER.MAX_ITER"] == 30 * math.ceil(NUM_IMAGES / 2) == 120
    assert keys["SOLVER.STEPS"] == (90,)
    assert keys["SOLVER.BASE_LR"] == scaled_rate(0.00014, 2, (8, 16))
    assert keys["MODEL.FDD.LAMBDA_SEM"] == 1.0, "one point a segment"
    # Images of 36 to 40 px: not to 600, and not below 96 either.
    assert keys["INPUT.MIN_SIZE_TRAIN"] == (96,) and "INPUT.CROP.ENABLED" not in keys
    assert keys["DATASETS.TEST"] == () and keys["TEST.EVAL_PERIOD"] == 0


def test_many_points_and_many_things_change_their_keys(dataset: Path) -> None:
    def crowd(dicts):
        for segment in (s for d in dicts for s in d["points"]):
            segment["coords"] = [[1.5 + n, 2.5] for n in range(9)]
        thing = dicts[3]["points"][0]
        dicts[3]["points"] += [{**thing, "instance_id": 10 + n} for n in range(200)]

    keys = recipe_for(dataset, crowd).keys
    assert keys["MODEL.FDD.LAMBDA_SEM"] == 0.1
    assert keys["MODEL.FDD.PAN.TEST.MAX_QUERIES"] >= 201


@pytest.mark.parametrize(
    ("things", "room"), [(10, 100), (75, 100), (76, 125), (100, 125), (369, 475), (1000, 1250)]
)
def test_candidates_have_room_for_the_fullest_image_and_not_much_more(
    dataset: Path, things: int, room: int
) -> None:
    def crowd(dicts):
        thing = dicts[3]["points"][0]
        dicts[3]["points"] = [{**thing, "instance_id": n} for n in range(things)]
        crowded.extend(dicts)

    crowded: list = []
    keys = recipe_for(dataset, crowd, network="reduced").keys
    assert keys.get("MODEL.FDD.PAN.TEST.MAX_QUERIES", 100) == room >= things + 25
    cfg = merge_cfg("Base-Reduced.yaml", [str(x) for pair in keys.items() for x in pair])
    check_instance_count(crowded, most_things(cfg))
    if things > 100:  # which the base config's detection queries would not have
        cfg.MODEL.FDD.PAN.DETECTOR = "queries"
        with pytest.raises(DatasetError, match="NUM_QUERIES"):
            check_instance_count(crowded, most_things(cfg))


def test_the_panoptic_branch_of_the_reduced_network_goes_on_alone(dataset: Path) -> None:
    keys = recipe_for(dataset, network="reduced", on_cpu=True).keys
    epoch = math.ceil(NUM_IMAGES / keys["SOLVER.IMS_PER_BATCH"])
    assert keys["SOLVER.HEAD_ITERS"] == 20 * epoch, "of a small set only some passes"
    assert "SOLVER.HEAD_ITERS" not in recipe_for(dataset, network="resnet50").keys


def test_a_small_set_is_seen_often_enough(dataset: Path) -> None:
    recipe = recipe_for(dataset, network="small")
    assert recipe.keys["SOLVER.IMS_PER_BATCH"] == NUM_IMAGES, "not more than there are"
    assert recipe.keys["SOLVER.MAX_ITER"] >= NETWORKS["small"].iterations
    assert recipe.keys["SOLVER.STEPS"] == ()


def test_a_cpu_gets_a_short_training_and_whoever_wants_a_long_one_says_so(dataset: Path) -> None:
    def many(dicts):
        dicts *= 700

    short = recipe_for(dataset, many, network="reduced", on_cpu=True)
    epoch = math.ceil(700 * NUM_IMAGES / 4)
    keys = short.keys
    assert (keys["SOLVER.IMS_PER_BATCH"], keys["SOLVER.MAX_ITER"]) == (4, 600)
    assert "--epochs" in short.notes["SOLVER.MAX_ITER"]
    # Half an epoch in all: a warm-up of one would never end.
    assert keys["MODEL.FDD.WARMUP_ITERS"] == 150
    assert recipe_for(dataset, many, network="reduced").keys["SOLVER.MAX_ITER"] == 20 * epoch
    long = recipe_for(dataset, many, network="reduced", on_cpu=True, epochs=2)
    assert long.keys["SOLVER.MAX_ITER"] == 2 * epoch
    few = recipe_for(dataset, network="reduced", on_cpu=True).keys
    assert few["SOLVER.MAX_ITER"] == 300 and "MODEL.FDD.WARMUP_ITERS" not in few


@pytest.mark.parametrize(
    "wrong", [{"epochs": 0}, {"batch": -1}, {"short_side": 0}, {"network": "big"}]
)
def test_unsound_wishes_are_refused(dataset: Path, wrong) -> None:
    with pytest.raises(ValueError):
        recipe_for(dataset, **wrong)


def test_no_image_to_train_on(dataset: Path) -> None:
    with pytest.raises(ValueError, match="none of the 7 training images"):
        recipe_for(dataset, lambda dicts: [d.update(points=[]) for d in dicts])


def test_the_written_config_is_a_config(dataset: Path, tmp_path) -> None:
    dataset.write_text(YAML + MASKS + "validation: {" + MASKS.strip() + "}\n")
    recipe = recipe_for(dataset, network="small", epochs=2)
    path = tmp_path / "deep" / "config.yaml"
    write_config(recipe, path, ["MODEL.FDD.PSEUDO.COLOR_WEIGHT", "0.5", "SOLVER.STEPS", "(1,)"])
    cfg, _ = load_cfg(path)
    check_fdd_config(cfg)
    for key, value in recipe.keys.items():
        node = cfg
        for part in key.split("."):
            node = node[part]
        if key.startswith("DATASETS") or key == "SOLVER.STEPS":
            continue
        assert node == value, key
    assert cfg.MODEL.FDD.PSEUDO.COLOR_WEIGHT == 0.5 and cfg.SOLVER.STEPS == (1,)
    assert (str(dataset),) == cfg.DATASETS.TRAIN
    assert (f"{dataset}#validation",) == cfg.DATASETS.TEST
    assert cfg.MODEL.BACKBONE.NAME == "build_small_resnet_backbone"
    text = path.read_text()
    assert str(dataset.parent) not in text, "paths start from the config, so that folders can move"
    assert "# disc" in text and "# ground" in text


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["MODEL.FDD.NO_SUCH", "1"], "NO_SUCH"),
        (["MODEL.FDD.INJECT"], "no value"),
        (["MODEL.FDD.INJECT", "sideways"], "INJECT.*allowed"),
        (["MODEL.FDD.NUM_THINGS.X", "1"], "Non-existent key"),
        (["MODEL.FDD", "1"], "group of keys"),
        (["DATASETS.TRAIN", "(3,)"], "DATASETS.TRAIN"),
    ],
)
def test_nothing_is_written_with_a_wrong_override(
    dataset: Path, tmp_path, overrides, message: str
) -> None:
    path = tmp_path / "config.yaml"
    with pytest.raises(ValueError, match=message) as error:
        write_config(recipe_for(dataset), path, overrides)
    assert ".tmp-" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_the_data_set_file_is_not_written_over(dataset: Path, tmp_path) -> None:
    recipe, text = recipe_for(dataset), dataset.read_text()
    (tmp_path / "link.yaml").symlink_to(dataset)
    for path in (dataset, tmp_path / "link.yaml"):
        with pytest.raises(ValueError, match="is the data set file"):
            write_config(recipe, path)
    assert dataset.read_text() == text


@pytest.mark.parametrize(
    "folder",
    ["a #1", "a: b", "größe 細胞 😀", 'it\'s "so"', "tab\t", "back\\slash", "caf\udce9", "[x, y]"],
)
def test_any_path_can_be_written(toy_root: Path, tmp_path, folder: str) -> None:
    """With blanks, with what means something in YAML, and with what no text may hold."""
    path = tmp_path / folder / "toys.yaml"
    path.parent.mkdir()
    path.write_text(f"images: {toy_root}/images\npoints: {toy_root}/points.json\n")
    recipe = recipe_for(path)
    for config in (tmp_path / "config.yaml", path.parent / "config.yaml"):
        write_config(recipe, config)
        assert (str(path),) == load_cfg(config)[0].DATASETS.TRAIN
    forget(str(path))


def test_any_class_can_be_named_in_a_comment(dataset: Path, tmp_path) -> None:
    names = ["a\nB: 1", "c\u2028D: 1", "e\x85F: 1", "\x07 # \" ' {", "Größe 細胞", "\r\n- x"]
    recipe = recipe_for(dataset)
    plain = {"id": 1, "isthing": True}
    classes = [plain | {"name": name} for name in names]
    register_dataset_file(dataset)
    dicts = DatasetCatalog.get(str(dataset))
    named = make_recipe(
        read_dataset_file(dataset), dicts, [*classes, plain | {"isthing": False, "name": "z"}]
    )
    write_config(named, tmp_path / "config.yaml")
    cfg = merge_cfg(tmp_path / "config.yaml")
    assert (
        cfg.MODEL.FDD.NUM_THINGS == 6
        and recipe.keys["MODEL.FDD.LAMBDA_SEM"] == cfg.MODEL.FDD.LAMBDA_SEM
    )
    text = (tmp_path / "config.yaml").read_text(encoding="utf-8")
    assert "Größe 細胞" in text


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("MODEL.WEIGHTS", ""),
        ("OUTPUT_DIR", "a: b # c"),
        ("OUTPUT_DIR", "'123'"),
        ("OUTPUT_DIR", "C:\\runs\\new"),
        ("SOLVER.BASE_LR", "1e-3"),
        ("SOLVER.STEPS", "(1, 2)"),
        ("SOLVER.STEPS", "[]"),
        ("SOLVER.AMP.ENABLED", "True"),
        ("MODEL.FDD.IN_FEATURES", "['res2', 'res3']"),
        ("TEST.EXPECTED_RESULTS", "[['panoptic_seg', 'PQ', 1.0, 0.1]]"),
        ("DATASETS.TEST", "('fdd_shapes_val_panoptic',)"),
    ],
)
def test_a_value_is_what_it_is_on_the_command_line(dataset: Path, tmp_path, key, text) -> None:
    write_config(recipe_for(dataset), tmp_path / "config.yaml", [key, text])
    written, given = merge_cfg(tmp_path / "config.yaml"), merge_cfg("", [key, text])
    for part in key.split("."):
        written, given = written[part], given[part]
    assert written == given and type(written) is type(given)


def test_a_data_set_on_the_command_line_starts_from_the_working_folder(
    dataset: Path, tmp_path, monkeypatch
) -> None:
    monkeypatch.chdir(dataset.parent)
    (tmp_path / "deep").mkdir()
    config = tmp_path / "deep" / "config.yaml"
    write_config(recipe_for(dataset), config, ["DATASETS.TRAIN", f"('{dataset.name}#points',)"])
    monkeypatch.chdir(tmp_path)
    assert (str(dataset),) == load_cfg(config)[0].DATASETS.TRAIN
    config.write_text(config.read_text().replace(dataset.name, "gone.yaml"))
    with pytest.raises(FileNotFoundError, match=r"gone\.yaml"):
        load_cfg(config)


def test_the_long_side_has_room_for_the_short_one(dataset: Path) -> None:
    assert "INPUT.MAX_SIZE_TRAIN" not in recipe_for(dataset, short_side=800).keys
    keys = recipe_for(dataset, short_side=1600).keys
    assert keys["INPUT.MAX_SIZE_TRAIN"] == keys["INPUT.MAX_SIZE_TEST"] == 2666


def test_the_trainer_takes_it(dataset: Path, tmp_path) -> None:
    from engine_toys import toy_cfg
    from fdd.engine import Trainer

    write_config(recipe_for(dataset, epochs=1, batch=3), tmp_path / "config.yaml")
    cfg, _ = load_cfg(tmp_path / "config.yaml")
    toy = toy_cfg(tmp_path / "out")
    cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.DEVICE = toy.MODEL.META_ARCHITECTURE, "cpu"
    cfg.MODEL.WEIGHTS, cfg.OUTPUT_DIR, cfg.DATALOADER.NUM_WORKERS = "", toy.OUTPUT_DIR, 0
    trainer = Trainer(cfg)
    assert trainer.max_iter == 3
    trainer.train()
    assert (tmp_path / "out" / "model_final.pth").is_file()


def test_the_reduced_network_trains_on_crops(tmp_path) -> None:
    """With the real model, without weights."""
    from fdd.data.shapes import generate_shapes
    from fdd.engine import Trainer

    generate_shapes(tmp_path, num_train=3, num_val=1, size=96)
    path = tmp_path / "shapes.yaml"
    path.write_text("images: shapes/train\npoints: shapes/points_train_p10.json\n")
    recipe = recipe_for(path, network="reduced", batch=2, epochs=1, on_cpu=True)
    recipe.put("INPUT.MIN_SIZE_TRAIN", (64,))
    recipe.put("INPUT.CROP.ENABLED", True)
    recipe.put("INPUT.CROP.TYPE", "relative")
    recipe.put("INPUT.CROP.SIZE", [0.6667, 0.6667])
    small = [
        *("MODEL.WEIGHTS", "", "MODEL.DEVICE", "cpu", "DATALOADER.NUM_WORKERS", "0"),
        *("MODEL.FDD.HIDDEN_DIM", "32", "MODEL.FDD.ENCODER.NUM_LAYERS", "1"),
        *("OUTPUT_DIR", str(tmp_path / "out")),
    ]
    write_config(recipe, tmp_path / "config.yaml", small)
    cfg, _ = load_cfg(tmp_path / "config.yaml")
    trainer = Trainer(cfg)
    assert trainer.max_iter == 2
    batch = next(iter(trainer.data_loader))
    assert all(min(x["image"].shape[1:]) == 64 for x in batch)
    trainer.train()
    assert (tmp_path / "out" / "model_final.pth").is_file()
    forget(str(path))
