"""Tables of labels: text files, and columnar files and folders. One that can't be used is a DataError."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from xrayfast.data.sources.tables.columnar import is_columnar, read_columnar, read_columnar_names
from xrayfast.data.sources.tables.delimited import read_delimited, read_delimited_names
from xrayfast.data.sources.tables.table import HeaderlessFormat, Table


def is_table(name: str) -> bool:
    """Whether a file name is that of a table."""
    return is_columnar(Path(name)) or name.lower().endswith((".csv", ".csv.gz", ".tsv", ".txt"))


def read_table(file: Path, headerless: Sequence[HeaderlessFormat] = ()) -> Table:
    """Read a text file, or a columnar file or folder, depending on its name: see `read_delimited`, `read_columnar`."""
    return read_columnar(file) if is_columnar(file) or file.is_dir() else read_delimited(file, headerless)


def read_column_names(file: Path, headerless: Sequence[HeaderlessFormat] = ()) -> list[str]:
    """Return the column names of a table; empty if the file can't be read as a table."""
    return read_columnar_names(file) if is_columnar(file) else read_delimited_names(file, headerless)
