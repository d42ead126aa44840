"""A CSV file of images as plain lists: which columns hold what, which labels a row has, where its file lies."""

from __future__ import annotations

import csv
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from xrayfast.config import DataConfig
from xrayfast.data.folders import Images, absolute, top_level, visible_entries
from xrayfast.data.labels import LabelSet, cell_labels, column_labels, is_flag
from xrayfast.data.splits import Part, part_name
from xrayfast.errors import DataError, did_you_mean, some

# In the order in which they are preferred; letter case, spaces, '_' and '-' make no difference.
_PATH_COLUMNS = ("image", "file", "filename", "path", "imagepath", "filepath", "imageindex", "imageid")
_LABEL_COLUMNS = ("labels", "label", "findinglabels", "findings", "finding", "class", "diagnosis", "target")
_SPLIT_COLUMNS = ("split", "set", "subset", "partition")
_PATIENT_COLUMNS = ("patient", "patientid", "subject", "subjectid")

_FLAG_SHARE = 0.5
"""A column is taken for a 0/1 label where this share of its cells is 0 or 1; the rest are then errors."""


@dataclass(frozen=True)
class _Table:
    """A CSV file's cells by column, and each row's number as a spreadsheet shows it."""

    name: str
    columns: dict[str, list[str]]
    rows: list[int]

    def where(self, i: int) -> str:
        return f"{self.name} row {self.rows[i]}"


def from_table(file: Path, root: Path, config: DataConfig) -> Images:
    """The images that a CSV file lists.

    Args:
        file: the table.
        root: the source folder's absolute path, where files are looked for first.
        config: the settings; columns that it doesn't name are known by their usual names.

    Raises:
        DataError: the file can't be read as a table, a column is missing, a cell means nothing, or an image is not
            found, could be one of several, or has two rows.
    """
    table = _read_csv(file)
    path = _column(table, config.path_col, _PATH_COLUMNS)
    if path is None:
        raise DataError(
            f"{file}: found the columns {', '.join(table.columns)}, none of which is known to hold image "
            "paths; expected one like 'image' or 'file'. Name it with --path-col."
        )
    split = _column(table, config.split_col, _SPLIT_COLUMNS)
    patient = _column(table, config.patient_col, _PATIENT_COLUMNS)
    names, paths = _locate(table, path, root, absolute(file.parent))
    columns, label_sets = _table_labels(table, config, {path, split, patient})
    images = Images(names, paths, label_sets, table.where, from_table=True)
    if split:
        images.parts = [_part_cell(table, i, split, cell) for i, cell in enumerate(table.columns[split])]
    if patient:
        images.patients = [cell.strip() for cell in table.columns[patient]]
    roles = {"images": path, "labels": "', '".join(columns), "parts": split, "patients": patient}
    used = [f"{role} from '{name}'" for role, name in roles.items() if name]
    images.notes.append(f"Columns of {table.name}: {'; '.join(used)}.")
    present = {label for labels in label_sets for label in labels}
    if len(columns) > 1 and (empty := [name for name in columns if name not in present]):
        images.notes.append(f"Label columns without a single 1 are left out: {some(empty)}.")
    return images


def _read_csv(file: Path) -> _Table:
    """All cells as text; blank rows are left out, but keep their numbers.

    Raises:
        DataError: not a file, not UTF-8, no rows, a column twice, or rows longer or shorter than the header.
    """
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            header_line = stream.readline()
            stream.seek(0)
            separator = max(",;\t", key=lambda sign: len(next(csv.reader([header_line], delimiter=sign), [])))
            records = list(csv.reader(stream, delimiter=separator))
    except OSError as error:
        raise DataError(f"{file}: can't be read ({error.strerror}); expected a CSV file of labels.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: found text that is not UTF-8. Save the table as CSV in UTF-8.") from error
    except csv.Error as error:
        raise DataError(f"{file}: found a damaged CSV file ({error}). Save the table as CSV again.") from error
    header = [name.strip() for name in records[0]] if records else []
    numbered = [(number, row) for number, row in enumerate(records[1:], start=2) if any(map(str.strip, row))]
    if not numbered:
        raise DataError(f"{file}: found no rows; expected a header and a row for each image.")
    for number, row in numbered:
        if len(row) != len(header):
            raise DataError(
                f"{file.name} row {number}: found {len(row)} cells; expected {len(header)}, as in the "
                f"header. Put cells that contain '{separator}' in double quotes."
            )
    if twice := [name for name, count in Counter(filter(None, header)).items() if count > 1]:
        raise DataError(f"{file}: found the column '{twice[0]}' twice; expected each once. Rename one.")
    cells = zip(*(row for _, row in numbered), strict=True)
    columns = {name: list(column) for name, column in zip(header, cells, strict=True) if name}
    return _Table(file.name, columns, [number for number, _ in numbered])


