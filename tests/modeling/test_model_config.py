"""Configuration: defaults build a model, and values that no code handles are refused."""

import pytest
from detectron2.config import get_cfg

from fdd.config import add_fdd_config, check_fdd_config
from modeling_toys import small_cfg, small_model


def _cfg(*changes):
    cfg = get_cfg()
    add_fdd_config(cfg)
    cfg.merge_from_list(list(changes))
    return cfg


def test_defaults_are_the_papers():
    cfg = _cfg()
    check_fdd_config(cfg)
    fdd = cfg.MODEL.FDD
    assert (fdd.LAMBDA_SEM, fdd.SHARE_LAYERS, fdd.SHARE_POS, fdd.INJECT) == (1, True, True, "query")
    assert (fdd.SELF_TRAIN_PSE, fdd.SELF_TRAIN_SEM) == (True, False)
    assert (fdd.COLOR_PSE, fdd.COLOR_SEM, fdd.QUERY_SOURCE) == (True, True, "feature")
    assert (fdd.PSEUDO.COLOR_KERNEL, fdd.PSEUDO.COLOR_DILATION) == (5, 2)
    assert fdd.PSEUDO.COLOR_THRESHOLD == 0.3 and fdd.PAN.NUM_QUERIES == 300


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("MODEL.FDD.INJECT", "key", r"MODEL\.FDD\.INJECT is 'key'; allowed: 'query', 'pos'"),
        ("MODEL.FDD.LABEL_MAKER", "learnt", "LABEL_MAKER is 'learnt'; allowed: .*'learned'"),
        ("MODEL.FDD.LABEL_MAKER", "full", "'full', which needs true masks; training on points nev"),
        ("MODEL.FDD.DISTANCE.EMBEDDING_WEIGHT", 0.0, r"EMBEDDING_WEIGHT is 0\.0; it must be > 0"),
        ("MODEL.FDD.PAN_SUPERVISION", "masks", "allowed: 'pseudo', 'point', 'full'"),
        ("MODEL.FDD.QUERY_SOURCE", "x", "QUERY_SOURCE is 'x'"),
        ("MODEL.FDD.QUERY_GEN.FEATURES", "sum4", "sum3"),
        ("MODEL.FDD.QUERY_GEN.NORM", "GN", "LN"),
        ("MODEL.FDD.QUERY_GEN.KERNEL", 5, "KERNEL is 5; allowed: 1, 3"),
        ("MODEL.FDD.PSEUDO.LOGIT_HEAD", "affine", "linear_affine"),
        ("MODEL.FDD.PSEUDO.LABEL_STRIDE", 3, "LABEL_STRIDE is 3; allowed: 1, 2, 4, 8"),
        ("MODEL.FDD.PAN.FUSE_INIT", "zeros", "abs_scaled"),
        ("MODEL.FDD.LAMBDA_SEM", -0.5, r"LAMBDA_SEM is -0\.5; it must be >= 0"),
        ("MODEL.FDD.NUM_THINGS", -1, "NUM_THINGS is -1"),
        ("MODEL.FDD.HIDDEN_DIM", 100, "HIDDEN_DIM is 100; it must divide by NUM_HEADS"),
        ("MODEL.FDD.SIZE_DIVISIBILITY", 32, r"SIZE_DIVISIBILITY is 32 .* 64"),
        ("MODEL.FDD.SIZE_DIVISIBILITY", 0, "SIZE_DIVISIBILITY is 0"),
        ("MODEL.FDD.IN_FEATURES", ["res3"], "two maps or more"),
        ("MODEL.FDD.PAN.QUERY_FILTER_MAX_POS", 0, "QUERY_FILTER_MAX_POS is 0"),
        ("MODEL.FDD.PSEUDO.COLOR_KERNEL", 4, "COLOR_KERNEL is 4 .* kernel must be odd"),
        ("MODEL.FDD.PSEUDO.COLOR_DILATION", 0, "COLOR_DILATION is 0; .* at least 1"),
        ("INPUT.POINTS.DILATE_REFERENCE", 0.0, r"DILATE_REFERENCE is 0\.0; .* > 0"),
        ("MODEL.FDD.EMBEDDING2D_SIZE", (3, 0), r"EMBEDDING2D_SIZE is \(3, 0\); .* two whole"),
        ("MODEL.FDD.EMBEDDING2D_SIZE", (3,), r"EMBEDDING2D_SIZE is \(3,\); .* two whole"),
        ("MODEL.FDD.EMBEDDING2D_SIZE", (3, 4, 5), "two whole numbers >= 1"),
        ("MODEL.FDD.EMBEDDING2D_SIZE", (3.0, 4.0), "two whole numbers >= 1"),
        ("MODEL.FDD.EMBEDDING2D_SIZE", (True, True), "two whole numbers >= 1"),
        ("MODEL.FDD.PAN.POINT_BOX_SIDE", 0.0, r"POINT_BOX_SIDE is 0\.0 .* must be > 0"),
        ("MODEL.FDD.PAN.POINT_EPS", 0.5, r"POINT_EPS is 0\.5; .* between 0 and 0\.5"),
        ("MODEL.FDD.PAN.POINT_EPS", 0.0, r"POINT_EPS is 0\.0; .* between 0 and 0\.5"),
        ("INPUT.FORMAT", "YUV-BT.601", r"INPUT\.FORMAT is 'YUV-BT\.601'; allowed: 'RGB', 'BGR'"),
    ],
)
def test_wrong_values_are_refused(key, value, message):
    with pytest.raises(ValueError, match=message):
        check_fdd_config(_cfg(key, value))


