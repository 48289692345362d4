"""Exports that are interrupted, gone on with, or in the way."""

import json

import pytest

from fdd.export_formats import ExportFolder, ExportSettingsError

SETTINGS = {"maker": "learned", "scales": (1.0, 1.5), "checkpoint": "0" * 64}


def _export(root, records=()):
    folder = ExportFolder(root)
    folder.begin(SETTINGS)
    for record in records:
        for name in ("panoptic", "confidence"):
            (folder.root / name).mkdir(exist_ok=True)
            (folder.root / name / record["png"]).touch()
        folder.add(record)
    return folder


A, B = {"image_id": "1", "png": "a.png", "segments": [{"id": 3}]}, {"image_id": 1, "png": "b.png"}


def test_records_come_back_by_image_id_of_either_kind(tmp_path):
    folder = _export(tmp_path / "x", [A, B])
    again = ExportFolder(tmp_path / "x")
    again.begin(SETTINGS)
    assert again.read(["panoptic"]) == {"1": A, 1: B}
    folder.add({**B, "image_id": 2})
    assert list(again.read()) == ["1", 1, 2]


@pytest.mark.parametrize("left", ['{"image_id": 5, "pn', "\x00", '{"png": "c.png"}', "7\n"])
def test_half_a_line_is_dropped_and_does_not_spoil_the_next(tmp_path, left):
    folder = _export(tmp_path, [A])
    path = tmp_path / ".export" / "images.jsonl"
    path.write_text(path.read_text() + left)
    assert folder.read() == {"1": A}
    folder.add(B)
    assert folder.read() == {"1": A, 1: B}


def test_what_a_killed_process_was_writing_is_removed(tmp_path):
    folder = _export(tmp_path, [A])
    (tmp_path / "yolo" / "labels").mkdir(parents=True)
    names = ("panoptic/.tmp-1f.png", "yolo/labels/.tmp-2.txt", ".tmp-3.json")
    halves = [tmp_path / name for name in names]
    for path in halves:
        path.touch()
    folder.begin(SETTINGS)
    assert not any(path.exists() for path in halves)
    assert folder.read(["panoptic"]) == {"1": A}


def test_images_whose_files_are_gone_are_not_done(tmp_path):
    folder = _export(tmp_path, [A, B])
    (tmp_path / "confidence" / "a.png").unlink()
    assert folder.read(["panoptic"]) == {"1": A, 1: B}
    assert folder.read(["panoptic", "confidence"]) == {1: B}
    assert folder.read(["panoptic"]) == {1: B}  # it is to be done anew


def test_other_settings_are_refused_by_name(tmp_path):
    _export(tmp_path, [A])
    with pytest.raises(ExportSettingsError, match=r"another maker \(learned, not nearest\)"):
        ExportFolder(tmp_path).begin({**SETTINGS, "maker": "nearest"})
    with pytest.raises(ExportSettingsError, match=r"another checkpoint\. .*--overwrite") as caught:
        ExportFolder(tmp_path).begin({**SETTINGS, "checkpoint": "1" * 64})
    assert "0000" not in str(caught.value)
    assert ExportFolder(tmp_path).read() == {"1": A}


def test_overwriting_removes_what_exports_write_and_nothing_else(tmp_path):
    folder = _export(tmp_path, [A])
    (tmp_path / "panoptic.json").write_text("{}")
    (tmp_path / "notes.txt").write_text("mine")
    folder.begin({**SETTINGS, "maker": "nearest"}, overwrite=True)
    assert folder.read() == {}
    assert sorted(p.name for p in tmp_path.iterdir()) == [".export", "notes.txt"]
    stored = json.loads((tmp_path / ".export" / "settings.json").read_text())
    assert stored == {**SETTINGS, "maker": "nearest", "scales": [1.0, 1.5]}


def test_the_same_settings_do_not_overwrite(tmp_path):
    _export(tmp_path, [A]).begin(SETTINGS, overwrite=True)
    assert ExportFolder(tmp_path).read() == {"1": A}


def test_folders_of_others_are_left_alone_even_when_overwriting(tmp_path):
    (tmp_path / "panoptic.json").write_text("ground truth")
    with pytest.raises(ExportSettingsError, match=r"other files \(panoptic.json\)"):
        ExportFolder(tmp_path).begin(SETTINGS, overwrite=True)
    assert (tmp_path / "panoptic.json").read_text() == "ground truth"
    with pytest.raises(ExportSettingsError, match="is a file"):
        ExportFolder(tmp_path / "panoptic.json").check()


def test_broken_settings_are_other_settings(tmp_path):
    _export(tmp_path)
    (tmp_path / ".export" / "settings.json").write_text("{")
    with pytest.raises(ExportSettingsError, match="--overwrite"):
        ExportFolder(tmp_path).begin(SETTINGS)