def _column(table: _Table, chosen: str | None, known: Sequence[str]) -> str | None:
    """The chosen column, or else the first one with a known name, or None."""
    if chosen is not None:
        if chosen not in table.columns:
            raise DataError(
                f"{table.name}: found no column '{chosen}'; expected one of {', '.join(table.columns)}."
                f"{did_you_mean(chosen, table.columns)}"
            )
        return chosen
    plain = {re.sub(r"[\s_-]", "", name.lower()): name for name in reversed(table.columns)}
    return next((plain[name] for name in known if name in plain), None)


def _table_labels(table: _Table, config: DataConfig, taken: set[str | None]) -> tuple[list[str], list[LabelSet]]:
    """The columns that hold labels, and each row's labels.

    One column, chosen or with a known name, holds the names of labels; several hold 0 and 1, and so do those
    that are guessed.
    """
    known = None if config.label_col else _column(table, None, _LABEL_COLUMNS)
    chosen = [known] if known else [name for name in config.label_col if _column(table, name, ())]
    if len(chosen) == 1:
        return chosen, cell_labels(table.columns[chosen[0]], config.label_delim, table.where)
    columns = chosen or _flag_columns(table, taken)
    return columns, column_labels({name: table.columns[name] for name in columns}, table.where)


def _flag_columns(table: _Table, taken: set[str | None]) -> list[str]:
    flags = [name for name, cells in table.columns.items() if name not in taken and _looks_like_flags(cells)]
    if not flags:
        raise DataError(
            f"{table.name}: found the columns {', '.join(table.columns)}, none of which is known to hold "
            "labels; expected one like 'labels', or columns of 0 and 1. Name it or them with --label-col."
        )
    return flags


def _looks_like_flags(cells: Sequence[str]) -> bool:
    counts = Counter(cells)
    flags = sum(count for cell, count in counts.items() if is_flag(cell))
    return flags >= _FLAG_SHARE * len(cells) and any(cell.strip() in ("1", "1.0") for cell in counts)


def _part_cell(table: _Table, i: int, column: str, cell: str) -> Part:
    part = part_name(cell)
    if part is None:
        raise DataError(f"{table.where(i)}: {column} is '{cell}'; expected train, valid or test. Mend the cell.")
    return part


def _locate(table: _Table, column: str, root: Path, base: Path) -> tuple[list[str], list[str]]:
    """Each row's image: its name, which is the path from the root, and its absolute path.

    Raises:
        DataError: a file is not there, could be one of several, or has two rows.
    """
    finder = _Finder(root, base)
    cells = table.columns[column]
    found = [finder.find(cell) for cell in cells]
    missing = [i for i, candidates in enumerate(found) if not candidates]
    if missing:
        raise DataError(
            f"{table.where(missing[0])}: image '{cells[missing[0]]}' not found under {root}; {len(missing)} "
            f"of {len(cells)} rows have no file. Check the column '{column}', or give the images' folder."
        )
    rows: dict[str, int] = {}
    for i, candidates in enumerate(found):
        if len(candidates) > 1:
            raise DataError(
                f"{table.where(i)}: image '{cells[i]}' could be {some(name for name, _ in candidates)}; "
                f"expected one file. Write the path from {root} into the column '{column}'."
            )
        if rows.setdefault(candidates[0][1], i) != i:
            first = table.rows[rows[candidates[0][1]]]
            raise DataError(
                f"{table.where(i)}: image '{cells[i]}' stands in row {first} already; "
                "expected one row for each image. Remove or join them."
            )
    return [files[0][0] for files in found], list(rows)


class _Finder:
    """Finds files by path or by name. Reads each folder once, as 400,000 checks of single files are slow."""

    def __init__(self, root: Path, base: Path) -> None:
        self._root = root
        self._bases = list(dict.fromkeys((root, base)))
        self._places: dict[str, list[_Place]] = {}
        self._by_name: dict[str, list[_Place]] | None = None

    def find(self, cell: str) -> list[tuple[str, str]]:
        """The name and path of the file that a cell means; several where its name alone is not enough."""
        folder, _, name = cell.strip().replace("\\", "/").rpartition("/")
        if folder not in self._places:
            self._places[folder] = [self._place(base / folder) for base in self._bases]
        places = [place for place in self._places[folder] if name in place.files][:1]
        return [(place.prefix + name, place.path + name) for place in places or self._index().get(name, [])]

    def _index(self) -> dict[str, list[_Place]]:
        if self._by_name is None:
            self._by_name = {}
            for place in self._tree(self._root):
                for name in place.files:
                    self._by_name.setdefault(name, []).append(place)
        return self._by_name

    def _tree(self, folder: Path) -> Iterator[_Place]:
        yield self._place(folder)
        for inner in top_level(folder)[0]:
            yield from self._tree(inner)

    def _place(self, folder: Path) -> _Place:
        folder = absolute(folder)
        prefix = PurePosixPath(Path(os.path.relpath(folder, self._root)).as_posix())
        files = [entry.name for entry in visible_entries(folder) if entry.is_file()] if folder.is_dir() else []
        return _Place(f"{folder}{os.sep}", "" if str(prefix) == "." else f"{prefix}/", frozenset(files))


@dataclass(frozen=True)
class _Place:
    """A folder as the start of a path, as the start of an image's name, and the files in it."""

    path: str
    prefix: str
    files: frozenset[str]
