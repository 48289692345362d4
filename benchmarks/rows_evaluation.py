"""Panoptic quality of 200 predictions: ours, panopticapi's command, and Detectron2's evaluator.

``python -m benchmarks.rows_evaluation`` prints the figures and the growth of memory.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import resource
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOPanopticEvaluator
from panopticapi.evaluation import pq_compute
from PIL import Image

from fdd.evaluation import PanopticEvaluator

THINGS, STUFF = 12, 6
# The ids of the file are neither contiguous nor in order.
CATEGORIES = [
    {"id": 3 * n + 1, "name": f"class {n}", "isthing": int(n < THINGS)}
    for n in range(THINGS + STUFF)
]
_NAME = "benchmark_of_the_evaluation"


@dataclass
class Inputs:
    """A data set on disk with predictions in memory, and the same predictions on disk.

    Attributes:
        folder: goes with this object. Holds ``truth.json``, ``truth/``, ``predicted.json`` and
            ``predicted/``.
        image_ids: of the data set.
        maps: int32 (H, W) tensors of segment ids, 0 is void.
        segments: per image the dicts ``id``, ``category_id`` (contiguous), ``isthing``.
    """

    folder: tempfile.TemporaryDirectory[str]
    image_ids: list[int]
    maps: list[torch.Tensor]
    segments: list[list[dict[str, Any]]]

    @property
    def truth(self) -> tuple[str, str]:
        return os.path.join(self.folder.name, "truth.json"), os.path.join(self.folder.name, "truth")

    @property
    def predicted(self) -> tuple[str, str]:
        name = os.path.join(self.folder.name, "predicted")
        return f"{name}.json", name


def make_inputs(count: int = 200, height: int = 480, width: int = 640, cells: int = 12) -> Inputs:
    """Draw ``count`` pairs of about ten segments each, with void and a crowd region."""
    inputs = Inputs(tempfile.TemporaryDirectory(prefix="fdd-benchmark-"), [], [], [])
    root = Path(inputs.folder.name)
    (root / "truth").mkdir()
    (root / "predicted").mkdir()
    rng = np.random.default_rng(0)
    documents: dict[str, list[dict[str, Any]]] = {"truth": [], "predicted": []}
    for n in range(count):
        centres = rng.random((cells, 2)) * [width, height]
        classes = rng.integers(0, THINGS + STUFF, cells)
        true_cells = _wavy_cells(rng, centres, height, width)
        jittered = centres + rng.normal(0, 12, centres.shape)
        predicted_cells = _wavy_cells(rng, jittered, height, width)
        # One cell is void, one a crowd; a predicted one is void.
        ids = rng.choice(2**24 - 1, cells, replace=False) + 1
        ids[0] = 0
        guesses = np.where(rng.random(cells) < 0.85, classes, rng.integers(0, 18, cells))
        numbers = np.arange(1, cells + 1)
        numbers[-1] = 0
        true_map, id_map = ids[true_cells], numbers[predicted_cells]
        truth = _annotation(n, true_map, ids, classes)
        for segment in truth["segments_info"]:
            segment["iscrowd"] = int(segment["id"] == ids[1])
        documents["truth"].append(truth)
        documents["predicted"].append(_annotation(n, id_map, numbers, guesses))
        _save(root / "truth" / f"{n}.png", true_map)
        _save(root / "predicted" / f"{n}.png", id_map)
        inputs.image_ids.append(n)
        inputs.maps.append(torch.from_numpy(id_map.astype(np.int32)))
        present = set(np.unique(id_map).tolist()) - {0}
        inputs.segments.append(
            [
                {"id": int(i), "category_id": int(c), "isthing": bool(c < THINGS)}
                for i, c in zip(numbers, guesses, strict=True)
                if int(i) in present
            ]
        )
    for name, document in documents.items():
        images = [{"id": n, "file_name": f"{n}.jpg"} for n in range(count)]
        content = {"images": images, "annotations": document, "categories": CATEGORIES}
        (root / f"{name}.json").write_text(json.dumps(content))
    return inputs


def ours(inputs: Inputs, num_workers: int = 2) -> dict[str, float]:
    """``process()`` of every image, then ``evaluate()``; ``PQ, SQ, RQ, PQ_th, ...`` in percent."""
    json_file, root = inputs.truth
    evaluator = PanopticEvaluator(
        panoptic_json=json_file, panoptic_root=root, num_workers=num_workers
    )
    _process(evaluator, inputs)
    results = evaluator.evaluate()
    assert results is not None
    return dict(results["panoptic_seg"])


def panopticapi_command(inputs: Inputs) -> dict[str, float]:
    """``panopticapi.evaluation.pq_compute``, on as many processes as there are cores.

    The predictions are on disk already: writing them is not counted.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        found = pq_compute(inputs.truth[0], inputs.predicted[0], *_folders(inputs))
    groups = (("", "All"), ("_th", "Things"), ("_st", "Stuff"))
    figures = {
        key.upper() + suffix: 100 * found[group][key]
        for suffix, group in groups
        for key in ("pq", "sq", "rq")
    }
    for category in CATEGORIES:
        figures[f"PQ_{category['name']}"] = 100 * found["per_class"][category["id"]]["pq"]
    return figures


