"""Models that change while something else happens."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fdd.annotate import shelf as module
from fdd.annotate.shelf import ModelShelf
from fdd.points import Category


def test_a_model_that_is_being_loaded_stays_when_a_class_is_added(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def load(*given: Any, **options: Any) -> object:
        begun.set()
        assert go_on.wait(30)
        return object()

    monkeypatch.setattr(module, "load_trained", load)
    monkeypatch.setattr(module, "with_classes", lambda trained, categories: (trained, ()))
    labeller = SimpleNamespace(close=lambda: None)
    monkeypatch.setattr(module, "LiveLabeller", lambda *given, **options: labeller)
    shelf = ModelShelf([Category(1, "cat", True)], None)
    adding = threading.Thread(target=shelf.add, args=("training", Path("training")))
    adding.start()
    assert begun.wait(30)
    classes = [Category(1, "cat", True), Category(2, "dog", True)]
    knowing = threading.Thread(target=shelf.know, args=(classes,))
    knowing.start()
    time.sleep(0.1)  # it waits for the model by now
    go_on.set()
    adding.join(30)
    knowing.join(30)
    assert shelf.model == "training"
    assert shelf.categories == classes
