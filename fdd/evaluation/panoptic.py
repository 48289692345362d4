"""Panoptic quality of a model's predictions, as a Detectron2 evaluator."""

from __future__ import annotations

import glob
import hashlib
import json
import logging
import os
import re
import shutil
import uuid
import weakref
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.utils import comm
from PIL import Image

from fdd.evaluation.ground_truth import MAX_SEGMENT_ID, ImageId, PanopticGroundTruth
from fdd.evaluation.mask_evaluator import MaskEvaluator
from fdd.evaluation.panoptic_quality import ImageQuality, QualityTotals, score_map, to_id_map
from fdd.points.coco_panoptic import encode_ids
from fdd.points.files import named_errors
from fdd.points.wording import PQ_IN_WORDS, counted

logger = logging.getLogger(__name__)

JSON_NAME = "panoptic.json"
PNG_FOLDER = "panoptic"  # panopticapi finds the folder by the name of the JSON


@dataclass(frozen=True)
class _Part:
    """What one process has to tell the main process."""

    totals: QualityTotals
    image_ids: list[ImageId]
    annotations: list[dict[str, Any]]
    staging: str | None


def _file_name(dataset_name: str) -> str:
    """A data set's name as a part of a file name; a set may be named by the path of its file."""
    plain = re.sub(r"[^\w.-]+", "_", re.split(r"[\\/]", dataset_name)[-1])
    if plain == dataset_name:
        return plain
    return f"{plain}_{hashlib.blake2b(dataset_name.encode(), digest_size=3).hexdigest()}"


