"""The calibration errors of a split and of many resamples of it, kept as the gap of each bin."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from xrayfast.config import Task
from xrayfast.metrics.classification import Floats, ratio
from xrayfast.metrics.grouped_sums import GroupedSums
from xrayfast.metrics.inputs import Indices
from xrayfast.metrics.reliability import Binning, inner_edges, top_label

BINNINGS: dict[str, Binning] = {"ece": "width", "ece_mass": "mass"}
"""The bins of each calibration error. Those of "mass" are the split's own, and stay so in its resamples."""


class CalibrationGaps:
    """How far truth and probability lie apart in each bin, as shares of all images.

    A calibration error is the sum of their absolute values; `confidence_limits.norm_limits` needs them one by one.

    Args:
        truth: (N, L) of 1, 0, and -1 where nobody knows, as `inputs.table` gives it.
        probability: (N, L) in [0, 1].
        task: "single" also looks at the most likely class alone, "multi" at the mean over the labels.
        unit: (N,) the patient (or image) that is drawn.
        units: how many there are.
    """

    def __init__(self, truth: NDArray[np.int8], probability: Floats, task: Task, unit: Indices, n_units: int) -> None:
        self._task = task
        self._sums = GroupedSums(n_units)
        known = truth >= 0
        self._known = known.any(axis=0)
        rows, labels = np.nonzero(known)
        self._sums.add("known", (truth.shape[1],), labels, unit[rows])
        for name, binning in BINNINGS.items():
            edges = [
                inner_edges(column[seen], binning=binning) for column, seen in zip(probability.T, known.T, strict=True)
            ]
            which = np.zeros_like(labels)
            for i, ends in enumerate(edges):
                which[labels == i] = np.searchsorted(ends, probability[rows[labels == i], i])
            n_bins = max(len(ends) for ends in edges) + 1
            gap = truth[rows, labels] - probability[rows, labels]
            self._sums.add(name, (truth.shape[1], n_bins), labels * n_bins + which, unit[rows], gap)
        if task == "single":
            right, confidence, seen = top_label(truth, probability)
            self._sums.add("images", (1,), np.zeros_like(seen), unit[seen])
            for name, binning in BINNINGS.items():
                ends = inner_edges(confidence, binning=binning)
                which = np.searchsorted(ends, confidence)
                self._sums.add(f"top_{name}", (len(ends) + 1,), which, unit[seen], right - confidence)

    def compute(self, counts: Floats) -> tuple[dict[str, Floats], dict[str, Floats]]:
        """The gaps of B resamples.

        Args:
            counts: (B, units) how often each patient (or image) is drawn.

        Returns:
            By the names of `measures.OVERALL_METRICS` (B, K), and of `LABEL_METRICS` (B, L, K); NaN where a resample
            has no image, or for the mean over labels none of a label that the split knows something of.
        """
        sums = self._sums.sums(counts)
        per_label = {name: _shares(sums[name], sums["known"][..., None]) for name in BINNINGS}
        if self._task == "single":
            return {name: _shares(sums[f"top_{name}"], sums["images"]) for name in BINNINGS}, per_label
        together = {}
        for name, gaps in per_label.items():
            kept = gaps[:, self._known].reshape(len(gaps), -1) / max(self._known.sum(), 1)
            together[f"{name}_macro"] = kept if self._known.any() else np.full((len(gaps), 1), np.nan)
        return together, per_label


def total(gaps: Floats) -> Floats:
    """The calibration error of (..., K) gaps, (...) in [0, 1]."""
    result: Floats = np.abs(gaps).sum(axis=-1)
    return result


def _shares(gaps: Floats, images: Floats) -> Floats:
    return ratio(gaps, np.broadcast_to(images, gaps.shape))
