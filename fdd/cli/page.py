"""The file of a page that a command writes."""

from __future__ import annotations

from pathlib import Path

from fdd.points.files import check_file_writable

__all__ = ["check_page"]

_BEGINNING = b"<!doctype html"


def check_page(path: Path, name: str) -> None:
    """Refuse what cannot be written, before anything has run for an hour, and what would replace a
    file that is no page, such as an image or a label file.

    Args:
        path: of ``--output``.
        name: of such a page, for the message.

    Raises:
        FileExistsError: there is another kind of file. OSError, ValueError: it cannot be written.
    """
    if path.is_dir():
        raise ValueError(f"--output {path} is a folder; name a file, such as {path}/{name}")
    if path.is_file():
        with path.open("rb") as handle:
            beginning = handle.read(len(_BEGINNING))
        if beginning and beginning.lower() != _BEGINNING:
            raise FileExistsError(
                f"--output {path} exists and is no page, which the new one would replace; name "
                f"another file, such as {name}"
            )
    check_file_writable(path)
