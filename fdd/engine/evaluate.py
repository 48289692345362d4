"""Evaluation of predictions and of pseudo labels; results become JSON beside the checkpoints."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from detectron2.evaluation import DatasetEvaluator, inference_on_dataset, print_csv_format
from detectron2.utils import comm
from torch import nn

from fdd.config import check_fdd_config, label_maker_of
from fdd.data import FDDDatasetMapper
from fdd.data.mapper import sample_cells
from fdd.engine.checkpoint import check_weights, load_for_inference, write_atomically
from fdd.engine.checks import DatasetError, check_dataset, check_testing
from fdd.engine.loader import build_test_loader
from fdd.engine.training_record import check_classes
from fdd.evaluation.ground_truth import PanopticGroundTruth, SegmentTable
from fdd.modeling.label_makers import get_label_maker


def build_panoptic_evaluator(cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
    """PQ on ``dataset_name``; predictions that are kept lie below ``OUTPUT_DIR/inference``."""
    from fdd.evaluation import PanopticEvaluator

    return PanopticEvaluator(
        dataset_name=dataset_name,
        output_dir=os.path.join(cfg.OUTPUT_DIR, "inference"),
        keep_predictions=cfg.TEST.KEEP_PREDICTIONS,
    )


# Tasks of the results that hold averages.
_AVERAGES = ("pseudo_labels", "label_quality")


class LabelEstimator(nn.Module):
    """Lets ``inference_on_dataset`` call a model's ``estimate_labels``, or another ``method``."""

    def __init__(self, model: nn.Module, method: str = "estimate_labels") -> None:
        super().__init__()
        self.model, self.method = model, method

    def forward(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """See the method of the meta-architecture."""
        return getattr(self.model, self.method)(batched_inputs)


class _RememberedFeatures:
    """Lets a model in evaluation encode an image once, however many point sets it is given.

    Args:
        model: its ``encode`` is wrapped, as long as the model lives.
        most: bytes of features that are kept; further images are encoded each time.
    """

    def __init__(self, model: Any, most: int = 2**30) -> None:
        self._encode, self._left = model.encode, most
        self._kept: dict[bytes, Any] = {}
        model.encode = self

    def __call__(self, images: Any) -> Any:
        pixels = images.tensor.detach().cpu().contiguous().numpy()
        digest = hashlib.blake2b(pixels.tobytes(), digest_size=16)
        digest.update(repr((pixels.shape, images.image_sizes)).encode())
        key = digest.digest()
        if key in self._kept:
            return self._kept[key]
        memory = self._encode(images)
        tensors = [value for value in vars(memory).values() if isinstance(value, torch.Tensor)]
        tensors += memory.features
        size = sum(value.numel() * value.element_size() for value in tensors)
        if size <= self._left:
            self._left -= size
            self._kept[key] = memory
        return memory


def evaluate_pseudo_labels(
    cfg: CfgNode,
    names: Sequence[str] = (),
    *,
    resume: bool = False,
    share_features: bool = False,
) -> dict[str, Any]:
    """Measure the dense labels that the trained model estimates from the points of ``names``.

    Args:
        cfg: its ``MODEL.WEIGHTS`` must hold the training-only parts as well.
        names: point sets whose images have masks to compare with; by default ``DATASETS.TRAIN``.
        resume: take the last checkpoint of ``OUTPUT_DIR`` instead.
        share_features: for point sets of the same images, which are then encoded once. Takes up to
            1 GiB where the model lives.

    Returns:
        Results by task (by set and task for several sets); also in
        ``OUTPUT_DIR/pseudo_label_results.json``. Empty on other than the main process.
    """
    from fdd.evaluation import PseudoLabelEvaluator

    return _evaluate_labels(
        cfg,
        names,
        PseudoLabelEvaluator,
        method="estimate_labels",
        option="--eval-pseudo-labels",
        file_name="pseudo_label_results.json",
        resume=resume,
        share_features=share_features,
    )


def evaluate_label_quality(
    cfg: CfgNode, names: Sequence[str] = (), *, resume: bool = False
) -> dict[str, Any]:
    """Judge the labels of the points of ``names`` by what can be seen without masks.

    Args:
        cfg: its ``MODEL.WEIGHTS`` must hold the training-only parts as well.
        names: point sets; masks are not looked at. By default ``DATASETS.TRAIN``.
        resume: take the last checkpoint of ``OUTPUT_DIR`` instead.

    Returns:
        What :class:`fdd.evaluation.LabelQualityEvaluator` returns (by set for several sets); also
        in ``OUTPUT_DIR/label_quality_results.json``. Empty on other than the main process.
    """
    from fdd.evaluation import LabelQualityEvaluator

    return _evaluate_labels(
        cfg,
        names,
        LabelQualityEvaluator,
        method="label_quality",
        option="--eval-label-quality",
        file_name="label_quality_results.json",
        resume=resume,
    )


def _evaluate_labels(
    cfg: CfgNode,
    names: Sequence[str],
    evaluator_class: Any,
    *,
    method: str,
    option: str,
    file_name: str,
    resume: bool,
    share_features: bool = False,
) -> dict[str, Any]:
    """Give what the model's ``method`` makes of each point set to an evaluator of its own."""
    from detectron2.modeling import build_model

    check_fdd_config(cfg)
    names = list(names) or list(cfg.DATASETS.TRAIN)
    for name in names:
        check_dataset(cfg, name, option, trained=True)
    # These may read the masks' list: what is missing shows before the model is built.
    evaluators = {name: evaluator_class(dataset_name=name) for name in names}
    check_weights(cfg.MODEL.WEIGHTS, save_dir=cfg.OUTPUT_DIR, resume=resume, needed=True)
    model = build_model(cfg)
    if not hasattr(model, method):
        raise ValueError(
            f"MODEL.META_ARCHITECTURE {cfg.MODEL.META_ARCHITECTURE!r} estimates no pseudo labels "
            f"(it has no {method})"
        )
    _load(model, cfg, names, resume=resume, full=True)
    if share_features:
        _RememberedFeatures(model)
    results: dict[str, Any] = {}
    for name, evaluator in evaluators.items():
        loader = build_test_loader(
            cfg, name, with_points=True, mapper=mapper_with_masks(cfg, evaluator)
        )
        results[name] = inference_on_dataset(LabelEstimator(model, method), loader, evaluator)
    if not comm.is_main_process():
        return {}
    for name, result in results.items():
        logging.getLogger(__name__).info("Pseudo labels of %s:", name)
        # Averages only: the rest is not for pasting into a table.
        print_csv_format(OrderedDict((k, v) for k, v in result.items() if k in _AVERAGES))
    final = next(iter(results.values())) if len(results) == 1 else results
    save_results(os.path.join(cfg.OUTPUT_DIR, file_name), final)
    return final


def evaluate_predictions(
    trainer_class: Any, cfg: CfgNode, *, resume: bool = False
) -> dict[str, Any]:
    """Measure the panoptic predictions on ``DATASETS.TEST``.

    Args:
        trainer_class: its ``build_model`` and ``test`` are used, so that a subclass evaluates as it
            trains.
        cfg: with ``MODEL.WEIGHTS``.
        resume: take the last checkpoint of ``OUTPUT_DIR`` instead.

    Returns:
        Results, also in ``OUTPUT_DIR/eval_results.json`` (``results.json`` is training's own).
        Empty on other than the main process.
    """
    if not cfg.DATASETS.TEST:
        raise DatasetError("DATASETS.TEST is empty; name the sets to evaluate on")
    check_testing(cfg)
    check_weights(cfg.MODEL.WEIGHTS, save_dir=cfg.OUTPUT_DIR, resume=resume, needed=True)
    model = trainer_class.build_model(cfg)
    _load(model, cfg, cfg.DATASETS.TEST, resume=resume)
    results = trainer_class.test(cfg, model)
    if comm.is_main_process():
        save_results(os.path.join(cfg.OUTPUT_DIR, "eval_results.json"), results)
    return results


def _load(
    model: Any, cfg: CfgNode, names: Sequence[str], *, resume: bool, full: bool = False
) -> None:
    """Load the weights to evaluate, if the sets ``names`` have the classes they were trained on."""
    fix = "Evaluate on sets made from the categories of the training"
    load_for_inference(
        model,
        cfg.MODEL.WEIGHTS,
        save_dir=cfg.OUTPUT_DIR,
        resume=resume,
        full=full,
        check=lambda weights: check_classes(weights, names, fix),
    )


def save_results(path: str, results: Mapping[str, Any], *, iteration: int | None = None) -> None:
    """Write ``{"iteration": ..., "results": ...}`` as strict JSON; NaN (no truth) is null."""
    content = {"iteration": iteration, "results": _jsonable(results)}
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    write_atomically(path, json.dumps(content, indent=1).encode())
    logging.getLogger(__name__).info("Results saved to %s", path)


def _jsonable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_jsonable(item) for item in value]
    if isinstance(value, torch.Tensor) or hasattr(value, "item"):
        return _jsonable(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def mapper_with_masks(cfg: CfgNode, evaluator: Any) -> MapperWithMasks | None:
    """Mapper for an evaluation of labels if a maker needs masks, else None.

    Args:
        cfg: names the makers.
        evaluator: may have the masks as ``ground_truth``.
    """
    truth = getattr(evaluator, "ground_truth", None)
    names = [*cfg.TEST.PSEUDO_LABELS.BASELINES, label_maker_of(cfg)]
    if truth is None or not any("masks" in get_label_maker(name).needs for name in names):
        return None
    return MapperWithMasks(FDDDatasetMapper(cfg, is_train=False), truth)


class MapperWithMasks:
    """The test mapper of a point set, plus ``instance_map``: what stride 4 lets through of the
    true masks, int32 (h4, w4), -1 for void, crowd and segments without a point."""

    def __init__(self, mapper: FDDDatasetMapper, truth: PanopticGroundTruth) -> None:
        """
        Args:
            mapper: that does not augment, except for resizing.
            truth: masks of the same images.
        """
        self.mapper, self.truth = mapper, truth

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """Map one dict.

        Raises:
            ValueError: the image is not in the ground truth, or of another size there.
        """
        x = self.mapper(dataset_dict)
        image_id, size = x["image_id"], (int(x["height"]), int(x["width"]))
        table, true_map = self.truth[image_id], self.truth.load(image_id)
        if true_map.shape != size:
            raise ValueError(
                f"{table.file_name} (image {image_id!r}) has {true_map.shape[1]} x "
                f"{true_map.shape[0]} px; expected those of the image, {size[1]} x {size[0]}"
            )
        input_size = (x["image"].shape[1], x["image"].shape[2])
        scale = np.array(size[::-1]) / input_size[::-1]
        coords = x["point_coords"].double().numpy() * scale
        owner = segment_owners(
            true_map, table, coords, x["point_index"].numpy(), x["classes"].numpy()
        )
        resize = T.ResizeTransform(*size, *input_size)
        ids = sample_cells(true_map, T.TransformList([resize]), input_size)
        instance_map = np.full(ids.shape, -1, np.int32)
        for segment_id, instance in owner.items():
            instance_map[ids == segment_id] = instance
        return x | {"instance_map": torch.from_numpy(instance_map)}


def segment_owners(
    true_map: np.ndarray,
    table: SegmentTable,
    coords: np.ndarray,
    index: np.ndarray,
    classes: np.ndarray,
) -> dict[int, int]:
    """Which instance of the point labels each true segment is: the one of its class with the most
    points on it (the first of several).

    Ids are not compared: those of points and of masks may come from different hands.

    Args:
        true_map: (H, W) segment ids.
        table: of the segments.
        coords: (P, 2) float (x, y) in px of the map. index: (P,) instance of each point.
        classes: (N,) contiguous class of each instance.

    Returns:
        Instance by segment id, without crowd and segments on which no such point lies.
    """
    limit = np.array(true_map.shape[::-1]) - 1
    column, row = np.clip(np.floor(coords).astype(np.int64), 0, limit).T
    found = true_map[row, column]
    owner = {}
    for segment_id, label, crowd in zip(table.ids, table.classes, table.crowd, strict=True):
        votes = index[(found == segment_id) & (classes[index] == label)]
        if len(votes) and not crowd:
            owner[int(segment_id)] = int(np.bincount(votes).argmax())
    return owner
