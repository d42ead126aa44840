"""Calibration: scaling of logits that is fitted on the validation split and keeps the order of the images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from xrayfast.metrics.classification import Floats, auroc
from xrayfast.metrics.inputs import column, sampling_units, table
from xrayfast.metrics.intervals.roots import find_root
from xrayfast.metrics.scoring import one_class

FLOOR = 1e-12
"""How far from 0 (and from 1, for one label) probabilities are clipped before their logarithm is taken."""

TEMPERATURES = (0.05, 20.0)
"""The range searched for a temperature."""

FEW_UNITS = 10
"""With fewer patients (or images) with a label, or without it, no slope is fitted: a bias alone then gives a lower log
loss on new images unless the slope is far from 1 (`test_calibration.py`; Steyerberg et al. 2004, Vergouwe et al. 2017).
"""

LEAST_SLOPE = 0.01
"""The slope used if nothing shows that a label is ranked better than by chance: all probabilities are then nearly
equal, and the order of the images is kept.
"""


@dataclass(frozen=True)
class Temperature:
    """A number that the logits of all classes are divided by; above 1, it makes probabilities less extreme.

    Attributes:
        temperature: 1 if none was fitted; the upper end of `TEMPERATURES` if the best one is larger.
        reason: why it was not fitted; "" if it was.
    """

    temperature: float
    reason: str = ""


@dataclass(frozen=True)
class Scaling:
    """The scaling of one label's logit: slope * logit + bias.

    Attributes:
        slope: above 0; 1 or `LEAST_SLOPE` if it was not fitted.
        bias: 0 if the label is masked on all images.
        reason: why slope and bias were not both fitted; "" if they were.
    """

    slope: float
    bias: float
    reason: str = ""


def fit_temperature(truth: ArrayLike, probability: ArrayLike) -> Temperature:
    """Fit the temperature that minimizes the log loss of single-label probabilities.

    Logits are not needed: the logarithms of the probabilities differ from them by a constant per image, which the
    softmax cancels.

    Returns:
        The temperature. It is 1, with a reason, if there are no images, if all probabilities are equal, or if every
        image is right by a margin, so that the optimum is below `TEMPERATURES`. It is the upper end of `TEMPERATURES`,
        with a reason, if the optimum is above, as with probabilities that are unrelated to the class or all favor one
        class.

    Guo et al. 2017. The log loss is convex in 1 / temperature, so its only minimum is where the derivative is 0.
    """
    actual, values = table(truth, probability)
    rows = one_class(actual)
    if not rows.any():
        return Temperature(1.0, "no image with a class")
    logits = np.log(values[rows].clip(FLOOR))
    logits -= logits.max(axis=1, keepdims=True)
    mean_of_true = logits[actual[rows] == 1].mean()

    def slope(log_inverse: float) -> float:
        weights = np.exp(np.exp(log_inverse) * logits)
        expected = (weights * logits).sum(axis=1) / weights.sum(axis=1)
        return float(expected.mean() - mean_of_true)

    coldest, hottest = -np.log(TEMPERATURES[0]), -np.log(TEMPERATURES[1])
    if slope(coldest) <= 0:
        equal = not logits.any()
        return Temperature(
            1.0, "all probabilities are equal" if equal else "all images are classified correctly by a wide margin"
        )
    if slope(hottest) >= 0:
        return Temperature(
            TEMPERATURES[1], "the probabilities carry little or no information on the class, or favor one class"
        )
    return Temperature(math.exp(-find_root(slope, hottest, coldest)))


def apply_temperature(probability: ArrayLike, temperature: float) -> Floats:
    """Scale single-label probabilities by a temperature above 0.

    Returns:
        (N, C), rows that sum to one; the most likely class is unchanged.
    """
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}; expected a number above 0")
    values = _probabilities(probability)
    scaled = np.log(values.clip(FLOOR)) / temperature
    weights = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


def fit_scalings(truth: ArrayLike, probability: ArrayLike, groups: ArrayLike | None = None) -> list[Scaling]:
    """Fit the scaling of each label with `fit_scaling`, from (N, L) truth and probabilities."""
    actual, values = table(truth, probability)
    return [fit_scaling(cells, scores, groups) for cells, scores in zip(actual.T, values.T, strict=True)]


def fit_scaling(truth: ArrayLike, probability: ArrayLike, groups: ArrayLike | None = None) -> Scaling:
    """Fit the slope and bias of one label's logits that minimize the log loss against Platt's targets.

    The targets are inside (0, 1), at a distance from 0 and 1 that shrinks with the number of images; with targets of 0
    and 1 a perfectly separated label would get an infinite slope.

    Returns:
        The scaling. If no slope is fitted, it has a reason, and a bias with which the mean probability is the label's
        prevalence in these images. The slope is then 1 with fewer than `FEW_UNITS` patients of a class, with equal
        probabilities, or if the fit does not converge. It is `LEAST_SLOPE` if the AUROC is not above 0.5, if the best
        slope is not above 0, which would reverse the order of the images, or if a class is absent. If a class is
        absent, (1 + images with the label) / (2 + images) is used as the prevalence (Laplace's rule), because 0 or 1
        would mean certainty.

    Platt 1999, applied to logits; the optimum of the convex function of two parameters is found by Newton's method.
    """
    positive, values, rows = column(truth, probability)
    n_positive, n_negative = int(positive.sum()), int((~positive).sum())
    if not len(positive):
        return Scaling(1.0, 0.0, "no image with or without the label")
    logits = logit(values)
    if not n_positive or not n_negative:
        lacking = f"no image {'with' if not n_positive else 'without'} the label"
        share = (n_positive + 1) / (len(positive) + 2)
        return _with_bias(logits, share, LEAST_SLOPE, f"{lacking}: all probabilities were set near one value")
    share = n_positive / len(positive)
    if float(logits.std()) <= 1e-9 * max(1.0, abs(float(logits.mean()))):
        return _with_bias(logits, share, 1.0, "all probabilities are equal: only the bias was fitted")
    by_chance = "the probabilities rank the label no better than chance: all were set near its prevalence"
    if auroc(positive, logits) <= 0.5:
        return _with_bias(logits, share, LEAST_SLOPE, by_chance)
    unit = sampling_units(groups, len(np.asarray(truth)))[0][rows]
    for cells, which in (positive, "with"), (~positive, "without"):
        if len(np.unique(unit[cells])) < FEW_UNITS:
            few = f"fewer than {FEW_UNITS} {'images' if groups is None else 'patients'} {which} the label"
            return _with_bias(logits, share, 1.0, f"{few}: only the bias was fitted")
    targets = np.where(positive, (n_positive + 1) / (n_positive + 2), 1 / (n_negative + 2))
    slope, bias, ended = fit_slope_and_bias(logits, targets)
    if not ended:
        return _with_bias(logits, share, 1.0, "the fit of the slope did not converge: only the bias was fitted")
    if slope <= 0:
        return _with_bias(logits, share, LEAST_SLOPE, by_chance)
    return Scaling(slope, bias)


def fit_slope_and_bias(logits: Floats, targets: Floats) -> tuple[float, float, bool]:
    """Fit the slope and bias of (N,) logits that minimize the log loss against (N,) targets in [0, 1].

    Also return whether the fit converged. The logits must not all be equal.
    """
    from scipy.special import expit

    center, spread = float(logits.mean()), float(logits.std())
    design = np.stack([(logits - center) / spread, np.ones_like(logits)])

    def loss(weights: Floats) -> tuple[float, Floats]:
        scaled = weights @ design
        gradient = design @ (expit(scaled) - targets) / len(targets)
        return float((np.logaddexp(0, scaled) - targets * scaled).mean()), gradient

    # Newton steps, halved until the loss does not increase; scipy.optimize takes half a second to import.
    weights = np.zeros(2)
    value, gradient = loss(weights)
    for _ in range(100):
        share = expit(weights @ design)
        step = np.linalg.lstsq((design * (share * (1 - share))) @ design.T / len(targets), gradient)[0]
        while loss(weights - step)[0] > value * (1 + 1e-14) and np.abs(step).max() > 1e-12:
            step /= 2
        weights -= step
        value, gradient = loss(weights)
        if np.abs(gradient).max() < 1e-12:
            break
    slope = float(weights[0]) / spread
    return slope, float(weights[1]) - slope * center, bool((np.abs(gradient) < 1e-8).all())


def fit_bias(logits: Floats, share: float) -> float:
    """Return the bias that gives (N,) logits a mean probability of `share`, in (0, 1), and so the lowest log loss."""
    from scipy.special import expit

    middle = float(np.log(share / (1 - share)))
    ends = middle - float(logits.max()) - 1, middle - float(logits.min()) + 1
    return find_root(lambda bias: float(expit(logits + bias).mean()) - share, *ends)


def _with_bias(logits: Floats, share: float, slope: float, reason: str) -> Scaling:
    return Scaling(slope, fit_bias(slope * logits, share), reason)


def apply_scalings(probability: ArrayLike, scalings: Sequence[Scaling]) -> Floats:
    """Calibrate (N, L) probabilities with each label's slope and bias, which keeps the order of the images."""
    from scipy.special import expit

    values = _probabilities(probability)
    if len(scalings) != values.shape[1]:
        raise ValueError(f"{len(scalings)} scalings for {values.shape[1]} labels; expected one for each")
    slope, bias = np.array([(scaling.slope, scaling.bias) for scaling in scalings]).T
    return expit(slope * logit(values) + bias)


def share_of_two(probability: ArrayLike, column: int) -> Floats:
    """Return (N, 1) the probability of the class in a column, one of two, over the sum of both.

    Where this probability is rounded to 1, the other one still tells images apart.
    """
    values = _probabilities(probability).clip(FLOOR)
    return values[:, [column]] / values.sum(axis=1, keepdims=True)


def logit(values: Floats) -> Floats:
    """Return the logits of probabilities, which are clipped by `FLOOR`."""
    clipped = values.clip(FLOOR, 1 - FLOOR)
    return np.log(clipped) - np.log1p(-clipped)


def _probabilities(probability: ArrayLike) -> Floats:
    values = np.asarray(probability)
    return table(np.full(values.shape, -1), values)[1]
