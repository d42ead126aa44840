"""Metrics of agreement between actual and predicted classes, computed from confusion matrices.

The rows of a matrix are actual classes, the columns predicted classes. Functions of matrices accept any axes before the
last two, such as one for labels or for bootstrap resamples.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xrayfast.metrics.classification import Floats, ratio, recall, specificity


def accuracy(confusion: NDArray[Any]) -> Floats:
    """Compute the share of images (...) that are predicted correctly, from (..., C, C) counts; NaN if all are 0."""
    return ratio(np.trace(confusion, axis1=-2, axis2=-1), confusion.sum(axis=(-2, -1)))


def mean_of_recall_and_specificity(counts: NDArray[Any]) -> Floats:
    """Compute the balanced accuracy (...) of labels against the rest from (..., 2, 2) counts; NaN where no image or
    every image has the label.
    """
    return (recall(counts) + specificity(counts)) / 2


def kappa(confusion: NDArray[Any], weights: Literal["none", "quadratic"] = "none") -> Floats:
    """Compute Cohen's kappa: the agreement beyond that expected by chance from the two margins.

    Args:
        confusion: (..., C, C) counts.
        weights: "quadratic" weights a disagreement by the squared distance between the two classes in their order,
            which is meaningful only if the classes are ordered.

    Returns:
        (...) at most 1, where 0 is chance; NaN where chance agreement is perfect (one class is both the only actual and
        the only predicted class) and for an empty matrix.

    Cohen 1960; weighted kappa: Cohen 1968.
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
    """Compute Matthews' correlation coefficient from (..., C, C) counts, for two or more classes.

    Returns:
        (...) in [-1, 1]; 0 where one class is predicted for all images, as in scikit-learn; NaN where all images are of
        one class, and for an empty matrix.

    Matthews 1975; for more than two classes, R_K of Gorodkin 2004.
    """
    counts = confusion.astype(np.float64)
    actual, predicted = counts.sum(axis=-1), counts.sum(axis=-2)
    total = counts.sum(axis=(-2, -1))
    together = np.trace(counts, axis1=-2, axis2=-1) * total - (actual * predicted).sum(axis=-1)
    of_actual, of_predicted = (total**2 - (margin**2).sum(axis=-1) for margin in (actual, predicted))
    result = ratio(together, np.sqrt(of_actual * of_predicted))
    return np.where((of_predicted == 0) & (of_actual > 0), 0.0, result)


def predictive_values(recall: ArrayLike, specificity: ArrayLike, prevalence: ArrayLike) -> tuple[Floats, Floats]:
    """Compute predictive values at a stated prevalence, with Bayes' theorem.

    The prevalence in the test split is seldom that of the population in which the network will be used. Precision
    depends on prevalence; recall and specificity are usually assumed not to. All are in [0, 1]; the prevalence may be
    NaN, and has a shape that can be broadcast to (...), that of the other two.

    Returns:
        Positive and negative predictive value, each (...) in [0, 1]; NaN where an argument is NaN, or where no image
        would be predicted positive (or negative).

    Raises:
        ValueError: A prevalence is outside [0, 1].

    Altman and Bland 1994.
    """
    sensitivity, specific, share = (np.asarray(each, dtype=np.float64) for each in (recall, specificity, prevalence))
    if ((share < 0) | (share > 1)).any():
        raise ValueError(f"prevalence is {prevalence!r}; expected shares between 0 and 1")
    tp, fp = sensitivity * share, (1 - specific) * (1 - share)
    tn, fn = specific * (1 - share), (1 - sensitivity) * share
    return ratio(tp, tp + fp), ratio(tn, tn + fn)
