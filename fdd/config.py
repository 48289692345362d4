"""Every configuration key that FDD adds to Detectron2's defaults.

Section and equation numbers are those of the FDD paper (AAAI 2024) unless another source is named.
Keys with an allowed set are checked in :func:`fdd.config.check_fdd_config`, so that a typing error
fails at start-up and not after an epoch.
"""

from __future__ import annotations

import math
from typing import Any

from detectron2.config import CfgNode as CN
from detectron2.config import get_cfg

#: Former names of keys, which are read with a warning.
RENAMED_KEYS = {"TEST.PSEUDO_LABELS.YARDSTICKS": "TEST.PSEUDO_LABELS.BASELINES"}

_ALLOWED: dict[str, tuple[Any, ...]] = {
    "MODEL.FDD.PAN_SUPERVISION": ("pseudo", "point", "full"),
    "MODEL.FDD.ATTENTION_BACKEND": ("auto", "reference", "torch", "compiled", "triton"),
    "MODEL.FDD.INJECT": ("query", "pos"),
    "MODEL.FDD.QUERY_SOURCE": ("feature", "embedding2d"),
    "MODEL.FDD.QUERY_GEN.FEATURES": ("sum3", "level0"),
    "MODEL.FDD.QUERY_GEN.NORM": ("none", "LN"),
    "MODEL.FDD.QUERY_GEN.KERNEL": (1, 3),
    "MODEL.FDD.PSEUDO.RESIDUAL_INIT": ("zero", "xavier"),
    "MODEL.FDD.PSEUDO.LOGIT_HEAD": ("linear_affine", "relu_affine"),
    "MODEL.FDD.PSEUDO.LABEL_STRIDE": (1, 2, 4, 8),
    "MODEL.FDD.PAN.DETECTOR": ("queries", "centers"),
    "MODEL.FDD.PAN.FUSE_INIT": ("xavier", "abs_scaled"),
    "SOLVER.OPTIMIZER": ("ADAMW",),
    "SOLVER.AMP.DTYPE": ("bfloat16", "float16"),
    "INPUT.FORMAT": ("RGB", "BGR"),
    "INPUT.CROP.TYPE": ("relative_range", "relative", "absolute", "absolute_range"),
}

# Smallest and largest allowed value of keys that are numbers.
_RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(
        (
            "MODEL.FDD.LAMBDA_SEM",
            "MODEL.FDD.PSEUDO.SELF_TRAIN_WEIGHT",
            "MODEL.FDD.PSEUDO.COLOR_WEIGHT",
            "MODEL.FDD.PSEUDO.COLOR_WARMUP",
            "MODEL.FDD.PSEUDO.CLASS_AGREEMENT",
            "MODEL.FDD.LOCATION_PRIOR.OUTSIDE_WEIGHT",
            "MODEL.FDD.PSEUDO.POSITION_STD",
            "MODEL.FDD.PSEUDO.LABEL_MIN_PROB",
            "MODEL.FDD.CLICKS.MAX_MARGIN",
            "MODEL.FDD.PAN.CLASS_WEIGHT",
            "MODEL.FDD.PAN.L1_WEIGHT",
            "MODEL.FDD.PAN.GIOU_WEIGHT",
            "MODEL.FDD.PAN.DICE_WEIGHT",
            "MODEL.FDD.PAN.STUFF_CLASS_WEIGHT",
            "MODEL.FDD.PAN.DICE_EPS",
            "INPUT.POINTS.DILATE_SIDE",
        ),
        (0, math.inf),
    ),
    "SOLVER.HEAD_ITERS": (0, math.inf),
    "MODEL.FDD.PSEUDO.PROMPT_SUBSETS": (0, 1),
    "MODEL.FDD.PAN.QUERY_FILTER_MAX_POS": (1, math.inf),
    "MODEL.FDD.CLICKS.ROUNDS": (1, math.inf),
    "MODEL.FDD.CLICKS.TAU": (0.05, math.inf),
    "MODEL.FDD.CLICKS.SIGMA": (1e-3, math.inf),
}