def detectron2_evaluator(inputs: Inputs) -> dict[str, float]:
    """``COCOPanopticEvaluator``: what a user of Detectron2 waits for, as :func:`ours`."""
    contiguous = {category["id"]: n for n, category in enumerate(CATEGORIES)}
    MetadataCatalog.pop(_NAME, None)
    MetadataCatalog.get(_NAME).set(
        panoptic_json=inputs.truth[0],
        panoptic_root=inputs.truth[1],
        thing_dataset_id_to_contiguous_id={k: v for k, v in contiguous.items() if v < THINGS},
        stuff_dataset_id_to_contiguous_id={k: v for k, v in contiguous.items() if v >= THINGS},
    )
    evaluator = COCOPanopticEvaluator(_NAME)
    evaluator.reset()
    _process(evaluator, inputs)
    return dict(evaluator.evaluate()["panoptic_seg"])


def check(inputs: Inputs) -> float:
    """Largest difference between our figures and the two peers', in percent points.

    Raises:
        AssertionError: it exceeds 1e-10 points (1e-12 of the quality), or nothing was matched.
    """
    mine, worst = ours(inputs), 0.0
    for theirs in (panopticapi_command(inputs), detectron2_evaluator(inputs)):
        assert theirs.keys() <= mine.keys()
        for key, value in theirs.items():
            # A class that never occurs has no figure with us and 0 with panopticapi.
            same = math.isnan(mine[key]) and value == 0
            worst = max(worst, 0.0 if same else abs(mine[key] - value))
    assert worst <= 1e-10, worst
    assert 20 < mine["PQ"] < 90, mine["PQ"]
    return worst


def memory_growth(marks: tuple[int, int] = (500, 5000)) -> tuple[float, float, float]:
    """Resident memory (MiB) after 50 images and after the two numbers of images.

    The images are small and one file under many names, the evaluator is one and the same; its
    index of the ground truth is there from the start.
    """
    small = make_inputs(1, 240, 320)
    root = Path(small.folder.name)
    content = json.loads((root / "truth.json").read_text())
    (annotation,) = content["annotations"]
    content["annotations"] = [
        {**annotation, "image_id": n, "file_name": f"{n}.png"} for n in range(marks[1])
    ]
    (root / "truth.json").write_text(json.dumps(content))
    for n in range(1, marks[1]):
        os.link(root / "truth" / "0.png", root / "truth" / f"{n}.png")
    evaluator = PanopticEvaluator(panoptic_json=small.truth[0], panoptic_root=small.truth[1])
    found = []
    for n in range(marks[1]):
        if n in (50, marks[0]):  # the first images fill the allocator's pools
            found.append(_resident_mib())
        output = {"panoptic_seg": (small.maps[0], small.segments[0])}
        evaluator.process([{"image_id": n}], [output])
    found.append(_resident_mib())
    evaluator.evaluate()
    return found[0], found[1], found[2]


def _process(evaluator: Any, inputs: Inputs) -> None:
    for image_id, id_map, segments in zip(
        inputs.image_ids, inputs.maps, inputs.segments, strict=True
    ):
        # Detectron2's evaluator changes the segments that it is given.
        output = {"panoptic_seg": (id_map, [dict(segment) for segment in segments])}
        evaluator.process([{"image_id": image_id, "file_name": f"{image_id}.jpg"}], [output])


def _folders(inputs: Inputs) -> tuple[str, str]:
    return inputs.truth[1], inputs.predicted[1]


def _wavy_cells(
    rng: np.random.Generator, centres: np.ndarray, height: int, width: int
) -> np.ndarray:
    """The nearest of the centres (N, 2) on a bent grid: int64 (H, W)."""
    waves = rng.normal(0, 25, (2, 9, 12)).astype(np.float32)
    bend = [cv2.resize(w, (width, height), interpolation=cv2.INTER_CUBIC) for w in waves]
    x = np.arange(width, dtype=np.float32)[None] + bend[0]
    y = np.arange(height, dtype=np.float32)[:, None] + bend[1]
    distances = [(x - cx) ** 2 + (y - cy) ** 2 for cx, cy in centres.astype(np.float32)]
    return np.argmin(distances, axis=0)


def _annotation(
    image_id: int, id_map: np.ndarray, ids: np.ndarray, classes: np.ndarray
) -> dict[str, Any]:
    areas = dict(zip(*(a.tolist() for a in np.unique(id_map, return_counts=True)), strict=True))
    segments = [
        {"id": int(i), "category_id": CATEGORIES[c]["id"], "area": areas[int(i)]}
        for i, c in zip(ids, classes, strict=True)
        if i and int(i) in areas
    ]
    return {"image_id": image_id, "file_name": f"{image_id}.png", "segments_info": segments}


def _save(path: Path, ids: np.ndarray) -> None:
    rgb = np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8)
    Image.fromarray(rgb).save(path)


def _resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def main(rounds: int = 5) -> None:
    resident = ", ".join(f"{v:.1f}" for v in memory_growth())
    print(f"resident MiB after 50, 500 and 5,000 images: {resident}")
    inputs = make_inputs()
    print(f"largest difference: {check(inputs):.1e} points of percent")
    forms = {
        "ours, 2 threads": ours,
        "ours, no thread": lambda i: ours(i, 0),
        "panopticapi": panopticapi_command,
        "COCOPanopticEvaluator": detectron2_evaluator,
    }
    seconds: dict[str, list[float]] = {name: [] for name in forms}
    for _ in range(rounds):
        for name, form in forms.items():
            start = time.perf_counter()
            form(inputs)
            seconds[name].append(time.perf_counter() - start)
    base = statistics.median(seconds["ours, 2 threads"])
    for name, values in seconds.items():
        median = statistics.median(values)
        print(f"{name:24} median {median:.3f} s, least {min(values):.3f} s, {median / base:.2f}x")


if __name__ == "__main__":
    main()
