"""One small JSON a run: what was run, where, and what came out. Finished runs are known by it."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode, get_cfg

from fdd.ablations.tables import Setting
from fdd.checkout import checkout_commit
from fdd.config import add_fdd_config
from fdd.points.files import atomic_path

# Where a run is done and kept, not what is computed.
_PLACE = (
    "OUTPUT_DIR",
    "SEED",
    "MODEL.DEVICE",
    "MODEL.WEIGHTS",
    "DATALOADER.NUM_WORKERS",
    "SOLVER.CHECKPOINT_PERIOD",
    "VERSION",
)
# Names of data sets, or paths of the files that describe them.
_DATASETS = {"DATASETS.TRAIN", "DATASETS.TEST"}


@dataclass(frozen=True)
class Run:
    """One training: a setting and a seed."""

    setting: Setting
    seed: int

    @property
    def group(self) -> str:
        """The data it is run on: the folder of its results."""
        return self.setting.data

    @property
    def name(self) -> str:
        """``P10/default-s1``: its place below the folder of the data."""
        return f"{self.setting.points}/{self.setting.slug}-s{self.seed}"

    def record(self, folder: Path) -> Path:
        """Where the result lies below ``folder``."""
        return folder / self.group / f"{self.name}.json"


def config_digest(cfg: CfgNode) -> str:
    """Ten hex digits over what the config says otherwise than the defaults.

    Keys that are added later, with a default that changes nothing, leave it as it is; so do keys
    that say where a run is kept, the path of the weights (records have its name), and the folder of
    a data set file.
    """
    default = get_cfg()
    add_fdd_config(default)
    base, own = _flat(default), _flat(cfg)
    changed = {k: v for k, v in own.items() if k not in _PLACE and base.get(k) != v}
    for key in _DATASETS & changed.keys():
        changed[key] = [os.path.basename(name) for name in changed[key]]
    text = json.dumps(changed, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=5).hexdigest()


def _flat(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in node.items():
        if isinstance(value, Mapping):
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat


def write_record(path: Path, content: Mapping[str, Any]) -> None:
    """Write a record whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def read_record(path: Path, digest: str | None = None) -> dict[str, Any] | None:
    """A finished run's record; None where there is none, or one of another config.

    Raises:
        ValueError: the file is not a record.
    """
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        found = content["config_digest"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path}: no record of a run ({error!r}); delete it to run again"
        ) from error
    return None if digest is not None and found != digest else content


def describe_machine(device: str) -> dict[str, Any]:
    """Commit, versions and hardware of this process.

    Args:
        device: ``MODEL.DEVICE``.
    """
    device = torch.cuda.get_device_name(device) if device.startswith("cuda") else device
    return {
        "commit": _commit(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": device,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "cpu": _cpu_name(),
    }


def _cpu_name() -> str:
    """As the machine calls its processor; ``platform`` knows only the family on Linux."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def _commit() -> str | None:
    """Short hash of the checkout, with a plus sign where the package differs from it."""
    found = checkout_commit("fdd", "configs")
    return found[0] + "+" * found[1] if found and found[0] else None
