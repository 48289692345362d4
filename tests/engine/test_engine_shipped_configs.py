"""Shipped configs by their name, and as the base of a config that lies anywhere."""

from __future__ import annotations

import pickle

import pytest
from detectron2.config import CfgNode

from fdd.config_files import get_config_file
from fdd.engine.configs import find_config, merge_cfg


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("base", ['"fdd://shapes/Base-Shapes.yaml"', "[fdd://shapes/Base-Shapes]"])
def test_a_config_of_any_folder_builds_on_a_shipped_one(elsewhere, base):
    (elsewhere / "mine").mkdir()
    (elsewhere / "mine" / "cells.yaml").write_text(
        f"_BASE_: {base}\nMODEL: {{FDD: {{NUM_THINGS: 2}}}}\n"
    )
    (elsewhere / "later.yaml").write_text("_BASE_: mine/cells.yaml\nSEED: 7\n")
    cfg = merge_cfg("later.yaml", ["SOLVER.MAX_ITER", "9"])
    assert (cfg.MODEL.FDD.NUM_THINGS, cfg.SEED, cfg.SOLVER.MAX_ITER) == (2, 7, 9)
    # From Base-Shapes.yaml, and from Base-FDD.yaml, on which that builds.
    shipped = merge_cfg(get_config_file("shapes/Base-Shapes.yaml"))
    assert cfg.MODEL.FDD.HIDDEN_DIM == shipped.MODEL.FDD.HIDDEN_DIM == 96
    assert cfg.MODEL.META_ARCHITECTURE == shipped.MODEL.META_ARCHITECTURE == "FDD"


def test_a_base_that_is_not_shipped_is_named(elsewhere):
    (elsewhere / "cells.yaml").write_text("_BASE_: fdd://shapes/Base-Shape.yaml\n")
    with pytest.raises(FileNotFoundError, match=r"Base-Shape\.yaml.*closest: shapes/Base-Shapes"):
        merge_cfg("cells.yaml")


@pytest.mark.parametrize("name", ["shapes/fdd_small_P10.yaml", "fdd://shapes/fdd_small_P10"])
def test_a_shipped_config_by_its_name(elsewhere, name):
    assert merge_cfg(name).DATASETS.TRAIN == ("fdd_shapes_train_p10",)
    assert find_config(name) == get_config_file("shapes/fdd_small_P10.yaml")


def test_a_file_that_is_there_comes_before_a_shipped_one(elsewhere):
    (elsewhere / "shapes").mkdir()
    (elsewhere / "shapes" / "fdd_small_P10.yaml").write_text("VERSION: 2\nSEED: 31\n")
    assert merge_cfg("shapes/fdd_small_P10.yaml").SEED == 31


def test_a_config_that_is_nowhere(elsewhere):
    with pytest.raises(FileNotFoundError, match=r"^shapes/small\.yaml: no such file, and no conf"):
        merge_cfg("shapes/small.yaml")
    with pytest.raises(FileNotFoundError, match=r"absent\.yaml"):
        merge_cfg(str(elsewhere / "absent.yaml"))
    assert find_config("") == ""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no KEY: VALUE"),
        ("- 1\n", "holds no KEY: VALUE"),
        ("just words\n", "holds no KEY: VALUE"),
        ("VERSION: 1\n", "VERSION is 1, expected 2"),
        ("MODEL: {FDD: {NUM_THING: 2}}\n", "MODEL.FDD.NUM_THING"),
        ("SEED: one\n", "SEED"),
        ("SEED: [1\n", "line 1"),
        ("SEED: !!python/object/apply:os.getpid []\n", "could not determine a constructor"),
    ],
)
def test_an_unsound_config_names_the_file_and_the_key(elsewhere, text, said):
    (elsewhere / "cells.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"^config file cells\.yaml: ") as caught:
        merge_cfg("cells.yaml")
    assert said in str(caught.value)


def test_what_is_made_is_an_ordinary_config(elsewhere):
    cfg = merge_cfg("shapes/fdd_small_P10.yaml")
    assert isinstance(cfg, CfgNode) and isinstance(cfg.MODEL.FDD, CfgNode)
    again = pickle.loads(pickle.dumps(cfg.clone()))
    assert again == cfg and again.dump() == cfg.dump()
    with pytest.raises(AssertionError, match="NO_SUCH"):
        cfg.merge_from_list(["MODEL.NO_SUCH", "1"])
