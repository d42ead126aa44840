"""Report unused columns and folders whose labels or images differ from those of the columns in use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from xrayfast.data.arrays import Bools, Floats32, Places
from xrayfast.data.folder_words import split_words
from xrayfast.data.images.reader import IMAGE_SUFFIXES
from xrayfast.data.labels.cells import parse_label_cells, resolve_delimiter
from xrayfast.data.labels.flags import are_flags, parse_flags
from xrayfast.data.labels.names import clean_label, normalize_label, sort_labels
from xrayfast.data.labels.targets import Targets
from xrayfast.data.labels.words import plain_label
from xrayfast.data.sources.column_words import (
    READER,
    USUAL_NAMES,
    has_word,
    is_first_choice,
    simplify_column_name,
    split_column_name,
    usual_columns,
)
from xrayfast.data.sources.columns import Columns, quote
from xrayfast.data.sources.datasets.spec import DatasetSpec
from xrayfast.data.sources.locate import RowFiles, locate_files
from xrayfast.data.sources.path_index import clean_path
from xrayfast.data.sources.records import ImageRecords
from xrayfast.data.sources.tables.table import Table
from xrayfast.data.text_column import TextColumn
from xrayfast.errors import DataError, plural, shorten
from xrayfast.errors.advice import quoted

_MOST_LABELS = 200  # distinct texts in a column that may hold labels

_DENIED = frozenset({"no", "non", "not", "without", "negative", "neg"})

_MOST_NAMES, _LEAST_NAMED = 20_000, 5  # names of images that are looked at; that have the name of their class

_SHIFTED, _STILL_OTHER = 3, 0.05  # rows with another label; share of those left if the labels are shifted by a row

_LOOKED_AT = 100  # cells examined to see whether a column holds file names

_SHARE = 0.5  # of a column's labels that must be labels of the data, or of its cells that must be file names


def note_other_labels(
    table: Table, columns: Columns, names: Sequence[str], raw: Targets, *, may_choose: bool
) -> list[str]:
    """Return notes on unused columns whose labels differ from the (N, L) raw matrix of the N rows.

    Raises:
        DataError: it is ambiguous which of two columns of label names is meant, and `may_choose` is False.
    """
    usual = [name for name in columns.unused if simplify_column_name(name) in USUAL_NAMES["labels"]]
    differing, apart = dict[str, Bools](), list[str]()
    for name in columns.unused:
        other = _parse(table, name)
        if other and not other[0]:  # all cells are blank
            continue
        # Columns of sites, study arms and splits hold A and B as often as columns of labels do.
        if other and max(map(len, other[0]), default=0) == 1 and not (_is_called_label(name) or has_word(name, READER)):
            continue
        rows = _differing_rows(names, raw, *other) if other else None
        if rows is not None and rows.any():
            differing[name] = rows
        elif rows is None and other and _is_called_label(name) and not _are_one_to_one(raw, other[1]):
            apart.append(f"'{name}' ({shorten(sort_labels(table.columns[name].texts), 3)})")
    first = columns.labels[0]
    if tied := [name for name in differing if name in usual and is_first_choice(name) == is_first_choice(first)]:
        rows, name = differing[tied[0]], tied[0]
        if not (columns.are_flags or may_choose):
            i = int(rows.argmax())
            raise DataError(
                f"{table.where(i)}: found '{table.columns[first][i]}' in '{first}' and '{table.columns[name][i]}' in "
                f"'{name}', and {plural(int(rows.sum()) - 1, 'more row')} that differ like this; expected one column "
                f"of labels. Name it with --label-col {quoted(first)} or {quoted(name)}."
            )
    notes = []
    if differing:
        listed = shorten((f"'{name}' in {plural(int(rows.sum()), 'row')}" for name, rows in differing.items()), 20)
        i = int(next(iter(differing.values())).argmax())
        notes.append(
            f"Labels are read from {quote(columns.labels)}; other columns differ from them: {listed} (first: "
            f"{table.where(i)}). Name the columns to use with --label-col."
        )
    if apart:
        notes.append(
            f"Labels are read from {quote(columns.labels)}; the names of other columns suggest labels too: "
            f"{', '.join(apart)}. Name the column to use with --label-col."
        )
    return notes


def note_other_folders(records: ImageRecords, names: Sequence[str]) -> list[str]:
    """Return a note on images whose folder or file is named for another of the L labels (`names`) than their own."""
    of_key, images, where = {normalize_label(name): name for name in names}, records.names, records.where
    found = records.folders.replace(lambda folder: of_key.get(normalize_label(folder.rpartition("/")[2]), ""))
    if not any(found.texts) and any(_label_in_name(image, of_key) for image in images[:_LOOKED_AT]):
        found = TextColumn.of(_label_in_name(image, of_key) for image in images)
    listed = sort_labels(filter(None, found.texts))
    if len(listed) < 2:
        return []
    each = np.array([[text == name if text else np.nan for name in listed] for text in found.texts], np.float32)
    rows = _differing_rows(names, records.labels.matrix, listed, each[found.codes])
    if rows is None or not rows.any():
        return []
    i, advice = int(rows.argmax()), ""
    for shift in (1, -1) if rows.sum() >= _SHIFTED else ():
        moved = _differing_rows(names, np.roll(records.labels.matrix, shift, axis=0), listed, each[found.codes])
        if moved is not None and moved.sum() <= 1 + _STILL_OTHER * rows.sum():
            advice = " The labels of the next row agree with the paths: the column of labels may be shifted by a row."
            advice = advice.replace("next", "previous") if shift == 1 else advice
    return [
        f"The path of {plural(int(rows.sum()), 'image')} contains another label than the table; the table's label is "
        f"used (first: {images[i]}, {where(i)}).{advice}"
    ]


def _label_in_name(image: str, of_key: Mapping[str, str]) -> str:
    """Return the label that is a word of a file's name if there is exactly one; else ""."""
    found = {of_key[word] for word in split_words(PurePosixPath(image).stem) if word in of_key}
    return found.pop() if len(found) == 1 else ""


