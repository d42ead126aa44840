"""Find groups of duplicate images: equal pixel by pixel, or nearly equal."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd

from xrayfast.audit.alignment import aligned_correlation
from xrayfast.audit.features import Features
from xrayfast.audit.nearest import search_method
from xrayfast.audit.neighbors import Pairs, candidates
from xrayfast.data.arrays import Floats32, Integers
from xrayfast.data.cache.columns import Columns, Layout
from xrayfast.data.cache.image_cache import DecodedImages
from xrayfast.data.manifest import Manifest
from xrayfast.data.sources.patients import group_patients
from xrayfast.data.splits.assign import connect_pairs
from xrayfast.errors.escapes import warn
from xrayfast.progress import StageProgress, no_progress

Kind: TypeAlias = Literal["exact", "near"]

ALIKE, SAME_PATIENT_ALIKE = 0.97, 0.98
"""Two images are duplicates from the first correlation on, but two of one patient only from the second on, because
images of one chest are similar, and share a split anyway. In NIH at 128 px, the highest correlation of 25,816 pairs of
one patient is 0.9648, and that of different patients 0.895, except for one pair whose files are equal; 99% of copies
cropped by up to 5% per side exceed the first. In phantoms, whose patients differ less, it is 0.952 between patients.
"""

_CHUNK = 4096  # pairs between two progress reports
_LAYOUT: Layout = {"pairs": (0, np.dtype(("<i8", 2))), "alike": (0, "<f4"), "note": (1, "u1")}


@dataclass(frozen=True)
class Duplicates:
    """A group of duplicates.

    The kind is "exact" if all images decode to equal pixels, and "near" if at least two differ, but only by coding,
    scale, a small crop, brightness or mirroring. Exact copies of members of a near group are in both groups.
    """

    rows: tuple[int, ...]  # two or more rows of the manifest, ascending
    kind: Kind
    similarity: float  # the lowest correlation of two linked images; 1 if "exact"


def find_duplicates(
    data: Manifest, features: Features, images: DecodedImages, progress: StageProgress = no_progress
) -> tuple[Duplicates, ...]:
    """Find all groups of duplicates: first exact, then near, each sorted by first row.

    The groups do not depend on the order of the images.

    `features` are those of the readable images; `progress` is called at the stage "comparing", unless the images are
    cached and were compared before.
    """
    # sorted by content, so that random choices do not depend on the order of the table
    distinct = [places for _, places in sorted(features.copies().items())]
    exact = [_group(features, [places], "exact", 1.0) for places in distinct if len(places) > 1]
    firsts = np.array([places[0] for places in distinct], np.int64)
    patients = group_patients(data.table["patient"].tolist())
    own = None if patients is None else patients[features.rows[firsts]]
    pairs, alike = near_pairs(features.thumbs, firsts, images, own, progress)
    linked = _connected_members(len(firsts), pairs, alike)
    near = [_group(features, [distinct[member] for member in members], "near", least) for members, least in linked]
    return tuple(group for groups in (exact, near) for group in sorted(groups, key=lambda group: group.rows[0]))


def distinct_groups(duplicates: Sequence[Duplicates]) -> list[Duplicates]:
    """Return the groups except those of exact copies that are also in a near group, so that each image counts once."""
    in_near = {row for group in duplicates if group.kind == "near" for row in group.rows}
    return [group for group in duplicates if group.kind == "near" or group.rows[0] not in in_near]


def near_pairs(
    thumbs: npt.NDArray[np.uint8],
    rows: Integers,
    images: DecodedImages,
    patients: Integers | None = None,
    progress: StageProgress = no_progress,
) -> tuple[Pairs, Floats32]:
    """Find pairs of thumbnails of nearly equal images.

    Args:
        thumbs: (M, n, n).
        rows: (N,) indices of the thumbnails to compare, without exact copies.
        images: if they are cached, the pairs found are cached too.
        patients: (N,) integers, equal for images of one patient; None if no patient is known.
        progress: called at the stage "comparing".

    Returns:
        (P, 2) indices of `rows` and (P,) similarities.
    """
    digest = hashlib.blake2b(f"{search_method(len(rows))}, mirrored too".encode(), digest_size=16)
    for start in range(0, len(rows), _CHUNK):  # in chunks, to save the memory of a copy
        digest.update(thumbs[rows[start : start + _CHUNK]].data)
    found = images.computed(digest.digest(), _LAYOUT, lambda: _compare(thumbs, rows, progress))
    if note := found["note"].tobytes().decode():
        warn(note)
    pairs, alike = found["pairs"], found["alike"]
    same_patient = patients is not None and patients[pairs[:, 0]] == patients[pairs[:, 1]]
    near = alike >= np.where(same_patient, SAME_PATIENT_ALIKE, ALIKE)
    return pairs[near], alike[near]


def _compare(thumbs: npt.NDArray[np.uint8], rows: Integers, progress: StageProgress) -> Columns:
    """Return the pairs that are alike, before patients are considered, and the note of `candidates`."""
    count = len(rows)

    def report(share: float) -> None:
        progress("comparing", round(share * count), count)

    pairs, alike, notes = [], [], []
    for way in (1, -1):  # as they are, then with one of each pair mirrored
        begun = float(way < 0)

        def report_half(share: float, begun: float = begun) -> None:
            report((begun + share) / 2)

        found, note = candidates(thumbs, rows, report=lambda share: report_half(share / 3), mirrored=way < 0)
        notes.append(note)
        for start in range(0, len(found), _CHUNK):
            chunk = found[start : start + _CHUNK]
            first, second = rows[chunk].T
            similarity = aligned_correlation(thumbs[first], thumbs[second][:, :, ::way])
            pairs.append(chunk[similarity >= ALIKE])
            alike.append(similarity[similarity >= ALIKE])
            report_half(1 / 3 + 2 / 3 * min(1, (start + _CHUNK) / len(found)))
    return {
        "pairs": np.concatenate([np.zeros((0, 2), np.int64), *pairs]),
        "alike": np.concatenate([np.zeros(0, np.float32), *alike]),
        "note": np.frombuffer(notes[0].encode(), np.uint8),
    }


def _connected_members(count: int, pairs: Pairs, alike: Floats32) -> list[tuple[list[int], float]]:
    """Return the members of each component of at least two, and the lowest similarity in it."""
    numbers, members = connect_pairs(count, pairs), np.unique(pairs)
    groups = pd.Series(members).groupby(numbers[members]).agg(list)
    least = pd.Series(alike.astype(np.float64)).groupby(numbers[pairs[:, 0]]).min().clip(upper=1)
    return list(zip(groups.tolist(), least.tolist(), strict=True))


def _group(features: Features, distinct: Sequence[list[int]], kind: Kind, least: float) -> Duplicates:
    rows = features.rows[[place for places in distinct for place in places]]
    return Duplicates(tuple(sorted(rows.tolist())), kind, round(least, 4))