class PanopticEvaluator(MaskEvaluator):
    """PQ, SQ and RQ by panopticapi's rules, of all classes, things, stuff and each class.

    Every image is scored as it comes, from the array: no map is kept, and no file is written unless
    ``keep_predictions`` asks for it. Sets of a hundred images and more are scored by
    ``num_workers`` threads while the model goes on, so that the message about a bad image may come
    a few images late; small sets at once.

    It processes dicts with ``panoptic_seg``: an integer map (H, W) of the image's original size,
    0 = void, and its segments_info, dicts with ``id`` (1 to 2**24 - 1) and ``category_id``
    (contiguous).

    Args:
        dataset_name: a registered set with ``panoptic_json``, ``panoptic_root`` and ``categories``
            in its metadata. Or leave it out and give:
        panoptic_json: ground truth in the COCO panoptic format.
        panoptic_root: folder of its PNGs.
        categories: dicts with ``id``, ``name``, ``isthing`` in contiguous order; None takes the
            JSON's, things first.
        output_dir: where kept predictions go.
        keep_predictions: leave ``output_dir/predictions_<dataset>/panoptic.json`` and the folder
            ``panoptic`` of PNGs beside it, in the COCO panoptic format with the data set's own
            category ids. Processes on several machines need an ``output_dir`` that all can see.
        num_workers: threads; 0 for none. Never more than there are cores.
        label_divisor: for predictions without segments_info (Detectron2's ``class * divisor +
            instance``, -1 void); None takes the metadata's.

    Raises:
        FileNotFoundError, ValueError: as :class:`PanopticGroundTruth`, or the arguments do not fit.
    """

    def __init__(
        self,
        dataset_name: str | None = None,
        *,
        panoptic_json: str | None = None,
        panoptic_root: str | None = None,
        categories: Sequence[Mapping[str, Any]] | None = None,
        output_dir: str | None = None,
        keep_predictions: bool = False,
        num_workers: int = 2,
        label_divisor: int | None = None,
    ) -> None:
        truth = PanopticGroundTruth.find(dataset_name, panoptic_json, panoptic_root, categories)
        if dataset_name is not None and label_divisor is None:
            label_divisor = MetadataCatalog.get(dataset_name).get("label_divisor")
        if keep_predictions and not output_dir:
            raise ValueError("keep_predictions needs an output_dir to keep them in")
        self._label_divisor = label_divisor
        self._files: PredictionFiles | None = None
        if keep_predictions:
            name = f"predictions_{_file_name(dataset_name)}" if dataset_name else "predictions"
            self._files = PredictionFiles(os.path.join(str(output_dir), name))
        super().__init__(truth, num_workers)

    def reset(self) -> None:
        """Forgets everything processed so far."""
        super().reset()
        self._totals = QualityTotals(self._truth.categories)
        self._annotations: list[dict[str, Any]] = []

    def image_quality(
        self, image_id: ImageId, output: Mapping[str, Any]
    ) -> OrderedDict[str, float]:
        """PQ, SQ and RQ of one image on its own (not added to the sums), in percent.

        Args:
            image_id: as in the ground truth.
            output: with ``panoptic_seg``, as for the class.

        Returns:
            ``{"PQ", "SQ", "RQ", "PQ_th", ..., "RQ_st"}``, averaged over the classes that occur in
            this image or its prediction.
        """
        totals = QualityTotals(self._truth.categories)
        totals.add(self.image_matches(image_id, output))
        return totals.results(per_class=False)

    def image_matches(self, image_id: ImageId, output: Mapping[str, Any]) -> ImageQuality:
        """The matches that :meth:`image_quality` averages."""
        where = f"prediction for image {image_id!r}"
        panoptic, segments = output["panoptic_seg"]
        id_map = to_id_map(panoptic, where)
        ids, classes = self._check_segments(segments, where)
        true_map = self._truth.load(image_id)
        return score_map(self._truth, image_id, true_map, id_map, ids, classes)

    def evaluate(self) -> OrderedDict[str, OrderedDict[str, float]] | None:
        """Puts the processes' sums together. To be called by every process.

        Returns:
            On the main process ``{"panoptic_seg": {"PQ", "SQ", "RQ", "PQ_th", ..., "RQ_st",
            "PQ_<class name>", ...}}`` in percent; None elsewhere. Averages run over the classes
            that occur in the ground truth or the predictions, as panopticapi's do; a group without
            such a class and a class that never occurs are nan.

        Raises:
            ValueError: images of the ground truth have no prediction, or two processes saw one.
        """
        try:
            staging = None if self._files is None else self._files.staging
            part = _Part(self._totals, list(self._seen), self._annotations, staging)
            try:
                parts: list[_Part] | None = self._gather(part)
                return None if parts is None else self._evaluate(parts)
            finally:
                comm.synchronize()  # the main process may still be moving the others' files
        finally:
            self._clean_up()

    def _evaluate(self, parts: list[_Part]) -> OrderedDict[str, OrderedDict[str, float]]:
        self._check_complete([i for part in parts for i in part.image_ids])
        totals = QualityTotals(self._truth.categories)
        for part in parts:
            totals.merge(part.totals)
        images = counted(len(self._truth), "image")
        logger.info("Predictions of %s, %s\n%s", images, PQ_IN_WORDS, totals.table())
        if self._files is not None:
            self._publish(parts)
        return OrderedDict(panoptic_seg=totals.results())

    def _process_one(self, image_id: ImageId, output: Mapping[str, Any]) -> None:
        panoptic, segments = output["panoptic_seg"]
        where = f"prediction for image {image_id!r}"
        self._refuse_unknown(image_id, where)
        id_map = to_id_map(panoptic, where)
        if segments is None:
            id_map, segments = self._from_label_divisor(id_map, where)
        ids, classes = self._check_segments(segments, where)
        self._seen.add(image_id)
        self._workers.submit(self._score, image_id, id_map, ids, classes)
        if self._files is not None:
            self._annotations.append(
                {
                    "image_id": image_id,
                    "file_name": self._truth[image_id].file_name,
                    "segments_info": [
                        {"id": int(i), "category_id": self._truth.categories[c]["id"]}
                        for i, c in zip(ids, classes, strict=True)
                    ],
                }
            )

    def _score(
        self, image_id: ImageId, id_map: np.ndarray, ids: np.ndarray, classes: np.ndarray
    ) -> ImageQuality:
        quality = score_map(self._truth, image_id, self._truth.load(image_id), id_map, ids, classes)
        if self._files is not None:
            self._files.write(self._truth[image_id].file_name, id_map)
        return quality

    def _consume(self, quality: ImageQuality) -> None:
        self._totals.add(quality)

    def _check_segments(
        self, segments: Sequence[Mapping[str, Any]], where: str
    ) -> tuple[np.ndarray, np.ndarray]:
        categories = self._truth.categories
        for segment in segments:
            label = int(segment["category_id"])
            if not 0 <= label < len(categories):
                raise ValueError(
                    f"{where}, segment {segment['id']}: category_id {label}; expected a contiguous "
                    f"id from 0 to {len(categories) - 1}"
                )
            isthing = categories[label]["isthing"]
            if bool(segment.get("isthing", isthing)) != isthing:
                raise ValueError(
                    f"{where}, segment {segment['id']}: isthing is {segment['isthing']}, but "
                    f"category_id {label} ({categories[label]['name']}) has {isthing}. Expected "
                    "contiguous ids over all classes, things first."
                )
        ids = np.array([int(s["id"]) for s in segments], dtype=np.int64)
        if len(ids) and not (ids.min() > 0 and ids.max() <= MAX_SEGMENT_ID):
            raise ValueError(
                f"{where}: segment ids from {ids.min()} to {ids.max()}; expected 1 to "
                f"{MAX_SEGMENT_ID} (0 is void)"
            )
        if len(np.unique(ids)) != len(ids):
            raise ValueError(f"{where}: segments_info lists an id twice: {sorted(ids.tolist())}")
        return ids, np.array([int(s["category_id"]) for s in segments], dtype=np.int64)

    def _from_label_divisor(
        self, id_map: np.ndarray, where: str
    ) -> tuple[np.ndarray, list[dict[str, int]]]:
        if not self._label_divisor:
            raise ValueError(
                f"{where} has no segments_info, and no label_divisor is known to read the map with"
            )
        segments = [
            {"id": int(label) + 1, "category_id": int(label) // self._label_divisor}
            for label in np.unique(id_map)
            if label != -1
        ]
        return id_map + 1, segments

    def _check_complete(self, image_ids: list[ImageId]) -> None:
        seen = Counter(image_ids)
        twice = [i for i, times in seen.items() if times > 1]
        if twice:
            raise ValueError(
                f"{len(twice)} images were predicted by several processes: {twice[:5]}. Expected "
                "each image once: use Detectron2's InferenceSampler."
            )
        missing = [i for i in self._truth if i not in seen]
        if missing:
            raise ValueError(
                f"{len(missing)} of {len(self._truth)} images of {self._truth.panoptic_json} have "
                f"no prediction: {', '.join(repr(i) for i in missing[:5])}"
                f"{', ...' if len(missing) > 5 else ''}. Run inference over the whole set."
            )

    def _publish(self, parts: list[_Part]) -> None:
        assert self._files is not None
        staging = [p.staging for p in parts if p.staging is not None and os.path.isdir(p.staging)]
        if not staging:
            return  # evaluate() was called again without new predictions: they are kept already
        truth = self._truth.load_json()
        content: dict[str, Any] = {
            key: truth[key] for key in ("info", "licenses", "images") if key in truth
        }
        content["categories"] = truth["categories"]
        content["annotations"] = [a for part in parts for a in part.annotations]
        path = self._files.publish(content, staging)
        logger.info("Predictions are kept in %s", path)

    def _clean_up(self) -> None:
        super()._clean_up()
        if self._files is not None:
            self._files.discard()


class PredictionFiles:
    """Writes ``folder/panoptic.json`` and ``folder/panoptic/*.png``.

    Everything goes to a hidden folder beside the final one, and takes its name in one rename once
    it is complete. What a crash leaves behind is never taken for results: the hidden folder goes
    when the object does, or else (a killed process) when the next evaluation ends. Two evaluations
    at a time must not share a folder.

    Args:
        folder: the final folder; what is there from an earlier evaluation is replaced.
    """

    def __init__(self, folder: str) -> None:
        self.folder = os.path.abspath(folder)
        parent, name = os.path.split(self.folder)
        self._prefix = os.path.join(parent, f".{name}.partial-")
        # Unique: every process has its own, and an old object that goes late takes no new files.
        self.staging = f"{self._prefix}{uuid.uuid4().hex}"
        self._finalizer = weakref.finalize(self, shutil.rmtree, self.staging, ignore_errors=True)

    def write(self, file_name: str, id_map: np.ndarray) -> None:
        """Writes one PNG: ``id_map`` is (H, W), 0 to 2**24 - 1."""
        path = os.path.join(self.staging, PNG_FOLDER, file_name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        picture = Image.fromarray(encode_ids(id_map))
        # The default level takes half as long again, for label maps that shrink to nothing anyway.
        with named_errors(Path(self.folder)):
            picture.save(path, format="PNG", compress_level=1)

    def publish(self, content: dict[str, Any], staging_folders: Sequence[str]) -> str:
        """Gathers the PNGs of every process, adds the JSON and gives the result its name.

        Returns:
            Path of the JSON.
        """
        pngs = os.path.join(self.staging, PNG_FOLDER)
        os.makedirs(pngs, exist_ok=True)
        for other in staging_folders:
            if os.path.abspath(other) != self.staging:
                _move_tree(os.path.join(other, PNG_FOLDER), pngs)
        # The hidden folder is nothing that a message should name.
        json_path = Path(self.staging, JSON_NAME)
        with named_errors(Path(self.folder)):
            json_path.write_text(json.dumps(content), encoding="utf-8")
        old = f"{self._prefix}old"
        shutil.rmtree(old, ignore_errors=True)
        if os.path.isdir(self.folder):
            os.rename(self.folder, old)
        os.rename(self.staging, self.folder)
        for leftover in glob.glob(glob.escape(self._prefix) + "*"):
            shutil.rmtree(leftover, ignore_errors=True)
        return os.path.join(self.folder, JSON_NAME)

    def discard(self) -> None:
        """Removes what this process has written and not published."""
        shutil.rmtree(self.staging, ignore_errors=True)


def _move_tree(source: str, target: str) -> None:
    for folder, _, names in os.walk(source):
        into = os.path.normpath(os.path.join(target, os.path.relpath(folder, source)))
        os.makedirs(into, exist_ok=True)
        for name in names:
            os.replace(os.path.join(folder, name), os.path.join(into, name))
