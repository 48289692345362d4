"""Names that the command line chooses among, in a module that imports nothing: they are shown
before PyTorch is loaded."""

from __future__ import annotations

__all__ = ["PREVIEWS", "STRATEGIES"]

#: Rules that make labels while there is no model, see :mod:`fdd.annotate.preview`.
PREVIEWS = ("nearest", "extent", "dnn")

#: Where a simulated annotator's next click goes: the middle of the largest wrong region, a random
#: pixel of it, the place that is suggested, a random pixel of the image, or one of each segment in
#: turn (as points are sampled).
STRATEGIES = ("middle", "random", "suggested", "anywhere", "points")
