"""A key that a command allows does change what it writes. ``fdd.engine.acting_keys`` says which are
allowed; whether they act is measured here, for some of each kind."""

from __future__ import annotations

from pathlib import Path

import pytest

import export_toys
import labels_toys
from fdd.cli.main import main
from fdd.engine.acting_keys import acts
from prediction_toys import save

PREDICT = {
    "INPUT.FORMAT": "RGB",
    "INPUT.MIN_SIZE_TEST": "64",
    "MODEL.PIXEL_MEAN": "[0.0, 0.0, 0.0]",
    "MODEL.FDD.PAN.TEST.SCORE_THRESH": "0.9",
    "MODEL.FDD.PAN.TEST.MASK_THRESH": "0.6",
    "MODEL.FDD.PAN.TEST.MAX_QUERIES": "1",
}
EXPORT = {
    "INPUT.MIN_SIZE_TEST": "32",
    "MODEL.PIXEL_MEAN": "[0.0, 0.0, 0.0]",
    "MODEL.FDD.PSEUDO.LABEL_MIN_PROB": "0.5",
    "MODEL.FDD.PSEUDO.FORCE_POINTS": "True",
    "MODEL.FDD.PSEUDO.REFINE": "True",
    "MODEL.FDD.PSEUDO.SHARES": "True",
    "MODEL.FDD.CLICKS.RESIDUAL": "True",
}


def contents(folder: Path) -> dict[str, bytes]:
    """What the labels or segments are: of a folder, without what the command was called with."""
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for part in ("panoptic", "segments")
        for p in sorted((folder / part).rglob("*"))
        if p.is_file()
    }


@pytest.fixture(scope="module")
def predict(tmp_path_factory):
    root = tmp_path_factory.mktemp("keys_predict")
    sizes = {"INPUT.MIN_SIZE_TEST": 32, "INPUT.MAX_SIZE_TEST": 96, "INPUT.FORMAT": "BGR"}
    run = export_toys.write_run(root / "run", sizes)
    labels_toys.write_images(root)
    save(root / "images" / "ramp.png", 40, 60)

    def call(*opts: str) -> dict[str, bytes]:
        output = root / f"out_{'_'.join(opts) or len(list(root.iterdir()))}".replace("/", "_")
        words = ["predict", str(root / "images"), "--recursive", "--no-overlay", "--model"]
        assert main([*words, str(run), "--output", str(output), "--opts", *opts]) == 0
        return contents(output)

    return call, call()


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    root = tmp_path_factory.mktemp("keys_export")
    labels_toys.write_images(root)
    labels_toys.write_run(root / "run", root / "toy.yaml")

    def call(*opts: str) -> dict[str, bytes]:
        output = root / f"out_{'_'.join(opts) or len(list(root.iterdir()))}"
        words = ["labels", "export", "--model", str(root / "run"), "--dataset"]
        assert main([*words, str(root / "toy.yaml"), "--output", str(output), *opts]) == 0
        return contents(output)

    return call, call()


@pytest.mark.parametrize("key", PREDICT)
def test_keys_of_predict(predict, key) -> None:
    call, plain = predict
    assert acts("predict", key)
    changed = call(key, PREDICT[key])
    assert changed.keys() == plain.keys() and changed != plain


@pytest.mark.parametrize("key", EXPORT)
def test_keys_of_labels_export(export, key) -> None:
    call, plain = export
    assert acts("labels export", key)
    changed = call(key, EXPORT[key])
    assert changed.keys() == plain.keys() and changed != plain


@pytest.mark.parametrize("command", ["predict", "export"])
def test_without_a_key_nothing_changes(command, request) -> None:
    call, plain = request.getfixturevalue(command)
    assert plain and call() == plain
