"""The inference path as a program that runs without this package (``torch.export``).

The program ends where the number of results begins to depend on the image: at the candidates, soft
masks with scores and classes. :func:`fdd.modeling.panoptic_branch.postprocess.merge_masks`, whose
file imports nothing but PyTorch, makes a panoptic map of them; :func:`run_program` does both.
"""

from __future__ import annotations

import json
import math
import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fdd import __version__
from fdd.data.augmentation import ResizeShortestEdge
from fdd.engine.run_folder import find_checkpoint
from fdd.inference.checkpoint_export import check_output, drawn_picture, write_whole
from fdd.inference.trained_model import load_trained
from fdd.modeling import FDD
from fdd.modeling.layers import use_backend, use_plain_operators
from fdd.modeling.panoptic_branch.postprocess import merge_masks

__all__ = ["ExportedProgram", "InferencePath", "export_program", "load_program", "run_program"]

#: Entry of the .pt2 file with what is needed to use the program, as JSON.
INFO_FILE = "fdd.json"
#: What only matters to speed, or cannot be traced.
_PLAIN = (
    ("MODEL.FDD.COMPILE", "False"),
    ("MODEL.FDD.CHECKPOINT", "False"),
    ("MODEL.FDD.CHANNELS_LAST", "False"),
)
#: What a program may differ by; reduced precision of a GPU's products is within it.
_LOWEST_AGREEMENT, _TOLERANCE = 0.99, 1e-2


class InferencePath(nn.Module):
    """From pixels to candidates, for one image on a canvas."""

    def __init__(self, model: FDD):
        """
        Args:
            model: in evaluation mode; its layers are told to run in a form that can be traced.
        """
        super().__init__()
        use_backend(model, "plain")
        use_plain_operators(model)
        self.model = model.requires_grad_(False)

    def forward(self, image: Tensor, image_size: Tensor) -> dict[str, Tensor]:
        """
        Args:
            image: (3, H, W), RGB in [0, 255], in the top left of a canvas whose sides the model's
                ``size_divisibility`` divides; the rest of the canvas is ignored.
            image_size: (2,) int64, height and width of the image in px.

        Returns:
            thing_masks (K, h, w) float32 in [0, inf) at stride 8 of the canvas, thing_scores (K,)
            in [0, 1], thing_classes (K,) int64; stuff_masks (S, h, w), stuff_scores (S,).
        """
        model, device = self.model, self.model.pixel_mean.device
        if model.input_format == "BGR":
            image = image.flip(0)
        height, width = image.shape[1:]
        inside = _top_left(image_size, (height, width), device)
        normal = (image - model.pixel_mean) / model.pixel_std
        features = model.backbone(torch.where(inside, normal, 0.0)[None])
        maps = model.encoder.mapper([features[f] for f in model.in_features])
        masks = []
        for stride, level in zip(model.encoder.strides, maps, strict=True):
            # As fdd.points.raster.num_valid_cells: cells whose centre is inside the image.
            cells = torch.div(stride - 2 * image_size, 2 * stride, rounding_mode="floor")
            grid = (level.shape[2], level.shape[3])
            masks.append(_top_left((-cells).clamp(min=1), grid, device)[None])
        memory = model.encoder.refine(maps, masks, padded=True)
        found = model.panoptic_branch.predict(memory)
        return {
            "thing_masks": found.thing_masks[0],
            "thing_scores": found.thing_scores[0],
            "thing_classes": found.thing_classes[0],
            "stuff_masks": found.stuff_masks[0],
            "stuff_scores": found.stuff_scores[0],
        }


def _top_left(size: Tensor, grid: tuple[int, int], device: torch.device) -> Tensor:
    """Bool map of a grid, True in its top left rectangle of (height, width) ``size``."""
    rows, columns = (torch.arange(n, device=device) for n in grid)
    return (rows < size[0])[:, None] & (columns < size[1])[None]


@dataclass(frozen=True)
class ExportedProgram:
    """What :func:`export_program` did.

    Attributes:
        path, bytes: the file and its size.
        source: the checkpoint that it was made of.
        sizes: of the images it takes, in words.
        difference: largest absolute difference of masks and scores from the model's, on a drawn
            picture.
        same: share of its pixels, in [0, 1], with the same class and segment.
    """

    path: Path
    bytes: int
    source: Path
    sizes: str
    difference: float
    same: float


