"""The table of images: which file, which patient, which part, which labels.

`open_manifest` reads class folders or a CSV file into the same plain lists, and from there on one way leads
to the Manifest: settle the task, add what is implied, draw the missing parts, hide who the patients are.
"""

from __future__ import annotations

import csv
import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd

from xrayfast.config import DataConfig, Task
from xrayfast.data.labels import (
    LABEL_JOIN,
    NO_FINDING,
    LabelSet,
    Targets,
    Where,
    apply_implications,
    cell_labels,
    check_implications,
    column_labels,
    folder_labels,
    in_order,
    infer_task,
    is_flag,
    parse_implications,
    targets,
)
from xrayfast.data.radiograph import IMAGE_SUFFIXES
from xrayfast.data.splits import PARTS, Part, part_name, stratified_split
from xrayfast.errors import ConfigError, DataError, did_you_mean, some

_LAYOUTS = """Expected one of
    {0}/CLASS/*.png                                        class folders
    {0}/train/CLASS/*.png, {0}/valid/..., {0}/test/...   the same, already split
    {0}/labels.csv                                         a column of image paths and one of labels
`xrayfast synth {0}` makes a small synthetic set to try things on."""

_TABLE = "labels.csv"

# In the order in which they are preferred; letter case, spaces, '_' and '-' make no difference.
_PATH_COLUMNS = ("image", "file", "filename", "path", "imagepath", "filepath", "imageindex", "imageid")
_LABEL_COLUMNS = ("labels", "label", "findinglabels", "findings", "finding", "class", "diagnosis", "target")
_SPLIT_COLUMNS = ("split", "set", "subset", "partition")
_PATIENT_COLUMNS = ("patient", "patientid", "subject", "subjectid")

_FLAG_SHARE = 0.5
"""A column is taken for a 0/1 label where this share of its cells is 0 or 1; the rest are then errors."""


@dataclass(frozen=True, eq=False)
class Manifest:
    """All images of a data set, or of a part of it.

    Attributes:
        table: a row an image: `image` (unique name: the path from the source folder, with '/'), `path`
            (absolute), `patient` (a pseudonym, missing where unknown), `split` (train, valid or test) and
            `labels` (joined by '|', "" for none).
        labels: the L labels, in the order used everywhere.
        targets: (N, L) uint8, 1 where the image has the label; rows as in the table.
        task: "single" where each image has exactly one label.
        config: the settings that it was opened with.
        notes: what was inferred, drawn or ignored, in sentences.
    """

    table: pd.DataFrame
    labels: tuple[str, ...]
    targets: Targets
    task: Task
    config: DataConfig
    notes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.table)

    def part(self, name: Part) -> Manifest:
        """The images of one part.

        Raises:
            ConfigError: no such part.
        """
        if name not in PARTS:
            raise ConfigError(f"found the part '{name}'; expected train, valid or test.{did_you_mean(name, PARTS)}")
        rows = (self.table["split"] == name).to_numpy()
        return replace(self, table=self.table[rows].reset_index(drop=True), targets=self.targets[rows])

    def counts(self) -> pd.DataFrame:
        """Images of each label by part (columns), then all "images" and, where known, all "patients"."""
        split = self.table["split"].to_numpy()
        known = self.table["patient"].notna().any()
        counts: dict[str, list[int]] = {}
        for name in PARTS:
            rows = split == name
            counts[name] = [*self.targets[rows].sum(0, dtype=np.int64).tolist(), int(rows.sum())]
            if known:
                counts[name].append(int(self.table.loc[rows, "patient"].nunique()))
        rows_named = [*self.labels, "images", *(["patients"] if known else [])]
        table: pd.DataFrame = pd.DataFrame(counts, index=rows_named)
        return table

    def fingerprint(self) -> str:
        """SHA-256 over each image's name, labels, part and file size, and so the same wherever the data lie.

        Raises:
            DataError: a file is gone.
        """
        digest = hashlib.sha256(repr(self.labels).encode())
        columns = ("image", "labels", "split", "path")
        for image, labels, split, path in zip(*(self.table[name].tolist() for name in columns), strict=True):
            try:
                size = os.stat(path).st_size  # noqa: PTH116 - a Path for each of 400,000 files takes seconds
            except OSError as error:
                raise DataError(f"{path}: can't be read ({error.strerror}); it was there when opened.") from error
            digest.update(repr((image, labels, split, size)).encode())
        return digest.hexdigest()


