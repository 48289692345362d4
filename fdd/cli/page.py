"""What the commands that write a page share: options, the check of its file, and the report."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fdd.cli.terminal import printable
from fdd.points.files import check_file_writable
from fdd.points.wording import counted

if TYPE_CHECKING:
    from fdd.visualization.report import WrittenPage

__all__ = ["add_page_options", "check_page", "page_size", "show_images", "tell"]

_BEGINNING = b"<!doctype html"
_PROBLEMS_SHOWN = 5


def add_page_options(
    parser: argparse.ArgumentParser, *, name: str, which_images: str, thumbnail: int
) -> None:
    """Add the options of the page itself.

    Args:
        name: its file, where none is named.
        which_images: are taken if there are more than --max-images.
        thumbnail: longer side of its pictures, in pixels, where none is named.
    """
    add = parser.add_argument
    add("--output", default=name, metavar="FILE", help=f"the page (default: {name})")
    more = f"at most N images, {which_images}; default: all"
    add("--max-images", type=int, metavar="N", help=more)
    add(
        "--thumbnail",
        type=int,
        default=thumbnail,
        metavar="PX",
        help=f"longer side of the pictures (default: {thumbnail}). Smaller ones make a smaller "
        "page",
    )
    add("--title", default="", help="title of the page")


def check_page(path: Path, name: str) -> None:
    """Refuse what cannot be written, before anything has run for an hour, and what would replace a
    file that is not a page, such as an image or a label file.

    Args:
        path: of ``--output``.
        name: of such a page, for the message.

    Raises:
        FileExistsError: there is another kind of file.
        OSError, ValueError: it cannot be written.
    """
    if path.is_dir():
        raise ValueError(f"--output {path} is a folder; name a file, such as {path}/{name}")
    if path.is_file():
        with path.open("rb") as handle:
            beginning = handle.read(len(_BEGINNING))
        if beginning and beginning.lower() != _BEGINNING:
            raise FileExistsError(
                f"--output {path} exists and is not a page, which the new one would replace; name "
                f"another file, such as {name}"
            )
    check_file_writable(path)


def show_images(items: Sequence[Any]) -> Iterable[Any]:
    """The items, with a progress bar on a terminal."""
    from tqdm import tqdm

    return tqdm(items, unit="image", file=sys.stderr, disable=None)


def page_size(page: WrittenPage) -> str:
    """The line that names the file, for the terminal."""
    size = page.path.stat().st_size / 2**20
    return f"Wrote {page.path}: {counted(page.images, 'image')}, {size:.1f} MiB, for a browser"


def tell(page: WrittenPage, lines: Sequence[str], unreadable: str = "") -> int:
    """Print lines, and the images that could not be read.

    Args:
        unreadable: what has become of these.

    Returns:
        The exit status: 1 if there are any.
    """
    for line in lines:
        print(printable(line))
    if not page.unreadable:
        return 0
    number = counted(len(page.unreadable), "image")
    print(f"{number} could not be read{unreadable}:", file=sys.stderr)
    for problem in page.unreadable[:_PROBLEMS_SHOWN]:
        print(f"  {printable(problem)}", file=sys.stderr)
    return 1
