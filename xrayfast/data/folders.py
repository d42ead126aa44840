"""Class folders, flat or in folders of parts, as plain lists of images; and how a folder is looked through."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TypeAlias

from xrayfast.config import DataConfig
from xrayfast.data.labels import LabelSet, Where, folder_labels
from xrayfast.data.radiograph import IMAGE_SUFFIXES
from xrayfast.data.splits import PARTS, Part, part_name
from xrayfast.errors import ConfigError, DataError, some

_LAYOUTS = """Expected one of
    {0}/CLASS/*.png                                        class folders
    {0}/train/CLASS/*.png, {0}/valid/..., {0}/test/...   the same, already split
    {0}/labels.csv                                         a column of image paths and one of labels
`xrayfast synth {0}` makes a small synthetic set to try things on."""

TABLE = "labels.csv"
"""The table that is read where it lies in the source folder without class folders beside it."""

_File: TypeAlias = tuple[str, LabelSet]
"""A path and the labels of the class folder that it lies in."""


@dataclass
class Images:
    """What a layout yields; the lists are aligned. Raw patient identifiers go no further than this."""

    names: list[str]
    paths: list[str]
    label_sets: list[LabelSet]
    where: Where
    parts: Sequence[Part] | None = None
    patients: Sequence[str] | None = None
    from_table: bool = False
    notes: list[str] = field(default_factory=list)


def source_folder(source: Path) -> Path:
    """The absolute path of a folder that is there.

    Raises:
        DataError: it is not there, or is a file.
    """
    if not source.exists():
        raise DataError(f"{source}: found no such folder. {_LAYOUTS.format(source)}")
    if not source.is_dir():
        raise DataError(f"{source}: found a file; expected a folder or a .csv file. {_LAYOUTS.format(source.parent)}")
    return absolute(source)


def absolute(path: Path) -> Path:
    """Absolute and without '..', but with symbolic links as they stand: names are as the user sees them."""
    return Path(os.path.normpath(path.absolute()))


def visible_entries(folder: Path) -> list[os.DirEntry[str]]:
    """What is visible in a folder, by name.

    Raises:
        DataError: the folder can't be read.
    """
    try:
        with os.scandir(folder) as entries:
            return sorted((e for e in entries if not e.name.startswith(".")), key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"{folder}: can't be read ({error.strerror}). Check its permissions.") from error


def top_level(folder: Path) -> tuple[list[Path], list[str]]:
    """The folders in a folder, and the names of all else.

    Raises:
        DataError: the folder can't be read.
    """
    entries = visible_entries(folder)
    folders = [Path(entry.path) for entry in entries if entry.is_dir()]
    return folders, [entry.name for entry in entries if not entry.is_dir()]


def _is_image(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES


def _files(folder: Path) -> Iterator[os.DirEntry[str]]:
    """All visible files of a tree, folder by folder, by name."""
    for entry in visible_entries(folder):
        try:
            is_folder = entry.is_dir()
        except OSError as error:
            raise DataError(f"{entry.path}: can't be followed ({error.strerror}). Remove the link.") from error
        if is_folder:
            yield from _files(Path(entry.path))
        else:
            yield entry


def looks_like_classes(folders: Sequence[Path]) -> bool:
    """Whether these are parts or several classes; a single other folder beside a table holds its images."""
    with_images = [folder for folder in folders if any(_is_image(entry.name) for entry in _files(folder))]
    return len(with_images) > 1 or any(part_name(folder.name) for folder in with_images)


def from_folders(root: Path, config: DataConfig, folders: Sequence[Path], loose: Sequence[str]) -> Images:
    """The images of class folders, in parts where the folders are parts.

    Args:
        root: the source folder's absolute path.
        config: the settings; options that name columns have no place here.
        folders: the folders in the source folder.
        loose: the names of all else there.

    Raises:
        DataError: folders that are neither classes nor parts, a class without images, or one file in two classes
            of a single-label task.
        ConfigError: an option names a column.
    """
    named = [n for n in ("path_col", "label_col", "split_col", "patient_col") if getattr(config, n)]
    if named:
        raise ConfigError(f"{named[0]} names a column, but there is no table of labels; expected --labels FILE.csv.")
    images = Images([], [], [], where=lambda i: images.names[i])
    parts = _part_folders(config.source, folders)
    if parts:
        given: list[Part] = []
        for part, folder in parts.items():
            classes, beside = top_level(folder)
            _add_classes(images, root, folder, classes, beside, config)
            given += [part] * (len(images.names) - len(given))
        images.parts = given
        images.notes.append(f"Parts from the folders {', '.join(f.name for f in parts.values())}.")
    else:
        _add_classes(images, root, config.source, folders, loose, config)
    if TABLE in loose:
        images.notes.append(
            f"{TABLE} is not used, because there are class folders. --labels reads it, patients included."
        )
    return images


def _part_folders(source: Path, folders: Sequence[Path]) -> dict[Part, Path]:
    """The folders that are parts; none in a flat layout."""
    found: dict[Part, Path] = {}
    for folder in folders:
        part = part_name(folder.name)
        if part in found:
            raise DataError(
                f"{source}: found both {found[part].name}/ and {folder.name}/; expected one {part} folder. "
                "Join or rename them."
            )
        if part:
            found[part] = folder
    others = [folder.name for folder in folders if part_name(folder.name) is None]
    if found and others:
        raise DataError(
            f"{source}: found {some(others)} beside {', '.join(f.name for f in found.values())}; expected "
            "only train, valid and test there, with the class folders in them. Move or remove the others."
        )
    if found and "train" not in found:
        raise DataError(f"{source}: found {some(f.name for f in found.values())}; expected a train folder too.")
    return {part: found[part] for part in PARTS if part in found}


def _add_classes(
    images: Images,
    root: Path,
    folder: Path,
    classes: Sequence[Path],
    beside: Sequence[str],
    config: DataConfig,
) -> None:
    """Add the images of the class folders of one part."""
    loose = [name for name in beside if _is_image(name)]
    if not classes and loose:
        raise DataError(
            f"{folder}: found {len(loose)} images outside of class folders; expected one for each class. "
            f"{_LAYOUTS.format(config.source)}"
        )
    if not classes:
        raise DataError(f"{folder}: found no class folders. {_LAYOUTS.format(config.source)}")
    if loose:
        images.notes.append(f"{len(loose)} images beside the class folders of {folder.name} are ignored.")
    alike: dict[str, list[_File]] = {}
    for class_folder in classes:
        labels = folder_labels(class_folder.name)
        for path in _class_files(class_folder, images):
            alike.setdefault(path.relative_to(class_folder).as_posix(), []).append((str(path), labels))
    merged = {name: list(_merged(files, config)) for name, files in alike.items()}
    found = sorted(file for files in merged.values() for file in files)
    images.names += [Path(path).relative_to(root).as_posix() for path, _ in found]
    images.paths += [path for path, _ in found]
    images.label_sets += [labels for _, labels in found]
    copies = sum(map(len, alike.values())) - len(found)
    if copies:
        images.notes.append(f"{copies} files are copies of one in another class: one image with the labels of both.")
    if differing := [name for name, files in merged.items() if len(files) > 1]:
        images.notes.append(
            f"{len(differing)} file names stand in several classes with different content "
            f"({some(differing, 3)}): taken for different images."
        )


def _class_files(folder: Path, images: Images) -> list[Path]:
    """The image files of a class, at any depth; what else lies there is noted."""
    entries = list(_files(folder))
    paths = [Path(entry.path) for entry in entries if _is_image(entry.name) and entry.is_file()]
    ignored = [entry.name for entry in entries if not (_is_image(entry.name) and entry.is_file())]
    if not paths:
        raise DataError(
            f"{folder}: found no images in this class folder; expected files ending in "
            f"{', '.join(sorted(IMAGE_SUFFIXES))}. Add images or remove the folder."
        )
    if ignored:
        images.notes.append(f"{len(ignored)} files in {folder.name} are no images and are ignored: {some(ignored)}.")
    return paths


def _merged(same_name: Sequence[_File], config: DataConfig) -> Iterator[_File]:
    """One image for each different content among files of one name, with the labels of all its copies."""
    if len(same_name) == 1:
        yield from same_name
        return
    for copies in _by_content(same_name):
        if len(copies) > 1 and config.task == "single":
            raise DataError(
                f"{copies[0][0]} and {copies[1][0]}: found the same file in two classes; a single-label task "
                "expects one. Remove one of them, or use --task multi."
            )
        yield copies[0][0], tuple(dict.fromkeys(label for _, labels in copies for label in labels))


def _by_content(files: Sequence[_File]) -> Iterable[list[_File]]:
    """Files grouped by their bytes; only those that share their size with another are read."""
    by_size: dict[int, list[_File]] = {}
    for file in files:
        by_size.setdefault(Path(file[0]).stat().st_size, []).append(file)
    by_bytes: dict[tuple[int, str], list[_File]] = {}
    for size, same_size in by_size.items():
        for file in same_size:
            digest = hashlib.sha256(Path(file[0]).read_bytes()).hexdigest() if len(same_size) > 1 else ""
            by_bytes.setdefault((size, digest), []).append(file)
    return by_bytes.values()
