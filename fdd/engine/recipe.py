"""A training config for somebody's data set: what follows from its images, points and classes."""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode

from fdd.config import check_fdd_config
from fdd.data import filter_training_dicts
from fdd.data.dataset_files import beside
from fdd.points.dataset_file import DatasetFile
from fdd.points.files import atomic_path

from .checks import count_things

__all__ = ["NETWORKS", "Network", "Recipe", "make_recipe", "scaled_rate", "write_config"]

# Batches for which a network's rate is meant: the published runs use one rate for both.
_RATE_BATCHES = (8, 16)
# From here on the paper weights the auxiliary semantic loss less (Table 1).
_MANY_POINTS = 5
_QUERIES_STEP = 50
# Short side for which the configs' limit of the long side is meant, and that limit.
_USUAL_SIDES = (800, 1333)


@dataclass(frozen=True)
class Network:
    """A network that a recipe can be written for.

    Attributes:
        base: shipped config that describes it.
        rate: learning rate for batches of 8 to 16 images.
        batch: images a step, if nobody says.
        epochs, iterations: the schedule, if nobody says: whichever is longer.
        drops: where the rate drops to a tenth, as shares of the schedule; none: it falls by cosine.
        short_side: largest training size in pixels, if nobody says.
        queries: detection queries of the base config.
        few_points, many_points: weight of the auxiliary semantic loss, for fewer than five points a
            segment and for five or more.
        about: what it is, in a few words.
    """

    base: str
    rate: float
    batch: int
    epochs: int
    iterations: int
    drops: tuple[float, ...]
    short_side: int
    queries: int
    few_points: float
    many_points: float
    about: str


NETWORKS = {
    "resnet50": Network(
        base="Base-FDD.yaml",
        rate=0.00014,
        batch=8,
        epochs=20,
        iterations=3000,
        drops=(0.75,),
        short_side=600,
        queries=300,
        few_points=1.0,
        many_points=0.1,
        about="the published network, from ImageNet weights; for a GPU",
    ),
    "small": Network(
        base="Base-Small.yaml",
        rate=0.002,
        batch=8,
        epochs=20,
        iterations=700,
        drops=(),
        short_side=192,
        queries=30,
        few_points=1.0,
        many_points=1.0,
        about="a small one from scratch, for small images and a CPU",
    ),
}


@dataclass(frozen=True)
class Recipe:
    """What :func:`write_config` writes, and the figures that it follows from.

    Attributes:
        network: name in :data:`NETWORKS`.
        keys: dotted config key -> value.
        notes: dotted config key -> why it has this value.
        images: training images after filtering.
        epochs: passes over them.
    """

    network: str
    keys: dict[str, Any]
    notes: dict[str, str]
    images: int
    epochs: int


def scaled_rate(rate: float, batch: int) -> float:
    """The learning rate for a batch: AdamW's steps want it to grow with the root of the batch.

    Args:
        rate: for batches of 8 to 16 images, to which the published runs give the same rate.
        batch: images a step.
    """
    low, high = _RATE_BATCHES
    return float(f"{rate * math.sqrt(batch / min(max(batch, low), high)):.3g}")


