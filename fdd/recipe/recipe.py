"""A training config for a data set: what follows from its images, points and classes."""

from __future__ import annotations

import math
import os
import statistics
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode

from fdd.config import check_fdd_config
from fdd.data import filter_training_dicts
from fdd.data.dataset_files import beside
from fdd.engine.checks import count_things
from fdd.engine.configs import load_cfg, merge_cfg
from fdd.modeling.extents import LEAST_POINTS
from fdd.modeling.label_branch.location_prior import UNIT
from fdd.points.dataset_file import DatasetFile
from fdd.points.files import atomic_path
from fdd.points.wording import counted, listed
from fdd.recipe.image_size import Sizes, choose_sizes

__all__ = [
    "NETWORKS",
    "Network",
    "Recipe",
    "default_network",
    "make_recipe",
    "scaled_rate",
    "write_config",
]

# What every recipe switches on beside the published method, and what it weighs the losses with:
# here and nowhere else.
_METHOD = {
    "MODEL.FDD.LOCATION_PRIOR.ENABLED": True,
    "MODEL.FDD.LOCATION_PRIOR.EXTENT": True,
    "MODEL.FDD.CLICKS.RESIDUAL": True,
    "MODEL.FDD.PSEUDO.CLASS_AGREEMENT": 1.0,
    "MODEL.FDD.PAN.DETECTOR": "centers",
    "MODEL.FDD.PAN.TEST.SCORE_THRESH": 0.2,
    "MODEL.FDD.PSEUDO.REFINE": True,
    "MODEL.FDD.PSEUDO.SHARES": True,
}
_COLOR_WEIGHT = 0.5
# What the location prior takes, at the start, from a thing's logit over the width of a large one
# (the upper quartile), and the largest START that may be needed for it. By the median, photographs
# with things of all sizes would get a slope that cuts the large ones off around their points.
_FALL, _LARGEST_START = 3.4, 12.0
_START = 1.0  # default of MODEL.FDD.LOCATION_PRIOR.START
# Passes over the images that the panoptic branch makes by itself.
_HEAD_EPOCHS = 20
_COLOR_WARMUP = 0.2  # of the schedule
# From here on the paper weights the auxiliary semantic loss less (Table 1).
_MANY_POINTS = 5
# Candidates for the fullest image: this many times its things, and this many more.
_ROOM_STEP, _ROOM_FACTOR, _ROOM_MORE = 25, 1.25, 25
_CANDIDATES = 100  # default of MODEL.FDD.PAN.TEST.MAX_QUERIES
# Iterations between two checkpoints, and evaluations, of a long run.
_LONGEST_PERIOD = 5000
# Losses that use the estimated labels are at full weight after this share of the schedule at last.
_LONGEST_WARMUP = 0.25
# Short side for which the configs' limit of the long side is meant, and that limit.
_USUAL_SIDES = (800, 1333)


@dataclass(frozen=True)
class Network:
    """A network that a recipe can be written for.

    Attributes:
        base: shipped config that describes it.
        rate: learning rate for batches of ``rate_batches``, least and most, images.
        batch: default number of images a step.
        cpu_batch: the same on a CPU for images or crops of ``short_side`` or more.
        head_iterations: limit of the steps of the panoptic branch alone.
        room: how far whole images of small things may exceed ``short_side``, as a factor.
        epochs, iterations: the default schedule: whichever is longer.
        cpu_iterations: limit of the default schedule on a CPU; None: no limit.
        drops: where the rate drops to a tenth, as shares of the schedule; none: it falls by cosine.
        least_side: training size in pixels (short side) that it has with large things.
        short_side: largest default training size; see :mod:`fdd.recipe.image_size`.
        few_points, many_points: weight of the auxiliary semantic loss, for fewer than five points a
            segment and for five or more.
        about: what it is, in a few words.
    """

    base: str
    rate: float
    rate_batches: tuple[int, int]
    batch: int
    cpu_batch: int
    epochs: int
    iterations: int
    cpu_iterations: int | None
    drops: tuple[float, ...]
    least_side: int
    short_side: int
    room: float
    head_iterations: int
    few_points: float
    many_points: float
    about: str