def open_manifest(config: DataConfig) -> Manifest:
    """Read a data set: class folders, or a CSV file where one is named or is all there is.

    Args:
        config: `source` is the folder of images, or a CSV file whose folder is the source.

    Raises:
        DataError: the images, labels or parts can't be used; the message says where and what to do.
        ConfigError: options that contradict each other or the layout.
    """
    if config.source.suffix.lower() == ".csv" and config.labels is None:
        config = config.model_copy(update={"source": config.source.parent, "labels": config.source})
    root = _source_folder(config.source)
    if config.labels is not None:
        return _assemble(_from_table(config.labels, root, config), config)
    folders, loose = _top_level(root)
    if _TABLE in loose and not _looks_like_classes(folders):
        config = config.model_copy(update={"labels": config.source / _TABLE})
        images = _from_table(root / _TABLE, root, config)
        images.notes.insert(0, f"Labels from {_TABLE} in {config.source}.")
    else:
        images = _from_folders(root, config, folders, loose)
    return _assemble(images, config)


_File: TypeAlias = tuple[str, LabelSet]
"""A path and the labels of the class folder that it lies in."""


@dataclass
class _Images:
    """What a layout yields; the lists are aligned. Raw patient identifiers go no further than this."""

    names: list[str]
    paths: list[str]
    label_sets: list[LabelSet]
    where: Where
    parts: Sequence[Part] | None = None
    patients: Sequence[str] | None = None
    from_table: bool = False
    notes: list[str] = field(default_factory=list)


# From either layout to the Manifest


def _assemble(images: _Images, config: DataConfig) -> Manifest:
    task = _settle_task(images, config)
    label_sets = images.label_sets
    if task == "multi" and images.from_table:
        label_sets = _without_no_finding(images)
    closure = parse_implications(config.imply)
    check_implications(closure, {label for labels in label_sets for label in labels})
    if closure:
        label_sets = [apply_implications(labels, closure) for labels in label_sets]
    labels = in_order(label for labels in label_sets for label in labels)
    matrix = targets(label_sets, labels)
    _require_learnable(matrix, labels, task)
    parts = _settle_parts(images, matrix, config)
    _require_parts(images, matrix, labels, parts, task)
    order = {label: j for j, label in enumerate(labels)}.__getitem__
    table = pd.DataFrame(
        {
            "image": images.names,
            "path": images.paths,
            "patient": _pseudonyms(images.patients) or pd.Series([None] * len(images.names), dtype=object),
            "split": parts,
            "labels": [LABEL_JOIN.join(sorted(row, key=order)) for row in label_sets],
        }
    )
    return Manifest(table, tuple(labels), matrix, task, config, tuple(images.notes))


def _settle_task(images: _Images, config: DataConfig) -> Task:
    inferred: Task = "multi" if config.imply else infer_task(images.label_sets)
    if config.task == "auto":
        found = "Each image has one label" if inferred == "single" else "Images have several labels or none"
        reason = "Labels imply others" if config.imply else found
        images.notes.append(f"{reason}: a {inferred}-label task.")
        return inferred
    if config.task == "single" and config.imply:
        raise ConfigError("found imply with task single; expected task multi. Leave out one of the two.")
    if config.task == "single" and inferred == "multi":
        i = next(i for i, labels in enumerate(images.label_sets) if len(labels) != 1)
        found = f"{len(images.label_sets[i])} labels ({', '.join(images.label_sets[i]) or 'none'})"
        raise DataError(f"{images.where(i)}: found {found}; a single-label task expects 1. Use --task multi.")
    return config.task


def _without_no_finding(images: _Images) -> list[LabelSet]:
    """In a multi-label table 'No Finding' means that no label applies."""
    beside = sum(NO_FINDING in labels and len(labels) > 1 for labels in images.label_sets)
    if beside:
        images.notes.append(f"{beside} images have '{NO_FINDING}' beside other labels, which count.")
    if any(NO_FINDING in labels for labels in images.label_sets):
        images.notes.append(f"'{NO_FINDING}' means none of the labels.")
    return [tuple(label for label in labels if label != NO_FINDING) for labels in images.label_sets]


