"""Training and evaluation as a command: what ``train_net.py`` and ``fdd train`` do."""

from __future__ import annotations

import argparse
import logging
import os
import shlex
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import default_argument_parser
from detectron2.evaluation import verify_results
from detectron2.utils import comm
from detectron2.utils.collect_env import collect_env_info
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import HistoryBuffer

import fdd.modeling  # noqa: F401  registers the meta-architecture
from fdd.config import check_fdd_config
from fdd.data.dataset_files import resolve_name
from fdd.engine.acting_keys import refuse_idle_keys
from fdd.engine.checkpoint import check_weights
from fdd.engine.checks import check_training
from fdd.engine.configs import find_config, load_cfg, new_cfg
from fdd.engine.evaluate import (
    evaluate_label_quality,
    evaluate_predictions,
    evaluate_pseudo_labels,
)
from fdd.engine.logs import set_up_logs
from fdd.engine.processes import start_processes
from fdd.engine.run_folder import (
    FINAL,
    LAST,
    describe_weights,
    find_checkpoint,
    refuse_foreign_files,
    refuse_held_folder,
    refuse_used_folder,
)
from fdd.engine.step import unwrap
from fdd.engine.trainer import Trainer
from fdd.modeling.device import subnormals_as_zero
from fdd.points.files import named_errors
from fdd.points.wording import describe_duration
from fdd.training_options import (
    add_evaluation_arguments,
    add_init_argument,
    add_overwrite_argument,
)

__all__ = [
    "check",
    "check_folder",
    "check_options",
    "check_processes",
    "describe_end",
    "describe_processes",
    "evaluates",
    "get_parser",
    "main",
    "parse_args",
    "run",
    "setup",
    "split_options",
]


