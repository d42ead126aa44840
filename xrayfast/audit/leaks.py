"""Find leaks: patients and duplicate images in more than one split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from xrayfast.audit.duplicates import Duplicates, Kind, find_duplicates
from xrayfast.audit.features import Features, compute_features
from xrayfast.data.arrays import Places
from xrayfast.data.cache.image_cache import DecodedImages
from xrayfast.data.manifest import Manifest
from xrayfast.data.sources.patients.groups import studies_without_patient
from xrayfast.data.splits.assign import connect_groups
from xrayfast.data.splits.words import SPLITS, Split
from xrayfast.errors import DataError, plural, shorten
from xrayfast.progress import StageProgress, no_progress


@dataclass(frozen=True)
class SharedPatient:
    """A patient, or a study of an unknown patient, with images in more than one split."""

    patient: str  # the patient's or study's pseudonym
    images: Mapping[Split, tuple[str, ...]]  # image names by split, in the order train, valid, test

    def __str__(self) -> str:
        """Return text such as "P00012 (3 train, 1 valid)"."""
        return f"{self.patient} ({', '.join(f'{len(names)} {split}' for split, names in self.images.items())})"

    def to_json(self, kind: str) -> dict[str, Any]:
        """Return the pseudonym under the key `kind`, and `images` by split."""
        return {kind: self.patient, "images": {split: list(names) for split, names in self.images.items()}}


@dataclass(frozen=True)
class SharedImage:
    """A group of duplicate images in more than one split."""

    kind: Kind  # "exact" or "near", as in `Duplicates`
    similarity: float  # the lowest correlation of two linked images
    images: Mapping[Split, tuple[str, ...]]  # image names by split, in the order train, valid, test

    def __str__(self) -> str:
        """Return text such as "a.png (train) = b.png (valid)", with ~ for near duplicates."""
        sign = " = " if self.kind == "exact" else " ~ "
        return sign.join(f"{shorten(names, 2)} ({split})" for split, names in self.images.items())


@dataclass(frozen=True)
class Leaks:
    """All leaks of a data set; false if there are none."""

    patients: tuple[SharedPatient, ...] = ()
    studies: tuple[SharedPatient, ...] = ()  # of unknown patients
    images: tuple[SharedImage, ...] = ()
    duplicates: tuple[Duplicates, ...] = field(default=(), repr=False)  # including those within one split
    unreadable: Mapping[str, str] = field(default_factory=dict, repr=False)  # what is wrong with files, by path

    def __bool__(self) -> bool:
        return bool(self.patients or self.studies or self.images)

    def by_kind(self) -> list[tuple[str, str, Sequence[SharedPatient | SharedImage]]]:
        """Return kind, title and leaks of each kind present: "patients", "studies", "exact" and "near" duplicates."""
        exact, near = (tuple(image for image in self.images if image.kind == kind) for kind in ("exact", "near"))
        kinds: list[tuple[str, str, Sequence[SharedPatient | SharedImage]]] = [
            ("patients", "patient", self.patients), ("studies", "study", self.studies),
            ("exact", "image", exact), ("near", "near-duplicate image", near),
        ]  # fmt: skip
        return [
            (kind, f"{plural(len(shared), noun)} in more than one split", shared)
            for kind, noun, shared in kinds
            if shared
        ]

    def sentences(self, limit: int = 5) -> list[str]:
        """Return one sentence per kind of leak that names at most `limit` leaks."""
        return [f"{title}: {shorten(shared, limit)}." for _, title, shared in self.by_kind()]


def compare_images(
    data: Manifest,
    images: DecodedImages,
    progress: StageProgress = no_progress,
    unreadable: Mapping[str, str] | None = None,
) -> tuple[Features, Leaks]:
    """Compute the features of all images, and find patients and duplicates in more than one split.

    `unreadable` is what a build of the images has returned; None builds them here.
    """
    paths = data.table["path"].tolist()
    if unreadable is None:
        unreadable = images.build(paths, partial(progress, "decoding"))
    rows = np.array([row for row, path in enumerate(paths) if path not in unreadable], np.intp)
    features = compute_features(paths, rows, images, progress)
    return features, leaks_between_splits(data, find_duplicates(data, features, images, progress), unreadable)


def leaks_between_splits(
    data: Manifest, duplicates: Sequence[Duplicates], unreadable: Mapping[str, str] | None = None
) -> Leaks:
    """Find leaks, given the duplicates: after `redraw_splits`, no image needs to be compared again."""
    image_splits, names = data.table["split"].tolist(), data.table["image"].tolist()

    def by_split(rows: Sequence[int]) -> dict[Split, tuple[str, ...]]:
        found = {split: tuple(names[row] for row in rows if image_splits[row] == split) for split in SPLITS}
        return {split: images for split, images in found.items() if images}

    def shared_by(rows_of: Mapping[str, Sequence[int]]) -> tuple[SharedPatient, ...]:
        found = {one: by_split(rows) for one, rows in rows_of.items()}
        return tuple(SharedPatient(one, images) for one, images in found.items() if len(images) > 1)

    shared = [(group, by_split(group.rows)) for group in duplicates]
    return Leaks(
        shared_by(rows_by_patient(data)),
        shared_by(rows_by_study(data)),
        tuple(SharedImage(group.kind, group.similarity, images) for group, images in shared if len(images) > 1),
        tuple(duplicates),
        unreadable or {},
    )


def redraw_leaky_splits(data: Manifest, leaks: Leaks) -> tuple[Manifest, Leaks]:
    """Draw drawn splits again if there are leaks.

    Returns:
        The data set, and the remaining leaks: those of given splits, or all if a split would be left without images.
    """
    if not leaks or not data.drawn.any():
        return data, leaks
    try:
        data = data.redraw_splits(group_linked_images(data, leaks.duplicates))
    except DataError:
        return data, leaks
    return data, leaks_between_splits(data, leaks.duplicates, leaks.unreadable)


def group_linked_images(data: Manifest, duplicates: Sequence[Duplicates]) -> Places:
    """Return (N,) integers for `Manifest.redraw_splits`, equal for images of one patient, and for duplicates.

    They are equal for images that are linked directly or through others.
    """
    same: dict[Kind, Places] = {kind: np.arange(len(data)) for kind in ("exact", "near")}
    for group in duplicates:
        same[group.kind][list(group.rows)] = group.rows[0]
    groups = connect_groups(data.groups, *same.values())
    assert groups is not None  # two groupings were given
    return groups


def rows_by_patient(data: Manifest) -> dict[str, list[int]]:
    """Return rows by patient, in the order of the table, without images of unknown patients."""
    return _rows_of(data.table["patient"].tolist())


def rows_by_study(data: Manifest) -> dict[str, list[int]]:
    """Return rows by study, in the order of the table, for images whose patient is unknown."""
    if "study" not in data.table:
        return {}
    patients, studies = (
        [text if isinstance(text, str) else None for text in data.table[name]] for name in ("patient", "study")
    )
    return _rows_of(studies_without_patient(patients, studies))


def _rows_of(identifiers: Sequence[str | None]) -> dict[str, list[int]]:
    rows: dict[str, list[int]] = {}
    for row, one in enumerate(identifiers):
        if isinstance(one, str) and one:
            rows.setdefault(one, []).append(row)
    return rows
