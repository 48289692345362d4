"""True masks for the maker "full": matched by points, seen at stride 4, in evaluation only."""

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from PIL import Image

from fdd.config import add_fdd_config
from fdd.data import FDDDatasetMapper, register_panoptic, register_points
from fdd.data.shapes import generate_shapes
from fdd.engine.evaluate import (
    MapperWithMasks,
    mapper_with_masks,
    segment_owners,
)
from fdd.evaluation import PanopticGroundTruth, PseudoLabelEvaluator
from fdd.evaluation.ground_truth import SegmentTable


def _table(*segments):
    """Of (id, class, crowd)."""
    ids, classes, crowd = (np.array(column) for column in zip(*segments, strict=True))
    return SegmentTable("x.png", ids, classes, crowd.astype(bool))


def _owners(true_map, table, points, classes):
    """``points`` are (instance, x, y)."""
    rows = np.array(points, dtype=np.float64).reshape(-1, 3)
    return segment_owners(
        np.array(true_map), table, rows[:, 1:], rows[:, 0].astype(np.int64), np.array(classes)
    )


class TestOwners:
    MAP = [[7, 7, 7, 9], [5, 5, 0, 9]]
    TABLE = _table((7, 0, 0), (9, 0, 0), (5, 1, 0))

    def test_by_the_points_whatever_the_ids(self):
        points = [(0, 3.5, 0.5), (1, 0.5, 0.5), (2, 1.5, 1.5)]
        assert _owners(self.MAP, self.TABLE, points, [0, 0, 1]) == {9: 0, 7: 1, 5: 2}

    def test_most_points_win_and_the_first_of_equals(self):
        points = [(0, 0.5, 0.5), (1, 1.5, 0.5), (1, 2.5, 0.5)]
        assert _owners(self.MAP, self.TABLE, points, [0, 0]) == {7: 1}
        assert _owners(self.MAP, self.TABLE, points[:2], [0, 0]) == {7: 0}

    def test_another_class_crowd_and_void_are_nobodys(self):
        points = [(0, 0.5, 0.5), (1, 2.5, 1.5), (2, 3.5, 1.5)]
        table = _table((7, 0, 0), (9, 0, 1), (5, 1, 0))
        assert _owners(self.MAP, table, points, [1, 0, 0]) == {}

    def test_a_point_on_the_far_border_and_no_point(self):
        assert _owners(self.MAP, self.TABLE, [(0, 4.0, 2.0)], [0]) == {9: 0}
        assert _owners(self.MAP, self.TABLE, [], [0]) == {}


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    """A point set of two drawn images with masks, under a name of its own."""
    root = generate_shapes(tmp_path_factory.mktemp("masks"), num_train=2, num_val=1, size=96)
    masks = root / "panoptic_train.json", root / "panoptic_train"
    register_points("true_masks_p10", root / "train", root / "points_train_p10.json", *masks)
    register_panoptic("true_masks_masks", root / "train", *masks)
    return root


def _cfg(*options):
    cfg = get_cfg()
    add_fdd_config(cfg)
    cfg.merge_from_list(["INPUT.MIN_SIZE_TEST", 96, "INPUT.FORMAT", "RGB", *options])
    return cfg


def _dicts(name):
    from detectron2.data import DatasetCatalog

    return DatasetCatalog.get(name)


def test_only_makers_that_need_masks_get_them(shapes):
    evaluator = PseudoLabelEvaluator(dataset_name="true_masks_p10", num_workers=0)
    full = ("TEST.PSEUDO_LABELS.BASELINES", ("nearest", "full"))
    assert mapper_with_masks(_cfg(), evaluator) is None
    assert mapper_with_masks(_cfg(*full), object()) is None
    assert isinstance(mapper_with_masks(_cfg(*full), evaluator), MapperWithMasks)
    trained = _cfg("MODEL.FDD.PAN_SUPERVISION", "full")
    assert isinstance(mapper_with_masks(trained, evaluator), MapperWithMasks)
    # The mapper of training opens none, whatever the baselines.
    x = FDDDatasetMapper(_cfg(*full), is_train=True)(dict(_dicts("true_masks_p10")[0]))
    assert "instance_map" not in x


def test_what_stride_4_lets_through_is_what_full_supervision_learns_from(shapes):
    """Cell by cell the segments of the mask set's own mapper, by class."""
    truth = PanopticGroundTruth.find("true_masks_p10", None, None, None)
    mapper = MapperWithMasks(FDDDatasetMapper(_cfg(), is_train=False), truth)
    options = ("MODEL.FDD.PAN_SUPERVISION", "full", "INPUT.RANDOM_FLIP", "none")
    sizes = ("INPUT.MIN_SIZE_TRAIN", (96,))
    supervised = FDDDatasetMapper(_cfg(*options, *sizes), is_train=True)
    for points, masks in zip(_dicts("true_masks_p10"), _dicts("true_masks_masks"), strict=True):
        got, want = mapper(dict(points)), supervised(dict(masks))
        assert got["instance_map"].dtype == torch.int32
        classes = [
            torch.where(m >= 0, x["classes"][m.clamp(min=0).long()], -1)
            for x in (got, want)
            for m in [x["instance_map"]]
        ]
        assert torch.equal(*classes)
        pairs = torch.stack([got["instance_map"], want["instance_map"]]).flatten(1)
        assert len(pairs.unique(dim=1).T) == len(got["classes"])


def test_masks_of_another_size_are_refused(shapes, tmp_path):
    truth = PanopticGroundTruth.find("true_masks_p10", None, None, None)
    first = _dicts("true_masks_p10")[0]
    small = tmp_path / truth[first["image_id"]].file_name
    Image.new("RGB", (20, 10), (1, 0, 0)).save(small)
    truth.panoptic_root = str(tmp_path)
    mapper = MapperWithMasks(FDDDatasetMapper(_cfg(), is_train=False), truth)
    with pytest.raises(ValueError, match="has 20 x 10 px; expected those of the image, 96 x 96"):
        mapper(dict(first))
