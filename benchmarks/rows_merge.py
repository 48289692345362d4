"""Inference: many scored soft masks into one panoptic map."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.harness import Case, Row
from benchmarks.inputs import deviation, smooth_logits
from fdd.modeling.panoptic_branch.postprocess import merge_masks

_SCORE, _MASK, _THING_OVERLAP, _STUFF_OVERLAP = 0.25, 0.5, 0.4, 0.2


def naive_merge(
    masks: Tensor,
    scores: Tensor,
    classes: Tensor,
    num_things: int,
    padded: tuple[int, int],
    image: tuple[int, int],
    size: tuple[int, int],
) -> tuple[Tensor, list[dict[str, Any]]]:
    """Panoptic SegFormer's mask-wise merging as PSPS runs it (``get_bboxes``).

    Every mask is resized to full size, twice, before any is dropped; then a loop over all of them
    asks the device three questions a mask.
    """
    maps = F.interpolate(masks[None], size=padded, mode="bilinear", align_corners=False)
    maps = maps[..., : image[0], : image[1]]
    if size != image:
        maps = F.interpolate(maps, size=size, mode="bilinear", align_corners=False)
    maps = maps[0]
    binary = maps > _MASK
    area = binary.sum((1, 2))
    mask_score = (maps * binary).sum((1, 2)) / (area + 1)
    final = scores * mask_score**2
    panoptic = torch.zeros(size, dtype=torch.int32)
    segments: list[dict[str, Any]] = []
    for i in final.sort(descending=True, stable=True).indices.tolist():
        if final[i] < _SCORE or area[i] == 0:
            continue
        is_thing = bool(classes[i] < num_things)
        taken = (binary[i] & (panoptic > 0)).sum()
        if taken / area[i] > (_THING_OVERLAP if is_thing else _STUFF_OVERLAP):
            continue
        fresh = binary[i] & (panoptic == 0)
        if not fresh.any():
            continue
        segments.append({"id": len(segments) + 1, "category_id": int(classes[i])})
        panoptic[fresh] = len(segments)
    return panoptic, segments


def _scene(things: int, stuff: int, height: int, width: int) -> dict[str, Tensor]:
    """A scene of blobs: a third of the queries double others, and about one in ten is sure enough
    to be painted, which is a crowded photograph."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(height)[:, None] / height
    x = torch.arange(width)[None] / width
    centre = torch.rand(things, 2, 1, 1, generator=generator)
    centre[1::3] = centre[::3][: len(centre[1::3])]  # duplicates
    radius = 0.04 + 0.12 * torch.rand(things, 1, 1, generator=generator)
    inside = 1 - ((y - centre[:, 0]).square() + (x - centre[:, 1]).square()).sqrt() / radius
    masks = (1.1 + inside * 2).clamp(0, 1.1) * (inside > -1)
    scores = torch.rand(things, generator=generator) ** 12
    land = smooth_logits(stuff, height, width)[0].softmax(0).mul(1.2)
    return {
        "thing_masks": masks.float(),
        "thing_scores": scores,
        "thing_classes": torch.randint(80, (things,), generator=generator),
        "stuff_masks": land,
        "stuff_scores": torch.rand(stuff, generator=generator) ** 6,
    }


def _case(things: int, size: tuple[int, int], image: tuple[int, int]) -> Case:
    padded = tuple(-(-side // 64) * 64 for side in image)
    scene = _scene(things, 53, padded[0] // 8, padded[1] // 8)
    masks = torch.cat((scene["thing_masks"], scene["stuff_masks"]))
    scores = torch.cat((scene["thing_scores"], scene["stuff_scores"]))
    classes = torch.cat((scene["thing_classes"], 80 + torch.arange(53)))

    def ours() -> tuple[Tensor, list[dict[str, Any]]]:
        return merge_masks(
            **scene, num_things=80, padded_size=padded, image_size=image, output_size=size
        )

    def peer() -> tuple[Tensor, list[dict[str, Any]]]:
        with torch.no_grad():
            return naive_merge(masks, scores, classes, 80, padded, image, size)

    def check() -> float:
        (found, info), (wanted, wanted_info) = ours(), peer()
        assert len(wanted_info) > 5, "a scene without segments proves nothing"
        assert [s["category_id"] for s in info] == [s["category_id"] for s in wanted_info]
        return deviation(found, wanted)

    return Case(ours, peer, check)


def rows() -> list[Row]:
    sizes = {"480x640": ((480, 640), (800, 1067)), "800x1333": ((800, 1333), (800, 1333))}
    return [
        Row(
            name=f"merge/300+53/{name}",
            what=f"300 thing and 53 stuff masks into one map of {name} px; PSPS's loop over masks",
            setup=lambda size=size, image=image: _case(300, size, image),
            target=5,
            memory_target=8,
            seconds=8,
        )
        for name, (size, image) in sizes.items()
    ]
