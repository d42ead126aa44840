"""Read Parquet files, Arrow files and folders of them as a table, using pyarrow, one column at a time.

A folder holds the files of one table: Parquet files, as written by Spark, Dask and Polars, or a data set that Hugging
Face's `datasets` wrote with `save_to_disk`, which is read without that package.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np

from xrayfast.data.sources.folder_tree import walk
from xrayfast.data.sources.tables.arrow_text import describe_unread, to_column
from xrayfast.data.sources.tables.table import Table, clean_names, clean_text, no_rows, require_columns
from xrayfast.data.text_column import TextColumn
from xrayfast.errors import DataError, XrayfastError, plural, shorten, truncate
from xrayfast.files.regular_files import read_text, require_regular_file

PARQUET, ARROW = (".parquet", ".pq"), (".arrow", ".feather", ".ipc")

STATE, SPLITS_FILE = "state.json", "dataset_dict.json"
"""Files that `save_to_disk` writes to the folder of a data set, and to the folder of a data set with several splits."""

MAX_ROWS = 100_000_000
"""Maximum number of rows: a file of a few bytes can claim any number of equal rows."""

_ANY_SIZE = 2**62  # no limit, because only text and numeric columns are read from a file that may also hold images

_SPARK_KEY = "__HIVE_DEFAULT_PARTITION__"
"""The folder value that stands for rows without a value."""

_INDEX = "__index_level_"
"""How the column name of an unnamed pandas index begins."""


@dataclass(frozen=True)
class _Part:
    """A file of a table; `constants` are the columns given by the names of its folders."""

    file: Path
    constants: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Content:
    """The content of a file: number of rows, column types by name, and a function that reads a column."""

    rows: int
    types: dict[str, Any]
    read: Callable[[str], Any]
    class_names: dict[str, list[str]]


def is_columnar(file: Path) -> bool:
    """Whether a path's suffix is that of a columnar file or folder."""
    return file.suffix.lower() in PARQUET + ARROW


def is_saved_dataset(folder: Path) -> bool:
    """Whether a folder is a data set written by `save_to_disk` of `datasets`."""
    return folder.is_dir() and ((folder / STATE).is_file() or (folder / SPLITS_FILE).is_file())


def read_columnar(file: Path) -> Table:
    """Read the columns of a file or folder as text, as if read from a CSV file of the same table.

    Lists become cells such as "['Effusion', 'Mass']"; class numbers become the names that `datasets` stores for them;
    missing values become "". Blank rows are left out. Columns of bytes, structs and the like are not read, with a note.

    Raises:
        DataError: pyarrow is missing; the file can't be read, is encrypted, or has no rows or no columns of texts or
            numbers; or the files of a folder differ in their columns.
    """
    parts, notes = _find_parts(file)
    contents = [_open(part.file) for part in parts]
    if (rows := sum(content.rows for content in contents)) > MAX_ROWS:
        raise DataError(f"{file}: found {rows:,} rows; expected at most {MAX_ROWS:,}. Leave some out.")
    _require_same_columns(parts, contents)
    stored = [name for name in contents[0].types if not name.startswith(_INDEX)]
    header = clean_names(stored)
    require_columns(file, header)
    if not rows:
        raise no_rows(file)
    columns, unread = dict[str, TextColumn](), dict[str, str]()
    for name, clean in zip(stored, header, strict=True):
        reasons = [describe_unread(content.types[name]) for content in contents]
        if reason := next(filter(None, reasons), ""):
            unread[clean] = reason
        elif clean:
            cells = (_read_column(part, content, name) for part, content in zip(parts, contents, strict=True))
            columns[clean] = TextColumn.joined(*cells)
        if names := contents[0].class_names.get(name):
            notes.append(f"Class numbers in '{clean}' are read as the class names in the file: {shorten(names)}.")
    for name in dict.fromkeys(name for part in parts for name in part.constants):
        if name in columns or name in unread:
            notes.append(f"'{name}' is in the folder names and a column of the table: the column is used.")
            continue
        texts = [part.constants.get(name, "") for part in parts]
        columns[name] = TextColumn.merged(
            texts, np.repeat(np.arange(len(parts)), [content.rows for content in contents])
        )
    if not columns:
        raise DataError(
            f"{file}: found no columns of texts or numbers; expected image paths and labels. {_list(unread)}"
        )
    if unread:
        notes.append(f"Not read: {_list(unread)}.")
    ends = np.cumsum([content.rows for content in contents])
    names = [part.file.relative_to(file).as_posix() if part.file != file else file.name for part in parts]

    def where(row: int) -> str:
        part = int(np.searchsorted(ends, row, side="right"))
        return f"{names[part]} row {row - int(ends[part]) + contents[part].rows + 1}"

    return _without_blank_rows(Table(file, columns, where, notes=tuple(notes), unread=unread))


