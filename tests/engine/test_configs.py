"""From files and KEY VALUE pairs to a config: what is found, and what a mistake says."""

from __future__ import annotations

from pathlib import Path

import pytest

from fdd.config import check_fdd_config
from fdd.data.catalog import forget
from fdd.engine.configs import current_names, find_config, load_cfg, merge_cfg, new_cfg

LABELS = "images: images\npoints: points.json\n"


@pytest.fixture
def folders(tmp_path: Path):
    """Two folders, each with a data set file of the same name."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "dataset.yaml").write_text(LABELS)
    (tmp_path / "one" / "config.yaml").write_text('DATASETS:\n  TRAIN: ("dataset.yaml",)\n')
    yield tmp_path
    for name in ("one", "two"):
        forget(str(tmp_path / name / "dataset.yaml"))


@pytest.mark.parametrize("entry", ['("dataset.yaml",)', '["dataset.yaml"]'])
def test_a_config_names_what_lies_beside_it(folders: Path, monkeypatch, entry: str) -> None:
    monkeypatch.chdir(folders / "two")
    (folders / "one" / "config.yaml").write_text(f"DATASETS:\n  TRAIN: {entry}\n")
    cfg, _ = load_cfg("../one/config.yaml")
    assert (str(folders / "one" / "dataset.yaml"),) == cfg.DATASETS.TRAIN


def test_a_base_in_another_folder_names_what_lies_beside_it(folders: Path) -> None:
    child = folders / "child.yaml"
    child.write_text('_BASE_: "one/config.yaml"\nSOLVER: {MAX_ITER: 7}\n')
    cfg, _ = load_cfg(child)
    assert (str(folders / "one" / "dataset.yaml"),) == cfg.DATASETS.TRAIN
    assert cfg.SOLVER.MAX_ITER == 7
    child.write_text(
        '_BASE_: "one/config.yaml"\nDATASETS: {TRAIN: ["two/dataset.yaml#points", "fdd_x"]}\n'
    )
    assert (
        f"{folders / 'two' / 'dataset.yaml'}#points",
        "fdd_x",
    ) == merge_cfg(child).DATASETS.TRAIN


def test_a_name_on_the_command_line_that_may_be_two_files_is_refused(
    folders: Path, monkeypatch
) -> None:
    monkeypatch.chdir(folders / "two")
    with pytest.raises(ValueError, match="the whole path"):
        load_cfg(folders / "one" / "config.yaml", ["DATASETS.TRAIN", "('dataset.yaml',)"])


def test_a_config_is_utf8_whatever_the_locale(tmp_path: Path, monkeypatch) -> None:
    import builtins

    path = tmp_path / "config.yaml"
    path.write_bytes("OUTPUT_DIR: größe  # Zellgröße, 細胞\n".encode())
    real = builtins.open

    def ascii_open(file, mode="r", *arguments, **options):
        options |= {} if "b" in mode else {"encoding": "ascii"}
        return real(file, mode, *arguments, **options)

    monkeypatch.setattr(builtins, "open", ascii_open)
    assert merge_cfg(path).OUTPUT_DIR == "größe"


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (["SOLVER.MAX_ITER"], "'SOLVER.MAX_ITER' has no value.*in pairs"),
        (["cells/config.yaml"], "give it as --config-file"),
        (["SOLVER.MAX_ITR", "1"], r"key: SOLVER.MAX_ITR. Did you mean SOLVER.MAX_ITER\?"),
        (["nothing.like.it", "1"], "key: nothing.like.it. Config keys and values"),
        (["SOLVER.MAX_ITER.X", "1"], "Non-existent key: SOLVER.MAX_ITER.X"),
        (["SOLVER", "1"], "SOLVER is a group of keys"),
        (["SOLVER.MAX_ITER", "many"], "SOLVER.MAX_ITER is 'many'; expected int, such as 40000"),
        (["DATASETS.TRAIN", "a.yaml"], r"""in quotes: "\('a.yaml',\)\""""),
        (["SOLVER.STEPS", "5"], r'in quotes: "\(5,\)"'),
    ],
)
def test_what_is_wrong_on_the_command_line(opts: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        merge_cfg("", opts)
    assert "\n" not in str(error.value)


def test_a_file_with_a_value_for_a_group_of_keys(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("MODEL: 3\n")
    with pytest.raises(ValueError, match=r"config\.yaml.*MODEL") as error:
        merge_cfg(path)
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


def test_a_data_set_file_is_no_config(folders: Path) -> None:
    with pytest.raises(ValueError, match="This is a data set file: `fdd init-config`"):
        merge_cfg(folders / "one" / "dataset.yaml")


def test_a_mistyped_config_is_looked_for_beside(tmp_path, monkeypatch) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.yaml").write_text("")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"mine/confg\.yaml.*mean mine/config\.yaml\?"):
        find_config("mine/confg.yaml")
    with pytest.raises(FileNotFoundError, match=r"closest: .*shapes"):
        find_config("shapes/Base-Shape.yaml")


OLD = "TEST.PSEUDO_LABELS.YARDSTICKS"


def test_a_renamed_key_is_read_with_a_warning(tmp_path, caplog) -> None:
    config = tmp_path / "old.yaml"
    config.write_text("TEST:\n  PSEUDO_LABELS:\n    YARDSTICKS: ('dnn',)\n")
    cfg = merge_cfg(config)
    assert tuple(cfg.TEST.PSEUDO_LABELS.BASELINES) == ("dnn",)
    assert str(config) in caplog.text and "TEST.PSEUDO_LABELS.BASELINES" in caplog.text
    cfg = merge_cfg("", [OLD, "('polygon',)"])
    assert tuple(cfg.TEST.PSEUDO_LABELS.BASELINES) == ("polygon",)


@pytest.mark.parametrize(
    ("base", "child"), [("BASELINES", "YARDSTICKS"), ("YARDSTICKS", "BASELINES")]
)
def test_a_file_overrides_its_base_by_either_name_of_a_key(tmp_path, base, child) -> None:
    text = "TEST:\n  PSEUDO_LABELS:\n    {}: ('{}',)\n"
    (tmp_path / "base.yaml").write_text(text.format(base, "nearest"))
    (tmp_path / "child.yaml").write_text("_BASE_: base.yaml\n" + text.format(child, "polygon"))
    cfg = merge_cfg(tmp_path / "child.yaml")
    assert tuple(cfg.TEST.PSEUDO_LABELS.BASELINES) == ("polygon",)


def test_a_renamed_key_that_a_program_sets_is_an_error() -> None:
    cfg = new_cfg()
    cfg.TEST.PSEUDO_LABELS.YARDSTICKS = ("dnn",)
    with pytest.raises(ValueError, match="BASELINES"):
        check_fdd_config(cfg)


def test_detectron2_alone_names_the_new_key(tmp_path) -> None:
    cfg = new_cfg()
    with pytest.raises(KeyError, match="BASELINES"):
        cfg.merge_from_list([OLD, "('dnn',)"])


def test_the_config_inside_a_checkpoint_has_its_keys_renamed_in_silence(caplog) -> None:
    """Nobody can rename a key there."""
    text = current_names("VERSION: 2\nTEST:\n  PSEUDO_LABELS:\n    YARDSTICKS: [dnn]\n")
    assert "BASELINES" in text and "YARDSTICKS" not in text and not caplog.text
    assert current_names("VERSION: 2\n") == "VERSION: 2\n"
    assert current_names("{") == "{"
