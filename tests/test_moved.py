"""Old import paths and the names behind them."""

from __future__ import annotations

import importlib
import sys

import pytest

from fdd.moved import MOVED


@pytest.fixture
def fresh(monkeypatch):
    """Imports an old path as if for the first time in this process."""

    def load(name: str):
        for known in [m for m in sys.modules if m == name or m.startswith(f"{name}.")]:
            monkeypatch.delitem(sys.modules, known)
        return importlib.import_module(name)

    return load


@pytest.mark.parametrize("old", sorted(MOVED))
def test_an_old_path_warns_and_leads_to_modules_that_exist(fresh, old) -> None:
    with pytest.warns(FutureWarning, match=MOVED[old][0]):
        assert MOVED[old][0] in fresh(old).__file__
    for place in MOVED[old]:
        importlib.import_module(place)


@pytest.mark.parametrize(
    ("old", "name"),
    [
        ("fdd.engine.trained", "load_trained"),
        ("fdd.engine.trained", "TrainedModel"),
        ("fdd.engine.predictor", "Predictor"),
        ("fdd.engine.prediction_inputs", "find_inputs"),
        ("fdd.engine.prediction_inputs", "find_left_out"),
        ("fdd.engine.prediction_run", "PredictionOptions"),
        ("fdd.engine.prediction_run", "predict_files"),
        ("fdd.engine.prediction_run", "OUTPUT_FOLDERS"),
        ("fdd.engine.supervision_audit", "audit_supervision"),
        ("fdd.engine.export", "export_checkpoint"),
        ("fdd.engine.label_export", "export_labels"),
        ("fdd.engine.label_report", "write_label_report"),
        ("fdd.engine.traced", "run_program"),
        ("fdd.points.check_rules", "check_data"),
        ("fdd.points.check_rules", "CheckOptions"),
        ("fdd.points.check_rules", "CheckTarget"),
        ("fdd.points.check_rules.labels", "read_labels"),
        ("fdd.points.check_rules.labels", "Labels"),
        ("fdd.points.check_rules.listing", "list_mends"),
        ("fdd.points.check_rules.mending", "mend_labels"),
        ("fdd.points.check_rules.mending", "Mend"),
        ("fdd.points.panoptic_document", "read_panoptic_document"),
        ("fdd.points.panoptic_png", "check_pngs"),
        ("fdd.points.checks", "is_side"),
        ("fdd.points.draws", "draw_point_sets"),
        ("fdd.points.strict_json", "parse_json"),
        ("fdd.points.panoptic", "load_segment_ids"),
        ("fdd.points.importers.records", "RawImage"),
        ("fdd.points.importers.pointsup", "read"),
        ("fdd.points.importers.xml_safe", "parse_xml"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*moved to:FutureWarning")
def test_a_name_is_still_found_where_it_was(fresh, old, name) -> None:
    assert callable(getattr(fresh(old), name)) or name.isupper()


@pytest.mark.filterwarnings("ignore:.*moved to:FutureWarning")
def test_a_name_that_never_was_is_an_error_that_tells_the_new_place(fresh) -> None:
    with pytest.raises(AttributeError, match=r"fdd\.inference\.predictor.*Predictr"):
        _ = fresh("fdd.engine.predictor").Predictr
    with pytest.raises(ImportError, match="Predictr"):
        exec("from fdd.engine.predictor import Predictr")


def test_the_package_itself_uses_no_old_path() -> None:
    """Nobody's program should warn about what the package does."""
    for old in MOVED:
        sys.modules.pop(old, None)
    import pkgutil

    import fdd

    for module in pkgutil.walk_packages(fdd.__path__, "fdd."):
        if module.name != "fdd.__main__":
            importlib.import_module(module.name)
    assert not [old for old in MOVED if old in sys.modules]


def test_a_from_import_warns_at_its_own_line_and_an_unknown_name_tells_the_new_place(fresh) -> None:
    fresh_name = "fdd.engine.predictor"
    with pytest.warns(FutureWarning) as caught, pytest.raises(ImportError, match=r"fdd\.inference"):
        sys.modules.pop(fresh_name, None)
        exec(compile(f"from {fresh_name} import Predictr", "my_script.py", "exec"))
    assert caught[0].filename == "my_script.py"
