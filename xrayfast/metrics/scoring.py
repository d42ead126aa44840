"""The terms of proper scores of probabilities: Brier (1950) and log loss."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from xrayfast.metrics.classification import Floats
from xrayfast.metrics.inputs import Bools

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


def mean_log_loss(truth: NDArray[np.int64], probability: Floats, single: bool) -> Floats:
    """(N,) log loss per image: of its class (single-label), or the mean over its labels that are not masked."""
    losses = log_losses(truth.astype(np.int8), probability)
    if single:
        of_class: Floats = losses[np.arange(len(truth)), truth.argmax(axis=1)]
        return of_class
    with np.errstate(invalid="ignore"):
        mean: Floats = losses.sum(axis=1) / (truth >= 0).sum(axis=1)
    return mean


def one_class(truth: NDArray[np.int8]) -> Bools:
    """(N,) which rows of (N, L) `truth` have exactly one class and no masked cell."""
    once: Bools = (truth == 1).sum(axis=1) == 1
    return once & (truth >= 0).all(axis=1)
