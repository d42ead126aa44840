"""A CSV file, or one of COVIDx's text files, as columns of cells."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TextIO

from xrayfast.data.labels.targets import Where
from xrayfast.data.splits.stratify import parse_split
from xrayfast.errors import DataError

TABLE_SUFFIXES = (".csv", ".csv.gz", ".tsv", ".txt")
"""Endings of files that can be tables of labels."""

COVIDX_COLUMNS = ("patientid", "filename", "class", "source")
"""What COVIDx's text files, which have no header, hold; the last is not always there."""

_COVIDX_LINE = re.compile(r"(\S+) +(\S.*\.(?:png|jpe?g|bmp|tiff?|dcm)) +(\S+)(?: +(\S+))?", re.IGNORECASE)
_MARKS = {codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
_SAMPLE = 1 << 16
_BATCH = 1000


@dataclass(frozen=True)
class Table:
    """The cells of a file by column.

    Attributes:
        file: where it was read from.
        columns: N texts by name.
        where: names the i-th row in a message, with its number as a spreadsheet shows it.
        notes: what was done to read it.
    """

    file: Path
    columns: dict[str, list[str]]
    where: Where
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def followed_by(self, other: Table) -> Table:
        """This table's rows and then those of another with the same columns."""
        columns = {name: cells + other.columns[name] for name, cells in self.columns.items()}
        n = len(self)
        return replace(self, columns=columns, where=lambda i: self.where(i) if i < n else other.where(i - n))


def is_table(name: str) -> bool:
    """Whether a file's name is that of a table."""
    return name.lower().endswith(TABLE_SUFFIXES)


def read_table(file: Path) -> Table:
    """Read all cells as text; blank rows are left out, but keep their numbers.

    The encoding is UTF-8, UTF-16 or UTF-32 where a byte order mark says so, or else Windows-1252, with a note; the
    separator is the one of ',', ';' and tab that divides the first rows alike; line ends may be any, also in quotes.

    Raises:
        DataError: not a file of text, no rows, a column twice, or rows longer or shorter than the header.
    """
    try:
        encoding = _encoding(file)
        try:
            return _read(file, encoding)
        except UnicodeDecodeError:
            if encoding != "utf-8-sig":
                raise
        table = _read(file, "cp1252")
        return replace(table, notes=(f"{file.name} is not UTF-8: read as Windows-1252.",))
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{file}: found a damaged gzip file ({error}). Fetch the file again.") from error
    except OSError as error:
        raise DataError(f"{file}: can't be read ({error.strerror}); expected a CSV file of labels.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: found bytes that are no text. Save the table as CSV in UTF-8.") from error
    except csv.Error as error:
        raise DataError(f"{file}: found a damaged CSV file ({error}). Save the table as CSV again.") from error


def header_of(file: Path) -> list[str]:
    """The names of a table's columns; empty where the file can't be read as one."""
    try:
        with _open(file, _encoding(file)) as stream:
            sample = stream.read(_SAMPLE)
        if _is_covidx(sample):
            return list(COVIDX_COLUMNS)
        return [name.strip() for name in next(_records(io.StringIO(sample, newline=""), _separator(sample)), [])]
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, csv.Error):
        return []


def _encoding(file: Path) -> str:
    with _bytes(file) as stream:
        start = stream.read(4)
    return next((name for mark, name in _MARKS.items() if start.startswith(mark)), "utf-8-sig")


def _bytes(file: Path) -> gzip.GzipFile | io.BufferedReader:
    return gzip.open(file, "rb") if file.suffix.lower() == ".gz" else file.open("rb")


def _open(file: Path, encoding: str) -> TextIO:
    return io.TextIOWrapper(_bytes(file), encoding=encoding, newline="")


