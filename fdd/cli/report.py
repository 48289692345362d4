"""One HTML page about what a trained model makes of your points, to find what is wrong with labels,
points or training. Of each image: points, estimated label, how sure it is, semantics, prediction
and, where the data set names masks, these and the PQ. Where it has masks and no points, there are
no labels, and the page shows predictions beside masks. The worst images come first; a click on a
class shows its images. The page is one file that needs no network.

Exit status 1: images could not be read (they are named)."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING

from fdd.cli.options import add_model_options, add_weights_choice
from fdd.cli.page import add_page_options, check_page, page_size, show_images, tell
from fdd.points.wording import PQ_IN_WORDS

if TYPE_CHECKING:
    from fdd.inference.report import LabelReport

EXAMPLES = """
fdd report --model output/cells --dataset cells.yaml --output report.html
fdd report --model output/cells --dataset cells.yaml#validation --output val.html --max-images 200
fdd report --model output/cells/model_0004999.pth --dataset cells.yaml --output early.html
"""

#: The scalars of a run that the page shows.
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
    add_page_options(parser, name="report.html", which_images="evenly spread", thumbnail=320)
    add(
        "--training-curves",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="losses from the run's metrics.json (default: if it is there)",
    )


def run(args: argparse.Namespace) -> int:
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
        progress=show_images,
    )
    lines = [*summary_lines(report), describe_weights(trained.checkpoint)]
    return tell(report, lines, ", left out of the page")


def summary_lines(report: LabelReport) -> list[str]:
    """What the terminal shows at the end."""
    figures = {k: f"{v:.1f}" if math.isfinite(v) else "unknown" for k, v in report.figures.items()}
    recall, prediction = f"point recall {figures['point_recall']} %", figures["prediction_pq"]
    empty = f"{report.figures['empty']:.0f} of {report.figures['instances']:.0f} segments empty"
    masked = report.order_by == "label PQ"
    if masked:
        rival = f" (by rule {figures['rule_pq']})" * report.compared
        label = f"label PQ {figures['label_pq']}{rival}"
        parts = [label, f"prediction PQ {prediction}", recall, empty]
    elif report.order_by == "prediction PQ":
        parts = [f"prediction PQ {prediction}", "no points in the data set, and so no labels"]
    else:
        parts = [recall, f"label score {figures['score']} (PQ to expect, of 100)"]
        if report.figures["left_out"]:
            rival = f" (by rule {figures['rule_found']} %)" * report.compared
            parts.append(f"left-out points found {figures['found']} %{rival}")
        parts.append(empty)
    sentences = [f"{', '.join(parts)}.", *([f"{PQ_IN_WORDS}."] if masked else [])]
    lines = [page_size(report), *(f"{text[0].upper()}{text[1:]}" for text in sentences)]
    worst = [f"{name} ({score:.1f})" for name, score in report.worst[:3] if score is not None]
    return [*lines, f"Lowest {report.order_by}: {', '.join(worst)}."] if worst else lines


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
