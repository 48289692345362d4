"""Side-by-side measurements of this package and of plainer arrangements of the same computation."""

import fdd  # noqa: F401  before Detectron2, about whose import PyTorch warns
