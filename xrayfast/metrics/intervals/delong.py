"""DeLong's variance and confidence interval of an AUROC, and the paired test of two AUROCs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

from xrayfast.metrics.classification import Floats, midranks
from xrayfast.metrics.inputs import LEVEL, Bools, Indices, column, sampling_units

_REACH = NormalDist().inv_cdf(0.5 + LEVEL / 2)


@dataclass(frozen=True)
class AurocInterval:
    """An AUROC with its standard error and confidence interval, all in [0, 1]; NaN where undefined."""

    auroc: float
    error: float
    low: float
    high: float


@dataclass(frozen=True)
class AurocTest:
    """The difference of two AUROCs on the same images and the two-sided test that it is 0; NaN where undefined.

    `difference` is a minus b, `error` its standard error, `low` and `high` the limits of its confidence interval, and
    `z` is difference / error.
    """

    difference: float
    error: float
    low: float
    high: float
    z: float
    p: float


def delong(truth: ArrayLike, score: ArrayLike, groups: ArrayLike | None = None) -> AurocInterval:
    """Compute an AUROC with DeLong's interval, which is symmetric and clipped to [0, 1].

    Returns:
        All values are NaN if a class is absent; only the standard error and the interval are NaN if one patient has all
        images of a class. A perfect AUROC has standard error 0 and an interval of zero width, which does not mean that
        it is certain.

    DeLong, DeLong and Clarke-Pearson 1988; for clustered data, Obuchowski 1997.
    """
    (auroc,), (variance,) = _aurocs(truth, [score], groups)
    error = float(np.sqrt(variance))
    half = _REACH * error
    low, high = np.clip([auroc - half, auroc + half], 0.0, 1.0).tolist()
    return AurocInterval(float(auroc), error, low, high)


def delong_test(truth: ArrayLike, score_a: ArrayLike, score_b: ArrayLike, groups: ArrayLike | None = None) -> AurocTest:
    """Test whether two scores of the same images differ in AUROC.

    The truth, scores, groups and errors are as in `delong`.

    Returns:
        NaN as in `delong`. If both scores rank the images identically, difference and z are 0 and p is 1. If the
        standard error is 0 but the difference is not (AUROCs of 0 and 1), z and p are NaN.

    DeLong, DeLong and Clarke-Pearson 1988; for clustered data, Obuchowski 1997.
    """
    (a, b), (*_, variance) = _aurocs(truth, [score_a, score_b], groups, contrast=True)
    difference, error = float(a - b), float(np.sqrt(variance))
    half = _REACH * error
    at_limit = 0.0 if difference == 0 else math.nan
    z = difference / error if error != 0 else at_limit
    p = math.erfc(abs(z) / math.sqrt(2))
    return AurocTest(difference, error, difference - half, difference + half, z, p)


def placements(positive: Bools, scores: Floats) -> tuple[Floats, Floats]:
    """Compute DeLong's structural components: how each image ranks among the images of the other class.

    Args:
        positive: (N,) whether an image has the label; M have it.
        scores: (K, N) the images' values of K scores.

    Returns:
        (K, M) the share of negatives that score below each positive and (K, N - M) the share of positives that score
        above each negative, ties counting half. The mean of either is the AUROC.

    Computed from midranks in O(N log N): Sun and Xu 2014.
    """
    n_positive, n_negative = int(positive.sum()), int((~positive).sum())
    of_positive, of_negative = np.empty((len(scores), n_positive)), np.empty((len(scores), n_negative))
    for i, score in enumerate(scores):
        ranks = midranks(score)
        of_positive[i] = (ranks[positive] - midranks(score[positive])) / n_negative
        of_negative[i] = 1 - (ranks[~positive] - midranks(score[~positive])) / n_positive
    return of_positive, of_negative


@dataclass(frozen=True)
class AurocComponents:
    """An AUROC, its variance, and the influence of each patient on it.

    Attributes:
        value: in [0, 1].
        variance: Obuchowski's variance, between patients; NaN if one patient has all images of a class.
        independent: DeLong's variance, which treats images as independent; NaN if a class has one image.
        influence: (U,) how much each patient (or image) moves the value.
    """

    value: float
    variance: float
    independent: float
    influence: Floats


def auroc_components(positive: Bools, score: Floats, unit: Indices, n_units: int) -> AurocComponents:
    """Compute the AUROC of one label, its variance and the influence of each patient.

    `positive` is (K,) bool, with both classes; `score` and `unit` are (K,).
    """
    of_positive, of_negative = placements(positive, score[None])
    (variance,), influence = _variances(of_positive, of_negative, unit[positive], unit[~positive], n_units)
    sides = of_positive[0], of_negative[0]
    independent = sum(float(side.var(ddof=1)) / len(side) if len(side) > 1 else math.nan for side in sides)
    return AurocComponents(float(of_positive.mean()), float(variance), independent, influence[0])


def _aurocs(
    truth: ArrayLike, scores: list[ArrayLike], groups: ArrayLike | None, contrast: bool = False
) -> tuple[Floats, Floats]:
    """Return (K,) AUROCs and their variances; with `contrast`, also the variance of the first minus the second.

    The components are subtracted before they are squared, so that the variance is exactly 0 for two equal scores.
    """
    columns = [column(truth, score) for score in scores]
    positive, _, rows = columns[0]
    if positive.all() or not positive.any():
        return np.full(len(scores), np.nan), np.full(len(scores) + contrast, np.nan)
    unit, n_units = sampling_units(groups, len(np.asarray(truth)))
    of_positive, of_negative = placements(positive, np.stack([values for _, values, _ in columns]))
    if contrast:
        of_positive, of_negative = (np.vstack([each, each[0] - each[1]]) for each in (of_positive, of_negative))
    unit = unit[rows]
    variances, _ = _variances(of_positive, of_negative, unit[positive], unit[~positive], n_units)
    return of_positive[: len(scores)].mean(axis=1), variances


def _variances(
    of_positive: Floats, of_negative: Floats, unit_positive: Indices, unit_negative: Indices, n_units: int
) -> tuple[Floats, Floats]:
    """Return Obuchowski's variances of K AUROCs, which are DeLong's if each patient has one image, and the (K, U)
    influence of each patient on them.
    """

    def mean_by_unit(values: Floats, unit: Indices) -> Floats:
        centered = values - values.mean(axis=1, keepdims=True)
        return np.stack([np.bincount(unit, weights=row, minlength=n_units) for row in centered]) / len(unit)

    x, y = mean_by_unit(of_positive, unit_positive), mean_by_unit(of_negative, unit_negative)
    with_positive, with_negative = len(np.unique(unit_positive)), len(np.unique(unit_negative))
    if with_positive < 2 or with_negative < 2:
        return np.full(len(x), np.nan), x + y
    either = len(np.unique(np.concatenate([unit_positive, unit_negative])))
    variances = (
        with_positive / (with_positive - 1) * np.square(x).sum(axis=1)
        + with_negative / (with_negative - 1) * np.square(y).sum(axis=1)
        + 2 * either / (either - 1) * (x * y).sum(axis=1)
    )
    # Rounding can make a variance of 0 negative.
    return np.maximum(variances, 0.0), x + y
