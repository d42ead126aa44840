"""Decide whether a source folder holds class folders, or a table of labels next to folders of images."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from xrayfast.config import DataConfig
from xrayfast.data.folder_words import IMAGE_WORD
from xrayfast.data.images.names import find_derived
from xrayfast.data.images.reader import is_image
from xrayfast.data.labels.words import may_be_no_class
from xrayfast.data.sources.class_folders.levels import choose_class_level, find_copies
from xrayfast.data.sources.class_folders.read import no_layout
from xrayfast.data.sources.column_words import usual_columns
from xrayfast.data.sources.datasets import registry
from xrayfast.data.sources.datasets.spec import GENERIC, DatasetSpec
from xrayfast.data.sources.datasets.webdataset import is_shard_pattern, is_shards
from xrayfast.data.sources.folder_tree import absolute, top_level, walk
from xrayfast.data.sources.tables import is_table, read_column_names
from xrayfast.data.sources.tables.columnar import is_columnar, is_saved_dataset
from xrayfast.data.splits.folders import parse_split_folders
from xrayfast.data.splits.words import parse_split
from xrayfast.errors import DataError, shorten
from xrayfast.files.virtual.addresses import split_archive
from xrayfast.files.virtual.near_names import near_names

TABLE = "labels.csv"
"""The table that is read if it is in the source folder, unless there are class folders next to it."""

_NOT_READ = (".xlsx", ".xls", ".ods", ".json", ".jsonl", ".html")  # tables


@dataclass(frozen=True)
class Layout:
    """The folder of images, as the user wrote it, and the table of labels, or None for class folders.

    Attributes:
        reason: why this table was chosen, if the user named none.
        other_tables: other tables in the folder that hold labels.
    """

    source: Path
    table: Path | None = None
    reason: str = ""
    other_tables: tuple[str, ...] = ()


def detect_layout(config: DataConfig) -> Layout:
    """Decide what to read from the config's source, a folder or a table in one, and its label table if it names one."""
    source, labels = config.source, config.labels
    if labels is None and is_saved_dataset(source):
        labels = source
    elif labels is None and (
        is_shards(source)
        or ((is_table(source.name) or _is_unread(source.name)) and (is_columnar(source) or not source.is_dir()))
    ):
        source, labels = source.parent, source
    if labels is not None and is_shard_pattern(source):
        raise DataError(
            f"{source}: found labels in the shards, and {labels} is a table of labels too; expected one of the two. "
            f"Leave out --labels, or give {source.parent} as DATA: the table's images are then looked up in the "
            f"archives there."
        )
    _require_folder(source)
    if labels is not None:
        return Layout(source, labels)
    return _detect_in_folder(source, config)


def _detect_in_folder(source: Path, config: DataConfig) -> Layout:
    """Decide what to read from a folder for which no table of labels is named."""
    root = absolute(source)
    folders, loose = top_level(root)
    formats = registry.headerless_formats()
    loose += [folder.name for folder in folders if is_columnar(folder)]
    names_of = {name: read_column_names(root / name, formats) for name in loose if is_table(name)}
    spec_of = {name: registry.match_spec(names) for name, names in names_of.items()}
    recognized = [name for name, spec in spec_of.items() if spec is not GENERIC]
    with_images = [folder for folder in folders if any(is_image(entry.path) for entry in walk(folder))]
    derived = find_derived([f"{folder.name}/" for folder in with_images])
    derived |= {f"{name}/" for name in find_copies(with_images)}
    with_images = [folder for folder in with_images if f"{folder.name}/" not in derived]
    if not _are_image_folders(with_images, numbered=bool(recognized)):
        unused = tuple(
            name
            for name, columns in names_of.items()
            if name == TABLE or name in recognized or usual_columns(columns, "path")
        )
        return Layout(source, other_tables=unused)
    table = _choose_table(source, names_of, spec_of)
    listed = shorten(folder.name for folder in with_images)
    if table is not None:
        reason = f", because {listed} look like folders of images, not classes" if len(with_images) > 1 else ""
        alike = recognized
        if table not in recognized:
            alike = [n for n, c in names_of.items() if usual_columns(c, "path") and usual_columns(c, "labels")]
        others = tuple(name for name in names_of if name != table and (name in alike or _is_called_labels(name)))
        return Layout(source, source / table, f"Labels from {table} in {source}{reason}.", others)
    in_splits = bool(parse_split_folders(folder.name for folder in with_images))
    if in_splits and (inside := [folder for split in with_images for folder in top_level(split)[0]]):
        with_images, in_splits, listed = inside, False, shorten(dict.fromkeys(folder.name for folder in inside))
    unread = shorten(name for name in loose if _is_unread(name))
    may_be_unread = bool(unread) and all(_is_image_folder(folder.name, True) for folder in with_images)
    has_no_class = (len(with_images) > 1 or may_be_unread) and not in_splits
    if has_no_class and choose_class_level(root, config)[0] == 1:
        found = (
            f"found {listed}, which look like folders of images, not classes," if listed else "found no class folders"
        )
        found += " and no table of labels" + f"; {unread} is not read: save it as labels.csv" * bool(unread)
        raise no_layout(f"{source}: {found}", source)
    return Layout(source)


