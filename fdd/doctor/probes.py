"""The probes: what is installed and available here, and whether attention and a small model run.

PyTorch and Detectron2 are imported inside the probes: that they cannot be imported is a finding.
"""

from __future__ import annotations

import importlib
import os
import platform
import shutil
import time
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import Any

from fdd.checkout import checkout_commit
from fdd.doctor.report import Section, first_line

__all__ = ["PROBES", "diagnose"]

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

_SHAPES = ((32, 32), (16, 16), (8, 8), (4, 4))
_HEADS, _DIM, _POINTS = 8, 32, 4
_CONFIG = "shapes/Base-Shapes.yaml"
_SIDE = 96


def software(section: Section, slow: bool) -> None:
    """Software."""
    from fdd import __version__

    section.lines["fdd"] = f"{__version__}{_commit()}"
    section.lines["Python"] = f"{platform.python_version()} ({platform.python_implementation()})"
    section.lines["platform"] = platform.platform()
    for name, fix, needed in _PACKAGES:
        if name == "triton" and "cuda" not in used_device_types():
            continue
        section.attempt(name, partial(_version, name), fix, needed)
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


def attention(section: Section, slow: bool) -> None:
    """Deformable attention, forward and backward at 32 x 32 cells."""
    for device in used_device_types():
        times = {}
        for backend in _backends(device):
            name = f"{backend} on {device}"
            if backend == "compiled" and not slow:
                section.lines[name] = "not tried (half a minute of compiling): --slow tries it"
                continue
            seconds = section.attempt(
                name,
                partial(_time_attention, backend, device),
                f"Do not set MODEL.FDD.ATTENTION_BACKEND to '{backend}' here",
                broken=backend == "torch",
            )
            if seconds is not None:
                times[name] = seconds
        fastest = min(times.values(), default=0.0)
        for name, seconds in times.items():
            section.lines[name] = f"{1000 * seconds:.1f} ms ({seconds / fastest:.1f} x the fastest)"
        section.attempt(
            f"auto on {device}",
            partial(_chosen, device),
            "Set MODEL.FDD.ATTENTION_BACKEND to one that works",
        )


def step(section: Section, slow: bool) -> None:
    """One training step and one prediction of a small model."""
    for device in used_device_types():
        section.attempt(
            device,
            partial(_try_model, device),
            "Training cannot work so; `fdd doctor --debug` shows the whole error, for a bug report",
        )


PROBES = (software, hardware, data, attention, step)


def diagnose(slow: bool = False, probes: Sequence[Any] = PROBES) -> list[Section]:
    """Run every probe, whatever happens in another.

    Args:
        slow: also try what takes longer than a few seconds (the compiled attention).
        probes: functions of a :class:`Section` and ``slow``; their docstrings' first lines are the
            titles.
    """
    sections = []
    for probe in probes:
        section = Section((probe.__doc__ or probe.__name__).splitlines()[0].rstrip("."))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                probe(section, slow)
            # As in Section.attempt.
            except Exception as error:
                fix = "It may follow from another problem; else see INSTALL.md"
                section.problem(first_line(error), fix, trace=traceback.format_exc())
        sections.append(section)
    return sections


def used_device_types() -> list[str]:
    """ "cpu", and "cuda" where PyTorch finds a GPU."""
    try:
        import torch

        return ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    # The probe of the software reports it.
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


def _backends(device: str) -> list[str]:
    """Those that are meant for a kind of device; "auto" takes one of them."""
    from fdd.modeling.layers.deform_attn import attention_backend_names

    elsewhere = {"cpu": "triton", "cuda": "compiled"}[device]
    return [name for name in attention_backend_names() if name not in ("auto", elsewhere)]


def _inputs(device: str) -> list[Any]:
    import torch

    generator = torch.Generator().manual_seed(0)
    cells = sum(h * w for h, w in _SHAPES)
    samples = (1, cells, _HEADS, len(_SHAPES), _POINTS)
    value = torch.randn(1, cells, _HEADS, _DIM, generator=generator)
    locations = torch.rand(*samples, 2, generator=generator)
    weights = torch.rand(*samples, generator=generator)
    return [x.to(device).requires_grad_() for x in (value, locations, weights)]


def _time_attention(backend: str, device: str) -> float:
    """Seconds of a forward and backward pass, the best of three after a first one."""
    from fdd.modeling.layers import ms_deform_attn

    value, locations, weights = _inputs(device)

    def run() -> None:
        ms_deform_attn(value, _SHAPES, locations, weights, backend).sum().backward()

    return min(_seconds(run, device) for _ in range(4))


def _chosen(device: str) -> str:
    from fdd.modeling.layers.deform_attn.backends import choose

    value, _, weights = _inputs(device)
    return f"takes {choose('auto', value, weights).name}"


def _try_model(device: str) -> str:
    import torch
    from detectron2.utils.events import EventStorage

    import fdd.modeling  # noqa: F401  registers the meta-architecture
    from fdd.config_files import get_config_file
    from fdd.profiling.step import step_cfg, training_step

    cfg = step_cfg(get_config_file(_CONFIG), device=device)
    with torch.random.fork_rng(), EventStorage():
        torch.manual_seed(0)
        model, forward = training_step(cfg, _SIDE, _SIDE, instances=3)
        found: list[float] = []

        def train() -> None:
            loss = forward()
            loss.backward()
            found.append(float(loss))

        trained = _seconds(train, device)
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        if (
            not all(bool(g.isfinite().all()) for g in gradients)
            or not torch.tensor(found).isfinite()
        ):
            raise RuntimeError(f"the loss is {found[0]}, and it or its gradients are not finite")
        model.eval()
        image = {"image": torch.full((3, _SIDE, _SIDE), 127, dtype=torch.uint8)}
        with torch.no_grad():
            predicted = _seconds(lambda: model([image]), device)
    return (
        f"loss {found[0]:.2f}, finite; {trained:.2f} s to train, {predicted:.2f} s to predict "
        f"({_SIDE} x {_SIDE} px, first use)"
    )


def _seconds(function: Callable[[], object], device: str) -> float:
    import torch

    def wait() -> None:
        if device != "cpu":
            torch.cuda.synchronize()

    wait()
    start = time.perf_counter()
    function()
    wait()
    return time.perf_counter() - start
