"""A click on an open image: the label branch again, with what is known of the image kept."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.harness import Case, Row
from benchmarks.inputs import deviation
from benchmarks.rows_step import build
from fdd.modeling.structures import batch_points

_SIZE = (480, 640)


def _click(count: int) -> Case:
    model, batch = build(_SIZE, instances=count, changes=["MODEL.FDD.CLICKS.RESIDUAL", True])
    model.eval()
    with torch.no_grad():
        images = model.preprocess(batch)
        memory = model.encode(images)
    sizes = [(int(h), int(w)) for h, w in images.image_sizes]
    ready = model.make_ready(memory, sizes)
    height, width = images.tensor.shape[-2:]

    def maps(output) -> Tensor:
        logits = output.instance[-1]
        return logits if output.residual is None else logits + output.residual

    def ours() -> Tensor:
        points = batch_points(batch, (int(height), int(width)), model.device)
        return maps(model.estimate_ready(ready, points))

    def peer() -> Tensor:
        with torch.no_grad():
            points = batch_points(batch, (int(height), int(width)), model.device)
            return maps(model.estimate_obeying(memory, points, sizes))

    def encoded() -> Tensor:
        with torch.no_grad():
            points = batch_points(batch, (int(height), int(width)), model.device)
            return maps(model.estimate_obeying(model.encode(images), points, sizes))

    return Case(ours, peer, lambda: deviation(ours(), peer()), {"encoded": encoded})


def rows() -> list[Row]:
    return [
        Row(
            name=f"click/{count}/480x640",
            what=f"logits of {count} segments after a click, published R50, image open; all of the "
            "label branch again, and the image's encoding, too",
            setup=lambda count=count: _click(count),
            tolerance=1e-4,
            seconds=4,
        )
        for count in (25, 100)
    ]
