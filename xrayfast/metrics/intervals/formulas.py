"""Confidence intervals by formula, for few patients or few errors, where bootstrap intervals are too narrow: of a
proportion, an AUROC, an average precision, and of means and differences of such estimates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from xrayfast.metrics.classification import Floats
from xrayfast.metrics.inputs import LEVEL, Bools, Indices, check_level
from xrayfast.metrics.intervals.delong import auroc_components
from xrayfast.metrics.intervals.roots import find_root
from xrayfast.metrics.proportions import clopper_pearson, wilson

FEW_FOR_BOOTSTRAP = 20
"""With fewer patients (or images) in the rarer class, the interval of an AUROC is Newcombe's."""

FEW_ERRORS = 3.0
"""The interval of an AUROC is also Newcombe's if the number of patients in the rarer class times 1 - AUROC (or AUROC,
if lower) is below this.
"""

METHODS = {
    "expanded-bca": "expanded BCa bootstrap",
    "inversion": "bootstrap test inversion",
    "wilson": "Wilson",
    "wilson-effective": "Wilson with effective sample size",
    "newcombe": "Newcombe",
    "logit": "logit",
    "combined": "combined from the labels' intervals",
    "paired": "paired Newcombe",
    "bca": "BCa bootstrap",
    "exact": "exact (Clopper-Pearson)",
    "korn-graubard": "Korn-Graubard",
}
"""How an interval was computed: the value of `method` in `metrics.json`, and the name shown to people. Only runs of
older versions have the last three.
"""

ALIKE = 0.5
"""The weight, as a number of patients, of the design effect of perfectly correlated images in the estimate of a
proportion's design effect (see `estimate_proportion`)."""

_NORMAL = NormalDist()


@dataclass(frozen=True)
class Estimate:
    """A metric's value with its interval by formula, and the influence of each patient, from which its correlation with
    other estimates is computed.

    Attributes:
        value: NaN where undefined, as are the limits.
        influence: (U,) how much each patient (or image) moves the value; the sum of the squares is its variance.
        method: a key of `METHODS`.
        few: whether a bootstrap interval is too narrow here.
        size: for a proportion, the (effective) number of images; else None.
    """

    value: float
    low: float
    high: float
    influence: Floats
    method: str
    few: bool = True
    size: float | None = None


def estimate_proportion(success: Bools, unit: Indices, n_units: int, level: float = LEVEL) -> Estimate:
    """Estimate a proportion with Wilson's interval, for the effective number of images if patients have several.

    `success` is (K,) bool: whether each image in the denominator, with the (K,) `unit`, is in the numerator.

    Images of one patient are correlated: n images carry as much information as n / design effect independent ones,
    where the design effect is the variance between patients over the variance for n independent images. Near 0 and 1
    few patients have images of the rarer outcome, and in most studies the variance is estimated far too small. The
    design effect is therefore a weighted mean: of its plain estimate, with the number of these patients as the weight,
    and of the design effect of perfectly correlated images, with the weight `ALIKE`. At 0 and 1 only the latter counts.
    In simulations (`test_coverage.py`) the coverage is closer to the level than that of Korn and Graubard's interval of
    1998 (Clopper-Pearson for the effective number of images, with Student's t), and the interval is narrower.

    Wilson 1927; effective sample size: Franco, Little, Louis and Slud 2019 (Journal of Survey Statistics and
    Methodology 7:334), who find Wilson's interval the best of eight with it, and all of them too narrow with the plain
    estimate of the design effect.
    """
    images = np.bincount(unit, minlength=n_units)
    return estimate_proportion_of_sums(images, np.bincount(unit[success], minlength=n_units), level)


def estimate_proportion_of_sums(images: Indices, right: Indices, level: float = LEVEL) -> Estimate:
    """Estimate a proportion like `estimate_proportion`, from (U,) counts of each patient's images in the denominator
    and (U,) counts of those in the numerator.
    """
    n = int(images.sum())
    if not n:
        return Estimate(math.nan, math.nan, math.nan, np.zeros(len(images)), "wilson")
    patients, value = int((images > 0).sum()), float(right.sum() / n)
    influence = (right - value * images) / n
    size, method = float(n), "wilson"
    if patients < n:
        size, method = n / _proportion_design_effect(influence, value, images, right), "wilson-effective"
    low, high = wilson(value * size, size, level)
    return Estimate(value, float(low), float(high), influence, method, size=size)