NETWORKS = {
    "resnet50": Network(
        base="Base-FDD.yaml",
        rate=0.00014,
        rate_batches=(8, 16),  # the published runs use one rate for both
        batch=8,
        cpu_batch=8,
        epochs=20,
        iterations=3000,
        cpu_iterations=None,
        drops=(0.75,),
        least_side=600,
        short_side=600,
        room=1.25,
        head_iterations=0,
        few_points=1.0,
        many_points=0.1,
        about="the published network, from ImageNet weights; for a GPU",
    ),
    "reduced": Network(
        base="Base-Reduced.yaml",
        rate=0.0014,
        rate_batches=(4, 8),
        batch=4,
        cpu_batch=2,
        epochs=20,
        iterations=300,
        cpu_iterations=600,
        drops=(),
        least_side=192,
        short_side=256,
        room=1.75,
        head_iterations=2000,
        few_points=1.0,
        many_points=0.1,
        about="a frozen ResNet-50 of ImageNet weights with small heads; for a CPU",
    ),
    "small": Network(
        base="Base-Small.yaml",
        rate=0.002,
        rate_batches=(8, 16),
        batch=8,
        cpu_batch=8,
        epochs=20,
        iterations=700,
        cpu_iterations=None,
        drops=(),
        least_side=192,
        short_side=192,
        room=1.25,
        head_iterations=0,
        few_points=1.0,
        many_points=1.0,
        about="a small one from scratch, for drawings and other plain images on a CPU",
    ),
}


@dataclass(frozen=True)
class Recipe:
    """What a config is written from (:func:`write_config`), and the figures that it follows from.

    Attributes:
        network: name in :data:`NETWORKS`.
        keys: dotted config key -> value.
        notes: dotted config key -> why it has this value.
        images: training images after filtering.
    """

    network: str
    keys: dict[str, Any]
    notes: dict[str, str]
    images: int

    def put(self, key: str, value: Any, note: str = "") -> None:
        """Add a key, and why it has its value."""
        self.keys[key] = value
        if note:
            self.notes[key] = note


def default_network(on_cpu: bool) -> str:
    """The default network.

    Args:
        on_cpu: see :func:`fdd.engine.checks.runs_on_cpu`.
    """
    return "reduced" if on_cpu else "resnet50"


