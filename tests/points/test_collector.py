"""The garbage collector is paused while files are read, and as it was afterwards."""

import gc
import json

import pytest

from fdd.points import PointLabelError, read_points
from fdd.points.collector import paused_collector


@pytest.fixture(autouse=True)
def _as_before():
    yield
    gc.enable()


@pytest.mark.parametrize("enabled", [True, False])
def test_it_is_as_it_was_also_after_an_error(enabled):
    (gc.enable if enabled else gc.disable)()
    with pytest.raises(KeyError), paused_collector():
        assert not gc.isenabled()
        with paused_collector():
            assert not gc.isenabled()
        assert not gc.isenabled()
        raise KeyError
    assert gc.isenabled() == enabled


def test_it_is_paused_while_points_are_read(tmp_path, monkeypatch):
    states = []
    parse = json.loads

    def loads(*args, **more):
        states.append(gc.isenabled())
        return parse(*args, **more)

    monkeypatch.setattr("json.loads", loads)
    file = tmp_path / "points.json"
    file.write_text('{"format": "fdd-points", "version": 1, "categories": [], "images": []}')
    with pytest.raises(PointLabelError):
        read_points(file)
    assert states == [False] and gc.isenabled()
