"""A table as columns of text, independent of its file format."""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from xrayfast.data.labels.targets import Where
from xrayfast.data.text_column import TextColumn
from xrayfast.errors import DataError
from xrayfast.files.csv_tables import unquote_cell

MAX_COLUMNS = 10_000
"""Maximum number of columns: twice as many as a network may have labels."""

_ENTITY = re.compile(r"&(?:#\d+|#x[\da-f]+|[a-z]+\d*);", re.IGNORECASE)
"""An HTML entity with its semicolon; `html.unescape` alone would also decode the start of "Mass&notch"."""


@dataclass(frozen=True)
class Table:
    """The N cells of each column of a file.

    Attributes:
        file: the table's file, or the folder of its files.
        columns: by name.
        where: returns how a message refers to the i-th row; in a text file, with the number that a spreadsheet shows.
        companions: names of files next to it whose rows were appended.
        notes: on how it was read.
        unread: why columns can't be read as text, by column name.
    """

    file: Path
    columns: dict[str, TextColumn]
    where: Where
    companions: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    unread: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def select(self, rows: Sequence[int]) -> Table:
        """Return some of the rows, in the given order."""
        columns = {name: cells.take(rows) for name, cells in self.columns.items()}
        return replace(self, columns=columns, where=lambda i: self.where(int(rows[i])))

    def append_companion(self, other: Table, note: str) -> Table:
        """Return this table's rows followed by those of a table next to it with the same columns."""
        n = len(self)
        return replace(
            self,
            columns={name: TextColumn.joined(cells, other.columns[name]) for name, cells in self.columns.items()},
            where=lambda i: self.where(i) if i < n else other.where(i - n),
            companions=(*self.companions, other.file.name),
            notes=(*self.notes, note),
        )


@dataclass(frozen=True)
class HeaderlessFormat:
    """A published text format without a header.

    Attributes:
        first_line: pattern of the first line, stripped.
        columns: the columns' names.
        parse: makes the table from a file's path and its lines; see `delimited.build_table`.
    """

    first_line: re.Pattern[str]
    columns: tuple[str, ...]
    parse: Callable[[Path, Iterable[str]], Table]


def clean_names(names: Iterable[str]) -> list[str]:
    """Return column names unquoted, without surrounding spaces, byte order marks, and Orange's "m#" and "cD#"."""
    return [re.sub(r"^(?!#)[mciw]?[CDSTI]?#(?=\w)", "", unquote_cell(name.strip().strip("\ufeff"))) for name in names]


def clean_text(text: str) -> str:
    """Return a cell without the apostrophe of `files.csv_tables.quote_cell` and with HTML entities decoded.

    The semicolon of an entity, as in "Mass &amp; Edema", would separate labels.
    """
    if text[:1] != "'" and "&" not in text:
        return text
    return _ENTITY.sub(lambda found: html.unescape(found[0]), unquote_cell(text))


def require_columns(file: Path, header: Sequence[str]) -> None:
    """Raise a DataError if there are too many columns for a table of labels, or two of the same name."""
    if len(header) > MAX_COLUMNS:
        raise DataError(f"{file}: found {len(header):,} columns; expected at most {MAX_COLUMNS:,}. Leave some out.")
    if twice := [name for name, count in Counter(filter(None, header)).items() if count > 1]:
        raise DataError(f"{file}: found the column '{twice[0]}' twice; expected each once. Rename one.")


def no_rows(file: Path) -> DataError:
    """Return the error for a table without rows."""
    return DataError(f"{file}: found no rows; expected a header and a row for each image.")