def estimate_auroc(positive: Bools, score: Floats, unit: Indices, n_units: int) -> Estimate:
    """Estimate an AUROC with Newcombe's interval, for the effective number of images of each class.

    `positive` is (K,) bool: whether each image that is not masked, with the (K,) `score` and `unit`, has the label.

    The effective number is the number of images divided by the design effect: the variance between patients (Obuchowski
    1997) over DeLong's variance, which treats images as independent. Where there is no design effect, as for a perfect
    AUROC, the number of patients of each class is used.

    Newcombe 2006, method 5.
    """
    if positive.all() or not positive.any():
        return Estimate(math.nan, math.nan, math.nan, np.zeros(n_units), "newcombe")
    found = auroc_components(positive, score, unit, n_units)
    m, n = float(positive.sum()), float((~positive).sum())
    patients = len(np.unique(unit[positive])), len(np.unique(unit[~positive]))
    if found.independent > 0 and not math.isnan(found.variance):
        most = max(_most_design_effect(unit[positive]), _most_design_effect(unit[~positive]))
        effect = min(max(found.variance / found.independent, 1.0), most)
        m, n = max(m / effect, 1.0), max(n / effect, 1.0)
    else:
        m, n = float(patients[0]), float(patients[1])
    low, high = newcombe_auroc(found.value, m, n)
    return Estimate(found.value, low, high, found.influence, "newcombe", are_few(min(patients), found.value))


def are_few(patients: int, auroc: float) -> bool:
    """Whether the patients of the rarer class, or the errors on them, are too few for a bootstrap of the AUROC."""
    return patients < FEW_FOR_BOOTSTRAP or patients * min(auroc, 1 - auroc) < FEW_ERRORS


def newcombe_auroc(auroc: float, positives: float, negatives: float, level: float = LEVEL) -> tuple[float, float]:
    """Compute the interval of an AUROC by Newcombe's method 5: the AUROCs from which the observed one is not too far.

    The largest distance is a normal quantile times the standard error, from Hanley and McNeil's variance at the AUROC
    in question, in whose numerator the mean of the two counts replaces each. The interval has a width for a perfect
    AUROC too.

    >>> [round(end, 3) for end in newcombe_auroc(1.0, 20, 20)]
    [0.899, 1.0]

    Newcombe 2006 (Statistics in Medicine 25:559); Hanley and McNeil 1982.
    """
    check_level(level)
    z2, others = _NORMAL.inv_cdf(0.5 + level / 2) ** 2, (positives + negatives) / 2 - 1

    def excess(true: float) -> float:
        shape = 1 + others * ((1 - true) / (2 - true) + true / (1 + true))
        return (auroc - true) ** 2 - z2 * true * (1 - true) * shape / (positives * negatives)

    tiny = 1e-12
    low = 0.0 if auroc <= tiny else find_root(excess, 0.0, min(auroc, 1 - tiny))
    high = 1.0 if auroc >= 1 - tiny else find_root(excess, max(auroc, tiny), 1.0)
    return low, high


def estimate_average_precision(value: float, patients: int, n_units: int) -> Estimate:
    """Estimate the interval of an average precision on the logit scale, with each patient with the label as one trial.

    With few such patients the average precision itself is biased upward: with 5 among 200 images, it is 0.29 instead of
    0.21. The interval is wide enough for that bias; an interval of the mean over such labels is not.

    Boyd, Eng and Page 2013; if the value is 0 or 1, Clopper and Pearson's interval.
    """
    nothing = np.zeros(n_units)
    if math.isnan(value) or not patients:
        return Estimate(math.nan, math.nan, math.nan, nothing, "logit")
    if 0 < value < 1:
        low, high = logit_limits(value, math.sqrt(value * (1 - value) / patients))
    else:
        low, high = map(float, clopper_pearson(value * patients, patients))
    return Estimate(value, low, high, nothing, "logit", patients < FEW_FOR_BOOTSTRAP or not 0 < value < 1)


def mean_of(estimates: Sequence[Estimate]) -> Estimate:
    """Estimate the mean of estimates, such as the AUROCs of several labels, with an interval from theirs.

    The half-widths are combined like standard errors, with the correlations of the patients' influences. The midpoint
    is shifted from the value, as the midpoints of the estimates' intervals are because the variance depends on the
    value: by the mean of their shifts, weighted by squared half-width, divided by the number of estimates. For one
    estimate the interval is its own; for many it is nearly symmetric.

    Returns:
        NaN throughout if one of the estimates has no interval.
    """
    values, halves, shifts, influences = _stack(estimates)
    share = 1 / len(estimates)
    half = share * math.sqrt(max(float(halves @ _correlations(influences) @ halves), 0.0))
    total = float(halves @ halves)
    value = float(values.mean())
    middle = value + (share * float(halves**2 @ shifts) / total if total > 0 else 0.0)
    # Rounding, or intervals that are skewed to different sides, must not leave the value outside the interval.
    low, high = min(max(middle - half, 0.0), value), max(min(middle + half, 1.0), value)
    return Estimate(value, low, high, influences.mean(axis=0), "combined", any(each.few for each in estimates))


