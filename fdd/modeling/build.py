"""From the config's ``MODEL.FDD`` node to modules; the only place that knows both."""

from __future__ import annotations

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec

from fdd.modeling.distance_embedding import DistanceEmbedding
from fdd.modeling.encoder import DeformableEncoder
from fdd.modeling.label_branch.branch import PseudoLabelBranch
from fdd.modeling.label_branch.criterion import PseudoLossSettings
from fdd.modeling.label_branch.location_prior import LocationPrior
from fdd.modeling.label_branch.query_generator import QueryGenerator
from fdd.modeling.label_makers import available_sources, check_label_makers, get_label_maker
from fdd.modeling.panoptic_branch import LossSettings, PanopticBranch, PointBoxes
from fdd.modeling.pseudo_labels.click_residual import ClickSettings
from fdd.modeling.pseudo_labels.estimation import LabelSettings


def build_encoder(fdd: CfgNode, shapes: dict[str, ShapeSpec]) -> DeformableEncoder:
    """Encoder over ``MODEL.FDD.IN_FEATURES``.

    Raises:
        ValueError: when the backbone does not give one of these maps, or with other strides.
    """
    missing = [f for f in fdd.IN_FEATURES if f not in shapes]
    if missing:
        raise ValueError(
            f"MODEL.FDD.IN_FEATURES names {missing}; the backbone gives {sorted(shapes)}: "
            "add them to the backbone's OUT_FEATURES or change IN_FEATURES"
        )
    return DeformableEncoder(
        in_channels=[shapes[f].channels for f in fdd.IN_FEATURES],
        in_strides=[shapes[f].stride for f in fdd.IN_FEATURES],
        dim=fdd.HIDDEN_DIM,
        num_heads=fdd.NUM_HEADS,
        ffn_dim=fdd.ENCODER.FFN_DIM,
        num_layers=fdd.ENCODER.NUM_LAYERS,
        num_points=fdd.ENCODER.NUM_POINTS,
        dropout=fdd.ENCODER.DROPOUT,
        use_checkpoint=fdd.CHECKPOINT,
    )


def build_label_branch(
    fdd: CfgNode,
) -> tuple[QueryGenerator | None, PseudoLabelBranch | None]:
    """The training-only parts, as far as the label maker needs them: None where it is a rule or
    full masks, the semantic branch alone where it needs no more."""
    needs = get_label_maker(_label_maker(fdd)).needs
    if not needs & {"instance", "semantic"}:
        return None, None
    generator = QueryGenerator(
        dim=fdd.HIDDEN_DIM,
        source=fdd.QUERY_SOURCE,
        features=fdd.QUERY_GEN.FEATURES,
        add_pos=fdd.QUERY_GEN.ADD_POS,
        kernel=fdd.QUERY_GEN.KERNEL,
        norm=fdd.QUERY_GEN.NORM,
        embedding_size=tuple(fdd.EMBEDDING2D_SIZE),
    )
    run_instances = "instance" in needs
    branch = PseudoLabelBranch(
        dim=fdd.HIDDEN_DIM,
        num_classes=fdd.NUM_THINGS + fdd.NUM_STUFF,
        num_heads=fdd.NUM_HEADS,
        ffn_dim=fdd.PSEUDO.FFN_DIM,
        num_layers=fdd.PSEUDO.NUM_LAYERS,
        run_instances=run_instances,
        run_semantic=fdd.LAMBDA_SEM > 0,
        share_layers=fdd.SHARE_LAYERS,
        share_pos=fdd.SHARE_POS,
        inject=fdd.INJECT,
        logit_head=fdd.PSEUDO.LOGIT_HEAD,
        deep_supervision=fdd.PSEUDO.DEEP_SUPERVISION,
        position_std=fdd.PSEUDO.POSITION_STD,
        residual_init=fdd.PSEUDO.RESIDUAL_INIT,
        location_prior=build_location_prior(fdd) if run_instances else None,
        use_checkpoint=fdd.CHECKPOINT,
    )
    return generator if run_instances else None, branch


def build_location_prior(fdd: CfgNode) -> LocationPrior | None:
    """The location prior, if the config has it and there are things to have a place."""
    if not fdd.LOCATION_PRIOR.ENABLED or fdd.NUM_THINGS == 0:
        return None
    return LocationPrior(num_things=fdd.NUM_THINGS, start=fdd.LOCATION_PRIOR.START)


def _label_maker(fdd: CfgNode) -> str:
    return "full" if fdd.PAN_SUPERVISION == "full" else fdd.LABEL_MAKER


def build_distance_embedding(cfg: CfgNode) -> DistanceEmbedding | None:
    """The embedding head, if the label maker or a baseline uses it and the config has it."""
    fdd = cfg.MODEL.FDD
    maker = get_label_maker(_label_maker(fdd))
    there = available_sources(
        maker, fdd.LAMBDA_SEM, fdd.DISTANCE.EMBEDDING, fdd.LOCATION_PRIOR.ENABLED
    )
    users = [maker, *map(get_label_maker, cfg.TEST.PSEUDO_LABELS.BASELINES)]
    if "embedding" not in there or not any("embedding" in m.needs | m.wants for m in users):
        return None
    return DistanceEmbedding(dim=fdd.HIDDEN_DIM)


