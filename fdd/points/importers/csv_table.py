"""A table of points (CSV, TSV): one row a point, one file or a folder of them.

The first row names the columns. ``image``, ``category``, ``x`` and ``y`` are required, ``instance``
is optional: points of one image, category and instance are one object. A row without an instance,
or with what R and pandas write for none (NA, NaN, None, null), is an object of its own. Other
columns are ignored, and so are capitals in the names. Tables of other programs name their columns
differently, which ``columns`` maps (QuPath: ``image=Image category=Classification
x="Centroid X px" y="Centroid Y px"``). A table of one image, of one class, as ImageJ writes it,
gets them by ``image`` and ``category``; ``{stem}`` in either stands for the table's file name
without extension.

Coordinates are continuous pixels, (0, 0) is the outer corner of the first pixel. With
``pixel_centers``, (0, 0) is the centre of the first pixel, and half a pixel is added.
``pixel_size`` says that they are in some unit (µm) of which a pixel has so many; ``decimal``,
whether they are written with a decimal point or a decimal comma, which is refused unless it is
given.
"""

from __future__ import annotations

import csv
import difflib
import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fdd.points.importers.registry import NOT_IMPORTED, RawImage, RawPoint, register_importer
from fdd.points.parsing import coordinate, export_files, read_head, read_text
from fdd.points.structures import PointLabelError, raise_problems

__all__ = ["COLUMNS", "DECIMALS", "DELIMITERS", "SUFFIXES", "read", "recognizes"]

COLUMNS = ("image", "category", "instance", "x", "y")
DELIMITERS = {"comma": ",", "semicolon": ";", "tab": "\t", "pipe": "|"}
SUFFIXES = (".csv", ".tsv", ".txt", ".tab")
DECIMALS = {"point": ".", "comma": ","}
_HEAD = 65536
_DECIMAL_COMMA = re.compile(r"\s*[-+]?\d+,\d+\s*")
_NO_INSTANCE = frozenset({"", "na", "nan", "none", "null"})
_NOT_A_TABLE = re.compile(r"\s*(<[?!a-z]|[\[{]\s*[\[{\"\]}])", re.IGNORECASE)
_CONSTANT = ("image", "category")
_JSON = ("{", "[")
# What Excel reads and writes in front of the header.
_STATED_DELIMITER = re.compile(r"^[\"']?sep=(.)[\"']?[ \t]*(?=[\r\n])", re.IGNORECASE)


def recognizes(path: Path, document: Any) -> bool:
    """Whether a file looks like a table: two numbers in its first row below the header, at least.

    An empty table is one by its extension; ``.txt`` may be anything.
    """
    if document is not None or path.suffix.lower() not in SUFFIXES:
        return False
    lines = [line for line in read_head(path, _HEAD).splitlines() if line.strip()]
    for delimiter in DELIMITERS.values():
        rows = [line.split(delimiter) for line in lines[:2]]
        if len(rows) == 2 and sum(map(_is_number, rows[1])) >= 2:
            return True
        if path.suffix.lower() != ".txt" and rows and len(rows[0]) >= 2:
            return True
    return False


@register_importer(
    "csv",
    title="table of points (CSV, TSV)",
    summary="CSV or TSV: image, category, instance, x, y",
    hint="There is no row below the header. Are the rows in another file, or separated by another "
    "character (--delimiter)?",
    recognizes=recognizes,
)
def read(
    source: Path,
    *,
    columns: Mapping[str, str] | None = None,
    delimiter: str | None = None,
    pixel_size: float | None = None,
    pixel_centers: bool | None = None,
    image: str | None = None,
    category: str | None = None,
    decimal: str = "point",
) -> list[RawImage]:
    """Read a table, or all tables of a folder; images in the order in which they first come.

    Args:
        source: a file, or a folder, of which all files that end as in ``SUFFIXES`` are read.
        columns: columns with other names, such as ``{"x": "Centroid X px"}``.
        delimiter: one character, or one of ``DELIMITERS``; by default detected.
        pixel_size: units of the coordinates in a pixel; they are divided by it.
        pixel_centers: whole numbers are the centres of pixels.
        image: the image of all rows, instead of a column.
        category: likewise, the category.
        decimal: one of ``DECIMALS``.

    Raises:
        FileNotFoundError: there is no such file, or no table in the folder.
        PointLabelError: a table is invalid; ``problems`` lists rows, with their lines.
        ValueError: the arguments contradict each other.
    """
    wrong = [name for name in columns or {} if name not in COLUMNS]
    if wrong:
        raise ValueError(f"no column is called {wrong[0]!r}; expected {', '.join(COLUMNS)}")
    if pixel_size is not None and not 0 < pixel_size < float("inf"):
        raise ValueError(f"pixel size {pixel_size}; expected a positive number")
    if decimal not in DECIMALS:
        raise ValueError(f"decimal {decimal!r}; allowed: {', '.join(DECIMALS)}")
    shift = 0.5 if pixel_centers else 0.0
    points = _Points(1.0 / (pixel_size or 1.0), shift, DECIMALS[decimal])
    for path in export_files(source, *SUFFIXES):
        given = (("image", image), ("category", category))
        fixed = {k: v.replace("{stem}", path.stem) for k, v in given if v is not None}
        points.add(_Table(path, read_text(path), columns or {}, delimiter, fixed))
    raise_problems(str(source), points.problems, NOT_IMPORTED)
    return list(points.images.values())


