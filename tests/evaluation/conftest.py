from __future__ import annotations

import pytest

from evaluation_sets import PanopticSet


@pytest.fixture
def panoptic_set(tmp_path) -> PanopticSet:
    return PanopticSet(tmp_path / "truth")
