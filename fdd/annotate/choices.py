"""Names that the command line chooses among, in a module that imports nothing: they are shown
before PyTorch is loaded."""

from __future__ import annotations

__all__ = ["CLICK_MAKERS", "PREVIEWS", "STRATEGIES", "SUGGESTING"]

#: Rules that make labels while there is no model, see :mod:`fdd.annotate.preview`.
PREVIEWS = ("nearest", "extent", "dnn")

#: Label makers that a simulated annotator's clicks are given to: the model's; rules that need
#: nothing but the points; and rules that look at the model's semantic branch, or at its backbone's
#: features.
CLICK_MAKERS = ("learned", "nearest", "polygon", "extent", "semantic_nearest", "distance", "dnn")
#: Those of them that say where to click next.
SUGGESTING = ("learned", "nearest")

#: Where a simulated annotator's next click goes: the middle of the largest wrong region, a random
#: pixel of it, the place that is suggested, a random pixel of the image, or one of each segment in
#: turn (as points are sampled).
STRATEGIES = ("middle", "random", "suggested", "anywhere", "points")
