"""Splits that a file gives: a table such as a run's split.csv, or a list of images that is named for its split."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from xrayfast.data.sources.datasets.forms import usual_columns
from xrayfast.data.sources.file_matching import PathIndex
from xrayfast.data.sources.tables import Table, read_table
from xrayfast.data.splits.stratify import Split, parse_split
from xrayfast.errors import ConfigError, DataError, shorten


def splits_from_file(file: Path, names: Sequence[str]) -> tuple[list[Split | None], list[str]]:
    """The splits that a file gives to images.

    A table has a column of images and one of splits, and must name each image of the data and no other: what a run
    wrote is replayed as it was. A text file is a list of images; its name says which split they are, as test_list.txt
    does, and the others are dealt out. Where it names two splits, as train_val_list.txt does, the others are the third.

    Args:
        file: the table or list.
        names: of the N images.

    Returns:
        (N,) parts, None for images that are dealt out; and notes.

    Raises:
        DataError: the file can't be read, or does not fit the images.
        ConfigError: a list's name does not say what the rest is.
    """
    if file.suffix.lower() == ".txt":
        return _from_list(file, names)
    return _from_table(read_table(file), names)


def split_of_cell(cell: str) -> Split | None:
    """The part that a cell means, MIMIC-CXR's "validate" included; None where it means none."""
    return "valid" if cell.strip().lower() == "validate" else parse_split(cell)


def list_splits(name: str) -> set[Split]:
    """The splits in the name of a list.

    >>> sorted(list_splits("train_val_list.txt"))
    ['train', 'valid']
    """
    return {split for word in re.split(r"[\W_]+", name) if (split := parse_split(word))}


def _from_table(table: Table, names: Sequence[str]) -> tuple[list[Split | None], list[str]]:
    images, split_columns = (usual_columns(table.columns, role) for role in ("path", "split"))
    if not images or not split_columns:
        raise DataError(
            f"{table.file}: found the columns {', '.join(table.columns)}; expected 'image' and 'split', as in a run's "
            "split.csv."
        )
    index = PathIndex(names)
    splits: list[Split | None] = [None] * len(names)
    strange = []
    for row, (cell, written) in enumerate(zip(table.columns[images[0]], table.columns[split_columns[0]], strict=True)):
        split = split_of_cell(written)
        if split is None:
            raise DataError(f"{table.where(row)}: {split_columns[0]} is '{written}'; expected train, valid or test.")
        found = index.find(cell.strip().replace("\\", "/"))
        if len(found) > 1:
            raise DataError(
                f"{table.where(row)}: image '{cell}' could be {shorten(names[i] for i in found)}; expected one. Write "
                "its path."
            )
        if not found:
            strange.append(cell)
        elif splits[found[0]]:
            raise DataError(f"{table.where(row)}: image '{cell}' has another row already; expected one. Remove one.")
        else:
            splits[found[0]] = split
    missing = [name for name, split in zip(names, splits, strict=True) if split is None]
    for what, listed in (("images that are not in the data", strange), ("no split for images of the data", missing)):
        if listed:
            raise DataError(
                f"{table.file}: found {what}: {shorten(listed)}; expected a row for each image and no other. Give the "
                "split file of this data, or leave out --split-file."
            )
    return splits, [f"Splits from {table.file}."]


def _from_list(file: Path, names: Sequence[str]) -> tuple[list[Split | None], list[str]]:
    listed_split, other_split = _meaning(file)
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise DataError(f"{file}: can't be read ({error.strerror}); expected a list of images.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: found text that is not UTF-8; expected a list of images.") from error
    index = PathIndex(names)
    listed: set[int] = set()
    strange = 0
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        found = index.find(line.strip().replace("\\", "/"))
        if len(found) > 1:
            raise DataError(
                f"{file.name} line {number}: image '{line.strip()}' could be {shorten(names[i] for i in found)}; "
                "expected one. Write its path."
            )
        listed.update(found)
        strange += not found
    if not listed:
        raise DataError(f"{file}: found none of the data's images; expected a list of some, one a line.")
    splits = [listed_split if i in listed else other_split for i in range(len(names))]
    told = {None: "train and valid", "train": "train", "valid": "valid", "test": "test"}
    notes = [f"{len(listed)} images that {file.name} lists are {told[listed_split]}, the others {told[other_split]}."]
    if strange:
        notes.append(f"{strange} images that {file.name} lists are not in the data.")
    return splits, notes


def _meaning(file: Path) -> tuple[Split | None, Split | None]:
    """What the images of a list are, and what the others are, by the list's name; None for those dealt out."""
    meaning: dict[frozenset[Split], tuple[Split | None, Split | None]] = {
        frozenset({"test"}): ("test", None),
        frozenset({"valid"}): ("valid", None),
        frozenset({"train", "valid"}): (None, "test"),
    }
    splits = frozenset(list_splits(file.name))
    if splits not in meaning:
        raise ConfigError(
            f"split_file: found {file.name}, whose name does not say what the images that it lists are and what the "
            "others; expected one such as test_list.txt or train_val_list.txt, or a table of images and parts."
        )
    return meaning[splits]
