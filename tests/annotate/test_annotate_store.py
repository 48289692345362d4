"""Edits of a data set's points: undo, windows, saving, and what a killed session leaves."""

from __future__ import annotations

import errno
import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from fdd.annotate.store import (
    AnnotatedImage,
    AnnotationStore,
    InvalidEdit,
    JournalError,
    PointsChanged,
    Segment,
    StaleEdit,
)
from fdd.points import Category, PointLabelError, read_points
from fdd.points.structures import VoidStroke

DOCUMENT = {
    "format": "fdd-points",
    "version": 1,
    "made by": "another tool",
    "info": {"source": "by hand", "bbox": "is allowed here"},
    "categories": [
        {"id": 17, "name": "cat", "isthing": True, "note": "kept"},
        {"id": 3, "name": "sky", "isthing": False},
    ],
    "images": [
        {
            "id": "2007_000032",
            "file_name": "strée/2007_000032.jpg",
            "height": 20,
            "width": 30,
            "license": 4,
            "segments": [
                {"id": 5, "category_id": 17, "points": [[1, 2.5], [3.5, 4.5]], "by": "me"},
                {"id": 2, "category_id": 3, "points": [[10.5, 4.5]]},
            ],
        },
        {"id": 12, "file_name": "b.jpg", "height": 20, "width": 30, "segments": []},
        {"id": "12", "file_name": "c \udc80.jpg", "height": 9, "width": 8, "segments": []},
    ],
}
MORE = AnnotatedImage("new <b>", "new <b>.png", 50, 60)


@pytest.fixture
def points(tmp_path):
    path = tmp_path / "points é.json"
    path.write_text(json.dumps(DOCUMENT))
    return path


@pytest.fixture
def opened(points):
    """Opens stores of the points file; none is left open."""
    stores = []

    def open_store():
        stores.append(AnnotationStore(points, more_images=unlisted))
        return stores[-1]

    yield open_store
    for store in stores:
        die(store)


def unlisted(images):
    return [] if MORE in images else [MORE]


def die(store):
    """End as a killed process does: nothing is saved, and the lock is the system's to give back."""
    store._journal.close()
    store._lock.release()


def read(path):
    return json.loads(Path(path).read_bytes())


def add(store, index=1, x=1.0, y=1.0, category_id=17, **more):
    action = {"kind": "add", "x": x, "y": y, "category_id": category_id, **more}
    return store.edit(index, store.state(index).revision, action)


def do(store, index, kind, **keys):
    return store.edit(index, store.state(index).revision, {"kind": kind, **keys})


def names(folder):
    return sorted(os.listdir(folder))


def test_what_is_opened(opened, points):
    store = opened()
    assert [i.image_id for i in store.images] == ["2007_000032", 12, "12", "new <b>"]
    assert store.images[2].file_name == "c \udc80.jpg"
    assert [c.name for c in store.categories] == ["cat", "sky"]
    assert store.points_file == points and store.num_points() == [3, 0, 0, 0]
    state = store.state(0)
    cat, sky = Segment(5, 17, ((1.0, 2.5), (3.5, 4.5))), Segment(2, 3, ((10.5, 4.5),))
    assert (state.index, state.revision, state.segments) == (0, 0, (cat, sky))
    assert not state.can_undo and not state.can_redo and not store.notices
    before = points.read_bytes()
    store.save()
    store.close()
    assert points.read_bytes() == before and names(points.parent) == [points.name]


