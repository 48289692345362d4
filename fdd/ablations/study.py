"""A study: a list of trainings whose labels are compared with every baseline, in one YAML file.

::

    data:
      slice:                                # what is trained on
        config: ablations/voc_slice_P10.yaml
        set: {MODEL.WEIGHTS: "${R50}"}      # for every run on it; ${...} is an environment variable
        labels: ${SETS}/slice_p10.yaml      # points (with masks) whose labels are scored; optional
        points:                             # optional: the same model given other points,
          P1: ${SETS}/slice_p1.yaml         # null: `labels` itself
          P10: null
      cells:
        dataset: ${SETS}/cells.yaml         # instead of a config: `fdd init-config` makes it
        recipe: {network: small, epochs: 20}
    settings:
      default: {}                           # config keys and values, on top of the data's
      distance: {MODEL.FDD.LABEL_MAKER: distance}
    runs:
      - {data: [slice, cells], settings: [default, distance], seeds: [1, 2, 3]}
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import CfgNode

_KEYS = {"data", "settings", "runs"}
_DATA_KEYS = {
    "config",
    "dataset",
    "recipe",
    "set",
    "labels",
    "points",
    "points_seeds",
    "baselines",
}
_RECIPE_KEYS = {"network", "epochs", "batch", "short_side"}
_RUN_KEYS = {"data", "settings", "seeds"}
_NAME = re.compile(r"[\w.+-]+")
_VARIABLE = re.compile(r"\$\{(\w+)\}")


@dataclass(frozen=True)
class StudyData:
    """What runs are trained and scored on; texts may have ``${VARIABLE}`` in them.

    Attributes:
        config: a config file, or "" where ``dataset`` is given.
        dataset: a data set file that a recipe makes the config for.
        recipe: arguments of :func:`fdd.recipe.recipe.make_recipe`.
        overrides: (key, value) pairs.
        labels: point set (with masks) whose labels are scored; "": the training set.
        points: point sets by name that the trained model is given, too; None: ``labels``.
        points_seeds: the seeds of the runs for which that is done; None: all.
        baselines: label makers to score beside the run's own; None: all that its model allows.
    """

    name: str
    config: str = ""
    dataset: str = ""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    overrides: tuple[tuple[str, Any], ...] = ()
    labels: str = ""
    points: Mapping[str, str | None] = field(default_factory=dict)
    points_seeds: tuple[int, ...] | None = None
    baselines: tuple[str, ...] | None = None


@dataclass(frozen=True)
class StudyRun:
    """One training: data, a setting and a seed."""

    data: str
    setting: str
    seed: int

    @property
    def group(self) -> str:
        """The data it is run on: the folder of its results."""
        return self.data

    @property
    def name(self) -> str:
        """``default-s1``: its place below the folder of the data."""
        return f"{self.setting}-s{self.seed}"

    def record(self, folder: Path) -> Path:
        """Where the result lies below ``folder``."""
        return folder / self.group / f"{self.name}.json"


@dataclass(frozen=True)
class Study:
    """All of it.

    Attributes:
        path: of the YAML file.
        settings: (key, value) pairs by name.
        runs: in the order in which they start: every first seed before any second one.
    """

    path: Path
    data: Mapping[str, StudyData]
    settings: Mapping[str, tuple[tuple[str, Any], ...]]
    runs: tuple[StudyRun, ...]


def read_study(path: str | os.PathLike[str]) -> Study:
    """Read and check the file; what it names is not looked at.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a key is unknown or missing, or a run names data or a setting that is not there.
    """
    where = os.fspath(path)
    content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    _check_keys(content, _KEYS, where, _KEYS)
    settings = {}
    for name, keys in content["settings"].items():
        if not isinstance(keys, dict):
            raise ValueError(f"{where}: setting {name} is {keys!r}; expected KEY: VALUE pairs")
        settings[name] = tuple(keys.items())
    for name in (*settings, *content["data"]):
        if not _NAME.fullmatch(str(name)):
            raise ValueError(f"{where}: the name {name!r} is to be a folder's; use {_NAME.pattern}")
    data = {name: _read_data(name, entry, where) for name, entry in content["data"].items()}
    runs: dict[int, list[StudyRun]] = {}
    for entry in content["runs"]:
        _check_keys(entry, _RUN_KEYS, f"{where}: runs: {entry}", _RUN_KEYS)
        for rank, seed in enumerate(entry["seeds"]):
            for name in _known(entry["data"], data, f"{where}: runs: data"):
                for setting in _known(entry["settings"], settings, f"{where}: runs: settings"):
                    runs.setdefault(rank, []).append(StudyRun(name, setting, int(seed)))
    ordered = [run for rank in sorted(runs) for run in runs[rank]]
    return Study(Path(path).absolute(), data, settings, tuple(dict.fromkeys(ordered)))


def _read_data(name: str, entry: Mapping[str, Any], where: str) -> StudyData:
    where = f"{where}: data {name}"
    _check_keys(entry, _DATA_KEYS, where)
    if ("config" in entry) == ("dataset" in entry):
        raise ValueError(f"{where}: expected either 'config' or 'dataset'")
    recipe = dict(entry.get("recipe") or {})
    _check_keys(recipe, _RECIPE_KEYS, f"{where}: recipe")
    baselines, seeds = entry.get("baselines"), entry.get("points_seeds")
    return StudyData(
        name=name,
        config=entry.get("config", ""),
        dataset=entry.get("dataset", ""),
        recipe=recipe,
        overrides=tuple((entry.get("set") or {}).items()),
        labels=entry.get("labels") or "",
        points=dict(entry.get("points") or {}),
        points_seeds=None if seeds is None else tuple(seeds),
        baselines=None if baselines is None else tuple(baselines),
    )


def _check_keys(
    node: Any, known: set[str], where: str, required: Sequence[str] | set[str] = ()
) -> None:
    if not isinstance(node, dict):
        raise ValueError(f"{where}: {node!r}; expected keys {', '.join(sorted(known))}")
    wrong = sorted(set(map(str, node)) - known) or sorted(set(required) - set(node))
    if wrong:
        kind = "unknown key" if wrong[0] in map(str, node) else "missing key"
        raise ValueError(f"{where}: {kind} {wrong[0]!r}; expected {', '.join(sorted(known))}")


def _known(names: Any, there: Mapping[str, Any], where: str) -> list[str]:
    names = [names] if isinstance(names, str) else list(names)
    for name in names:
        if name not in there:
            raise ValueError(f"{where}: {name!r} is not there; expected some of {', '.join(there)}")
    return names


def expand(text: str) -> str:
    """``text`` with its environment variables filled in.

    Raises:
        ValueError: one is not set.
    """

    def value(match: re.Match[str]) -> str:
        name = match[1]
        if not os.environ.get(name):
            raise ValueError(f"{text}: the environment variable {name} is not set")
        return os.environ[name]

    return _VARIABLE.sub(value, text)


def options_of(study: Study, run: StudyRun) -> list[str]:
    """KEY VALUE texts of a run, in the order in which they count; variables not filled in."""
    pairs = [*study.data[run.data].overrides, *study.settings[run.setting], ("SEED", run.seed)]
    return [
        text
        for key, value in dict(pairs).items()
        for text in (key, value if isinstance(value, str) else repr(value))
    ]


def shell_command(study: Study, run: StudyRun, opts: Sequence[str] = ()) -> str:
    """What a reader types to repeat the training of a run, into a folder of its own below
    ``output``."""
    data = study.data[run.data]
    folder = f"output/{run.group}_{run.name}"
    keys = (*options_of(study, run), *opts, "OUTPUT_DIR", folder)
    end = " ".join(map(_quote, keys))
    if data.config:
        return f"python train_net.py --config-file {_quote(data.config)} {end}"
    options = [f"--{key.replace('_', '-')} {value}" for key, value in data.recipe.items()]
    options += _device([*options_of(study, run), *opts])  # a recipe for a CPU is another one
    config = _quote(f"{folder}.yaml")
    recipe = " ".join(["fdd init-config", _quote(data.dataset), "--output", config, *options])
    return f"mkdir -p output && {recipe} && fdd train --config-file {config} {end}"


def _device(options: Sequence[str]) -> list[str]:
    """``MODEL.DEVICE`` among KEY VALUE texts, as KEY VALUE; empty if it is not there."""
    values = dict(zip(options[::2], options[1::2], strict=True))
    return ["MODEL.DEVICE", values["MODEL.DEVICE"]] if "MODEL.DEVICE" in values else []


def _quote(text: str) -> str:
    return f'"{text}"' if _VARIABLE.search(text) else shlex.quote(text)


def config_file(study: Study, run: StudyRun, folder: Path, opts: Sequence[str] = ()) -> str:
    """The config file of a run; one that a recipe makes is written to ``folder``.

    Args:
        opts: KEY VALUE pairs that count more than the run's own; the recipe looks at the device.

    Raises:
        FileNotFoundError, ValueError: the data set is not there or cannot be trained on.
    """
    data = study.data[run.data]
    if data.config:
        return expand(data.config)
    from detectron2.data import DatasetCatalog

    from fdd.data import get_metadata, register_dataset_file
    from fdd.engine.checks import runs_on_cpu
    from fdd.engine.configs import merge_cfg
    from fdd.points.dataset_file import read_dataset_file
    from fdd.recipe.recipe import make_recipe, write_config

    path = expand(data.dataset)
    device = _device([*map(expand, options_of(study, run)), *opts])
    name = register_dataset_file(path)
    recipe = make_recipe(
        read_dataset_file(path),
        DatasetCatalog.get(name),
        get_metadata(name).categories,
        on_cpu=runs_on_cpu(merge_cfg("", device).MODEL.DEVICE),
        **data.recipe,
    )
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / "recipe.yaml"
    write_config(recipe, target)
    return str(target)


def run_config(
    study: Study, run: StudyRun, folder: Path, opts: Sequence[str] = ()
) -> tuple[CfgNode, list[str]]:
    """The config of a run, and the arguments of ``train_net.py`` that make it.

    Args:
        folder: ``OUTPUT_DIR``; a recipe's config is written there.
        opts: KEY VALUE pairs that count more than the run's own.
    """
    from fdd.config import check_fdd_config
    from fdd.engine.configs import load_cfg

    path = config_file(study, run, folder, opts)
    keys = [*map(expand, options_of(study, run)), *opts, "OUTPUT_DIR", str(folder)]
    cfg, _ = load_cfg(path, keys)
    check_fdd_config(cfg)
    return cfg, ["--config-file", path, *keys]
