"""The commands of a training that the annotation page begins."""

from __future__ import annotations

from pathlib import Path

from fdd.annotate.train_on import training_commands, training_config
from fdd.engine.configs import new_cfg


def test_a_training_goes_on_for_what_makes_labels_from_few_clicks(tmp_path: Path) -> None:
    cfg = new_cfg()
    found = training_config(cfg, tmp_path / "set.yaml", tmp_path / "run", 40)
    assert found.MODEL.FDD.PSEUDO.PROMPT_SUBSETS == 1.0
    assert found.SOLVER.MAX_ITER == 40 and found.SOLVER.HEAD_ITERS == 0
    assert (str(tmp_path / "set.yaml"),) == found.DATASETS.TRAIN and found.DATASETS.TEST == ()
    assert cfg.MODEL.FDD.PSEUDO.PROMPT_SUBSETS == 0.0, "the model's own is left as it is"


def test_what_is_given_counts_in_a_training_without_a_model(tmp_path: Path) -> None:
    given = ["MODEL.FDD.PSEUDO.PROMPT_SUBSETS", "0.25"]
    begin, train = training_commands(tmp_path / "set.yaml", tmp_path, None, 30, given)
    key = "MODEL.FDD.PSEUDO.PROMPT_SUBSETS"
    values = [begin[n + 1] for n, word in enumerate(begin) if word == key]
    assert values == ["1.0", "0.25"]
    assert train[train.index("SOLVER.MAX_ITER") + 1] == "30"
