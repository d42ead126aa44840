"""The terms, per cell, of two proper scoring rules for probabilities: the Brier score (Brier 1950) and log loss."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from xrayfast.metrics.classification import Floats
from xrayfast.metrics.inputs import Bools

EPSILON = float(np.finfo(np.float64).eps)
"""How far from 0 and 1 probabilities are clipped before their logarithm is taken, as in scikit-learn: the loss of a
mistake with probability 1 is 36, not infinity."""


def squared_errors(truth: NDArray[np.int8], probability: Floats) -> Floats:
    """Return the (N, L) squared differences of probability and truth, in [0, 1]; 0 where masked (truth -1)."""
    return np.where(truth >= 0, (probability - truth) ** 2, 0.0)


def log_losses(truth: NDArray[np.int8], probability: Floats) -> Floats:
    """Return (N, L) minus the logarithm of the probability given to the truth, in nats; 0 where masked (truth -1)."""
    given = np.where(truth == 1, probability, 1 - probability)
    return np.where(truth >= 0, -np.log(given.clip(EPSILON, 1 - EPSILON)), 0.0)


def mean_log_loss(truth: NDArray[np.int64], probability: Floats, single: bool) -> Floats:
    """Return the (N,) log loss per image: that of its class (single-label), or the mean over its unmasked labels."""
    losses = log_losses(truth.astype(np.int8), probability)
    if single:
        return losses[np.arange(len(truth)), truth.argmax(axis=1)]
    with np.errstate(invalid="ignore"):
        mean: Floats = losses.sum(axis=1) / (truth >= 0).sum(axis=1)
    return mean


def one_class(truth: NDArray[np.int8]) -> Bools:
    """Return (N,) whether each row of (N, L) `truth` has exactly one class and no masked cell."""
    once: Bools = (truth == 1).sum(axis=1) == 1
    return once & (truth >= 0).all(axis=1)
