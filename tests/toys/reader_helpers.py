"""What the tests of the readers share."""

from __future__ import annotations

import json
from pathlib import Path

EXPORTS = Path(__file__).resolve().parents[1] / "points" / "exports"


def coords(image):
    """The points of a RawImage: (label, x, y), in the order of the export."""
    return [(p.label, p.x, p.y) for p in image.points]


def instances(image):
    """The points of a RawImage by instance, in order of appearance, as in ``coords``."""
    found = {}
    for number, p in enumerate(image.points):
        key = number if p.instance is None else (p.label, p.instance)
        found.setdefault(key, []).append((p.label, p.x, p.y))
    return list(found.values())


def write_json(path, document):
    path.write_text(json.dumps(document), encoding="utf-8")
    return path