def _require_learnable(matrix: Targets, labels: Sequence[str], task: Task) -> None:
    """There must be something to tell apart, and each class of a single-label task needs two images."""
    totals = matrix.sum(0, dtype=np.int64)
    if not len(labels) or (len(labels) == 1 and totals[0] == len(matrix)):
        found = f"only one class, '{labels[0]}'" if labels else "no labels"
        raise DataError(f"found {found}; expected at least 2 classes. Add a folder or images of another class.")
    if task == "single" and totals.min() < 2:
        raise DataError(
            f"class '{labels[int(totals.argmin())]}' has 1 image; at least 2 are needed, one to train and "
            "one to validate. Add images or remove the class."
        )


def _settle_parts(images: _Images, matrix: Targets, config: DataConfig) -> list[Part]:
    """The given parts; the missing ones are drawn from the training images."""
    given = images.parts or ["train"] * len(matrix)
    wanted: dict[Part, float] = {"valid": config.valid_fraction, "test": config.test_fraction}
    draw: dict[Part, float] = {part: share for part, share in wanted.items() if share and part not in given}
    if "test" in given and config.test_fraction:
        images.notes.append("The test fraction is not used: the set has a test part.")
    if not draw:
        return list(given)
    rest = 1 - sum(draw.values())
    if rest <= 1e-9:
        raise ConfigError(
            f"valid_fraction {config.valid_fraction:g} and test_fraction {config.test_fraction:g} leave "
            "nothing to train on; expected a sum below 1."
        )
    rows = [i for i, part in enumerate(given) if part == "train"]
    groups = None if images.patients is None else _group_numbers([images.patients[i] for i in rows])
    drawn = stratified_split(matrix[rows], groups, {"train": rest, **draw}, config.split_seed)
    parts = list(given)
    for i, part in zip(rows, drawn.tolist(), strict=True):
        parts[i] = part
    by = "stratified by label, " + ("by image, as no patients are known" if groups is None else "by patient")
    shares = " and ".join(f"{share:.0%} {part}" for part, share in draw.items())
    images.notes.append(f"Drawn from the training images with seed {config.split_seed}: {shares}, {by}.")
    return parts


def _require_parts(images: _Images, matrix: Targets, labels: Sequence[str], parts: Sequence[Part], task: Task) -> None:
    """Training and validation need images; a single-label class without training images can't be learned."""
    column = np.array(parts)
    for part in ("train", "valid"):
        if part not in parts:
            raise DataError(f"no images in the {part} part; expected some in both train and valid. Add images.")
        present = matrix[column == part].any(0)
        absent = [label for label, there in zip(labels, present, strict=True) if not there]
        if absent and part == "train" and task == "single":
            known = set(labels).difference(absent)
            raise DataError(
                f"class '{absent[0]}' has no images in the train part; expected each class there."
                f"{did_you_mean(absent[0], known)} Name it alike in all parts, or add images."
            )
        if absent:
            images.notes.append(f"No {part} images of {some(absent)}.")


def _pseudonyms(patients: Sequence[str] | None) -> list[str | None] | None:
    """P00001, P00002, ... in order of first appearance; None for blank cells."""
    if patients is None:
        return None
    numbers = {patient: i for i, patient in enumerate(dict.fromkeys(filter(None, patients)), start=1)}
    return [f"P{numbers[patient]:05d}" if patient else None for patient in patients]


def _group_numbers(patients: Sequence[str]) -> npt.NDArray[np.intp]:
    """A number for each patient; images whose patient is unknown have numbers of their own."""
    numbers: dict[str | int, int] = {}
    keys = [patient or i for i, patient in enumerate(patients)]
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], np.intp)


# Class folders


def _source_folder(source: Path) -> Path:
    """The absolute path of a folder that is there."""
    if not source.exists():
        raise DataError(f"{source}: found no such folder. {_LAYOUTS.format(source)}")
    if not source.is_dir():
        raise DataError(f"{source}: found a file; expected a folder or a .csv file. {_LAYOUTS.format(source.parent)}")
    return _absolute(source)


