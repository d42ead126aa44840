"""Metrics of one label or of a table of labels.

Truths are arrays of 1, 0 and, in tables of labels, -1 where nobody knows; scores are floats where higher means more
likely. A number that has no value, because a class is absent or a denominator is zero, is NaN here;
`metrics.summary` says so in words.
"""

from __future__ import annotations

import math
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]
T = TypeVar("T")


def auroc(truth: ArrayLike, score: ArrayLike) -> float:
    """Area under the ROC curve: the chance that a positive scores above a negative, ties counting half.

    Args:
        truth: (N,) 0 or 1.
        score: (N,) any float.

    Returns:
        A value in [0, 1], or NaN where one of the two classes is absent.

    Computed from mid-ranks (Hanley and McNeil 1982, the Mann-Whitney U statistic).
    """
    positive, values = _pair(truth, score)
    n_positive = int(positive.sum())
    n_negative = len(positive) - n_positive
    if n_positive == 0 or n_negative == 0:
        return float("nan")
    u = midranks(values)[positive].sum() - n_positive * (n_positive + 1) / 2.0
    return float(u / (n_positive * n_negative))


def midranks(values: ArrayLike) -> Floats:
    """Ranks from 1, equal values sharing the mean of theirs.

    Args:
        values: (N,) numbers, none of them NaN.

    Returns:
        (N,) in [1, N].
    """
    _, inverse, counts = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    ranks: Floats = (np.cumsum(counts) - (counts - 1) / 2.0)[inverse]
    return ranks


def average_precision(truth: ArrayLike, score: ArrayLike) -> float:
    """Average precision: precision at each threshold, weighted by the recall it adds, without interpolation.

    Args:
        truth: (N,) 0 or 1.
        score: (N,) any float; equal scores share a threshold.

    Returns:
        A value in (0, 1], or NaN where there is no positive.
    """
    positive, values = _pair(truth, score)
    n_positive = int(positive.sum())
    if n_positive == 0:
        return float("nan")
    order = np.argsort(-values, kind="stable")
    last_of_ties = np.append(np.diff(values[order]) != 0, True)
    true_positives = np.cumsum(positive[order])[last_of_ties]
    predicted = np.flatnonzero(last_of_ties) + 1
    added = np.diff(true_positives, prepend=0)
    return float(np.sum(true_positives / predicted * added) / n_positive)


def confusion_matrix(actual: ArrayLike, predicted: ArrayLike, n_classes: int) -> Counts:
    """Counts by actual (rows) and predicted (columns) class.

    Args:
        actual: (N,) class indices in [0, n_classes).
        predicted: (N,) class indices in [0, n_classes).
        n_classes: C.

    Returns:
        (C, C) counts.
    """
    flat = np.asarray(actual, dtype=np.int64) * n_classes + np.asarray(predicted, dtype=np.int64)
    return np.bincount(flat, minlength=n_classes**2).reshape(n_classes, n_classes)


def binary_counts(truth: ArrayLike, predicted: ArrayLike) -> Counts:
    """One 2x2 matrix a label, laid out as scikit-learn's `multilabel_confusion_matrix`.

    Args:
        truth: (N, L) 1, 0, or -1 where nobody knows, which is not counted.
        predicted: (N, L) 0 or 1.

    Returns:
        (L, 2, 2): rows actual negative, positive; columns predicted negative, positive.
    """
    known, guess = np.asarray(truth), np.asarray(predicted, dtype=bool)
    positive, negative = known == 1, known == 0
    tp = (positive & guess).sum(axis=0)
    fp = (negative & guess).sum(axis=0)
    fn = (positive & ~guess).sum(axis=0)
    tn = (negative & ~guess).sum(axis=0)
    return np.stack([np.stack([tn, fp], axis=-1), np.stack([fn, tp], axis=-1)], axis=-2)


def rates(counts: NDArray[Any]) -> dict[str, Floats]:
    """Precision, recall, specificity and F1 of each label.

    Args:
        counts: (..., L, 2, 2) as `binary_counts` gives them, with any axes before the labels'.

    Returns:
        Four (..., L) arrays in [0, 1]. A rate whose denominator is zero is NaN, but precision and F1 are 0 for a label
        that is present and never predicted, as in scikit-learn. A label that no image carries has no F1, whether or
        not it was predicted, so that a macro mean is over the same labels in every epoch.
    """
    tn, fp, fn, tp = counts[..., 0, 0], counts[..., 0, 1], counts[..., 1, 0], counts[..., 1, 1]
    precision = ratio(tp, tp + fp)
    never_predicted = (tp + fp == 0) & (tp + fn > 0)
    precision[never_predicted] = 0.0
    f1 = ratio(2 * tp, 2 * tp + fp + fn)
    f1[tp + fn == 0] = np.nan
    return {
        "precision": precision,
        "recall": ratio(tp, tp + fn),
        "specificity": ratio(tn, tn + fp),
        "f1": f1,
    }


def cooccurrence(truth: ArrayLike, predicted: ArrayLike) -> Counts:
    """How often label j was predicted on images that carry label i.

    Args:
        truth: (N, L) 1, 0, or -1 where nobody knows.
        predicted: (N, L) 0 or 1.

    Returns:
        (L, L) counts, rows actual, columns predicted. A row does not sum to the label's support: an image may carry
        several labels.
    """
    carried = (np.asarray(truth) == 1).astype(np.int64)
    counts: Counts = carried.T @ np.asarray(predicted, dtype=np.int64)
    return counts


def nanmean(values: ArrayLike) -> float:
    """The mean of the values that are defined; NaN where none is (and no warning)."""
    array = np.asarray(values, dtype=np.float64)
    defined = array[~np.isnan(array)]
    return float(defined.mean()) if defined.size else float("nan")


def defined(value: T) -> T | None:
    """The value, or None in place of NaN, which JSON does not have.

    >>> defined(0.5), defined(float("nan")), defined(3)
    (0.5, None, 3)
    """
    return None if isinstance(value, float) and math.isnan(value) else value


def ratio(numerator: NDArray[Any], denominator: NDArray[Any]) -> Floats:
    """Element by element, NaN where the denominator is not above zero (and no warning). Shapes must be equal."""
    result = np.full(numerator.shape, np.nan)
    np.divide(numerator, denominator, out=result, where=denominator > 0)
    return result


def _pair(truth: ArrayLike, score: ArrayLike) -> tuple[NDArray[np.bool_], Floats]:
    positive, values = np.asarray(truth).astype(bool), np.asarray(score, dtype=np.float64)
    if positive.ndim != 1 or positive.shape != values.shape:
        raise ValueError(f"truth has shape {positive.shape}, score {values.shape}; expected two equal lengths")
    if np.isnan(values).any():
        raise ValueError("score holds NaN; a network that diverged gives no metric")
    return positive, values
