"""A training step of the same model, arranged as earlier code does it.

Written plainly from the published descriptions that each file names; nothing is copied. The losses
and gradients equal those of :class:`fdd.modeling.meta_arch.FDD` (a test asserts it), so that time
and memory of the two can be compared.
"""

from benchmarks.textbook.parts import CHEAP, EQUAL, NOT_EQUAL, Arrangement, arrange
from benchmarks.textbook.step import TextbookStep

__all__ = ["CHEAP", "EQUAL", "NOT_EQUAL", "Arrangement", "TextbookStep", "arrange"]
