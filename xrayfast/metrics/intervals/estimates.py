"""Which metrics of a split have an interval by formula, and these."""

from __future__ import annotations

import math
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from xrayfast.metrics.inputs import Bools, Indices, count_patients
from xrayfast.metrics.intervals.formulas import (
    Estimate,
    estimate_auroc,
    estimate_average_precision,
    estimate_proportion,
    mean_of,
)
from xrayfast.metrics.intervals.resampled_metrics import ResampledMetrics
from xrayfast.metrics.registry import EXACT_MATCH, Metric

_MEANS = {
    "auroc_macro": ("auroc",),
    "recall_macro": ("recall",),
    "specificity_macro": ("specificity",),
    "balanced_accuracy": ("recall",),
    "balanced_accuracy_macro": ("recall", "specificity"),
}
"""Metrics over all labels that are means of metrics by label, each over the labels that have all of them."""


class SplitEstimates:
    """The metrics of a split by formula, each computed when first asked for.

    Args:
        split: of which.
    """

    def __init__(self, split: ResampledMetrics) -> None:
        self._split = split
        self._labels: dict[tuple[str, int], Estimate | None] = {}

    def label(self, metric: Metric, label: int) -> Estimate | None:
        """A metric of one label; None where it has no formula or no value."""
        key = (metric.name, label)
        if key not in self._labels:
            self._labels[key] = self._estimate_label(metric, label)
        return self._labels[key]

    def overall(self, metric: Metric) -> Estimate | None:
        """A metric over all labels, likewise."""
        split, cells = self._split, self._split.truth >= 0
        if metric.name in EXACT_MATCH.values():
            rows = cells.any(axis=1)
            right = ((split.predicted == split.truth) | ~cells).all(axis=1)
            return self._proportion(right[rows], split.unit[rows])
        if metric.denominator is not None:
            return self._estimate_proportion(metric, np.ones(cells.shape[1], dtype=bool))
        if metric.name == "auroc_micro":
            return self._auroc(cells)
        if metric.name not in _MEANS:
            return None
        names = _MEANS[metric.name]
        defined = [i for i in range(cells.shape[1]) if not any(math.isnan(split.per_label[name][i]) for name in names)]
        found = [self.label(split.label_metrics[name], i) for i in defined for name in names]
        there = [one for one in found if one is not None]
        return mean_of(there) if there and len(there) == len(found) else None

    @cached_property
    def _counts(self) -> NDArray[np.int64]:
        return count_patients(self._split.truth, self._split.unit)

    @property
    def rarer(self) -> tuple[int, ...]:
        """(L,) patients (or images) of each label's rarer class."""
        return tuple(self._counts.min(axis=1).tolist())

    @property
    def positive(self) -> tuple[int, ...]:
        """(L,) patients (or images) with each label."""
        return tuple(self._counts[:, 0].tolist())

    def _estimate_label(self, metric: Metric, label: int) -> Estimate | None:
        split = self._split
        only = np.arange(split.truth.shape[1]) == label
        if metric.denominator is not None:
            return self._estimate_proportion(metric, only)
        if metric.name == "auroc":
            return self._auroc(split.label_cells(label))
        if metric.name == "balanced_accuracy":
            parts = [self.label(split.label_metrics[name], label) for name in ("recall", "specificity")]
            there = [one for one in parts if one is not None]
            return mean_of(there) if len(there) == len(parts) else None
        if metric.name == "ap":
            value = float(split.per_label["ap"][label])
            return _defined(estimate_average_precision(value, self.positive[label], split.n_units))
        return None

    def _estimate_proportion(self, metric: Metric, labels: Bools) -> Estimate | None:
        split, unmasked = self._split, self._split.truth >= 0
        assert metric.denominator is not None  # the callers asked
        cells = {
            "unmasked": unmasked,
            "positive": split.truth == 1,
            "negative": split.truth == 0,
            "predicted positive": unmasked & (split.predicted == 1),
            "predicted negative": unmasked & (split.predicted == 0),
        }[metric.denominator] & labels
        unit = np.broadcast_to(split.unit[:, None], cells.shape)[cells]
        return self._proportion((split.predicted == split.truth)[cells], unit)

    def _proportion(self, success: Bools, unit: Indices) -> Estimate | None:
        return _defined(estimate_proportion(success, unit, self._split.n_units))

    def _auroc(self, cells: Bools) -> Estimate | None:
        truth, probability, unit = self._split.take(cells)
        return _defined(estimate_auroc(truth == 1, probability, unit, self._split.n_units))


def _defined(found: Estimate) -> Estimate | None:
    return None if math.isnan(found.low) else found
