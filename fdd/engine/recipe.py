"""A training config for somebody's data set: what follows from its images, points and classes."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fdd.data import filter_training_dicts
from fdd.points.dataset_file import DatasetFile

from .checks import count_things

__all__ = ["NETWORKS", "Network", "Recipe", "make_recipe", "scaled_rate"]

# Batches for which a network's rate is meant: the published runs use one rate for both.
_RATE_BATCHES = (8, 16)
# From here on the paper weights the auxiliary semantic loss less (Table 1).
_MANY_POINTS = 5
_QUERIES_STEP = 50
# Iterations between two checkpoints, and evaluations, of a long run.
_LONGEST_PERIOD = 5000
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
    """What a config is written from (``recipe_file.py``), and the figures that it follows from.

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

    def put(self, key: str, value: Any, note: str = "") -> None:
        """Add a key, and why it has its value."""
        self.keys[key] = value
        if note:
            self.notes[key] = note


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
    recipe = Recipe(network, {}, {}, len(kept), epochs)
    _put_classes(recipe, classes)
    _put_labels(recipe, kept, net)
    _put_sizes(recipe, short_side or _suggest_side(kept, net))
    recipe.put("DATASETS.TRAIN", (str(file.path),))
    recipe.put("DATASETS.TEST", (str(file.path),) if file.validation else ())
    _put_schedule(recipe, net, batch, epoch, evaluate=file.validation is not None)
    return recipe


def _put_classes(recipe: Recipe, classes: Sequence[dict[str, Any]]) -> None:
    things = sum(bool(c["isthing"]) for c in classes)
    recipe.put("MODEL.FDD.NUM_THINGS", things, _names(classes, True))
    recipe.put("MODEL.FDD.NUM_STUFF", len(classes) - things, _names(classes, False))


def _put_labels(recipe: Recipe, dicts: Sequence[dict[str, Any]], net: Network) -> None:
    """What follows from the numbers of points and of things."""
    points = statistics.median(len(s["coords"]) for d in dicts for s in d["points"])
    recipe.put(
        "MODEL.FDD.LAMBDA_SEM",
        net.many_points if points >= _MANY_POINTS else net.few_points,
        f"{points:g} points a segment (median)",
    )
    most = max(count_things(d) for d in dicts)
    queries = net.queries
    if 2 * most > queries:
        queries = _QUERIES_STEP * math.ceil(2 * most / _QUERIES_STEP)
    recipe.put("MODEL.FDD.PAN.NUM_QUERIES", queries, f"at most {most} things in an image")


def _put_sizes(recipe: Recipe, side: int) -> None:
    recipe.put("INPUT.MIN_SIZE_TRAIN", (side,), "short side in pixels that images are resized to")
    recipe.put("INPUT.MIN_SIZE_TEST", side)
    if side > _USUAL_SIDES[0]:  # or the usual limit of the long side makes the short one smaller
        longest = math.ceil(side * _USUAL_SIDES[1] / _USUAL_SIDES[0])
        recipe.put("INPUT.MAX_SIZE_TRAIN", longest)
        recipe.put("INPUT.MAX_SIZE_TEST", longest)


def _put_schedule(recipe: Recipe, net: Network, batch: int, epoch: int, *, evaluate: bool) -> None:
    """Batch, rate, and iterations for the epochs, of ``epoch`` steps each."""
    iterations = epoch * recipe.epochs
    recipe.put("SOLVER.IMS_PER_BATCH", batch)
    rate = scaled_rate(net.rate, batch)
    recipe.put("SOLVER.BASE_LR", rate, f"for {_count(batch, 'image')} a step")
    recipe.put(
        "SOLVER.MAX_ITER",
        iterations,
        f"{_count(recipe.epochs, 'epoch')} of {_count(epoch, 'step')}: "
        f"{_count(recipe.images, 'image')}, {batch} a step",
    )
    recipe.put("SOLVER.STEPS", tuple(round(share * iterations) for share in net.drops))
    if not net.drops:  # its schedule begins with a rising rate
        recipe.put("SOLVER.WARMUP_ITERS", min(50, iterations // 10))
    period = min(_LONGEST_PERIOD, max(1, iterations // 5))
    recipe.put("SOLVER.CHECKPOINT_PERIOD", period)
    recipe.put("TEST.EVAL_PERIOD", period if evaluate else 0)


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
