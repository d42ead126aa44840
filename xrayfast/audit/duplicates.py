"""Find groups of duplicate images: equal pixel by pixel, or nearly equal."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeAlias

import numpy as np
import pandas as pd

from xrayfast.audit.alignment import aligned_correlation, detail_correlation
from xrayfast.audit.features import Features, detailed_thumbnails
from xrayfast.audit.nearest import search_method
from xrayfast.audit.neighbors import NEIGHBORS, Pairs, candidates
from xrayfast.audit.versions import CHANGES, PROCESSED, Versions, find_versions
from xrayfast.data.arrays import Bools, Floats32, Integers, Places
from xrayfast.data.cache.columns import Columns, Layout
from xrayfast.data.cache.image_cache import DecodedImages
from xrayfast.data.images.reader import Pixels
from xrayfast.data.manifest import Manifest
from xrayfast.data.sources.patients.groups import group_patients
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

PROCESSED_ALIKE = 0.85
"""Two images are also duplicates from this on: the correlation of their detailed thumbnails' finest structure, less
what it is lower than the correlation of the thumbnails.

Equalization, CLAHE or a mark lower the correlation of coarse and of fine structure alike, while other images of a
chest differ more the finer the structure. In NIH at 128 px, the highest value of pairs of one patient is 0.778, and at
48 px 0.779; that of different patients is 0.37. In phantoms, it is 0.852 and 0.53.
"""

_DOUBTFUL = 0.8  # the least such value of the thumbnails themselves; of copies, 99% exceed it
_CHUNK = 4096  # pairs between two progress reports
_LAYOUT: Layout = {
    "pairs": (0, np.dtype(("<i8", 2))),
    "alike": (0, "<f4"),
    "changes": (0, "u1"),
    "note": (1, "u1"),
}


@dataclass(frozen=True)
class Duplicates:
    """A group of duplicates.

    The kind is "exact" if all images decode to equal pixels, and "near" if at least two differ, but only by coding,
    scale, a small crop, brightness or `CHANGES`. Exact copies of members of a near group are in both groups.
    """

    rows: tuple[int, ...]  # two or more rows of the manifest, ascending
    kind: Kind
    similarity: float  # the lowest correlation of two linked images; 1 if "exact"
    changes: tuple[str, ...] = ()  # values of `CHANGES` by which two linked images differ


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
    details = partial(detailed_thumbnails, data.table["path"].tolist(), features, images)
    pairs, alike, changes = near_pairs(features.thumbs, features.thumb_rows[firsts], details, images, own, progress)
    near = [
        _group(features, [distinct[member] for member in members], "near", least, names)
        for members, least, names in _connected_members(len(firsts), pairs, alike, changes)
    ]
    return tuple(group for groups in (exact, near) for group in sorted(groups, key=lambda group: group.rows[0]))


def distinct_groups(duplicates: Sequence[Duplicates]) -> list[Duplicates]:
    """Return the groups except those of exact copies that are also in a near group, so that each image counts once."""
    in_near = {row for group in duplicates if group.kind == "near" for row in group.rows}
    return [group for group in duplicates if group.kind == "near" or group.rows[0] not in in_near]


def near_pairs(
    thumbs: Pixels,
    rows: Integers,
    details: Callable[[Integers], Pixels],
    images: DecodedImages,
    patients: Integers | None = None,
    progress: StageProgress = no_progress,
) -> tuple[Pairs, Floats32, Integers]:
    """Find pairs of nearly equal images.

    Args:
        thumbs: (M, n, n).
        rows: (N, 2) indices of the thumbnails of the images to compare, without exact copies, as in `Features`.
        details: returns detailed versions of some of the thumbnails, given by their indices.
        images: if they are cached, the pairs found are cached too.
        patients: (N,) integers, equal for images of one patient; None if no patient is known.
        progress: called at the stage "comparing".

    Returns:
        (P, 2) numbers of images, each pair once; (P,) similarities; and (P,) bits of `CHANGES`.
    """
    versions = find_versions(thumbs, rows)
    digest = hashlib.blake2b(f"{search_method(len(versions))}, versions, crowds, details".encode(), digest_size=16)
    for start in range(0, len(rows), _CHUNK):  # in chunks, to save the memory of a copy
        digest.update(thumbs[rows[start : start + _CHUNK]].data)
    found = images.computed(digest.digest(), _LAYOUT, lambda: _compare(versions, details, progress))
    if note := found["note"].tobytes().decode():
        warn(note)
    pairs, alike, changes = found["pairs"], found["alike"], found["changes"]
    same_patient = patients is not None and patients[pairs[:, 0]] == patients[pairs[:, 1]]
    is_alike = alike >= np.where(same_patient, SAME_PATIENT_ALIKE, ALIKE)
    changes = np.where(is_alike, changes & ~np.uint8(PROCESSED), changes)
    near = is_alike | (changes & PROCESSED > 0)
    return pairs[near], alike[near], changes[near]


def _compare(versions: Versions, details: Callable[[Integers], Pixels], progress: StageProgress) -> Columns:
    """Return the pairs that are alike, before patients are considered, and the note of `candidates`.

    The neighbors of an image with many copies may all be copies of one kind. So one image of each crowded group is
    compared with those of the other crowded groups, until none are joined.
    """
    count = int(versions.members.max(initial=-1)) + 1

    def report(share: float) -> None:
        progress("comparing", round(share * count), count)

    pairs, mirrored, note = candidates(versions, report=lambda share: report(share / 3))
    pairs, mirrored, alike, processed = _alike(
        versions, details, pairs, mirrored, lambda share: report(1 / 3 + 2 / 3 * share)
    )
    while len(places := _of_crowded_groups(versions, connect_pairs(count, versions.members[pairs]))):
        more, more_mirrored, _ = candidates(versions.select(places))
        found = _alike(versions, details, places[more], more_mirrored)
        if not len(found[0]):
            break
        pairs, mirrored = np.concatenate([pairs, found[0]]), np.concatenate([mirrored, found[1]])
        alike, processed = np.concatenate([alike, found[2]]), np.concatenate([processed, found[3]])
    changes = versions.differences(pairs, mirrored) | np.where(processed, PROCESSED, 0)
    order = np.lexsort([-alike, changes])  # of versions of the same two images, the least changed come first
    numbers = np.sort(versions.members[pairs[order]], axis=1)
    numbers, places = np.unique(numbers, axis=0, return_index=True)
    return {
        "pairs": numbers,
        "alike": alike[order[places]],
        "changes": changes[order[places]].astype(np.uint8),
        "note": np.frombuffer(note.encode(), np.uint8),
    }


def _alike(
    versions: Versions,
    details: Callable[[Integers], Pixels],
    pairs: Pairs,
    mirrored: Bools,
    report: Callable[[float], None] = lambda share: None,
) -> tuple[Pairs, Bools, Floats32, Bools]:
    """Return those of the candidates that are versions of two images and alike, (P,) similarities, and if processed."""
    others = versions.members[pairs[:, 0]] != versions.members[pairs[:, 1]]
    pairs, mirrored = pairs[others], mirrored[others]
    alike, processed = np.zeros(len(pairs), np.float32), np.zeros(len(pairs), bool)
    for start in range(0, len(pairs), _CHUNK):
        chunk = slice(start, start + _CHUNK)
        first, second = pairs[chunk].T
        alike[chunk], place = aligned_correlation(versions.pixels(first), versions.pixels(second, mirrored[chunk]))
        doubtful = start + np.flatnonzero((alike[chunk] > -1) & (alike[chunk] < SAME_PATIENT_ALIKE))
        for load, least in ((None, _DOUBTFUL), (details, PROCESSED_ALIKE)):
            first, second = pairs[doubtful].T
            seconds = versions.pixels(second, mirrored[doubtful], load)
            fine = detail_correlation(versions.pixels(first, load=load), seconds, place[doubtful - start])
            doubtful = doubtful[2 * fine - alike[doubtful] >= least]
        processed[doubtful] = True
        report(min(1, (start + _CHUNK) / len(pairs)))
    near = processed | (alike >= ALIKE)
    return pairs[near], mirrored[near], alike[near], processed[near]


def _of_crowded_groups(versions: Versions, groups: Places) -> Places:
    """Return the versions of the first image of each group that has more versions than an image has neighbors.

    `groups` is (N,) the first image of the group of each image. None are returned if fewer than two are crowded.
    """
    crowded = np.bincount(groups[versions.members], minlength=len(groups)) > NEIGHBORS
    places: Places = np.flatnonzero(crowded[versions.members])
    return places if np.count_nonzero(crowded) > 1 else places[:0]


def _connected_members(
    count: int, pairs: Pairs, alike: Floats32, changes: Integers
) -> list[tuple[list[int], float, tuple[str, ...]]]:
    """Return the members of each component of at least two, the lowest similarity in it, and all `CHANGES` in it."""
    numbers, members = connect_pairs(count, pairs), np.unique(pairs)
    groups = pd.Series(members).groupby(numbers[members]).agg(list)
    of_pairs = pd.DataFrame({"alike": alike.astype(np.float64), "changes": changes}).groupby(numbers[pairs[:, 0]])
    least = of_pairs["alike"].min().clip(upper=1)
    found = of_pairs["changes"].agg(np.bitwise_or.reduce)
    named = [tuple(name for bit, name in CHANGES.items() if bits & bit) for bits in found]
    return list(zip(groups.tolist(), least.tolist(), named, strict=True))


def _group(
    features: Features, distinct: Sequence[list[int]], kind: Kind, least: float, changes: tuple[str, ...] = ()
) -> Duplicates:
    rows = features.rows[[place for places in distinct for place in places]]
    return Duplicates(tuple(sorted(rows.tolist())), kind, round(least, 4), changes)
