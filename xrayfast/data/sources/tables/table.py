"""A table as columns of texts, whatever its file."""

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
"""Most columns of a table: twice as many as a network has labels."""

_ENTITY = re.compile(r"&(?:#\d+|#x[\da-f]+|[a-z]+\d*);", re.IGNORECASE)
"""An HTML entity; `html.unescape` alone takes "Mass&notch" for one too."""


@dataclass(frozen=True)
class Table:
    """The N cells of each column of a file; `where` names the i-th row with its number.

    Attributes:
        file: the table's, or the folder of its parts.
        columns: by name.
        where: in a text file the number is that which a spreadsheet shows.
        companions: the names of files beside it whose rows follow its own.
        notes: what was done to read it.
        unread: why columns can't be read as texts, by name.
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
        """Some of the rows, in the order given."""
        columns = {name: cells.take(rows) for name, cells in self.columns.items()}
        return replace(self, columns=columns, where=lambda i: self.where(int(rows[i])))

    def append_companion(self, other: Table, note: str) -> Table:
        """This table's rows and then those of one beside it with the same columns."""
        n = len(self)
        return replace(
            self,
            columns={name: cells.append(other.columns[name]) for name, cells in self.columns.items()},
            where=lambda i: self.where(i) if i < n else other.where(i - n),
            companions=(*self.companions, other.file.name),
            notes=(*self.notes, note),
        )


@dataclass(frozen=True)
class HeaderlessFormat:
    """A published format of text files without a header: a pattern of the first line, stripped, and the columns' names.

    `parse` makes the table from a file's path and its lines; see `delimited.build_table`.
    """

    first_line: re.Pattern[str]
    columns: tuple[str, ...]
    parse: Callable[[Path, Iterable[str]], Table]


def clean_names(names: Iterable[str]) -> list[str]:
    """The names of columns as they are compared."""
    return [unquote_cell(name.strip()) for name in names]


def clean_text(text: str) -> str:
    """A cell without the apostrophe of `files.quote_cell`, and with the characters that HTML entities stand for.

    An entity's semicolon, as in "Mass &amp; Edema", would part labels.
    """
    if text[:1] != "'" and "&" not in text:
        return text
    return _ENTITY.sub(lambda found: html.unescape(found[0]), unquote_cell(text))


def require_columns(file: Path, header: Sequence[str]) -> None:
    """Refuse a table by the names of its columns.

    Raises:
        DataError: there are too many, one is there twice, or none has a name.
    """
    if len(header) > MAX_COLUMNS:
        raise DataError(f"{file}: found {len(header):,} columns; expected at most {MAX_COLUMNS:,}. Leave some out.")
    if twice := [name for name, count in Counter(filter(None, header)).items() if count > 1]:
        raise DataError(f"{file}: found the column '{twice[0]}' twice; expected each once. Rename one.")


def no_rows(file: Path) -> DataError:
    """The error of a table without rows."""
    return DataError(f"{file}: found no rows; expected a header and a row for each image.")
