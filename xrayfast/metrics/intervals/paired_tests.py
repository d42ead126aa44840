"""Tests of two models on the same images, and the correction for multiple testing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from xrayfast.metrics.classification import Floats
from xrayfast.metrics.inputs import sampling_units


@dataclass(frozen=True)
class McNemar:
    """The number of images that only one of two models gets right, and the two-sided exact p-value."""

    only_a: int
    only_b: int
    p: float


def mcnemar(right_a: ArrayLike, right_b: ArrayLike, groups: ArrayLike | None = None) -> McNemar:
    """Compute McNemar's exact test, clustered by patient, from (N,) whether a and b get each image right.

    Each patient has a balance: the number of images that only a gets right minus the number that only b gets right.
    Under the null hypothesis it is as likely positive as negative. The p-value is the share of all assignments of signs
    whose sum is at least as far from 0 as the observed sum. With one image per patient this is the binomial test of the
    discordant images. Leave out images whose labels are masked.

    Returns:
        The counts and p, which is 1 if every patient's balance is 0.

    McNemar 1947.
    """
    a, b = np.asarray(right_a, dtype=bool), np.asarray(right_b, dtype=bool)
    if a.ndim != 1 or a.shape != b.shape:
        raise ValueError(f"right_a has shape {a.shape}, right_b {b.shape}; expected two equal lengths")
    unit, n_units = sampling_units(groups, len(a))
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    balance = np.rint(np.bincount(unit, weights=a.astype(int) - b, minlength=n_units)).astype(np.int64)
    chances = _sign_sums(np.abs(balance[balance != 0]))
    upper = float(chances[len(chances) // 2 + abs(int(balance.sum())) :].sum())
    return McNemar(only_a, only_b, min(1.0, 2 * upper))


def resampled_t_test(differences: ArrayLike, test_share: float) -> float:
    """Compute the p-value of the corrected resampled t-test of differences between two ways of training, one per fold.

    The test is two-sided; its null hypothesis is that the mean difference is 0.

    The networks of the folds share training images, so the variance of the mean is larger than s²/J. It is estimated as
    (1/J + n_test/n_train) s².

    Args:
        differences: (J,) differences of a metric on the same folds.
        test_share: n_test/n_train, the number of images that a fold predicts over the number that it is trained on:
            1 / (K - 1) with K folds.

    Returns:
        NaN if there are fewer than two differences; 1 if all are 0; 0 if all are equal but not 0.

    Nadeau and Bengio 2003; for repeated folds, Bouckaert and Frank 2004.
    """
    from scipy.special import stdtr

    found = np.asarray(differences, dtype=np.float64)
    if len(found) < 2:
        return float("nan")
    mean, deviation = found.mean(), found.std(ddof=1)
    if deviation == 0:
        return float(mean == 0)
    statistic = mean / (deviation * np.sqrt(1 / len(found) + test_share))
    return float(2 * stdtr(len(found) - 1, -abs(statistic)))


def holm(p: ArrayLike) -> Floats:
    """Correct p-values for multiple testing, which keeps the family-wise error rate below the significance level.

    Args:
        p: (K,) in [0, 1]; NaN does not count as a test.

    Returns:
        (K,) adjusted p-values, each at least its own p and at most 1; NaN where p is NaN.

    Holm 1979.
    """
    values = np.asarray(p, dtype=np.float64)
    tested = np.flatnonzero(~np.isnan(values))
    if ((values[tested] < 0) | (values[tested] > 1)).any():
        raise ValueError(f"p is {p!r}; expected values in [0, 1], or NaN")
    order = tested[np.argsort(values[tested], kind="stable")]
    adjusted = np.full(values.shape, np.nan)
    adjusted[order] = np.minimum(np.maximum.accumulate(values[order] * np.arange(len(order), 0, -1)), 1.0)
    return adjusted


def _sign_sums(sizes: Floats) -> Floats:
    """Return the probabilities of the sums -T ... T of positive integers with random signs, where T is their total."""
    from scipy.stats import binom

    chances = np.ones(1)
    for size, many in zip(*np.unique(sizes, return_counts=True), strict=True):
        spread = np.zeros(2 * size * many + 1)
        spread[:: 2 * size] = binom.pmf(np.arange(many + 1), many, 0.5)
        chances = np.convolve(chances, spread)
    return chances
