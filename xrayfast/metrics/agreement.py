"""Agreement of actual and predicted classes, from confusion matrices.

A matrix has the actual classes as rows and the predicted ones as columns. Every function takes a stack of matrices with
any axes before the last two: one matrix, a 2x2 matrix per label, or those of a thousand resamples.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xrayfast.metrics.classification import Floats, ratio, recall, specificity


def accuracy(confusion: NDArray[Any]) -> Floats:
    """(...) the share of images whose class is right, from (..., C, C) counts; NaN for an empty matrix."""
    return ratio(np.trace(confusion, axis1=-2, axis2=-1), confusion.sum(axis=(-2, -1)))


def mean_of_recall_and_specificity(counts: NDArray[Any]) -> Floats:
    """(...) the balanced accuracy of labels against the rest, from (..., 2, 2) counts; NaN where a label is on no image
    or on all.
    """
    return (recall(counts) + specificity(counts)) / 2


def kappa(confusion: NDArray[Any], weights: Literal["none", "quadratic"] = "none") -> Floats:
    """Cohen's kappa: agreement beyond that expected by chance from the two margins.

    Args:
        confusion: (..., C, C) counts.
        weights: "quadratic" counts a disagreement as the square of the distance of the two classes in their order, and
            is meaningful only where the classes are ordered.

    Returns:
        (...) at most 1, where 0 is chance; NaN where chance agreement is perfect (one class on both sides) and for
        an empty matrix.

    Cohen 1960; with weights Cohen 1968.
    """
    classes = np.arange(confusion.shape[-1], dtype=np.float64)
    distance = classes[:, None] - classes
    cost = (distance != 0).astype(np.float64) if weights == "none" else distance**2
    total = confusion.sum(axis=(-2, -1))
    observed = (cost * confusion).sum(axis=(-2, -1)) * total
    rows, columns = confusion.sum(axis=-1), confusion.sum(axis=-2)
    expected = np.einsum("...i,ij,...j->...", rows.astype(np.float64), cost, columns.astype(np.float64))
    return 1.0 - ratio(observed, expected)


def matthews(confusion: NDArray[Any]) -> Floats:
    """Matthews' correlation coefficient, of two classes or of many.

    Args:
        confusion: (..., C, C) counts.

    Returns:
        (...) in [-1, 1]. 0 where one class is predicted for all images, as in scikit-learn; NaN where all images are of
        one class, and for an empty matrix.

    Matthews 1975; for more than two classes the R_K of Gorodkin 2004.
    """
    counts = confusion.astype(np.float64)
    actual, predicted = counts.sum(axis=-1), counts.sum(axis=-2)
    total = counts.sum(axis=(-2, -1))
    together = np.trace(counts, axis1=-2, axis2=-1) * total - (actual * predicted).sum(axis=-1)
    of_actual, of_predicted = (total**2 - (margin**2).sum(axis=-1) for margin in (actual, predicted))
    result = ratio(together, np.sqrt(of_actual * of_predicted))
    return np.where((of_predicted == 0) & (of_actual > 0), 0.0, result)


def predictive_values(recall: ArrayLike, specificity: ArrayLike, prevalence: ArrayLike) -> tuple[Floats, Floats]:
    """Predictive values at a stated prevalence, by Bayes' theorem.

    A label is seldom as frequent in the test split as where the network will be used. Precision depends on prevalence;
    recall and specificity are usually assumed not to.

    Args:
        recall: (...) in [0, 1].
        specificity: (...) in [0, 1].
        prevalence: in [0, 1] or NaN, of a shape that broadcasts against the other two.

    Returns:
        Positive and negative predictive value, each (...) in [0, 1]; NaN where one of the three is, or where no image
        would be predicted so.

    Raises:
        ValueError: A prevalence outside [0, 1].

    Altman and Bland 1994.
    """
    sensitivity, specific, share = (np.asarray(each, dtype=np.float64) for each in (recall, specificity, prevalence))
    if ((share < 0) | (share > 1)).any():
        raise ValueError(f"prevalence is {prevalence!r}; expected shares between 0 and 1")
    tp, fp = sensitivity * share, (1 - specific) * (1 - share)
    tn, fn = specific * (1 - share), (1 - sensitivity) * share
    return ratio(tp, tp + fp), ratio(tn, tn + fn)