@torch.no_grad()
def export_program(
    model: str | os.PathLike[str],
    output: str | os.PathLike[str],
    config_file: str | os.PathLike[str] = "",
    opts: Sequence[str] = (),
    *,
    size: tuple[int, int] | None = None,
    weights: str | None = None,
) -> ExportedProgram:
    """Write a model's :class:`InferencePath` as a ``.pt2`` file, and try it on a drawn picture.

    Args:
        model, config_file, opts: see :func:`fdd.inference.trained_model.load_trained`. The
            program runs on the CPU unless ``opts`` set ``MODEL.DEVICE``.
        output: a ``.pt2`` file, replaced once the new one is complete.
        weights: as for :func:`fdd.inference.checkpoint_export.export_checkpoint`.
        size: (H, W) of the only canvas that the program takes, made larger to be divisible; by
            default the canvas may have any size that is.

    Raises:
        FileNotFoundError, ValueError: as ``load_trained``; or ``output`` is not a ``.pt2``, the
            model is not an :class:`~fdd.modeling.FDD`, or the program does not agree with it.
    """
    source = find_checkpoint(model, weights, default="best")
    output = Path(output).expanduser()
    check_output(output, source, ".pt2")
    plain = [word for pair in _PLAIN for word in pair]
    trained = load_trained(source, config_file, ["MODEL.DEVICE", "cpu", *opts, *plain])
    if not isinstance(trained.model, FDD):
        raise ValueError(f"{source}: a {type(trained.model).__name__}; FDD models can be exported")
    info = _describe(trained.cfg, trained.model, trained.categories, size)
    picture = _picture(info)
    expected = _by_model(trained.model, picture)
    program = _trace(trained.model, info)
    got = _run(program.module(), info, picture.to(trained.model.device), _size(picture))
    difference, same = _compare(expected, got, info, picture)
    # Candidates whose order rounding cannot change.
    agrees = all(
        torch.allclose(got[name].float(), expected[name].float(), _TOLERANCE, _TOLERANCE)
        for name in ("thing_scores", "stuff_masks", "stuff_scores")
    )
    if same < _LOWEST_AGREEMENT or not agrees:
        raise ValueError(
            f"the program does not agree with the model: {same:.1%} of a drawn picture's pixels "
            f"are the same, masks and scores differ by up to {difference:.2g}; nothing was written"
        )
    extra = {INFO_FILE: json.dumps(info)}
    write_whole(output, lambda file: torch.export.save(program, file, extra_files=extra))
    words = f"up to {info['canvas'][0]} x {info['canvas'][1]} px" if info["canvas"] else "any size"
    return ExportedProgram(output, output.stat().st_size, source, words, difference, same)


