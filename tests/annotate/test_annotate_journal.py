"""The file of edits: what is appended is there, and nothing else is lost on the way."""

from __future__ import annotations

import errno
import os

import pytest

from fdd.annotate.journal import Journal, read_journal


@pytest.fixture
def journal(tmp_path):
    journal = Journal(tmp_path / "é.journal", {"points": "p\udc80.json"})
    yield journal
    journal.close()


def entries(journal):
    found = read_journal(journal.path)
    return None if found is None else found[1]


def test_it_begins_with_its_first_entry(journal):
    assert entries(journal) is None and journal.end == 0 and not journal.path.exists()
    journal.append({"a": "\udc80 é\n"}, {"b": 2})
    head, found = read_journal(journal.path)
    assert head["points"] == "p\udc80.json" and found == [{"a": "\udc80 é\n"}, {"b": 2}]
    assert journal.end == journal.path.stat().st_size
    journal.remove()
    assert entries(journal) is None and journal.end == 0
    journal.append({"c": 3})
    assert entries(journal) == [{"c": 3}]


def test_the_beginning_is_forgotten(journal):
    journal.append({"a": 1})
    journal.drop_before(0)
    end = journal.end
    journal.append({"b": 2}, {"c": 3})
    journal.drop_before(end)
    assert entries(journal) == [{"b": 2}, {"c": 3}]
    journal.append({"d": 4})
    assert len(entries(journal)) == 3
    journal.drop_before(journal.end)
    assert not journal.path.exists()


def test_it_is_on_the_disk_before_append_returns(journal, monkeypatch):
    seen = []
    monkeypatch.setattr(os, "fsync", lambda _: seen.append(journal.path.stat().st_size))
    journal.append({"a": 1})
    journal.append({"b": 2})
    assert seen[-1] == journal.end > seen[0]


@pytest.mark.parametrize("function", ["open", "replace", "fsync"])
def test_what_cannot_be_replaced_stays(journal, monkeypatch, function):
    journal.append({"a": 1})
    end = journal.end
    journal.append({"b": 2})

    def refuse(*_, **__):
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch, pytest.raises(OSError):
        patch.setattr(os, function, refuse)
        journal.drop_before(end)
    journal.append({"c": 3})
    assert entries(journal) == [{"a": 1}, {"b": 2}, {"c": 3}]
    assert os.listdir(journal.path.parent) == [journal.path.name]
