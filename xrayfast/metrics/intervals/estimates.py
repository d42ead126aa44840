"""The metrics of a split that have a confidence interval by formula."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from xrayfast.metrics.classification import Floats
from xrayfast.metrics.inputs import Bools, Indices, count_patients
from xrayfast.metrics.intervals.formulas import (
    Estimate,
    are_few,
    estimate_auroc,
    estimate_average_precision,
    estimate_proportion,
    estimate_proportion_of_sums,
    mean_of,
)
from xrayfast.metrics.intervals.resampled_metrics import ResampledMetrics
from xrayfast.metrics.registry import EXACT_MATCH, Denominator, Metric

_MEANS = {
    "auroc_macro": ("auroc",),
    "recall_macro": ("recall",),
    "specificity_macro": ("specificity",),
    "balanced_accuracy": ("recall",),
    "balanced_accuracy_macro": ("recall", "specificity"),
}
"""Metrics over all labels, and the metrics per label that each is the mean of, over the labels for which all of these
are defined."""

_DENOMINATORS: Mapping[Denominator, Callable[[NDArray[np.int8], NDArray[np.int8]], Bools]] = {
    "unmasked": lambda truth, predicted: truth >= 0,
    "positive": lambda truth, predicted: truth == 1,
    "negative": lambda truth, predicted: truth == 0,
    "predicted positive": lambda truth, predicted: (truth >= 0) & (predicted == 1),
    "predicted negative": lambda truth, predicted: (truth >= 0) & (predicted == 0),
}
"""Which of the (N,) cells of a label a proportion is counted over, as a function of truth and prediction."""

_MANY_CELLS = 2**22
"""With more cells, an AUROC is not estimated if its interval is the bootstrap's anyway: the estimate takes a hundred
bytes per cell, and as long as several resamples."""


class SplitEstimates:
    """The estimates by formula of a split's metrics, each computed on first use.

    Args:
        others: splits of other models on the same images, with whose estimates these are compared.
    """

    def __init__(self, split: ResampledMetrics, others: Sequence[ResampledMetrics] = ()) -> None:
        self._split, self._all = split, (split, *others)
        self._labels: dict[tuple[str, int], Estimate | None] = {}

    def of(self, metric: Metric, label: int | None) -> Estimate | None:
        """Return the estimate of a metric of one label, or over all labels if `label` is None; None as in `label`."""
        return self.overall(metric) if label is None else self.label(metric, label)

    def label(self, metric: Metric, label: int) -> Estimate | None:
        """Return the estimate of a metric of one label; None if it has no formula or no value."""
        key = (metric.name, label)
        if key not in self._labels:
            self._labels[key] = self._estimate_label(metric, label)
        return self._labels[key]

    def overall(self, metric: Metric) -> Estimate | None:
        """Return the estimate of a metric over all labels; None if it has no formula or no value."""
        split, n_labels = self._split, self._split.truth.shape[1]
        if metric.name in EXACT_MATCH.values():
            rows = (split.truth >= 0).any(axis=1)
            right = ((split.predicted == split.truth) | (split.truth < 0)).all(axis=1)
            return _defined(estimate_proportion(right[rows], split.unit[rows], split.n_units))
        if metric.denominator is not None:
            return self._estimate_proportion(metric, range(n_labels))
        if metric.name == "auroc_micro":
            return self._estimate_pooled_auroc()
        if metric.name not in _MEANS:
            return None
        names = _MEANS[metric.name]
        defined = [i for i in range(n_labels) if not any(math.isnan(split.per_label[name][i]) for name in names)]
        found = [self.label(split.label_metrics[name], i) for i in defined for name in names]
        there = [one for one in found if one is not None]
        return mean_of(there) if there and len(there) == len(found) else None

    @cached_property
    def _counts(self) -> NDArray[np.int64]:
        return count_patients(self._split.truth, self._split.unit)

    @property
    def rarer(self) -> tuple[int, ...]:
        """(L,) number of patients (or images) in each label's rarer class."""
        return tuple(self._counts.min(axis=1).tolist())

    @property
    def positive(self) -> tuple[int, ...]:
        """(L,) number of patients (or images) with each label."""
        return tuple(self._counts[:, 0].tolist())

    def _estimate_label(self, metric: Metric, label: int) -> Estimate | None:
        split = self._split
        if metric.denominator is not None:
            return self._estimate_proportion(metric, [label])
        if metric.name == "auroc":
            return None if self._aurocs_are_many else self._auroc(*split.cells_of(label))
        if metric.name == "balanced_accuracy":
            parts = [self.label(split.label_metrics[name], label) for name in ("recall", "specificity")]
            there = [one for one in parts if one is not None]
            return mean_of(there) if len(there) == len(parts) else None
        if metric.name == "ap":
            value = float(split.per_label["ap"][label])
            return _defined(estimate_average_precision(value, self.positive[label], split.n_units))
        return None

    def _estimate_proportion(self, metric: Metric, labels: Iterable[int]) -> Estimate | None:
        split = self._split
        images, right = np.zeros((2, split.n_units), np.int64)
        for label in labels:
            truth, predicted = split.truth[:, label], split.predicted[:, label]
            counted = _DENOMINATORS[metric.denominator or "unmasked"](truth, predicted)
            images += np.bincount(split.unit[counted], minlength=split.n_units)
            right += np.bincount(split.unit[counted & (predicted == truth)], minlength=split.n_units)
        return _defined(estimate_proportion_of_sums(images, right))

    def _estimate_pooled_auroc(self) -> Estimate | None:
        split = self._split
        if split.truth.size > _MANY_CELLS:
            either = np.stack([(split.truth == cell).any(axis=1) for cell in (1, 0)], axis=1)
            fewest = int(count_patients(either, split.unit)[:, 0].min())
            if not any(are_few(fewest, each.overall["auroc_micro"]) for each in self._all):
                return None
        return self._auroc(*map(np.concatenate, zip(*map(split.cells_of, range(split.truth.shape[1])), strict=True)))

    @cached_property
    def _aurocs_are_many(self) -> bool:
        """Whether there are many cells, and every AUROC per label, their mean, and their differences from the other
        models' have bootstrap intervals.
        """
        pairs = (pair for each in self._all for pair in zip(self.rarer, each.per_label["auroc"].tolist(), strict=True))
        few = any(are_few(patients, value) for patients, value in pairs if not math.isnan(value))
        return self._split.truth.size > _MANY_CELLS and not few

    def _auroc(self, truth: NDArray[np.int8], probability: Floats, unit: Indices) -> Estimate | None:
        return _defined(estimate_auroc(truth == 1, probability, unit, self._split.n_units))


def _defined(found: Estimate) -> Estimate | None:
    return None if math.isnan(found.low) else found
