"""What the metrics accept, checked in one place."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xrayfast.metrics.classification import Floats

Indices = NDArray[np.int64]
Bools = NDArray[np.bool_]

ROUNDING = 1e-6
"""How far outside [0, 1] a probability may lie: a softmax in single precision does not always sum to one."""


def table(truth: ArrayLike, probability: ArrayLike) -> tuple[NDArray[np.int8], Floats]:
    """A table of labels and its probabilities, checked.

    Args:
        truth: (N, L) of 1, 0, and -1 where masked.
        probability: (N, L) in [0, 1], for unknown cells too.

    Returns:
        (N, L) int8 and (N, L) float64, the latter rounded into [0, 1].

    Raises:
        ValueError: The shapes differ or have not two axes, or a value is none of the above.
    """
    known, values = np.asarray(truth), np.asarray(probability, dtype=np.float64)
    if known.ndim != 2 or known.shape != values.shape or known.shape[1] == 0:
        raise ValueError(f"truth has shape {known.shape}, probability {values.shape}; expected two equal tables (N, L)")
    _check_truth(known)
    if not ((values >= -ROUNDING) & (values <= 1 + ROUNDING)).all():
        worst = values[~((values >= -ROUNDING) & (values <= 1 + ROUNDING))][0]
        raise ValueError(f"probability holds {worst}; expected values in [0, 1], as a sigmoid or a softmax gives them")
    return known.astype(np.int8), values.clip(0.0, 1.0)


def column(truth: ArrayLike, score: ArrayLike) -> tuple[Bools, Floats, Indices]:
    """The known cells of one label.

    Args:
        truth: (N,) of 1, 0, and -1 where masked.
        score: (N,) finite floats.

    Returns:
        (K,) whether positive, (K,) scores and (K,) row numbers of the K known cells.

    Raises:
        ValueError: The shapes differ, a truth is none of the three or a score is not finite.
    """
    known, values = np.asarray(truth), np.asarray(score, dtype=np.float64)
    if known.ndim != 1 or known.shape != values.shape:
        raise ValueError(f"truth has shape {known.shape}, score {values.shape}; expected two equal lengths")
    _check_truth(known)
    if not np.isfinite(values).all():
        raise ValueError("score holds NaN or infinity; a network that diverged gives no metric")
    rows = np.flatnonzero(known >= 0)
    return known[rows] == 1, values[rows], rows


def sampling_units(groups: ArrayLike | None, n: int) -> tuple[Indices, int]:
    """What is drawn in a resample: patients, or images where there are none.

    Args:
        groups: (N,) patient numbers, any integers, or None.
        n: N.

    Returns:
        (N,) numbers from 0, and how many different ones there are.

    Raises:
        ValueError: There are not N numbers, or they are not integers.
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


def check_level(level: float) -> None:
    """Refuse a confidence level that is not strictly between 0 and 1, with a ValueError."""
    if not 0 < level < 1:
        raise ValueError(f"level is {level}; expected a confidence level between 0 and 1, such as 0.95")


def _check_truth(truth: NDArray[Any]) -> None:
    strange = ~np.isin(truth, (-1, 0, 1))
    if strange.any():
        raise ValueError(f"truth holds {truth[strange][0]}; expected 1, 0, or -1 where masked")
