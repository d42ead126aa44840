"""Calibration and thresholds of a network, chosen on the validation split alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple, TypeVar, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xrayfast.config import Task, Unit, UnitJoin
from xrayfast.errors import plural, plural_noun, shorten
from xrayfast.metrics.classification import Floats, nan_to_none
from xrayfast.metrics.operating_points.calibration import (
    Scaling,
    Temperature,
    apply_scalings,
    apply_temperature,
    fit_scalings,
    fit_temperature,
    share_of_two,
)
from xrayfast.metrics.operating_points.thresholds import (
    RULES,
    OperatingPoint,
    Rule,
    choose_thresholds,
    decide,
    images_needed,
    threshold_array,
)

Calibration = Temperature | tuple[Scaling, ...] | None
"""A temperature (single-label), a scaling of each label (multi-label) or of the positive class of two, or None for the
network's own probabilities. Versions before 0.7 fitted a temperature for two classes too, which cannot correct a bias.
"""

Value = TypeVar("Value")

MOST_LIKELY_STAYS = (
    "Thresholds are of each class against the rest; the class that is predicted remains the most likely one."
)
"""What thresholds mean for single-label tasks."""

_BOUNDS: dict[str, tuple[float, float]] = {
    **{"temperature": (1e-3, 1e3), "slope": (1e-6, 1e6), "bias": (-1e6, 1e6)},
    **dict.fromkeys(("positives", "negatives", "positive_patients", "negative_patients"), (0, 10**9)),
}
"""The range of numbers that `Decision.from_json` reads; it is 0 to 1 for numbers not named here."""


class Probabilities(NamedTuple):
    """Probabilities of N images and L labels.

    Attributes:
        raw: (N, L) float32 in [0, 1], the network's own: softmax (single-label) or sigmoid (multi-label) of its logits.
        calibrated: (N, L) float64 in [0, 1], after the calibration that was fitted on the validation split.
    """

    raw: NDArray[np.float32]
    calibrated: NDArray[np.float64]


@dataclass(frozen=True)
class Decision:
    """A calibration and the operating points of the labels.

    Attributes:
        calibration: the calibration of the network's probabilities.
        points: operating points on calibrated probabilities: one per label, each against the rest, or only that of the
            positive class; () if none were chosen, in which case 0.5 is the threshold.
        rule: the rule that the thresholds were chosen with; None if none were chosen.
        target: the sensitivity or specificity to reach; None for other rules.
        confidence: the confidence with which new images are to reach the target; None if only the validation images
            were to reach it.
        positive: the positive class of a single-label task with two classes; None for other tasks.
        unit: what thresholds were chosen on and are applied to: images, studies or patients.
        unit_join: how the probabilities of a study's or patient's images were joined for that.
    """

    task: Task
    labels: tuple[str, ...]
    calibration: Calibration = None
    points: tuple[OperatingPoint, ...] = ()
    rule: Rule | None = None
    target: float | None = None
    confidence: float | None = None
    positive: str | None = None
    unit: Unit = "image"
    unit_join: UnitJoin = "mean"

    @property
    def thresholds(self) -> Floats:
        """(L,) thresholds for `thresholds.decide`; 0.5 where none was or could be chosen.

        With a positive class, the threshold of the other class is 1 minus that of the positive class. If thresholds are
        one-vs-rest (`is_one_vs_rest`), they do not decide which class is predicted, and all of these are 0.5.
        """
        if not self.points or self.is_one_vs_rest:
            return np.full(len(self.labels), 0.5)
        if self.positive is None:
            return threshold_array(self.points)
        [threshold] = threshold_array(self.points)
        return np.array([threshold if label == self.positive else 1 - threshold for label in self.labels])

    @property
    def is_one_vs_rest(self) -> bool:
        """Whether thresholds are for each class against the rest, while the predicted class is the most likely one.

        This is so with more than two classes, or if an older version chose the thresholds.
        """
        return self.task == "single" and len(self.points) == len(self.labels)

    @property
    def point_of(self) -> dict[str, OperatingPoint]:
        """The operating points that were chosen, by label."""
        return self._by_label(self.points)

    @property
    def scaling_of(self) -> dict[str, Scaling]:
        """The scalings by label; empty if the calibration is of another kind."""
        return self._by_label(self.calibration) if isinstance(self.calibration, tuple) else {}

    @property
    def whose_logit(self) -> str:
        """Whose logit the scalings apply to, in words."""
        return f"the logit of {self.positive}" if self.positive else "each label's logit"

    def _by_label(self, values: tuple[Value, ...]) -> dict[str, Value]:
        """Map each label, or only the positive class, to its value."""
        labels = self.labels if len(values) == len(self.labels) else (self.positive or "",)
        return dict(zip(labels, values, strict=False))

    @property
    def purpose(self) -> str:
        """What thresholds were chosen for, in words; "" if none were chosen."""
        if self.rule is None:
            return ""
        of_units = "" if self.unit == "image" else f" of {plural_noun(self.unit)}"
        new = f" on new {plural_noun(self.unit)}"
        sure = f"{new}, with {self.confidence:.0%} confidence" if self.confidence is not None else ""
        return RULES[self.rule].format(self.target) + (sure or of_units)

    @property
    def shortfall(self) -> str:
        """The labels that miss the target, and the rate to expect for each label on new images, in sentences; "" for
        rules without a target.
        """
        if self.rule not in ("sensitivity", "specificity") or self.target is None:
            return ""
        found = []
        missed = [f"{label} ({point.reason})" for label, point in self.point_of.items() if point.reason]
        start = f"The target is not reached for {shorten(missed, 5)}. " if missed else ""
        for label, point in self.point_of.items():
            counts = (point.positives, point.positive_patients)
            images, patients = counts if self.rule == "sensitivity" else (point.negatives, point.negative_patients)
            if expected := point.expected(self.rule, self.target):
                units = plural(images, self.unit) + ("" if patients is None else f" of {plural(patients, 'patient')}")
                found.append(
                    f"{label} {expected[0]:.3f}, with a {expected[1]:.0%} chance of being below the target ({units})"
                )
        if not found:
            return start.strip()
        text = f"{start}For a target of {self.target:g}, the expected {self.rule} on new {plural_noun(self.unit)} is: "
        text += f"{shorten(found, 5)}."
        if self.confidence is not None or self.target == 1:
            return text
        return (
            f"{text} --target-confidence 0.95 chooses thresholds with a 5% chance, but needs "
            f"{images_needed(self.target, 0.95)} patients (or {plural_noun(self.unit)}) per label."
        )

    def calibrated(self, raw: ArrayLike) -> Floats:
        """Calibrate the network's (N, L) probabilities: (N, L) in [0, 1]."""
        if self.calibration is None:
            return np.asarray(raw, dtype=np.float64)
        if isinstance(self.calibration, Temperature):
            return apply_temperature(raw, self.calibration.temperature)
        if self.positive is None:
            return apply_scalings(raw, self.calibration)
        column = self.labels.index(self.positive)
        share = apply_scalings(share_of_two(raw, column), self.calibration)
        return np.hstack([share, 1 - share] if column == 0 else [1 - share, share])

    @property
    def uncalibrated(self) -> dict[str, list[str]]:
        """The labels whose scaling could not be fitted in full, by reason."""
        found: dict[str, list[str]] = {}
        for label, scaling in self.scaling_of.items():
            if scaling.reason:
                found.setdefault(scaling.reason, []).append(label)
        return found

    def decide(self, probability: NDArray[Any]) -> NDArray[np.int8]:
        """Return the labels predicted from (N, L) calibrated probabilities, as 0 and 1, using `thresholds.decide`."""
        return decide(probability, self.task, self.thresholds)

    def certainty(self, probability: NDArray[Any]) -> Floats:
        """Return the probability that each prediction is right, according to the (N, L) calibrated probabilities.

        Returns:
            (N, L): the probability of each label that is predicted, and 1 minus the probability of each label that is
            not. For single-label tasks, all columns are the probability of the predicted class.
        """
        predicted = self.decide(probability) == 1
        if self.task == "multi":
            return np.where(predicted, probability, 1 - probability)
        of_class = probability[predicted][:, None]
        return np.broadcast_to(of_class, probability.shape).astype(np.float64)

    def to_json(self) -> dict[str, Any]:
        """Return what `labels.json` holds beside labels and task; undefined values are None."""
        positive = {} if self.positive is None else {"positive": self.positive}
        if self.unit != "image":
            positive |= {"unit": self.unit, "unit_join": self.unit_join}
        return {**positive, "calibration": self._calibration_json(), "operating_points": self._points_json()}

    def _calibration_json(self) -> dict[str, Any] | None:
        if self.calibration is None:
            return None
        if isinstance(self.calibration, Temperature):
            return {"method": "temperature", **asdict(self.calibration)}
        rows = [{"label": label, **asdict(scaling)} for label, scaling in self.scaling_of.items()]
        return {"method": "scaling", "labels": rows}

    def _points_json(self) -> dict[str, Any] | None:
        if not self.points:
            return None
        return {
            "rule": self.rule,
            "target": self.target,
            **({} if self.confidence is None else {"confidence": self.confidence}),
            "labels": [
                {
                    "label": label,
                    **{
                        name: nan_to_none(value)
                        for name, value in asdict(point).items()
                        if value is not None or name == "threshold"
                    },
                    "intervals": {rate: point.interval(rate) for rate in ("sensitivity", "specificity")},
                }
                for label, point in self.point_of.items()
            ],
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any], task: Task, labels: Sequence[str]) -> Decision:
        """Make a decision from the content of `labels.json`; for keys that an older file lacks, nothing was chosen.

        Raises:
            ValueError: the content has another form or other labels.
        """
        calibration, points = content.get("calibration"), content.get("operating_points")
        if not (isinstance(calibration, dict | None) and isinstance(points, dict | None)):
            raise ValueError("calibration and operating_points are expected to be objects or null")
        rule, target = (points or {}).get("rule"), (points or {}).get("target")
        if points is not None and rule not in get_args(Rule):
            raise ValueError(f"found the rule {rule!r}; expected one of {', '.join(get_args(Rule))}")
        positive, confidence = content.get("positive"), (points or {}).get("confidence")
        if positive is not None and (task != "single" or len(labels) != 2 or positive not in labels):
            raise ValueError(f"positive is {str(positive)[:40]!r}; expected one of two classes")
        unit, unit_join = content.get("unit", "image"), content.get("unit_join", "mean")
        if unit not in get_args(Unit) or unit_join not in get_args(UnitJoin):
            raise ValueError(f"unit is {str(unit)[:40]!r}, joined by {str(unit_join)[:40]!r}")
        if points is not None and positive is not None and len(points.get("labels") or ()) == 1:
            rows = _of_labels(points, [positive])
        else:
            rows = [] if points is None else _of_labels(points, labels)
        return cls(
            task,
            tuple(labels),
            _read_calibration(calibration, task, labels if positive is None else [positive]),
            tuple(map(_read_point, rows)),
            rule,
            None if target is None else _read_number({"target": target}, "target"),
            None if confidence is None else _read_number({"confidence": confidence}, "confidence"),
            positive,
            unit,
            unit_join,
        )


