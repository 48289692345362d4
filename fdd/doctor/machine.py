"""What is installed, and what there is to work with."""

from __future__ import annotations

import importlib
import os
import platform
import shutil
from collections.abc import Mapping
from functools import lru_cache, partial
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import Any

from fdd.checkout import checkout_commit
from fdd.doctor.examination import Section

__all__ = ["PROBES", "gib", "used_device_types"]

_INSTALL = "INSTALL.md says how"
#: Module, what to do if it cannot be imported, and whether anything works without it.
_PACKAGES = (
    ("torch", f"Install PyTorch for your system: {_INSTALL}", True),
    (
        "torchvision",
        "torch and torchvision have to be built for each other: install a pair of them, such as "
        "that of requirements/torch.txt",
        True,
    ),
    ("detectron2", f"Install Detectron2: {_INSTALL}", True),
    ("fvcore", "pip install -r requirements/runtime.txt", True),
    ("numpy", "pip install -r requirements/runtime.txt", True),
    ("scipy", "pip install -r requirements/runtime.txt", True),
    ("PIL", "pip install pillow", True),
    ("cv2", "pip install opencv-python-headless", True),
    ("pycocotools", "pip install pycocotools", True),
    ("panopticapi", f"PQ cannot be measured without it; {_INSTALL}", False),
    ("triton", "Attention on a GPU is slower without it; PyTorch for CUDA brings it along", False),
)
_LEAST_DISK, _LEAST_MEMORY = 1.0, 2.0  # GiB


def software(section: Section, slow: bool) -> None:
    """Software."""
    from fdd import __version__

    section.lines["fdd"] = f"{__version__}{_commit()}"
    section.lines["Python"] = f"{platform.python_version()} ({platform.python_implementation()})"
    section.lines["platform"] = platform.platform()
    for name, mend, needed in _PACKAGES:
        if name == "triton" and "cuda" not in used_device_types():
            continue
        section.attempt(name, partial(_version, name), mend, needed)
    section.attempt(
        "torchvision operators",
        _try_torchvision,
        "torchvision's compiled part does not fit this PyTorch: install a matching pair, such as "
        "that of requirements/torch.txt",
    )


def hardware(section: Section, slow: bool) -> None:
    """Hardware."""
    cores = os.cpu_count() or 1
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores
    section.lines["CPU cores"] = f"{cores}, {usable} of them for this process"
    free = _free_memory()
    section.lines["memory free"] = "not known on this system" if free is None else f"{free:.1f} GiB"
    if free is not None and free < _LEAST_MEMORY:
        section.problem(
            f"only {free:.1f} GiB of memory are free", "Close other programs before training", False
        )
    import torch

    asked = os.environ.get("OMP_NUM_THREADS", "not set")
    section.lines["PyTorch threads"] = f"{torch.get_num_threads()} (OMP_NUM_THREADS {asked})"
    section.lines["PyTorch built for"] = _built_for(torch)
    if not torch.cuda.is_available():
        section.lines["GPU"] = "none that PyTorch can use"
        if torch.version.cuda and shutil.which("nvidia-smi"):
            section.problem(
                f"PyTorch is built for CUDA {torch.version.cuda} and this machine has NVIDIA's "
                "driver, but no GPU can be used",
                "Look at `nvidia-smi`: the driver may be older than that CUDA version needs",
                False,
            )
        return
    for index in range(torch.cuda.device_count()):
        section.attempt(
            f"GPU {index}",
            partial(_describe_gpu, torch, index),
            "Look at `nvidia-smi`: another program may hold the GPU",
        )


