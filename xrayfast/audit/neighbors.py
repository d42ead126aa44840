"""Find candidate pairs of duplicates without comparing all images with all.

Chest radiographs are all similar, so perceptual hashes collide. Instead, thumbnails are projected to the few directions
in which the given images differ most, relative to how much an image changes when it is cropped (linear discriminant
analysis in which each image is a class and its random crops are the members). The nearest neighbors in that space are
the candidates.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from xrayfast.audit.alignment import halve, in_blocks, normalize_contrast, warp
from xrayfast.audit.nearest import nearest_neighbors
from xrayfast.data.arrays import Floats32, Integers

Pairs: TypeAlias = npt.NDArray[np.int64]

NEIGHBORS = 4
"""Candidates per image: a pair is found if either image is among the nearest of the other. Of copies cropped by 5% on
all four sides, darkened, coarsened and re-encoded, 3 neighbors find 99% among 6,676 NIH images."""

_FEW = 40  # up to this number of images, all pairs are candidates
_DIMENSIONS = 48
_CROP = 0.05  # maximum crop, as a fraction of the side
_SAMPLE = 2000  # images to which the projection is fitted
_CROPPED = 4000  # pairs of crops; fewer pairs overfit the scatter matrix of 400 features
_RIDGE = 0.01  # fraction of the mean variance that is added to each direction, so that none seems free of change


def candidates(
    thumbs: npt.NDArray[np.uint8],
    rows: Integers,
    seed: int = 0,
    report: Callable[[float], None] = lambda share: None,
    mirrored: bool = False,
) -> tuple[Pairs, str]:
    """Return pairs of images that could be copies of each other.

    Args:
        thumbs: (M, n, n).
        rows: (N,) distinct indices of the thumbnails to use. Their order may decide borderline pairs.
        seed: of the crops and of faiss.
        report: called with the fraction of the work done.
        mirrored: whether to find pairs of which one image could be a mirrored copy of the other.

    Returns:
        (P, 2) indices of `rows`, the smaller first, each pair once, in ascending order; at most 20 N pairs for few
        images, 4 N for many. And the note of `nearest_neighbors`.
    """
    count = len(rows)
    if count <= _FEW:
        return np.stack(np.triu_indices(count, 1), 1), ""
    projection = _projection(thumbs, rows, np.random.default_rng(seed))
    points = _project(thumbs, rows, projection)
    queries = _project(thumbs[:, :, ::-1], rows, projection) if mirrored else points
    near, note = nearest_neighbors(points, queries, NEIGHBORS, seed, report)
    first, second = np.repeat(np.arange(count), NEIGHBORS), near.ravel()
    first, second = first[second >= 0], second[second >= 0]
    codes = np.unique(np.minimum(first, second) * count + np.maximum(first, second))
    return np.stack([codes // count, codes % count], 1), note


def _projection(thumbs: npt.NDArray[np.uint8], rows: Integers, rng: np.random.Generator) -> Floats32:
    """Return (features, dimensions): the directions of most variance between images relative to that between crops."""
    sample = thumbs[rows[rng.permutation(len(rows))[:_SAMPLE]]]
    crops = [_crop(sample, rng) - _crop(sample, rng) for _ in range(-(-_CROPPED // len(sample)))]
    changes = np.concatenate(crops).astype(np.float64)
    within = changes.T @ changes / (2 * len(changes))
    within += np.eye(len(within)) * (_RIDGE * np.trace(within) / len(within) + 1e-9)
    numbers = _flatten(sample).astype(np.float64)
    numbers -= numbers.mean(0)
    whitened = np.linalg.inv(np.linalg.cholesky(within))
    _, directions = np.linalg.eigh(whitened @ (numbers.T @ numbers) @ whitened.T)
    projection: Floats32 = (whitened.T @ directions[:, ::-1][:, :_DIMENSIONS]).astype(np.float32)
    return projection


def _project(thumbs: npt.NDArray[np.uint8], rows: Integers, projection: Floats32) -> Floats32:
    """Return (N, dimensions), computed in blocks to limit memory."""
    return np.concatenate([_flatten(thumbs[rows[i : i + 2048]]) @ projection for i in range(0, len(rows), 2048)])


def _flatten(thumbs: npt.NDArray[np.uint8] | Floats32) -> Floats32:
    """Return (N, n n / 4) contrast-normalized thumbnails at half the size."""
    return normalize_contrast(halve(thumbs.astype(np.float32)), 1.5).reshape(len(thumbs), -1)


def _crop(thumbs: npt.NDArray[np.uint8], rng: np.random.Generator) -> Floats32:
    """Return `_flatten` of each thumbnail after a random crop of up to 5% at each edge."""
    left, right, top, bottom = rng.uniform(0, _CROP, (4, len(thumbs))).astype(np.float32)
    place = np.stack([-(left + right), left - right, -(top + bottom), top - bottom], 1)
    columns = thumbs.shape[1] * thumbs.shape[2] // 4
    return in_blocks(lambda x, at: _flatten(warp(x.astype(np.float32), at)), columns, thumbs, place)