def add_fdd_config(cfg: CN) -> None:
    """Add FDD's keys, with their defaults, to a Detectron2 config in place."""
    _add_model_config(cfg)
    _add_pseudo_config(cfg.MODEL.FDD)
    _add_panoptic_config(cfg.MODEL.FDD)
    _add_input_config(cfg)
    _add_solver_config(cfg)
    # Where a file is merged by Detectron2 alone, an old name is an error that tells the new one.
    for old, new in RENAMED_KEYS.items():
        cfg.register_renamed_key(old, new)


def _add_model_config(cfg: CN) -> None:
    # build_small_resnet_backbone: channels and basic blocks of res2 ... res5.
    cfg.MODEL.SMALL_RESNET = CN()
    cfg.MODEL.SMALL_RESNET.WIDTHS = (32, 64, 96, 128)
    cfg.MODEL.SMALL_RESNET.DEPTHS = (1, 2, 2, 1)

    cfg.MODEL.FDD = CN()
    fdd = cfg.MODEL.FDD
    # Number of thing and stuff classes; checked at start-up against the training set's metadata.
    fdd.NUM_THINGS = 20
    fdd.NUM_STUFF = 1
    # What supervises the panoptic branch: estimated dense labels, the points alone (Table 8), or
    # full masks (the ceiling).
    fdd.PAN_SUPERVISION = "pseudo"
    # Who makes the dense labels: a name in fdd.modeling.label_makers.
    fdd.LABEL_MAKER = "learned"
    # Weight of the auxiliary semantic branch, Eq. 10 and Table 1. At 0 the branch is not run.
    fdd.LAMBDA_SEM = 1.0
    # Iterations of the linear warm-up of every loss that uses the pseudo labels. -1 stands for
    # max(one epoch, 5 % of the iterations); 0 switches the warm-up off.
    fdd.WARMUP_ITERS = -1
    # Table 2: do pseudo label branch and semantic branch share layers and position embeddings?
    fdd.SHARE_LAYERS = True
    fdd.SHARE_POS = True
    # Table 3: do the generated vectors enter as queries or as position embeddings?
    fdd.INJECT = "query"
    # Table 4: are they pooled from projected features, or from a learned 2-D embedding (h, w)?
    fdd.QUERY_SOURCE = "feature"
    fdd.EMBEDDING2D_SIZE = (75, 100)
    # Table 5: which branch learns from its own argmax (Eq. 6)?
    fdd.SELF_TRAIN_PSE = True
    fdd.SELF_TRAIN_SEM = False
    # Table 6: which branch has the colour prior (Eq. 4 and 8)?
    fdd.COLOR_PSE = True
    fdd.COLOR_SEM = True

    fdd.HIDDEN_DIM = 256
    fdd.NUM_HEADS = 8
    # Backbone maps that enter the channel mapper; one more level is made from the last of them.
    fdd.IN_FEATURES = ["res3", "res4", "res5"]
    # Padding makes every level's size divide; 64 is the stride of the coarsest level.
    fdd.SIZE_DIVISIBILITY = 64
    # Trade time for memory: recompute encoder and mask-decoder layers in the backward pass.
    fdd.CHECKPOINT = False
    # Run the backbone on channels-last images. Faster with frozen batch norms; the gradient of a
    # training batch norm loses three digits in this layout on the CPU.
    fdd.CHANNELS_LAST = False
    # What computes deformable attention: "auto" takes "torch" (sparse products) on a CPU and
    # "triton" on a GPU where it works. "compiled" is "torch" with a C++ compiler's help,
    # "reference" the textbook's form.
    fdd.ATTENTION_BACKEND = "auto"
    # Compile the static parts, backbone and encoder layers, with torch.compile at the first step.
    fdd.COMPILE = False

    # Label maker "distance" (PSPS): does the cost of a step also compare embeddings, learned with
    # a contrastive loss of this weight on detached features?
    fdd.DISTANCE = CN()
    fdd.DISTANCE.EMBEDDING = True
    fdd.DISTANCE.EMBEDDING_WEIGHT = 1.0

    fdd.ENCODER = CN()
    fdd.ENCODER.NUM_LAYERS = 6
    fdd.ENCODER.FFN_DIM = 1024
    fdd.ENCODER.NUM_POINTS = 4
    fdd.ENCODER.DROPOUT = 0.1

    fdd.QUERY_GEN = CN()
    fdd.QUERY_GEN.FEATURES = "sum3"
    fdd.QUERY_GEN.ADD_POS = True
    fdd.QUERY_GEN.KERNEL = 1
    fdd.QUERY_GEN.NORM = "none"