def make_recipe(
    file: DatasetFile,
    dicts: Sequence[dict[str, Any]],
    classes: Sequence[dict[str, Any]],
    *,
    network: str = "resnet50",
    epochs: int | None = None,
    batch: int | None = None,
    short_side: int | None = None,
) -> Recipe:
    """Decide the keys of a training config.

    Args:
        file: the data set.
        dicts: its dataset dicts, with points.
        classes: its categories, each with ``isthing``.
        network: name in :data:`NETWORKS`.
        epochs, batch, short_side: in place of what the network and the images suggest.

    Raises:
        ValueError: an unknown network, a number below 1, or no image that can be trained on.
    """
    if network not in NETWORKS:
        raise ValueError(f"network {network!r}; allowed: {', '.join(NETWORKS)}")
    for name, value in (("epochs", epochs), ("batch", batch), ("short_side", short_side)):
        if value is not None and value < 1:
            raise ValueError(f"{name} is {value}; it must be at least 1")
    kept, _ = filter_training_dicts(dicts, require_thing=False, min_side=32)
    net = NETWORKS[network]
    batch = batch or min(net.batch, len(kept))
    epoch = math.ceil(len(kept) / batch)
    epochs = epochs or max(net.epochs, math.ceil(net.iterations / epoch))
    iterations = epoch * epochs
    side = short_side or _suggest_side(kept, net)
    keys: dict[str, Any] = {}
    notes: dict[str, str] = {}

    def put(key: str, value: Any, note: str = "") -> None:
        keys[key] = value
        if note:
            notes[key] = note

    things = sum(bool(c["isthing"]) for c in classes)
    put("MODEL.FDD.NUM_THINGS", things, _names(classes, True))
    put("MODEL.FDD.NUM_STUFF", len(classes) - things, _names(classes, False))
    points = statistics.median(len(s["coords"]) for d in kept for s in d["points"])
    many = points >= _MANY_POINTS
    put(
        "MODEL.FDD.LAMBDA_SEM",
        net.many_points if many else net.few_points,
        f"{points:g} points a segment (median)",
    )
    most = max(count_things(d) for d in kept)
    queries = net.queries
    if 2 * most > queries:
        queries = _QUERIES_STEP * math.ceil(2 * most / _QUERIES_STEP)
    put("MODEL.FDD.PAN.NUM_QUERIES", queries, f"at most {most} things in an image")
    put("INPUT.MIN_SIZE_TRAIN", (side,), "short side in pixels that images are resized to")
    put("INPUT.MIN_SIZE_TEST", side)
    if side > _USUAL_SIDES[0]:  # or the usual limit of the long side makes the short one smaller
        longest = math.ceil(side * _USUAL_SIDES[1] / _USUAL_SIDES[0])
        put("INPUT.MAX_SIZE_TRAIN", longest)
        put("INPUT.MAX_SIZE_TEST", longest)
    put("DATASETS.TRAIN", (str(file.path),))
    put("DATASETS.TEST", (str(file.path),) if file.validation else ())
    put("SOLVER.IMS_PER_BATCH", batch)
    put("SOLVER.BASE_LR", scaled_rate(net.rate, batch), f"for {_count(batch, 'image')} a step")
    put(
        "SOLVER.MAX_ITER",
        iterations,
        f"{_count(epochs, 'epoch')} of {_count(epoch, 'step')}: {_count(len(kept), 'image')}, "
        f"{batch} a step",
    )
    put("SOLVER.STEPS", tuple(round(share * iterations) for share in net.drops))
    if not net.drops:  # its schedule begins with a rising rate
        put("SOLVER.WARMUP_ITERS", min(50, iterations // 10))
    period = max(1, iterations // 5)
    put("SOLVER.CHECKPOINT_PERIOD", period)
    put("TEST.EVAL_PERIOD", period if file.validation else 0)
    return Recipe(network, keys, notes, len(kept), epochs)


def write_config(
    recipe: Recipe, path: str | os.PathLike[str], overrides: Sequence[str] = ()
) -> None:
    """Write a recipe as a config, if it is a sound one; data sets by their path from its folder.

    Args:
        recipe: what to write.
        path: the YAML file; replaced if it is there.
        overrides: config keys and values, in pairs, that are written in place of the recipe's.

    Raises:
        ValueError: for an override that is no config key, or has no sound value; for the path of a
            data set file.
    """
    from .configs import load_cfg, merge_cfg

    target = Path(path).absolute()
    for file in filter(os.path.exists, recipe.keys["DATASETS.TRAIN"]):
        if target.exists() and os.path.samefile(target, file):
            raise ValueError(f"{path} is the data set file; name another file to write")
    network = NETWORKS[recipe.network]
    merge_cfg(f"fdd://{network.base}", overrides)  # so that a mistake is the command line's
    keys, notes = dict(recipe.keys), dict(recipe.notes)
    for key, text in zip(overrides[::2], overrides[1::2], strict=True):
        value = CfgNode._decode_cfg_value(text)
        keys[key] = text if isinstance(value, str) else value  # a text is decoded when it is read
        notes[key] = "given on the command line"
    for key in ("DATASETS.TRAIN", "DATASETS.TEST"):
        entries = [beside(entry, Path.cwd()) for entry in keys[key]]
        keys[key] = tuple(_relative(entry, target.parent) for entry in entries)
    head = (
        f"# Written by fdd init-config. {recipe.network}: {network.about}.\n"
        f'_BASE_: "fdd://{network.base}"\n'
    )
    with atomic_path(target) as temporary:
        temporary.write_text(head + _nested(keys, notes), encoding="utf-8")
        try:
            cfg, _ = load_cfg(temporary)
            check_fdd_config(cfg)
        except ValueError as error:
            raise ValueError(str(error).replace(str(temporary), str(path))) from error


def _suggest_side(dicts: Sequence[dict[str, Any]], net: Network) -> int:
    """The network's size, but not more than twice the images' own: larger ones show no more."""
    own = statistics.median(min(d["height"], d["width"]) for d in dicts)
    return min(net.short_side, max(64, 32 * round(2 * own / 32)))


def _names(classes: Sequence[dict[str, Any]], isthing: bool) -> str:
    names = [str(c["name"]) for c in classes if bool(c["isthing"]) is isthing]
    text = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    # It becomes a comment, which a line break of any kind would end.
    return "".join(c if c.isprintable() else " " for c in text)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _relative(entry: Any, folder: Path) -> Any:
    if not (isinstance(entry, str) and os.path.isabs(entry)):  # a registered name
        return entry
    try:
        return Path(os.path.relpath(entry, folder)).as_posix()
    except ValueError:  # on another drive
        return entry


def _nested(keys: dict[str, Any], notes: dict[str, str]) -> str:
    """The keys as indented YAML, in their order, with the notes as comments."""
    tree: dict[str, Any] = {}
    for key, value in keys.items():
        *nodes, leaf = key.split(".")
        place = tree
        for node in nodes:
            place = place.setdefault(node, {})
        place[leaf] = (value, notes.get(key, ""))
    lines: list[str] = []

    def write(node: dict[str, Any], indent: str) -> None:
        for name, value in node.items():
            if isinstance(value, dict):
                lines.append(f"{indent}{name}:")
                write(value, indent + "  ")
            else:
                comment = f"  # {value[1]}" if value[1] else ""
                lines.append(f"{indent}{name}: {_literal(value[0])}{comment}")

    write(tree, "")
    return "\n".join(lines) + "\n"


def _literal(value: Any) -> str:
    """Numbers as Detectron2's configs write them, whose tuples are read from their text; texts
    quoted, because paths may hold what YAML has a meaning for."""
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return '"' + "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in escaped) + '"'
    if isinstance(value, (tuple, list)) and any(isinstance(v, str) for v in value):
        return f"[{', '.join(map(_literal, value))}]"
    return repr(value)
