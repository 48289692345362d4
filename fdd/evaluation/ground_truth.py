"""Ground truth in the COCO panoptic format, checked on the way in.

panopticapi trusts what it reads: a point PNG given as ground truth is a quiet PQ of 0, a segment
id 0 a PQ of infinity, a stale ``area`` a PQ of 1000. Everything here is therefore counted from the
pixels, and what cannot be right is an error with the file, the image and the segment. The rules are
those of :mod:`fdd.points.coco_panoptic`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.file_io import PathManager

from fdd.data.catalog import contiguous_categories, get_metadata
from fdd.points.coco_panoptic import (
    MAX_SEGMENT_ID,
    PanopticDocument,
    PngError,
    id_problems,
    open_ids,
    points_problem,
    read_panoptic_document,
)
from fdd.points.findings import raise_errors
from fdd.points.parsing import load_json
from fdd.points.pixel_counts import count_values

__all__ = ["MAX_SEGMENT_ID", "ImageId", "PanopticGroundTruth", "SegmentTable"]

ImageId = Any  # str or int, kept exactly as given


_SHOWN = 5


@dataclass(frozen=True)
class SegmentTable:
    """The segments of one image, in the order of the JSON.

    Attributes:
        file_name: PNG, relative to the ground truth's folder.
        ids: int64 (S,), the ids of the PNG (R + 256 G + 65536 B), never 0.
        classes: int64 (S,), contiguous classes.
        crowd: bool (S,).
    """

    file_name: str
    ids: np.ndarray
    classes: np.ndarray
    crowd: np.ndarray


class PanopticGroundTruth:
    """An index of a COCO panoptic JSON, and a reader of its PNGs.

    The JSON is checked whole when the object is made, so that a mistake shows before hours of
    inference; each PNG is checked when it is read. ``area`` and ``bbox`` are never looked at, a
    missing ``iscrowd`` means 0.

    Args:
        panoptic_json: path of the JSON.
        panoptic_root: folder of the PNGs.
        categories: dicts with ``id``, ``name``, ``isthing`` in contiguous order (as in
            ``metadata.categories``); None takes the JSON's own, ordered as everywhere in fdd.

    Raises:
        FileNotFoundError: the JSON, the folder or a PNG does not exist.
        ValueError: the JSON breaks the format.
    """

    def __init__(
        self,
        panoptic_json: str,
        panoptic_root: str,
        categories: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        if not PathManager.isfile(panoptic_json):
            raise FileNotFoundError(f"Panoptic ground truth not found: {panoptic_json}")
        if not PathManager.isdir(panoptic_root):
            raise FileNotFoundError(
                f"Folder of panoptic PNGs not found: {panoptic_root} (it goes with {panoptic_json})"
            )
        self.panoptic_json = PathManager.get_local_path(panoptic_json)
        self.panoptic_root = PathManager.get_local_path(panoptic_root)
        document = read_panoptic_document(self.panoptic_json)
        raise_errors(document.source, document.problems)
        if categories is None:
            categories = [vars(c) for c in contiguous_categories(document.categories)]
        self.categories = [
            {"id": c["id"], "name": str(c["name"]), "isthing": bool(c["isthing"])}
            for c in categories
        ]
        self._contiguous = {c["id"]: i for i, c in enumerate(self.categories)}
        if not self.categories or len(self._contiguous) != len(self.categories):
            raise ValueError(
                f"{panoptic_json}: expected at least one category and distinct category ids, "
                f"found ids {[c['id'] for c in self.categories]}"
            )
        self._tables = self._index(document)

    @classmethod
    def find(
        cls,
        dataset_name: str | None,
        panoptic_json: str | None,
        panoptic_root: str | None,
        categories: Sequence[Mapping[str, Any]] | None,
    ) -> PanopticGroundTruth:
        """Finds the masks, by the name of a registered data set or by their paths.

        Raises:
            ValueError: both or neither were given, or the data set was registered without masks.
        """
        if dataset_name is None:
            if panoptic_json is None or panoptic_root is None:
                raise ValueError("Give dataset_name, or both panoptic_json and panoptic_root")
            return cls(panoptic_json, panoptic_root, categories)
        if not (panoptic_json is None and panoptic_root is None and categories is None):
            raise ValueError("Give dataset_name or paths and categories, not both")
        metadata = MetadataCatalog.get(dataset_name)
        paths = [metadata.get("panoptic_json"), metadata.get("panoptic_root")]
        if not all(paths):
            raise ValueError(
                f"Data set {dataset_name!r} has no panoptic masks to evaluate against: its "
                "metadata lacks panoptic_json or panoptic_root. Register it with both (a data set "
                "file: give it the key 'masks'), or leave it out of the evaluation."
            )
        # Classes may still be unread. A point set's order is its points', not its masks'.
        if not hasattr(metadata, "categories") and dataset_name in DatasetCatalog:
            metadata = get_metadata(dataset_name)
        return cls(paths[0], paths[1], metadata.get("categories"))

    def __len__(self) -> int:
        return len(self._tables)

    def __iter__(self) -> Iterator[ImageId]:
        return iter(self._tables)

    def __contains__(self, image_id: ImageId) -> bool:
        return image_id in self._tables

    def __getitem__(self, image_id: ImageId) -> SegmentTable:
        """The segments of an image; a ValueError names the image when it is unknown."""
        table = self._tables.get(image_id)
        if table is None:
            example = next(iter(self._tables))
            raise ValueError(
                f"A prediction came for image {image_id!r} ({type(image_id).__name__}), which "
                f"{self.panoptic_json} does not have. Its ids look like {example!r} "
                f"({type(example).__name__}) and are compared as given."
            )
        return table

    def load_json(self) -> dict[str, Any]:
        """Reads the whole JSON again (it is not kept in memory)."""
        return load_json(self.panoptic_json)

    def read(self, image_id: ImageId) -> np.ndarray:
        """Reads one PNG and checks it: :meth:`load`, then :meth:`check`."""
        id_map = self.load(image_id)
        self.check(image_id, id_map, *count_values(id_map))
        return id_map

    def load(self, image_id: ImageId) -> np.ndarray:
        """Reads one PNG.

        Returns:
            int32 (H, W), segment ids, 0 = void. Whoever counts its pixels calls :meth:`check`.

        Raises:
            ValueError: the PNG is not of the format.
        """
        path, where = self._locate(image_id)
        try:
            ids = open_ids(path)
        except PngError as error:
            raise ValueError(f"{where}: {error}") from error
        assert ids is not None
        return ids

    def check(
        self, image_id: ImageId, id_map: np.ndarray, found: np.ndarray, counts: np.ndarray
    ) -> None:
        """Checks what was loaded.

        Args:
            image_id: of the image.
            id_map: its map.
            found: (K,), the distinct values of the map.
            counts: int64 (K,), their pixels.

        Raises:
            ValueError: the PNG holds points instead of masks, or does not agree with the JSON.
        """
        table, (_, where) = self[image_id], self._locate(image_id)
        text = points_problem(id_map, int(counts[found != 0].sum()))
        if text:
            raise ValueError(f"{where} {text}")
        problems = id_problems(table.ids.tolist(), found.tolist())
        if problems:
            texts = "; ".join(text for _, text in problems[:_SHOWN])
            more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
            raise ValueError(
                f"{where}: {texts}{more}. {self.panoptic_json} and the PNG must hold the same ids; "
                "0 is void"
            )

    def _locate(self, image_id: ImageId) -> tuple[str, str]:
        """Path of an image's PNG, and what messages call it."""
        path = os.path.join(self.panoptic_root, self[image_id].file_name)
        return path, f"{path} (image {image_id!r})"

    def _index(self, document: PanopticDocument) -> dict[ImageId, SegmentTable]:
        if not document.annotations:
            raise ValueError(
                f"{self.panoptic_json} has no annotations: nothing to evaluate against"
            )
        tables: dict[ImageId, SegmentTable] = {}
        for image_id, annotation in document.annotations.items():
            where, file_name = f"{self.panoptic_json}, image {image_id!r}", annotation["file_name"]
            path = os.path.join(self.panoptic_root, file_name)
            if not os.path.isfile(path):
                raise FileNotFoundError(f"{where}: {path} does not exist")
            tables[image_id] = self._table(file_name, annotation["segments_info"], where)
        return tables

    def _table(
        self, file_name: str, segments: Sequence[Mapping[str, Any]], where: str
    ) -> SegmentTable:
        for segment in segments:
            if segment["category_id"] not in self._contiguous:
                raise ValueError(
                    f"{where}, segment {segment['id']}: category {segment['category_id']} is not "
                    f"one of the {len(self._contiguous)} categories"
                )
        classes = [self._contiguous[s["category_id"]] for s in segments]
        return SegmentTable(
            file_name,
            np.array([s["id"] for s in segments], dtype=np.int64),
            np.array(classes, dtype=np.int64),
            np.array([s.get("iscrowd", 0) == 1 for s in segments], dtype=bool),
        )