def _add_pseudo_config(fdd: CN) -> None:
    fdd.PSEUDO = CN()
    fdd.PSEUDO.NUM_LAYERS = 6
    fdd.PSEUDO.FFN_DIM = 1024
    # Start of the branch, of which the paper says nothing. Spread of the class position embeddings,
    # which are added in every layer; and of the layers whose results are added to the queries:
    # "zero" (each layer starts as a normalised copy of its queries) or "xavier".
    fdd.PSEUDO.POSITION_STD = 0.1
    fdd.PSEUDO.RESIDUAL_INIT = "zero"
    # Share of the training images whose queries are made of a random subset of their points, so
    # that the branch is used to fewer points than the training set has. Losses see all points.
    fdd.PSEUDO.PROMPT_SUBSETS = 0.0
    # Head of the instance and semantic logits: no final ReLU, then one scale and bias a class
    # ("linear_affine"), or PSPS's ReLU before the scale and bias ("relu_affine").
    fdd.PSEUDO.LOGIT_HEAD = "linear_affine"
    # Losses on every layer, or on the last layer only.
    fdd.PSEUDO.DEEP_SUPERVISION = True
    # Stride of the dense label, of the panoptic branch's targets and of its dice losses.
    fdd.PSEUDO.LABEL_STRIDE = 4
    # Labelled points win over the argmax in their own stride-8 cell (not part of Eq. 2). The
    # residual of the clicks (MODEL.FDD.CLICKS) is the smooth way to the same end.
    fdd.PSEUDO.FORCE_POINTS = False
    # Below this probability a pixel of the dense label is ignored; 0 is Eq. 2.
    fdd.PSEUDO.LABEL_MIN_PROB = 0.0
    # Not the paper's: outside of the joint training, boundaries of learned labels are drawn to the
    # colours of the image, at stride 2.
    fdd.PSEUDO.REFINE = False
    # Not the paper's: outside of the joint training, logits of learned labels are corrected for
    # what segments have of the image's area, which is not what they have of its points.
    fdd.PSEUDO.SHARES = False
    fdd.PSEUDO.SELF_TRAIN_WEIGHT = 1.0
    fdd.PSEUDO.COLOR_WEIGHT = 3.0
    fdd.PSEUDO.COLOR_KERNEL = 5
    fdd.PSEUDO.COLOR_DILATION = 2
    fdd.PSEUDO.COLOR_THRESHOLD = 0.3
    # Iterations in which the colour prior's weight rises from a tenth to COLOR_WEIGHT.
    fdd.PSEUDO.COLOR_WARMUP = 0
    # Not the paper's: weight, times LAMBDA_SEM, of a loss by which the instances of a class cover
    # together what the auxiliary semantic branch gives to the class.
    fdd.PSEUDO.CLASS_AGREEMENT = 0.0

    # Not the paper's: a thing's logits fall with the distance to its own points, by a slope that is
    # learned for each class, softplus(START) at first, a tenth of the image's diagonal.
    fdd.LOCATION_PRIOR = CN()
    fdd.LOCATION_PRIOR.ENABLED = False
    fdd.LOCATION_PRIOR.START = 1.0
    # A thing of three or more points has, instead, the extent that these tell: the logits fall from
    # its middle outwards in units of its own size, by softplus(EXTENT_START) at first.
    fdd.LOCATION_PRIOR.EXTENT = False
    fdd.LOCATION_PRIOR.EXTENT_START = 8.0
    # And one of fewer points has the extent that is expected of its class, by the others of the
    # image and of the training set; one of three or more, that of its own points and these.
    fdd.LOCATION_PRIOR.SIZES = False
    # Of the losses by which such things do not reach beyond their extents.
    fdd.LOCATION_PRIOR.OUTSIDE_WEIGHT = 4.0

    # Not the paper's: dense labels obey their points by a smooth addition to the logits around each
    # point that would be lost: over what looks alike (cosine of the features, fall TAU) and is near
    # (SIGMA, a share of the diagonal). The losses do not see it.
    fdd.CLICKS = CN()
    fdd.CLICKS.RESIDUAL = False
    fdd.CLICKS.TAU = 0.5
    fdd.CLICKS.SIGMA = 0.08
    # Largest rise at a click in a round, in units of the logits; and the number of rounds.
    fdd.CLICKS.MAX_MARGIN = 10.0
    fdd.CLICKS.ROUNDS = 5
    # Compare features without their mean over the image.
    fdd.CLICKS.CENTER = True


