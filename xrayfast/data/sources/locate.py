"""Find the file of each row of a table."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from xrayfast.config import Problems
from xrayfast.data.arrays import Integers, Places
from xrayfast.data.images.reader import IMAGE_SUFFIXES
from xrayfast.data.labels.flags import looks_like_flags
from xrayfast.data.labels.targets import Targets
from xrayfast.data.sources.column_words import BOX, is_called
from xrayfast.data.sources.columns import Columns, quote
from xrayfast.data.sources.datasets.spec import DatasetSpec
from xrayfast.data.sources.file_matching import Finder, Matches
from xrayfast.data.sources.folder_tree import absolute
from xrayfast.data.sources.identifiers import is_rounded, plain_numbers, plain_signs
from xrayfast.data.sources.records import FilePaths
from xrayfast.data.sources.tables.table import Table
from xrayfast.data.text_column import TextColumn
from xrayfast.errors import DataError, plural, shorten

_NEARLY = {
    str.casefold: ("upper and lower case", "write them exactly like the file names."),
    plain_numbers: (
        "the format of numbers, of which spreadsheets and pandas drop leading zeros",
        "write them exactly like the file names; pandas keeps them as text with read_csv(..., dtype=str).",
    ),
    plain_signs: (
        "spaces, '_', '-', codes such as %20, and characters that are invisible or look alike",
        "write them exactly like the file names.",
    ),
}
"""Ways to compare the names of missing files with existing ones: what they then differ in, and what to do about it."""

_SUFFIX = re.compile(rf"({'|'.join(map(re.escape, sorted(IMAGE_SUFFIXES)))})(?![\w.-])", re.IGNORECASE)
"""The suffix of an image, at the end of a cell or before a separator."""

_LINK = re.compile(r"=\w+\(|<\w+ |!?\[.*\]\(")
"""The beginning of a formula of a spreadsheet, or of a link in HTML or Markdown."""

_LOOKED_UP = 20  # missing files whose names are searched for in other folders


@dataclass(frozen=True)
class RowFiles:
    """The M images that the rows of a table name. A row may have several images, and an image several rows.

    Attributes:
        names: of the images.
        paths: absolute.
        rows: (K,) the row of each of K pairs of row and image.
        images: (K,) the image of each pair.
        first: (M,) the first row of each image.
        missing: the paths of rows without a file.
    """

    names: list[str]
    paths: FilePaths
    rows: Places
    images: Integers
    first: Places
    missing: list[str]
    notes: list[str]

    def merge_rows(self, raw: Targets) -> Targets:
        """Return (M, L) labels of images from (N, L) labels of rows: the largest value among an image's rows."""
        if len(self.names) == len(self.rows) == len(raw):
            return raw
        by_image = raw[self.first]
        if len(self.names) < len(self.rows):
            np.maximum.at(by_image, self.images, raw[self.rows])
        return by_image


def locate_files(table: Table, columns: Columns, spec: DatasetSpec, root: Path, missing: Problems) -> RowFiles:
    """Find the file of each row under `root`, an absolute path, or beside the table: see `Finder`.

    Raises:
        DataError: an image has no file (unless such rows are skipped), could be one of several files, or has two rows.
    """
    finder = Finder(root, absolute(table.file.parent), spec.min_path_parts)
    texts = _path_texts(table, columns)
    found, notes = (Matches(map(finder.inside, texts.texts)), []) if columns.is_folder else finder.find(texts.texts)
    last = finder  # of the two, the one that looked further
    if not (columns.is_folder or found.counts.all()) and (archives := finder.archives()):
        last = Finder(root, absolute(table.file.parent), spec.min_path_parts, archives=True)
        packed, known = last.find(texts.texts)[0], int((found.counts > 0).sum())
        found = Matches(here or inside for here, inside in zip(found, packed, strict=True))
        if inside := int((found.counts > 0).sum()) - known:
            notes = [*notes, f"{plural(inside, 'image')} read from archives ({shorten(archives, 3)})."]
    counts = found.counts[texts.codes]
    if not columns.is_folder and (counts > 1).any():
        row = int((counts > 1).argmax())
        raise DataError(
            f"{table.where(row)}: image '{texts[row]}' could be {shorten(found[texts.codes[row]])}; expected one file. "
            f"Write the path from {root} into the {_quote_columns(columns)}."
        )
    without = list(texts.take(np.flatnonzero(counts == 0)))
    if without and (missing == "error" or not found.names):
        way_out = "; --missing skip leaves those rows out." if found.names else "."
        raise DataError(_describe_absent(table, columns, int((counts == 0).argmax()), without, last) + way_out)
    if last is not finder and (elsewhere := _describe_same_names(last, without)):
        notes.append(elsewhere)
    if last.broken:
        notes.append(f"Not looked into: {shorten(last.broken, 2)}")
    if others := finder.others(found.names):
        notes.append(
            f"{plural(len(others), 'image')} not used, because no row of {table.file.name} names them: "
            f"{shorten(others, 3)}."
        )
    rows = np.repeat(np.arange(len(table)), counts)
    places = np.arange(len(rows)) + np.repeat(found.starts[texts.codes] - np.cumsum(counts) + counts, counts)
    images = TextColumn.merged(found.names, places)
    first = images.first_rows()
    repeats = np.flatnonzero(rows != rows[first][images.codes])
    if len(repeats) and not spec.has_repeated_images:
        row, earlier = int(rows[repeats[0]]), int(rows[first[images.codes[repeats[0]]]])
        other = "" if texts[row] == texts[earlier] else f" as '{texts[earlier]}'"
        raise DataError(
            f"{table.where(row)}: image '{texts[row]}' is already in {table.where(earlier)}{other}; "
            f"expected one row per image. {_describe_merging(table, columns)}"
        )
    paths = FilePaths(images.texts, finder.path)
    return RowFiles(images.texts, paths, rows, images.codes, rows[first], without, notes)


