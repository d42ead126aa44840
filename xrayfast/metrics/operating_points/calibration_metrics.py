"""Metrics of how well a label's probabilities are calibrated: intercept, slope, observed over expected, Brier skill."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xrayfast.metrics.classification import Floats, nan_to_none
from xrayfast.metrics.inputs import Indices, column, sampling_units, table
from xrayfast.metrics.operating_points.calibration import FLOOR, fit_bias, fit_slope_and_bias, logit

TITLES = {
    "calibration_intercept": "Intercept",
    "calibration_slope": "Slope",
    "observed_over_expected": "Observed / expected",
    "brier_skill": "Brier skill",
}
"""The metrics of `calibration_rows`, and the titles shown to people."""

MIN_UNITS = 8
"""With fewer patients (or images) with the label, or without it, there are no intervals."""


def calibration_rows(
    truth: ArrayLike,
    probability: ArrayLike,
    labels: Sequence[str],
    groups: ArrayLike | None = None,
    *,
    with_intervals: bool = True,
) -> list[dict[str, Any]]:
    """Compute calibration metrics of each label (Van Calster et al. 2019, BMC Med 17:230), ready for JSON: undefined
    values are None.

    The intercept is that of a logistic regression of the label with the logit as offset: 0 is best; below 0,
    probabilities are too high. The slope is that of a logistic regression on the logit: 1 is best; below 1,
    probabilities are too extreme. Observed over expected is the number of images with the label over the sum of the
    images' probabilities. The Brier skill is 1 minus the ratio of the Brier score to that of predicting the prevalence
    for every image: 1 is best, and 0 is no better than the prevalence.

    The 95% intervals are the value plus and minus its standard error times a quantile of Student's t, for observed
    over expected on the log scale. The standard error is cluster-robust: it sums the influences of each patient's
    images (the sandwich estimator of Liang and Zeger 1986). The degrees of freedom are the number of patients of the
    rarer class minus 1; with 8 or more such patients, simulations give a coverage of 0.91 to 0.99
    (`test_calibration_metrics.py`).

    Returns:
        L rows: `label`, the keys of `TITLES`, and `intervals` by the same keys, with `low` and `high`. If most
        probabilities are 0 or 1, whose logits are infinite, there is no intercept and no slope, but a `reason`.
    """
    actual, values = table(truth, probability)
    unit = sampling_units(groups, len(actual))[0]
    return [
        {"label": label, **_row(cells, scores, unit, with_intervals)}
        for label, cells, scores in zip(labels, actual.T, values.T, strict=True)
    ]


def _row(truth: NDArray[Any], probability: Floats, unit: Indices, with_intervals: bool) -> dict[str, Any]:
    positive, values, rows = column(truth, probability)
    if not positive.any() or positive.all():
        return {**dict.fromkeys(TITLES), "intervals": {}}
    patients = unit[rows]
    found = _influences(positive.astype(np.float64), values)
    fewest = min(len(np.unique(patients[positive])), len(np.unique(patients[~positive])))
    ends: dict[str, dict[str, float | None]] = {}
    for name, (value, influence) in found.items():
        low = high = math.nan
        if with_intervals and fewest >= MIN_UNITS and not math.isnan(value):
            low, high = _limits(value, influence, patients, fewest - 1, name == "observed_over_expected")
        ends[name] = {"low": nan_to_none(low), "high": nan_to_none(high)}
    return {
        **{name: nan_to_none(value) for name, (value, _) in found.items()},
        "intervals": ends if with_intervals else {},
        **({"reason": "most probabilities are 0 or 1"} if _most_are_certain(values) else {}),
    }


def _most_are_certain(values: Floats) -> bool:
    return bool((np.minimum(values, 1 - values) <= FLOOR).mean() > 0.5)


def _influences(actual: Floats, values: Floats) -> dict[str, tuple[float, Floats]]:
    """Compute each metric and the (N,) influence of the images on it; for observed over expected, on its logarithm."""
    from scipy.special import expit

    logits, share = logit(values), float(actual.mean())
    intercept = fit_bias(logits, share)
    fitted = expit(logits + intercept)
    shift = (actual - fitted) / (fitted * (1 - fitted)).sum()
    slope, tilt = math.nan, np.zeros_like(values)
    if logits[actual == 1].min() < logits[actual == 0].max() and logits[actual == 0].min() < logits[actual == 1].max():
        slope, bias, _ = fit_slope_and_bias(logits, actual)
        fitted = expit(slope * logits + bias)
        weight = fitted * (1 - fitted)
        centered = logits - (weight * logits).sum() / weight.sum()
        tilt = centered * (actual - fitted) / (weight * centered**2).sum()
    error, spread = (actual - values) ** 2, share * (1 - share)
    worth = error.mean() / spread
    of_skill = (worth * ((actual - share) ** 2 - spread) - (error - error.mean())) / spread / len(actual)
    observed, expected = actual.sum(), values.sum()
    ratio = observed / expected if expected > FLOOR else math.nan
    of_ratio = actual / observed - values / (expected or 1.0)
    if _most_are_certain(values):
        intercept = slope = math.nan
    return {
        "calibration_intercept": (intercept, shift),
        "calibration_slope": (slope, tilt),
        "observed_over_expected": (float(ratio), of_ratio),
        "brier_skill": (float(1 - worth), of_skill),
    }


def _limits(value: float, influence: Floats, unit: Indices, freedom: int, is_ratio: bool) -> tuple[float, float]:
    from scipy.special import stdtrit

    _, place = np.unique(unit, return_inverse=True)
    error = float(np.sqrt((np.bincount(place, weights=influence) ** 2).sum()))
    half = float(stdtrit(freedom, 0.975)) * error
    if is_ratio:
        return value * math.exp(-half), value * math.exp(half)
    return value - half, value + half
