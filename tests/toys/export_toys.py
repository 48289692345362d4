"""The folder of a run with a tiny FDD model whose maps have segments, as training leaves it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from detectron2.modeling import build_model

from fdd.engine import FDDCheckpointer, build_optimizer
from modeling_toys import small_cfg, toy_input

__all__ = ["TOY", "toy_input", "write_run"]

#: One layer of everything: tracing takes time.
TOY: dict[str, Any] = {
    "MODEL.RESNETS.NORM": "BN",
    "MODEL.FDD.PSEUDO.NUM_LAYERS": 1,
    "MODEL.FDD.PAN.LOCATION_LAYERS": 2,
    "MODEL.FDD.PAN.THING_LAYERS": 1,
    "MODEL.FDD.PAN.STUFF_LAYERS": 1,
    "MODEL.FDD.PAN.TEST.SCORE_THRESH": 0.0,
    "MODEL.FDD.PAN.TEST.MAX_QUERIES": 20,
    "MODEL.FDD.PAN.TEST.MASK_THRESH": 0.1,
    "MODEL.FDD.PAN.TEST.THING_OVERLAP": 0.999,
    "MODEL.FDD.PAN.TEST.STUFF_OVERLAP": 0.999,
}


def write_run(folder: Path, changes: dict[str, Any] | None = None, datasets: Any = ()) -> Path:
    """Write ``config.yaml``, ``model_final.pth`` and ``last_checkpoint``; return the folder."""
    cfg = small_cfg(TOY | (changes or {}))
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.OUTPUT_DIR = str(folder)
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = tuple(datasets)
    torch.manual_seed(3)
    model = build_model(cfg)
    for name, buffer in model.named_buffers():
        if "running_mean" in name:
            buffer.normal_()
    optimizer = build_optimizer(cfg, model)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    folder.mkdir(parents=True, exist_ok=True)
    FDDCheckpointer(model, str(folder), optimizer=optimizer).save("model_final", iteration=41)
    (folder / "config.yaml").write_text(cfg.dump())
    return folder