def data(section: Section, slow: bool) -> None:
    """Data sets and disk."""
    from detectron2.data import DatasetCatalog

    from fdd.data.builtin import builtin_roots

    names = ("DETECTRON2_DATASETS", "FDD_DATASETS")
    for name, root in zip(names, builtin_roots(), strict=True):
        given = os.environ.get(name)
        section.lines[name] = f"{'' if given else 'not set: '}{_describe_folder(root)}"
        if given and not root.is_dir():
            section.problem(
                f"{name} is {given}, and there is no such folder",
                "Correct the variable. Data sets of your own do not need it",
                False,
            )
    built_in = [name for name in DatasetCatalog.list() if name.startswith("fdd_")]
    there = sorted(name for name in built_in if _is_on_disk(name))
    section.lines["built-in sets on disk"] = ", ".join(there) or "none"
    section.lines["working folder"] = _describe_folder(Path.cwd())
    if not os.access(Path.cwd(), os.W_OK):
        section.problem(
            f"nothing can be written to the working folder {Path.cwd()}",
            "Go to another one, or set OUTPUT_DIR to one that can be written",
            False,
        )
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    if free < _LEAST_DISK:
        section.problem(
            f"only {free:.1f} GiB of disk are free here",
            "Checkpoints need some; set OUTPUT_DIR to another disk",
            False,
        )


PROBES = (software, hardware, data)


def used_device_types() -> list[str]:
    """ "cpu", and "cuda" where PyTorch finds a GPU."""
    try:
        import torch

        return ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    # Whatever it is, the probe of the software says so.
    except Exception:
        return ["cpu"]


def gib(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"


def _commit() -> str:
    """Of a checkout, with a word on changed files; empty for an installed package."""
    found = checkout_commit(length=12)
    if found and not found[0]:
        return " (a checkout; git does not say which)"
    return f" (commit {found[0]}{', with changed files' if found[1] else ''})" if found else ""


@lru_cache(maxsize=1)
def _distributions() -> Mapping[str, list[str]]:
    return packages_distributions()


def _version(name: str) -> str:
    module = importlib.import_module(name)
    found = getattr(module, "__version__", None)
    distributions = _distributions().get(name, [])
    if found is None and distributions:
        found = version(distributions[0])
    others = [d for d in dict.fromkeys(distributions) if d.lower() != name.lower()]
    return f"{found or 'version not known'}{f' ({others[0]})' if others else ''}"


def _try_torchvision() -> str:
    import torch
    from torchvision.ops import nms

    boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 2.0, 2.1], [5.0, 5.0, 6.0, 6.0]])
    kept = nms(boxes, torch.tensor([0.9, 0.8, 0.7]), 0.5).tolist()
    if kept != [0, 2]:
        raise RuntimeError(f"torchvision.ops.nms keeps boxes {kept} of three; expected [0, 2]")
    return "work"


def _built_for(torch: Any) -> str:
    if torch.version.cuda:
        return f"CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"
    return f"ROCm {torch.version.hip}" if getattr(torch.version, "hip", None) else "the CPU only"


def _describe_gpu(torch: Any, index: int) -> str:
    name = torch.cuda.get_device_name(index)
    free, total = torch.cuda.mem_get_info(index)
    major, minor = torch.cuda.get_device_capability(index)
    return f"{name}, {gib(total)}, {gib(free)} free, compute capability {major}.{minor}"


def _free_memory() -> float | None:
    """GiB that can be had without swapping (Linux)."""
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
    except OSError:
        return None
    found = [line.split() for line in text.splitlines() if line.startswith("MemAvailable:")]
    return int(found[0][1]) / 2**20 if found else None


def _describe_folder(path: Path) -> str:
    path = path.absolute()
    if not path.is_dir():
        return f"{path} (not there)"
    writable = "" if os.access(path, os.W_OK) else ", not writable"
    return f"{path} ({gib(shutil.disk_usage(path).free)} free{writable})"


def _is_on_disk(name: str) -> bool:
    from detectron2.data import MetadataCatalog

    metadata = MetadataCatalog.get(name)
    labels = metadata.get("points_json") or metadata.get("panoptic_json")
    return os.path.exists(labels) and os.path.exists(metadata.image_root)