def get_parser() -> argparse.ArgumentParser:
    """Detectron2's arguments, ``--overwrite``, and the two evaluations of pseudo labels."""
    parser = default_argument_parser()
    add_init_argument(parser)
    add_overwrite_argument(parser)
    add_evaluation_arguments(parser)
    return parser


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line, also with KEY VALUE behind the names of data sets."""
    return split_options(get_parser().parse_args(argv))


def split_options(args: argparse.Namespace) -> argparse.Namespace:
    """Move KEY VALUE that stand behind the names of data sets to the other keys, and choose where
    processes meet if nothing is said."""
    if args.dist_url is None:
        args.dist_url = default_argument_parser().get_default("dist_url")
    if args.init_from is not None:
        args.opts = [*args.opts, "MODEL.WEIGHTS", str(find_checkpoint(args.init_from))]
        args.init_from = None  # done
    keys = new_cfg()
    for option in ("eval_pseudo_labels", "eval_label_quality"):
        names = getattr(args, option) or []
        first_key = next((i for i, n in enumerate(names) if n.split(".")[0] in keys), len(names))
        if first_key < len(names):
            setattr(args, option, names[:first_key])
            args.opts = names[first_key:] + args.opts
    return args


def setup(args: argparse.Namespace) -> CfgNode:
    """Make the config of the command line, the log and the output folder of the run.

    As Detectron2's ``default_setup``, but nothing other than the log is written: ``config.yaml`` in
    the folder belongs to its checkpoints, and is written with them.
    """
    args.config_file = find_config(args.config_file)
    cfg, warning = load_cfg(args.config_file, args.opts)
    cfg.freeze()
    rank = comm.get_rank()
    with named_errors(Path(cfg.OUTPUT_DIR)):
        if comm.is_main_process():
            os.makedirs(cfg.OUTPUT_DIR or ".", exist_ok=True)
        logger = set_up_logs(cfg.OUTPUT_DIR, rank)
    start = logging.getLogger("detectron2")
    start.info("Rank of current process: %d. World size: %d", rank, comm.get_world_size())
    start.info("Environment info:\n%s", collect_env_info())
    start.info("Command line arguments: %s", args)
    if args.config_file:
        content = Path(args.config_file).read_text(encoding="utf-8")
        start.info("Contents of %s:\n%s", args.config_file, content)
    start.info("Running with full config:\n%s", cfg.dump())
    for text in (warning, describe_processes(args, cfg)):
        if text:
            logger.warning(text)
    seed_all_rng(None if cfg.SEED < 0 else cfg.SEED + rank)
    if not args.eval_only:
        torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK
    return cfg


def describe_processes(args: argparse.Namespace, cfg: CfgNode) -> str | None:
    """What ``--num-gpus`` does where that is not what it says, for the log; or None."""
    if torch.cuda.is_available() and args.num_gpus == 0 and cfg.MODEL.DEVICE != "cpu":
        return (
            f"--num-gpus 0 is one process, on MODEL.DEVICE {cfg.MODEL.DEVICE!r}; to leave the GPU "
            "alone, add MODEL.DEVICE cpu"
        )
    if not torch.cuda.is_available() and args.num_gpus > 1:
        return (
            f"--num-gpus is {args.num_gpus}, but torch finds no GPU: {args.num_gpus} processes on "
            "the CPU share the batch and the cores. One process (without --num-gpus) is usually as "
            "fast, and needs the memory once"
        )
    return None


def check_processes(args: argparse.Namespace) -> None:
    """Refuse numbers of processes that cannot be started.

    Raises:
        ValueError: a negative number, or more processes than GPUs where there are GPUs.
    """
    if args.num_gpus < 0 or args.num_machines < 1:
        raise ValueError(
            f"--num-gpus is {args.num_gpus} and --num-machines {args.num_machines}; expected 1 or "
            "more"
        )
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if there and args.num_gpus > there:
        raise ValueError(
            f"--num-gpus is {args.num_gpus}, but torch finds {there} on this machine "
            "(CUDA_VISIBLE_DEVICES decides which it sees)"
        )


def main(args: argparse.Namespace) -> dict[str, Any] | None:
    """Do what the arguments say, in one process.

    Raises:
        FileExistsError: ``OUTPUT_DIR`` holds a training, and neither ``--resume`` nor
            ``--overwrite`` is given.
        FileNotFoundError, ValueError: something that is named is missing, or does not go together.
    """
    check_options(args)
    if not evaluates(args):
        # Before the data, which may take minutes to read, and before the log, which belongs to
        # another training if one is running.
        check_folder(args, load_cfg(find_config(args.config_file), args.opts)[0].OUTPUT_DIR)
    cfg = setup(args)
    for names, evaluate in (
        (args.eval_pseudo_labels, evaluate_pseudo_labels),
        (args.eval_label_quality, evaluate_label_quality),
    ):
        if names is not None:
            names = [resolve_name(name, "points", args.config_file) for name in names]
            return evaluate(cfg, names, resume=args.resume)
    if args.eval_only:
        results = evaluate_predictions(Trainer, cfg, resume=args.resume)
        if comm.is_main_process():
            verify_results(cfg, results)
        return results
    check_weights(cfg.MODEL.WEIGHTS, save_dir=cfg.OUTPUT_DIR, resume=args.resume)
    with subnormals_as_zero():
        trainer = Trainer(cfg, check_masks=not getattr(args, "masks_checked", False))
        trainer.overwrite = args.overwrite
        trainer.resume_or_load(resume=args.resume)
        start = time.perf_counter()
        trained = trainer.train()
    if comm.is_main_process():
        seconds = time.perf_counter() - start
        logging.getLogger(__name__).info("%s", describe_end(trainer, seconds))
    return trained


def check_options(args: argparse.Namespace) -> None:
    """Refuse options that do not go together."""
    if not args.overwrite:
        return
    if args.resume:
        raise ValueError(
            "--resume continues the training in OUTPUT_DIR, --overwrite starts a new one there: "
            "give only one of them"
        )
    if evaluates(args):
        raise ValueError("--overwrite is for training; evaluations change nothing of a run")


def check_folder(args: argparse.Namespace, folder: str) -> None:
    """Refuse a folder in which no training can start or resume; to be called by every process.

    Raises:
        FileExistsError: another training is running or has run there, or it holds files of others
            that a training would replace.
    """
    refuse_held_folder(folder)
    if not (args.resume or args.overwrite):
        refuse_used_folder(folder)
    if not (args.resume and os.path.isfile(os.path.join(folder, LAST))):  # else it starts over
        refuse_foreign_files(folder)


def evaluates(args: argparse.Namespace) -> bool:
    """Whether the arguments ask for an evaluation, not for a training."""
    return (
        args.eval_only
        or args.eval_pseudo_labels is not None
        or (args.eval_label_quality is not None)
    )


def check(args: argparse.Namespace) -> None:
    """Refuse what every process would refuse, as long as there is one.

    Raises:
        OSError, ValueError: as :func:`main`, for the config, the data sets and weights that it
            names, and a folder in use.
    """
    check_options(args)
    cfg, _ = load_cfg(find_config(args.config_file), args.opts)
    if evaluates(args):
        check_fdd_config(cfg)
    else:
        check_training(cfg, args.num_gpus * args.num_machines)
        check_folder(args, cfg.OUTPUT_DIR)
    options = {"resume": args.resume, "needed": evaluates(args)}
    check_weights(cfg.MODEL.WEIGHTS, save_dir=cfg.OUTPUT_DIR, **options)
    if torch.cuda.is_available() and not str(cfg.MODEL.DEVICE).startswith("cuda"):
        raise ValueError(
            f"MODEL.DEVICE is {cfg.MODEL.DEVICE!r} with several processes, which exchange "
            "gradients over the GPUs that torch finds: leave --num-gpus out, or hide the GPUs with "
            "CUDA_VISIBLE_DEVICES=-1"
        )


def run(
    args: argparse.Namespace,
    process: Callable[[argparse.Namespace], object] = main,
    *,
    program: str = "train_net.py",
) -> None:
    """Do what the arguments say, in as many processes as they say.

    Args:
        args: of :func:`parse_args` or :func:`split_options`.
        process: what each process does.
        program: who was called, see :data:`fdd.engine.acting_keys.ACTING`.

    Raises:
        OSError, ValueError: as :func:`main`; or a config key would be passed over.
        ProcessLostError, SystemExit: see :func:`fdd.engine.processes.start_processes`.
    """
    refuse_idle_keys(program, args.opts, config_file=args.config_file)
    check_processes(args)
    if args.num_gpus * args.num_machines > 1:
        check(args)
        args.masks_checked = not evaluates(args)  # once is enough: it may take minutes
    start_processes(process, args)


# Of the names of the data sets that come with the package.
_BUILTIN = "fdd_"
# Measurements that a scalar of the labels is averaged over: one batch has few left-out points.
_WINDOW = 20


def describe_end(trainer: Any, seconds: float) -> str:
    """The final log entry of a training: its result, and the commands that come next.

    Args:
        trainer: a :class:`fdd.engine.trainer.Trainer` whose training is done, on the main process.
        seconds: spent on the iterations of this process.
    """
    folder = Path(trainer.cfg.OUTPUT_DIR)
    count = trainer.max_iter - trainer.start_iter
    resumed = f" ({count:,} of them since it was resumed)" if trainer.start_iter else ""
    lines = [
        f"Training is done: {trainer.max_iter:,} iterations{resumed}, {describe_duration(seconds)}"
    ]
    if (folder / FINAL).is_file():
        lines.append(describe_weights(folder / FINAL))
    lines += _labels(trainer.storage.histories())
    if not trainer.cfg.DATASETS.TEST:
        lines.append(
            "Nothing was evaluated: DATASETS.TEST names no masks to measure panoptic quality (PQ) "
            "on"
        )
    return "\n".join([*lines, "Next:", *(f"  {line}" for line in _next(trainer, folder))])


def _labels(histories: dict[str, HistoryBuffer]) -> list[str]:
    """How the learned labels compare with those of the nearest point in the last batches; empty
    where no point could be left out."""
    names = ("labels/left_out", "labels/left_out_nearest")
    if not all(name in histories for name in names):
        return []
    learned, nearest = (100 * histories[name].avg(_WINDOW) for name in names)
    return [
        f"Labels in the last batches: {learned:.0f} % of the points left out in turn lay on their "
        f"segment's label, and {nearest:.0f} % had their nearest point in their segment. That is "
        "of few points and ranks no label makers: `fdd report` looks at all images, and measures "
        "PQ where there are masks"
    ]


def _next(trainer: Any, folder: Path) -> list[str]:
    """Command lines, each with what it is for."""
    model = f"--model {_shown(folder)}"
    lines = []
    makes_labels = hasattr(unwrap(trainer.model), "estimate_labels")
    name = trainer.cfg.DATASETS.TRAIN[0]
    if makes_labels and trainer.has_points and _is_known_to_all(name):
        data = f"{model} --dataset {_shown(name)}"
        lines += [
            f"fdd report {data} --output report.html  # labels and predictions, worst first",
            f"fdd labels export {data} --output labels  # dense labels as a data set",
        ]
    return [*lines, f"fdd predict {model} IMAGES --output results  # segment new images"]


def _is_known_to_all(name: str) -> bool:
    """Whether other programs know a data set by its name: a file's, or a built-in one's. What a
    script registers is known to the script."""
    return Path(name.partition("#")[0]).is_file() or name.startswith(_BUILTIN)


def _shown(path: str | os.PathLike[str]) -> str:
    """A path or a data set's name for the shell, from the working folder if it lies below."""
    text, here = os.fspath(path), os.getcwd()
    if os.path.isabs(text) and os.path.commonpath([text, here]) == here:
        text = os.path.relpath(text, here)
    return shlex.quote(text)
