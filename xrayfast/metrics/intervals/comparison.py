"""Tests of two models on the same images, and the correction for many tests."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from xrayfast.metrics.classification import Floats
from xrayfast.metrics.inputs import sampling_units


@dataclass(frozen=True)
class McNemar:
    """The images that only one of two models has right, and the two-sided exact p-value."""

    only_a: int
    only_b: int
    p: float


def mcnemar(right_a: ArrayLike, right_b: ArrayLike, groups: ArrayLike | None = None) -> McNemar:
    """McNemar's exact test, clustered by patient.

    Under the null hypothesis each patient's balance (images that only a has right minus those that only b has right) is
    as likely positive as negative. The p-value is the share of all assignments of signs whose sum is at least as far
    from 0 as the observed one. With one image per patient this is the binomial test of the discordant images.

    Args:
        right_a: (N,) whether a has the image right.
        right_b: (N,) the same of b. Leave out images whose labels are masked.
        groups: (N,) patient numbers, or None where images are independent.

    Returns:
        p is 1 where there is no discordant image.

    Raises:
        ValueError: The shapes differ.

    McNemar 1947.
    """
    a, b = np.asarray(right_a, dtype=bool), np.asarray(right_b, dtype=bool)
    if a.ndim != 1 or a.shape != b.shape:
        raise ValueError(f"right_a has shape {a.shape}, right_b {b.shape}; expected two equal lengths")
    unit, n_units = sampling_units(groups, len(a))
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    balance = np.rint(np.bincount(unit, weights=a.astype(int) - b, minlength=n_units)).astype(np.int64)
    if not balance.any():
        return McNemar(only_a, only_b, 1.0)
    chances = _sign_sums(np.abs(balance[balance != 0]))
    upper = float(chances[len(chances) // 2 + abs(int(balance.sum())) :].sum())
    return McNemar(only_a, only_b, min(1.0, 2 * upper))


def resampled_t_test(differences: ArrayLike, test_share: float) -> float:
    """The p-value of the corrected resampled t-test of differences between two ways of training, one per fold.

    It is two-sided; under the null hypothesis they are 0 on average.

    The networks of the folds share training images, so that the variance of the mean is larger than s²/J: it is taken
    as (1/J + n_test/n_train) s².

    Args:
        differences: (J,) of a metric on the same folds.
        test_share: images that a fold predicts over those that it is trained on: 1 / (K - 1) with K folds.

    Returns:
        NaN where there are fewer than two differences; 1 where all are 0, and 0 where all are alike otherwise.

    Nadeau and Bengio 2003; for repeated folds Bouckaert and Frank 2004.
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
    """P-values corrected for multiple testing: the family-wise error rate stays below the level.

    Args:
        p: (K,) in [0, 1]; NaN is no test and does not count.

    Returns:
        (K,) adjusted p-values, each at least its own p and at most 1; NaN where p is.

    Raises:
        ValueError: A p-value outside [0, 1].

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
    """Chances of the sums -T ... T of positive integers with random signs, T their total."""
    from scipy.stats import binom

    chances = np.ones(1)
    for size, many in zip(*np.unique(sizes, return_counts=True), strict=True):
        spread = np.zeros(2 * size * many + 1)
        spread[:: 2 * size] = binom.pmf(np.arange(many + 1), many, 0.5)
        chances = np.convolve(chances, spread)
    return chances
