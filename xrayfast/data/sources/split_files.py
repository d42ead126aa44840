"""Read splits from a file: a table such as a run's split.csv, or a list of images whose file name says its split."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from xrayfast.data.sources.column_words import usual_columns
from xrayfast.data.sources.path_index import PathIndex, clean_path, drop_shared_folders
from xrayfast.data.sources.tables import read_table
from xrayfast.data.sources.tables.table import Table
from xrayfast.data.splits.assign import is_split_list
from xrayfast.data.splits.words import Split, note_split_words, parse_split, parse_splits
from xrayfast.errors import ConfigError, DataError, plural, shorten
from xrayfast.files.regular_files import MAX_TABLE_BYTES, read_text

_BY_NAME: dict[frozenset[Split], tuple[Split | None, Split | None]] = {
    frozenset({"test"}): ("test", None),
    frozenset({"valid"}): ("valid", None),
    frozenset({"train", "valid"}): (None, "test"),
}
"""Split of a list's images, and split of the other images (None if drawn), by the splits in the list's name."""


def read_split_file(
    file: Path, names: Sequence[str], *, complete: bool = True, other_views: Sequence[str] = ()
) -> tuple[list[Split | None], list[str]]:
    """Read the splits that a file gives to images.

    A table has a column of images and a column of splits. All images in it must be in the data, or among `other_views`,
    the images left out for their view. It must list each image of the data if `complete`, or if it lacks images of
    train or of valid.

    A text file is a list of images whose name says their split, as in test_list.txt; the other images are drawn. If the
    name has two splits, as in train_val_list.txt, the other images are the third split.

    Returns:
        The split of each of the N image names, None if it is to be drawn; and notes.

    Raises:
        DataError: the file can't be read, or does not fit the images.
        ConfigError: a list's name does not say what the other images are.
    """
    if is_split_list(file):
        return _read_list(file, names)
    return _read_split_table(read_table(file), names, complete, other_views)


def splits_in_name(name: str) -> set[Split]:
    """Return the splits in the name of a list.

    >>> sorted(splits_in_name("train_val_list.txt"))
    ['train', 'valid']
    """
    return {split for word in re.split(r"[\W_]+", name) if (split := parse_split(word))}


def _read_split_table(
    table: Table, used: Sequence[str], complete: bool, other_views: Sequence[str]
) -> tuple[list[Split | None], list[str]]:
    names = [*used, *other_views]
    images, split_columns = (usual_columns(table.columns, role) for role in ("path", "split"))
    if not images or not split_columns:
        raise DataError(
            f"{table.file}: found the columns {', '.join(table.columns)}; expected 'image' and 'split', as in the "
            f"split.csv of a run."
        )
    index = PathIndex(names)
    written, dropped = _drop_folders(index, table.columns[images[0]])
    splits: list[Split | None] = [None] * len(names)
    unknown = []
    given = parse_splits(table.columns[split_columns[0]], split_columns[0], table.where)
    for row, (image, split) in enumerate(zip(written, given, strict=True)):
        i = _find_image(index, names, image, table.where(row))
        if i is None:
            unknown.append(image)
        elif splits[i]:
            raise DataError(
                f"{table.where(row)}: image '{image}' is already in an earlier row; expected one row per image. "
                f"Remove one."
            )
        else:
            splits[i] = split
    splits = splits[: len(used)]
    missing = [name for name, split in zip(used, splits, strict=True) if split is None]
    if not complete and {"train", "valid"} <= set(splits):
        missing = []
    for what, listed in (
        ("images that are not in the data", unknown),
        ("no split for these images of the data", missing),
    ):
        if listed:
            raise DataError(
                f"{table.file}: found {what}: {shorten(listed)}; expected one row per image of the data. Give the "
                "split file of this data, or leave out --split-file. For training, images may be missing from a "
                f"file that contains train and valid: they are assigned to a split."
            )
    return splits, [f"Splits from {table.file}.{dropped}", *note_split_words(table.columns[split_columns[0]])]


def _read_list(file: Path, names: Sequence[str]) -> tuple[list[Split | None], list[str]]:
    try:
        listed_split, other_split = _BY_NAME[frozenset(splits_in_name(file.name))]
    except KeyError:
        raise ConfigError(
            f"split_file: found {file.name}, whose name does not say which splits its images and the other images "
            f"belong to; expected a name such as test_list.txt or train_val_list.txt, or a table of images and splits."
        ) from None
    lines = read_text(file, "a list of images", MAX_TABLE_BYTES, DataError).splitlines()
    index = PathIndex(names)
    numbers = [number for number, line in enumerate(lines, start=1) if line.strip()]
    written, dropped = _drop_folders(index, [line for line in lines if line.strip()])
    found = [
        _find_image(index, names, path, f"{file.name} line {number}")
        for number, path in zip(numbers, written, strict=True)
    ]
    listed = set(found) - {None}
    if not listed:
        raise DataError(f"{file}: found none of the data's images; expected a list of images, one per line.")
    splits = [listed_split if i in listed else other_split for i in range(len(names))]
    listed_text, other_text = (split or "train and valid" for split in (listed_split, other_split))
    notes = [
        f"Splits from {file.name}: the {plural(len(listed), 'image')} in it for {listed_text}, the others for "
        f"{other_text}.{dropped}"
    ]
    if unknown := found.count(None):
        notes.append(f"{plural(unknown, 'image')} of {file.name} not found in the data.")
    return splits, notes


def _drop_folders(index: PathIndex, cells: Sequence[str]) -> tuple[list[str], str]:
    """Return the paths as the data's images have them, and a sentence on the folders that were dropped."""
    paths, dropped = drop_shared_folders(list(map(clean_path, cells)), lambda path: bool(index.find(path)))
    return paths, f" All its paths begin with {dropped}: they are read without it." if dropped else ""


def _find_image(index: PathIndex, names: Sequence[str], text: str, where: str) -> int | None:
    """Return the position of the image that a text names; None if there is none."""
    found = index.find(text)
    if len(found) > 1:
        candidates = shorten(names[i] for i in found)
        raise DataError(f"{where}: image '{text}' could be {candidates}; expected one image. Write its path.")
    return found[0] if found else None
