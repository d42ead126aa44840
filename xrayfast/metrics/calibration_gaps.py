"""Calibration errors as the sums of absolute values that they are: the gap of each bin, summed by patient."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from xrayfast.metrics.classification import Floats, ratio
from xrayfast.metrics.grouped_sums import GroupedSums
from xrayfast.metrics.reliability import Binning, inner_edges, top_label

if TYPE_CHECKING:
    from xrayfast.metrics.intervals.resampled_metrics import ResampledMetrics, Resamples


def label_gaps(resamples: Resamples, binning: Binning) -> Floats:
    """Truth minus probability in each bin of each label, as a share of the label's unmasked images.

    The bins are those of `reliability.inner_edges`; those of "mass" are the split's own, and stay so in its resamples.

    Returns:
        (B, L, K); NaN for a label that is masked throughout.
    """
    return ratio(resamples.sums(_sum_label_gaps, binning), resamples.unmasked[..., None])


def macro_gaps(resamples: Resamples, gaps: Floats) -> Floats:
    """The (B, L, K) gaps of all labels not masked throughout the split, scaled to sum to their mean calibration error.

    Returns:
        (B, L K); NaN where a resample has no image of one of these labels, or there is no such label.
    """
    unmasked = (resamples.split.truth >= 0).any(axis=0)
    if not unmasked.any():
        return np.full((len(gaps), 1), np.nan)
    flat: Floats = gaps[:, unmasked].reshape(len(gaps), -1) / unmasked.sum()
    return flat


def top_label_gaps(resamples: Resamples, binning: Binning) -> Floats:
    """Whether the most likely class is right minus its probability in each bin, as a share of the images (single).

    Returns:
        (B, K); NaN for a resample without an image.
    """
    return ratio(resamples.sums(_sum_top_label_gaps, binning), resamples.images[:, None])


def _sum_label_gaps(split: ResampledMetrics, binning: Binning) -> GroupedSums:
    rows_of = [np.flatnonzero(column >= 0) for column in split.truth.T]
    edges = [inner_edges(split.probability[rows, i], binning=binning) for i, rows in enumerate(rows_of)]
    n_bins = max(map(len, edges)) + 1

    def sums(label: int) -> GroupedSums:
        rows = rows_of[label]
        probability = split.probability[rows, label]
        gaps = split.truth[rows, label] - probability
        return GroupedSums(split.n_units, (n_bins,), np.searchsorted(edges[label], probability), split.unit[rows], gaps)

    return GroupedSums.stack(map(sums, range(len(edges))))


def _sum_top_label_gaps(split: ResampledMetrics, binning: Binning) -> GroupedSums:
    right, confidence, rows = top_label(split.truth, split.probability)
    ends = inner_edges(confidence, binning=binning)
    which = np.searchsorted(ends, confidence)
    return GroupedSums(split.n_units, (len(ends) + 1,), which, split.unit[rows], right - confidence)
