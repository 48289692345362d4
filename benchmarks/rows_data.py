"""The dataset mapper with everything from the JPEG on, and the way from worker to trainer.

``python -m benchmarks.rows_data`` prints the figures. Photographs come from the data sets under
``DETECTRON2_DATASETS`` if there are any of the size, else they are drawn.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetMapper
from detectron2.data import detection_utils as utils
from detectron2.data import transforms as T
from detectron2.structures import BoxMode
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from fdd.config import add_fdd_config
from fdd.data import FDDDatasetMapper
from fdd.data.packed_batch import as_batch

#: Name: (width, height) of the photographs, short side wanted, segments, images a second wanted.
SIZES = {
    "500x375 to 800x600": ((500, 375), 600, 4, 300),
    "640x480 to 1067x800": ((640, 480), 800, 12, 180),
}
_POINTS = 10
_PHOTOGRAPH_FOLDERS = ("VOC2012/JPEGImages", "coco/train2017", "coco/val2017")


@dataclass
class Inputs:
    """Photographs with ten points a segment, and what the peers need for the same labels.

    Attributes:
        folder: goes with this object.
        real: whether the photographs are.
        records: dataset dicts with ``points`` (ours), ``point_png`` and ``segments_info`` (the
            Mask2Former form) and ``annotations`` with polygons (Detectron2's mapper).
        ours, peer, stock: the mappers.
    """

    folder: tempfile.TemporaryDirectory[str]
    real: bool
    records: list[dict[str, Any]]
    ours: FDDDatasetMapper
    peer: Mask2FormerForm
    stock: DatasetMapper


class Mask2FormerForm:
    """How Mask2Former's panoptic mapper works, rewritten, on point PNGs.

    Image and label PNG are read by Pillow and resized by Detectron2's augmentations, the PNG to
    nearest neighbours, and then every segment gets a mask of the full size. (Its normalisation and
    padding come later, as ours do.)
    """

    def __init__(self, cfg: CfgNode) -> None:
        self.augmentations = utils.build_augmentation(cfg, True)
        self.image_format = cfg.INPUT.FORMAT

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        image = utils.read_image(record["file_name"], format=self.image_format)
        utils.check_image_size(record, image)
        image, transforms = T.apply_transform_gens(self.augmentations, image)
        rgb = utils.read_image(record["point_png"], "RGB")
        rgb = transforms.apply_segmentation(rgb).astype(np.int64)
        ids = torch.from_numpy(rgb[..., 0] + 256 * rgb[..., 1] + 65536 * rgb[..., 2])
        example = {key: record[key] for key in ("file_name", "image_id", "height", "width")}
        example["image"] = torch.as_tensor(np.ascontiguousarray(image.transpose(2, 0, 1)))
        segments = record["segments_info"]
        example["classes"] = torch.tensor([s["category_id"] for s in segments])
        example["masks"] = torch.stack([ids == s["id"] for s in segments])
        return example


def make_inputs(size: str = "500x375 to 800x600", count: int = 16, flips: bool = True) -> Inputs:
    """Make ``count`` records of one of :data:`SIZES`; keeps this process to one thread.

    Args:
        size: which.
        count: of images.
        flips: False for :func:`check`, which wants the same picture from both.
    """
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    (width, height), short, segments, _ = SIZES[size]
    cfg = get_cfg()
    add_fdd_config(cfg)
    cfg.INPUT.FORMAT = "RGB"
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN = (short,), 1333
    cfg.INPUT.RANDOM_FLIP = "horizontal" if flips else "none"
    folder = tempfile.TemporaryDirectory(prefix="fdd-benchmark-")
    photographs = _find_photographs(width, height, count)
    rng = np.random.default_rng(0)
    records = []
    for n in range(count):
        path = Path(folder.name) / f"{n}.jpg"
        if photographs:
            path.write_bytes(photographs[n % len(photographs)].read_bytes())
        else:
            # This quality gives the size of the sets' files, about 4.5 bits a pixel.
            Image.fromarray(_draw(rng, height, width)).save(path, quality=92)
        records.append(_label(rng, path, n, width, height, segments))
    stock = DatasetMapper(
        is_train=True,
        augmentations=utils.build_augmentation(cfg, True),
        image_format="RGB",
        use_instance_mask=True,
        instance_mask_format="bitmask",
    )
    mapper = FDDDatasetMapper(cfg, is_train=True)
    return Inputs(folder, bool(photographs), records, mapper, Mask2FormerForm(cfg), stock)


def ours(inputs: Inputs) -> list[dict[str, Any]]:
    """Map every record, seeded as the training loader does it."""
    return [inputs.ours({**record, "_seed": n}) for n, record in enumerate(inputs.records)]


def peer(inputs: Inputs) -> list[dict[str, Any]]:
    """Map every record in the Mask2Former form."""
    return [inputs.peer(record) for record in inputs.records]


def detectron2_mapper(inputs: Inputs) -> list[dict[str, Any]]:
    """Map every record by Detectron2's stock mapper: instances with polygons, made bit masks."""
    return [inputs.stock(record) for record in inputs.records]


def check(inputs: Inputs) -> float:
    """Largest difference of a pixel; the inputs must have been made without flips.

    Raises:
        AssertionError: pictures differ by more than rounding, or a point of ours lies outside the
            mask that holds its pixel in the peer's form.
    """
    worst = 0
    for mine, theirs in zip(ours(inputs), peer(inputs), strict=True):
        worst = max(worst, int((mine["image"].int() - theirs["image"].int()).abs().max()))
        assert worst <= 2, worst
        assert sorted(mine["classes"].tolist()) == sorted(theirs["classes"].tolist())
        column, row = mine["point_coords"].long().unbind(1)
        covered = theirs["masks"].any(0)[row, column]
        assert len(covered) == _POINTS * len(theirs["classes"]) and covered.all()
    return float(worst)


def through_a_worker(inputs: Inputs, packed: bool, batch_size: int = 8, batches: int = 32) -> int:
    """Send ready examples from one worker, as ours does it or as PyTorch does; returns how many."""
    dataset = _Ready(ours(inputs), batch_size * batches)
    loader = DataLoader(
        dataset,
        batch_size=batch_size,
        num_workers=1,
        collate_fn=as_batch if packed else list,
    )
    return sum(len(batch) for batch in loader)


class _Ready(Dataset[dict[str, Any]]):
    """Examples that cost no more than fresh memory for the image."""

    def __init__(self, examples: list[dict[str, Any]], length: int) -> None:
        self.examples, self.length = examples, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, n: int) -> dict[str, Any]:
        example = dict(self.examples[n % len(self.examples)])
        for key, value in example.items():
            if torch.is_tensor(value):
                example[key] = value.clone()
        return example