WEIGHTS = [
    *("LAMBDA_SEM", "PSEUDO.SELF_TRAIN_WEIGHT", "PSEUDO.COLOR_WEIGHT", "PSEUDO.LABEL_MIN_PROB"),
    *("PAN.CLASS_WEIGHT", "PAN.L1_WEIGHT", "PAN.GIOU_WEIGHT", "PAN.DICE_WEIGHT", "PAN.DICE_EPS"),
    "PAN.STUFF_CLASS_WEIGHT",
]


@pytest.mark.parametrize("key", WEIGHTS)
def test_weights_are_not_negative(key):
    for value in (-0.5, float("nan")):
        with pytest.raises(ValueError, match=rf"{key} is {value}; it must be >= 0"):
            check_fdd_config(_cfg(f"MODEL.FDD.{key}", value))
    check_fdd_config(_cfg(f"MODEL.FDD.{key}", 0.0))


SWITCHES = [
    *("SHARE_LAYERS", "SHARE_POS", "SELF_TRAIN_PSE", "SELF_TRAIN_SEM", "COLOR_PSE", "COLOR_SEM"),
    *("PSEUDO.DEEP_SUPERVISION", "PSEUDO.FORCE_POINTS", "PAN.RATIO_WEIGHTING"),
]


@pytest.mark.parametrize("key", SWITCHES)
@pytest.mark.parametrize("value", ["False", "yes", 0, 1, None])
def test_a_switch_is_true_or_false(key, value):
    """A string would be as good as True. Merging refuses most of them, assignment nothing."""
    cfg = _cfg()
    *path, last = key.split(".")
    node = cfg.MODEL.FDD
    for part in path:
        node = node[part]
    node[last] = value
    with pytest.raises(ValueError, match=rf"{key} is {value!r}, a \w+; allowed: True, False"):
        check_fdd_config(cfg)
    if value is not None and value != "False":  # the command line's False is a truth value
        with pytest.raises(ValueError, match=rf"Type mismatch.*{key}"):
            _cfg(f"MODEL.FDD.{key}", value)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("LAMBDA_SEM", "0.1", "LAMBDA_SEM is '0.1', a str; allowed: numbers"),
        ("LAMBDA_SEM", None, "LAMBDA_SEM is None, a NoneType; allowed: numbers"),
        ("LAMBDA_SEM", True, "LAMBDA_SEM is True, a bool; allowed: numbers"),
        ("NUM_THINGS", 3.0, "NUM_THINGS is 3.0, a float; allowed: whole numbers"),
        ("NUM_THINGS", True, "NUM_THINGS is True, a bool; allowed: whole numbers"),
        ("INJECT", True, "INJECT is True; allowed: 'query', 'pos'"),
        ("QUERY_SOURCE", ["feature"], "allowed: 'feature', 'embedding2d'"),
        ("PAN_SUPERVISION", None, "PAN_SUPERVISION is None; allowed: 'pseudo', 'point', 'full'"),
        ("EMBEDDING2D_SIZE", 75, "EMBEDDING2D_SIZE is 75; it must be two whole numbers"),
        ("EMBEDDING2D_SIZE", "75", "EMBEDDING2D_SIZE is '75'; it must be two whole numbers"),
    ],
)
def test_a_value_of_another_type_is_refused(key, value, message):
    cfg = _cfg()
    cfg.MODEL.FDD[key] = value
    with pytest.raises(ValueError, match=message):
        check_fdd_config(cfg)


