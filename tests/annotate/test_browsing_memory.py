"""What a session keeps while images are looked at does not grow with their number."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fdd.annotate.picture import browser_picture
from fdd.annotate.server import AnnotationSession
from fdd.annotate.shelf import ModelShelf
from fdd.annotate.start import open_dataset
from fdd.inference.trained_model import load_trained
from fdd.points import PointDataset, PointImage, PointSegment, write_points
from labels_toys import CATEGORIES, write_run

COUNT, SIDE = 60, 128
FIRST, LAST = COUNT // 3, COUNT - 2  # of the last one nothing is looked at ahead
_LABEL = SIDE * SIDE * 4  # bytes; a picture of noise has nearly as many


@pytest.fixture
def session(tmp_path: Path) -> Iterator[AnnotationSession]:
    rng, images = np.random.default_rng(0), []
    (tmp_path / "images").mkdir()
    for n in range(COUNT):
        name = f"{n}.png"
        pixels = rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / name)
        places = rng.permutation(SIDE * SIDE)[:8].reshape(4, 2)  # no two on one pixel
        points = np.stack([places % SIDE, places // SIDE], -1) + 0.5
        kinds = zip((11, 6, 4, 9), points, strict=True)
        segments = [
            PointSegment(k + 1, kind, [(float(x), float(y)) for x, y in own])
            for k, (kind, own) in enumerate(kinds)
        ]
        images.append(PointImage(n, name, SIDE, SIDE, segments))
    write_points(tmp_path / "points.json", PointDataset(CATEGORIES, images, {}))
    (tmp_path / "toy.yaml").write_text("images: images\npoints: points.json\n")
    write_run(tmp_path / "run", tmp_path / "toy.yaml", {"MODEL.FDD.CLICKS.RESIDUAL": True})
    opened = open_dataset(tmp_path / "toy.yaml")
    with closing(opened.store):
        shelf = ModelShelf(opened.store.categories, load_trained(tmp_path / "run", full=True))
        with closing(AnnotationSession(opened, shelf)) as session:
            yield session


def tensor_bytes() -> int:
    gc.collect()
    tensors = [o for o in gc.get_objects() if type(o) is torch.Tensor]
    return sum(t.numel() * t.element_size() for t in tensors)


def test_images_that_were_looked_at_are_forgotten(session: AnnotationSession) -> None:
    shelf = session.labeller
    assert isinstance(shelf, ModelShelf)
    live = shelf._labeller
    tensors: list[int] = []
    others: list[int] = []
    tracemalloc.start()  # of Python and NumPy, which hold labels and pictures
    try:
        for index, path in enumerate(session.paths):
            answer = session.describe_image(index)
            assert answer["label"]["maker"] == "learned" and answer["suggestions"] is not None
            browser_picture(path)
            session.ahead(index + 1)
            worker = live._worker
            if worker is not None:
                worker.join()
            assert len(live._images) <= live.cached
            assert live._used() <= live.cached_bytes
            if index in (FIRST, LAST):
                tensors.append(tensor_bytes())
                others.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert live._used() > 0
    one = max(image.bytes for image in live._images.values())
    assert tensors[1] - tensors[0] < one
    # The points of an image that was looked at are kept, a few kB; not its label or picture.
    assert others[1] - others[0] < (LAST - FIRST) * _LABEL / 8