def _describe_merging(table: Table, columns: Columns) -> str:
    """Return advice on how to merge the rows of one image, for example rows of boxes or readers."""
    boxes = [name for name in table.columns if is_called(name, BOX)]
    image, labels = columns.path[0], list(columns.labels)
    present = [name for name in columns.unused if looks_like_flags(table.columns[name], words=True)]
    if columns.are_flags and len(labels) == len(columns.unused) == 1 and not present:
        present, labels = labels, list(columns.unused)  # taken for the column of labels
    elif columns.are_flags:
        present = []
    if len(present) == 1 and len(boxes) <= 1:
        return (
            f"If '{present[0]}' says whether the label of a row is present, pandas makes one row per image by "
            f"df.pivot(index={image!r}, columns={labels[0]!r}, values={present[0]!r}).to_csv('labels.csv'); if not, "
            f"remove or merge rows."
        )
    merge = ".max()" if columns.are_flags else ".agg(lambda x: '|'.join(sorted(set(x))))"
    found = f"Its columns {quote(boxes)} show that it is a table of boxes" if len(boxes) > 1 else "Remove or merge rows"
    return f"{found}: pandas makes one row per image by df.groupby({image!r})[{labels}]{merge}.to_csv('labels.csv')."


def _describe_absent(table: Table, columns: Columns, first: int, texts: Sequence[str], finder: Finder) -> str:
    """Return a message, without its end, on the texts of rows without a file; the first of them is row `first`."""
    return (
        f"{table.where(first)}: image{'s in' if columns.is_folder else ''} '{texts[0]}' not found "
        f"under {finder.root}; {len(texts):,} of {len(table):,} rows have no file."
        f"{'' if columns.is_folder else _explain_absent(finder, texts)}"
        f"{f' Not looked into: {shorten(finder.broken, 2)}' if finder.broken else ''} Check the "
        f"{_quote_columns(columns)}, or give the images' folder"
    )


def _quote_columns(columns: Columns) -> str:
    return f"column{'s' if len(columns.path) > 1 else ''} {quote(columns.path)}"


def _explain_absent(finder: Finder, texts: Sequence[str]) -> str:
    """Return a sentence on texts without a file: rounded, several paths, folders, or similar to other files."""
    some = [text.strip() for text in texts[:_LOOKED_UP]]
    if any(map(is_rounded, some)):
        return (
            " Some cells are in scientific notation, into which spreadsheets round long numbers: export the table "
            "again with this column as text."
        )
    if any(map(_LINK.match, some)):
        return " Some cells are formulas or links; expected the path alone."
    if any(len(_SUFFIX.findall(text)) > 1 or _are_several(finder, text) for text in some):
        return " Some cells have several paths; expected one path per row: write a row for each image."
    if folder := next(filter(finder.is_folder, some), ""):
        return f" '{folder}' is a folder; expected the path of an image: write a row for each image in the folder."
    return _describe_elsewhere(finder, texts)


def _are_several(finder: Finder, text: str) -> bool:
    """Whether a cell consists of several names of files without suffixes."""
    parts = re.findall(r"[^\s;,|&+]+", text)
    return len(parts) > 1 and all(map(finder.same_names, parts))


def _describe_elsewhere(finder: Finder, texts: Sequence[str]) -> str:
    """Return a sentence on files with similar or equal names in other places, which may be other images."""
    for key, (what, advice) in _NEARLY.items():
        near = {
            text: [name for name in finder.nearly_called(text, key) if not f"/{name}".endswith(f"/{text.lstrip('./')}")]
            for text in texts
        }
        if pairs := [(text, found[0]) for text, found in near.items() if found]:
            return (
                f" Paths that differ from a file's name only in {what}: {len(pairs)}, such as {pairs[0][0]} (file "
                f"{pairs[0][1]}). To find the files, {advice}"
            )
    return f" {_describe_same_names(finder, texts)}".rstrip()


def _describe_same_names(finder: Finder, texts: Sequence[str]) -> str:
    if not (found := next(filter(None, map(finder.same_names, texts[:_LOOKED_UP])), None)):
        return ""
    return (
        f"{shorten(found, 3)} has the name of a missing image, but is in another folder or archive than the table "
        f"says, or than most images, so it may be another image."
    )


def _path_texts(table: Table, columns: Columns) -> TextColumn:
    """Return the path of each row as written in its cell, or as built from the template."""
    cells = [table.columns[name] for name in columns.path]
    if columns.path_template in ("", f"{{{columns.path[0]}}}"):
        return cells[0]
    rows = zip(*(map(str.strip, column) for column in cells), strict=True)
    template = columns.path_template
    return TextColumn.of(template.format_map(dict(zip(columns.path, row, strict=True))) for row in rows)
