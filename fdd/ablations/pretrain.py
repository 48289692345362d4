"""A backbone to start from, for data that has none: trained on other drawings, once."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from fdd.ablations.tables import shipped_config
from fdd.points.files import atomic_path

_PREFIX = "backbone."


def pretrain_backbone(config: str, path: Path, folder: Path) -> None:
    """Train a shipped config and keep its backbone.

    Args:
        config: as :func:`fdd.config_files.get_config_file` knows it.
        path: the file of weights to write; Detectron2's form, for ``MODEL.WEIGHTS``.
        folder: log and checkpoints of the training; one that was cut goes on from there.
    """
    import fdd.modeling  # noqa: F401  registers the meta-architecture
    from fdd.engine import Trainer, resolve_device

    cfg = shipped_config(config).clone()
    cfg.defrost()
    cfg.OUTPUT_DIR = str(folder)
    resolve_device(cfg)
    folder.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=True)
    trainer.train()
    weights = trainer.model.state_dict()
    kept = {name: value.cpu() for name, value in weights.items() if name.startswith(_PREFIX)}
    with atomic_path(path) as temporary:
        torch.save({"model": kept, "__author__": "fdd.ablations.pretrain"}, temporary)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m fdd.ablations.pretrain", description=__doc__)
    parser.add_argument("--config", required=True)
    parser.add_argument("--weights", required=True, type=Path)
    parser.add_argument("--output", required=True, type=Path)
    args = parser.parse_args(argv)
    pretrain_backbone(args.config, args.weights, args.output)


if __name__ == "__main__":
    main()
