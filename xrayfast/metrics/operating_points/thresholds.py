"""Thresholds per label, chosen on the validation split, never on the images that results are reported for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xrayfast.config import Task
from xrayfast.metrics.classification import Counts, Floats
from xrayfast.metrics.inputs import Bools, column, sampling_units, table
from xrayfast.metrics.proportions import clopper_pearson

Rule = Literal["f1", "youden", "sensitivity", "specificity"]
"""What a threshold maximizes: F1, sensitivity + specificity - 1 (Youden 1950), or one rate while the other reaches a
target."""

RULES: dict[Rule, str] = {
    "f1": "the highest F1",
    "youden": "the highest sensitivity + specificity - 1 (Youden)",
    "sensitivity": "the best specificity at a sensitivity of at least {:g}",
    "specificity": "the best sensitivity at a specificity of at least {:g}",
}
"""The rules in words; `format` fills in the target."""


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold, and its sensitivity and specificity on the images that it was chosen on.

    Attributes:
        threshold: the probability at or above which a label is predicted; None if none could be chosen.
        reason: why there is no threshold, or why it cannot reach the target with the confidence; "" otherwise.
        sensitivity: sensitivity at the threshold; NaN without a threshold.
        specificity: specificity at the threshold; NaN without a threshold.
        positives: the number of images with the label.
        negatives: the number of images without the label.
        positive_patients: the number of patients of the positives; None if no patients are known, or if an older
            version did not count them.
        negative_patients: the number of patients of the negatives, or None.
    """

    threshold: float | None
    reason: str
    sensitivity: float
    specificity: float
    positives: int
    negatives: int
    positive_patients: int | None = None
    negative_patients: int | None = None

    def interval(self, rate: Literal["sensitivity", "specificity"]) -> dict[str, float] | None:
        """Return `low` and `high` of Clopper and Pearson's 95% interval of a rate, which treats images as independent;
        None if there is no rate.
        """
        trials = self.positives if rate == "sensitivity" else self.negatives
        value: float = getattr(self, rate)
        if not trials or math.isnan(value):
            return None
        low, high = clopper_pearson(round(value * trials), trials)
        return {"low": float(low), "high": float(high)}

    def expected(self, rate: Literal["sensitivity", "specificity"], target: float) -> tuple[float, float] | None:
        """Return what to expect on new images of the rate that was to reach a target: its mean, and the probability
        that it is below the target; None if there is no rate.

        The threshold is below k of the n scores that the rate is computed from. The share of new scores above the k-th
        highest has a beta distribution with parameters k and n - k + 1, whatever the distribution of the scores (Wilks
        1941). If patients are known, n is their number, as if a patient's images were all right or all wrong together.
        """
        images = self.positives if rate == "sensitivity" else self.negatives
        patients = self.positive_patients if rate == "sensitivity" else self.negative_patients
        value: float = getattr(self, rate)
        if self.threshold is None or math.isnan(value):
            return None
        from scipy.special import betainc

        n = images if patients is None else min(images, patients)
        k = value * n
        return k / (n + 1), float(betainc(k, n - k + 1, target)) if k > 0 else 1.0


def images_needed(target: float, confidence: float) -> int:
    """Return the smallest number of images for which a threshold can reach the target with a confidence: all of them
    are then on its right side.

    >>> images_needed(0.95, 0.95)
    59
    """
    return math.ceil(math.log(1 - confidence) / math.log(target))


def share_needed(target: float, confidence: float, n: int) -> float | None:
    """Return the smallest share k / n of n images that a threshold must have on its right side in order to reach the
    target on new images with this confidence; None if n is too small.

    The share of new images on the right side of the k-th of n scores has a beta distribution with parameters k and
    n - k + 1 (Wilks 1941; an upper tolerance limit).
    """
    from scipy.special import betainc

    k = np.arange(1, n + 1)
    reached = np.flatnonzero(betainc(k, n - k + 1, target) <= 1 - confidence)
    return float(k[reached[0]] / n) if len(reached) else None


def choose_thresholds(
    truth: ArrayLike,
    probability: ArrayLike,
    rule: Rule,
    target: float | None = None,
    confidence: float | None = None,
    groups: ArrayLike | None = None,
) -> list[OperatingPoint]:
    """Choose the threshold of each label with `choose_threshold`, from (N, L) truth and probabilities."""
    truth, values = table(truth, probability)
    given = rule, target, confidence, groups
    return [choose_threshold(cells, scores, *given) for cells, scores in zip(truth.T, values.T, strict=True)]