class _Table:
    """The rows of a table, and where in them the columns are."""

    def __init__(
        self,
        path: Path,
        text: str,
        columns: Mapping[str, str],
        delimiter: str | None,
        fixed: Mapping[str, str],
    ) -> None:
        self.path = path
        self.fixed = fixed
        if _NOT_A_TABLE.match(text):
            raise PointLabelError(
                f"{path}: not a table: it begins as XML or JSON does. Leave --format out to "
                "detect which export it is"
            )
        stated = _STATED_DELIMITER.match(text)
        # The line stays, empty: lines are counted in messages.
        self._text = text[stated.end() :] if stated else text
        delimiter = delimiter or (stated and stated[1])
        self._wanted = {c: columns.get(c, c) for c in COLUMNS if c not in fixed}
        self._mapped = columns
        self.delimiter = self._delimiter(delimiter)
        self.header = self._header(self.delimiter)
        self.place = {c: self._find(c) for c in self._wanted}
        self.numbers = (self.place["x"], self.place["y"])

    def rows(self) -> Iterator[tuple[int, list[str]]]:
        """Line and fields of each row below the header that is not empty."""
        reader = csv.reader(
            io.StringIO(self._text, newline=""), delimiter=self.delimiter, strict=True
        )
        try:
            header = True
            for row in reader:
                if not any(row):
                    continue
                if not header:
                    yield reader.line_num, row
                header = False
        except csv.Error as error:
            raise PointLabelError(
                f"{self.path}, line {reader.line_num}: not a valid row ({error}). Is a quotation "
                "mark missing or too many? A mark within quotes is written twice."
            ) from error

    def value(self, column: str, row: list[str]) -> str:
        """A column's text in a row, without surrounding blanks; "" if it is missing."""
        if column in self.fixed:
            return self.fixed[column]
        place = self.place[column]
        return "" if place is None else row[place].strip()

    def _header(self, delimiter: str) -> list[str]:
        lines = csv.reader(io.StringIO(self._text, newline=""), delimiter=delimiter)
        try:
            return [name.strip() for name in next(row for row in lines if any(row))]
        except (csv.Error, StopIteration) as error:
            reason = f"the header is not readable ({error})" if str(error) else "an empty table"
            raise PointLabelError(f"{self.path}: {reason}") from error

    def _delimiter(self, given: str | None) -> str:
        """The one given, or the one that splits the header best: into columns we know, then any."""
        if given is not None:
            character = DELIMITERS.get(given, given)
            if len(character) != 1:
                allowed = ", ".join(DELIMITERS)
                raise ValueError(f"delimiter {given!r}; expected one character, or {allowed}")
            return character
        wanted = {name.casefold() for name in self._wanted.values()}

        def fit(character: str) -> tuple[int, int]:
            header = self._header(character)
            return len(wanted & {name.casefold() for name in header}), len(header)

        return max(DELIMITERS.values(), key=fit)

    def _find(self, column: str) -> int | None:
        wanted = self._wanted[column]
        folded = [name.casefold() for name in self.header]
        hits = [i for i, name in enumerate(self.header) if name == wanted]
        hits = hits or [i for i, name in enumerate(folded) if name == wanted.casefold()]
        if len(hits) == 1:
            return hits[0]
        where = f"{self.path}, line 1"
        if hits:
            raise PointLabelError(f"{where}: {len(hits)} columns are called {wanted!r}; rename one")
        if column == "instance" and column not in self._mapped:
            return None
        if all(_is_number(name) for name in self.header[-2:]):
            raise PointLabelError(
                f"{where}: {self.header[:5]} looks like data; expected names of columns, such as "
                f"{','.join(COLUMNS)}. Add a header."
            )
        if self._is_label_studio():
            raise PointLabelError(
                f"{where}: no column {wanted!r}. This is Label Studio's CSV, whose keypoints are "
                "not in columns of their own. Export the project as JSON (or JSON-MIN)"
            )
        text = f"{where}: no column {wanted!r}; found {', '.join(map(repr, self.header))} "
        text += f"(separated by {self.delimiter!r}). "
        possible = self._possible(column)
        close = difflib.get_close_matches(wanted.casefold(), list(possible), n=1, cutoff=0.5)
        whole = f"--{column} for one {column} of all rows" if column in _CONSTANT else ""
        if not possible:
            text += f"None of them can be it. Add a column {wanted!r}"
            raise PointLabelError(text + (f", or give {whole}" if whole else ""))
        guess = _shell_text(possible[close[0]]) if close else "NAME"
        text += f"Say which it is: --column {column}={guess}"
        raise PointLabelError(text + (f", or {whole}" if whole else ""))

    def _is_label_studio(self) -> bool:
        return {"annotation_id", "annotator", "lead_time"} <= {n.casefold() for n in self.header}

    def _possible(self, column: str) -> dict[str, str]:
        """Columns that may be it, by their casefolded names: not another one of ours, nor, by the
        first row, words for a coordinate, or JSON."""
        _, first = next(self.rows(), (0, []))
        taken = {name.casefold() for c, name in self._wanted.items() if c != column}
        found = {}
        for i, name in enumerate(self.header):
            value = first[i].strip() if i < len(first) else ""
            words = column in ("x", "y") and value and not _is_number(value.replace(",", "."))
            if name and name.casefold() not in taken and not words and value[:1] not in _JSON:
                found[name.casefold()] = name
        return found


