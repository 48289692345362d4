"""Registration of data sets under a name, and their metadata.

Nothing is read before it is asked for: a data set may be registered whose files are not there.
"""

from __future__ import annotations

import json
import mmap
import os
import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.catalog import Metadata

from fdd.data.loading import MissingFilesError, load_panoptic_dicts, load_point_dicts
from fdd.points import Category, PointLabelError
from fdd.points.class_colors import class_colors, read_color
from fdd.points.class_comparison import compare_classes, describe_differences
from fdd.points.structures import canonical_name, is_integer

__all__ = [
    "contiguous_categories",
    "forget",
    "get_metadata",
    "register_panoptic",
    "register_points",
]

_PathLike = str | os.PathLike[str]

# Bytes after "categories" in which the list must end to be found without parsing the whole file.
_LONGEST_LIST = 1_000_000


def contiguous_categories(categories: Sequence[Category]) -> list[Category]:
    """Put categories in the order of their training ids: things first, then stuff, else as given.

    The position of a category in the returned list is its contiguous id, everywhere in the package.

    Raises:
        ValueError: no category, or an id occurs twice.
    """
    if not categories:
        raise ValueError("a data set without categories; expected at least one")
    ids = [category.id for category in categories]
    double = sorted({n for n in ids if ids.count(n) > 1})
    if double:
        raise ValueError(f"category ids {double} occur more than once; give each category its own")
    things = [category for category in categories if category.isthing]
    return things + [category for category in categories if not category.isthing]


def register_points(
    name: str,
    image_root: _PathLike,
    points_json: _PathLike,
    panoptic_json: _PathLike | None = None,
    panoptic_root: _PathLike | None = None,
    *,
    hint: str | Mapping[str, str] = "",
    colors: Mapping[str, Sequence[int]] | None = None,
) -> None:
    """Register a data set of images and point labels.

    Args:
        name: to be used in ``cfg.DATASETS.TRAIN`` and ``cfg.DATASETS.TEST``; not registered yet.
        image_root: the folder that the file names of the label file start from.
        points_json: point labels (see :mod:`fdd.points.format`).
        panoptic_json: full masks in COCO panoptic form, if there are any. They are put into the
            metadata for evaluation only, and no loader of this set reads them.
        panoptic_root: the folder of their PNGs.
        hint: how to make the files; added to the error when one is missing. Or one by parameter
            (``image_root``, ``points_json``, ...).
        colors: class name -> RGB in [0, 255], in place of the label file's or a made-up one.

    The dataset dicts are described at :func:`fdd.data.loading.load_point_dicts`.
    """
    paths = {
        "image_root": image_root,
        "points_json": points_json,
        "panoptic_json": panoptic_json,
        "panoptic_root": panoptic_root,
    }
    _register(name, paths, hint, colors)


def register_panoptic(
    name: str,
    image_root: _PathLike,
    panoptic_json: _PathLike,
    panoptic_root: _PathLike,
    *,
    hint: str | Mapping[str, str] = "",
    colors: Mapping[str, Sequence[int]] | None = None,
) -> None:
    """Register a data set with full masks in COCO panoptic form.

    Args:
        name: as for :func:`register_points`.
        image_root: the folder that ``images[].file_name`` start from; an image may have another
            extension on disk.
        panoptic_json: COCO panoptic annotations.
        panoptic_root: the folder of their PNGs.
        hint, colors: as for :func:`register_points`.

    The dataset dicts are described at :func:`fdd.data.loading.load_panoptic_dicts`.
    """
    paths = {
        "image_root": image_root,
        "panoptic_json": panoptic_json,
        "panoptic_root": panoptic_root,
    }
    _register(name, paths, hint, colors)


def get_metadata(name: str) -> Metadata:
    """Metadata of a registered data set, with its classes, without loading the images' labels.

    Of the label file only the categories are read. A set that was registered elsewhere is returned
    as it is, provided that it brings the same fields.

    Raises:
        KeyError: no such data set.
        FileNotFoundError, ValueError: its label file is missing or has no valid categories.
    """
    if name not in DatasetCatalog:
        known = ", ".join(sorted(n for n in DatasetCatalog if n.startswith("fdd_")))
        raise KeyError(
            f"data set {name!r} is not registered. Register it with fdd.data.register_points, "
            f"register_panoptic or register_dataset_file, or use one of: {known}"
        )
    metadata = MetadataCatalog.get(name)
    if hasattr(metadata, "categories"):
        return metadata
    source = getattr(metadata, "points_json", None) or getattr(metadata, "panoptic_json", None)
    if source is None:
        raise ValueError(
            f"data set {name!r} has neither categories nor a label file in its metadata; register "
            "it with fdd.data.register_points or register_panoptic"
        )
    try:
        chosen = getattr(metadata, "class_colors", {})
        classes = _class_metadata(_read_categories(source), chosen)
    except FileNotFoundError as error:
        field = "points_json" if hasattr(metadata, "points_json") else "panoptic_json"
        raise _missing_file(name, error, field) from None
    masks = getattr(metadata, "panoptic_json", source)
    if masks != source and os.path.exists(masks):
        _check_same_classes(classes, source, masks)
    metadata.set(**classes)
    return metadata


def forget(name: str) -> None:
    """Take back the registration of ``name``, if there is one."""
    if name in DatasetCatalog:
        DatasetCatalog.remove(name)
    if name in MetadataCatalog.list():
        MetadataCatalog.remove(name)


