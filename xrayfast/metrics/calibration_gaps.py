"""The gaps per bin whose absolute values add up to a calibration error, in resamples of the patients."""

from __future__ import annotations

import numpy as np

from xrayfast.metrics.classification import Floats, ratio
from xrayfast.metrics.reliability import Binning, top_label
from xrayfast.metrics.resamples import Resamples, Split, Summands


def label_gaps(resamples: Resamples, binning: Binning) -> Floats:
    """Return the sum of truth minus probability in each bin of each label, over the label's number of unmasked images.

    The bin edges are those of `reliability.inner_edges` for the split itself: "mass" bins are not recomputed in
    resamples.

    Returns:
        (B, L, K); NaN where a label has no unmasked image.
    """
    return ratio(resamples.sums(_sum_label_gaps, binning), resamples.unmasked[..., None])


def macro_gaps(resamples: Resamples, gaps: Floats) -> Floats:
    """Return the (B, L, K) gaps of all labels with an unmasked image in the split, divided by the number of these
    labels: their absolute values add up to the mean calibration error.

    Returns:
        (B, L K); NaN where a resample has no unmasked image of one of these labels, or there is no such label.
    """
    unmasked = (resamples.split.truth >= 0).any(axis=0)
    if not unmasked.any():
        return np.full((len(gaps), 1), np.nan)
    return gaps[:, unmasked].reshape(len(gaps), -1) / unmasked.sum()


def top_label_gaps(resamples: Resamples, binning: Binning) -> Floats:
    """Return, per bin, the sum over images of 1 or 0 (the most likely class is right or wrong) minus the probability of
    that class, divided by the number of images (single-label).

    Returns:
        (B, K); NaN for a resample without an unmasked image.
    """
    return ratio(resamples.sums(_sum_top_label_gaps, binning), resamples.images[:, None])


def _sum_label_gaps(split: Split, rows: slice, binning: Binning) -> Summands:
    edges, truth, probability = split.edges(binning), split.truth[rows], split.probability[rows]
    n_bins = max(map(len, edges)) + 1
    bins = np.column_stack([np.searchsorted(ends, values) for ends, values in zip(edges, probability.T, strict=True)])
    gaps = np.where(truth >= 0, truth - probability, 0.0)
    return Summands((len(edges), n_bins), n_bins * np.arange(len(edges)) + bins, gaps)


def _sum_top_label_gaps(split: Split, rows: slice, binning: Binning) -> Summands:
    (edges,) = split.edges(binning, top=True)
    right, confidence, known = top_label(split.truth[rows], split.probability[rows])
    gaps = np.zeros(len(split.truth[rows]))
    bins = np.zeros(gaps.shape, np.int64)
    gaps[known], bins[known] = right - confidence, np.searchsorted(edges, confidence)
    return Summands((len(edges) + 1,), bins[:, None], gaps[:, None])
