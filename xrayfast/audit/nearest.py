"""Find each point's nearest neighbors: exactly, or above `EXACT` points with faiss, in less than quadratic time.

Faiss (Douze et al. 2024, arXiv 2401.08281) divides the points into cells (`IndexIVFFlat`) and searches the few cells
closest to a point. The number of cells searched grows until the search finds a fraction `RECALL` of the neighbors
that an exact search finds for a sample of points.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from xrayfast.data.arrays import Floats32
from xrayfast.errors.escapes import warn

Rows: TypeAlias = npt.NDArray[np.int64]

EXACT = 50_000
"""Largest number of points for an exact search. For so many points, it takes 9 s on one core, and comparing the
pairs found takes 11 s."""

RECALL = 0.95
"""Least fraction of the nearest neighbors that is found. For copies, which are nearer than other images, it is higher:
99.5% of 1,000 cropped, darker and noisier copies among 100,000 images."""

_SAMPLE = 500  # points whose neighbors are known exactly; a recall of 0.95 is then known to within 0.01
_BLOCK, _TILE = 1024, 1024  # queries and points per step, whose 4 MB of distances stay in the CPU's cache
_PER_CENTROID = 64  # training points per cell
_PATIENCE = 120.0  # an exact search that takes longer, in seconds, warns how long it takes


def search_method(count: int) -> str:
    """Name the method that searches so many points, on which the result depends."""
    faiss = _import_faiss() if count > EXACT else None
    return "exact" if faiss is None else f"faiss {faiss.__version__}"


def nearest_neighbors(
    points: Floats32, queries: Floats32, keep: int, seed: int, report: Callable[[float], None]
) -> tuple[Rows, str]:
    """Find the points nearest to each query, by Euclidean distance, except the point that it is made of.

    Args:
        points: (N, D).
        queries: (Q, D): the points, and then any number of changed copies of all points; row i is made of point i
            modulo N.
        keep: number of neighbors per query, less than N.
        seed: of faiss's cells, and of the sample of points that its recall is estimated on.
        report: called with the fraction of the work done.

    Returns:
        (Q, keep) rows of points, unordered; with faiss, -1 where it finds fewer. And a note on the recall, "" if exact.
    """
    center = points.mean(0)  # without it, sums of squares lose digits
    queries = queries - center
    points = queries[: len(points)]
    faiss = _import_faiss() if len(points) > EXACT else None
    if faiss is None:
        return _search_all(points, queries, keep, report), ""
    return _search_cells(faiss, points, queries, keep, seed, report)


def _search_all(points: Floats32, queries: Floats32, keep: int, report: Callable[[float], None]) -> Rows:
    began, said = time.monotonic(), len(points) <= EXACT
    near = np.empty((len(queries), keep), np.int64)
    for start in range(0, len(queries), _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, len(queries)))
        near[rows] = exact_neighbors(points, queries, rows, keep)
        share = (rows[-1] + 1) / len(queries)
        seconds = (time.monotonic() - began) / share
        if not said and seconds > _PATIENCE and share > 0.002:
            said = True
            warn(
                f"Comparing {len(points):,} thumbnails with each other takes about {seconds / 60:.0f} min. "
                "faiss takes a small part of that: pip install 'xrayfast[audit]'."
            )
        report(share)
    return near


def exact_neighbors(points: Floats32, queries: Floats32, rows: Rows, keep: int) -> Rows:
    """Return (R, keep) the points nearest to the queries of some rows, by exact search; points are centered at 0."""
    best, near = np.full((len(rows), keep), np.inf, np.float32), np.full((len(rows), keep), -1, np.int64)
    asked, made_of = -2 * queries[rows], rows % len(points)
    for start in range(0, len(points), _TILE):
        others = points[start : start + _TILE]
        distance = asked @ others.T + (others * others).sum(1)  # minus the query's square, the same per row
        own = np.flatnonzero((made_of >= start) & (made_of < start + _TILE))
        distance[own, made_of[own] - start] = np.inf
        # After a few tiles, few queries have a nearer point in a tile.
        better = np.flatnonzero(distance.min(1) < best[:, -1])
        among = distance[better]
        places = np.argpartition(among, min(keep, len(others)) - 1, axis=1)[:, :keep]
        both = np.concatenate([best[better], np.take_along_axis(among, places, 1)], 1)
        order = np.argsort(both, axis=1, kind="stable")[:, :keep]
        best[better] = np.take_along_axis(both, order, 1)
        near[better] = np.take_along_axis(np.concatenate([near[better], places + start], 1), order, 1)
    return near


def _search_cells(
    faiss: Any, points: Floats32, queries: Floats32, keep: int, seed: int, report: Callable[[float], None]
) -> tuple[Rows, str]:
    count, dimensions = points.shape
    cells = round(4 * count**0.5)
    index = faiss.IndexIVFFlat(faiss.IndexFlatL2(dimensions), dimensions, cells)
    index.cp.max_points_per_centroid, index.cp.seed = _PER_CENTROID, seed % 2**31
    index.train(points)
    index.add(points)
    rows = np.random.default_rng(seed).choice(count, min(_SAMPLE, count), replace=False)
    known, recall = exact_neighbors(points, queries, rows, keep), 0.0
    index.nprobe = 8
    while True:
        found = _others(index, queries, rows, keep)
        recall = float((known[:, :, None] == found[:, None]).any(2).mean())
        if recall >= RECALL or index.nprobe >= cells:
            break
        index.nprobe = min(2 * index.nprobe, cells)
    near = np.empty((len(queries), keep), np.int64)
    for start in range(0, len(queries), _TILE):
        rows = np.arange(start, min(start + _TILE, len(queries)))
        near[rows] = _others(index, queries, rows, keep)
        report((rows[-1] + 1) / len(queries))
    return near, (
        f"Near duplicates were searched among {count:,} thumbnails with faiss {faiss.__version__} (IndexIVFFlat, "
        f"{index.nprobe} of {cells:,} cells): of the {keep} nearest of {len(known):,} images by an exact search it "
        f"found {recall:.1%}."
    )


def _others(index: Any, queries: Floats32, rows: Rows, keep: int) -> Rows:
    """Return what the index finds, without the points that the queries are made of."""
    found = index.search(queries[rows], keep + 1)[1]
    own = found == rows[:, None] % index.ntotal
    own[~own.any(1), -1] = True  # with many equal points it may be missing; then drop the last
    return found[~own].reshape(len(rows), keep)


def _import_faiss() -> Any:
    """Return the faiss module; None if it is not installed."""
    try:
        import faiss
    except ImportError:
        return None
    return faiss
