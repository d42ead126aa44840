"""COVIDx (Wang et al. 2020, Sci Rep): text files without a header, one per split, and images in a folder per split."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from xrayfast.data.sources.datasets.spec import DatasetSpec
from xrayfast.data.sources.tables import read_table
from xrayfast.data.sources.tables.delimited import build_table
from xrayfast.data.sources.tables.table import HeaderlessFormat, Table
from xrayfast.data.splits.words import parse_split
from xrayfast.data.text_column import TextColumn
from xrayfast.errors import DataError

_COLUMNS = ("patientid", "filename", "class", "source")
_LINE = re.compile(r"(\S+) +(\S.*\.(?:png|jpe?g|bmp|tiff?|dcm)) +(\S+)(?: +(\S+))?", re.IGNORECASE)  # source: optional


def parse_lines(file: Path, lines: Iterable[str]) -> Table:
    """Return a table of lines such as "22 COVID (10).PNG COVID-19 sirm"; their split follows from the file's name."""
    numbers, rows = [], []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            match = _LINE.fullmatch(line.strip())
            if match is None:
                raise DataError(
                    f"{file.name} row {number}: expected a patient, an image's file name and a class, separated by "
                    "spaces, as in the first line."
                )
            numbers.append(number)
            rows.append([cell or "" for cell in match.groups()])
    table = build_table(file, _COLUMNS, rows, numbers)
    if split := next(filter(None, map(parse_split, re.split(r"[\W_]+", file.name))), None):
        table.columns["split"] = TextColumn([split], np.zeros(len(rows), np.int64))
    return table


_FORMAT = HeaderlessFormat(_LINE, _COLUMNS, parse_lines)


def append_other_splits(table: Table) -> Table:
    """Append the images of val.txt and test.txt to those of train.txt in the same folder."""
    if not {*_COLUMNS, "split"} <= table.columns.keys() or table.columns["split"].texts != ["train"]:
        return table
    for split in ("val", "test"):
        other = table.file.with_name(re.sub("train", split, table.file.name, count=1, flags=re.IGNORECASE))
        if other != table.file and other.is_file():
            note = f"{other.name} next to {table.file.name} is read too: its images are the {split} split."
            table = table.append_companion(read_table(other, [_FORMAT]), note)
    return table


SPEC = DatasetSpec(
    "COVIDx",
    (frozenset(_COLUMNS),),
    headerless=_FORMAT,
    main_table=r"train.*\.txt",
    image_path="{split}/{filename}",
    label_column="class",
    complete_table=append_other_splits,
)