def _add_panoptic_config(fdd: CN) -> None:
    fdd.PAN = CN()
    # What finds things: the paper's detection "queries", which need tens of thousands of steps to
    # find their places, or "centers" (ours): the peaks of a dense map of the things' centres, whose
    # masks stay in the boxes found around them. NUM_QUERIES and LOCATION_LAYERS are the former's.
    fdd.PAN.DETECTOR = "queries"
    fdd.PAN.NUM_QUERIES = 300
    fdd.PAN.LOCATION_LAYERS = 6
    fdd.PAN.THING_LAYERS = 4
    fdd.PAN.STUFF_LAYERS = 6
    fdd.PAN.FFN_DIM = 1024
    fdd.PAN.DROPOUT = 0.1
    # Panoptic SegFormer's own form has a last attention without update (ATTN_TAIL) and up to three
    # queries a thing with a second matching (class cost 4, dice cost 2). Default: PSPS's form.
    fdd.PAN.ATTN_TAIL = False
    fdd.PAN.QUERY_FILTER_MAX_POS = 1
    fdd.PAN.FUSE_INIT = "xavier"
    fdd.PAN.DICE_EPS = 1e-3
    # PAN_SUPERVISION "point", Table 8: side in pixels of a lone point's box at a short side of
    # INPUT.POINTS.DILATE_REFERENCE, and where the masks' cross-entropy is clamped.
    fdd.PAN.POINT_BOX_SIDE = 400.0
    fdd.PAN.POINT_EPS = 0.01
    # Loss weights (also the matching costs of class, L1 and GIoU).
    fdd.PAN.CLASS_WEIGHT = 2.0
    fdd.PAN.L1_WEIGHT = 5.0
    fdd.PAN.GIOU_WEIGHT = 2.0
    fdd.PAN.DICE_WEIGHT = 2.0
    fdd.PAN.STUFF_CLASS_WEIGHT = 4.0
    fdd.PAN.FOCAL_ALPHA = 0.25
    fdd.PAN.FOCAL_GAMMA = 2.0
    # Multiply thing losses by n_th / (n_th + n_st) and stuff losses by n_st / (n_th + n_st).
    fdd.PAN.RATIO_WEIGHTING = True

    fdd.PAN.TEST = CN()
    fdd.PAN.TEST.MAX_QUERIES = 100
    fdd.PAN.TEST.SCORE_THRESH = 0.25
    fdd.PAN.TEST.MASK_THRESH = 0.5
    fdd.PAN.TEST.THING_OVERLAP = 0.4
    fdd.PAN.TEST.STUFF_OVERLAP = 0.2


def _add_input_config(cfg: CN) -> None:
    cfg.INPUT.POINTS = CN()
    # Side of a point's dilated square in pixels:
    # max(one stride-8 cell, DILATE_SIDE * short side / DILATE_REFERENCE).
    cfg.INPUT.POINTS.DILATE_SIDE = 17.0
    cfg.INPUT.POINTS.DILATE_REFERENCE = 600.0
    # Drop training images whose labelled segments are all stuff: PSPS's filter.
    cfg.INPUT.POINTS.REQUIRE_THING = False
    cfg.INPUT.POINTS.MIN_IMAGE_SIDE = 32


def _add_solver_config(cfg: CN) -> None:
    cfg.SOLVER.OPTIMIZER = "ADAMW"
    # Learning-rate factors of the backbone, and of sampling offsets and reference points.
    cfg.SOLVER.BACKBONE_MULTIPLIER = 0.1
    cfg.SOLVER.SAMPLING_MULTIPLIER = 0.1
    # Batches of IMS_PER_BATCH images whose gradients are summed before one optimiser step. Counts
    # in the losses span all of them: the step equals one with a batch ACCUMULATE_STEPS times as
    # large.
    cfg.SOLVER.ACCUMULATE_STEPS = 1
    # Epochs instead of iterations: when > 0, MAX_ITER is set at start-up from the size of the
    # training set, and STEPS from EPOCH_STEPS.
    cfg.SOLVER.MAX_EPOCHS = 0
    cfg.SOLVER.EPOCH_STEPS = ()
    # Ours: steps after MAX_ITER in which the panoptic branch alone goes on learning, on features
    # and labels that no longer change. Each costs a small part of a whole step.
    cfg.SOLVER.HEAD_ITERS = 0
    cfg.SOLVER.AMP.DTYPE = "bfloat16"
    cfg.TEST.PSEUDO_LABELS = CN()
    # Label makers that the pseudo label evaluation scores beside LABEL_MAKER.
    cfg.TEST.PSEUDO_LABELS.BASELINES = ("nearest", "polygon", "extent")
    # Write predicted PNG + JSON below OUTPUT_DIR/inference and leave them there.
    cfg.TEST.KEEP_PREDICTIONS = False


