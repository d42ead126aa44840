"""From identifiers of patients and studies to groups of images, pseudonyms and hashes."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from xrayfast.data.arrays import Places
from xrayfast.data.sources.identifiers import MOST_IN_STUDY, normalize_identifier
from xrayfast.data.text_column import TextColumn

_UNIQUE = re.compile(r"\d{6}|\d\.\d+\.\d")
"""Matches study identifiers that are unique across data sets: a long number, or three components of a UID."""


def group_images(patients: Sequence[str | None] | None, studies: Sequence[str | None] | None) -> Places | None:
    """Return (N,) one integer per patient, else per study, else per image; None if no patient or study is known."""
    if not studies:
        return group_patients(patients)
    alone = studies_without_patient(patients, studies)
    owners = patients or [None] * len(alone)
    return group_patients([owner or (study and f"study {study}") for owner, study in zip(owners, alone, strict=True)])


def studies_without_patient(
    patients: Sequence[str | None] | None, studies: Sequence[str | None] | None
) -> list[str | None]:
    """Return (N,) the study of each image whose patient is unknown; None for the other images.

    More than `MOST_IN_STUDY` images of unknown patients under one study number don't count as a study: the number was
    probably reused for different patients.
    """
    if not studies:
        return [None] * len(patients or ())
    pairs = zip(patients or [None] * len(studies), studies, strict=True)
    found = [study or None if not owner else None for owner, study in pairs]
    sizes = Counter(found)
    return [study if sizes[study] <= MOST_IN_STUDY else None for study in found]


def studies_everywhere(patients: Sequence[str | None] | None, studies: Sequence[str | None] | None) -> list[str]:
    """Return (N,) the study of each image if its identifier is unique across data sets, such as a UID; else ""."""
    if not studies:
        return []
    pairs = zip(patients or [None] * len(studies), studies, strict=True)
    return [
        study if study and not (owner and study.startswith(f"{owner} ")) and _UNIQUE.search(study) else ""
        for owner, study in pairs
    ]


def hash_identifiers(identifiers: Sequence[str] | None, n: int) -> npt.NDArray[np.uint64]:
    """Return (N,) a hash of each of N identifiers, used to compare two data sets; 0 where unknown.

    Different spellings have equal hashes, as in `normalize_identifier`.
    """

    def hash_one(text: str) -> int:
        key = normalize_identifier(text).encode()
        return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little") if text else 0

    return TextColumn.of(identifiers).map_array(hash_one, np.uint64) if identifiers else np.zeros(n, np.uint64)


def group_patients(patients: Sequence[str | None] | None) -> Places | None:
    """Return (N,) one integer per patient, and one per image of unknown patient; None if all patients are unknown."""
    codes, known = _number(patients)
    if not known:
        return None
    unknown = codes < 0
    codes[unknown] = known + np.arange(unknown.sum())
    return codes


def pseudonymize(identifiers: Sequence[str] | None, letter: str) -> npt.NDArray[np.object_] | None:
    """Return (N,) names such as P00001 in order of first appearance, None where blank; None if all are blank."""
    codes, known = _number(identifiers)
    names = np.array([*(f"{letter}{i:05d}" for i in range(1, known + 1)), None], dtype=object)
    return names[codes] if known else None  # -1, for blank, selects the last name


def count_shared(identifiers: Sequence[str | None] | None, splits: Sequence[str]) -> tuple[int, int]:
    """Return how many identifiers are on images of several splits, and how many identifiers there are."""
    codes, known = _number(identifiers)
    if not known:
        return 0, 0
    of_split = TextColumn.of(splits)
    there = np.zeros((known + 1, len(of_split.texts)), np.bool_)
    there[codes, of_split.codes] = True  # -1, for blank, selects the last row
    return int((there[:known].sum(1) > 1).sum()), known


def _number(identifiers: Sequence[str | None] | None) -> tuple[Places, int]:
    """Return (N,) the number of each identifier in order of first appearance, -1 where blank; and their count."""
    cells = identifiers if isinstance(identifiers, TextColumn) else (one or "" for one in identifiers or ())
    column = TextColumn.of(cells)
    known = np.array([text != "" for text in column.texts], np.bool_)
    return np.where(known, known.cumsum() - 1, -1)[column.codes], int(known.sum())