def choose_threshold(
    truth: ArrayLike,
    probability: ArrayLike,
    rule: Rule,
    target: float | None = None,
    confidence: float | None = None,
    groups: ArrayLike | None = None,
) -> OperatingPoint:
    """Choose the threshold of one label.

    It is halfway between the lowest probability that is predicted positive and the next lower one, so that rounding
    does not change a prediction. Of equally good thresholds the highest is chosen. The rule "sensitivity" chooses the
    highest threshold that reaches the target, which has the best specificity; "specificity" chooses, among the
    thresholds that reach it, the one with the best sensitivity. With a `confidence`, `share_needed` says what rate
    these images have to reach.

    Returns:
        The operating point. It has no threshold, but a reason, if all images or none have the label, if all
        probabilities are equal, if Youden's index is nowhere above 0 (chance), or if the target is reached only by
        predicting the label for every image, or for no image that has it. With too few patients (or images) for the
        confidence, it has a reason and the threshold with all of them on its right side, whose guaranteed rate is the
        highest possible.

    Raises:
        ValueError: As in `metrics.inputs.column` and `sampling_units`; the rule is unknown; the target is missing, is
            given for a rule without one, or is outside (0, 1].
    """
    _check_target(rule, target)
    positive, values, rows = column(truth, probability)
    n_positive, n_negative = int(positive.sum()), int((~positive).sum())
    unit = sampling_units(groups, len(np.asarray(truth)))[0][rows]
    patients = [len(np.unique(unit[cells])) for cells in (positive, ~positive)]
    counts = n_positive, n_negative, *(patients if groups is not None else (None, None))

    def none(reason: str) -> OperatingPoint:
        return OperatingPoint(None, reason, math.nan, math.nan, *counts)

    if not n_positive or not n_negative:
        return none(f"no image {'with' if not n_positive else 'without'} the label")
    levels, true, false = count_at_thresholds(values, positive)
    if len(levels) == 1:
        return none("all probabilities are equal")
    share, short = target or 0.0, ""
    if target is not None and confidence is not None:
        n = patients[rule == "specificity"]
        needed, kind = share_needed(target, confidence, n), "image" if groups is None else "patient"
        if needed is None:
            which = "with" if rule == "sensitivity" else "without"
            short = (
                f"a {rule} of {target} with {confidence:.0%} confidence needs {images_needed(target, confidence)} "
                f"{kind}s {which} the label; with {n}, at most {(1 - confidence) ** (1 / n):.2g} is possible"
            )
        share = needed or 1.0
    step = _STEP[rule](true, false, share)
    if step is None:
        return none("; ".join(filter(None, [short, _NONE[rule].format(target=f"{share:.4g}")])))
    sensitivity, specificity = true[step] / n_positive, 1 - false[step] / n_negative
    return OperatingPoint(_between(levels, step), short, sensitivity, specificity, *counts)


def threshold_array(points: Sequence[OperatingPoint]) -> Floats:
    """Return the thresholds as an (L,) array for `decide`; 0.5 where none could be chosen."""
    return np.array([0.5 if point.threshold is None else point.threshold for point in points])


def decide(probability: NDArray[Any], task: Task, threshold: float | NDArray[Any] = 0.5) -> NDArray[np.int8]:
    """Predict labels: the most likely class (single-label), or each label at or above its threshold (multi-label).

    `threshold` is one number or (L,). If classes of a single-label task have different thresholds, the class furthest
    above its threshold is predicted. The result is (N, L) of 0 and 1.
    """
    if task == "multi":
        return (probability >= threshold).astype(np.int8)
    chosen = np.zeros(probability.shape, dtype=np.int8)
    above = probability if np.ptp(threshold) == 0 else probability - threshold
    chosen[np.arange(len(probability)), above.argmax(axis=1)] = 1
    return chosen


def count_at_thresholds(values: Floats, positive: Bools) -> tuple[Floats, Counts, Counts]:
    """Return the distinct values, descending, and the true and false positives with each as threshold."""
    levels, place = np.unique(-values, return_inverse=True)
    here = np.bincount(place, minlength=len(levels))
    true = np.cumsum(np.bincount(place[positive], minlength=len(levels)))
    return -levels, true, np.cumsum(here) - true


def _between(levels: Floats, step: int) -> float:
    lowest_positive, below = float(levels[step]), float(levels[step + 1]) if step + 1 < len(levels) else 0.0
    middle = (lowest_positive + below) / 2
    # The mean of two neighboring floats can round to the lower one.
    return middle if middle > below else lowest_positive


def _f1(true: Counts, false: Counts, target: float) -> int | None:
    return int(np.argmax(2 * true / (true[-1] + true + false)))


def _youden(true: Counts, false: Counts, target: float) -> int | None:
    # In integers, so that ties are exact.
    index = true * false[-1] - false * true[-1]
    best = int(np.argmax(index))
    return best if index[best] > 0 else None


def _sensitivity(true: Counts, false: Counts, target: float) -> int | None:
    first = int(np.argmax(true / true[-1] >= target))
    return None if false[first] == false[-1] else first


def _specificity(true: Counts, false: Counts, target: float) -> int | None:
    reached = np.flatnonzero((false[-1] - false) / false[-1] >= target)
    if not len(reached) or not true[reached[-1]]:
        return None
    return int(np.argmax(true == true[reached[-1]]))


_STEP = {"f1": _f1, "youden": _youden, "sensitivity": _sensitivity, "specificity": _specificity}
_NONE = {
    "f1": "",
    "youden": "no threshold does better than chance",
    "sensitivity": "a sensitivity of {target} is reached only if every image without the label is called positive too",
    "specificity": "a specificity of {target} is reached only if no image with the label is called positive",
}


def _check_target(rule: Rule, target: float | None) -> None:
    if rule not in _STEP:
        raise ValueError(f"rule is {rule!r}; expected one of {', '.join(_STEP)}")
    aimed = rule in ("sensitivity", "specificity")
    if aimed != (target is not None):
        raise ValueError(f"rule {rule!r} {'needs a' if aimed else 'has no'} target")
    if target is not None and not 0 < target <= 1:
        raise ValueError(f"target is {target}; expected a rate above 0 and at most 1, such as 0.95")