def label_maker_of(cfg: CN) -> str:
    """The label maker that a model is trained with: ``"full"`` where true masks supervise it."""
    fdd = cfg.MODEL.FDD
    return "full" if fdd.PAN_SUPERVISION == "full" else fdd.LABEL_MAKER


def most_things(cfg: CN) -> int | None:
    """Things that an image may have in training: as many as there are detection queries. None: any
    number, as the centre decoder has none."""
    pan = cfg.MODEL.FDD.PAN
    return pan.NUM_QUERIES if pan.DETECTOR == "queries" else None


def check_fdd_config(cfg: CN) -> None:
    """Raise ``ValueError``, naming key, value and allowed set, for a value no code handles."""
    default = get_cfg()
    add_fdd_config(default)
    _check_types(cfg.MODEL.FDD, default.MODEL.FDD, "MODEL.FDD")
    _check_types(cfg.INPUT.POINTS, default.INPUT.POINTS, "INPUT.POINTS")
    for old, new in RENAMED_KEYS.items():  # assigned by a program: nothing would read it
        group, _, name = old.rpartition(".")
        if name in _value_of(cfg, group):
            raise ValueError(f"{old} is now called {new}; set that key")
    for key, allowed in _ALLOWED.items():
        value = _value_of(cfg, key)
        if value not in allowed:
            raise ValueError(f"{key} is {value!r}; allowed: {', '.join(map(repr, allowed))}")
    for key, (least, most) in _RANGES.items():
        value = _value_of(cfg, key)
        if not least <= value <= most:  # NaN, too
            limits = f">= {least}" if most == math.inf else f"between {least} and {most}"
            raise ValueError(f"{key} is {value!r}; it must be {limits}")
    _check_model(cfg.MODEL.FDD)
    _check_point_supervision(cfg.MODEL.FDD)
    if cfg.INPUT.POINTS.DILATE_REFERENCE <= 0:
        raise ValueError(
            f"INPUT.POINTS.DILATE_REFERENCE is {cfg.INPUT.POINTS.DILATE_REFERENCE}; it must be > 0"
        )
    _check_makers(cfg)


def _check_makers(cfg: CN) -> None:
    # Imported late: only the check needs the registered makers, a user's included.
    from fdd.modeling.label_makers import check_label_makers

    fdd = cfg.MODEL.FDD
    if fdd.DISTANCE.EMBEDDING_WEIGHT <= 0:
        raise ValueError(
            f"MODEL.FDD.DISTANCE.EMBEDDING_WEIGHT is {fdd.DISTANCE.EMBEDDING_WEIGHT}; it must be "
            "> 0. To leave the embedding out, set MODEL.FDD.DISTANCE.EMBEDDING to False"
        )
    check_label_makers(
        supervision=fdd.PAN_SUPERVISION,
        maker=fdd.LABEL_MAKER,
        baselines=cfg.TEST.PSEUDO_LABELS.BASELINES,
        lambda_sem=fdd.LAMBDA_SEM,
        embedding=fdd.DISTANCE.EMBEDDING,
        location_prior=fdd.LOCATION_PRIOR.ENABLED,
    )


def _value_of(cfg: CN, key: str) -> Any:
    for part in key.split("."):
        cfg = cfg[part]
    return cfg