def _require_folder(source: Path) -> None:
    """Raise a DataError unless the source is a folder, or an archive, which acts as one."""
    if not source.exists():
        if "{" in source.name or split_archive(str(source)):
            raise DataError(
                f"{source}: found no such file or folder; expected an archive, a folder in one, or shards such as "
                f"data-{{000000..000099}}.tar. Check the path.{near_names(source)}"
            )
        raise no_layout(f"{source}: found no such folder.{near_names(source)}".removesuffix("."), source)
    if not source.is_dir():
        raise no_layout(f"{source}: found a file; expected a folder or a table, such as a .csv file", source.parent)


def _are_image_folders(folders: Sequence[Path], numbered: bool) -> bool:
    """Whether folders with images are folders of images rather than classes, judging from their names and contents.

    A single folder is not a class, unless it is a split. Several folders are not classes if all have a name that stands
    for images (images_001, train_images, png), a name as in a public data set (patient00001, p10) or, next to such a
    data set's table, a number. Split folders hold no classes if they hold images, or only folders with such names.
    """
    meaning = parse_split_folders(folder.name for folder in folders)
    splits = [folder for folder in folders if folder.name in meaning]
    if not splits:
        return len(folders) <= 1 or all(_is_image_folder(folder.name, numbered) for folder in folders)
    contents = [(split, *top_level(split)) for split in splits]
    return all(
        all(_is_image_folder(folder.name, numbered) for folder in inside)
        and (inside or any(is_image(str(split / name)) for name in loose))
        for split, inside, loose in contents
    )


def _is_image_folder(name: str, numbered: bool) -> bool:
    words = re.split(r"[\W_]+", re.sub(r"x-?ray", "xray", name.lower()))
    words = [re.sub(r"\d+$", "", word) for word in words]
    if not any(words):
        return numbered
    if any(spec.image_folder and re.fullmatch(spec.image_folder, name.lower()) for spec in registry.SPECS):
        return True
    return any(map(IMAGE_WORD.fullmatch, words)) and all(
        not word or parse_split(word) or IMAGE_WORD.fullmatch(word) or may_be_no_class(word) for word in words
    )


def _choose_table(source: Path, names_of: dict[str, list[str]], spec_of: dict[str, DatasetSpec]) -> str | None:
    """Choose a table: labels.csv, else labels in another format, else a data set's main table, else its only table,
    else the only one with a column of paths.
    """
    if TABLE in spec_of:
        return TABLE
    called = list(filter(_is_called_labels, names_of))
    recognized = {name: spec for name, spec in spec_of.items() if spec is not GENERIC}
    main = [name for name, spec in recognized.items() if spec.main_table and re.fullmatch(spec.main_table, name)]
    with_paths = [name for name, columns in names_of.items() if usual_columns(columns, "path")]
    unreadable = [name for name, columns in names_of.items() if is_columnar(Path(name)) and not columns]
    for names in (called, main, list(recognized), with_paths, unreadable):
        if len(names) == 1:
            return names[0]
        if names:
            raise DataError(
                f"{source}: found the tables {shorten(names)}; expected one. Name it with --labels; if the files are "
                f"parts of one table, give --labels their folder."
            )
    return None


def _is_unread(name: str) -> bool:
    return Path(name).suffix.lower() in _NOT_READ


def _is_called_labels(name: str) -> bool:
    """Whether a columnar table has the same name as `TABLE`, apart from its suffix."""
    return is_columnar(Path(name)) and Path(name).stem == Path(TABLE).stem
