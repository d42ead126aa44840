"""What training would see of validation and test: patients and pictures that stand in more than one part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from xrayfast.audit.duplicates import Duplicates, Kind, find_duplicates
from xrayfast.audit.features import Progress, collect
from xrayfast.data.manifest import Manifest
from xrayfast.data.parts import connected
from xrayfast.data.patients import patient_groups
from xrayfast.data.splits import PARTS, Part
from xrayfast.data.store import Pictures
from xrayfast.errors import DataError, counted, some


@dataclass(frozen=True)
class SharedPatient:
    """A patient with images in more than one part.

    Attributes:
        patient: the pseudonym.
        images: their names by part, in the order train, valid, test.
    """

    patient: str
    images: Mapping[Part, tuple[str, ...]]

    def __str__(self) -> str:
        """As "P00012 (3 train, 1 valid)"."""
        return f"{self.patient} ({', '.join(f'{len(names)} {part}' for part, names in self.images.items())})"


@dataclass(frozen=True)
class SharedPicture:
    """A picture that stands in more than one part.

    Attributes:
        kind: "exact" or "near", as in `Duplicates`.
        similarity: of the least alike pair that holds the group together.
        images: their names by part, in the order train, valid, test.
    """

    kind: Kind
    similarity: float
    images: Mapping[Part, tuple[str, ...]]

    def __str__(self) -> str:
        """As "a.png (train) = b.png (valid)", with ~ for near duplicates."""
        sign = " = " if self.kind == "exact" else " ~ "
        return sign.join(f"{some(names, 2)} ({part})" for part, names in self.images.items())


@dataclass(frozen=True)
class Leaks:
    """What stands in more than one part; false where nothing does.

    Attributes:
        patients: each of whom has images in more than one part.
        pictures: each of which, or of whose near copies, are in more than one part.
        duplicates: all duplicates of the data set, also those within one part: for `together`.
        unreadable: what is wrong with each file that could not be read, by path.
    """

    patients: tuple[SharedPatient, ...] = ()
    pictures: tuple[SharedPicture, ...] = ()
    duplicates: tuple[Duplicates, ...] = field(default=(), repr=False)
    unreadable: Mapping[str, str] = field(default_factory=dict, repr=False)

    def __bool__(self) -> bool:
        return bool(self.patients or self.pictures)

    def sentences(self, limit: int = 5) -> list[str]:
        """What leaks, by name, a sentence each for patients, exact and near duplicates.

        Args:
            limit: how many of each kind are named.
        """
        shared = "in more than one part"
        kinds = (
            ("patient", shared, self.patients),
            ("picture", shared, [picture for picture in self.pictures if picture.kind == "exact"]),
            ("picture", "all but equal in more than one part", [p for p in self.pictures if p.kind == "near"]),
        )
        return [f"{counted(len(found), noun)} {where}: {some(found, limit)}." for noun, where, found in kinds if found]


def find_leaks(data: Manifest, pictures: Pictures, progress: Progress | None = None) -> Leaks:
    """Patients and duplicates that stand in more than one part.

    Args:
        data: all images, of all parts.
        pictures: built where they are not; those that can't be read are left out.
        progress: told of the stages "decoding", "looking" and "comparing".
    """
    paths = data.table["path"].tolist()
    decoding = None if progress is None else lambda done, total: progress("decoding", done, total)
    unreadable = pictures.build(paths, decoding)
    rows = np.array([row for row, path in enumerate(paths) if path not in unreadable], np.intp)
    features = collect(paths, rows, pictures, progress)
    return leaks_between_parts(data, find_duplicates(data, features, progress), unreadable)


def leaks_between_parts(
    data: Manifest, duplicates: Sequence[Duplicates], unreadable: Mapping[str, str] | None = None
) -> Leaks:
    """The same from duplicates already found: after `redrawn`, nothing need be looked at again."""
    split, names = data.table["split"].tolist(), data.table["image"].tolist()

    def by_part(rows: Sequence[int]) -> dict[Part, tuple[str, ...]]:
        found = {part: tuple(names[row] for row in rows if split[row] == part) for part in PARTS}
        return {part: images for part, images in found.items() if images}

    patients = {patient: by_part(rows) for patient, rows in rows_by_patient(data).items()}
    pictures = [(group, by_part(group.rows)) for group in duplicates]
    return Leaks(
        tuple(SharedPatient(patient, images) for patient, images in patients.items() if len(images) > 1),
        tuple(SharedPicture(group.kind, group.similarity, images) for group, images in pictures if len(images) > 1),
        tuple(duplicates),
        unreadable or {},
    )


def mended(data: Manifest, leaks: Leaks) -> tuple[Manifest, Leaks]:
    """The data set with drawn parts drawn again where there are leaks, and the leaks that remain: of given parts, or of
    all where so much belongs together that a part would be left without images.
    """
    if not leaks or not data.drawn.any():
        return data, leaks
    try:
        data = data.redrawn(together(data, leaks.duplicates))
    except DataError:
        return data, leaks
    return data, leaks_between_parts(data, leaks.duplicates, leaks.unreadable)


def together(data: Manifest, duplicates: Sequence[Duplicates]) -> npt.NDArray[np.intp]:
    """Which images must stay in one part: those of one patient, and those that show the same picture.

    Returns:
        (N,) integers, equal for images that belong together, directly or through others: for `Manifest.redrawn`.
    """
    same: dict[Kind, npt.NDArray[np.intp]] = {kind: np.arange(len(data)) for kind in ("exact", "near")}
    for group in duplicates:
        same[group.kind][list(group.rows)] = group.rows[0]
    groups = connected(patient_groups(data.table["patient"].tolist()), *same.values())
    assert groups is not None  # two groupings were given
    return groups


def rows_by_patient(data: Manifest) -> dict[str, list[int]]:
    """The rows of each known patient, in the order of the table."""
    rows: dict[str, list[int]] = {}
    for row, patient in enumerate(data.table["patient"].tolist()):
        if isinstance(patient, str) and patient:
            rows.setdefault(patient, []).append(row)
    return rows
