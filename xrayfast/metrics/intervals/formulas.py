"""Intervals by formula, for few patients or errors, where a bootstrap is too narrow: of an AUROC, of a proportion, of
means and of differences of these.
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
"""With fewer patients (or images) in the rarer class the AUROC's interval is Newcombe's."""

FEW_ERRORS = 3.0
"""Likewise where the patients of the rarer class times 1 - AUROC (or AUROC, if lower) are fewer."""

METHODS = {
    "expanded-bca": "expanded BCa bootstrap",
    "inversion": "bootstrap, inverted",
    "wilson": "Wilson",
    "wilson-effective": "Wilson on effective images",
    "newcombe": "Newcombe's for AUROC",
    "logit": "logit",
    "combined": "from those of the labels",
    "paired": "Newcombe's for pairs",
    "bca": "BCa bootstrap",
    "exact": "exact (Clopper-Pearson)",
    "korn-graubard": "Korn-Graubard",
}
"""How an interval was computed: the value of `method` in `metrics.json`, and what people read. The last three are of
runs of older versions.
"""

ALIKE = 0.5
"""As how many patients the design effect of images that are all alike counts in the estimate of a proportion's."""

_NORMAL = NormalDist()


@dataclass(frozen=True)
class Estimate:
    """A metric's value with its interval by formula, and what correlates it with others of the same patients.

    Attributes:
        value: NaN where undefined, as are the ends.
        low: lower end of the interval.
        high: upper end.
        influence: (U,) by how much each patient (or image) moves the value; their squares sum to its variance.
        method: a key of `METHODS`.
        few: whether a bootstrap is too narrow here.
        size: the (effective) images of a proportion; else None.
    """

    value: float
    low: float
    high: float
    influence: Floats
    method: str
    few: bool = True
    size: float | None = None


def estimate_proportion(success: Bools, unit: Indices, n_units: int, level: float = LEVEL) -> Estimate:
    """A proportion with Wilson's interval, on the effective number of images where patients have several.

    Images of one patient are alike, and n of them tell as much as n over the design effect: the variance between
    patients over that of n independent images. Near 0 and 1 few patients have images of the rarer outcome, and the
    variance comes out far too small in most studies, so the estimate is the mean of it, weighted by these patients, and
    of the design effect of images that are all alike, weighted by `ALIKE`; at 0 and 1 the latter alone. In simulations
    (`test_coverage.py`) the interval covers closer to its level than Korn and Graubard's of 1998 (Clopper-Pearson on
    effective images, with Student's t), and is narrower.

    Args:
        success: (K,) of the images in the denominator.
        unit: (K,) their patients (or images).
        n_units: U.
        level: of confidence.

    Wilson 1927; on effective images Franco, Little, Louis and Slud 2019 (Journal of Survey Statistics and Methodology
    7:334), who find Wilson's the best of eight there, and all too narrow with the plain estimate of the design effect.
    """
    images = np.bincount(unit, minlength=n_units)
    return estimate_proportion_of_sums(images, np.bincount(unit[success], minlength=n_units), level)


