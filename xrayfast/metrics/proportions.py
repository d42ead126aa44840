"""Closed-form confidence intervals of a proportion of independent trials."""

from __future__ import annotations

from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xrayfast.metrics.classification import Floats
from xrayfast.metrics.inputs import LEVEL, check_level


def wilson(successes: ArrayLike, trials: ArrayLike, level: float = LEVEL) -> tuple[Floats, Floats]:
    """Compute Wilson's score interval: its coverage is near the level on average, and it is not degenerate at 0 and 1.

    Returns:
        Lower and upper limit, each (...) in [0, 1]; NaN where there are no trials. Too narrow for several images per
        patient, which are not independent (`metrics.intervals.bootstrap` resamples patients).

    Raises:
        ValueError: Successes are outside [0, trials], or the level is outside (0, 1).

    Wilson 1927; recommended by Newcombe 1998 and by Brown, Cai and DasGupta 2001.
    """
    x, n = _counts(successes, trials, level)
    z = NormalDist().inv_cdf(0.5 + level / 2)
    with np.errstate(invalid="ignore", divide="ignore"):
        share = x / n
        center = (share + z**2 / (2 * n)) / (1 + z**2 / n)
        half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    # At the ends the limits are exactly 0 and 1, where the formula leaves a rounding error.
    low = np.where((x == 0) & (n > 0), 0.0, center - half)
    high = np.where((x == n) & (n > 0), 1.0, center + half)
    return low, high


def clopper_pearson(successes: ArrayLike, trials: ArrayLike, level: float = LEVEL) -> tuple[Floats, Floats]:
    """Compute the exact interval: its coverage is at least the level for every proportion, at the price of width.

    Arguments, shapes and errors are those of `wilson`.

    Clopper and Pearson 1934.
    """
    from scipy.special import betaincinv

    x, n = _counts(successes, trials, level)
    tail = (1 - level) / 2
    # Where a limit is 0 or 1 by definition, the result of `betaincinv` is not used, and `maximum` keeps its arguments
    # valid.
    low = np.where(x > 0, betaincinv(np.maximum(x, 1), n - x + 1, tail), 0.0)
    high = np.where(x < n, betaincinv(x + 1, np.maximum(n - x, 1), 1 - tail), 1.0)
    return np.where(n > 0, low, np.nan), np.where(n > 0, high, np.nan)


def _counts(successes: ArrayLike, trials: ArrayLike, level: float) -> tuple[NDArray[Any], NDArray[Any]]:
    check_level(level)
    x, n = np.asarray(successes, dtype=np.float64), np.asarray(trials, dtype=np.float64)
    if not ((x >= 0) & (x <= n)).all():
        raise ValueError("successes lie outside 0 to trials; expected counts of the same trials")
    return x, n
