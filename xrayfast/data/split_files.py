"""Parts that a file gives: a table such as a run's split.csv, or a list of images that is named for its part."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from xrayfast.data.forms import usual_columns
from xrayfast.data.paths import PathIndex
from xrayfast.data.splits import Part, part_name
from xrayfast.data.tables import Table, read_table
from xrayfast.errors import ConfigError, DataError, some


def parts_from_file(file: Path, names: Sequence[str]) -> tuple[list[Part | None], list[str]]:
    """The parts that a file gives to images.

    A table has a column of images and one of parts, and must name each image of the data and no other: what a run
    wrote is replayed as it was. A text file is a list of images; its name says which part they are, as test_list.txt
    does, and the others are dealt out. Where it names two parts, as train_val_list.txt does, the others are the third.

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


def part_of_cell(cell: str) -> Part | None:
    """The part that a cell means, MIMIC-CXR's "validate" included; None where it means none."""
    return "valid" if cell.strip().lower() == "validate" else part_name(cell)


def list_parts(name: str) -> set[Part]:
    """The parts in the name of a list.

    >>> sorted(list_parts("train_val_list.txt"))
    ['train', 'valid']
    """
    return {part for word in re.split(r"[\W_]+", name) if (part := part_name(word))}


def _from_table(table: Table, names: Sequence[str]) -> tuple[list[Part | None], list[str]]:
    images, splits = (usual_columns(table.columns, role) for role in ("path", "split"))
    if not images or not splits:
        raise DataError(
            f"{table.file}: found the columns {', '.join(table.columns)}; expected 'image' and 'split', as in a run's "
            "split.csv."
        )
    index = PathIndex(names)
    parts: list[Part | None] = [None] * len(names)
    strange = []
    for row, (cell, split) in enumerate(zip(table.columns[images[0]], table.columns[splits[0]], strict=True)):
        part = part_of_cell(split)
        if part is None:
            raise DataError(f"{table.where(row)}: {splits[0]} is '{split}'; expected train, valid or test.")
        found = index.find(cell.strip().replace("\\", "/"))
        if len(found) > 1:
            raise DataError(
                f"{table.where(row)}: image '{cell}' could be {some(names[i] for i in found)}; expected one. Write "
                "its path."
            )
        if not found:
            strange.append(cell)
        elif parts[found[0]]:
            raise DataError(f"{table.where(row)}: image '{cell}' has another row already; expected one. Remove one.")
        else:
            parts[found[0]] = part
    missing = [name for name, part in zip(names, parts, strict=True) if part is None]
    for what, listed in (("images that are not in the data", strange), ("no part for images of the data", missing)):
        if listed:
            raise DataError(
                f"{table.file}: found {what}: {some(listed)}; expected a row for each image and no other. Give the "
                "split file of this data, or leave out --split-file."
            )
    return parts, [f"Parts from {table.file}."]


def _from_list(file: Path, names: Sequence[str]) -> tuple[list[Part | None], list[str]]:
    listed_part, other_part = _meaning(file)
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
                f"{file.name} line {number}: image '{line.strip()}' could be {some(names[i] for i in found)}; expected "
                "one. Write its path."
            )
        listed.update(found)
        strange += not found
    if not listed:
        raise DataError(f"{file}: found none of the data's images; expected a list of some, one a line.")
    parts = [listed_part if i in listed else other_part for i in range(len(names))]
    told = {None: "train and valid", "train": "train", "valid": "valid", "test": "test"}
    notes = [f"{len(listed)} images that {file.name} lists are {told[listed_part]}, the others {told[other_part]}."]
    if strange:
        notes.append(f"{strange} images that {file.name} lists are not in the data.")
    return parts, notes


def _meaning(file: Path) -> tuple[Part | None, Part | None]:
    """What the images of a list are, and what the others are, by the list's name; None for those dealt out."""
    meaning: dict[frozenset[Part], tuple[Part | None, Part | None]] = {
        frozenset({"test"}): ("test", None),
        frozenset({"valid"}): ("valid", None),
        frozenset({"train", "valid"}): (None, "test"),
    }
    parts = frozenset(list_parts(file.name))
    if parts not in meaning:
        raise ConfigError(
            f"split_file: found {file.name}, whose name does not say what the images that it lists are and what the "
            "others; expected one such as test_list.txt or train_val_list.txt, or a table of images and parts."
        )
    return meaning[parts]