def build_click_settings(fdd: CfgNode) -> ClickSettings | None:
    """How the residual of the clicks is made, or None where the config has it off."""
    if not fdd.CLICKS.RESIDUAL:
        return None
    return ClickSettings(
        tau=fdd.CLICKS.TAU,
        sigma=fdd.CLICKS.SIGMA,
        max_margin=fdd.CLICKS.MAX_MARGIN,
        rounds=fdd.CLICKS.ROUNDS,
        center=fdd.CLICKS.CENTER,
    )


def build_label_settings(cfg: CfgNode) -> LabelSettings:
    """How labels are made.

    Raises:
        ValueError: by a maker that is unknown, or needs what the config leaves out.
    """
    fdd, points = cfg.MODEL.FDD, cfg.INPUT.POINTS
    baselines = tuple(cfg.TEST.PSEUDO_LABELS.BASELINES)
    check_label_makers(
        supervision=fdd.PAN_SUPERVISION,
        maker=fdd.LABEL_MAKER,
        baselines=baselines,
        lambda_sem=fdd.LAMBDA_SEM,
        embedding=fdd.DISTANCE.EMBEDDING,
        location_prior=fdd.LOCATION_PRIOR.ENABLED,
    )
    return LabelSettings(
        maker=_label_maker(fdd),
        stride=fdd.PSEUDO.LABEL_STRIDE,
        force_points=fdd.PSEUDO.FORCE_POINTS,
        clicks=build_click_settings(fdd),
        min_prob=fdd.PSEUDO.LABEL_MIN_PROB,
        dilate_side=points.DILATE_SIDE,
        dilate_reference=points.DILATE_REFERENCE,
        baselines=baselines,
        num_things=fdd.NUM_THINGS,
        image_format=cfg.INPUT.FORMAT,
    )


def build_panoptic_branch(fdd: CfgNode) -> PanopticBranch:
    """The head that remains at test time."""
    pan = fdd.PAN
    return PanopticBranch(
        dim=fdd.HIDDEN_DIM,
        num_things=fdd.NUM_THINGS,
        num_stuff=fdd.NUM_STUFF,
        num_heads=fdd.NUM_HEADS,
        num_levels=len(fdd.IN_FEATURES) + 1,
        num_points=fdd.ENCODER.NUM_POINTS,
        num_queries=pan.NUM_QUERIES,
        location_layers=pan.LOCATION_LAYERS,
        thing_layers=pan.THING_LAYERS,
        stuff_layers=pan.STUFF_LAYERS,
        ffn_dim=pan.FFN_DIM,
        dropout=pan.DROPOUT,
        attn_tail=pan.ATTN_TAIL,
        fuse_init=pan.FUSE_INIT,
        max_detections=pan.TEST.MAX_QUERIES,
        losses=LossSettings(
            class_weight=pan.CLASS_WEIGHT,
            l1_weight=pan.L1_WEIGHT,
            giou_weight=pan.GIOU_WEIGHT,
            dice_weight=pan.DICE_WEIGHT,
            stuff_class_weight=pan.STUFF_CLASS_WEIGHT,
            alpha=pan.FOCAL_ALPHA,
            gamma=pan.FOCAL_GAMMA,
            dice_eps=pan.DICE_EPS,
            point_eps=pan.POINT_EPS,
            ratio_weighting=pan.RATIO_WEIGHTING,
            max_pos=pan.QUERY_FILTER_MAX_POS,
        ),
        use_checkpoint=fdd.CHECKPOINT,
    )


def build_point_boxes(cfg: CfgNode) -> PointBoxes | None:
    """How boxes are made of points, or None where dense labels supervise the panoptic branch."""
    if cfg.MODEL.FDD.PAN_SUPERVISION != "point":
        return None
    return PointBoxes(
        lone_side=cfg.MODEL.FDD.PAN.POINT_BOX_SIDE,
        dilate_side=cfg.INPUT.POINTS.DILATE_SIDE,
        reference=cfg.INPUT.POINTS.DILATE_REFERENCE,
    )


def build_merge_thresholds(fdd: CfgNode) -> dict[str, float]:
    """Thresholds of :func:`fdd.modeling.panoptic_branch.postprocess.merge_masks`."""
    test = fdd.PAN.TEST
    return {
        "score_threshold": test.SCORE_THRESH,
        "mask_threshold": test.MASK_THRESH,
        "thing_overlap": test.THING_OVERLAP,
        "stuff_overlap": test.STUFF_OVERLAP,
    }


def build_pseudo_loss_settings(fdd: CfgNode) -> PseudoLossSettings:
    """Weights and switches of the label branches' losses."""
    return PseudoLossSettings(
        lambda_sem=fdd.LAMBDA_SEM,
        self_train_pse=fdd.SELF_TRAIN_PSE,
        self_train_sem=fdd.SELF_TRAIN_SEM,
        self_train_weight=fdd.PSEUDO.SELF_TRAIN_WEIGHT,
        color_pse=fdd.COLOR_PSE,
        color_sem=fdd.COLOR_SEM,
        color_weight=fdd.PSEUDO.COLOR_WEIGHT,
        color_kernel=fdd.PSEUDO.COLOR_KERNEL,
        color_dilation=fdd.PSEUDO.COLOR_DILATION,
        color_threshold=fdd.PSEUDO.COLOR_THRESHOLD,
        color_warmup=fdd.PSEUDO.COLOR_WARMUP,
        class_agreement=fdd.PSEUDO.CLASS_AGREEMENT,
        embedding_weight=fdd.DISTANCE.EMBEDDING_WEIGHT,
    )
