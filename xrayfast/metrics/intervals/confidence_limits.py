"""The confidence limits of a metric from its values in many resamples."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist

import numpy as np

from xrayfast.metrics.classification import Floats
from xrayfast.metrics.inputs import LEVEL

_NORMAL = NormalDist()
_ROUNDING = 1e-12


def bca(
    values: Floats, value: float, left_out: Floats, level: float = LEVEL, patients: int | None = None
) -> tuple[float, float]:
    """The bias-corrected and accelerated (BCa) interval.

    The plain percentile interval takes the resamples' 2.5th and 97.5th percentile. This one shifts both, by how far the
    resamples lie to one side of the value, and by how much the metric's spread changes with its value. With few
    patients and a metric near 1 (AUROC, specificity) it covers closer to its level (`test_coverage.py`).

    Args:
        values: (R,) of the resamples; NaN is left out.
        value: of the split itself.
        left_out: (J,) without one patient each, or without one of J equal shares of the patients; NaN is left out.
        level: of confidence.
        patients: that the metric rests on, to expand the interval: resamples of few spread less than samples do. None
            for no expansion.

    Returns:
        Low and high; NaN where there is no value or no resample has one.

    Efron 1987; expanded as in Hesterberg 2015 (The American Statistician 69:371); the acceleration from a grouped
    jackknife as in Efron and Tibshirani 1993, chapter 14.
    """
    defined = values[~np.isnan(values)]
    if math.isnan(value) or not len(defined):
        return math.nan, math.nan
    # Half of those equal to the value, up to rounding, count as below; neither side is treated as empty.
    below = float((defined < value - _ROUNDING).sum() + (defined <= value + _ROUNDING).sum()) / 2
    shift = _NORMAL.inv_cdf(min(max(below, 0.5), len(defined) - 0.5) / len(defined))
    influence = left_out[~np.isnan(left_out)]
    influence = influence.mean() - influence if len(influence) else influence
    spread = float(np.sqrt(influence @ influence))
    acceleration = float(((influence / spread) ** 3).sum()) / 6 if spread > _ROUNDING else 0.0

    reach = _expanded(level, patients)

    def place(deviation: float) -> float:
        z = shift + deviation
        scale = 1 - acceleration * z
        return _NORMAL.cdf(shift + z / scale) if scale > 0 else _NORMAL.cdf(deviation)

    low, high = np.quantile(defined, [place(-reach), place(reach)]).tolist()
    return low, high


def _expanded(level: float, patients: int | None) -> float:
    """The normal deviate of a level, for the spread and the uncertainty of the spread of few patients."""
    if patients is None:
        return _NORMAL.inv_cdf(0.5 + level / 2)
    from scipy.special import stdtrit  # Student's t; scipy.stats takes half a second to import

    n = max(patients, 2)
    return math.sqrt(n / (n - 1)) * float(stdtrit(n - 1, 0.5 + level / 2))


def norm_limits(gaps: Floats, drawn: Floats) -> tuple[float, float]:
    """An interval for a sum of absolute values, such as a calibration error.

    Noise makes such a sum larger and never smaller, so that a resample has more of it than the sample, which has more
    than the truth: the percentiles of a perfectly calibrated network's error exclude 0 nearly always. Instead, the
    interval holds the errors with which what was observed is not unlikely: those for which the sample's gaps, scaled
    to that error and with the resamples' noise added, give neither a larger nor a smaller sum in nearly all resamples.

    Args:
        gaps: (K,) each bin's gap, of the split itself; the metric is the sum of their absolute values.
        drawn: (R, K) the same of the resamples; a row with NaN is left out.

    Returns:
        Low and high, at least 0, the value between them (it can be the high end, since it is itself too large); NaN
        where no resample has a value.
    """
    value = float(np.abs(gaps).sum())
    noise = drawn[~np.isnan(drawn).any(axis=1)] - gaps
    if math.isnan(value) or not len(noise):
        return math.nan, math.nan
    direction = gaps / value if value > 0 else np.full(len(gaps), 1 / len(gaps))
    top = value + float(np.abs(noise).sum(axis=1).max())

    def sum_at(error: float, share: float) -> float:
        return float(np.quantile(np.abs(error * direction + noise).sum(axis=1), share))

    low = _smallest(lambda error: sum_at(error, 0.5 + LEVEL / 2) >= value, top)
    high = _smallest(lambda error: sum_at(error, 0.5 - LEVEL / 2) > value, top)
    return min(low, value), max(high, value)


def _smallest(holds: Callable[[float], bool], top: float) -> float:
    """The smallest value in [0, top] for which a monotone condition holds, by bisection."""
    if holds(0.0):
        return 0.0
    low, high = 0.0, top
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high
