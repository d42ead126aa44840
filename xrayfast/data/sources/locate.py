"""Find the file of each row of a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from xrayfast.config import Problems
from xrayfast.data.labels.targets import Targets
from xrayfast.data.sources.column_words import is_of_box
from xrayfast.data.sources.columns import Columns, quote
from xrayfast.data.sources.datasets.spec import DatasetSpec
from xrayfast.data.sources.file_matching import Finder, absolute
from xrayfast.data.sources.identifiers import plain_numbers, plain_signs
from xrayfast.data.sources.tables import Table
from xrayfast.errors import DataError, plural, shorten

_NEARLY = {
    str.casefold: ("upper and lower case", "write them alike."),
    plain_numbers: (
        "how numbers are written, which spreadsheets and pandas change",
        "write them as the files are called; pandas keeps them as text with read_csv(..., dtype=str).",
    ),
    plain_signs: ("spaces, '_', '-' and codes such as %20", "write them as the files are called."),
}
"""By what names are compared of files that are missing: what they differ in, and what to do."""

_LOOKED_UP = 20  # missing files whose names are looked for in other folders


@dataclass(frozen=True)
class RowFiles:
    """Names and absolute paths of M images, (M,) first row of each, and (K,) row and image of each pair of the two.

    A row may have several images, and an image several rows. `missing` are the paths of rows without a file.
    """

    names: list[str]
    paths: list[str]
    rows: npt.NDArray[np.intp]
    images: npt.NDArray[np.intp]
    first: npt.NDArray[np.intp]
    missing: list[str]
    notes: list[str]

    def merge_rows(self, raw: Targets) -> Targets:
        """(M, L) labels of images from (N, L) labels of rows: the largest value of its rows."""
        by_image = raw[self.first]
        if len(self.names) < len(self.rows):
            np.maximum.at(by_image, self.images, raw[self.rows])
        return by_image


def locate_files(table: Table, columns: Columns, spec: DatasetSpec, root: Path, missing: Problems) -> RowFiles:
    """Find the file of each row under `root`, an absolute path, or beside the table: see `Finder`.

    Raises:
        DataError: a file is not there, unless those rows are skipped; it could be one of several, or has two rows.
    """
    finder = Finder(root, absolute(table.file.parent), spec.min_path_parts)
    texts = _path_texts(table, columns)
    advice = f"column{'s' if len(columns.path) > 1 else ''} {quote(columns.path)}"
    files, notes = ([finder.inside(text) for text in texts], []) if columns.is_folder else finder.find(texts)
    if not (columns.is_folder or all(files)) and (archives := finder.archives()):
        files, inside = _look_into_archives(files, texts, root, table, spec)
        if inside:
            notes = [*notes, f"{plural(inside, 'image')} in archives ({shorten(archives, 3)}), read from there."]
    row_of, names, absent = list[int](), list[str](), list[int]()
    for row, found in enumerate(files):
        if not found:
            absent.append(row)
        elif len(found) > 1 and not columns.is_folder:
            raise DataError(
                f"{table.where(row)}: image '{texts[row]}' could be {shorten(found)}; expected one file. Write the "
                f"path from {root} into the {advice}."
            )
        row_of += [row] * len(found)
        names += found
    if absent and (missing == "error" or not names):
        raise DataError(
            f"{table.where(absent[0])}: image{'s in' if columns.is_folder else ''} '{texts[absent[0]]}' not found "
            f"under {root}; {len(absent)} of {len(table)} rows have no file."
            f"{'' if columns.is_folder else _describe_elsewhere(finder, [texts[row] for row in absent])} Check the "
            f"{advice}, or give the images' folder" + ("; --missing skip leaves those rows out." if names else ".")
        )
    if others := finder.others(set(names)):
        notes.append(
            f"{plural(len(others), 'image')} beside those of {table.file.name}, in no row of it, not used: "
            f"{shorten(others, 3)}."
        )
    rows = np.array(row_of, np.intp)
    images, distinct = pd.factorize(np.array(names, dtype=object))
    first = rows[np.unique(images, return_index=True)[1]]
    repeats = np.flatnonzero(rows != first[images])
    if len(repeats) and not spec.has_repeated_images:
        row, earlier = int(rows[repeats[0]]), int(first[images[repeats[0]]])
        other = "" if texts[row] == texts[earlier] else f" as '{texts[earlier]}'"
        raise DataError(
            f"{table.where(row)}: image '{texts[row]}' is already in {table.where(earlier)}{other}; "
            f"expected one row per image. {_describe_merging(table, columns)}"
        )
    return RowFiles(
        list(distinct),
        [finder.path(name) for name in distinct],
        rows,
        images,
        first,
        [texts[row] for row in absent],
        notes,
    )


def _look_into_archives(
    files: Sequence[list[str]], texts: Sequence[str], root: Path, table: Table, spec: DatasetSpec
) -> tuple[list[list[str]], int]:
    """The files of each row, of those without one from archives in the tree, and how many of these there are."""
    inside, _ = Finder(root, absolute(table.file.parent), spec.min_path_parts, archives=True).find(texts)
    found = [known or packed for known, packed in zip(files, inside, strict=True)]
    return found, sum(map(bool, found)) - sum(map(bool, files))


def _describe_merging(table: Table, columns: Columns) -> str:
    """How rows of one image become one, as those of boxes or readers are."""
    boxes = list(filter(is_of_box, table.columns))
    image, labels = columns.path[0], list(columns.labels)
    merge = ".max()" if columns.are_flags else ".agg(lambda x: '|'.join(sorted(set(x))))"
    found = f"By its columns {quote(boxes)} it is a table of boxes" if len(boxes) > 1 else "Remove or merge rows"
    return f"{found}: pandas makes one row per image by df.groupby({image!r})[{labels}]{merge}.to_csv('labels.csv')."


def _describe_elsewhere(finder: Finder, texts: Sequence[str]) -> str:
    """Where files of such names are, which may be other images."""
    for key, (what, advice) in _NEARLY.items():
        if pairs := [(text, found[0]) for text in texts if (found := finder.nearly_called(text, key))]:
            return (
                f" {plural(len(pairs), 'name')} differ from a file's only in {what}, as {pairs[0][0]} from "
                f"{pairs[0][1]}: {advice}"
            )
    for text in texts[:_LOOKED_UP]:
        if found := finder.same_names(text):
            return f" {shorten(found, 3)} is in another folder than written, so it may be another image."
    return ""


def _path_texts(table: Table, columns: Columns) -> list[str]:
    """The path of each row as it is written, or as the template makes it."""
    cells = [table.columns[name] for name in columns.path]
    if columns.path_template in ("", f"{{{columns.path[0]}}}"):
        return cells[0]
    rows = zip(*(map(str.strip, column) for column in cells), strict=True)
    return [columns.path_template.format_map(dict(zip(columns.path, row, strict=True))) for row in rows]