def _absolute(path: Path) -> Path:
    """Absolute and without '..', but with symbolic links as they stand: names are as the user sees them."""
    return Path(os.path.normpath(path.absolute()))


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """What is visible in a folder, by name."""
    try:
        with os.scandir(folder) as entries:
            return sorted((e for e in entries if not e.name.startswith(".")), key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"{folder}: can't be read ({error.strerror}). Check its permissions.") from error


def _top_level(folder: Path) -> tuple[list[Path], list[str]]:
    """The folders in a folder, and the names of all else."""
    entries = _entries(folder)
    folders = [Path(entry.path) for entry in entries if entry.is_dir()]
    return folders, [entry.name for entry in entries if not entry.is_dir()]


def _is_image(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES


def _files(folder: Path) -> Iterator[os.DirEntry[str]]:
    """All visible files of a tree, folder by folder, by name."""
    for entry in _entries(folder):
        if entry.is_dir():
            yield from _files(Path(entry.path))
        else:
            yield entry


def _looks_like_classes(folders: Sequence[Path]) -> bool:
    """Whether these are parts or several classes; a single other folder beside a table holds its images."""
    with_images = [folder for folder in folders if any(_is_image(entry.name) for entry in _files(folder))]
    return len(with_images) > 1 or any(part_name(folder.name) for folder in with_images)


def _from_folders(root: Path, config: DataConfig, folders: Sequence[Path], loose: Sequence[str]) -> _Images:
    named = [n for n in ("path_col", "label_col", "split_col", "patient_col") if getattr(config, n)]
    if named:
        raise ConfigError(f"{named[0]} names a column, but there is no table of labels; expected --labels FILE.csv.")
    images = _Images([], [], [], where=lambda i: images.names[i])
    parts = _part_folders(config.source, folders)
    if parts:
        given: list[Part] = []
        for part, folder in parts.items():
            classes, beside = _top_level(folder)
            _add_classes(images, root, folder, classes, beside, config)
            given += [part] * (len(images.names) - len(given))
        images.parts = given
        images.notes.append(f"Parts from the folders {', '.join(f.name for f in parts.values())}.")
    else:
        _add_classes(images, root, config.source, folders, loose, config)
    if _TABLE in loose:
        images.notes.append(f"{_TABLE} is not used, because there are class folders; --labels names it.")
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
    images: _Images,
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


def _class_files(folder: Path, images: _Images) -> list[Path]:
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


# A CSV file


@dataclass(frozen=True)
class _Table:
    """A CSV file's cells by column, and each row's number as a spreadsheet shows it."""

    name: str
    columns: dict[str, list[str]]
    rows: list[int]

    def where(self, i: int) -> str:
        return f"{self.name} row {self.rows[i]}"


def _from_table(file: Path, root: Path, config: DataConfig) -> _Images:
    table = _read_table(file)
    path = _column(table, config.path_col, _PATH_COLUMNS)
    if path is None:
        raise DataError(
            f"{file}: found the columns {', '.join(table.columns)}, none of which is known to hold image "
            "paths; expected one like 'image' or 'file'. Name it with --path-col."
        )
    split = _column(table, config.split_col, _SPLIT_COLUMNS)
    patient = _column(table, config.patient_col, _PATIENT_COLUMNS)
    names, paths = _locate(table, path, root, _absolute(file.parent))
    columns, label_sets = _table_labels(table, config, {path, split, patient})
    images = _Images(names, paths, label_sets, table.where, from_table=True)
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


def _read_table(file: Path) -> _Table:
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
        for inner in _top_level(folder)[0]:
            yield from self._tree(inner)

    def _place(self, folder: Path) -> _Place:
        folder = _absolute(folder)
        prefix = PurePosixPath(Path(os.path.relpath(folder, self._root)).as_posix())
        files = [entry.name for entry in _entries(folder) if entry.is_file()] if folder.is_dir() else []
        return _Place(f"{folder}{os.sep}", "" if str(prefix) == "." else f"{prefix}/", frozenset(files))


@dataclass(frozen=True)
class _Place:
    """A folder as the start of a path, as the start of an image's name, and the files in it."""

    path: str
    prefix: str
    files: frozenset[str]
