"""The dataset mapper on points: geometry, seeds, empty images, and no masks in point sets."""

# Detectron2's augmentations draw from numpy's global generator.
# ruff: noqa: NPY002

import copy

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.data import transforms as T
from PIL import Image

from fdd.data import FDDDatasetMapper
from mapper_toys import SHAPES, assert_equal, assert_without_labels, config, make


def test_fields_of_a_training_example(folder, points):
    before = copy.deepcopy(points[0])
    example = make()(points[0])
    assert points[0] == before
    assert set(example) == {
        "file_name",
        "image_id",
        "height",
        "width",
        "image",
        "diagonal",
        "instance_ids",
    } | set(SHAPES)
    for key, (dtype, dims) in SHAPES.items():
        assert example[key].dtype == dtype and example[key].dim() == dims, key
    assert example["image_id"] == "2007_000032"
    assert (example["height"], example["width"]) == (40, 60)
    assert example["image"].dtype == torch.uint8
    assert np.array_equal(example["image"].numpy(), folder.pixels.transpose(2, 0, 1))
    # Things first; within things and stuff the order of the file.
    assert example["instance_ids"] == [3001, 70000, 7001, 9001]
    assert example["classes"].tolist() == [0, 1, 2, 3]
    assert example["point_index"].tolist() == [0, 0, 1, 2, 2, 3]
    in_order = [xy for n in example["instance_ids"] for xy in folder.coords[n]]
    assert example["point_coords"].tolist() == in_order
    assert example["point_instance_map"].shape == (5, 7)
    # The dog's point (45.5, 30.5) lies in the cell of row 3, column 5, and far from all others.
    assert example["point_instance_map"][3, 5] == 1
    assert example["point_semantic_map"][3, 5] == 1
    assert [1, 3, 5] in example["point_cells"].tolist()
    assert example["point_instance_map"].unique().tolist() == [-1, 0, 1, 2, 3]


def test_a_point_stays_on_its_pixel_through_resize_and_flip(tmp_path, register):
    """A lone bright pixel and its point must arrive at the same place."""
    pixels = np.zeros((24, 36, 3), np.uint8)
    pixels[5, 8] = 255
    file = tmp_path / "dot.png"
    Image.fromarray(pixels).save(file)
    segment = {"instance_id": 1, "category_id": 0, "isthing": True, "coords": [[8.5, 5.5]]}
    record = dict(file_name=str(file), height=24, width=36, image_id=0, points=[segment])
    mapper = make(T.Resize((72, 144)), T.RandomFlip(prob=1.0))
    example = mapper(record)
    assert example["point_coords"].tolist() == [
        [pytest.approx(144 - 8.5 * 4), pytest.approx(5.5 * 3)]
    ]
    light = example["image"][0].double()
    light /= light.sum()
    y = (light.sum(1) * (torch.arange(72) + 0.5)).sum()
    x = (light.sum(0) * (torch.arange(144) + 0.5)).sum()
    assert [x, y] == pytest.approx(example["point_coords"][0].tolist(), abs=0.1)


def test_points_outside_the_crop_and_their_instances_leave(points):
    # Columns 8..31, rows 0..15: the cat's two points and no other.
    example = make(T.CropTransform(8, 0, 24, 16))(points[0])
    assert example["instance_ids"] == [3001]
    assert example["classes"].tolist() == [0]
    assert example["point_coords"].tolist() == [[4.5, 7.5], [10.5, 13.5]]
    # Columns 0..14, rows 0..9: one point of the cat and one of the sky are left.
    example = make(T.CropTransform(0, 0, 15, 10))(points[0])
    assert example["instance_ids"] == [3001, 7001]
    assert example["point_index"].tolist() == [0, 1]
    assert example["point_coords"].tolist() == [[12.5, 7.5], [5.5, 2.5]]
    # Columns 40..59, rows 20..39: the dog was instance 1 and is 0 now.
    example = make(T.CropTransform(40, 20, 20, 20))(points[0])
    assert example["classes"].tolist() == [1]
    assert set(example["point_cells"][:, 0].tolist()) == {0}
    assert example["point_instance_map"].unique().tolist() == [-1, 0]
    assert example["point_semantic_map"].unique().tolist() == [-1, 1]


def test_images_without_points(points):
    # Columns 24..39, rows 16..31: no point at all.
    assert_without_labels(make(T.CropTransform(24, 16, 16, 16))(points[0]), (2, 2))
    assert_without_labels(make()({**points[0], "points": []}), (5, 7))
    unlabelled = {k: v for k, v in points[0].items() if k != "points"}
    assert_without_labels(make(is_train=False)(unlabelled), (5, 7))


def test_points_on_the_border_stay_and_noise_is_clipped(points):
    corner = {"instance_id": 1, "category_id": 0, "isthing": True, "coords": [[60, 40], [0, 0]]}
    record = {**points[0], "points": [corner]}
    for augmentations in ((), (T.Resize((37, 53)),), (T.RandomFlip(prob=1.0), T.Resize((77, 131)))):
        example = make(*augmentations)(record)
        height, width = example["image"].shape[1:]
        ends = sorted(example["point_coords"].tolist())
        assert len(ends) == 2
        assert {x for x, _ in ends} == {0, width} and {y for _, y in ends} == {0, height}

    class Noise(T.NoOpTransform):
        def apply_coords(self, coords):
            return coords + np.array([2e-4, -2e-4])

    example = make(Noise())(record)
    assert example["point_coords"].max(0).values.tolist() == [60, pytest.approx(40 - 2e-4)]
    assert example["point_coords"].min() >= 0