def _read(file: Path, encoding: str) -> Table:
    with _open(file, encoding) as stream:
        sample = stream.read(_SAMPLE)
        stream.seek(0)
        if "\0" in sample:
            raise DataError(f"{file}: found bytes that are no text. Save the table as CSV in UTF-8.")
        if _is_covidx(sample):
            return _read_covidx(file, stream)
        separator = _separator(sample)
        records = _records(stream, separator)
        header = [name.strip() for name in next(records, [])]
        if twice := [name for name, count in Counter(filter(None, header)).items() if count > 1]:
            raise DataError(f"{file}: found the column '{twice[0]}' twice; expected each once. Rename one.")
        numbers: list[int] = []
        columns = _by_column(_filled(records, header, numbers, file, separator), len(header))
    if not numbers:
        raise DataError(f"{file}: found no rows; expected a header and a row for each image.")
    named = {name: column for name, column in zip(header, columns, strict=True) if name}
    if not named:
        raise DataError(f"{file}: found no names of columns in the first row; expected a header.")
    return Table(file, named, _numbered(file, numbers))


def _numbered(file: Path, numbers: Sequence[int]) -> Where:
    return lambda i: f"{file.name} row {numbers[i]}"


def _records(stream: Iterable[str], separator: str) -> Iterator[list[str]]:
    # Strict, for else a quote that is never closed swallows the rest of the file without a word.
    return csv.reader(stream, delimiter=separator, strict=True)


def _separator(sample: str) -> str:
    """The sign that divides most rows of the sample as it divides the header; of several, into most cells."""

    def fit(sign: str) -> tuple[float, int]:
        records = list(islice(csv.reader(io.StringIO(sample, newline=""), delimiter=sign), 100))
        if len(sample) == _SAMPLE:
            records = records[:-1] or records  # the last may be cut
        width = len(records[0]) if records else 0
        if width < 2:
            return 0, 0
        rows = [row for row in records if any(map(str.strip, row))]
        return sum(len(row) == width for row in rows) / len(rows), width

    return max(",;\t", key=fit)


def _filled(
    records: Iterator[list[str]], header: Sequence[str], numbers: list[int], file: Path, separator: str
) -> Iterator[list[str]]:
    """The rows that are not blank, as long as the header; their numbers are added to `numbers`."""
    width = len(header)
    for number, row in enumerate(records, start=2):
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


def _by_column(rows: Iterator[list[str]], width: int) -> list[list[str]]:
    """Turn rows into columns; equal cells of a column are one object, or 400,000 rows would not fit in memory."""
    columns: list[list[str]] = [[] for _ in range(width)]
    seen: list[dict[str, str]] = [{} for _ in range(width)]
    while batch := list(islice(rows, _BATCH)):
        for column, known, cells in zip(columns, seen, zip(*batch, strict=True), strict=True):
            column.extend(map(known.setdefault, cells, cells))
    return columns


def _is_covidx(sample: str) -> bool:
    """Whether a text begins with a line of COVIDx: patient, file, class, and often the source."""
    return bool(_COVIDX_LINE.fullmatch(sample.partition("\n")[0].strip()))


def _read_covidx(file: Path, stream: TextIO) -> Table:
    """A file of lines without a header; which split they are is in the file's name, as in test_COVIDx9A.txt."""
    numbers, rows = [], []
    for number, line in enumerate(stream, start=1):
        if line.strip():
            found = _COVIDX_LINE.fullmatch(line.strip())
            if found is None:
                raise DataError(
                    f"{file.name} row {number}: expected a patient, an image's file name and a class, separated by "
                    "spaces, as in the first line."
                )
            numbers.append(number)
            rows.append([cell or "" for cell in found.groups()])
    columns = dict(zip(COVIDX_COLUMNS, _by_column(iter(rows), len(COVIDX_COLUMNS)), strict=True))
    split = next(filter(None, map(parse_split, re.split(r"[\W_]+", file.name))), None)
    if split:
        columns["split"] = [split] * len(rows)
    return Table(file, columns, _numbered(file, numbers))
