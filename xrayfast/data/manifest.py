"""The table of images: which file, which patient, which part, which labels.

`open_manifest` reads class folders (`folders`) or a CSV file (`tables`) into the same plain lists, and from there
on one way leads to the Manifest: settle the task, add what is implied, draw the missing parts, hide who the
patients are.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pandas as pd

from xrayfast.config import DataConfig, Task
from xrayfast.data.folders import TABLE, Images, from_folders, looks_like_classes, source_folder, top_level
from xrayfast.data.labels import (
    LABEL_JOIN,
    NO_FINDING,
    LabelSet,
    Targets,
    apply_implications,
    check_implications,
    in_order,
    infer_task,
    parse_implications,
    targets,
)
from xrayfast.data.splits import PARTS, Part, stratified_split
from xrayfast.data.tables import from_table
from xrayfast.errors import ConfigError, DataError, did_you_mean, some


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
    root = source_folder(config.source)
    if config.labels is not None:
        return _assemble(from_table(config.labels, root, config), config)
    folders, loose = top_level(root)
    if TABLE in loose and not looks_like_classes(folders):
        config = config.model_copy(update={"labels": config.source / TABLE})
        images = from_table(root / TABLE, root, config)
        images.notes.insert(0, f"Labels from {TABLE} in {config.source}.")
    else:
        images = from_folders(root, config, folders, loose)
    return _assemble(images, config)


def _assemble(images: Images, config: DataConfig) -> Manifest:
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
    _note_shared_patients(images, parts)
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


def _settle_task(images: Images, config: DataConfig) -> Task:
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


def _without_no_finding(images: Images) -> list[LabelSet]:
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


def _settle_parts(images: Images, matrix: Targets, config: DataConfig) -> list[Part]:
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


def _note_shared_patients(images: Images, parts: Sequence[Part]) -> None:
    """Given parts are kept as they are, but a patient who stands in two of them is worth a word."""
    if images.patients is None:
        return
    where: dict[str, set[Part]] = {}
    for patient, part in zip(images.patients, parts, strict=True):
        if patient:
            where.setdefault(patient, set()).add(part)
    shared = sum(len(found) > 1 for found in where.values())
    if shared:
        images.notes.append(
            f"{shared} of {len(where)} patients stand in more than one part of the given split: results on valid and "
            "test will be too good."
        )


def _require_parts(images: Images, matrix: Targets, labels: Sequence[str], parts: Sequence[Part], task: Task) -> None:
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