def _check_types(node: CN, default: CN, prefix: str) -> None:
    """Check types: merging checks most, assignment none, and any string is true in an ``if``."""
    names: dict[type, str] = {bool: "True, False", int: "whole numbers", float: "numbers"}
    for key, usual in default.items():
        value = node[key]
        if isinstance(usual, CN):
            _check_types(value, usual, f"{prefix}.{key}")
        elif type(usual) in names:
            fits = isinstance(value, (int, float) if isinstance(usual, float) else type(usual))
            if not fits or isinstance(value, bool) != isinstance(usual, bool):
                raise ValueError(
                    f"{prefix}.{key} is {value!r}, a {type(value).__name__}; "
                    f"allowed: {names[type(usual)]}"
                )


def _check_point_supervision(fdd: CN) -> None:
    """Keys of Table 8."""
    side, eps = fdd.PAN.POINT_BOX_SIDE, fdd.PAN.POINT_EPS
    if not (side > 0 and 0 < eps < 0.5):
        raise ValueError(
            f"MODEL.FDD.PAN.POINT_BOX_SIDE is {side} and POINT_EPS is {eps}; the side must be > 0, "
            "and POINT_EPS between 0 and 0.5"
        )
    if fdd.PAN_SUPERVISION == "point" and fdd.PAN.QUERY_FILTER_MAX_POS > 1:
        raise ValueError(
            f"MODEL.FDD.PAN.QUERY_FILTER_MAX_POS is {fdd.PAN.QUERY_FILTER_MAX_POS}, which matches "
            "queries a second time by the dice of their masks with dense labels; with "
            "MODEL.FDD.PAN_SUPERVISION 'point' there are none: set it to 1"
        )


def _check_model(fdd: CN) -> None:
    """Values that must fit each other."""
    if fdd.PSEUDO.FORCE_POINTS and fdd.CLICKS.RESIDUAL:
        raise ValueError(
            "MODEL.FDD.PSEUDO.FORCE_POINTS and MODEL.FDD.CLICKS.RESIDUAL are both True; labels "
            "obey their points by one of them: set the other to False"
        )
    if fdd.NUM_THINGS < 0 or fdd.NUM_STUFF < 0 or fdd.NUM_THINGS + fdd.NUM_STUFF == 0:
        raise ValueError(
            f"MODEL.FDD.NUM_THINGS is {fdd.NUM_THINGS} and NUM_STUFF is {fdd.NUM_STUFF}; "
            "need at least one class"
        )
    if fdd.HIDDEN_DIM % fdd.NUM_HEADS or fdd.HIDDEN_DIM % 4:
        raise ValueError(
            f"MODEL.FDD.HIDDEN_DIM is {fdd.HIDDEN_DIM}; it must divide by NUM_HEADS "
            f"({fdd.NUM_HEADS}) and by 4"
        )
    coarsest = 8 * 2 ** len(fdd.IN_FEATURES)
    if len(fdd.IN_FEATURES) < 2 or fdd.SIZE_DIVISIBILITY < 1 or fdd.SIZE_DIVISIBILITY % coarsest:
        raise ValueError(
            f"MODEL.FDD.SIZE_DIVISIBILITY is {fdd.SIZE_DIVISIBILITY} and IN_FEATURES is "
            f"{fdd.IN_FEATURES}; there must be two maps or more, and images must be padded to a "
            f"multiple of the coarsest level's stride, {coarsest}"
        )
    size = fdd.EMBEDDING2D_SIZE
    counts = isinstance(size, (tuple, list)) and all(type(n) is int and n > 0 for n in size)
    if not counts or len(size) != 2:
        raise ValueError(
            f"MODEL.FDD.EMBEDDING2D_SIZE is {size!r}; it must be two whole numbers >= 1, rows and "
            "columns"
        )
    if fdd.PAN_SUPERVISION == "full" and fdd.PSEUDO.LABEL_STRIDE != 4:
        raise ValueError(
            f"MODEL.FDD.PSEUDO.LABEL_STRIDE is {fdd.PSEUDO.LABEL_STRIDE}; full masks are loaded at "
            "stride 4: set it to 4"
        )
    kernel, dilation = fdd.PSEUDO.COLOR_KERNEL, fdd.PSEUDO.COLOR_DILATION
    if kernel < 1 or kernel % 2 == 0 or dilation < 1:
        raise ValueError(
            f"MODEL.FDD.PSEUDO.COLOR_KERNEL is {kernel} and COLOR_DILATION is {dilation}; the "
            "kernel must be odd, and both at least 1"
        )