def test_a_number_may_be_whole():
    cfg = _cfg()
    cfg.MODEL.FDD.LAMBDA_SEM = 1
    check_fdd_config(cfg)


def test_points_alone_cannot_be_matched_by_their_masks():
    keys = ["MODEL.FDD.PAN_SUPERVISION", "point", "MODEL.FDD.PAN.QUERY_FILTER_MAX_POS"]
    check_fdd_config(_cfg(*keys, 1))
    with pytest.raises(ValueError, match=r"QUERY_FILTER_MAX_POS is 3, .*'point'.* set it to 1"):
        check_fdd_config(_cfg(*keys, 3))


def test_a_model_needs_a_class():
    with pytest.raises(ValueError, match="at least one class"):
        check_fdd_config(_cfg("MODEL.FDD.NUM_THINGS", 0, "MODEL.FDD.NUM_STUFF", 0))


def test_full_masks_come_at_stride_4():
    cfg = _cfg("MODEL.FDD.PAN_SUPERVISION", "full", "MODEL.FDD.PSEUDO.LABEL_STRIDE", 8)
    with pytest.raises(ValueError, match="full masks are loaded at stride 4"):
        check_fdd_config(cfg)


def test_a_baseline_with_a_typing_error_fails_at_start_up():
    with pytest.raises(ValueError, match=r"'poligon' is unknown; allowed: .*'polygon'"):
        check_fdd_config(_cfg("TEST.PSEUDO_LABELS.BASELINES", ("poligon",)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"LABEL_MAKER": "distance", "LAMBDA_SEM": 0.0},
            r"LABEL_MAKER is 'distance', which needs the semantic branch's .*LAMBDA_SEM is above",
        ),
        (
            {"LABEL_MAKER": "semantic_nearest", "LAMBDA_SEM": 0.0},
            r"LABEL_MAKER is 'semantic_nearest', which needs the semantic branch's",
        ),
        (
            {"LABEL_MAKER": "dnn", "TEST.PSEUDO_LABELS.BASELINES": ("semantic_nearest",)},
            r"BASELINES names 'semantic_nearest', which needs the semantic branch's",
        ),
        (
            {"LAMBDA_SEM": 0.0, "TEST.PSEUDO_LABELS.BASELINES": ("distance",)},
            r"BASELINES names 'distance', which needs the semantic branch's",
        ),
        (
            {"LABEL_MAKER": "nearest", "TEST.PSEUDO_LABELS.BASELINES": ("point", "distance")},
            r"BASELINES names 'distance', which needs the semantic branch's",
        ),
        (
            {"PAN_SUPERVISION": "full", "TEST.PSEUDO_LABELS.BASELINES": ("distance",)},
            r"BASELINES names 'distance', which needs .* \(and without full masks\)",
        ),
        (
            {"LABEL_MAKER": "distance", "TEST.PSEUDO_LABELS.BASELINES": ("learned",)},
            r"BASELINES names 'learned', which needs the pseudo label branch's",
        ),
    ],
)
def test_makers_that_cannot_have_what_they_need_fail_at_start_up(changes, message):
    with pytest.raises(ValueError, match=message):
        small_cfg(changes)