@dataclass
class _Points:
    """Collects the points of tables by their images."""

    scale: float
    shift: float
    decimal: str
    images: dict[str, RawImage] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def add(self, table: _Table) -> None:
        width = len(table.header)
        for line, row in table.rows():
            where = f"{table.path}, line {line}"
            if len(row) != width and not (len(row) > width and not any(row[width:])):
                self.problems.append(_explain_fields(where, row, table))
                continue
            name = table.value("image", row)
            if not name:
                self.problems.append(f"{where}: no image. Fill in the column, or delete the row.")
                continue
            try:
                x, y = (self._number(row[i].strip(), where) for i in table.numbers)  # type: ignore[index]
            except PointLabelError as error:
                self.problems.append(str(error))
                continue
            image = self.images.setdefault(name, RawImage(name, where=where, shift=self.shift))
            instance = table.value("instance", row)
            owner = None if instance.casefold() in _NO_INSTANCE else instance
            image.points.append(RawPoint(table.value("category", row), x, y, owner, where))

    def _number(self, text: str, where: str) -> float:
        plain = text
        if self.decimal == ",":
            if "." in text:
                raise PointLabelError(f"{where}: {text!r} has a point, not only a decimal comma.")
            plain = text.replace(",", ".")
        try:
            return float(coordinate(plain, where)) * self.scale + self.shift
        except PointLabelError as error:
            if _DECIMAL_COMMA.fullmatch(plain):
                raise PointLabelError(
                    f"{where}: {text!r} has a decimal comma; write {text.replace(',', '.')}, or "
                    "give --decimal comma if all numbers are written so."
                ) from error
            raise PointLabelError(f"{error}. Correct it, or delete the row.") from error


def _explain_fields(where: str, row: list[str], table: _Table) -> str:
    text = f"{where}: {len(row)} fields, the header has {len(table.header)}."
    if table.delimiter == "," and len(row) > len(table.header):
        return text + " Are there decimal commas? Write 12.5, or put fields with commas in quotes."
    return text + " Complete the row, or delete it."


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _shell_text(name: str) -> str:
    return name if re.fullmatch(r"[\w.-]+", name) else f'"{name}"'
