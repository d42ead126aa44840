"""Thresholds of labels: chosen on validation, never on the images that are reported."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xrayfast.config import Task
from xrayfast.metrics.classification import Counts, Floats
from xrayfast.metrics.inputs import column, sampling_units, table
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
"""The same in words; `format` takes the target."""


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold and its rates on the images that it was chosen on.

    Attributes:
        threshold: a label is predicted at or above it; None where none could be chosen.
        reason: why none, or why its rate falls short of the target with the confidence; "" otherwise.
        sensitivity: at the threshold, or NaN; likewise `specificity`.
        positives: images with the label; `negatives` those without.
        positive_patients: patients of these positives, `negative_patients` those of the negatives; None where no
            patients are known, or an older version did not count them.
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
        """`low` and `high` of Clopper and Pearson's 95 % interval of a rate, which treats images as independent; None
        where there is no rate.
        """
        trials = self.positives if rate == "sensitivity" else self.negatives
        value: float = getattr(self, rate)
        if not trials or math.isnan(value):
            return None
        low, high = clopper_pearson(round(value * trials), trials)
        return {"low": float(low), "high": float(high)}

    def expected(self, rate: Literal["sensitivity", "specificity"], target: float) -> tuple[float, float] | None:
        """What the rate that was to reach a target will be on new images: its mean, and the chance that it is lower
        than the target; None where there is no rate.

        The threshold lies below k of n scores of the images in question. The share of new ones above the k-th score
        has a beta distribution of k and n - k + 1, whatever that of the scores (Wilks 1941). Where patients are known,
        n is their number, as if a patient's images were all right or all wrong together.
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
    """How many images a rate has to be observed on for a threshold that reaches the target with a confidence: all of
    them are then on its right side.

    >>> images_needed(0.95, 0.95)
    59
    """
    return math.ceil(math.log(1 - confidence) / math.log(target))


def share_needed(target: float, confidence: float, n: int) -> float | None:
    """The smallest share k / n on n images for which a threshold reaches the target on new ones with this confidence;
    None where n is too small.

    The share of new images on the right side of the k-th of n scores has a beta distribution of k and n - k + 1 (Wilks
    1941; an upper tolerance limit).
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
    """`choose_threshold` of each label, from (N, L) truth and probabilities: L operating points.

    Raises:
        ValueError: As in `metrics.inputs.table` and `choose_threshold`.
    """
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
    """The threshold of one label.

    It lies halfway between the lowest probability that is predicted positive and the next lower one, so that rounding
    does not change a prediction. Of equally good thresholds the highest is taken.

    Args:
        truth: (N,) of 1, 0, and -1 where masked, which is left out.
        probability: (N,) in [0, 1].
        rule: "sensitivity" takes the highest threshold that reaches the target, and so the best specificity with it;
            "specificity" the threshold of the best sensitivity among those that reach the target.
        target: in (0, 1]; for these two rules only.
        confidence: in (0, 1), with which new images are to reach the target, and not only these: `share_needed` says
            how much more these have to reach; None for none.
        groups: (N,) patient numbers, or None where images are counted.

    Returns:
        A point with threshold None and the reason where the label is on all images or on none, where all
        probabilities are equal, where Youden's index is nowhere above 0 (chance), and where the target is reached only
        by calling every image, or no image with the label. With too few patients (or images) for the confidence, the
        threshold that all of them are on the right side of, whose guaranteed rate is the highest, and the reason.

    Raises:
        ValueError: As in `metrics.inputs.column` and `sampling_units`; an unknown rule; a target that is missing, out
            of place or outside (0, 1].
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
    levels, true, false = _steps(values, positive.astype(np.int64))
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
                f"{kind}s {which} the label; with {n} it is {(1 - confidence) ** (1 / n):.2g} at most"
            )
        share = needed or 1.0
    step = _STEP[rule](true, false, share)
    if step is None:
        return none("; ".join(filter(None, [short, _NONE[rule].format(target=f"{share:.4g}")])))
    sensitivity, specificity = true[step] / n_positive, 1 - false[step] / n_negative
    return OperatingPoint(_between(levels, step), short, sensitivity, specificity, *counts)


def threshold_array(points: Sequence[OperatingPoint]) -> Floats:
    """The thresholds as an (L,) array for `decide`, 0.5 where none could be chosen."""
    return np.array([0.5 if point.threshold is None else point.threshold for point in points])


def decide(probability: NDArray[Any], task: Task, threshold: float | NDArray[Any] = 0.5) -> NDArray[np.int8]:
    """Predicted labels: the most likely class (single), or each label at or above the threshold (multi).

    Args:
        probability: (N, L) in [0, 1].
        task: "single" or "multi".
        threshold: one number or (L,); for "single", the class is predicted that is furthest above its threshold.

    Returns:
        (N, L) of 0 and 1.
    """
    if task == "multi":
        return (probability >= threshold).astype(np.int8)
    chosen = np.zeros(probability.shape, dtype=np.int8)
    above = probability if np.ptp(threshold) == 0 else probability - threshold
    chosen[np.arange(len(probability)), above.argmax(axis=1)] = 1
    return chosen


def _steps(values: Floats, positive: Counts) -> tuple[Floats, Counts, Counts]:
    """The distinct probabilities from the highest, and the true and false positives at each as threshold."""
    levels, place = np.unique(-values, return_inverse=True)
    here = np.bincount(place, minlength=len(levels))
    true = np.cumsum(np.bincount(place[positive == 1], minlength=len(levels)))
    return -levels, true, np.cumsum(here) - true


def _between(levels: Floats, step: int) -> float:
    lowest_positive, below = float(levels[step]), float(levels[step + 1]) if step + 1 < len(levels) else 0.0
    middle = (lowest_positive + below) / 2
    # The mean of two neighbouring floats can round to the lower one.
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
    "sensitivity": "a sensitivity of {target} is reached only by calling every image without the label too",
    "specificity": "a specificity of {target} is reached only by calling no image with the label",
}


def _check_target(rule: Rule, target: float | None) -> None:
    if rule not in _STEP:
        raise ValueError(f"rule is {rule!r}; expected one of {', '.join(_STEP)}")
    aimed = rule in ("sensitivity", "specificity")
    if aimed != (target is not None):
        raise ValueError(f"rule {rule!r} {'needs a' if aimed else 'has no'} target")
    if target is not None and not 0 < target <= 1:
        raise ValueError(f"target is {target}; expected a rate above 0 and at most 1, such as 0.95")
