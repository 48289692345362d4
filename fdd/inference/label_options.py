"""How dense labels are exported: the options, and whether they go together."""

from __future__ import annotations

import math
from dataclasses import dataclass

from detectron2.config import CfgNode

from fdd.export_formats import FORMATS
from fdd.export_formats.panoptic_writer import PANOPTIC
from fdd.modeling.label_makers import get_label_maker

__all__ = ["ExportOptions", "choose_maker", "own_keys"]


@dataclass(frozen=True)
class ExportOptions:
    """How labels are made and written.

    Attributes:
        maker: label maker, by default the model's own.
        min_confidence: in [0, 1]; pixels whose label is less probable become void, but for the
            points' own cells. None: ``MODEL.FDD.PSEUDO.LABEL_MIN_PROB``, as in training.
        scales: factors of the size at test time. The probabilities of all are averaged.
        flip: average over the mirrored image, too.
        confidence_maps: write ``confidence/*.png``, 255 times the probability.
        formats: keys of :data:`fdd.export_formats.FORMATS`; "panoptic" is always written.
        batch: images at a time, of those whose inputs have one size.
        workers: processes that read images; None: ``DATALOADER.NUM_WORKERS``.
        overwrite: replace an export with other settings.
        skip_unreadable: write the data set without the images that cannot be read.
    """

    maker: str = ""
    min_confidence: float | None = None
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    confidence_maps: bool = False
    formats: tuple[str, ...] = (PANOPTIC,)
    batch: int = 1
    workers: int | None = None
    overwrite: bool = False
    skip_unreadable: bool = False

    def check(self) -> None:
        """
        Raises:
            ValueError: a value is out of its range, or what is asked for does not go together.
        """
        bad = [s for s in self.scales if not (math.isfinite(s) and s > 0)]
        if not self.scales or bad or len(set(self.scales)) < len(self.scales):
            raise ValueError(
                f"scales are {list(self.scales)}; expected different numbers above 0, such as 1 1.5"
            )
        if self.min_confidence is not None and not 0 <= self.min_confidence <= 1:
            raise ValueError(f"the least confidence is {self.min_confidence}; expected 0 to 1")
        if unknown := [name for name in self.formats if name not in FORMATS]:
            raise ValueError(f"format {unknown[0]!r} is unknown; allowed: {', '.join(FORMATS)}")
        if self.batch < 1 or (self.workers or 0) < 0:
            raise ValueError("expected a batch of at least 1 image, and 0 workers or more")
        if self.maker and "masks" in get_label_maker(self.maker).needs:
            raise ValueError(
                f"label maker {self.maker!r} copies true masks; to export labels made from points, "
                "name another one"
            )
        if self.maker not in ("", "learned") and self.needs_probabilities:
            raise ValueError(
                f"label maker {self.maker!r} knows no probabilities: a least confidence, maps of "
                "it, scales and flips are for 'learned'"
            )

    @property
    def averages(self) -> bool:
        """Whether there is more than one view, or another than the usual one."""
        return self.flip or tuple(self.scales) != (1.0,)

    @property
    def needs_probabilities(self) -> bool:
        """Whether only the learned labels will do."""
        return self.averages or self.confidence_maps or bool(self.min_confidence)


def own_keys(options: ExportOptions) -> list[str]:
    """The config keys, with values, of which some options are other names."""
    baselines = f"('{options.maker}',)" if options.maker else "()"
    keys = ["TEST.PSEUDO_LABELS.BASELINES", baselines]
    if options.min_confidence is not None:
        keys += ["MODEL.FDD.PSEUDO.LABEL_MIN_PROB", str(float(options.min_confidence))]
    if options.workers is not None:
        keys += ["DATALOADER.NUM_WORKERS", str(options.workers)]
    return keys


def choose_maker(cfg: CfgNode, options: ExportOptions) -> str:
    """The label maker that a model's labels are exported of.

    Raises:
        ValueError: the model makes none, or not what the options ask for.
    """
    own = "full" if cfg.MODEL.FDD.PAN_SUPERVISION == "full" else cfg.MODEL.FDD.LABEL_MAKER
    maker = options.maker or own
    if maker == "full":
        raise ValueError(
            "the model was trained on full masks (MODEL.FDD.PAN_SUPERVISION 'full') and makes no "
            "labels from points; name a rule with --maker, such as 'nearest', or another model"
        )
    if maker != "learned" and options.needs_probabilities:
        raise ValueError(
            f"the model's label maker is {maker!r}, which knows no probabilities: a least "
            "confidence, confidence maps, scales and flips need a model that learned its labels "
            "(MODEL.FDD.LABEL_MAKER 'learned')"
        )
    return maker