def _find_photographs(width: int, height: int, count: int) -> list[Path]:
    root = os.environ.get("DETECTRON2_DATASETS")
    found: list[Path] = []
    for folder in _PHOTOGRAPH_FOLDERS if root else ():
        for path in sorted(Path(str(root), folder).glob("*.jpg")):
            if len(found) == count:
                return found
            with Image.open(path) as picture:
                if picture.size == (width, height):
                    found.append(path)
    return found


def _draw(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A picture with a photograph's spectrum (amplitude as 1 / frequency), uint8 (H, W, 3)."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = np.inf
    shared, *own = (
        np.fft.irfft2(np.fft.rfft2(rng.normal(size=(height, width))) / frequency, (height, width))
        for _ in range(4)
    )
    layers = np.stack([shared / shared.std() + 0.3 * o / o.std() for o in own], -1)
    return np.clip(120 + 50 * layers, 0, 255).astype(np.uint8)


def _label(
    rng: np.random.Generator, path: Path, image_id: int, width: int, height: int, segments: int
) -> dict[str, Any]:
    """A record of cells around random centres; half of the segments are things."""
    centres = (rng.permutation(48)[:segments, None] // [1, 8] % [8, 6] + 0.5) * [
        width / 8,
        height / 6,
    ]
    y, x = np.mgrid[:height, :width]
    cells = np.argmin([(x - cx) ** 2 + (y - cy) ** 2 for cx, cy in centres], axis=0)
    classes = rng.integers(0, 133, segments)
    points, annotations, point_map = [], [], np.zeros((height, width), np.int64)
    for n in range(segments):
        inside = np.flatnonzero(cells == n)
        chosen = rng.choice(inside, _POINTS, replace=False)
        point_map.flat[chosen] = n + 1
        coords = np.stack([chosen % width, chosen // width], 1) + 0.5
        label = {"category_id": int(classes[n]), "isthing": n % 2 == 0}
        points.append({"instance_id": n + 1, "coords": coords.tolist(), **label})
        outline, _ = cv2.findContours(
            (cells == n).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE
        )
        rows, columns = inside // width, inside % width
        annotations.append(
            {
                "category_id": int(classes[n]),
                "iscrowd": 0,
                "bbox": [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1],
                "bbox_mode": BoxMode.XYXY_ABS,
                "segmentation": [c.reshape(-1).astype(float).tolist() for c in outline],
            }
        )
    png = path.with_suffix(".png")
    Image.fromarray(np.stack([point_map, 0 * point_map, 0 * point_map], -1).astype(np.uint8)).save(
        png
    )
    return {
        "file_name": str(path),
        "image_id": image_id,
        "height": height,
        "width": width,
        "points": points,
        "point_png": str(png),
        "segments_info": [{"id": n + 1, "category_id": int(classes[n])} for n in range(segments)],
        "annotations": annotations,
    }


def _seconds(forms: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {name: [] for name in forms}
    for _ in range(rounds):
        for name, form in forms.items():
            start = time.perf_counter()
            form()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def main(rounds: int = 9) -> None:
    for size, (*_, wanted) in SIZES.items():
        deviation = check(make_inputs(size, flips=False))
        inputs = make_inputs(size)
        count = len(inputs.records)
        origin = "photographs" if inputs.real else "drawn pictures"
        mean = statistics.mean(os.path.getsize(r["file_name"]) for r in inputs.records) / 1000
        print(f"{size}, {count} {origin} of {mean:.0f} kB; largest difference {deviation:.0f}")
        forms = {
            "ours": lambda inputs=inputs: ours(inputs),
            "Mask2Former's form": lambda inputs=inputs: peer(inputs),
            "Detectron2's mapper": lambda inputs=inputs: detectron2_mapper(inputs),
        }
        for name, values in _seconds(forms, rounds).items():
            median, least = statistics.median(values) / count, min(values) / count
            goal = f" (wanted {wanted})" if name == "ours" else ""
            print(
                f"  {name:22} median {1000 * median:6.2f} ms, least {1000 * least:6.2f} ms, "
                f"{1 / median:.0f} images/s{goal}"
            )
        transports = {
            "one buffer": lambda inputs=inputs: through_a_worker(inputs, True),
            "a file per tensor": lambda inputs=inputs: through_a_worker(inputs, False),
        }
        for name, values in _seconds(transports, 3).items():
            print(f"  to the trainer, {name}: {1000 * statistics.median(values) / 256:.2f} ms")


if __name__ == "__main__":
    main()
