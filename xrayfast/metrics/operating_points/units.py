"""Labels and probabilities of the images of a study or patient, joined: what CheXpert's official metric is of."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from xrayfast.config import Task, UnitJoin
from xrayfast.metrics.classification import Floats


def _noisy_or(probability: Floats, starts: NDArray[np.intp], sizes: NDArray[np.intp]) -> Floats:
    """1 - (1 - p1) (1 - p2) ..., which is exact for small p too."""
    with np.errstate(divide="ignore"):  # of a probability of 1
        joined: Floats = -np.expm1(np.add.reduceat(np.log1p(-probability), starts))
    return joined


_JOINS: Mapping[UnitJoin, Callable[[Floats, NDArray[np.intp], NDArray[np.intp]], Floats]] = {
    "mean": lambda probability, starts, sizes: np.add.reduceat(probability, starts) / sizes[:, None],
    "max": lambda probability, starts, sizes: np.maximum.reduceat(probability, starts),
    "noisy-or": _noisy_or,
}
"""(U, L) from (N, L) sorted by unit, the first row of each unit, and its number of rows."""


def join_probabilities(
    probability: NDArray[np.floating], units: NDArray[np.integer], how: UnitJoin, task: Task
) -> Floats:
    """The probabilities of each unit.

    The largest of each class (single-label, "max") are divided by their sum, so that they add up to 1, as means do. A
    unit of one image has that image's.

    Args:
        probability: (N, L) in [0, 1].
        units: (N,) from 0 to U - 1, each of which occurs.
        how: "mean", "max" or, for multi-label, "noisy-or".
        task: "single" or "multi".

    Returns:
        (U, L) float64.

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
    """The labels of each unit: 1 where an image has it; else -1 where an image's cell is masked; else 0.

    Args:
        truth: (N, L) of 1, 0, and -1 where masked; single-label rows have one 1, or are -1 throughout.
        units: (N,) from 0 to U - 1, each of which occurs.
        task: "single" or "multi".
        positive: of two classes of which exactly one applies, the column of the positive one: a unit is of that class
            where an image is.

    Returns:
        (U, L) int64 of 1, 0 and -1. Of several classes, a unit whose images are of more than one has a 1 for each.

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
    """The rows in the order of their units; the place of each unit's first one there; and how many it has."""
    order = np.argsort(units, kind="stable")
    sizes = np.bincount(units) if len(units) else np.zeros(0, np.intp)
    return order, np.cumsum(sizes) - sizes, sizes
