"""Pascal VOC 2012 and SBD in miniature, in the layout and the file formats of the originals."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
from PIL import Image
from scipy.io import savemat

SCRIPTS = Path(__file__).resolve().parents[2] / "datasets"
HEIGHT, WIDTH = 12, 20

# Who is in which list overlaps as in reality: SBD holds images of VOC's train and val in both of
# its own lists, and some of VOC's images are in neither of SBD's.
VOC_TRAIN = ["2007_000032", "2007_000039", "2008_000001"]
VOC_VAL = ["2007_000033", "2007_000042", "2008_000002"]
SBD_TRAIN = ["2007_000032", "2007_000033", "2010_000001", "2010_000002"]
SBD_VAL = ["2007_000039", "2007_000042", "2010_000003"]
TRAIN_AUG = sorted([*VOC_TRAIN, "2010_000001", "2010_000002", "2010_000003"])


def load_script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"dataset_script_{name}", SCRIPTS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def object_maps() -> tuple[np.ndarray, np.ndarray]:
    """Two objects (a person, 15, and a dog, 12) on background; void around the person."""
    objects = np.zeros((HEIGHT, WIDTH), np.uint8)
    classes = np.zeros((HEIGHT, WIDTH), np.uint8)
    for pixels in (objects, classes):
        pixels[1:8, 1:8] = 255
    objects[2:7, 2:7], classes[2:7, 2:7] = 1, 15
    objects[8:11, 10:18], classes[8:11, 10:18] = 2, 12
    return objects, classes


def save_palette(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(values.astype(np.uint8), mode="P")
    # No entry equals its index, so that colours taken for values are noticed.
    picture.putpalette([(n * 37 + 11) % 256 for n in range(768)])
    picture.save(path)


def save_picture(path: Path, height: int = HEIGHT, width: int = WIDTH) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), (90, 120, 30)).save(path)


def save_sbd(folder: Path, image_id: str, objects: np.ndarray, classes: np.ndarray) -> None:
    """The struct form of SBD: GTinst has Segmentation, Boundaries and Categories (n x 1)."""
    kinds = [int(classes[objects == n].max()) for n in range(1, int(objects.max()) + 1)]
    categories = np.array(kinds, np.uint8).reshape(-1, 1)
    boundaries = np.empty((len(kinds), 1), dtype=object)
    for n in range(len(kinds)):
        boundaries[n, 0] = np.zeros(objects.shape, bool)
    (folder / "inst").mkdir(parents=True, exist_ok=True)
    (folder / "cls").mkdir(parents=True, exist_ok=True)
    inst = {"Segmentation": objects, "Boundaries": boundaries, "Categories": categories}
    savemat(folder / "inst" / f"{image_id}.mat", {"GTinst": inst})
    cls = {"Segmentation": classes, "Boundaries": boundaries, "CategoriesPresent": categories}
    savemat(folder / "cls" / f"{image_id}.mat", {"GTcls": cls})


def write_list(path: Path, ids: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{image_id}\n" for image_id in ids))


def make_voc(root: Path, voc: str = "VOC2012") -> Path:
    """Write both data sets below ``root``; 2010_000003 has its picture in SBD's folder only."""
    voc_folder, sbd = root / voc, root / "benchmark_RELEASE" / "dataset"
    lists = voc_folder / "ImageSets" / "Segmentation"
    write_list(lists / "train.txt", VOC_TRAIN)
    write_list(lists / "val.txt", VOC_VAL)
    write_list(sbd / "train.txt", SBD_TRAIN)
    write_list(sbd / "val.txt", SBD_VAL)
    objects, classes = object_maps()
    for image_id in VOC_TRAIN + VOC_VAL:
        save_palette(voc_folder / "SegmentationObject" / f"{image_id}.png", objects)
        save_palette(voc_folder / "SegmentationClass" / f"{image_id}.png", classes)
    # SBD: no void, and the person is a cat, so that the source of an annotation shows.
    sbd_objects = np.where(objects == 255, 0, objects)
    sbd_classes = np.where(classes == 255, 0, np.where(classes == 15, 8, classes)).astype(np.uint8)
    for image_id in SBD_TRAIN + SBD_VAL:
        save_sbd(sbd, image_id, sbd_objects, sbd_classes)
        save_picture(sbd / "img" / f"{image_id}.jpg")
    for image_id in {*VOC_TRAIN, *VOC_VAL, *SBD_TRAIN, *SBD_VAL} - {"2010_000003"}:
        save_picture(voc_folder / "JPEGImages" / f"{image_id}.jpg")
    return root