def read_columnar_names(file: Path) -> list[str]:
    """Return the column names of a table, stripped; empty if it can't be read as a table."""
    try:
        parts, _ = _find_parts(file)
        return clean_names([*_open(parts[0].file).types, *parts[0].constants])
    except DataError:
        return []


def _find_parts(path: Path) -> tuple[list[_Part], list[str]]:
    """Return the files of a table in order, and notes."""
    if not path.is_dir():
        return [_Part(path)], []
    if (path / SPLITS_FILE).is_file():
        splits = _read_json(path / SPLITS_FILE).get("splits")
        if not isinstance(splits, list) or not splits or not all(map(_is_name, splits)):
            raise DataError(f"{path / SPLITS_FILE}: found no split names; expected a file written by 'save_to_disk'.")
        return [_Part(part, {"split": split}) for split in splits for part in _saved_parts(path / split)], []
    if (path / STATE).is_file():
        return [_Part(part) for part in _saved_parts(path)], []
    files = [Path(entry.path) for entry in walk(path) if not entry.name.startswith("_")]
    tables = [file for file in files if is_columnar(file)]
    if not tables:
        raise DataError(
            f"{path}: found a folder without Parquet or Arrow files; expected the file of a table, or the folder "
            f"with its parts. Unpack an archive of a CSV file."
        )
    others = [file.relative_to(path).as_posix() for file in files if not is_columnar(file)]
    notes = [f"The table consists of {plural(len(tables), 'file')} in {path.name}."] if len(tables) > 1 else []
    if others:
        notes.append(f"Not read in {path.name}, because they are not Parquet or Arrow files: {shorten(others, 3)}.")
    return [_Part(file, _folder_keys(file.relative_to(path))) for file in tables], notes


def _folder_keys(path: Path) -> dict[str, str]:
    """Return the columns given by folders named KEY=VALUE."""
    pairs = (part.partition("=") for part in path.parts[:-1])
    return {unquote(key): "" if value == _SPARK_KEY else unquote(value) for key, sign, value in pairs if sign and key}


def _saved_parts(folder: Path) -> list[Path]:
    """Return the files of a data set written by `save_to_disk`, in order."""
    state = _read_json(folder / STATE)
    if state.get("_indices_data_files") or state.get("_indices_files"):
        raise DataError(
            f"{folder}: found a data set that stores a selection of its rows in a separate file; expected only the "
            f"selected rows. Save it again: load_from_disk(...).flatten_indices().save_to_disk(...)."
        )
    files = state.get("_data_files")
    names = [one.get("filename") if isinstance(one, dict) else None for one in files] if isinstance(files, list) else []
    if not names or not all(map(_is_name, names)):
        raise DataError(f"{folder / STATE}: found no file names in it; expected a file written by 'save_to_disk'.")
    return [folder / str(name) for name in names]


def _is_name(text: object) -> bool:
    """Whether a value is the name of a file in the same folder."""
    return isinstance(text, str) and text not in ("", ".", "..") and not {"/", "\\", "\0"} & set(text)


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(read_text(file, "a file of 'save_to_disk'", error=DataError))
    except (ValueError, RecursionError) as error:
        if isinstance(error, XrayfastError):
            raise
        raise DataError(f"{file}: found invalid JSON ({error}). Save the data set again.") from error
    return content if isinstance(content, dict) else {}


def _require_same_columns(parts: Sequence[_Part], contents: Sequence[_Content]) -> None:
    first = contents[0].types.keys()
    for part, content in zip(parts, contents, strict=True):
        if content.types.keys() != first:
            differ = shorten(sorted(content.types.keys() ^ first))
            raise DataError(
                f"{part.file}: found other columns than in {parts[0].file.name}: {differ}; expected the same in all "
                "parts of a table. Name one file, or remove those that do not belong to this table."
            )


def _import_pyarrow(file: Path) -> Any:
    try:
        import pyarrow
    except ImportError as error:
        raise DataError(
            f"{file}: reading it needs pyarrow, which can't be imported ({error}). Install it: "
            "pip install 'xrayfast[tables]', or save the table as CSV."
        ) from error
    return pyarrow


