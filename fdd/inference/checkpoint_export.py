"""Checkpoints for inference: what training alone needs is left out, what a user needs is put in.

Such a file has the entry ``model``, so that every reader of Detectron2's checkpoints takes it, and
the entry :data:`~fdd.engine.training_record.EXPORT_KEY`, a dict of plain types:

- ``config``: YAML text without paths; keys at Detectron2's default are left out;
- ``categories``: of each contiguous class ``id``, ``name``, ``isthing`` and maybe ``color``; empty
  where they are not known;
- ``version`` of fdd, ``source`` (the file's name), ``iteration`` (or None), ``half``.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from detectron2.config import CfgNode, get_cfg
from torch import Tensor

from fdd import __version__
from fdd.data.shapes_drawing import draw_scene
from fdd.engine.run_folder import find_checkpoint
from fdd.engine.training_record import EXPORT_KEY, RECORD_KEY, read_content
from fdd.inference.trained_model import TrainedModel, load_trained
from fdd.points.files import atomic_path, check_file_writable

__all__ = ["ExportedCheckpoint", "drawn_picture", "export_checkpoint", "portable_config"]

#: Keys that say where files lie, or whom a training looks at, and their value in an export.
_NEUTRAL: dict[str, Any] = {
    "MODEL.WEIGHTS": "",
    "OUTPUT_DIR": "./output",
    "DATASETS.TRAIN": (),
    "DATASETS.TEST": (),
    "DATASETS.PROPOSAL_FILES_TRAIN": (),
    "DATASETS.PROPOSAL_FILES_TEST": (),
    "TEST.EXPECTED_RESULTS": [],
}


@dataclass(frozen=True)
class ExportedCheckpoint:
    """What :func:`export_checkpoint` did.

    Attributes:
        path, source: the new file and the one it was made of.
        bytes_before, bytes_after: their sizes.
        parameters: weights that inference uses.
        dropped: weights of the training-only parts, left out.
        changed: with half the precision, the share in [0, 1] of a drawn picture's pixels that get
            another class than before; else None.
    """

    path: Path
    source: Path
    bytes_before: int
    bytes_after: int
    parameters: int
    dropped: int
    changed: float | None = None


def export_checkpoint(
    model: str | os.PathLike[str],
    output: str | os.PathLike[str],
    config_file: str | os.PathLike[str] = "",
    opts: Sequence[str] = (),
    *,
    half: bool = False,
    weights: str | None = None,
) -> ExportedCheckpoint:
    """Write a checkpoint that has what inference needs, and nothing else.

    Args:
        model, config_file, opts: see :func:`fdd.inference.trained_model.load_trained`.
        output: a ``.pth`` file; one that is there is replaced, once the new one is complete.
        weights: of a run, ``"best"`` or ``"final"``; by default the best where there was a
            validation, as for predictions.
        half: store weights in 16 bits. They are used in 32 bits all the same; buffers (the
            statistics of norms) keep their type.

    Raises:
        FileNotFoundError: as ``load_trained``.
        ValueError: as ``load_trained``; ``output`` is a training's checkpoint or not a ``.pth``;
            or a weight is too large for 16 bits.
    """
    source = find_checkpoint(model, weights, default="best")
    output = Path(output).expanduser()
    check_output(output, source, ".pth")
    trained = load_trained(source, config_file, opts)
    state = {name: value.cpu() for name, value in trained.model.state_dict().items()}
    names = {name for name, _ in trained.model.named_parameters()}
    changed = None
    if half:
        state = {k: _halved(k, v) if k in names else v for k, v in state.items()}
        changed = _changed_share(trained, state)
    content = read_content(source)
    entry = {
        "config": portable_config(trained.cfg),
        # Through JSON, for plain types only. Generic names are left to the reader.
        "categories": json.loads(json.dumps(trained.categories)) if trained.named else [],
        "version": __version__,
        "half": half,
        **_history(content, source),
    }
    write_whole(output, lambda file: torch.save({"model": state, EXPORT_KEY: entry}, file))
    training_only = tuple(getattr(trained.model, "training_only_prefixes", ()))
    stored = content.get("model", {})
    return ExportedCheckpoint(
        path=output,
        source=source,
        bytes_before=source.stat().st_size,
        bytes_after=output.stat().st_size,
        parameters=sum(v.numel() for k, v in state.items() if k in names),
        dropped=sum(v.numel() for k, v in stored.items() if k.startswith(training_only)),
        changed=changed,
    )


def check_output(output: Path, source: Path, ending: str) -> None:
    """Refuse an output of another kind, one that would replace what training wrote, and one in a
    folder that cannot be written to."""
    if output.suffix != ending:
        raise ValueError(f"{output}: the name of this kind of file ends in {ending}")
    if output.exists() and output.samefile(source):
        raise ValueError(
            f"{output}: this is the model itself; without its training-only parts it could not be "
            "trained further. Choose another name"
        )
    if output.exists() and {RECORD_KEY, "trainer", "optimizer"} & set(read_content(output)):
        raise ValueError(
            f"{output}: a training wrote this checkpoint, and could not be resumed from an export "
            "in its place. Choose another name"
        )
    check_file_writable(output)


def write_whole(output: Path, save: Callable[[io.BytesIO], None]) -> None:
    """Write what ``save`` makes, all of it or nothing.

    Through memory: on a full disk PyTorch's own writer ends the process.
    """
    buffer = io.BytesIO()
    save(buffer)
    with atomic_path(output) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def portable_config(cfg: CfgNode) -> str:
    """The config as YAML that means the same elsewhere: no paths, and of Detectron2's keys only
    those that differ from its default, since other versions have other keys."""
    cfg = cfg.clone()
    cfg.defrost()
    for key, value in _NEUTRAL.items():
        cfg.merge_from_list([key, value])
    return yaml.safe_dump(_changes(cfg, get_cfg()), sort_keys=False, default_flow_style=None)


def drawn_picture(height: int = 256, width: int = 320) -> Tensor:
    """A drawing of shapes, always the same: uint8 (3, height, width), RGB."""
    scene = draw_scene(np.random.default_rng(0), max(height, width)).image[:height, :width]
    return torch.from_numpy(np.ascontiguousarray(scene.transpose(2, 0, 1)))


def _changes(cfg: Mapping[str, Any], stock: Mapping[str, Any]) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    for key, value in cfg.items():
        default = stock.get(key, {} if isinstance(value, dict) else None)
        if isinstance(value, dict):
            below = _changes(value, default)
            changes |= {key: below} if below else {}
        elif key not in stock or value != default:
            changes[key] = list(value) if isinstance(value, tuple) else value
    return changes


def _halved(name: str, weight: Tensor) -> Tensor:
    half = weight.half()
    if not bool(half.isfinite().all()):
        raise ValueError(
            f"{name} has a value of {weight.abs().max():.3g}, and 16 bits end at 65504: export "
            "this model without halving"
        )
    return half


@torch.no_grad()
def _changed_share(trained: TrainedModel, weights: Mapping[str, Tensor]) -> float:
    """Share of pixels whose class changes with these weights; the model keeps them."""

    def classes() -> Tensor:
        image = drawn_picture()
        if trained.cfg.INPUT.FORMAT == "BGR":
            image = image.flip(0)
        ids, segments = trained.model([{"image": image}])[0]["panoptic_seg"]
        table = torch.tensor([-1, *(s["category_id"] for s in segments)])
        return table[ids.cpu().long()]

    before = classes()
    trained.model.load_state_dict(weights)
    return float((before != classes()).float().mean())


def _history(content: Mapping[str, Any], source: Path) -> dict[str, Any]:
    """Where an export of a checkpoint says that it comes from."""
    if EXPORT_KEY in content:
        return {key: content[EXPORT_KEY].get(key) for key in ("source", "iteration")}
    return {"source": source.name, "iteration": content.get("iteration")}
