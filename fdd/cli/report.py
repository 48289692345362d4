"""One HTML page about what a trained model makes of your points, to find what is wrong with labels,
points or training. Of each image: points, estimated label, how sure it is, semantics, prediction
and, where the data set names masks, these and the PQ. Where it has masks and no points, there are
no labels, and the page shows predictions beside masks. The worst images come first; a click on a
class shows its images. The page is one file that needs no network.

Exit status 1: images could not be read (they are named)."""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from fdd.cli.options import add_model_options, add_weights_choice
from fdd.cli.page import check_page
from fdd.cli.terminal import printable
from fdd.points.wording import PQ_IN_WORDS, counted

if TYPE_CHECKING:
    from fdd.inference.report import LabelReport

EXAMPLES = """
fdd report --model output/cells --dataset cells.yaml --output report.html
fdd report --model output/cells --dataset cells.yaml#validation --output val.html --max-images 200
fdd report --model output/cells/model_0004999.pth --dataset cells.yaml --output early.html
"""

_PROBLEMS_SHOWN = 5
#: Of the many scalars of a run, those that a person looks at.
CURVES = (
    *("total_loss", "loss_pse_point", "loss_pse_self", "loss_sem_point", "loss_thing_dice"),
    *("labels/points_right", "labels/confidence", "labels/empty_instances", "labels/left_out"),
    *("labels/swallowing", "panoptic_seg/PQ"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_options(parser)
    add_weights_choice(parser, "final")
    add = parser.add_argument
    add(
        "--dataset",
        required=True,
        metavar="DATASET.yaml",
        help="data set file with points; FILE#validation takes its validation part. Masks in it "
        "are only compared with; where it has masks alone, the page shows predictions beside them",
    )
    add("--output", default="report.html", metavar="FILE", help="the page (default: report.html)")
    add("--max-images", type=int, metavar="N", help="at most N images, evenly spread; default: all")
    add(
        "--thumbnail",
        type=int,
        default=320,
        metavar="PX",
        help="longer side of the pictures (default: 320). Smaller ones make a smaller page",
    )
    add("--title", default="", help="title of the page")
    add(
        "--training-curves",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="losses from the run's metrics.json (default: if it is there)",
    )


def run(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from fdd.engine.acting_keys import refuse_idle_keys
    from fdd.engine.run_folder import describe_weights
    from fdd.inference.report import write_label_report
    from fdd.inference.trained_model import load_trained

    check_page(Path(args.output), "report.html")
    refuse_idle_keys("report", args.opts, config_file=args.config_file, model=args.model)
    trained = load_trained(args.model, args.config_file, args.opts, full=True, weights=args.weights)
    report = write_label_report(
        args.output,
        trained,
        args.dataset,
        title=args.title,
        max_images=args.max_images,
        thumbnail=args.thumbnail,
        curves=find_curves(trained.checkpoint.parent, args.training_curves),
        progress=lambda items: tqdm(items, unit="image", file=sys.stderr, disable=None),
    )
    for line in [*summary_lines(report), describe_weights(trained.checkpoint)]:
        print(printable(line))
    if report.unreadable:
        print(
            f"{counted(len(report.unreadable), 'image')} could not be read, left out of the page:",
            file=sys.stderr,
        )
        for problem in report.unreadable[:_PROBLEMS_SHOWN]:
            print(f"  {printable(problem)}", file=sys.stderr)
    return 1 if report.unreadable else 0


def summary_lines(report: LabelReport) -> list[str]:
    """What the terminal shows at the end."""
    figures, masked = report.figures, report.order_by == "label PQ"
    pointed = report.order_by != "prediction PQ"
    size = report.path.stat().st_size / 2**20
    parts = [f"Point recall {_number(figures['point_recall'])} %"]
    if masked:
        rival = f" (nearest point {_number(figures['nearest_pq'])})" * report.compared
        parts = [
            f"Label PQ {_number(figures['label_pq'])}{rival}",
            f"prediction PQ {_number(figures['prediction_pq'])}",
            parts[0].lower(),
        ]
    else:
        parts.append(f"label score {_number(figures['score'])} of 100")
        if figures["left_out"]:
            rival = f" (nearest point {_number(figures['nearest_found'])} %)" * report.compared
            parts.append(f"left-out points found {_number(figures['found'])} %{rival}")
    parts.append(f"{figures['empty']:.0f} of {figures['instances']:.0f} segments empty")
    if not pointed:
        parts = [
            f"Prediction PQ {_number(figures['prediction_pq'])}",
            "no points in the data set, and so no labels",
        ]
    lines = [
        f"Wrote {report.path}: {counted(int(figures['images']), 'image')}, {size:.1f} MiB, for a "
        "browser",
        ", ".join(parts) + ".",
    ]
    if masked:
        lines.append(f"{PQ_IN_WORDS[0].upper()}{PQ_IN_WORDS[1:]}.")
    worst = [f"{name} ({score:.1f})" for name, score in report.worst[:3] if score is not None]
    return [*lines, f"Lowest {report.order_by}: {', '.join(worst)}."] if worst else lines


def _number(value: float) -> str:
    return f"{value:.1f}" if math.isfinite(value) else "unknown"


def find_curves(folder: Path, wanted: bool | None) -> dict[str, list[tuple[float, float]]] | None:
    """Curves of the run in ``folder``; None where they are not wanted, or (unless asked for) not
    there.

    Raises:
        FileNotFoundError: asked for, and there is no ``metrics.json``.
    """
    from fdd.visualization import read_curves

    path = folder / "metrics.json"
    if wanted is False or (wanted is None and not path.is_file()):
        return None
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: not there; --training-curves needs the metrics.json that training writes"
        )
    return read_curves(path, CURVES)