@contextmanager
def _reading(file: Path) -> Iterator[None]:
    """Turn the errors that pyarrow raises on damaged and odd files into a DataError that names the file."""
    pyarrow = _import_pyarrow(file)
    try:
        yield
    except XrayfastError:
        raise
    except (pyarrow.ArrowException, OSError, ValueError, LookupError, TypeError, MemoryError, RuntimeError) as error:
        text = truncate(str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__, 200)
        if "encrypt" in text.lower() or "decrypt" in text.lower():
            raise _encrypted(file) from error
        raise DataError(
            f"{file}: can't be read as a Parquet or Arrow file ({text}). It may be cut off or damaged: fetch or "
            f"write it again."
        ) from error


def _encrypted(file: Path) -> DataError:
    return DataError(
        f"{file}: found an encrypted Parquet file; expected one without encryption. Write it again without encryption."
    )


def _open(file: Path) -> _Content:
    """Open a file in the format that its first bytes indicate."""
    require_regular_file(file, "a table (Parquet or Arrow)", _ANY_SIZE, DataError)
    with _reading(file):
        with file.open("rb") as stream:
            start = stream.read(8)
        if start.startswith(b"PARE"):
            raise _encrypted(file)
        if start.startswith(b"PAR1"):
            return _open_parquet(file)
        if start.startswith((b"ARROW1", b"\xff\xff\xff\xff")):
            return _open_arrow(file, stream=not start.startswith(b"ARROW1"))
        if start.startswith(b"FEA1"):
            raise DataError(
                f"{file}: found a Feather file of version 1; expected version 2 (Arrow). Write the file again."
            )
        raise DataError(
            f"{file}: the first bytes are not those of a Parquet or Arrow file; expected one because of the file "
            "name. Rename a text table to .csv or .tsv. A download may be cut off, or be an error page: fetch it "
            f"again."
        )


def _open_parquet(file: Path) -> _Content:
    from pyarrow import parquet, types

    with file.open("rb") as source, parquet.ParquetFile(source) as opened:
        schema, rows = opened.schema_arrow, opened.metadata.num_rows
    kinds = _types(file, schema)
    # Read as codes into distinct texts, as in the file, a column of ten million cells takes little memory.
    texts = [name for name, kind in kinds.items() if types.is_string(kind) or types.is_large_string(kind)]

    def read(name: str) -> Any:
        kept = [name] if name in texts else None
        with file.open("rb") as source, parquet.ParquetFile(source, read_dictionary=kept) as opened:
            return opened.read(columns=[name]).column(name)

    return _Content(rows, kinds, read, _class_names(schema))


def _open_arrow(file: Path, stream: bool) -> _Content:
    import pyarrow

    def table() -> Any:
        # Only the path's own `open` can read a file in an archive or on another machine.
        is_plain = os.path.isfile(str(file))  # noqa: PTH113
        source = pyarrow.memory_map(str(file)) if is_plain else pyarrow.PythonFile(file.open("rb"), mode="r")
        return (pyarrow.ipc.open_stream if stream else pyarrow.ipc.open_file)(source).read_all()

    def read(name: str) -> Any:
        column = table().column(name)
        column.validate(full=True)  # offsets of a damaged file may point outside it
        return column

    opened = table()
    return _Content(opened.num_rows, _types(file, opened.schema), read, _class_names(opened.schema))


def _types(file: Path, schema: Any) -> dict[str, Any]:
    require_columns(file, schema.names)
    return dict(zip(schema.names, schema.types, strict=True))


def _class_names(schema: Any) -> dict[str, list[str]]:
    """Return the class names by column, as `datasets` stores them in the schema."""
    try:
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
        found = {
            name: feature.get("names") or (feature.get("feature") or {}).get("names")
            for name, feature in features.items()
        }
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return {}
    return {
        name: names
        for name, names in found.items()
        if isinstance(names, list) and names and all(isinstance(one, str) for one in names)
    }


def _read_column(part: _Part, content: _Content, name: str) -> TextColumn:
    with _reading(part.file):
        column = to_column(content.read(name), content.class_names.get(name))
    if any("\0" in text for text in column.texts):
        raise DataError(
            f"{part.file}: found a text with a zero byte in '{name}'; expected texts without zero bytes. Remove them "
            f"and write the file again."
        )
    return column.replace(clean_text)


def _without_blank_rows(table: Table) -> Table:
    """Return the table without rows in which all cells are blank, as for a text file."""
    blank = np.ones(len(table), np.bool_)
    for column in table.columns.values():
        blank &= np.array([not text.strip() for text in column.texts], np.bool_)[column.codes]
        if not blank.any():
            return table
    if blank.all():
        raise no_rows(table.file)
    return table.select(np.flatnonzero(~blank).tolist())


def _list(unread: Mapping[str, str]) -> str:
    return shorten((f"'{name}' ({reason})" for name, reason in unread.items()), 10)