def fit_calibration(
    truth: ArrayLike,
    raw: ArrayLike,
    labels: Sequence[str],
    task: Task,
    *,
    positive: str | None = None,
    groups: ArrayLike | None = None,
    calibrate: bool = True,
) -> Decision:
    """Fit the calibration of a decision without thresholds, if `calibrate`, on the network's own probabilities (N, L).

    With a `positive` class, only its scaling is fitted.
    """
    columns = slice(None) if positive is None else [list(labels).index(positive)]
    calibration: Calibration = None
    if calibrate and positive is not None:
        cells = np.asarray(truth)[:, columns]
        calibration = tuple(fit_scalings(cells, share_of_two(raw, list(labels).index(positive)), groups))
    elif calibrate:
        calibration = fit_temperature(truth, raw) if task == "single" else tuple(fit_scalings(truth, raw, groups))
    return Decision(task, tuple(labels), calibration, positive=positive)


def with_thresholds(
    decision: Decision,
    truth: ArrayLike,
    probability: NDArray[Any],
    rule: Rule | None,
    target: float | None = None,
    confidence: float | None = None,
    *,
    groups: ArrayLike | None = None,
    unit: Unit = "image",
    unit_join: UnitJoin = "mean",
) -> Decision:
    """Return the decision with the same calibration and with thresholds chosen on these probabilities.

    They are calibrated and, if `unit` is not "image", were joined over the images of studies or patients by
    `unit_join`. Without a `rule` there are no thresholds.
    """
    decision = replace(decision, points=(), rule=None, target=None, confidence=None, unit=unit, unit_join=unit_join)
    if rule is None:
        return decision
    columns = slice(None) if decision.positive is None else [decision.labels.index(decision.positive)]
    cells = np.asarray(truth)[:, columns]
    points = choose_thresholds(cells, probability[:, columns], rule, target, confidence, groups)
    return replace(decision, points=tuple(points), rule=rule, target=target, confidence=confidence)


