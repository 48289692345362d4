"""Which config keys a command acts on. Any other on its command line is refused: a key that is
accepted and passed over looks like one that made no difference."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cache

from detectron2.config import CfgNode

from fdd.config import RENAMED_KEYS
from fdd.engine.configs import config_keys, merge_cfg, new_cfg
from fdd.engine.run_folder import find_checkpoint
from fdd.engine.training_record import config_of_checkpoint, read_content, read_record

__all__ = ["ACTING", "acts", "refuse_idle_keys"]

# Keys, or groups of them (with a dot at the end).
_INPUT = ("INPUT.FORMAT", "INPUT.MIN_SIZE_TEST", "INPUT.MAX_SIZE_TEST")
_FDD = "MODEL.FDD."
#: The network that inference runs, as it has to be built for the weights to fit, and where it runs.
_NETWORK = (
    *("MODEL.DEVICE", "MODEL.META_ARCHITECTURE", "MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD"),
    *("MODEL.BACKBONE.", "MODEL.RESNETS.", "MODEL.SMALL_RESNET."),
    *(_FDD + k for k in ("NUM_THINGS", "NUM_STUFF", "HIDDEN_DIM", "NUM_HEADS", "IN_FEATURES")),
    *(_FDD + k for k in ("SIZE_DIVISIBILITY", "CHANNELS_LAST", "ATTENTION_BACKEND", "COMPILE")),
    *(_FDD + "ENCODER." + k for k in ("NUM_LAYERS", "FFN_DIM", "NUM_POINTS")),
    *(_FDD + "PAN." + k for k in ("NUM_QUERIES", "LOCATION_LAYERS", "THING_LAYERS")),
    *(_FDD + "PAN." + k for k in ("STUFF_LAYERS", "FFN_DIM", "ATTN_TAIL", "DETECTOR")),
    # Where the classes' names are looked for, if none are beside the checkpoint.
    *("DATASETS.TRAIN", "DATASETS.TEST"),
)
_PREDICTION = ("MODEL.FDD.PAN.TEST.",)
#: The branches that estimate labels, and how labels are made of what they say.
_LABELS = (
    *(_FDD + k for k in ("PAN_SUPERVISION", "LABEL_MAKER", "LAMBDA_SEM", "SHARE_LAYERS")),
    *(_FDD + k for k in ("SHARE_POS", "INJECT", "QUERY_SOURCE", "EMBEDDING2D_SIZE", "QUERY_GEN.")),
    *(_FDD + "PSEUDO." + k for k in ("NUM_LAYERS", "FFN_DIM", "LOGIT_HEAD", "FORCE_POINTS")),
    *(_FDD + "PSEUDO." + k for k in ("LABEL_MIN_PROB", "REFINE", "SHARES")),
    _FDD + "CLICKS.",
    _FDD + "DISTANCE.EMBEDDING",
    *(_FDD + "LOCATION_PRIOR." + k for k in ("ENABLED", "EXTENT", "SIZES")),
    *("INPUT.POINTS.DILATE_SIDE", "INPUT.POINTS.DILATE_REFERENCE"),
)
#: Of Detectron2's keys, those of other networks, samplers and evaluations.
_OTHERS_OF_DETECTRON2 = (
    *("MODEL.LOAD_PROPOSALS", "MODEL.MASK_ON", "MODEL.KEYPOINT_ON", "MODEL.FPN."),
    *("MODEL.PROPOSAL_GENERATOR.", "MODEL.ANCHOR_GENERATOR.", "MODEL.RPN.", "MODEL.ROI_HEADS."),
    *("MODEL.ROI_BOX_HEAD.", "MODEL.ROI_BOX_CASCADE_HEAD.", "MODEL.ROI_MASK_HEAD."),
    *("MODEL.ROI_KEYPOINT_HEAD.", "MODEL.SEM_SEG_HEAD.", "MODEL.PANOPTIC_FPN."),
    *("MODEL.RETINANET.", "INPUT.MASK_FORMAT", "DATASETS.PROPOSAL_FILES_TRAIN"),
    *("DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TRAIN", "DATASETS.PROPOSAL_FILES_TEST"),
    *("DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TEST", "DATALOADER.SAMPLER_TRAIN"),
    *("DATALOADER.REPEAT_THRESHOLD", "DATALOADER.REPEAT_SQRT"),
    *("DATALOADER.FILTER_EMPTY_ANNOTATIONS", "SOLVER.MOMENTUM", "SOLVER.NESTEROV"),
    *("SOLVER.BIAS_LR_FACTOR", "SOLVER.WEIGHT_DECAY_BIAS", "SOLVER.WEIGHT_DECAY_NORM"),
    *("TEST.KEYPOINT_OKS_SIGMAS", "TEST.DETECTIONS_PER_IMAGE", "TEST.AUG.", "TEST.PRECISE_BN."),
    "GLOBAL.HACK",
)
# Outside of MODEL, what Detectron2's own networks are built with.
_OF_OTHER_NETWORKS = ("TEST.DETECTIONS_PER_IMAGE",)
_PROGRAM = ("MODEL.FDD.CHANNELS_LAST", "MODEL.FDD.COMPILE")

_PREDICT = (*_INPUT, *_NETWORK, *_PREDICTION)
#: By command or script: keys that act, and of these the ones that do not.
ACTING: Mapping[str, tuple[Collection[str], Collection[str]]] = {
    "predict": (_PREDICT, ()),
    "model export .pth": (_PREDICT, ()),
    # The program is the plain form of the network, whatever the machine.
    "model export .pt2": (_PREDICT, _PROGRAM),
    # The maker says which branches a model has: it is as the model was trained.
    "labels export": (
        (*_INPUT, *_NETWORK, *_LABELS, "DATALOADER.NUM_WORKERS"),
        ("MODEL.FDD.LABEL_MAKER",),
    ),
    "annotate": ((*_INPUT, *_NETWORK, *_LABELS), ("MODEL.FDD.LABEL_MAKER", _FDD + "PSEUDO.REFINE")),
    "evaluate-clicks": (
        (*_INPUT, *_NETWORK, *_LABELS),
        ("MODEL.FDD.LABEL_MAKER", _FDD + "PSEUDO.REFINE"),
    ),
    "points suggest": (
        (*_INPUT, *_NETWORK, *_LABELS),
        ("MODEL.FDD.LABEL_MAKER", _FDD + "PSEUDO.REFINE"),
    ),
    "report": ((*_PREDICT, *_LABELS), ()),
    "train": (("",), _OTHERS_OF_DETECTRON2),
    "init-config": (("",), _OTHERS_OF_DETECTRON2),
    # The same with Detectron2's arguments.
    "train_net.py": (("",), _OTHERS_OF_DETECTRON2),
    "demo.py": ((*_PREDICT, "MODEL.WEIGHTS"), ()),
}
_HINTS = {
    "MODEL.WEIGHTS": "name the checkpoint with --model",
    "OUTPUT_DIR": "name the place of the results with --output",
}
_EXPORT_HINTS = {
    key: "the model's own maker makes the labels, or the one that --maker names"
    for key in ("TEST.PSEUDO_LABELS.BASELINES", "MODEL.FDD.LABEL_MAKER")
}
_OWN_BACKBONES = ("build_resnet_backbone", "build_small_resnet_backbone")


def acts(command: str, key: str) -> bool:
    """Whether a command acts on a config key.

    Args:
        command: a key of :data:`ACTING`.
        key: such as ``MODEL.DEVICE``.
    """
    acting, idle = ACTING[command]
    return _is_among(key, acting) and not _is_among(key, idle)


def refuse_idle_keys(
    command: str,
    opts: Sequence[str],
    *,
    config_file: str = "",
    model: str = "",
    instead: Mapping[str, str] | None = None,
) -> None:
    """Refuse config keys that a command would pass over.

    Keys below ``MODEL``, and others that Detectron2's networks are built with, are all allowed
    where another network or backbone than this package's is used, which may read any; keys that do
    not exist are left to the reader of the config.

    Args:
        command: a key of :data:`ACTING`.
        opts: config keys and values, in pairs.
        config_file: of the training or the model, if it is named.
        model: as for :func:`fdd.inference.trained_model.load_trained`; its config is taken else.
        instead: keys in whose place an option was given.

    Raises:
        ValueError: names the key, and what to do.
    """
    instead = instead or {}
    named = (RENAMED_KEYS.get(key, key) for key in opts[::2])
    keys = [key for key in named if key in _known_keys()]
    for key in keys:
        if key in instead:
            raise ValueError(f"{key} and {instead[key]} were given; they mean the same: leave one")
    idle = [key for key in keys if not acts(command, key)]
    # Those that another network may read.
    networks = [
        key
        for key in idle
        if (key.startswith("MODEL.") and key != "MODEL.WEIGHTS") or key in _OF_OTHER_NETWORKS
    ]
    if networks and not _is_own_network(_model_config(config_file, model), opts):
        idle = [key for key in idle if key not in networks]
    if idle:
        name = command.split(" .")[0]
        hints = _HINTS | (_EXPORT_HINTS if name == "labels export" else {})
        hint = hints.get(idle[0], "leave it out" + _who(idle[0], name))
        shown = name if name.endswith(".py") else f"fdd {name}"
        raise ValueError(f"{idle[0]} has no effect on `{shown}`: {hint}")


def _who(key: str, command: str) -> str:
    if command in ("train", "train_net.py", "init-config"):
        return ", it is of other networks or trainers of Detectron2"
    if acts("train", key):
        return ", it is for `fdd train`"
    return ""


def _model_config(config_file: str, model: str) -> CfgNode | None:
    """What a command would build its model with, but for the keys of its command line."""
    if config_file or not model:
        return merge_cfg(config_file) if config_file else None
    path = find_checkpoint(model, default="best")  # each of a run has the same config
    try:
        return config_of_checkpoint(path, "", (), read_record(read_content(path)))
    except FileNotFoundError:  # the command itself will say so
        return None


def _is_own_network(cfg: CfgNode | None, opts: Sequence[str]) -> bool:
    """Whether the network reads no keys but those that are known here. Without a config it is
    taken for one of this package's."""
    given = dict(zip(opts[::2], opts[1::2], strict=False))
    name, backbone = "FDD", _OWN_BACKBONES[0]
    if cfg is not None:
        name, backbone = cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.BACKBONE.NAME
    name = given.get("MODEL.META_ARCHITECTURE", name)
    return name == "FDD" and given.get("MODEL.BACKBONE.NAME", backbone) in _OWN_BACKBONES


@cache
def _known_keys() -> frozenset[str]:
    return frozenset(config_keys(new_cfg()))


def _is_among(key: str, patterns: Collection[str]) -> bool:
    return any(key == p or not p or (p.endswith(".") and key.startswith(p)) for p in patterns)