def test_what_is_not_edited_stays_as_it_is(opened, points):
    store = opened()
    assert add(store, 0, 20, 10).segments[-1] == Segment(6, 17, ((20.0, 10.0),))
    do(store, 0, "delete", segment=2, point=0)
    add(store, 3, 55, 45, 3)
    assert store.num_points() == [3, 0, 0, 1] and store.unsaved == 3
    store.save()
    assert store.unsaved == 0
    document = read(points)
    assert document["info"].pop("annotated")["tool"] == "fdd annotate"
    expected = json.loads(json.dumps(DOCUMENT))
    expected["images"][0]["segments"][1] = {"id": 6, "category_id": 17, "points": [[20.0, 10.0]]}
    image = {"id": "new <b>", "file_name": "new <b>.png", "height": 50, "width": 60}
    expected["images"].append(
        {**image, "segments": [{"id": 1, "category_id": 3, "points": [[55.0, 45.0]]}]}
    )
    assert document == expected
    assert len(read_points(points).images) == 4
    # What was undone after it was saved comes back whole.
    do(store, 0, "delete_segment", segment=5)
    store.save()
    do(store, 0, "undo")
    store.close()
    segments = read(points)["images"][0]["segments"]
    assert segments == expected["images"][0]["segments"]
    assert names(points.parent) == [points.name]


def test_undo_and_redo(opened, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: None)
    store = opened()
    start = store.state(0)
    states = [start.segments]
    for n in range(510):
        states.append(add(store, 0, 0.01 * n, 15 + (n % 2), 17, segment=5).segments)
    add(store, 1, 5, 5)
    for segments in reversed(states[:-1]):
        state = do(store, 0, "undo")
        assert state.segments == segments and state.can_redo
    assert not state.can_undo and state.revision == 1020
    with pytest.raises(InvalidEdit, match="'2007_000032': there is nothing to undo"):
        do(store, 0, "undo")
    for segments in states[1:]:
        assert do(store, 0, "redo").segments == segments
    with pytest.raises(InvalidEdit, match="nothing to redo"):
        do(store, 0, "redo")
    do(store, 0, "undo")
    assert not add(store, 0, 29, 19).can_redo
    assert store.state(1).revision == 1, "of another image"


def test_an_id_is_not_given_again(opened):
    store = opened()
    first = add(store, 1).segments[0].id
    do(store, 1, "delete_segment", segment=first)
    assert add(store, 1).segments[0].id == first + 1
    do(store, 1, "undo")
    do(store, 1, "undo")
    assert [s.id for s in add(store, 1, 5, 5).segments] == [first, first + 2]


def test_two_windows(opened):
    store = opened()
    add(store, 1)
    with pytest.raises(StaleEdit, match=r"revision 0.* at 1: another window") as stale:
        store.edit(1, 0, {"kind": "undo"})
    assert stale.value.state == store.state(1) and stale.value.state.revision == 1
    with pytest.raises(StaleEdit):
        store.edit(1, 2, {"kind": "undo"})


