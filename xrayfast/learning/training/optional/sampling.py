"""`--balanced-sampling`: rare classes and labels are drawn more often."""

from __future__ import annotations

from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray


def sampling_weights(truth: NDArray[Any]) -> NDArray[np.float64]:
    """How often each image is to be drawn, relative to the others.

    Single-label that is the inverse frequency of its class, as scikit-learn's "balanced". Multi-label it is the inverse
    frequency of its rarest label, as repeat factors are those of the rarest label (Gupta et al. 2019, LVIS), with
    "none of the labels" for one of them.

    Args:
        truth: (N, L) of 1, 0 and -1 where masked; a label's frequency is among its other cells.

    Returns:
        (N,) of at least 1.
    """
    positive = truth == 1
    inverse = (truth >= 0).sum(axis=0) / np.maximum(positive.sum(axis=0), 1)
    rarest: NDArray[np.float64] = (positive * inverse).max(axis=1)
    without = ~positive.any(axis=1)
    return np.where(without, len(truth) / max(without.sum(), 1), rarest)


def draw_balanced(weights: NDArray[np.float64], rng: Random) -> list[int]:
    """As many images as there are, in random order: each as often as its share of the weights says, rounded up or down
    at random (systematic resampling), so that no class gets more or fewer by chance, as in WeightedRandomSampler.
    """
    order = np.array(rng.sample(range(len(weights)), len(weights)))
    order = order[np.argsort(weights[order], kind="stable")]  # a class is in one piece, and its number too rounded
    ends = np.cumsum(weights[order]) * (len(weights) / weights.sum())
    ends[-1] = len(weights)
    times = np.diff(np.floor(ends + rng.random()).astype(int), prepend=0)
    drawn: list[int] = np.repeat(order, times).tolist()
    rng.shuffle(drawn)
    return drawn