def note_other_classes(records: ImageRecords) -> list[str]:
    """Return a note on images in class folders whose file is named for another class, if most such names are right."""
    words_of = [frozenset(split_words(name)) for name in records.labels.names]
    known = [(j, words) for j, words in enumerate(words_of) if max(map(len, words), default=0) > 1]
    right, wrong = 0, list[str]()
    for i in range(0, len(records.names), max(1, len(records.names) // _MOST_NAMES)):
        words = {*split_words(PurePosixPath(records.names[i]).stem)}
        named = {j for j, needed in known if needed <= words and words & _DENIED <= needed}
        if named.intersection(np.flatnonzero(records.labels.matrix[i] == 1)):
            right += 1
        elif named:
            wrong.append(records.names[i])
    if not wrong or right < max(_LEAST_NAMED, 2 * len(wrong)):
        return []
    return [
        f"{plural(len(wrong), 'image')} named for another class than the folder ({shorten(wrong, 3)}), while "
        f"{right:,} images are named for their own: check these labels."
    ]


def note_other_files(
    table: Table, columns: Columns, files: RowFiles, spec: DatasetSpec, root: Path, *, may_choose: bool
) -> list[str]:
    """Return notes on unused columns whose file names differ from those in use.

    Raises:
        DataError: both columns have usual names, the files of both exist, and `may_choose` is False.
    """
    if len(columns.path) != 1 or columns.path_template:
        return []
    taken = columns.path[0]
    usual, notes = usual_columns(table.columns, "path"), list[str]()
    others = [name for name in columns.unused if name in usual or _are_file_names(table.columns[name][:_LOOKED_AT])]
    used = table.columns[taken].replace(_file_stem) if others else TextColumn.of([])
    for name in others:
        cells = table.columns[name]
        pairs = zip(used, cells.replace(_file_stem), strict=True)
        differ = [i for i, (one, other) in enumerate(pairs) if other and one != other]
        is_identifier = len(differ) == len(used) and not _are_file_names(cells[:_LOOKED_AT])
        is_identifier &= {*map(_file_stem, cells[:_LOOKED_AT])}.isdisjoint(used.texts)
        if not differ or is_identifier:
            continue
        row = differ[0]
        found = f"'{table.columns[taken][row]}' in '{taken}' and '{cells[row]}' in '{name}'"
        if {taken, name} <= {*usual} and not may_choose and _are_there(table, columns, name, differ, spec, root):
            raise DataError(
                f"{table.where(row)}: found {found}, which are different images, and "
                f"{plural(len(differ) - 1, 'more row')} like it; expected one image per row. Name the column of "
                f"images with --path-col {quoted(taken)} or {quoted(name)}."
            )
        notes.append(
            f"Images are read from '{taken}'; '{name}' contains other images in {plural(len(differ), 'row')}, such "
            f"as {found} ({table.where(row)}). To use these, give --path-col {quoted(name)}."
        )
    return notes


def _is_called_label(name: str) -> bool:
    return not {*split_column_name(name)}.isdisjoint(USUAL_NAMES["labels"])


def _are_there(table: Table, columns: Columns, name: str, rows: Sequence[int], spec: DatasetSpec, root: Path) -> bool:
    try:
        found = locate_files(table.select(rows), replace(columns, path=(name,)), spec, root, "skip")
    except DataError:
        return False
    return bool(found.names)


def _are_file_names(cells: Sequence[str]) -> bool:
    return sum(Path(cell.strip()).suffix.lower() in IMAGE_SUFFIXES for cell in cells) >= _SHARE * len(cells)


def _file_stem(cell: str) -> str:
    """Return the file name of a path without folders and image suffix, in lower case."""
    path = PurePosixPath(clean_path(cell))
    return (path.stem if path.suffix.lower() in IMAGE_SUFFIXES else path.name).lower()


def _parse(table: Table, name: str) -> tuple[list[str], Targets] | None:
    """Return the labels and raw matrix of a column of 1 and 0 or of label names; None if its cells are neither."""
    cells = table.columns[name]
    try:
        if are_flags(cells):
            return [clean_label(name)], parse_flags({name: cells}, table.where)
        if len(cells.texts) > _MOST_LABELS:
            return None
        return parse_label_cells(cells, resolve_delimiter(cells.texts, "auto"), table.where, blank_allowed=True)
    except DataError:
        return None


def _differing_rows(names: Sequence[str], raw: Targets, others: Sequence[str], other: Targets) -> Bools | None:
    """Return (N,) whether one raw matrix has 1 and the other 0 for a shared label; None if too few are shared."""
    one, two = _by_key(names, raw), _by_key(others, other)
    common = [key for key in two if key in one]
    if not common or len(common) < _SHARE * len(two):
        return None
    a, b = (np.column_stack([columns[key] for key in common]) for columns in (one, two))
    return (((a == 1) & (b == 0)) | ((a == 0) & (b == 1))).any(1)


def _by_key(names: Sequence[str], raw: Targets) -> Mapping[str, Floats32]:
    found = dict[str, Floats32]()
    for j, name in enumerate(names):
        key = normalize_label(plain_label(name) or name)
        found[key] = np.fmax(found[key], raw[:, j]) if key in found else raw[:, j]
    return found


def _are_one_to_one(one: Targets, other: Targets) -> bool:
    """Whether rows have equal labels in one raw matrix exactly if they do in the other."""
    codes = [_number_rows(raw) for raw in (one, other)]
    both = len(pd.unique(codes[0] * (codes[1].max(initial=0) + 1) + codes[1]))
    return all(both == column.max(initial=-1) + 1 for column in codes)


def _number_rows(raw: Targets) -> Places:
    """Return (N,) integers that are equal for equal rows of an (N, L) raw matrix.

    Goes column by column, because sorting the rows of a large matrix takes minutes.
    """
    codes = np.zeros(len(raw), np.intp)
    for column in raw.T:
        values = pd.factorize(column)[0] + 1
        codes = pd.factorize(codes * (values.max(initial=0) + 1) + values)[0]
    return codes
