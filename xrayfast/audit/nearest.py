"""The nearest of N points to each: exactly, and above `EXACT` points with faiss, in less than quadratic time.

Faiss (Douze et al. 2024, arXiv 2401.08281) divides the points into cells (`IndexIVFFlat`) and looks in the few that are
next to a point. How many is not guessed: it grows until, of the nearest that an exact search finds for some points,
`RECALL` are found.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from xrayfast.errors.escapes import warn

Floats32: TypeAlias = npt.NDArray[np.float32]
Rows: TypeAlias = npt.NDArray[np.int64]

EXACT = 50_000
"""Points up to which the search is exact; they take 9 s of one core, and the comparison of the pairs found 11."""

RECALL = 0.95
"""Of the nearest neighbours, at least as many are found. Of copies, which are nearer than others, it is more: 99.5 % of
1,000 cropped, darker and noisier ones among 100,000."""

_SAMPLE = 500  # points whose neighbours are known exactly: a recall of 0.95 is then known to 0.01
_BLOCK, _TILE = 1024, 1024  # points at a time, and others: their distances, 4 MB, stay in the processor's cache
_PER_CENTROID = 64  # points to train a cell with
_PATIENCE = 120.0  # seconds from which an exact search says how long it takes


def nearest_neighbours(points: Floats32, keep: int, seed: int, report: Callable[[float], None]) -> Rows:
    """The nearest others of each point, in the Euclidean distance.

    Args:
        points: (N, D).
        keep: how many, less than N.
        seed: of faiss's cells, and of the points by which its recall is known.
        report: called with the fraction of the work done.

    Returns:
        (N, keep) rows, unordered; with faiss -1 where it finds fewer.
    """
    points = points - points.mean(0)  # sums of squares would lose digits
    faiss = _import_faiss() if len(points) > EXACT else None
    return _search_all(points, keep, report) if faiss is None else _search_cells(faiss, points, keep, seed, report)


def _search_all(points: Floats32, keep: int, report: Callable[[float], None]) -> Rows:
    began, said = time.monotonic(), len(points) <= EXACT
    near = np.empty((len(points), keep), np.int64)
    for start in range(0, len(points), _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, len(points)))
        near[rows] = exact_neighbours(points, rows, keep)
        share = (rows[-1] + 1) / len(points)
        seconds = (time.monotonic() - began) / share
        if not said and seconds > _PATIENCE and share > 0.002:
            said = True
            warn(
                f"Comparing {len(points):,} images with each other takes about {seconds / 60:.0f} min. "
                "faiss takes a small part of that: pip install 'xrayfast[audit]'."
            )
        report(share)
    return near


def exact_neighbours(points: Floats32, rows: Rows, keep: int) -> Rows:
    """(R, keep) the nearest others of some points, by their distance to all; for points around 0."""
    best, near = np.full((len(rows), keep), np.inf, np.float32), np.full((len(rows), keep), -1, np.int64)
    queries = -2 * points[rows]
    for start in range(0, len(points), _TILE):
        others = points[start : start + _TILE]
        distance = queries @ others.T + (others * others).sum(1)  # less the square of the query, the same in its row
        own = np.flatnonzero((rows >= start) & (rows < start + _TILE))
        distance[own, rows[own] - start] = np.inf
        # Soon few have a nearer one in a tile.
        better = np.flatnonzero(distance.min(1) < best[:, -1])
        among = distance[better]
        places = np.argpartition(among, min(keep, len(others)) - 1, axis=1)[:, :keep]
        both = np.concatenate([best[better], np.take_along_axis(among, places, 1)], 1)
        order = np.argsort(both, axis=1, kind="stable")[:, :keep]
        best[better] = np.take_along_axis(both, order, 1)
        near[better] = np.take_along_axis(np.concatenate([near[better], places + start], 1), order, 1)
    return near


def _search_cells(faiss: Any, points: Floats32, keep: int, seed: int, report: Callable[[float], None]) -> Rows:
    count, dimensions = points.shape
    cells = round(4 * count**0.5)
    index = faiss.IndexIVFFlat(faiss.IndexFlatL2(dimensions), dimensions, cells)
    index.cp.max_points_per_centroid, index.cp.seed = _PER_CENTROID, seed % 2**31
    index.train(points)
    index.add(points)
    rows = np.random.default_rng(seed).choice(count, min(_SAMPLE, count), replace=False)
    known, recall = exact_neighbours(points, rows, keep), 0.0
    index.nprobe = 8
    while True:
        found = _others(index, points, rows, keep)
        recall = float((known[:, :, None] == found[:, None]).any(2).mean())
        if recall >= RECALL or index.nprobe >= cells:
            break
        index.nprobe = min(2 * index.nprobe, cells)
    near = np.empty((count, keep), np.int64)
    for start in range(0, count, _TILE):
        rows = np.arange(start, min(start + _TILE, count))
        near[rows] = _others(index, points, rows, keep)
        report((rows[-1] + 1) / count)
    warn(
        f"Near duplicates of {count:,} images were searched with faiss {faiss.__version__} (IndexIVFFlat, "
        f"{index.nprobe} of {cells:,} cells): of the {keep} nearest of {len(known)} images by an exact search it found "
        f"{recall:.1%}."
    )
    return near


def _others(index: Any, points: Floats32, rows: Rows, keep: int) -> Rows:
    """What the index finds, without the points themselves."""
    found = index.search(points[rows], keep + 1)[1]
    own = found == rows[:, None]
    own[~own.any(1), -1] = True  # among equal points it may be missing: then the last one goes
    others: Rows = found[~own].reshape(len(rows), keep)
    return others


def _import_faiss() -> Any:
    """The module; None where it is not installed."""
    try:
        import faiss
    except ImportError:
        return None
    return faiss
