"""Click points in a browser, and see at each click what labels they make.

The page is served to this machine alone, and asks for nothing from elsewhere. Every click is on
disk before the page says so; the points file is written when another image is opened, on Ctrl+S in
the page, and at the end (Ctrl+C here). With a model, each click is answered by its labels of the
whole image, without one by those of a rule (--preview): of the nearest point; of things as large as
their points say; or of the points whose features in a backbone are most like those of a place.

A folder of images, with --classes, begins a data set: dataset.yaml and points.json."""

from __future__ import annotations

import argparse
import shlex
import signal
import threading
import webbrowser
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fdd.annotate.choices import PREVIEWS
from fdd.cli.options import add_model_path, add_opts, add_weights_choice, comma_list
from fdd.cli.terminal import printable
from fdd.points.wording import counted

if TYPE_CHECKING:
    from fdd.annotate.server import AnnotationServer
    from fdd.annotate.start import OpenedDataset
    from fdd.annotate.workshop import Workshop
    from fdd.inference.trained_model import TrainedModel

EXAMPLES = """
fdd annotate cells.yaml --model output/cells --open
fdd annotate cells.yaml --model output/cells --train --train-steps 400
fdd annotate cells.yaml --port 8765
fdd annotate cells.yaml --preview extent
fdd annotate cells.yaml --preview dnn --opts MODEL.WEIGHTS R-50.pkl
fdd annotate photos --classes car,person --stuff sky,road --open
fdd annotate photos --classes "red cell,white cell" --output my_data
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("data", metavar="DATA", help="data set file (DATASET.yaml), or a folder of images")
    add(
        "--classes",
        metavar="NAMES",
        help="of a folder: classes of things, which are countable, such as car,person",
    )
    add("--stuff", metavar="NAMES", help="of a folder: classes of stuff (regions), such as sky")
    add(
        "--output",
        metavar="FOLDER",
        help="of a folder: where dataset.yaml and points.json are written (default: IMAGES_points)",
    )
    without = ", with the data set's classes; without one a rule makes the labels (--preview)"
    add_model_path(parser, without=without)
    add_weights_choice(parser, "final")
    add(
        "--preview",
        choices=PREVIEWS,
        help="what makes the labels while there is no model: nearest, the nearest point (default); "
        "extent, things as large as three or more points say, around them the nearest point; dnn, "
        "the point whose features are most like those of a place, by a backbone whose weights "
        "(MODEL.WEIGHTS, or those of --config-file) are on this machine",
    )
    add("--train", action="store_true", help="begin a training at once, as the page's button does")
    add(
        "--train-steps",
        type=int,
        metavar="N",
        help="of a training from the page (default: 200 from a model's weights, the recipe's "
        "without)",
    )
    add("--no-scores", action="store_true", help="make no scores of labels in the background")
    add("--port", type=int, default=0, metavar="N", help="of 127.0.0.1 (default: one that is free)")
    add("--open", action="store_true", help="open the page in a browser")
    add_opts(parser)


def run(args: argparse.Namespace) -> int:
    from fdd.annotate.preview import load_preview
    from fdd.annotate.server import AnnotationServer, AnnotationSession
    from fdd.annotate.shelf import ModelShelf
    from fdd.annotate.store import PointsChanged
    from fdd.annotate.workshop import Workshop

    if not 0 <= args.port < 1 << 16:
        raise ValueError(f"--port is {args.port}; expected a number to 65535, or 0 for a free one")
    _check_model_options(args)
    if args.train_steps is not None and args.train_steps < 1:
        raise ValueError(f"--train-steps {args.train_steps}: expected at least 1")
    trained = _load_model(args) if args.model is not None else None
    preview = load_preview(args.preview or "nearest", args.config_file, args.opts)
    opened = _open_data(args)
    try:
        shelf = ModelShelf(
            opened.store.categories,
            trained,
            preview=preview,
            path=args.model,
            weights=args.weights,
            config_file=args.config_file,
            opts=args.opts if trained is not None else (),
        )
        opts = args.opts if trained is None else ()
        workshop = Workshop(
            opened, shelf, steps=args.train_steps, opts=opts, scores=not args.no_scores
        )
        session = AnnotationSession(opened, shelf, workshop=workshop)
        with closing(session), AnnotationServer(session, args.port) as server:
            for notice in [*opened.notes, *_begin_work(workshop, args.train)]:
                print(printable(notice))
            print(_describe(opened, args.model or preview.name))
            print(f"Open {server.url}\nCtrl-C here saves and ends.", flush=True)
            if args.open:
                webbrowser.open(server.url)
            _serve_until_ended(server)
    finally:
        try:
            opened.store.close()
        except PointsChanged as error:
            raise OSError(str(error)) from error
    print(_describe_end(opened))
    return 0


def _check_model_options(args: argparse.Namespace) -> None:
    if args.model is not None:
        if args.preview is not None:
            raise ValueError(
                f"--preview {args.preview} is for labels without a model, and --model "
                f"{args.model} makes them: leave one out"
            )
        return
    if args.weights:
        raise ValueError("--weights is of a model; add --model PATH")
    if args.config_file and args.preview != "dnn":
        raise ValueError(
            "--config-file is of a model, or of the backbone of --preview dnn; add --model PATH"
        )


def _begin_work(workshop: Workshop, train: bool) -> list[str]:
    """Begin a training, if asked for and possible; sentences for the user."""
    notes = []
    if (training := workshop.cut_off) is not None:
        notes.append(
            f"{training.folder} was ended before it was done; Resume on the page goes on with it"
        )
    if train:
        try:
            workshop.train()
        except ValueError as error:  # without a point; those are what the page is for
            notes.append(f"no training was begun: {error}. Train on the page begins one")
    return notes


def _load_model(args: argparse.Namespace) -> TrainedModel:
    from fdd.engine.acting_keys import refuse_idle_keys
    from fdd.inference.trained_model import load_trained

    refuse_idle_keys("annotate", args.opts, config_file=args.config_file, model=args.model)
    return load_trained(args.model, args.config_file, args.opts, full=True, weights=args.weights)


def _open_data(args: argparse.Namespace) -> OpenedDataset:
    from fdd.annotate.start import begin_dataset, open_dataset

    if not Path(args.data).is_dir():
        given = [name for name in ("classes", "stuff", "output") if getattr(args, name) is not None]
        if given:
            raise ValueError(
                f"--{given[0]} begins a data set from a folder of images, and {args.data} is not a "
                "folder; the classes of a data set file are in it"
            )
        return open_dataset(args.data)
    things, stuff = comma_list(args.classes or ""), comma_list(args.stuff or "")
    if not things and not stuff:
        raise ValueError(
            f"{args.data} is a folder; to begin a data set from its images, name the classes: "
            "--classes car,person --stuff sky,road. Of a data set that is there, name the file"
        )
    return open_dataset(begin_dataset(args.data, things, stuff, args.output))


def _serve_until_ended(server: AnnotationServer) -> None:
    """Serve until Ctrl-C, or until the process is asked to end, or its terminal has gone."""

    def end(*_: Any) -> None:
        raise KeyboardInterrupt

    names = ("SIGTERM", "SIGHUP")
    ways = [getattr(signal, name) for name in names if hasattr(signal, name)]
    # Only the main thread hears signals; elsewhere, somebody else ends the server.
    ways = ways if threading.current_thread() is threading.main_thread() else []
    before = [signal.signal(way, end) for way in ways]
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print()
    finally:
        for way, handler in zip(ways, before, strict=True):
            signal.signal(way, handler)


def _describe(opened: OpenedDataset, maker: str) -> str:
    images, points = _count(opened)
    where = printable(str(opened.store.points_file))
    by = printable(f"labels by {maker}")
    return f"{counted(images, 'image')}, {counted(points, 'point')} in {where}; {by}"


def _describe_end(opened: OpenedDataset) -> str:
    """What was saved, and what to do with it."""
    _, points = _count(opened)
    lines = [f"Saved {counted(points, 'point')} in {printable(str(opened.store.points_file))}"]
    if points:
        dataset = opened.dataset.path
        config, output = dataset.with_name(f"{dataset.stem}_config.yaml"), f"output/{dataset.stem}"
        lines += [
            "To train from them:",
            f"  fdd points check {_word(dataset)}",
            f"  fdd init-config {_word(dataset)} --output {_word(config)}",
            f"  fdd train --config-file {_word(config)} OUTPUT_DIR {_word(output)}",
        ]
    return "\n".join(lines)


def _count(opened: OpenedDataset) -> tuple[int, int]:
    points = opened.store.num_points()
    return len(points), sum(points)


def _word(path: str | Path) -> str:
    return printable(shlex.quote(str(path)))
