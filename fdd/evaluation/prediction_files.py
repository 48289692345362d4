"""Predictions on disk in the COCO panoptic format, whole or not at all."""

from __future__ import annotations

import glob
import json
import os
import shutil
import uuid
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fdd.points.files import named_errors

JSON_NAME = "panoptic.json"
PNG_FOLDER = "panoptic"  # panopticapi finds the folder by the name of the JSON


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
        rgb = np.stack([id_map & 255, (id_map >> 8) & 255, id_map >> 16], -1).astype(np.uint8)
        # The default level takes half as long again, for label maps that shrink to nothing anyway.
        with named_errors(Path(self.folder)):
            Image.fromarray(rgb).save(path, format="PNG", compress_level=1)

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
        with (
            named_errors(Path(self.folder)),
            open(os.path.join(self.staging, JSON_NAME), "w", encoding="utf-8") as f,
        ):
            json.dump(content, f)
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
