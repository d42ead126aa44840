"""Proper scores of probabilities: Brier and log loss."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xrayfast.metrics.classification import Floats, ratio
from xrayfast.metrics.inputs import Bools, table

EPSILON = float(np.finfo(np.float64).eps)
"""Probabilities are clipped this far from 0 and 1 in a logarithm, as in scikit-learn: a certain mistake costs 36, not
infinity."""


def squared_errors(truth: NDArray[np.int8], probability: Floats) -> Floats:
    """(N, L) squared distance of probability and truth, in [0, 1]; 0 where masked (truth -1)."""
    return np.where(truth >= 0, (probability - truth) ** 2, 0.0)


def log_losses(truth: NDArray[np.int8], probability: Floats) -> Floats:
    """(N, L) minus the logarithm of the probability of the truth, in nats; 0 where masked (truth -1)."""
    given = np.where(truth == 1, probability, 1 - probability)
    return np.where(truth >= 0, -np.log(given.clip(EPSILON, 1 - EPSILON)), 0.0)


def one_class(truth: NDArray[np.int8]) -> Bools:
    """(N,) which rows of (N, L) `truth` have exactly one class and no masked cell."""
    once: Bools = (truth == 1).sum(axis=1) == 1
    return once & (truth >= 0).all(axis=1)


def brier(truth: ArrayLike, probability: ArrayLike) -> Floats:
    """Brier score of each label: the mean squared distance of probability and truth.

    Args:
        truth: (N, L) of 1, 0, and -1 where masked, which is left out.
        probability: (N, L) in [0, 1].

    Returns:
        (L,) in [0, 1], 0 is best; NaN where a label is masked throughout.

    Raises:
        ValueError: As in `metrics.inputs.table`.

    Brier 1950, in the binary form.
    """
    known, values = table(truth, probability)
    return ratio(squared_errors(known, values).sum(axis=0), (known >= 0).sum(axis=0))


def log_loss(truth: ArrayLike, probability: ArrayLike) -> Floats:
    """Log loss (binary cross entropy) of each label.

    Args:
        truth: (N, L) of 1, 0, and -1 where masked, which is left out.
        probability: (N, L) in [0, 1]; clipped by `EPSILON`.

    Returns:
        (L,) in nats, in [0, 36.1), 0 is best; NaN where a label is masked throughout.

    Raises:
        ValueError: As in `metrics.inputs.table`.
    """
    known, values = table(truth, probability)
    return ratio(log_losses(known, values).sum(axis=0), (known >= 0).sum(axis=0))
