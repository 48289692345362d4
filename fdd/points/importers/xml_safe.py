"""XML of strangers: read as a stream, without a document type, from a file or out of a zip archive.

A document type declaration is where entities are declared, which can make a file of one kilobyte
expand to gigabytes, or fetch other files. No labelling tool writes one, so it is refused before
anything expands. Nothing but the path to the current element is kept in memory.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, NoReturn
from xml.parsers import expat

from fdd.points.structures import PointLabelError

__all__ = ["TagHandler", "TextHandler", "parse_xml", "xml_head", "xml_streams"]

#: Called at each start tag with the path to it (``("annotations", "image")``), its attributes and
#: its line (from 1).
TagHandler = Callable[[tuple[str, ...], dict[str, str], int], None]
#: Called with the path of an element and (a piece of) its text.
TextHandler = Callable[[tuple[str, ...], str], None]

_CHUNK = 1 << 16
_MAX_DEPTH = 64
_MAX_UNPACKED = 1 << 30
#: Label files pack to a tenth or a fiftieth of their size, bombs to a thousandth.
_MAX_RATIO, _RATIO_FROM = 200, 16 << 20


def parse_xml(stream: IO[bytes], source: str, tag: TagHandler, text: TextHandler | None = None):
    """Call the handlers for each element of an XML document.

    Args:
        stream: bytes; UTF-8, UTF-16 or what the XML declaration says.
        source: the name for messages.

    Raises:
        PointLabelError: it is no XML (with line and column), or has a document type declaration.
    """
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parents: list[tuple[str, ...]] = [()]

    def start(name: str, attributes: dict[str, str]) -> None:
        line = parser.CurrentLineNumber
        path = (*parents[-1], name)
        if len(path) > _MAX_DEPTH:
            raise PointLabelError(f"{source}, line {line}: elements nested over {_MAX_DEPTH} deep")
        parents.append(path)
        tag(path, attributes, line)

    def refuse(*_: object) -> NoReturn:
        raise PointLabelError(
            f"{source}, line {parser.CurrentLineNumber}: a document type or entity declaration "
            "(<!DOCTYPE ...>), which may expand without end or fetch other files. Labelling tools "
            "write none; remove it if you trust the file"
        )

    parser.StartElementHandler = start
    parser.EndElementHandler = lambda _: parents.pop()
    parser.StartDoctypeDeclHandler = refuse
    parser.EntityDeclHandler = refuse
    if text is not None:
        parser.CharacterDataHandler = lambda data: text(parents[-1], data)
    try:
        while chunk := stream.read(_CHUNK):
            parser.Parse(chunk, False)
        parser.Parse(b"", True)
    except expat.ExpatError as error:
        raise PointLabelError(
            f"{source}, line {error.lineno}, column {error.offset + 1}: not valid XML: "
            f"{expat.ErrorString(error.code)}. Was the file cut short? Export it again"
        ) from error
    except LookupError as error:  # <?xml encoding="something"?>
        raise PointLabelError(f"{source}, line 1: {error}; save it as UTF-8") from error
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise PointLabelError(f"{source}: a damaged zip archive: {error}") from error


def xml_streams(path: Path, member: str) -> Iterator[tuple[str, IO[bytes]]]:
    """The XML documents of a file: itself, or those called ``member`` in a zip archive.

    Yields:
        The name for messages, and the open stream, which is closed afterwards.

    Raises:
        PointLabelError: an archive is damaged, locked, lacks the file, or unpacks to too much.
    """
    if not zipfile.is_zipfile(path):
        with open(path, "rb") as stream:
            yield str(path), stream
        return
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise PointLabelError(f"{path}: a damaged zip archive: {error}") from error
    with archive:
        names = [i for i in archive.infolist() if _base(i.filename) == member]
        if not names:
            raise PointLabelError(f"{path}: a zip archive without {member}")
        for info in names:
            source = f"{path}/{info.filename}"
            _check_member(info, source)
            try:
                unpacked = archive.open(info)
            except (zipfile.BadZipFile, NotImplementedError) as error:
                raise PointLabelError(f"{source}: a damaged zip archive: {error}") from error
            with unpacked:
                yield source, unpacked


def xml_head(path: Path, member: str) -> str:
    """The first kilobytes of an XML file; of a zip archive with the member, ``<MEMBER'S STEM>``.

    Nothing is unpacked, and no error raised: reading tells what is wrong with the file.
    """
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                found = any(_base(name) == member for name in archive.namelist())
            return f"<{Path(member).stem}>" if found else ""
        with open(path, "rb") as stream:
            head = stream.read(4096)
    except (OSError, zipfile.BadZipFile, NotImplementedError, ValueError):
        return ""
    encoding = "utf-16" if head[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8"
    return head.decode(encoding, "replace")


def _base(name: str) -> str:
    return name.rsplit("/", 1)[-1]


def _check_member(info: zipfile.ZipInfo, source: str) -> None:
    """Refuse what cannot or should not be unpacked; the sizes are the archive's own word, to which
    ``zipfile`` holds itself when it reads."""
    if info.flag_bits & 0x1:
        raise PointLabelError(f"{source}: locked with a password; unpack it first")
    ratio = info.file_size / max(info.compress_size, 1)
    if info.file_size > _MAX_UNPACKED or (info.file_size > _RATIO_FROM and ratio > _MAX_RATIO):
        raise PointLabelError(
            f"{source}: unpacks to {info.file_size / 2**20:,.0f} MiB, {ratio:,.0f} times its size: "
            "no label file by the look of it. Unpack it yourself if you trust it"
        )