def difference_of(a: Estimate, b: Estimate) -> Estimate:
    """Estimate the difference of two estimates on the same patients, a minus b, with an interval that never has zero
    width.

    The distances from each value to its limits are combined like standard errors, with the correlation of the two
    estimates. For two proportions of the same images this is Newcombe's method 10. Instead of his continuity
    correction, 1 is added to each cell of the 2x2 table from which the correlation is computed (Laplace): with few
    images the interval is narrower then, and its lowest coverage is as high, by exact enumeration (`test_formulas.py`).

    Newcombe 1998 (Statistics in Medicine 17:2635); in general, Zou and Donner 2008 (MOVER).
    """
    correlation = float(_correlations(np.stack([a.influence, b.influence]))[0, 1])
    if a.size is not None and b.size is not None:
        correlation = _add_one(correlation, a.value, b.value, math.sqrt(a.size * b.size))

    def joined(x: float, y: float) -> float:
        return math.sqrt(max(x**2 + y**2 - 2 * correlation * x * y, 0.0))

    value = a.value - b.value
    low, high = value - joined(a.value - a.low, b.high - b.value), value + joined(a.high - a.value, b.value - b.low)
    return Estimate(value, low, high, a.influence - b.influence, "paired", a.few or b.few)


def logit_limits(value: float, error: float) -> tuple[float, float]:
    """Compute a value's interval from its standard error, symmetric on the logit scale; NaN if it is not in (0, 1)."""
    if not 0 < value < 1 or math.isnan(error):
        return math.nan, math.nan
    center, half = math.log(value / (1 - value)), _NORMAL.inv_cdf(0.5 + LEVEL / 2) * error / (value * (1 - value))
    low, high = (1 / (1 + math.exp(-min(max(end, -700.0), 700.0))) for end in (center - half, center + half))
    return low, high


def _stack(estimates: Sequence[Estimate]) -> tuple[Floats, Floats, Floats, Floats]:
    """Return (K,) values, half-widths and shifts of the midpoints from the values, and (K, U) influences."""
    values, lows, highs = (np.array([getattr(each, name) for each in estimates]) for name in ("value", "low", "high"))
    return values, (highs - lows) / 2, (highs + lows) / 2 - values, np.stack([each.influence for each in estimates])


def _correlations(influences: Floats) -> Floats:
    """Return the (K, K) correlations of (K, U) influences; 0 with an estimate that no patient moves."""
    products = influences @ influences.T
    sizes = np.sqrt(np.diagonal(products))
    both = np.outer(sizes, sizes)
    found: Floats = np.divide(products, both, out=np.zeros_like(products), where=both > 0)
    np.fill_diagonal(found, 1.0)
    return found


def _add_one(correlation: float, p: float, q: float, n: float) -> float:
    """Return the correlation of two proportions of n images after 1 is added to each cell of their 2x2 table."""
    both = p * q + correlation * math.sqrt(p * (1 - p) * q * (1 - q))
    p, q, both = (n * p + 2) / (n + 4), (n * q + 2) / (n + 4), (n * both + 1) / (n + 4)
    return min(max((both - p * q) / math.sqrt(p * (1 - p) * q * (1 - q)), -1.0), 1.0)


def _proportion_design_effect(influence: Floats, value: float, images: Indices, right: Indices) -> float:
    n, patients = float(images.sum()), int((images > 0).sum())
    alike = float((images**2).sum()) / n
    rarer = int(min((right > 0).sum(), (right < images).sum()))
    if not rarer or patients < 2:
        return alike
    found = float(influence @ influence) * patients / (patients - 1) * n / (value * (1 - value))
    return min(max((rarer * found + ALIKE * alike) / (rarer + ALIKE), 1.0), n)


def _most_design_effect(unit: Indices) -> float:
    """Return the design effect if the images of each patient were perfectly correlated."""
    images = np.unique(unit, return_counts=True)[1]
    return float((images**2).sum() / images.sum())
