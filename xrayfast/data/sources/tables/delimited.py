"""A CSV or TSV file as a table."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import re
import zlib
from array import array
from collections.abc import Iterable, Iterator, MutableSequence, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TextIO

from xrayfast.data.sources.column_words import usual_columns
from xrayfast.data.sources.tables.table import (
    HeaderlessFormat,
    Table,
    clean_names,
    clean_text,
    no_rows,
    require_columns,
)
from xrayfast.data.text_column import TextCollector
from xrayfast.errors import DataError, shorten
from xrayfast.files.regular_files import MAX_TABLE_BYTES, require_regular_file

_MARKS = {codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
_COLUMNAR = {b"PAR1": "a Parquet", b"ARRO": "an Arrow"}
"""The first bytes of other tables, which may have a wrong name."""

_SEPARATOR_LINE = re.compile(r'"?sep=(.)"?[,;\t]*\r?(?:\n|\Z)', re.IGNORECASE)
"""The first line by which Excel is told the separator."""

_MOST_BYTES = 2**32
_MEMORY_PER_BYTE, _MEMORY_PER_TEXT = 8, 160
"""Memory that is free for each byte of a large file, of which ten million rows of 14 labels take seven, and for each
different cell of a column: the shorter cells are, the more of them a file can hold."""

_SAMPLE = 1 << 16
_MOST_ABOVE = 100  # lines above the header
_SIGNS = ",;\t|"
_BATCH = 1000


def read_delimited(file: Path, headerless: Sequence[HeaderlessFormat] = ()) -> Table:
    """Read all cells as text; blank rows are left out, but keep their numbers.

    The encoding is UTF-8, UTF-16 or UTF-32 where a byte order mark says so, or else Windows-1252, with a note; the
    separator is that of Excel's first line, "sep=;", or else the one of ',', ';', tab and '|' that divides the first
    rows alike; blank lines, comments and titles above the header are skipped, the latter with a note; line ends may be
    any, also in quotes. The file may be packed
    with gzip, or in one of the formats without a header. The apostrophe before what a spreadsheet would take for a
    formula is no part of a cell: see `files.quote_cell`. HTML entities are the characters that they stand for.

    Raises:
        DataError: not a file of text, no rows, a column twice, or rows longer or shorter than the header.
    """
    try:
        encoding = _encoding(file)
        try:
            return _read(file, encoding, headerless)
        except UnicodeDecodeError:
            if encoding != "utf-8-sig":
                raise
            note = f"{file.name} is not UTF-8: read as Windows-1252."
            table = _read(file, "cp1252", headerless)
            return replace(table, notes=(note, *table.notes))
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{file}: found a damaged gzip file ({error}). Fetch the file again.") from error
    except OSError as error:
        raise DataError(f"{file}: can't be read ({error.strerror}); expected a CSV file of labels.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: found bytes that are no text. Save the table as CSV in UTF-8.") from error
    except csv.Error as error:
        raise DataError(f"{file}: found a damaged CSV file ({error}). Save the table as CSV again.") from error


def read_delimited_names(file: Path, headerless: Sequence[HeaderlessFormat] = ()) -> list[str]:
    """The names of a table's columns, stripped; empty where the file can't be read as one."""
    try:
        with _open(file, _encoding(file)) as stream:
            sample = stream.read(_SAMPLE)
        if text_format := _match_headerless(sample, headerless):
            return list(text_format.columns)
        separator, start = _separator(sample)
        return clean_names(next(_records(io.StringIO(sample[start:], newline=""), separator), []))
    except (DataError, OSError, EOFError, zlib.error, UnicodeDecodeError, csv.Error):
        return []


def _encoding(file: Path) -> str:
    with _bytes(file) as stream:
        start = stream.read(4)
    if found := next((name for mark, name in _COLUMNAR.items() if start.startswith(mark)), ""):
        raise DataError(
            f"{file}: found {found} file; expected a table of text, by its name. Call it .parquet or .arrow, as it is."
        )
    return next((name for mark, name in _MARKS.items() if start.startswith(mark)), "utf-8-sig")


class _Unpacked(gzip.GzipFile):
    """A gzip file, also of an archive or on another machine, that refuses to become larger than a table may be."""

    def __init__(self, file: Path) -> None:
        self._packed, self._most = file.open("rb"), _most_bytes()
        super().__init__(str(file), "rb", fileobj=self._packed)

    def close(self) -> None:
        super().close()
        self._packed.close()

    def read1(self, size: int = -1) -> bytes:
        content = super().read1(size)
        if self.tell() > self._most:
            raise DataError(f"{self.name}: found more than {self._most >> 20} MB, unpacked; expected a table.")
        return content


def _free_memory() -> int:
    import psutil

    return int(psutil.virtual_memory().available)


def _most_bytes() -> int:
    """Most bytes of a file, also unpacked; more than `MAX_TABLE_BYTES` where there is memory for them."""
    return max(MAX_TABLE_BYTES, min(_free_memory() // _MEMORY_PER_BYTE, _MOST_BYTES))


def _bytes(file: Path) -> gzip.GzipFile | io.BufferedReader:
    require_regular_file(file, "a table (CSV or TSV)", _most_bytes(), DataError)
    return _Unpacked(file) if file.suffix.lower() == ".gz" else file.open("rb")


def _open(file: Path, encoding: str) -> TextIO:
    return io.TextIOWrapper(_bytes(file), encoding=encoding, newline="")


def _read(file: Path, encoding: str, headerless: Sequence[HeaderlessFormat]) -> Table:
    with _open(file, encoding) as stream:
        sample = stream.read(_SAMPLE)
        stream.seek(0)
        if "\0" in sample:
            raise DataError(f"{file}: found bytes that are no text. Save the table as CSV in UTF-8.")
        if text_format := _match_headerless(sample, headerless):
            return text_format.parse(file, stream)
        separator, start = _separator(sample)
        notes = _note_above(file, stream.read(start))
        records = _records(stream, separator)
        header = clean_names(next(records, []))
        require_columns(file, header)
        numbers = array("q")
        table = build_table(
            file,
            header,
            _pad_rows(records, header, numbers, file, separator, _count_lines(sample[:start]) + 2),
            numbers,
        )
    if not numbers:
        raise no_rows(file)
    if not any(header):
        raise DataError(f"{file}: found no names of columns in the first row; expected a header.")
    return replace(table, notes=notes)


def build_table(file: Path, names: Sequence[str], rows: Iterable[Sequence[str]], numbers: Sequence[int]) -> Table:
    """A table from N rows of as many cells as there are names of columns; those without a name are dropped.

    `numbers` are those of the N rows as an editor shows them, and may be filled as the rows are read.

    Raises:
        DataError: there are more different cells than fit into memory.
    """
    columns, most = [TextCollector() for _ in names], _free_memory() // _MEMORY_PER_TEXT
    remaining = iter(rows)
    while batch := list(islice(remaining, _BATCH)):
        for column, cells in zip(columns, zip(*batch, strict=True), strict=True):
            column.extend(cells)
        if sum(map(len, columns)) > most:
            raise DataError(
                f"{file}: found more than {most:,} different cells, which do not fit into memory; expected a table of "
                "labels. Leave out columns of texts and numbers that are no labels."
            )
    named = {name: column.collect().replace(clean_text) for name, column in zip(names, columns, strict=True) if name}
    return Table(file, named, lambda i: f"{file.name} row {numbers[i]}")


def _match_headerless(sample: str, headerless: Sequence[HeaderlessFormat]) -> HeaderlessFormat | None:
    line = sample.partition("\n")[0].strip()
    return next((text_format for text_format in headerless if text_format.first_line.fullmatch(line)), None)


def _records(stream: Iterable[str], separator: str) -> Iterator[list[str]]:
    # Not strict, a quote that is never closed silently swallows the rest of the file.
    return csv.reader(stream, delimiter=separator, strict=True)


def _count_lines(text: str) -> int:
    return len(re.findall(r"\r\n|\r|\n", text))


def _separator(sample: str) -> tuple[str, int]:
    """The separator, and how many characters are before the header: see `_find_header`, and a line that names the
    separator.

    Where no line does, it is the one that divides most rows of the sample as it divides the header; of several, into
    most cells. One that leaves something between a closing quote and itself is taken only where all do.
    """
    start = _find_header(sample)
    if (line := _SEPARATOR_LINE.match(sample, start)) and line[1] in sample[line.end() :].partition("\n")[0]:
        return line[1], line.end()
    start = line.end() if line else start

    def fit(separator: str) -> tuple[bool, float, int]:
        records: list[list[str]] = []
        cut = len(sample) == _SAMPLE
        quotes_close = True
        try:
            records.extend(islice(_records(io.StringIO(sample[start:], newline=""), separator), 100))
        except csv.Error:
            # In the quotes of a cell, another separator can divide the rows alike too.
            quotes_close = cut
        if cut:
            records = records[:-1] or records  # the last may be cut
        width = len(records[0]) if records else 0
        if width < 2:
            return False, 0, 0
        rows = [row for row in records if any(map(str.strip, row))]
        return quotes_close, sum(len(row) == width for row in rows) / len(rows), width

    return max(_SIGNS, key=fit), start


def _find_header(sample: str) -> int:
    """Where the first line begins that is not blank, no comment, which begins with '#', and no title, which is without
    a separator above one with a separator; of a header that is a comment, behind its '#'.
    """
    first = None
    for line in islice(re.finditer(r"([ \t]*)([^\r\n]*)(?:\r\n|\r|\n|\Z)", sample), _MOST_ABOVE):
        text = line[2].strip()
        if text.startswith("#") and text[1:2] not in (*_SIGNS, ""):
            names = re.split(f"[{_SIGNS}]", text.lstrip("# "))
            if len(names) > 1 and usual_columns(names, "path"):
                return line.end(1) + text.index(names[0])
        elif text:
            first = line.start() if first is None else first
            if set(text) & {*_SIGNS, '"'}:
                return line.start()
    return first or 0


def _note_above(file: Path, text: str) -> tuple[str, ...]:
    """A note on what is above the header, besides the line that names the separator."""
    lines = [line.strip() for line in text.splitlines() if line.strip("# \t") and not _SEPARATOR_LINE.match(line)]
    return (f"{file.name}: skipped above the header: {shorten(map(repr, lines), 3)}.",) if lines else ()


def _pad_rows(
    records: Iterator[list[str]],
    header: Sequence[str],
    numbers: MutableSequence[int],
    file: Path,
    separator: str,
    first: int,
) -> Iterator[list[str]]:
    """The rows that are not blank, padded to the length of the header; their numbers, from `first`, are added to
    `numbers`.
    """
    width = len(header)
    for number, row in enumerate(records, start=first):
        if not (row and row[0].strip()) and not any(map(str.strip, row)):
            continue
        if len(row) != width:
            if any(map(str.strip, row[width:])) or any(header[len(row) :]):
                raise DataError(
                    f"{file.name} row {number}: found {len(row)} cells; expected {width}, as in the header. Put cells "
                    f"that contain '{separator}' in double quotes."
                )
            row = (row + [""] * width)[:width]
        numbers.append(number)
        yield row
