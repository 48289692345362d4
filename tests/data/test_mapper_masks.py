"""The dataset mapper under full supervision."""

import copy

import numpy as np
import pytest
import torch
from detectron2.data import transforms as T

from fdd.data import FDDDatasetMapper
from mapper_toys import assert_without_labels, config, make


def test_supervision_and_data_set_must_fit(points, masks):
    with pytest.raises(ValueError, match=r"2007_000032.*with points.*PAN_SUPERVISION"):
        make()(masks[0])
    with pytest.raises(ValueError, match=r"2007_000032.*has no masks.*PAN_SUPERVISION"):
        make(supervision="masks")(points[0])
    with pytest.raises(ValueError, match="'boxes'; allowed: 'points', 'masks'"):
        make(supervision="boxes")
    # Test examples need neither.
    assert "instance_map" not in make(supervision="masks", is_train=False)(masks[0])


def test_full_supervision_samples_cell_centres(folder, masks):
    example = make(supervision="masks")(masks[0])
    assert example["instance_ids"] == [3001, 70000, 7001, 9001]
    assert example["classes"].tolist() == [0, 1, 2, 3]
    instance_map = example["instance_map"]
    assert instance_map.dtype == torch.int32 and instance_map.shape == (10, 15)
    expected = [
        [example["instance_ids"].index(n) for n in row] for row in folder.segment_map[2::4, 2::4]
    ]
    assert instance_map.tolist() == expected
    assert example["point_coords"].shape == (0, 2) and example["point_cells"].shape == (0, 3)
    assert (example["point_instance_map"] == -1).all()
    assert FDDDatasetMapper(config(**{"MODEL.FDD.PAN_SUPERVISION": "full"})).supervision == "masks"


@pytest.mark.parametrize("size", [(80, 120), (20, 30), (53, 97)])
def test_masks_follow_resize_and_flip(folder, masks, size):
    height, width = size
    plain = make(T.Resize(size), supervision="masks")(masks[0])
    y = ((4 * np.arange(plain["instance_map"].shape[0]) + 2) * 40 / height).astype(int)
    x = ((4 * np.arange(plain["instance_map"].shape[1]) + 2) * 60 / width).astype(int)
    index = np.vectorize(plain["instance_ids"].index)
    assert np.array_equal(plain["instance_map"], index(folder.segment_map[y][:, x]))
    if width % 4 == 0:
        flipped = make(T.RandomFlip(prob=1.0), T.Resize(size), supervision="masks")(masks[0])
        # Centres that fall on the border of two pixels may go to either side.
        same = flipped["instance_map"] == plain["instance_map"].flip(1)
        assert same.float().mean() > 0.97


def test_crowds_void_and_lost_segments(folder, masks):
    crowd = copy.deepcopy(masks[0])
    crowd["segments_info"][2]["iscrowd"] = True
    example = make(supervision="masks")(crowd)
    assert example["instance_ids"] == [70000, 7001, 9001]
    assert (example["instance_map"][1:4, 2:5] == -1).all()
    assert (example["instance_map"] >= 0).sum() == 150 - 9

    # The dog is cropped away, the sky's numbers move up.
    cropped = make(T.CropTransform(0, 0, 40, 40), supervision="masks")(masks[0])
    assert cropped["instance_ids"] == [3001, 7001, 9001]
    assert cropped["classes"].tolist() == [0, 2, 3]
    assert cropped["instance_map"].unique().tolist() == [0, 1, 2]

    folder.write_png("2007_000032", np.zeros((40, 60), int))
    void = make(supervision="masks")(masks[0])
    assert void["instance_ids"] == [] and (void["instance_map"] == -1).all()
    assert_without_labels(void, (5, 7))


def test_masks_that_do_not_fit_name_file_and_image(folder, masks):
    folder.write_png("2007_000032", np.full((40, 60), 99))
    with pytest.raises(ValueError, match=r"2007_000032\.png.*segment 99"):
        make(supervision="masks")(masks[0])
    folder.write_png("2007_000032", np.full((20, 60), 7001))
    with pytest.raises(ValueError, match=r"2007_000032\.png.*60 x 20 px"):
        make(supervision="masks")(masks[0])


def test_full_supervision_refuses_augmentations_that_bend(masks):
    class Bend(T.NoOpTransform):
        def apply_coords(self, coords):
            return coords + 3 * np.sin(coords[:, ::-1])

    with pytest.raises(ValueError, match="affine"):
        make(Bend(), supervision="masks")(masks[0])


def test_masks_follow_a_turn(folder, masks):
    class Transpose(T.NoOpTransform):
        def apply_image(self, img):
            return img.swapaxes(0, 1)

        def apply_coords(self, coords):
            return coords[:, ::-1]

    plain = make(T.Resize((80, 120)), supervision="masks")(masks[0])
    turned = make(T.Resize((80, 120)), Transpose(), supervision="masks")(masks[0])
    assert turned["image"].shape == (3, 120, 80)
    assert torch.equal(turned["image"], plain["image"].transpose(1, 2))
    assert torch.equal(turned["instance_map"], plain["instance_map"].T)
    assert turned["instance_map"].dtype == torch.int32
