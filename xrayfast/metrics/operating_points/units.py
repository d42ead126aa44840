"""Labels and probabilities of studies or patients, joined from those of their images, as CheXpert's official metric
requires.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from xrayfast.config import Task, UnitJoin
from xrayfast.metrics.classification import Floats


def _noisy_or(probability: Floats, starts: NDArray[np.intp], sizes: NDArray[np.intp]) -> Floats:
    """Compute 1 - (1 - p1) (1 - p2) ..., exactly for small p too."""
    with np.errstate(divide="ignore"):  # log1p(-1), for a probability of 1
        joined: Floats = -np.expm1(np.add.reduceat(np.log1p(-probability), starts))
    return joined


_JOINS: Mapping[UnitJoin, Callable[[Floats, NDArray[np.intp], NDArray[np.intp]], Floats]] = {
    "mean": lambda probability, starts, sizes: np.add.reduceat(probability, starts) / sizes[:, None],
    "max": lambda probability, starts, sizes: np.maximum.reduceat(probability, starts),
    "noisy-or": _noisy_or,
}
"""Functions of (N, L) probabilities sorted by unit, of the first row of each unit, and of its number of rows, which
return (U, L) joined probabilities."""


def join_probabilities(
    probability: NDArray[np.floating], units: NDArray[np.integer], how: UnitJoin, task: Task
) -> Floats:
    """Join the probabilities of each unit's images.

    For single-label tasks and "max", the maxima of the classes are divided by their sum, so that they add up to 1, as
    means do. A unit of one image keeps that image's probabilities. "noisy-or" is for multi-label tasks only.

    `units` is (N,), the unit of each image from 0 to U - 1, each of which occurs; the result is (U, L) float64.

    >>> join_probabilities(np.array([[0.5], [0.2], [0.6]]), np.array([0, 1, 0]), "noisy-or", "multi").round(3).tolist()
    [[0.8], [0.2]]
    """
    order, starts, sizes = _sorted_by_unit(units)
    rows = probability[order].astype(np.float64)
    if not len(rows):
        return rows
    joined = _JOINS[how](rows, starts, sizes)
    if task == "single" and how == "max":
        joined = joined / joined.sum(axis=1, keepdims=True)
    return np.where(sizes[:, None] == 1, rows[starts], joined)


def join_truth(
    truth: NDArray[np.integer], units: NDArray[np.integer], task: Task, positive: int | None = None
) -> NDArray[np.int64]:
    """Join the labels of each unit's images.

    In multi-label tasks, a unit's label is 1 if an image has it; otherwise -1 if an image's cell is masked; otherwise
    0. In single-label tasks, a unit has the classes of its images, a 1 for each, but is masked (-1 throughout) if an
    image is masked. If `positive`, the column of the positive class of two, is given, a unit with a positive image is
    positive, whatever its other images are. `units` and the shape are those of `join_probabilities`.

    >>> join_truth(np.array([[0, 0], [-1, 0], [1, 0]]), np.array([0, 0, 1]), "multi").tolist()
    [[-1, 0], [1, 0]]
    """
    order, starts, _ = _sorted_by_unit(units)
    rows = truth[order].astype(np.int64)
    if not len(rows):
        return rows
    has, masked = np.maximum.reduceat(rows == 1, starts), np.maximum.reduceat(rows < 0, starts)
    if task == "multi":
        return np.where(has, 1, -masked.astype(np.int64))
    joined = has.astype(np.int64)
    joined[masked.all(axis=1)] = -1
    if positive is not None:
        joined[has[:, positive]] = np.eye(2, dtype=np.int64)[positive]
    return joined


def _sorted_by_unit(
    units: NDArray[np.integer],
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
    """Return the rows sorted by unit, the index of each unit's first row in that order, and its number of rows."""
    order = np.argsort(units, kind="stable")
    sizes = np.bincount(units) if len(units) else np.zeros(0, np.intp)
    return order, np.cumsum(sizes) - sizes, sizes