def load_program(path: str | os.PathLike[str]) -> tuple[nn.Module, dict[str, Any]]:
    """The program of a file (see :meth:`InferencePath.forward`), and what is known of it.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not an exported model.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path}: not a program of torch.export, or cut short")
    extra = {INFO_FILE: ""}
    program = torch.export.load(path, extra_files=extra)
    if not extra[INFO_FILE]:
        raise ValueError(f"{path}: not written by `fdd model export` (no {INFO_FILE} in it)")
    return program.module(), json.loads(extra[INFO_FILE])


@torch.no_grad()
def run_program(
    program: nn.Module, info: dict[str, Any], image: np.ndarray
) -> tuple[Tensor, list[dict[str, Any]]]:
    """Segment an image with what :func:`load_program` gives.

    Args:
        image: uint8 (H, W, 3), RGB, of any size; it is resized as the model's config says.

    Returns:
        As :func:`fdd.modeling.panoptic_branch.postprocess.merge_masks`, at the size of ``image``.
    """
    resize = ResizeShortestEdge([info["min_size"]] * 2, info["max_size"])
    pixels = resize.get_transform(image).apply_image(image)
    tensor = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
    candidates = _run(program, info, tensor.to(info["device"]), _size(tensor))
    return _merge(candidates, info, _size(tensor), (image.shape[0], image.shape[1]))


def canvas_of(info: dict[str, Any], height: int, width: int) -> tuple[int, int]:
    """(H, W) of the canvas that an image of this size has to be put on.

    Raises:
        ValueError: the program's only canvas is smaller.
    """
    if info["canvas"] is None:
        step, least = info["size_divisibility"], info["min_canvas"]
        return tuple(max(least, step * math.ceil(side / step)) for side in (height, width))
    if height > info["canvas"][0] or width > info["canvas"][1]:
        raise ValueError(
            f"the image has {height} x {width} px, the program takes {info['canvas'][0]} x "
            f"{info['canvas'][1]}: make it smaller, or export for a larger --size"
        )
    return tuple(info["canvas"])


def _describe(
    cfg: Any, model: FDD, categories: list[dict[str, Any]], size: tuple[int, int] | None
) -> dict[str, Any]:
    step = model.size_divisibility
    if size is not None and min(size) < 1:
        raise ValueError(f"--size is {size[0]} x {size[1]}; both have to be positive")
    return {
        "version": __version__,
        "torch": torch.__version__,
        "device": str(model.device),
        "canvas": None if size is None else [step * math.ceil(side / step) for side in size],
        "size_divisibility": step,
        # Sizes of 1 are special to torch.export: the coarsest map needs two cells a side.
        "min_canvas": step * math.ceil(2 * model.encoder.strides[-1] / step),
        "min_size": cfg.INPUT.MIN_SIZE_TEST,
        "max_size": cfg.INPUT.MAX_SIZE_TEST,
        "num_things": model.num_things,
        "merge": dict(model.merge),
        "categories": json.loads(json.dumps(categories)),
    }


def _trace(model: FDD, info: dict[str, Any]) -> torch.export.ExportedProgram:
    step = info["size_divisibility"]
    canvas = info["canvas"] or [2 * info["min_canvas"], 2 * info["min_canvas"] + step]
    image = torch.zeros(3, *canvas, device=model.device)
    size = torch.tensor(canvas, device=model.device)
    sides: dict[str, Any] | None = None
    if info["canvas"] is None:
        least = info["min_canvas"] // step
        height, width = (torch.export.Dim(name, min=least) for name in ("rows", "columns"))
        sides = {"image": {1: step * height, 2: step * width}, "image_size": None}
    # Not strict: what decides on the host (which layers, how many levels) is not in the program.
    path = InferencePath(model).eval()
    return torch.export.export(path, (image, size), dynamic_shapes=sides, strict=False)


def _size(image: Tensor) -> tuple[int, int]:
    return image.shape[1], image.shape[2]


def _picture(info: dict[str, Any]) -> Tensor:
    """A drawing that leaves some of its canvas free, as images do."""
    height, width = info["canvas"] or (info["min_canvas"] * 2, info["min_canvas"] * 3)
    return drawn_picture(height - min(height // 4, 20), width - min(width // 4, 45))


def _by_model(model: FDD, picture: Tensor) -> dict[str, Tensor]:
    image = picture.flip(0) if model.input_format == "BGR" else picture
    memory = model.encode(model.preprocess([{"image": image}]))
    found = model.panoptic_branch.predict(memory)
    return {name: value[0] for name, value in vars(found).items()}


def _run(
    program: nn.Module, info: dict[str, Any], image: Tensor, size: tuple[int, int]
) -> dict[str, Tensor]:
    height, width = canvas_of(info, *size)
    canvas = F.pad(image.float(), (0, width - size[1], 0, height - size[0]))
    return program(canvas, torch.tensor(size, device=image.device))


def _merge(
    candidates: Mapping[str, Any],
    info: dict[str, Any],
    image_size: tuple[int, int],
    output_size: tuple[int, int],
) -> tuple[Tensor, list[dict[str, Any]]]:
    return merge_masks(
        **candidates,
        num_things=info["num_things"],
        padded_size=canvas_of(info, *image_size),
        image_size=image_size,
        output_size=output_size,
        **info["merge"],
    )


def _compare(
    expected: dict[str, Tensor], got: dict[str, Tensor], info: dict[str, Any], picture: Tensor
) -> tuple[float, float]:
    """Largest difference of two sets of candidates, and the share of pixels they agree on."""
    size = _size(picture)
    pairs = [(value.float(), got[name].float()) for name, value in expected.items()]
    difference = max((float((a - b).abs().max()) for a, b in pairs if a.numel()), default=0.0)
    maps = []
    for candidates in (expected, got):
        ids, segments = _merge(candidates, info, size, size)
        classes = torch.tensor([-1, *(s["category_id"] for s in segments)])
        maps.append(torch.stack([ids.cpu(), classes[ids.cpu().long()]]))
    return difference, float((maps[0] == maps[1]).all(0).float().mean())
