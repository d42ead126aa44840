"""Candidate pairs of duplicates, without comparing all images with all.

Chest radiographs are all similar, so that perceptual hashes collide. Here a thumbnail is projected to the few
directions in which the images at hand differ most, relative to how much they change when one image is cropped (linear
discriminant analysis: each image is a class, its random crops are the members). Near images in that space are found by
a forest of random-projection trees (Dasgupta and Freund 2008, doi 10.1145/1374376.1374452): each tree halves the images
by rank until few are left, and only those few are compared with each other. That takes time in N log N, however similar
the images are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from xrayfast.audit.alignment import Floats32, halve, normalize_contrast, warp

Pairs: TypeAlias = npt.NDArray[np.int64]

NEIGHBOURS = 4
"""Candidates per image: a pair is found where either is among the nearest of the other. Of crops of 5 % on all four
sides, darker, coarser and re-encoded, 3 neighbours find 99 % among 6,676 NIH images."""

_FEW = 40  # images, up to which all are compared with all
_TREES, _LEAF = 20, 256
_DIMENSIONS = 48
_CROP = 0.05  # of a side, at most
_SAMPLE = 2000  # images that the projection is fitted to
_CROPPED = 4000  # pairs of crops; fewer overfit the scatter of 400 numbers
_RIDGE = 0.01  # of the mean variance, added to it so that no direction seems to be free of change


def candidates(
    thumbs: npt.NDArray[np.uint8], seed: int = 0, report: Callable[[float], None] = lambda share: None
) -> Pairs:
    """Pairs of images that could be copies of each other.

    Args:
        thumbs: (N, n, n), all different. Another order gives other pairs where it is close.
        seed: of the crops and the trees.
        report: called with the fraction of the work done.

    Returns:
        (P, 2) indices, the smaller first, each pair once, in ascending order; at most 20 N pairs for
        few images, 4 N for many.
    """
    count = len(thumbs)
    if count <= _FEW:
        return np.stack(np.triu_indices(count, 1), 1)
    rng = np.random.default_rng(seed)
    points = _project(thumbs, _projection(thumbs, rng))
    near = _nearest(points, rng, report)
    first = np.repeat(np.arange(count), near.shape[1])
    second = near.ravel().astype(np.int64)
    first, second = first[second >= 0], second[second >= 0]
    codes = np.unique(np.minimum(first, second) * count + np.maximum(first, second))
    return np.stack([codes // count, codes % count], 1)


def _projection(thumbs: npt.NDArray[np.uint8], rng: np.random.Generator) -> Floats32:
    """(features, dimensions): the directions of most variance between images, relative to that between crops."""
    sample = thumbs[rng.permutation(len(thumbs))[:_SAMPLE]]
    crops = [_flatten(_crop(sample, rng)) - _flatten(_crop(sample, rng)) for _ in range(-(-_CROPPED // len(sample)))]
    changes = np.concatenate(crops).astype(np.float64)
    within = changes.T @ changes / (2 * len(changes))
    within += np.eye(len(within)) * (_RIDGE * np.trace(within) / len(within) + 1e-9)
    numbers = _flatten(sample).astype(np.float64)
    numbers -= numbers.mean(0)
    whitened = np.linalg.inv(np.linalg.cholesky(within))
    _, directions = np.linalg.eigh(whitened @ (numbers.T @ numbers) @ whitened.T)
    projection: Floats32 = (whitened.T @ directions[:, ::-1][:, :_DIMENSIONS]).astype(np.float32)
    return projection


def _project(thumbs: npt.NDArray[np.uint8], projection: Floats32) -> Floats32:
    """(N, dimensions), block by block, for the sake of memory."""
    return np.concatenate([_flatten(thumbs[i : i + 2048]) @ projection for i in range(0, len(thumbs), 2048)])


def _flatten(thumbs: npt.NDArray[np.uint8] | Floats32) -> Floats32:
    """(N, n n / 4) structure at half the size."""
    return normalize_contrast(halve(thumbs.astype(np.float32)), 1.5).reshape(len(thumbs), -1)


def _crop(thumbs: npt.NDArray[np.uint8], rng: np.random.Generator) -> Floats32:
    """Each without a random margin of up to 5 % at each edge."""
    left, right, top, bottom = rng.uniform(0, _CROP, (4, len(thumbs))).astype(np.float32)
    place = np.stack([-(left + right), left - right, -(top + bottom), top - bottom], 1)
    return warp(thumbs.astype(np.float32), place)


def _nearest(points: Floats32, rng: np.random.Generator, report: Callable[[float], None]) -> Pairs:
    """(N, k) the nearest of all leaves that an image is in, unordered; -1 where there are fewer."""
    count = len(points)
    keep = min(NEIGHBOURS, count - 1)
    near, far = np.full((count, keep), -1, np.int64), np.full((count, keep), np.inf, np.float32)
    squares = (points * points).sum(1)
    trees = _TREES if count > _LEAF else 1
    for tree in range(trees):
        for leaf in _leaves(points, rng):
            own = points[leaf]
            distance = squares[leaf][:, None] + squares[leaf] - 2 * own @ own.T
            np.fill_diagonal(distance, np.inf)
            nearest = np.argpartition(distance, keep - 1, axis=1)[:, :keep]
            near[leaf], far[leaf] = _merge_nearest(
                np.concatenate([near[leaf], leaf[nearest]], 1),
                np.concatenate([far[leaf], np.take_along_axis(distance, nearest, 1)], 1),
                keep,
            )
        report((tree + 1) / trees)
    return near


def _leaves(points: Floats32, rng: np.random.Generator) -> Iterator[npt.NDArray[np.intp]]:
    """The leaves of one tree: the indices halved along random directions until at most `_LEAF` are left.

    By rank, not by value, so that equal images are halved too.
    """
    waiting = [np.arange(len(points))]
    while waiting:
        members = waiting.pop()
        if len(members) <= _LEAF:
            yield members
            continue
        along = points[members] @ rng.standard_normal(points.shape[1], np.float32)
        order = np.argpartition(along, len(members) // 2)
        waiting += [members[order[: len(members) // 2]], members[order[len(members) // 2 :]]]


def _merge_nearest(index: Pairs, distance: Floats32, keep: int) -> tuple[Pairs, Floats32]:
    """The `keep` nearest different ones of each row."""
    order = np.argsort(index, axis=1, kind="stable")
    index, distance = np.take_along_axis(index, order, 1), np.take_along_axis(distance, order, 1)
    distance[:, 1:][index[:, 1:] == index[:, :-1]] = np.inf
    nearest = np.argpartition(distance, keep - 1, axis=1)[:, :keep]
    return np.take_along_axis(index, nearest, 1), np.take_along_axis(distance, nearest, 1)