def estimate_proportion_of_sums(images: Indices, right: Indices, level: float = LEVEL) -> Estimate:
    """The same from (U,) each patient's images in the denominator and (U,) those of them in the numerator."""
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
    """An AUROC with Newcombe's interval, for which the images of each class count as many as are independent.

    They are divided by the design effect, the variance between patients (Obuchowski 1997) over DeLong's, which takes
    images for independent. Where there is none, as of a perfect AUROC, each class counts its patients.

    Args:
        positive: (K,) whether an image has the label; masked ones are left out.
        score: (K,) finite.
        unit: (K,) the patients (or images).
        n_units: U.

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
    """Whether patients of the rarer class, or the errors on them, are too few for the bootstrap of an AUROC."""
    return patients < FEW_FOR_BOOTSTRAP or patients * min(auroc, 1 - auroc) < FEW_ERRORS


def newcombe_auroc(auroc: float, positives: float, negatives: float, level: float = LEVEL) -> tuple[float, float]:
    """The interval of an AUROC by Newcombe's method 5: the AUROCs from which the one found is not too far.

    How far is too far follows from Hanley and McNeil's variance at each AUROC, in which the mean of both counts stands
    for either. It has a width for a perfect AUROC too.

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
    """An average precision with the interval of its logit, in which each patient with the label is one trial.

    With few of them the average precision is itself too high: of 5 among 200 images, 0.29 in place of 0.21. The
    interval is wide enough for that; one of a mean over such labels is not.

    Boyd, Eng and Page 2013; where it is 0 or 1 that of Clopper and Pearson.
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
    """The mean of estimates, such as of the AUROCs of several labels, with an interval from theirs.

    Half the widths are added like standard deviations, with the correlation that the patients' influences give. The
    middle is moved from the value as far as the variance's slope moves those of the intervals: of one estimate the
    interval is its own, and that of many is nearly symmetric.

    Returns:
        NaN throughout where one estimate has no interval.
    """
    values, halves, shifts, influences = _stack(estimates)
    share = 1 / len(estimates)
    half = share * math.sqrt(max(float(halves @ _correlations(influences) @ halves), 0.0))
    total = float(halves @ halves)
    value = float(values.mean())
    middle = value + (share * float(halves**2 @ shifts) / total if total > 0 else 0.0)
    # Rounding, and two intervals that lean to different sides, must not leave the value outside.
    low, high = min(max(middle - half, 0.0), value), max(min(middle + half, 1.0), value)
    return Estimate(value, low, high, influences.mean(axis=0), "combined", any(each.few for each in estimates))


def difference_of(a: Estimate, b: Estimate) -> Estimate:
    """One estimate minus another on the same patients, with an interval from theirs that is never of zero width.

    The distances from each value to an end of its interval are added like standard deviations, with the correlation of
    both. Of two proportions of the same images this is Newcombe's method 10, with the correlation of the table of both
    to each of whose cells 1 is added (Laplace), in place of his continuity correction: of few images the interval is
    narrower then, and holds the truth as often at its worst, by exact enumeration (`test_formulas.py`).

    Newcombe 1998 (Statistics in Medicine 17:2635); in general Zou and Donner 2008 (MOVER).
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
    """The interval of a value in (0, 1) from its standard error, symmetric in its logit; NaN at 0 and 1."""
    if not 0 < value < 1 or math.isnan(error):
        return math.nan, math.nan
    centre, half = math.log(value / (1 - value)), _NORMAL.inv_cdf(0.5 + LEVEL / 2) * error / (value * (1 - value))
    low, high = (1 / (1 + math.exp(-min(max(end, -700.0), 700.0))) for end in (centre - half, centre + half))
    return low, high


def _stack(estimates: Sequence[Estimate]) -> tuple[Floats, Floats, Floats, Floats]:
    """(K,) values, half the widths, and the distances from value to middle; (K, U) influences."""
    values, lows, highs = (np.array([getattr(each, name) for each in estimates]) for name in ("value", "low", "high"))
    return values, (highs - lows) / 2, (highs + lows) / 2 - values, np.stack([each.influence for each in estimates])


def _correlations(influences: Floats) -> Floats:
    """(K, K) from the (K, U) influences; 0 with one that no patient moves."""
    products = influences @ influences.T
    sizes = np.sqrt(np.diagonal(products))
    both = np.outer(sizes, sizes)
    found: Floats = np.divide(products, both, out=np.zeros_like(products), where=both > 0)
    np.fill_diagonal(found, 1.0)
    return found


def _add_one(correlation: float, p: float, q: float, n: float) -> float:
    """The correlation of two proportions of n images once 1 is added to each cell of their 2x2 table."""
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
    """The design effect of patients whose images are all alike."""
    images = np.unique(unit, return_counts=True)[1]
    return float((images**2).sum() / images.sum())
