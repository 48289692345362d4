"""Python's garbage collector, paused while a large file becomes objects.

Millions of lists and dicts that all stay make it look through all of them again and again: it took
more than half of the time of reading a points file of 100,000 images, and freed nothing.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["paused_collector"]


@contextmanager
def paused_collector() -> Iterator[None]:
    """In the region no cycles are looked for; what has no references is freed all the same.

    Regions may be nested. As the collector is the process's, other threads have none meanwhile.
    """
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()
