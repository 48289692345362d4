"""Config keys that a command would pass over are refused."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import detectron2.modeling
import pytest

from fdd.engine import command
from fdd.engine.acting_keys import ACTING, acts, refuse_idle_keys
from fdd.engine.configs import config_keys, merge_cfg, new_cfg

KEYS = config_keys(new_cfg())
# Of the keys of MODEL.FDD: losses, first weights, regularisation and memory of a training.
TRAINING_ONLY = {
    *("WARMUP_ITERS", "SELF_TRAIN_PSE", "SELF_TRAIN_SEM", "COLOR_PSE", "COLOR_SEM", "CHECKPOINT"),
    *("DISTANCE.EMBEDDING_WEIGHT", "ENCODER.DROPOUT", "LOCATION_PRIOR.START"),
    *("LOCATION_PRIOR.EXTENT_START", "LOCATION_PRIOR.OUTSIDE_WEIGHT"),
    *(
        f"PSEUDO.{name}"
        for name in (
            *("POSITION_STD", "RESIDUAL_INIT", "PROMPT_SUBSETS", "DEEP_SUPERVISION"),
            *("LABEL_STRIDE", "SELF_TRAIN_WEIGHT", "COLOR_WEIGHT", "COLOR_KERNEL"),
            *("COLOR_DILATION", "COLOR_THRESHOLD", "COLOR_WARMUP", "CLASS_AGREEMENT"),
        )
    ),
    *(
        f"PAN.{name}"
        for name in (
            *("DROPOUT", "QUERY_FILTER_MAX_POS", "FUSE_INIT", "DICE_EPS", "POINT_BOX_SIDE"),
            *("POINT_EPS", "CLASS_WEIGHT", "L1_WEIGHT", "GIOU_WEIGHT", "DICE_WEIGHT"),
            *("STUFF_CLASS_WEIGHT", "FOCAL_ALPHA", "FOCAL_GAMMA", "RATIO_WEIGHTING"),
        )
    ),
}
OF_MODELS = (
    "predict",
    "model export .pth",
    "model export .pt2",
    "labels export",
    "report",
    "annotate",
)


@pytest.mark.parametrize("which", ACTING)
def test_every_key_acts_or_is_refused(which) -> None:
    for key in KEYS:
        if acts(which, key):
            refuse_idle_keys(which, [key, "1"])
            continue
        with pytest.raises(ValueError) as error:
            refuse_idle_keys(which, ["MODEL.DEVICE", "cpu", key, "1"])
        name = which if which.endswith(".py") else f"fdd {which.split(' .')[0]}"
        assert str(error.value).startswith(f"{key} has no effect on `{name}`: ")
    assert any(acts(which, key) for key in KEYS)


def test_every_key_of_the_model_has_its_place() -> None:
    """A new key acts on what uses models, or it stands in the list above."""
    for key in (k for k in KEYS if k.startswith("MODEL.FDD.")):
        used = any(acts(which, key) for which in OF_MODELS)
        assert used != (key.removeprefix("MODEL.FDD.") in TRAINING_ONLY), key
        assert acts("train", key) and acts("init-config", key)


def test_every_pattern_names_a_key() -> None:
    for acting, idle in ACTING.values():
        for pattern in (*acting, *idle):
            assert any(k == pattern or k.startswith(pattern) for k in KEYS), pattern
            assert not pattern or pattern.endswith(".") or pattern in KEYS, pattern


@pytest.mark.parametrize(
    ("which", "key", "value", "hint"),
    [
        ("predict", "MODEL.FDD.PSEUDO.FORCE_POINTS", "False", "for `fdd train`"),
        ("predict", "SOLVER.BASE_LR", "1", "for `fdd train`"),
        ("predict", "MODEL.WEIGHTS", "a.pth", "--model"),
        ("labels export", "OUTPUT_DIR", "here", "--output"),
        ("labels export", "MODEL.FDD.PAN.TEST.SCORE_THRESH", "0.5", "leave it out"),
        ("labels export", "TEST.PSEUDO_LABELS.BASELINES", "('dnn',)", "--maker"),
        ("labels export", "MODEL.FDD.LABEL_MAKER", "nearest", "--maker"),
        ("report", "DATALOADER.NUM_WORKERS", "1", "leave it out"),
        ("model export .pt2", "MODEL.FDD.COMPILE", "True", "leave it out"),
        ("train", "MODEL.ROI_HEADS.NUM_CLASSES", "3", "other networks"),
        ("init-config", "TEST.AUG.ENABLED", "True", "other networks"),
        ("train_net.py", "SOLVER.MOMENTUM", "0.8", "other networks"),
        ("train", "TEST.DETECTIONS_PER_IMAGE", "9", "other networks"),
        ("demo.py", "SOLVER.BASE_LR", "1", "for `fdd train`"),
        ("demo.py", "OUTPUT_DIR", "here", "--output"),
    ],
)
def test_what_a_refusal_says(which, key, value, hint) -> None:
    with pytest.raises(ValueError, match="has no effect on") as error:
        refuse_idle_keys(which, [key, value])
    assert key in str(error.value) and hint in str(error.value)


def test_a_former_name_of_a_key_is_refused_as_its_present_one() -> None:
    with pytest.raises(ValueError, match=r"BASELINES has no effect.*--maker"):
        refuse_idle_keys("labels export", ["TEST.PSEUDO_LABELS.YARDSTICKS", "('dnn',)"])


def test_an_option_and_a_key_that_mean_the_same() -> None:
    key = "DATALOADER.NUM_WORKERS"
    with pytest.raises(ValueError, match=f"{key} and --workers"):
        refuse_idle_keys("labels export", [key, "2"], instead={key: "--workers"})


def test_what_is_no_key_is_left_to_the_config() -> None:
    refuse_idle_keys("predict", ["NO.SUCH", "1"])
    with pytest.raises(ValueError, match="Non-existent key"):
        merge_cfg("", ["NO.SUCH", "1"])


def test_other_networks_may_read_any_key_of_the_model(tmp_path) -> None:
    opts = ["MODEL.ROI_HEADS.NUM_CLASSES", "3", "TEST.DETECTIONS_PER_IMAGE", "9"]
    for own in ("META_ARCHITECTURE: Theirs", "META_ARCHITECTURE: FDD\n  BACKBONE: {NAME: theirs}"):
        (tmp_path / "config.yaml").write_text(f"MODEL:\n  {own}\n")
        (tmp_path / "model_final.pth").touch()
        refuse_idle_keys("train", opts, config_file=str(tmp_path / "config.yaml"))
        refuse_idle_keys("predict", opts, model=str(tmp_path))
        with pytest.raises(ValueError, match=r"SOLVER\.BASE_LR"):
            refuse_idle_keys("predict", [*opts, "SOLVER.BASE_LR", "1"], model=str(tmp_path))


def test_what_detectron2_builds_its_networks_with_is_theirs(tmp_path) -> None:
    """Whatever key a network of Detectron2 is built with is allowed for it."""
    source = Path(detectron2.modeling.__file__).parent
    text = "".join(
        p.read_text() for p in source.rglob("*.py") if p.name != "test_time_augmentation.py"
    )
    read = {m[1] for m in re.finditer(r"\bcfg\.([A-Z][A-Z0-9_.]*[A-Z0-9_])\b", text)} & set(KEYS)
    assert {"TEST.DETECTIONS_PER_IMAGE", "MODEL.RETINANET.NMS_THRESH_TEST"} <= read
    (tmp_path / "config.yaml").write_text("MODEL: {META_ARCHITECTURE: GeneralizedRCNN}")
    for key in read - {"OUTPUT_DIR"}:
        refuse_idle_keys("train", [key, "1"], config_file=str(tmp_path / "config.yaml"))


def test_the_scripts_refuse_as_the_commands_do(tmp_path, capsys, monkeypatch) -> None:
    called: list[object] = []
    monkeypatch.setattr("fdd.engine.processes.launch", lambda *args, **kwargs: called.append(args))
    args = ["--config-file", "shapes/fdd_small_P10.yaml", "SEED", "3"]
    command.run(command.parse_args(args))
    assert len(called) == 1
    with pytest.raises(ValueError, match=r"SOLVER\.MOMENTUM has no effect on `train_net\.py`"):
        command.run(command.parse_args([*args, "SOLVER.MOMENTUM", "0.8"]))
    assert len(called) == 1

    path = Path(__file__).parents[2] / "demo" / "demo.py"
    spec = importlib.util.spec_from_file_location("demo_script", path)
    assert spec is not None and spec.loader is not None
    demo = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(demo)
    words = ["--config-file", args[1], "--input", "x.jpg", "--output", str(tmp_path / "out")]
    opts = ["--opts", "MODEL.WEIGHTS", "none.pth"]
    assert demo.main([*words, *opts, "SOLVER.BASE_LR", "1"]) == 2
    assert "SOLVER.BASE_LR has no effect on `demo.py`" in capsys.readouterr().err
    assert demo.main([*words, *opts]) == 2
    assert "x.jpg" in capsys.readouterr().err and not (tmp_path / "out").exists()
