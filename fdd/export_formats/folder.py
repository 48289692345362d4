"""The folder of an export that may be interrupted and continued."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fdd.points.files import atomic_path, named_errors

__all__ = ["ExportFolder", "ExportSettingsError"]

#: What an export may write; nothing else is ever removed. The list of segments comes first.
CONTENT = (
    *("panoptic.json", "instances.json", "semantic.json", "detectron2", "yolo"),
    *("panoptic", "confidence", "semantic"),
)
_STATE, _SETTINGS, _RECORDS = ".export", "settings.json", "images.jsonl"

_Record = dict[str, Any]


class ExportSettingsError(ValueError):
    """A folder that holds something else than the begun export of these settings."""


class ExportFolder:
    """Keeps, in a hidden folder, with which settings an export was begun and which images are done.

    An image is done once its record is a whole line of the list, which is written after the image's
    files. So whenever the process dies, what the list names is whole.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root).expanduser()
        self._state = self.root / _STATE

    def check(self) -> None:
        """Refuse a folder that no export made, before anything costly is done.

        Raises:
            ExportSettingsError: it is a file, or has files and no export in it.
        """
        if self.root.exists() and not self.root.is_dir():
            raise ExportSettingsError(f"{self.root} is a file; name a folder for the labels")
        if self._has_settings() or not self.root.is_dir():
            return
        found = sorted(p.name for p in self.root.iterdir() if p.name != _STATE)
        if found:
            raise ExportSettingsError(
                f"{self.root} holds other files ({', '.join(found[:3])}) and no labels that this "
                "command wrote; name a new or an empty folder"
            )

    def begin(self, settings: Mapping[str, Any], overwrite: bool = False) -> None:
        """Begin an export, or continue the one in the folder.

        Args:
            settings: JSON values that decide what is written into the labels.
            overwrite: remove an export with other settings first.

        Raises:
            ExportSettingsError: of another export, or see :meth:`check`.
        """
        self.check()
        wanted = json.loads(json.dumps(dict(settings)))
        if self._has_settings() and (other := self._differences(wanted)):
            if not overwrite:
                raise ExportSettingsError(
                    f"{self.root} holds an export with another {', another '.join(other)}. Name "
                    "another folder, or replace what is there with --overwrite"
                )
            self._remove()
        self._tidy()
        with atomic_path(self._state / _SETTINGS) as path:
            path.write_text(json.dumps(wanted, indent=1), encoding="utf-8")

    def read(self, needed: Iterable[str] = ()) -> dict[str | int, _Record]:
        """Records of the images that are done, by image id.

        What a killed process left of a line is dropped, and so are images whose files are gone.

        Args:
            needed: folders in which a done image has a file of the name ``record["png"]``.
        """
        path = self._state / _RECORDS
        if not path.is_file():
            return {}
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
        records = [r for line in lines if (r := _parse(line)) is not None]
        folders = [self.root / name for name in needed]
        done = {
            r["image_id"]: r
            for r in records
            if all((folder / r["png"]).is_file() for folder in folders)
        }
        if len(done) < len(records) or lines[-1]:
            with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
                file.writelines(json.dumps(record) + "\n" for record in done.values())
        return done

    def add(self, record: _Record) -> None:
        """Note that an image, ``record["image_id"]``, is done; its files are there already."""
        path = self._state / _RECORDS
        with named_errors(path), open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def _has_settings(self) -> bool:
        return (self._state / _SETTINGS).is_file()

    def _differences(self, wanted: dict[str, Any]) -> list[str]:
        try:
            found = json.loads((self._state / _SETTINGS).read_text(encoding="utf-8"))
        except ValueError:
            return ["program's settings"]
        differences = []
        for key in {**wanted, **found}:
            old, new = found.get(key), wanted.get(key)
            if old != new:
                checksum = any(isinstance(v, str) and len(v) >= 32 for v in (old, new))
                differences.append(key if checksum else f"{key} ({old}, not {new})")
        return differences

    def _tidy(self) -> None:
        """Remove what a killed process was just writing."""
        halves = [
            path for name in (*CONTENT, _STATE) for path in (self.root / name).rglob(".tmp-*")
        ]
        for path in (*halves, *self.root.glob(".tmp-*.json")):
            path.unlink(missing_ok=True)

    def _remove(self) -> None:
        for name in (*CONTENT, _STATE):
            path = self.root / name
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def _parse(line: str) -> _Record | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and "image_id" in record else None
