"""Metrics of a label, and the confusion counts that they are computed from.

Truth is 1, 0 or, with several labels, -1 where masked; scores are floats, higher meaning more likely. Functions of
`counts` take (..., 2, 2) matrices as `binary_counts` returns them, and return (...) values in [0, 1]. A metric that is
undefined, because a class is absent or a denominator is zero, is NaN; `metrics.summary` adds a note about it.
"""

from __future__ import annotations

import math
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]
T = TypeVar("T")

_ROWS = 2**16


def auroc(truth: ArrayLike, score: ArrayLike) -> float:
    """Compute the area under the ROC curve: the chance that a positive scores above a negative, ties counting half.

    It is computed from mid-ranks (Hanley and McNeil 1982, the Mann-Whitney U statistic) of (N,) scores and truth of 0
    and 1, and is NaN if one of the two classes is absent.
    """
    positive, values = _pair(truth, score)
    n_positive = int(positive.sum())
    n_negative = len(positive) - n_positive
    if n_positive == 0 or n_negative == 0:
        return float("nan")
    u = midranks(values)[positive].sum() - n_positive * (n_positive + 1) / 2.0
    return float(u / (n_positive * n_negative))


def midranks(values: ArrayLike) -> Floats:
    """Return the (N,) ranks, from 1 to N, of (N,) values without NaN; tied values get the mean of their ranks."""
    _, inverse, counts = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2.0)[inverse]


def average_precision(truth: ArrayLike, score: ArrayLike) -> float:
    """Compute average precision: the mean of the precision at each threshold, weighted by the increase in recall there,
    without interpolation.

    `truth` is (N,) of 0 and 1; equal scores share a threshold. NaN if one of the two classes is absent: without a
    negative, any scores would give 1.
    """
    positive, values = _pair(truth, score)
    n_positive = int(positive.sum())
    if n_positive in (0, len(positive)):
        return float("nan")
    order = np.argsort(-values, kind="stable")
    last_of_ties = np.append(np.diff(values[order]) != 0, True)
    true_positives = np.cumsum(positive[order])[last_of_ties]
    predicted = np.flatnonzero(last_of_ties) + 1
    added = np.diff(true_positives, prepend=0)
    return float(np.sum(true_positives / predicted * added) / n_positive)


def confusion_matrix(actual: ArrayLike, predicted: ArrayLike, n_classes: int) -> Counts:
    """Count (C, C) images per actual (row) and predicted (column) class, from (N,) class indices below `n_classes`."""
    flat = np.asarray(actual, dtype=np.int64) * n_classes + np.asarray(predicted, dtype=np.int64)
    return np.bincount(flat, minlength=n_classes**2).reshape(n_classes, n_classes)


def binary_counts(truth: ArrayLike, predicted: ArrayLike) -> Counts:
    """Count a 2x2 confusion matrix per label, laid out like scikit-learn's `multilabel_confusion_matrix`.

    Returns:
        (L, 2, 2): rows actual negative, positive; columns predicted negative, positive.
    """
    truth, positive = np.asarray(truth), np.asarray(predicted, dtype=bool)
    cells = [[(rows & columns).sum(axis=0) for columns in (~positive, positive)] for rows in (truth == 0, truth == 1)]
    return np.moveaxis(np.array(cells), -1, 0)


def precision(counts: NDArray[Any]) -> Floats:
    """Compute the positive predictive value: the share of true positives among the images predicted positive.

    0 where the label is present but never predicted, as in scikit-learn; NaN where it is neither present nor predicted.
    """
    fp, fn, tp = counts[..., 0, 1], counts[..., 1, 0], counts[..., 1, 1]
    result = ratio(tp, tp + fp)
    result[(tp + fp == 0) & (tp + fn > 0)] = 0.0
    return result


def recall(counts: NDArray[Any]) -> Floats:
    """Compute sensitivity: the share of images with the label that are predicted positive; NaN if there are none."""
    return ratio(counts[..., 1, 1], counts[..., 1, 1] + counts[..., 1, 0])


def specificity(counts: NDArray[Any]) -> Floats:
    """Compute the share of images without the label that are predicted negative; NaN if there are none."""
    return ratio(counts[..., 0, 0], counts[..., 0, 0] + counts[..., 0, 1])


def negative_predictive_value(counts: NDArray[Any]) -> Floats:
    """Compute the share of true negatives among the images predicted negative; NaN if there are none."""
    return ratio(counts[..., 0, 0], counts[..., 0, 0] + counts[..., 1, 0])


def f1(counts: NDArray[Any]) -> Floats:
    """Compute the harmonic mean of precision and recall.

    0 where the label is present but never predicted, as in scikit-learn; NaN where no image has it, whatever was
    predicted, so that a macro mean is over the same labels in every epoch.
    """
    fp, fn, tp = counts[..., 0, 1], counts[..., 1, 0], counts[..., 1, 1]
    result = ratio(2 * tp, 2 * tp + fp + fn)
    result[tp + fn == 0] = np.nan
    return result


def cooccurrence(truth: ArrayLike, predicted: ArrayLike) -> Counts:
    """Count how often label j was predicted on images with label i, where the cell of j is not masked.

    Returns:
        (L, L) counts, rows actual (i), columns predicted (j). A row does not sum to the label's support, because an
        image may have several labels.
    """
    truth = np.asarray(truth)
    return count_pairs(truth == 1, np.asarray(predicted, dtype=bool) & (truth >= 0))


def count_pairs(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> Counts:
    """Count, for each pair of a column of (N, L) and a column of (N, M), the rows where both are true: (L, M)."""
    counts: Counts = np.zeros((first.shape[1], second.shape[1]), np.int64)
    for start in range(0, len(first), _ROWS):
        rows = slice(start, start + _ROWS)
        # A matrix product of integers is many times slower, and float32 is exact for counts of up to `_ROWS`.
        counts += (first[rows].astype(np.float32).T @ second[rows].astype(np.float32)).astype(np.int64)
    return counts


def nan_to_none(value: T) -> T | None:
    """Return None for NaN, which JSON does not have, and any other value unchanged.

    >>> nan_to_none(0.5), nan_to_none(float("nan")), nan_to_none(3)
    (0.5, None, 3)
    """
    return None if isinstance(value, float) and math.isnan(value) else value


def ratio(numerator: NDArray[Any], denominator: NDArray[Any]) -> Floats:
    """Divide element by element; NaN, without a warning, where the denominator is not above zero."""
    result = np.full(np.broadcast_shapes(numerator.shape, denominator.shape), np.nan)
    np.divide(numerator, denominator, out=result, where=denominator > 0)
    return result


def _pair(truth: ArrayLike, score: ArrayLike) -> tuple[NDArray[np.bool_], Floats]:
    actual, values = np.asarray(truth), np.asarray(score, dtype=np.float64)
    positive: NDArray[np.bool_] = actual == 1
    if positive.ndim != 1 or positive.shape != values.shape:
        raise ValueError(f"truth has shape {positive.shape}, score {values.shape}; expected two equal lengths")
    if not (positive | (actual == 0)).all():
        raise ValueError("truth holds values other than 0 and 1; leave out images of which the cell is masked")
    if np.isnan(values).any():
        raise ValueError("score holds NaN; a network that diverged has no metrics")
    return positive, values