def _read_calibration(content: Mapping[str, Any] | None, task: Task, labels: Sequence[str]) -> Calibration:
    if content is None:
        return None
    method = content.get("method")
    if method == "temperature" and task == "single":
        return Temperature(_read_number(content, "temperature"), str(content.get("reason", "")))
    if method == "scaling" and (task == "multi" or len(labels) == 1):
        rows = _of_labels(content, labels)
        return tuple(
            Scaling(_read_number(row, "slope"), _read_number(row, "bias"), str(row.get("reason", ""))) for row in rows
        )
    raise ValueError(f"found the calibration method {method!r} in a {task}-label run")


def _read_point(row: Mapping[str, Any]) -> OperatingPoint:
    threshold = None if row.get("threshold") is None else _read_number(row, "threshold")
    sensitivity, specificity = (
        math.nan if row.get(name) is None else _read_number(row, name) for name in ("sensitivity", "specificity")
    )
    counts = [int(_read_number(row, name)) for name in ("positives", "negatives")]
    patients = [
        None if row.get(name) is None else int(_read_number(row, name))
        for name in ("positive_patients", "negative_patients")
    ]
    return OperatingPoint(threshold, str(row.get("reason", "")), sensitivity, specificity, *counts, *patients)


def _of_labels(content: Mapping[str, Any], labels: Sequence[str]) -> list[Mapping[str, Any]]:
    rows = content.get("labels")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError("calibration and operating points are expected to list a row for each label")
    if [row.get("label") for row in rows] != list(labels):
        raise ValueError("calibration and operating points are for other labels, or in another order")
    return rows


def _read_number(row: Mapping[str, Any], name: str) -> float:
    """Return the named number; raise a ValueError if it is not in range."""
    value, (low, high) = row.get(name), _BOUNDS.get(name, (0, 1))
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise ValueError(f"{name} is {str(value)[:40]}; expected a number from {low:g} to {high:g}")
    return float(value)
