"""Files that appear whole or not at all, and errors that name them."""

import errno
import os

import pytest

from fdd.points.files import (
    atomic_path,
    check_file_writable,
    find_no_room,
    new_folder,
    write_json,
)


def test_a_file_replaces_the_old_one_at_the_end(tmp_path):
    target = tmp_path / "new" / "a.txt"
    with atomic_path(target) as temporary:
        temporary.write_text("1")
        assert temporary.suffix == ".txt" and not target.exists()
    with pytest.raises(KeyError), atomic_path(target) as temporary:
        temporary.write_text("2")
        raise KeyError
    assert target.read_text() == "1" and list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EFBIG])
def test_a_full_disk_is_said_of_the_file(tmp_path, code):
    with pytest.raises(OSError, match=r"a\.txt'$") as caught, atomic_path(tmp_path / "a.txt"):
        raise OSError(code, os.strerror(code))
    assert caught.value.errno == code and not list(tmp_path.iterdir())


def test_a_full_disk_is_found_behind_other_errors():
    full = OSError(errno.ENOSPC, "full")
    try:
        try:
            raise full
        except OSError as error:
            raise RuntimeError("the writer failed") from error
    except RuntimeError as error:
        assert find_no_room(error) is full
    assert find_no_room(full) is full
    try:
        try:
            raise OSError(errno.ENOSPC, "full", "checkpoint.pth")
        finally:
            raise full  # while what was begun is ended
    except OSError as error:
        named = find_no_room(error)
    assert named is not None and named.filename == "checkpoint.pth"
    assert find_no_room(OSError(errno.EACCES, "no")) is None and find_no_room(None) is None


def test_errors_name_the_file_that_a_person_knows(tmp_path):
    with pytest.raises(PermissionError) as caught, atomic_path(tmp_path / "a.txt") as temporary:
        raise OSError(errno.EACCES, "no", str(temporary))
    assert caught.value.filename == str(tmp_path / "a.txt")


def test_errors_of_other_files_keep_their_names(tmp_path):
    for error in (FileNotFoundError(errno.ENOENT, "no", "other"), OSError("image file is cut")):
        with pytest.raises(OSError) as caught, atomic_path(tmp_path / "a.txt"):
            raise error
        assert caught.value is error


def test_what_cannot_be_written_is_found_out_before(tmp_path, monkeypatch):
    check_file_writable(tmp_path / "not" / "yet" / "there.txt")
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="file'"):
        check_file_writable(tmp_path / "file" / "below.txt")
    with monkeypatch.context() as patch:  # root may write wherever the disk allows it
        patch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)
        with pytest.raises(PermissionError, match="no permission to write here"):
            check_file_writable(tmp_path / "new" / "a.txt")


@pytest.mark.parametrize("is_there", [False, True])
def test_a_new_folder_appears_once_it_is_complete(tmp_path, is_there):
    target = tmp_path / "a" / "b"
    if is_there:
        target.mkdir(parents=True)
    with new_folder(target) as folder:
        (folder / "in").mkdir()
        (folder / "in" / "x.txt").write_text("1")
        assert not (target / "in").exists()
    assert (target / "in" / "x.txt").read_text() == "1"
    assert os.listdir(target) == ["in"] and os.listdir(target.parent) == ["b"]
    with pytest.raises(FileExistsError, match="not a new or empty folder"), new_folder(target):
        pass


def test_a_new_folder_leaves_nothing_after_an_error(tmp_path):
    with pytest.raises(KeyError), new_folder(tmp_path / "a") as folder:
        (folder / "x.txt").touch()
        raise KeyError
    with pytest.raises(OSError, match=r"a'$") as caught, new_folder(tmp_path / "a"):
        raise OSError(errno.ENOSPC, "full", "begun")
    assert caught.value.errno == errno.ENOSPC and not list(tmp_path.iterdir())


def test_json_is_strict_and_holds_any_file_name(tmp_path):
    write_json(tmp_path / "a.json", {"é": "b\udc80"}, end="\n")
    assert (tmp_path / "a.json").read_bytes() == '{"é": "b\\udc80"}\n'.encode()
    with pytest.raises(ValueError):
        write_json(tmp_path / "b.json", [float("nan")])
    write_json(tmp_path / "b.json", [float("nan")], allow_nan=True)
    assert (tmp_path / "b.json").read_text() == "[NaN]"
