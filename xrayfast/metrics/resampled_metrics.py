"""Every metric of a split, for its images as they are or for many resamples of its patients at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xrayfast.config import Task
from xrayfast.metrics import agreement
from xrayfast.metrics.calibration_gaps import CalibrationGaps, total
from xrayfast.metrics.classification import Floats, rates, ratio
from xrayfast.metrics.grouped_sums import GroupedSums
from xrayfast.metrics.inputs import sampling_units, table
from xrayfast.metrics.measures import AT_PREVALENCE, LABEL_METRICS, OVERALL_METRICS
from xrayfast.metrics.ranking import Ranking
from xrayfast.metrics.scoring import log_losses, one_class, squared_errors
from xrayfast.metrics.thresholds import decide


@dataclass(frozen=True)
class MetricValues:
    """Metrics under B sets of counts.

    Attributes:
        overall: (B,) by the names of `OVERALL_METRICS`.
        per_label: (B, L) by the names of `LABEL_METRICS` (and `AT_PREVALENCE`).
    """

    overall: dict[str, Floats]
    per_label: dict[str, Floats]


class ResampledMetrics:
    """One split, sorted and summed once, to be measured as it is and under many resamples.

    A metric that has no value (a class is absent, a denominator zero) is NaN. A macro or weighted mean is over the
    labels for which the metric has a value in the split itself; a resample in which one of these has none has no mean
    either, because a mean over other labels would be another number.

    Args:
        truth: (N, L) of 1, 0, and -1 where nobody knows. "single": rows that are one-hot, or -1 throughout.
        probability: (N, L) in [0, 1].
        task: "single" or "multi".
        groups: (N,) patient numbers, or None where images are drawn.
        threshold: a label is called at or above it ("multi"), one number or (L,).
        prevalence: at which `AT_PREVALENCE` is given, one number or (L,), NaN for labels without; or None for none.

    Raises:
        ValueError: As in `metrics.inputs.table` and `sampling_units`; a row without exactly one class ("single");
            thresholds or prevalences of another shape than () or (L,), or out of range.
    """

    def __init__(
        self,
        truth: ArrayLike,
        probability: ArrayLike,
        task: Task,
        groups: ArrayLike | None = None,
        threshold: ArrayLike = 0.5,
        prevalence: ArrayLike | None = None,
    ) -> None:
        self.truth, self.probability = table(truth, probability)
        self.task = task
        strange = ~one_class(self.truth) & (self.truth >= 0).any(axis=1)
        if task == "single" and strange.any():
            raise ValueError(f"truth row {np.argmax(strange)} is {self.truth[strange][0].tolist()}; expected one class")
        self.unit, self.n_units = sampling_units(groups, len(self.truth))
        n_labels = self.truth.shape[1]
        self.called = decide(self.probability, task, _each(threshold, n_labels, "threshold"))
        self._prevalence = None if prevalence is None else _each(prevalence, n_labels, "prevalence")
        self._sums = GroupedSums(self.n_units)
        self._sum_labels()
        self._sum_images()
        self.gaps = CalibrationGaps(self.truth, self.probability, task, self.unit, self.n_units)
        known = self.truth >= 0
        self._rankings = [self._ranking(known & (np.arange(n_labels) == i)) for i in range(n_labels)]
        self._micro = self._ranking(known)
        self._defined: dict[str, NDArray[np.bool_]] | None = None
        self.as_it_is = self.compute(np.ones((1, self.n_units)))
        self._defined = {name: ~np.isnan(values[0]) for name, values in self.as_it_is.per_label.items()}

    @property
    def overall(self) -> dict[str, float]:
        """The metrics of the split as it is, by the names of `OVERALL_METRICS`."""
        return {name: float(values[0]) for name, values in self.as_it_is.overall.items()}

    @property
    def per_label(self) -> dict[str, Floats]:
        """(L,) of the split as it is, by the names of `LABEL_METRICS` (and `AT_PREVALENCE`)."""
        return {name: values[0] for name, values in self.as_it_is.per_label.items()}

    def compute(self, counts: Floats) -> MetricValues:
        """All metrics under B sets of counts.

        Args:
            counts: (B, units) how often each patient (or image) is drawn.
        """
        sums = self._sums.sums(counts)
        overall_gaps, label_gaps = self.gaps.compute(counts)
        ranked = [ranking.compute(counts) for ranking in self._rankings]
        per_label = {
            **self._of_labels(sums),
            **{name: total(gaps) for name, gaps in label_gaps.items()},
            "auroc": np.stack([area for area, _ in ranked], axis=1),
            "ap": np.stack([precision for _, precision in ranked], axis=1),
        }
        area, precision = self._micro.compute(counts)
        of_images = self._of_classes if self.task == "single" else self._of_sets
        overall = {
            **self._averages(sums["cells"], per_label),
            **of_images(sums, per_label),
            **{name: total(gaps) for name, gaps in overall_gaps.items()},
            "auroc_micro": area,
            "ap_micro": precision,
        }
        label_names = [*LABEL_METRICS, *(AT_PREVALENCE if self._prevalence is not None else ())]
        return MetricValues(
            {name: overall[name] for name in OVERALL_METRICS[self.task]},
            {name: per_label[name] for name in label_names},
        )

    def _sum_labels(self) -> None:
        truth, probability = self.truth, self.probability
        n_labels = truth.shape[1]
        rows, labels = np.nonzero(truth >= 0)
        unit = self.unit[rows]
        # The cells of a label's 2x2 matrix are true negative, false positive, false negative, true positive.
        cell = 4 * labels + 2 * truth[rows, labels] + self.called[rows, labels]
        self._sums.add("cells", (n_labels, 2, 2), cell, unit)
        self._sums.add("squared", (n_labels,), labels, unit, squared_errors(truth, probability)[rows, labels])
        self._sums.add("logs", (n_labels,), labels, unit, log_losses(truth, probability)[rows, labels])

    def _sum_images(self) -> None:
        truth, probability = self.truth, self.probability
        n_labels = truth.shape[1]
        known = truth >= 0
        rows = np.flatnonzero(known.any(axis=1))
        unit = self.unit[rows]
        if self.task == "multi":
            right = ((self.called == truth) | ~known).all(axis=1)[rows]
            self._sums.add("sets", (2,), right.astype(np.int64), unit)
            return
        actual, predicted = truth[rows].argmax(axis=1), self.called[rows].argmax(axis=1)
        self._sums.add("confusion", (n_labels, n_labels), actual * n_labels + predicted, unit)
        one_sum = np.zeros(len(rows), dtype=np.int64)
        self._sums.add("brier", (), one_sum, unit, squared_errors(truth, probability)[rows].sum(axis=1))
        self._sums.add("log_loss", (), one_sum, unit, log_losses(truth, probability)[rows, actual])

    def _ranking(self, cells: NDArray[np.bool_]) -> Ranking:
        unit = np.broadcast_to(self.unit[:, None], cells.shape)[cells]
        return Ranking(self.truth[cells] == 1, self.probability[cells], unit)

    def _of_labels(self, sums: dict[str, Floats]) -> dict[str, Floats]:
        cells = sums["cells"]
        known = cells.sum(axis=(-2, -1))
        values = {
            **rates(cells),
            "npv": agreement.negative_predictive_value(cells),
            "accuracy": agreement.accuracy(cells),
            "kappa": agreement.kappa(cells),
            "matthews": agreement.matthews(cells),
            "brier": ratio(sums["squared"], known),
            "log_loss": ratio(sums["logs"], known),
        }
        values["balanced_accuracy"] = (values["recall"] + values["specificity"]) / 2
        if self._prevalence is not None:
            values["ppv_at_prevalence"], values["npv_at_prevalence"] = agreement.predictive_values(
                values["recall"], values["specificity"], self._prevalence
            )
        return values

    def _averages(self, cells: Floats, per_label: dict[str, Floats]) -> dict[str, Floats]:
        support = cells[..., 1, :].sum(axis=-1)
        together = rates(cells.sum(axis=1, keepdims=True))
        return {
            **{f"{name}_micro": values[:, 0] for name, values in together.items()},
            **{f"{name}_weighted": self._mean(name, per_label[name], support) for name in together},
            **{f"{name}_macro": self._mean(name, per_label[name]) for name in (*together, "auroc", "ap")},
        }

    def _of_classes(self, sums: dict[str, Floats], per_label: dict[str, Floats]) -> dict[str, Floats]:
        confusion = sums["confusion"]
        images = confusion.sum(axis=(-2, -1))
        return {
            "accuracy": agreement.accuracy(confusion),
            "balanced_accuracy": self._mean("recall", per_label["recall"]),
            "kappa": agreement.kappa(confusion),
            "kappa_quadratic": agreement.kappa(confusion, "quadratic"),
            "matthews": agreement.matthews(confusion),
            "brier": ratio(sums["brier"], images),
            "log_loss": ratio(sums["log_loss"], images),
        }

    def _of_sets(self, sums: dict[str, Floats], per_label: dict[str, Floats]) -> dict[str, Floats]:
        names = ("balanced_accuracy", "kappa", "matthews", "brier", "log_loss")
        return {
            "subset_accuracy": ratio(sums["sets"][:, 1], sums["sets"].sum(axis=-1)),
            **{f"{name}_macro": self._mean(name, per_label[name]) for name in names},
        }

    def _mean(self, name: str, values: Floats, weights: Floats | None = None) -> Floats:
        """The mean over the labels where `name` has a value in the split itself: (B, L) to (B,)."""
        defined = ~np.isnan(values[0]) if self._defined is None else self._defined[name]
        share = (np.ones_like(values) if weights is None else weights)[:, defined]
        # A label that weighs nothing in a resample (no image carries it) needs no value there.
        counted = np.where(share > 0, share * values[:, defined], 0.0)
        return ratio(counted.sum(axis=1), share.sum(axis=1))


def _each(value: ArrayLike, n_labels: int, name: str) -> Floats:
    numbers = np.asarray(value, dtype=np.float64)
    if numbers.shape not in ((), (n_labels,)) or (name == "threshold" and np.isnan(numbers).any()):
        raise ValueError(f"{name} is {value!r}; expected one number or {n_labels}, one for each label")
    return np.broadcast_to(numbers, (n_labels,))
