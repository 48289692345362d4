"""What makes labels while there is no model: a rule that has learned nothing of the data set."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from detectron2.config import CfgNode
from detectron2.modeling import build_model

import fdd.modeling  # noqa: F401  registers the meta-architecture
from fdd.annotate.choices import PREVIEWS
from fdd.engine.checkpoint import load_backbone
from fdd.engine.checks import resolve_device, runs_on_cpu
from fdd.engine.configs import merge_cfg
from fdd.recipe.recipe import NETWORKS, default_network

__all__ = ["NEAREST", "FeatureModel", "Preview", "load_preview"]

# Short side of images whose features are compared, where no config says it: at 192 px, the size of
# the reduced network for large things, small things share a cell with what is around them.
_SIDE = 448
# Where Detectron2 has its own weights, and where what it downloads is kept.
_PREFIX, _SERVER = "detectron2://", "https://dl.fbaipublicfiles.com/detectron2/"
_CACHE = "~/.torch/iopath_cache"


@dataclass(frozen=True)
class FeatureModel:
    """A network of which only the backbone has weights.

    Attributes:
        cfg: frozen. model: an :class:`fdd.modeling.meta_arch.FDD`, in evaluation mode.
    """

    cfg: CfgNode
    model: Any


@dataclass(frozen=True)
class Preview:
    """A rule of :data:`fdd.annotate.choices.PREVIEWS`.

    Attributes:
        rule: its name as a label maker.
        name: for the reader.
        features: what ``dnn`` looks at.
    """

    rule: str
    name: str
    features: FeatureModel | None = None

    def __post_init__(self) -> None:
        if self.rule not in PREVIEWS:
            raise ValueError(f"preview {self.rule!r}; allowed: {', '.join(PREVIEWS)}")
        if (self.rule == "dnn") != (self.features is not None):
            raise ValueError("the rule 'dnn' looks at features, and no other rule does")


#: The rule without any other choice.
NEAREST = Preview("nearest", "nearest point")


def load_preview(
    rule: str,
    config_file: str | os.PathLike[str] = "",
    opts: Sequence[str] = (),
) -> Preview:
    """A preview, with a backbone if it needs one. Nothing is downloaded.

    Args:
        rule: one of :data:`fdd.annotate.choices.PREVIEWS`.
        config_file: of the network whose backbone is taken; by default the one that a training
            would begin with.
        opts: config keys and values, in pairs, such as ``MODEL.WEIGHTS``.

    Raises:
        FileNotFoundError: ``dnn``, and the weights are not on this machine.
        ValueError: an unknown rule; or weights, config or keys that do not fit.
    """
    if rule == "nearest":
        return NEAREST
    if rule != "dnn":
        return Preview(rule, "points and extents of things")
    cfg = _feature_config(config_file, opts)
    weights = _local_weights(cfg.MODEL.WEIGHTS)
    network: Any = build_model(cfg).eval()
    load_backbone(network.backbone, str(weights))
    # Nothing but the backbone runs.
    network.encoder = network.panoptic_branch = None
    return Preview(rule, f"features of {weights.name}", FeatureModel(cfg, network))


def _feature_config(config_file: str | os.PathLike[str], opts: Sequence[str]) -> CfgNode:
    base = config_file
    if not base:
        on_cpu = runs_on_cpu(merge_cfg("", opts).MODEL.DEVICE)
        base = NETWORKS[default_network(on_cpu)].base
    cfg = merge_cfg(base, opts)
    resolve_device(cfg)
    if not config_file and "INPUT.MIN_SIZE_TEST" not in opts[::2]:
        cfg.INPUT.MIN_SIZE_TEST = _SIDE
    fdd = cfg.MODEL.FDD
    fdd.NUM_THINGS = fdd.NUM_STUFF = 1  # no class has a part in it
    fdd.PAN_SUPERVISION, fdd.LABEL_MAKER = "pseudo", "dnn"
    fdd.LOCATION_PRIOR.ENABLED = fdd.DISTANCE.EMBEDDING = False
    fdd.CLICKS.RESIDUAL, fdd.PSEUDO.FORCE_POINTS = True, False  # a click keeps its place
    cfg.TEST.PSEUDO_LABELS.BASELINES = ()
    cfg.freeze()
    return cfg


def _local_weights(weights: str) -> Path:
    """The file of ``MODEL.WEIGHTS``, or the copy of it that a training has downloaded before."""
    advice = (
        "--preview dnn compares the features of a backbone, whose weights must be on this machine, "
        "as nothing is downloaded for it: give a file, such as --opts MODEL.WEIGHTS R-50.pkl (an "
        "ImageNet classifier, or a checkpoint of a training), with --config-file if it is not of "
        "the network that `fdd init-config` proposes; or choose --preview extent"
    )
    if not weights:
        raise FileNotFoundError(f"MODEL.WEIGHTS is empty. {advice}")
    if "://" not in weights:
        if not os.path.isfile(weights):
            raise FileNotFoundError(f"MODEL.WEIGHTS {weights}: no such file. {advice}")
        return Path(weights)
    if weights.startswith(_PREFIX):
        weights = _SERVER + weights.removeprefix(_PREFIX)
    cache = os.path.expanduser(os.getenv("FVCORE_CACHE", _CACHE))
    kept = Path(cache, urlsplit(weights).path.lstrip("/"))
    if not kept.is_file():
        raise FileNotFoundError(f"{kept}: no copy of {weights} is there. {advice}")
    return kept