def test_threads_do_not_lose_edits(opened, points):
    store = opened()

    def click(column):
        done = 0
        while done < 20:
            revision = store.state(3).revision
            place = {"x": column + 0.5, "y": done + 0.5, "category_id": 17}
            try:
                store.edit(3, revision, {"kind": "add", **place})
                done += 1
            except StaleEdit:
                pass
            if done % 7 == 0:
                store.save()

    threads = [threading.Thread(target=click, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    state = store.state(3)
    assert state.revision == 80 and len({s.id for s in state.segments}) == 80
    die(store)
    assert opened().state(3).segments == state.segments
    assert len(state.segments) == 80


@pytest.mark.parametrize(
    ("index", "revision", "action", "says"),
    [
        (4, 0, {"kind": "undo"}, "no image 4; they are 0 to 3"),
        (-1, 0, {"kind": "undo"}, "no image -1"),
        ("0", 0, {"kind": "undo"}, "no image '0'"),
        (True, 0, {"kind": "undo"}, "no image True"),
        (0, "0", {"kind": "undo"}, "the revision is '0'"),
        (0, None, {"kind": "undo"}, "the revision is None"),
        (0, 0, {"kind": "nothing"}, "kind"),
        (0, 0, {"kind": "add", "x": 31, "y": 1, "category_id": 17}, "outside"),
        (2, 0, {"kind": "redo"}, "nothing to redo"),
    ],
)
def test_a_refused_edit_changes_nothing(opened, points, index, revision, action, says):
    store = opened()
    states = [store.state(n) for n in range(4)]
    before = points.read_bytes()
    with pytest.raises(InvalidEdit, match=says):
        store.edit(index, revision, action)
    assert [store.state(n) for n in range(4)] == states and store.unsaved == 0
    assert names(points.parent) == sorted([points.name, points.name + ".lock"])
    assert points.read_bytes() == before


def test_an_edit_without_an_effect_is_none(opened):
    store = opened()
    state = do(store, 0, "set_class", segment=5, category_id=17)
    assert state == store.state(0) and state.revision == 0 and not state.can_undo
    assert store.unsaved == 0


def test_a_killed_session_is_taken_up(opened, points):
    before = points.read_bytes()
    store = opened()
    add(store, 0, 20, 10)
    add(store, 0, 25, 10, 3)
    do(store, 0, "undo")
    add(store, 2, 1, 1)
    add(store, 3, 59, 49)
    do(store, 2, "delete", segment=1, point=0)
    states = [store.state(n) for n in range(4)]
    die(store)
    assert points.read_bytes() == before
    again = opened()
    assert [again.state(n) for n in range(4)] == states
    assert again.unsaved == 6 and "6 edits of 3 images" in again.notices[0]
    assert again.num_points() == [4, 0, 0, 1]
    # Undo reaches as far back as the journal, and ids go on.
    assert len(do(again, 0, "redo").segments) == 3
    assert do(again, 2, "undo").segments == (Segment(1, 17, ((1.0, 1.0),)),)
    assert add(again, 2, 4, 4).segments[-1].id == 2
    again.close()
    assert len(read(points)["images"]) == 4 and not opened().notices


def test_void_is_kept_undone_saved_and_recovered(opened, points):
    store = opened()
    do(store, 0, "paint", width=6, line=[[2, 3], [9.5, 3]])
    two = do(store, 0, "paint", width=2.5, line=[[20, 10]])
    assert two.void == (
        VoidStroke(6.0, ((2.0, 3.0), (9.5, 3.0))),
        VoidStroke(2.5, ((20.0, 10.0),)),
    )
    assert [s.id for s in two.segments] == [5, 2], "points under it are not lost"
    assert do(store, 0, "undo").void == two.void[:1]
    do(store, 0, "redo")
    do(store, 3, "paint", width=4, line=[[5, 5]])  # of an image that the file does not list
    with pytest.raises(InvalidEdit, match="painted over as void"):
        add(store, 0, 5, 3)
    states = [store.state(n) for n in range(4)]
    die(store)
    again = opened()
    assert [again.state(n) for n in range(4)] == states
    assert do(again, 0, "unpaint", strokes=[0]).void == two.void[1:]
    again.save()
    written = read(points)["images"]
    assert written[0]["void"] == [{"width": 2.5, "line": [[20.0, 10.0]]}]
    assert written[3]["void"] and "void" not in written[1]
    assert read_points(points).images[0].void == list(two.void[1:])
    do(again, 0, "unpaint", strokes=[0])
    again.close()
    assert "void" not in read(points)["images"][0]
    assert opened().state(3).void == states[3].void


def test_a_session_killed_after_an_undo_of_void_is_taken_up(opened, points):
    store = opened()
    do(store, 1, "paint", width=4, line=[[5, 5]])
    store.save()
    do(store, 1, "undo")
    die(store)
    again = opened()
    assert again.state(1).void == ()
    assert len(do(again, 1, "redo").void) == 1


def test_a_class_is_added_and_written_at_once(opened, points):
    store = opened()
    add(store, 0, 20, 10)
    store.add_category(Category(18, "dog é", True))
    assert [c.name for c in store.categories] == ["cat", "sky", "dog é"]
    written = read(points)
    assert written["categories"][0] == DOCUMENT["categories"][0], "its further keys stay"
    assert written["categories"][2] == {"id": 18, "name": "dog é", "isthing": 1}
    action = {"kind": "add", "x": 5, "y": 15, "segment": None, "category_id": 18}
    state = store.edit(1, 0, action)
    die(store)
    again = opened()
    assert again.state(1).segments == state.segments
    for taken in (Category(18, "owl", True), Category(19, "sky", False)):
        with pytest.raises(InvalidEdit, match="already"):
            again.add_category(taken)


def test_a_class_that_cannot_be_written_is_not_added(opened, points):
    store = opened()
    points.write_text(points.read_text() + " ")
    with pytest.raises(PointsChanged):
        store.add_category(Category(18, "dog", True))
    assert [c.name for c in store.categories] == ["cat", "sky"]
    with pytest.raises(InvalidEdit, match="no class 18"):
        store.edit(1, 0, {"kind": "add", "x": 5, "y": 15, "category_id": 18})


def test_a_class_that_cannot_be_added_leaves_those_to_be_written(points):
    """Classes of the data set that the points file does not have yet, and no other edit."""
    store = AnnotationStore(points, more_categories=lambda _: [Category(17, "owl", True)])
    before = points.read_text()
    points.write_text(before + " ")
    with pytest.raises(PointsChanged):
        store.add_category(Category(18, "dog", True))
    points.write_text(before)
    store.close()
    assert [c["name"] for c in read(points)["categories"]] == ["cat", "sky", "owl"]


def test_undo_of_what_was_saved_survives(opened, points):
    """The journal begins after it, and says what the undo led to."""
    store = opened()
    add(store, 1, 1, 1)
    state = add(store, 1, 5, 5)
    store.save()
    assert do(store, 1, "undo").segments == state.segments[:1]
    assert do(store, 1, "redo").segments == state.segments
    do(store, 1, "undo")
    do(store, 1, "undo")
    last = store.state(1)
    die(store)
    again = opened()
    assert again.state(1).segments == last.segments == ()
    assert again.state(1).revision == last.revision == 6
    assert len(do(again, 1, "redo").segments) == 1
    assert do(again, 1, "redo").segments == state.segments
    again.close()
    assert len(read(points)["images"][1]["segments"]) == 2


@pytest.mark.parametrize("step", ["written", "cut off"])
def test_a_session_killed_as_it_saves(opened, points, monkeypatch, step):
    store = opened()
    add(store, 1, 1, 1)
    expected = add(store, 1, 5, 5).segments
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        if step == "written":
            patch.setattr(store._journal, "drop_before", interrupt)
        else:
            patch.setattr(store, "_write_points", interrupt)
        store.save()
    if step == "written":
        last = add(store, 1, 7, 7)
        do(store, 1, "undo")
        expected = last.segments
        do(store, 1, "redo")
    die(store)
    again = opened()
    assert again.state(1).segments == expected and len(again.notices) == 1
    again.close()
    assert len(read(points)["images"][1]["segments"]) == len(expected)
    assert names(points.parent) == [points.name]


def interrupt(*_):
    raise KeyboardInterrupt


def test_edits_while_the_file_is_written_stay_in_the_journal(opened, points, monkeypatch):
    store = opened()
    add(store, 1, 1, 1)
    write = store._write_points

    def meanwhile(records):
        add(store, 1, 5, 5)
        add(store, 2, 5, 5)
        write(records)

    with monkeypatch.context() as patch:
        patch.setattr(store, "_write_points", meanwhile)
        store.save()
    assert store.unsaved == 2
    assert [len(i["segments"]) for i in read(points)["images"]] == [2, 1, 0]
    die(store)
    again = opened()
    assert len(again.state(1).segments) == 2 and len(again.state(2).segments) == 1
    assert again.unsaved == 2 and do(again, 1, "undo").revision == 3


@pytest.mark.parametrize("cut", [1, 20, 0])
def test_a_line_that_was_not_completed_is_left_out(opened, points, cut):
    store = opened()
    first = add(store, 1, 1, 1)
    add(store, 1, 5, 5)
    journal = store._journal.path
    die(store)
    if cut:
        journal.write_bytes(journal.read_bytes()[:-cut])
    else:
        journal.write_bytes(journal.read_bytes() + b'{"image": 12, "act\0\0\0\n')
        first = None
    again = opened()
    if first:
        assert again.state(1).segments == first.segments and again.state(1).revision == 1
    else:
        assert again.state(1).revision == 2
    add(again, 1, 8, 8)
    state = again.state(1)
    die(again)
    assert opened().state(1).segments == state.segments


def test_kill_in_the_middle_of_clicks(opened, points):
    """What was answered is there, whenever the process is killed."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            store = AnnotationStore(points)
            for n in range(100_000):
                revision = store.state(n % 2).revision
                place = {"x": n % 29 + 0.001 * (n // 29), "y": n % 19 + 0.5, "category_id": 3}
                state = store.edit(n % 2, revision, {"kind": "add", **place})
                os.write(writing, f"{state.index} {state.revision}\n".encode())
                if n % 10 == 9:
                    store.save()
        finally:
            os._exit(1)
    os.close(writing)
    with os.fdopen(reading) as answers:
        lines = [next(answers) for _ in range(37)]
        time.sleep(0.01)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        lines += [line for line in answers if line.endswith("\n")]
    store = opened()
    for index in (0, 1):
        answered = max(int(line.split()[1]) for line in lines if line.startswith(f"{index} "))
        found = sum(len(s.points) for s in store.state(index).segments) - (3 if index == 0 else 0)
        assert found in (answered, answered + 1)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda data: data.replace(b'"before"', b'"after"'), "line 2: an edit that cannot"),
        (lambda data: data.replace(b'{"image"', b"\x80", 1), "line 2: not a line"),
        (lambda data: data.replace(b'"version":1', b'"version":2'), "version 2"),
        (lambda data: data.replace(b"fdd-annotate-journal", b"diary"), "format 'diary'"),
        (lambda data: data.replace(b'"kind":"add"', b'"kind":"fly"', 1), "line 3: .*fly"),
        (lambda data: data.replace(b'"cat"', b'"dog"'), "'dog'.*Put these classes back"),
        (lambda data: data.replace(b'"categories"', b'"c"'), "classes"),
        (lambda data: b"my own notes", "not a journal"),
        (lambda data: data.replace(b'"image":12', b'"image":[12]'), "line 2"),
    ],
)
def test_a_journal_that_cannot_be_followed_is_left_alone(opened, points, damage, says):
    store = opened()
    add(store, 1, 1, 1)
    add(store, 1, 5, 5)
    journal = store._journal.path
    die(store)
    data = damage(journal.read_bytes())
    journal.write_bytes(data)
    before = points.read_bytes()
    for _ in range(2):  # the lock is given back
        with pytest.raises(JournalError, match=says):
            opened()
    assert journal.read_bytes() == data and points.read_bytes() == before
    journal.rename(journal.with_suffix(".aside"))
    assert opened().state(1).segments == ()


@pytest.mark.parametrize("data", [b"", b'{"format":"fdd-ann', b"\0" * 40])
def test_a_journal_of_which_not_even_the_head_is_there(opened, points, data):
    Path(f"{points}.journal").write_bytes(data)
    store = opened()
    state = add(store, 1)
    die(store)
    assert opened().state(1) == state


def change(points, index, **values):
    document = read(points)
    document["images"][index].update(values)
    points.write_text(json.dumps(document))
    return points.read_bytes()


THEIRS = [{"id": 40, "category_id": 17, "points": [[7.5, 7.5]]}]


def test_the_file_of_another_program_is_not_replaced(opened, points):
    store = opened()
    add(store, 1, 1, 1)
    theirs = change(points, 2, segments=THEIRS)
    for number in (1, 2):
        with pytest.raises(PointsChanged, match="another program") as changed:
            store.save()
        assert points.read_bytes() == theirs
        recovered = changed.value.recovered
        assert recovered == points.with_name("points é.recovered.json")
        assert len(read_points(recovered).images[1].segments) == number
        assert store.unsaved == number
        add(store, 1, 5, 5 + number)
    with pytest.raises(PointsChanged):
        store.close()
    store.close()
    # Started again, both have what they did: different images.
    again = opened()
    assert again.state(2).segments == (Segment(40, 17, ((7.5, 7.5),)),)
    assert len(again.state(1).segments) == 3
    again.close()
    assert [len(i["segments"]) for i in read(points)["images"]] == [2, 3, 1]


def test_a_file_that_was_written_again_alike_is_not_changed(opened, points):
    store = opened()
    add(store, 1, 1, 1)
    data = points.read_bytes()
    points.unlink()
    points.write_bytes(data)
    store.save()
    points.unlink()  # nothing of anybody is lost by writing it again
    store.save()
    add(store, 1, 5, 5)
    store.close()
    assert len(read(points)["images"][1]["segments"]) == 2


def test_edits_of_an_image_that_another_program_changed(opened, points):
    store = opened()
    add(store, 0, 20, 10)
    add(store, 1, 1, 1)
    add(store, 2, 1, 1)
    add(store, 3, 1, 1)
    die(store)
    change(points, 1, segments=THEIRS)
    change(points, 2, height=10)
    points.with_name("points é.recovered.json").write_text("an earlier one")
    store = opened()
    assert store.state(1).segments == (Segment(40, 17, ((7.5, 7.5),)),)
    assert store.state(2).segments == ()
    assert len(store.state(0).segments) == 3 and len(store.state(3).segments) == 1
    recovered = read_points(points.with_name("points é.recovered2.json"))
    assert [len(i.segments) for i in recovered.images] == [3, 1, 1, 1]
    assert recovered.images[1].segments[0].points == [(1.0, 1.0)]
    assert "2 images (12, 12)" in store.notices[0] and "recovered2" in store.notices[0]
    assert store.unsaved == 2
    die(store)
    again = opened()
    assert len(again.notices) == 1 and "2 edits of 2 images" in again.notices[0]
    again.close()
    assert [len(i["segments"]) for i in read(points)["images"]] == [3, 1, 0, 1]


def test_edits_of_an_image_that_is_not_there_any_more(opened, points):
    store = opened()
    add(store, 1, 1, 1)
    die(store)
    document = read(points)
    del document["images"][1]
    points.write_text(json.dumps(document))
    store = opened()
    assert len(store.images) == 3
    recovered = read_points(points.with_name("points é.recovered.json"))
    assert [i.image_id for i in recovered.images] == ["2007_000032", "12", 12]
    assert len(recovered.images[2].segments) == 1


def test_a_second_process_is_refused(opened, points, tmp_path):
    store = opened()
    link = tmp_path / "elsewhere" / "link.json"
    link.parent.mkdir()
    link.symlink_to(points)
    for path in (points, link):
        with pytest.raises(FileExistsError, match=rf"annotated by process {os.getpid()}.*Ctrl-C"):
            AnnotationStore(path)
    store.close()
    other = AnnotationStore(link)
    add(other, 1)
    other.close()
    assert link.is_symlink() and len(read(points)["images"][1]["segments"]) == 1
    assert names(link.parent) == ["link.json"]


def test_the_lock_of_a_dead_process_is_taken_over(opened, points):
    lock = Path(f"{points}.lock")
    lock.write_text(json.dumps({"pid": os.getpid(), "host": "here"}))
    store = opened()
    assert lock.exists()
    store.close()
    assert not lock.exists()


def test_what_cannot_be_written_is_found_out_at_the_start(opened, points, monkeypatch):
    for place in (points, points.parent):
        with monkeypatch.context() as patch:
            # root may write wherever the disk allows it
            refused = lambda path, mode, place=place: Path(path) != place  # noqa: E731
            patch.setattr(os, "access", refused)
            with pytest.raises(PermissionError, match="no permission to write"):
                opened()
    assert names(points.parent) == [points.name]


def no_room(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("write", ["pwrite", "fsync"])
def test_a_full_disk_refuses_the_edit(opened, points, monkeypatch, write):
    store = opened()
    function = getattr(os, write)
    for expected in (0, 1):
        with monkeypatch.context() as patch:

            def full(descriptor, *arguments):
                if write == "pwrite":
                    function(descriptor, arguments[0][:5], arguments[1])
                no_room()

            patch.setattr(os, write, full)
            with pytest.raises(OSError, match=r"points é\.json\.journal"):
                add(store, 1, 5, 5)
        assert store.state(1).revision == store.unsaved == expected
        add(store, 1, 1, 1 + expected)
    state = store.state(1)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", no_room)
        with pytest.raises(OSError, match=r"points é\.json'"):
            store.save()
    assert store.unsaved == 2 and read(points) == DOCUMENT
    die(store)
    again = opened()
    assert again.state(1).segments == state.segments
    again.close()
    assert names(points.parent) == [points.name]


def test_a_closed_store_takes_nothing(opened):
    store = opened()
    store.close()
    with pytest.raises(InvalidEdit, match="closed"):
        add(store)
    with pytest.raises(InvalidEdit, match="closed"):
        store.save()


def test_invalid_points_are_refused(points, opened):
    text = json.dumps(DOCUMENT)
    for bad, says in [
        (text.replace("[[10.5, 4.5]]", "[[99, 4.5]]"), "outside"),
        (text.replace('"license": 4', '"area": 4'), "'area'"),
        (text.replace('"license": 4', '"license": NaN'), "NaN or Infinity"),
        (text.replace('"12"', '"new <b>"'), "id 'new <b>'"),
        ("[]", "not a point-label file"),
        ("", "empty"),
    ]:
        points.write_text(bad)
        with pytest.raises(PointLabelError, match=says):
            opened()
        assert points.read_text() == bad and names(points.parent) == [points.name]
    points.unlink()
    with pytest.raises(FileNotFoundError, match="no such point-label file"):
        opened()
    assert not names(points.parent)


def test_many_images_and_edits(tmp_path, monkeypatch):
    """Of 10,000 edits, one takes no longer than of ten; the disk is not asked."""
    entry = {"height": 400, "width": 300, "segments": []}
    images = [{"id": n, "file_name": f"{n}.jpg", **entry} for n in range(600)]
    path = tmp_path / "points.json"
    path.write_text(json.dumps({**DOCUMENT, "images": images}))
    monkeypatch.setattr(os, "fsync", lambda _: None)
    store = AnnotationStore(path)
    seconds = []
    for n in range(10_000):
        index = n % 600 if n % 10 else 0
        place = {"x": n % 300 + 0.5, "y": n // 300 + 0.5, "category_id": 17 if n % 3 else 3}
        start = time.thread_time()
        store.edit(index, store.state(index).revision, {"kind": "add", **place})
        seconds.append(time.thread_time() - start)
    assert sorted(seconds)[5000] < 0.005
    states = [store.state(n) for n in range(600)]
    die(store)
    start = time.thread_time()
    store = AnnotationStore(path)
    assert time.thread_time() - start < 30
    assert [store.state(n) for n in range(600)] == states
    store.close()
    assert sum(len(s["points"]) for i in read(path)["images"] for s in i["segments"]) == 10_000
