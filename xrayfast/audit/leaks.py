"""What training would see of validation and test: patients and images that stand in more than one split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from xrayfast.audit.duplicates import Duplicates, Kind, find_duplicates
from xrayfast.audit.features import Progress, collect
from xrayfast.data.cache.image_cache import DecodedImages
from xrayfast.data.manifest import Manifest
from xrayfast.data.sources.patients import group_patients
from xrayfast.data.splits.assign import connect_groups
from xrayfast.data.splits.stratify import SPLITS, Split
from xrayfast.errors import DataError, plural, shorten


@dataclass(frozen=True)
class SharedPatient:
    """A patient with images in more than one split.

    Attributes:
        patient: the pseudonym.
        images: their names by split, in the order train, valid, test.
    """

    patient: str
    images: Mapping[Split, tuple[str, ...]]

    def __str__(self) -> str:
        """As "P00012 (3 train, 1 valid)"."""
        return f"{self.patient} ({', '.join(f'{len(names)} {split}' for split, names in self.images.items())})"


@dataclass(frozen=True)
class SharedImage:
    """An image that stands in more than one split.

    Attributes:
        kind: "exact" or "near", as in `Duplicates`.
        similarity: of the least alike pair that holds the group together.
        images: their names by split, in the order train, valid, test.
    """

    kind: Kind
    similarity: float
    images: Mapping[Split, tuple[str, ...]]

    def __str__(self) -> str:
        """As "a.png (train) = b.png (valid)", with ~ for near duplicates."""
        sign = " = " if self.kind == "exact" else " ~ "
        return sign.join(f"{shorten(names, 2)} ({split})" for split, names in self.images.items())


@dataclass(frozen=True)
class Leaks:
    """What stands in more than one split; false where nothing does.

    Attributes:
        patients: each of whom has images in more than one split.
        images: each of which, or of whose near copies, are in more than one split.
        duplicates: all duplicates of the data set, also those within one split: for `together`.
        unreadable: what is wrong with each file that could not be read, by path.
    """

    patients: tuple[SharedPatient, ...] = ()
    images: tuple[SharedImage, ...] = ()
    duplicates: tuple[Duplicates, ...] = field(default=(), repr=False)
    unreadable: Mapping[str, str] = field(default_factory=dict, repr=False)

    def __bool__(self) -> bool:
        return bool(self.patients or self.images)

    def sentences(self, limit: int = 5) -> list[str]:
        """What leaks, by name, a sentence each for patients, exact and near duplicates.

        Args:
            limit: how many of each kind are named.
        """
        shared = "in more than one split"
        kinds = (
            ("patient", shared, self.patients),
            ("image", shared, [image for image in self.images if image.kind == "exact"]),
            ("image", "all but equal in more than one split", [p for p in self.images if p.kind == "near"]),
        )
        return [
            f"{plural(len(found), noun)} {where}: {shorten(found, limit)}." for noun, where, found in kinds if found
        ]


def find_leaks(data: Manifest, images: DecodedImages, progress: Progress | None = None) -> Leaks:
    """Patients and duplicates that stand in more than one split.

    Args:
        data: all images, of all parts.
        images: built where they are not; those that can't be read are left out.
        progress: told of the stages "decoding", "looking" and "comparing".
    """
    paths = data.table["path"].tolist()
    decoding = None if progress is None else lambda done, total: progress("decoding", done, total)
    unreadable = images.build(paths, decoding)
    rows = np.array([row for row, path in enumerate(paths) if path not in unreadable], np.intp)
    features = collect(paths, rows, images, progress)
    return leaks_between_splits(data, find_duplicates(data, features, progress), unreadable)


def leaks_between_splits(
    data: Manifest, duplicates: Sequence[Duplicates], unreadable: Mapping[str, str] | None = None
) -> Leaks:
    """The same from duplicates already found: after `redraw_splits`, nothing need be looked at again."""
    image_splits, names = data.table["split"].tolist(), data.table["image"].tolist()

    def by_split(rows: Sequence[int]) -> dict[Split, tuple[str, ...]]:
        found = {split: tuple(names[row] for row in rows if image_splits[row] == split) for split in SPLITS}
        return {split: images for split, images in found.items() if images}

    patients = {patient: by_split(rows) for patient, rows in rows_by_patient(data).items()}
    shared = [(group, by_split(group.rows)) for group in duplicates]
    return Leaks(
        tuple(SharedPatient(patient, images) for patient, images in patients.items() if len(images) > 1),
        tuple(SharedImage(group.kind, group.similarity, images) for group, images in shared if len(images) > 1),
        tuple(duplicates),
        unreadable or {},
    )


def redraw_leaky_splits(data: Manifest, leaks: Leaks) -> tuple[Manifest, Leaks]:
    """The data set with drawn splits drawn again where there are leaks, and the leaks that remain: of given splits, or
    of all where so much belongs together that a split would be left without images.
    """
    if not leaks or not data.drawn.any():
        return data, leaks
    try:
        data = data.redraw_splits(together(data, leaks.duplicates))
    except DataError:
        return data, leaks
    return data, leaks_between_splits(data, leaks.duplicates, leaks.unreadable)


def together(data: Manifest, duplicates: Sequence[Duplicates]) -> npt.NDArray[np.intp]:
    """Which images must stay in one split: those of one patient, and those that show the same image.

    Returns:
        (N,) integers, equal for images that belong together, directly or through others: for `Manifest.redraw_splits`.
    """
    same: dict[Kind, npt.NDArray[np.intp]] = {kind: np.arange(len(data)) for kind in ("exact", "near")}
    for group in duplicates:
        same[group.kind][list(group.rows)] = group.rows[0]
    groups = connect_groups(group_patients(data.table["patient"].tolist()), *same.values())
    assert groups is not None  # two groupings were given
    return groups


def rows_by_patient(data: Manifest) -> dict[str, list[int]]:
    """The rows of each known patient, in the order of the table."""
    rows: dict[str, list[int]] = {}
    for row, patient in enumerate(data.table["patient"].tolist()):
        if isinstance(patient, str) and patient:
            rows.setdefault(patient, []).append(row)
    return rows
