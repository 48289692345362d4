#!/usr/bin/env python3
"""What becomes of clicks: photograph with its points, a rule's label, the learned label, in a row.

    python tools/draw_photos.py --model RUN --output photos.jpg
    python tools/draw_photos.py --model RUN --dataset cells.yaml --images a b --rule polygon

RUN is the folder of a training (or a checkpoint in it). The data set needs points of the model's
classes, and no masks; by default it is ``demo/photos/dataset.yaml``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fdd.data import FDDDatasetMapper, get_metadata
from fdd.data.dataset_files import resolve_name
from fdd.inference.label_export import ExportOptions, choose_maker, list_sources, own_keys
from fdd.inference.trained_model import TrainedModel, load_trained
from fdd.modeling.label_makers import get_label_maker, label_maker_names
from fdd.visualization import contact_sheet, draw_instance_labels, draw_points
from fdd.visualization.files import read_rgb, write_rgb
from fdd.visualization.sheet import flatten_points

PHOTOS = Path(__file__).resolve().parent.parent / "demo" / "photos" / "dataset.yaml"
ALPHA = 0.55  # the photograph has to remain recognisable below the label


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, metavar="RUN", help="folder of a training")
    parser.add_argument("--dataset", default=str(PHOTOS), help="data set file, or a point set")
    parser.add_argument("--images", nargs="+", metavar="NAME", help="file names without ending")
    parser.add_argument(
        "--rule",
        default="nearest",
        choices=[name for name in label_maker_names() if not get_label_maker(name).needs],
        help="what stands beside the learned label (default: nearest)",
    )
    parser.add_argument("--output", type=Path, default=Path("photos.jpg"))
    parser.add_argument("--cell-width", type=int, default=300, metavar="PX", help="of a picture")
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], help="KEY VALUE ...")
    return parser


def choose(records: Sequence[dict[str, Any]], names: Sequence[str] | None) -> list[dict[str, Any]]:
    """The dataset dicts to draw, in the order asked for; all without ``names``.

    Raises:
        ValueError: for a name that no image has.
    """
    if names is None:
        return list(records)
    by_name = {Path(d["file_name"]).stem: d for d in records}
    if missing := [name for name in names if name not in by_name]:
        raise ValueError(
            f"--images {missing[0]}: the data set has no such image; it has {', '.join(by_name)}"
        )
    return [by_name[name] for name in names]


def draw_row(
    record: dict[str, Any],
    trained: TrainedModel,
    mapper: FDDDatasetMapper,
    makers: dict[str, str],
    metadata: Any,
) -> tuple[dict[str, np.ndarray], str]:
    """Pictures of one image by column title, and the line below them.

    Args:
        record: dataset dict with points.
        trained: the model; it has to make the labels that are asked for.
        mapper: what turns ``record`` into the model's input.
        makers: column title -> label maker.
        metadata: names and colours of the classes.
    """
    image = read_rgb(record["file_name"])
    network: Any = trained.model
    labels = network.estimate_labels([mapper(dict(record))])[0]
    classes = labels["classes"].numpy()
    panels = {"Points": draw_points(image, *flatten_points(record["points"]), metadata)}
    for title, maker in makers.items():
        drawn = labels["pseudo_labels"][maker].numpy()
        panels[title] = draw_instance_labels(image, drawn, classes, metadata, alpha=ALPHA)
    points = sum(len(s["coords"]) for s in record["points"])
    caption = f"{Path(record['file_name']).name}: {points} points, {len(classes)} segments"
    return panels, caption


def main(argv: Sequence[str] | None = None) -> None:
    args = get_parser().parse_args(argv)
    name = resolve_name(args.dataset, "points", key="--dataset")
    keys = own_keys(ExportOptions(maker=args.rule))
    trained = load_trained(args.model, opts=[*keys, *args.opts], full=True)
    own = choose_maker(trained.cfg, ExportOptions())
    makers = {
        f"Labels by rule: {args.rule}": args.rule,
        "Learned labels" if own == "learned" else f"Labels: {own}": own,
    }
    records = choose([s.record for s in list_sources(trained, name)], args.images)
    metadata = get_metadata(name)
    mapper = FDDDatasetMapper(trained.cfg, is_train=False)
    rows, captions = [], []
    for record in records:
        panels, caption = draw_row(record, trained, mapper, makers, metadata)
        rows.append(panels)
        captions.append(caption)
        print(caption)
    sheet = contact_sheet(
        rows,
        captions=captions,
        metadata=metadata,
        legend_classes=sorted({s["category_id"] for d in records for s in d["points"]}),
        cell_width=args.cell_width,
    )
    print(write_rgb(args.output, sheet))


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError, KeyError) as error:
        sys.exit(f"error: {error}")