def scaled_rate(rate: float, batch: int, batches: tuple[int, int]) -> float:
    """The learning rate for a batch: AdamW's steps want it to grow with the root of the batch.

    Args:
        rate: for batches of ``batches``, least and most, images.
        batch: images a step.
    """
    low, high = batches
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
    on_cpu: bool = False,
) -> Recipe:
    """Decide the keys of a training config.

    Args:
        file: the data set.
        dicts: its dataset dicts, with points.
        classes: its categories, each with ``isthing``.
        network: name in :data:`NETWORKS`.
        epochs, batch, short_side: in place of what the network, the images and the points suggest.
        on_cpu: the training has no GPU, so that it must be short.

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
    sizes = choose_sizes(
        kept,
        least_side=net.least_side,
        short_side=net.short_side,
        room=net.room,
        wanted=short_side,
    )
    if batch is None:
        large = on_cpu and sizes.train >= net.short_side
        batch = min(net.cpu_batch if large else net.batch, len(kept))
    recipe = Recipe(network, {}, {}, len(kept))
    _put_classes(recipe, classes)
    _put_labels(recipe, kept, net)
    _put_sizes(recipe, sizes)
    _put_location_prior(recipe, kept, sizes)
    recipe.put("DATASETS.TRAIN", (str(file.path),))
    note = "its validation part" if file.validation else ""
    recipe.put("DATASETS.TEST", (str(file.path),) if file.validation else (), note)
    evaluate = file.validation is not None
    _put_schedule(recipe, net, batch, epochs, evaluate=evaluate, on_cpu=on_cpu)
    return recipe


def _put_classes(recipe: Recipe, classes: Sequence[dict[str, Any]]) -> None:
    things = sum(bool(c["isthing"]) for c in classes)
    recipe.put("MODEL.FDD.NUM_THINGS", things, _names(classes, True))
    recipe.put("MODEL.FDD.NUM_STUFF", len(classes) - things, _names(classes, False))


def _put_labels(recipe: Recipe, dicts: Sequence[dict[str, Any]], net: Network) -> None:
    """What makes the labels, and what follows from the numbers of points and of things."""
    for key, value in _METHOD.items():
        recipe.put(key, value)
    recipe.notes["MODEL.FDD.PSEUDO.CLASS_AGREEMENT"] = "times LAMBDA_SEM"
    spread = "things are as large as their points say; False where these are not spread over them"
    recipe.notes["MODEL.FDD.LOCATION_PRIOR.EXTENT"] = spread
    recipe.put("MODEL.FDD.PSEUDO.COLOR_WEIGHT", _COLOR_WEIGHT)
    points = statistics.median(len(s["coords"]) for d in dicts for s in d["points"])
    recipe.put(
        "MODEL.FDD.LAMBDA_SEM",
        net.many_points if points >= _MANY_POINTS else net.few_points,
        f"{points:g} point{'' if points == 1 else 's'} a segment (median)",
    )
    # A branch that has learned sizes from extents needs one where there are few points; one that
    # was trained from single clicks has learned to do without, and does it better.
    of_things = [len(s["coords"]) for d in dicts for s in d["points"] if s["isthing"]]
    if of_things and statistics.median(of_things) >= LEAST_POINTS:
        recipe.put("MODEL.FDD.LOCATION_PRIOR.SIZES", True, "things of few points are as others")
    most = max(count_things(d) for d in dicts)
    room = _up(max(_ROOM_FACTOR * most, most + _ROOM_MORE), _ROOM_STEP)
    if room > _CANDIDATES:
        note = f"at most {counted(most, 'thing')} in an image"
        recipe.put("MODEL.FDD.PAN.TEST.MAX_QUERIES", room, note)


def _put_location_prior(recipe: Recipe, dicts: Sequence[dict[str, Any]], sizes: Sizes) -> None:
    """Let the prior fall by the size of the things: a training is too short to learn the slope, and
    among small things the default, of the image's size, tells a thing from its neighbour too late.
    """
    if sizes.width is None:
        return
    diagonal = statistics.median(
        math.hypot(d["height"], d["width"]) / min(d["height"], d["width"]) for d in dicts
    )
    slope = _FALL * UNIT * diagonal / sizes.width.large_share
    start = math.log(math.expm1(slope)) if slope < _LARGEST_START else _LARGEST_START
    if start > _START:
        note = f"of a thing of one or two points, falls by {_FALL:g} over the width of a large one"
        recipe.put("MODEL.FDD.LOCATION_PRIOR.START", round(start, 1), note)


def _put_sizes(recipe: Recipe, sizes: Sizes) -> None:
    recipe.put("INPUT.MIN_SIZE_TRAIN", (sizes.train,), sizes.why)
    recipe.put("INPUT.MIN_SIZE_TEST", sizes.test)
    if sizes.crop is not None:
        recipe.put("INPUT.CROP.ENABLED", True)
        recipe.put(
            "INPUT.CROP.TYPE", "relative", "so crops have the scale of whole images in tests"
        )
        recipe.put("INPUT.CROP.SIZE", [sizes.crop, sizes.crop])
    if sizes.test > _USUAL_SIDES[0]:
        # Or the usual limit of the long side makes the short one smaller.
        longest = math.ceil(sizes.test * _USUAL_SIDES[1] / _USUAL_SIDES[0])
        recipe.put("INPUT.MAX_SIZE_TRAIN", longest)
        recipe.put("INPUT.MAX_SIZE_TEST", longest)


def _put_schedule(
    recipe: Recipe,
    net: Network,
    batch: int,
    epochs: int | None,
    *,
    evaluate: bool,
    on_cpu: bool,
) -> None:
    """Batch size, learning rate and iterations, for the given epochs or the network's."""
    epoch = math.ceil(recipe.images / batch)
    iterations = epoch * (epochs or max(net.epochs, math.ceil(net.iterations / epoch)))
    most = (net.cpu_iterations if on_cpu and epochs is None else None) or iterations
    cut = iterations > most
    iterations = min(iterations, most)
    recipe.put("SOLVER.IMS_PER_BATCH", batch)
    rate = scaled_rate(net.rate, batch, net.rate_batches)
    recipe.put("SOLVER.BASE_LR", rate, f"for {counted(batch, 'image')} a step")
    passes = iterations / epoch
    why = (
        f"{f'{passes:.3g} epochs' if cut else counted(round(passes), 'epoch')} of "
        f"{counted(epoch, 'step')}: {counted(recipe.images, 'image')}, {batch} a step"
    )
    why += ". More would take long on a CPU; --epochs changes it" if cut else ""
    recipe.put("SOLVER.MAX_ITER", iterations, why)
    recipe.put("SOLVER.STEPS", tuple(round(share * iterations) for share in net.drops))
    if not net.drops:  # its schedule begins with a rising rate
        recipe.put("SOLVER.WARMUP_ITERS", min(50, iterations // 10))
    head = min(net.head_iterations, _HEAD_EPOCHS * epoch)
    if head:
        note = "then the panoptic branch alone, for a fraction of the time a step"
        recipe.put("SOLVER.HEAD_ITERS", head, note)
    recipe.put("MODEL.FDD.PSEUDO.COLOR_WARMUP", round(_COLOR_WARMUP * iterations))
    if epoch > _LONGEST_WARMUP * iterations:  # the default warm-up is an epoch
        recipe.put("MODEL.FDD.WARMUP_ITERS", round(_LONGEST_WARMUP * iterations))
    period = min(_LONGEST_PERIOD, max(1, iterations // 5))
    recipe.put("SOLVER.CHECKPOINT_PERIOD", period)
    if on_cpu:  # where an evaluation takes a good part of the time
        period = max(1, iterations // 2)
    recipe.put("TEST.EVAL_PERIOD", period if evaluate else 0)


def _up(number: float, step: int) -> int:
    return step * math.ceil(number / step)


def _names(classes: Sequence[dict[str, Any]], isthing: bool) -> str:
    names = [str(c["name"]) for c in classes if bool(c["isthing"]) is isthing]
    text = listed(names, 8)
    # It becomes a comment, which a line break of any kind would end.
    return "".join(c if c.isprintable() else " " for c in text)


_WIDTH = 96


def write_config(
    recipe: Recipe, path: str | os.PathLike[str], overrides: Sequence[str] = ()
) -> None:
    """Write a recipe as a config, if that is valid; data sets by their path from its folder.

    Args:
        recipe: what to write.
        path: the YAML file; replaced if it is there.
        overrides: config keys and values, in pairs, that are written in place of the recipe's.

    Raises:
        ValueError: an override that is not a key or has an invalid value; ``path`` is the data set
            file.
    """
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
                line, note = f"{indent}{name}: {_literal(value[0])}", value[1]
                if len(line) + len(note) > _WIDTH:  # above it, in lines of its own
                    lines.extend(f"{indent}# {part}" for part in textwrap.wrap(note, _WIDTH))
                    note = ""
                lines.append(f"{line}  # {note}" if note else line)

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