def _register(
    name: str,
    paths: Mapping[str, _PathLike | None],
    hint: str | Mapping[str, str],
    colors: Mapping[str, Sequence[int]] | None,
) -> None:
    given = {key: os.fspath(path) for key, path in paths.items() if path is not None}
    if name in DatasetCatalog:
        raise ValueError(
            f"data set {name!r} is registered already; choose another name, or remove it first "
            "with fdd.data.catalog.forget"
        )
    DatasetCatalog.register(name, partial(_load, name))
    metadata = MetadataCatalog.get(name)
    metadata.set(**given, evaluator_type="fdd_panoptic", ignore_label=-1, prepare_hint=hint)
    metadata.set(class_colors=dict(colors or {}))


def _load(name: str) -> list[dict[str, Any]]:
    metadata = get_metadata(name)
    categories = [Category(c["id"], c["name"], c["isthing"]) for c in metadata.categories]
    try:
        if hasattr(metadata, "points_json"):
            return load_point_dicts(metadata.image_root, metadata.points_json, categories)
        return load_panoptic_dicts(
            metadata.image_root, metadata.panoptic_json, metadata.panoptic_root, categories
        )
    except MissingFilesError as error:
        of_images = error.root == metadata.image_root
        field = "image_root" if of_images else "panoptic_root"
        raise _missing_file(name, error, field) from None
    except FileNotFoundError as error:
        field = "points_json" if hasattr(metadata, "points_json") else "panoptic_json"
        raise _missing_file(name, error, field) from None


def prepare_hint(name: str, field: str) -> str:
    """How to get the missing file or folder that a field of a set's metadata names; or empty."""
    hint = MetadataCatalog.get(name).get("prepare_hint") or ""
    return hint if isinstance(hint, str) else hint.get(field, "")


def _missing_file(name: str, error: FileNotFoundError, field: str) -> FileNotFoundError:
    hint = prepare_hint(name, field)
    return FileNotFoundError(f"data set {name!r}: {error}" + (f" {hint}" if hint else ""))


def _class_metadata(
    entries: list[dict[str, Any]], chosen: Mapping[str, Sequence[int]]
) -> dict[str, Any]:
    """Everything that follows from the ``categories`` of a label file, and chosen colours."""
    # Other tools write colours in many ways; nothing but pictures depends on them.
    read = {entry["name"]: read_color(entry.get("color")) for entry in entries}
    given = {name: color for name, color in read.items() if color is not None} | dict(chosen)
    order = contiguous_categories([Category(e["id"], e["name"], e["isthing"]) for e in entries])
    num_things = sum(category.isthing for category in order)
    names = [category.name for category in order]
    categories = [
        {"id": c.id, "name": c.name, "isthing": c.isthing, "color": color}
        for c, color in zip(order, class_colors(names, given).tolist(), strict=True)
    ]
    palette = [category["color"] for category in categories]
    training_id = {category.id: n for n, category in enumerate(order)}
    return {
        "categories": categories,
        # Detectron2's Visualizer looks up panoptic segments in these with ids of the whole list.
        "thing_classes": names,
        "stuff_classes": list(names),
        "thing_colors": palette,
        "stuff_colors": list(palette),
        "thing_dataset_id_to_contiguous_id": {c.id: training_id[c.id] for c in order[:num_things]},
        "stuff_dataset_id_to_contiguous_id": {c.id: training_id[c.id] for c in order[num_things:]},
        "num_things": num_things,
        "num_stuff": len(order) - num_things,
    }


def _check_same_classes(classes: dict[str, Any], source: str, masks: str) -> None:
    """Refuse masks of other classes than the points': the evaluation would be quietly wrong."""
    differences = compare_classes(classes["categories"], _read_categories(masks), ordered=False)
    if differences:
        raise ValueError(
            f"the categories of {source} and of {masks} differ: "
            f"{describe_differences(differences, 'the first', 'the second')}. "
            "Use label files that were made from each other."
        )


def _read_categories(source: str) -> list[dict[str, Any]]:
    """The ``categories`` of a label file, each with id, name, isthing (bool) and maybe color."""
    try:
        entries = _find_categories(source)
        if entries is None:
            with open(source, encoding="utf-8-sig") as file:
                entries = json.load(file)["categories"]
        if not entries:
            raise ValueError("the list is empty")
        for entry in entries:
            if not is_integer(entry["id"]):
                raise TypeError(f"the id {entry['id']!r} is not an integer")
        return [
            {
                **e,
                "id": e["id"],
                "name": canonical_name(str(e["name"])),
                "isthing": bool(e["isthing"]),
            }
            for e in entries
        ]
    except FileNotFoundError:
        raise FileNotFoundError(f"{source}: no such label file.") from None
    except (KeyError, TypeError, ValueError) as error:
        raise PointLabelError(
            f"{source}: no valid list 'categories' ({error!r}); expected a JSON object whose "
            "categories have id, name and isthing"
        ) from error


def _find_categories(source: str) -> list[dict[str, Any]] | None:
    """Cut the list out of the file's text: parsing all of COCO's training JSON takes far longer.

    Returns None where that fails; then the whole file has to be parsed.
    """
    with open(source, "rb") as file:
        if not os.fstat(file.fileno()).st_size:
            return None
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
            for match in re.finditer(rb'"categories"\s*:\s*(?=\[)', text):
                chunk = text[match.end() : match.end() + _LONGEST_LIST].decode("utf-8", "ignore")
                try:
                    entries, _ = json.JSONDecoder().raw_decode(chunk)
                except ValueError:
                    continue
                if all(isinstance(e, dict) and "isthing" in e for e in entries):
                    return entries
    return None
