"""Validation of the arrays that metrics take, and the sampling units (patients or images) in them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xrayfast.metrics.classification import Floats

Indices = NDArray[np.int64]
Bools = NDArray[np.bool_]
DrawnCounts = NDArray[np.int16]
"""How often each patient (or image) is drawn. int16 is enough: however many units there are, none is drawn more than
32,767 times in practice."""

ROUNDING = 1e-6
"""How far outside [0, 1] a probability may be, because of rounding in single precision."""


def table(truth: ArrayLike, probability: ArrayLike) -> tuple[NDArray[np.int8], Floats]:
    """Check tables of labels and probabilities, for masked cells too, and return int8 and float64 clipped to [0, 1].

    Raises:
        ValueError: The shapes differ or are not 2-D, or a value is out of range.
    """
    actual, values = np.asarray(truth), np.asarray(probability, dtype=np.float64)
    if actual.ndim != 2 or actual.shape != values.shape or actual.shape[1] == 0:
        raise ValueError(
            f"truth has shape {actual.shape}, probability {values.shape}; expected two equal tables (N, L)"
        )
    _check_truth(actual)
    inside = (values >= -ROUNDING) & (values <= 1 + ROUNDING)
    if not inside.all():
        worst = values[~inside][0]
        raise ValueError(f"probability holds {worst}; expected values in [0, 1], as a sigmoid or a softmax gives them")
    # Clip only where necessary: for ten million images a copy takes a gigabyte.
    within = values.size == 0 or (values.min() >= 0 and values.max() <= 1)
    return actual.astype(np.int8, copy=False), values if within else values.clip(0.0, 1.0)


def column(truth: ArrayLike, score: ArrayLike) -> tuple[Bools, Floats, Indices]:
    """Return whether positive, scores and row numbers of the K unmasked cells of one label: (K,) each.

    Raises:
        ValueError: The shapes differ, a truth is out of range or a score is not finite.
    """
    actual, values = np.asarray(truth), np.asarray(score, dtype=np.float64)
    if actual.ndim != 1 or actual.shape != values.shape:
        raise ValueError(f"truth has shape {actual.shape}, score {values.shape}; expected two equal lengths")
    _check_truth(actual)
    if not np.isfinite(values).all():
        raise ValueError("score holds NaN or infinity; a network that diverged has no metrics")
    rows = np.flatnonzero(actual >= 0)
    return actual[rows] == 1, values[rows], rows


def sampling_units(groups: ArrayLike | None, n: int) -> tuple[Indices, int]:
    """Return the unit of each of n images in a bootstrap, (N,) from 0, and the number of units.

    The units are patients, numbered with any integers in `groups`; or images if no patients are known.

    Raises:
        ValueError: `groups` is not N integers.
    """
    if groups is None:
        return np.arange(n), n
    numbers = np.asarray(groups)
    if numbers.shape != (n,):
        raise ValueError(f"groups has shape {numbers.shape}; expected one patient number for each of {n} images")
    if n and numbers.dtype.kind not in "iu":
        raise ValueError(f"groups holds {numbers.dtype}; expected integer patient numbers")
    names, unit = np.unique(numbers, return_inverse=True)
    return unit.astype(np.int64), len(names)


def count_known(groups: NDArray[Any] | None) -> int | None:
    """Count the distinct known patients; unknown patients have numbers below 0. None if `groups` is None."""
    return None if groups is None else len(np.unique(groups[groups >= 0]))


def count_patients(truth: NDArray[Any], unit: NDArray[Any]) -> NDArray[np.int64]:
    """Count the distinct units (patients or images) with and without each label of (N, L) truth: (L, 2)."""
    names, place = np.unique(unit, return_inverse=True)

    def different(rows: Bools) -> int:
        found = np.zeros(len(names), np.bool_)
        found[place[rows]] = True
        return int(found.sum())

    columns = [[different(column == cell) for cell in (1, 0)] for column in truth.T]
    return np.array(columns, dtype=np.int64).reshape(-1, 2)


LEVEL, ALPHA = 0.95, 0.05
"""The confidence level of the intervals shown; and the significance level for corrected p-values, which is also the
rate at which warnings of a difference may occur if there is none.
"""


def check_level(level: float) -> None:
    """Raise a ValueError if a confidence level is outside (0, 1)."""
    if not 0 < level < 1:
        raise ValueError(f"level is {level}; expected a confidence level between 0 and 1, such as 0.95")


def _check_truth(truth: NDArray[Any]) -> None:
    invalid = (truth != -1) & (truth != 0) & (truth != 1)
    if invalid.any():
        raise ValueError(f"truth holds {truth[invalid][0]}; expected 1, 0, or -1 where masked")
