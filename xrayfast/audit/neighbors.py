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
from xrayfast.audit.versions import Versions
from xrayfast.data.arrays import Bools, Floats32

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
    versions: Versions, seed: int = 0, report: Callable[[float], None] = lambda share: None
) -> tuple[Pairs, Bools, str]:
    """Return pairs of versions of images that could be copies of each other, as they are or with one of them mirrored.

    Args:
        versions: V versions. Their order may decide borderline pairs.
        seed: of the crops and of faiss.
        report: called with the fraction of the work done.

    Returns:
        (P, 2) indices of the versions, the smaller first, and (P,) whether the second is to be mirrored, each once, in
        ascending order; at most 40 V pairs for few versions, 8 V for many. And the note of `nearest_neighbors`.
    """
    count = len(versions)
    if count <= _FEW:
        pairs = np.stack(np.triu_indices(count, 1), 1)
        return np.concatenate([pairs, pairs]), np.repeat([False, True], len(pairs)), ""
    projection = _projection(versions, np.random.default_rng(seed))
    queries = _project(versions, projection)
    near, note = nearest_neighbors(queries[:count], queries, NEIGHBORS, seed, report)
    asked, second = np.repeat(np.arange(2 * count), NEIGHBORS), near.ravel()
    asked, second = asked[second >= 0], second[second >= 0]
    way, first = np.divmod(asked, count)
    codes = np.unique((way * count + np.minimum(first, second)) * count + np.maximum(first, second))
    return np.stack([codes // count % count, codes % count], 1), codes >= count * count, note


def _projection(versions: Versions, rng: np.random.Generator) -> Floats32:
    """Return (features, dimensions): the directions of most variance between images relative to that between crops."""
    sample = versions.pixels(rng.permutation(np.count_nonzero(versions.changes == 0))[:_SAMPLE])
    crops = [_crop(sample, rng) - _crop(sample, rng) for _ in range(-(-_CROPPED // len(sample)))]
    changes = np.concatenate(crops).astype(np.float64)
    within = changes.T @ changes / (2 * len(changes))
    within += np.eye(len(within)) * (_RIDGE * np.trace(within) / len(within) + 1e-9)
    numbers = _flatten(sample).astype(np.float64)
    numbers -= numbers.mean(0)
    whitened = np.linalg.inv(np.linalg.cholesky(within))
    _, directions = np.linalg.eigh(whitened @ (numbers.T @ numbers) @ whitened.T)
    return (whitened.T @ directions[:, ::-1][:, :_DIMENSIONS]).astype(np.float32)


def _project(versions: Versions, projection: Floats32) -> Floats32:
    """Return (2 V, dimensions), of the versions and then of their mirror images, in blocks to limit memory."""
    blocks = [np.arange(start, min(start + 2048, len(versions))) for start in range(0, len(versions), 2048)]
    return np.concatenate(
        [_flatten(versions.pixels(block, way)) @ projection for way in (False, True) for block in blocks]
    )


def _flatten(thumbs: npt.NDArray[np.uint8] | Floats32) -> Floats32:
    """Return (N, n n / 4) contrast-normalized thumbnails at half the size."""
    return normalize_contrast(halve(thumbs.astype(np.float32)), 1.5).reshape(len(thumbs), -1)


def _crop(thumbs: npt.NDArray[np.uint8], rng: np.random.Generator) -> Floats32:
    """Return `_flatten` of each thumbnail after a random crop of up to 5% at each edge."""
    left, right, top, bottom = rng.uniform(0, _CROP, (4, len(thumbs))).astype(np.float32)
    place = np.stack([-(left + right), left - right, -(top + bottom), top - bottom], 1)
    columns = thumbs.shape[1] * thumbs.shape[2] // 4
    return in_blocks(lambda x, at: _flatten(warp(x.astype(np.float32), at)), columns, thumbs, place)