def test_two_instances_in_one_cell(points):
    def thing(number, x):
        coords = [[x, 20.0]]
        return {"instance_id": number, "category_id": 0, "isthing": True, "coords": coords}

    record = {**points[0], "points": [thing(5, 17.0), thing(6, 22.0)]}
    example = make()(record)
    assert example["instance_ids"] == [5, 6]
    cells = example["point_cells"].tolist()
    # The centre of cell (2, 2) is (20, 20): both squares hold it, and 6 is nearer (2 px, not 3).
    assert [0, 2, 2] in cells and [1, 2, 2] in cells
    assert example["point_instance_map"][2, 2] == 1
    # Equally near: no instance, but the class that both share.
    example = make()({**record, "points": [thing(5, 18.0), thing(6, 22.0)]})
    assert example["point_instance_map"][2, 2] == -1
    assert example["point_semantic_map"][2, 2] == 0


def test_the_square_grows_with_the_image(points):
    small, large = make()(points[0]), make(T.Resize((320, 480)))(points[0])
    count = [(e["point_cells"][:, 0] == 1).sum().item() for e in (small, large)]
    # The side of 17 * 320 / 600 = 9.07 px covers one or two cells an axis; then it is 54.4 px.
    assert count[0] <= 4 and count[1] <= 4
    wide = make(T.Resize((320, 480)), dilate_reference=100.0)(points[0])
    assert 36 <= (wide["point_cells"][:, 0] == 1).sum() <= 49


def global_state():
    return [np.asarray(part).tolist() for part in np.random.get_state()]


def test_a_seed_determines_the_augmentations(points):
    mapper = FDDDatasetMapper(config(**{"INPUT.CROP.ENABLED": True}), is_train=True)
    np.random.seed(3)
    state = global_state()
    first = mapper({**points[0], "_seed": 11})
    assert global_state() == state
    np.random.seed(4)
    np.random.rand(5)
    assert_equal(first, mapper({**points[0], "_seed": 11}))
    assert "_seed" not in first
    others = [mapper({**points[0], "_seed": n})["image"] for n in (12, 13, 2**40, 2**40 + 1)]
    assert len({(tuple(i.shape), i.sum().item()) for i in [first["image"], *others]}) >= 4
    # Without it numpy's global generator decides.
    np.random.seed(8)
    one = mapper(points[0])
    two = mapper(points[0])
    np.random.seed(8)
    assert_equal(one, mapper(points[0]))
    assert_equal(two, mapper(points[0]))


def test_the_global_state_survives_an_error_in_an_augmentation(points):
    class Fail(T.Augmentation):
        def get_transform(self, image):
            np.random.rand(3)
            raise RuntimeError("no")

    state = global_state()
    with pytest.raises(RuntimeError):
        make(Fail())({**points[0], "_seed": 1})
    assert global_state() == state


def test_changing_the_masks_on_disk_changes_no_input_of_a_point_set(folder, points):
    mapper = FDDDatasetMapper(config(), is_train=True)
    before = [mapper({**d, "_seed": n}) for n, d in enumerate(points)]
    for image_id in folder.ids:
        folder.write_png(image_id, np.full((40, 60), 3001))
    content = folder.panoptic_content()
    for annotation in content["annotations"]:
        annotation["segments_info"] = annotation["segments_info"][:1]
    folder.write_panoptic(content)
    again = DatasetCatalog.get("test_points")
    assert again == points
    for n, (old, record) in enumerate(zip(before, again, strict=True)):
        assert_equal(old, mapper({**record, "_seed": n}))
    for path in folder.pngs.iterdir():
        path.unlink()
    assert_equal(before[0], mapper({**points[0], "_seed": 0}))


def test_from_config(points):
    sizes, flips = set(), set()
    mapper = FDDDatasetMapper(config(), is_train=True)
    for seed in range(24):
        example = mapper({**points[0], "_seed": seed})
        height, width = example["image"].shape[1:]
        sizes.add((height, width))
        flips.add(bool(example["point_coords"][0, 0] > width / 2))
    assert sizes == {(32, 48), (48, 72), (64, 96)}
    assert flips == {False, True}

    still = FDDDatasetMapper(config(**{"INPUT.RANDOM_FLIP": "none"}), is_train=True)
    xs = [still({**points[0], "_seed": n}) for n in range(8)]
    assert all(e["point_coords"][0, 0] < e["image"].shape[2] / 2 for e in xs)

    test = FDDDatasetMapper(config(**{"INPUT.CROP.ENABLED": True}), is_train=False)
    examples = [test(points[0]) for _ in range(4)]
    assert all(e["image"].shape == (3, 80, 120) for e in examples)
    assert examples[0]["point_coords"].tolist()[0] == [25, 15]
    assert_equal(examples[0], examples[3])
    assert (examples[0]["height"], examples[0]["width"]) == (40, 60)

    crop = {
        "INPUT.CROP.ENABLED": True,
        "INPUT.CROP.TYPE": "relative",
        "INPUT.CROP.SIZE": [0.5, 0.5],
    }
    small = {**crop, "INPUT.MIN_SIZE_TRAIN": (20,)}
    cropped = FDDDatasetMapper(config(**small), is_train=True)
    counts = {len(cropped({**points[0], "_seed": n})["classes"]) for n in range(12)}
    assert len(counts) > 1 and max(counts) < 4