def test_what_is_built_follows_from_what_makers_need():
    def parts(changes):
        names = {n.split(".")[0] for n in small_model(changes).state_dict()}
        return names & {"query_generator", "label_branch", "distance_embedding"}

    beside = {"TEST.PSEUDO_LABELS.BASELINES": ("distance", "full", "point")}
    assert parts({}) == {"query_generator", "label_branch"}
    assert parts({"LABEL_MAKER": "point"}) == parts({"LABEL_MAKER": "dnn"}) == set()
    assert parts({"LABEL_MAKER": "semantic_nearest"}) == {"label_branch"}
    assert parts({"LABEL_MAKER": "distance"}) == {"label_branch", "distance_embedding"}
    assert parts({"LABEL_MAKER": "distance", "DISTANCE.EMBEDDING": False}) == {"label_branch"}
    assert parts(beside) == {"query_generator", "label_branch", "distance_embedding"}
    assert parts(beside | {"DISTANCE.EMBEDDING": False}) == {"query_generator", "label_branch"}
    # A semantic branch alone: no instance positions, no second stack, whatever is (not) shared.
    alone = {"LABEL_MAKER": "distance", "SHARE_LAYERS": False, "SHARE_POS": False}
    learned = small_model().label_branch.state_dict().keys()
    assert small_model(alone).label_branch.state_dict().keys() == learned


def test_a_backbone_without_the_features():
    with pytest.raises(
        ValueError, match=r"names \['res3'\]; the backbone gives \['res4', 'res5'\]"
    ):
        small_model({"MODEL.RESNETS.OUT_FEATURES": ["res4", "res5"]})


@pytest.mark.parametrize(
    ("widths", "depths", "message"),
    [
        ((8, 12, 16), (1, 1, 1, 1), "four entries"),
        ((8, 12, 12, 20), (1, 1, 1, 1), "neighbouring widths must differ"),
        ((8, 12, 16, 20), (1, 0, 1, 1), "depths be at least 1"),
    ],
)
def test_small_resnets_that_cannot_be(widths, depths, message):
    with pytest.raises(ValueError, match=message):
        small_model({"MODEL.SMALL_RESNET.WIDTHS": widths, "MODEL.SMALL_RESNET.DEPTHS": depths})


def test_small_resnet_strides():
    names = ["res2", "res3", "res4", "res5"]
    model = small_model({"MODEL.RESNETS.OUT_FEATURES": names})
    shapes = model.backbone.output_shape()
    assert {n: (s.channels, s.stride) for n, s in shapes.items()} == {
        "res2": (8, 4),
        "res3": (12, 8),
        "res4": (16, 16),
        "res5": (20, 32),
    }


def test_training_only_weights_have_their_own_names():
    """An inference checkpoint leaves them out by prefix."""
    rule = set(small_model({"LABEL_MAKER": "nearest"}).state_dict())
    learned = set(small_model().state_dict())
    assert rule < learned
    extra = {n.split(".")[0] for n in learned - rule}
    assert extra == {"query_generator", "label_branch"}


def test_config_survives_a_round_trip(tmp_path):
    cfg = small_cfg({"LAMBDA_SEM": 0.1})
    path = tmp_path / "config.yaml"
    path.write_text(cfg.dump())
    again = _cfg()
    again.merge_from_file(str(path))
    assert again.MODEL.FDD == cfg.MODEL.FDD and again.SOLVER == cfg.SOLVER


def test_labels_obey_their_points_in_one_way_only():
    with pytest.raises(ValueError, match=r"FORCE_POINTS.*CLICKS\.RESIDUAL"):
        small_cfg({"PSEUDO.FORCE_POINTS": True, "CLICKS.RESIDUAL": True})


def test_a_share_of_images_is_at_most_one():
    with pytest.raises(ValueError, match=r"PROMPT_SUBSETS is 5"):
        small_cfg({"PSEUDO.PROMPT_SUBSETS": 5.0})
