"""`--balanced-sampling`: images of rare classes and labels are drawn more often."""

from __future__ import annotations

from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray


def sampling_weights(truth: NDArray[Any]) -> NDArray[np.float64]:
    """Return how often to draw each image, relative to the others.

    For single-label it is the inverse frequency of its class, as in scikit-learn's "balanced". For multi-label it is
    the inverse frequency of its rarest label, where "none of the labels" counts as a label; repeat factors use the
    rarest label too (Gupta et al. 2019, LVIS).

    Args:
        truth: (N, L) of 1, 0 and -1 for masked; the frequency of a label is among its unmasked cells.

    Returns:
        (N,) weights of at least 1.
    """
    positive = truth == 1
    inverse = (truth >= 0).sum(axis=0) / np.maximum(positive.sum(axis=0), 1)
    rarest: NDArray[np.float64] = (positive * inverse).max(axis=1)
    without = ~positive.any(axis=1)
    return np.where(without, len(truth) / max(without.sum(), 1), rarest)


def draw_balanced(weights: NDArray[np.float64], rng: Random) -> list[int]:
    """Draw N of N images in random order, each as often as its share of the weights, rounded up or down at random.

    This is systematic resampling: unlike with torch's WeightedRandomSampler, the number of images per class varies by
    rounding only.
    """
    order = np.array(rng.sample(range(len(weights)), len(weights)))
    order = order[np.argsort(weights[order], kind="stable")]  # keeps a class together: only its total is rounded
    ends = np.cumsum(weights[order]) * (len(weights) / weights.sum())
    ends[-1] = len(weights)
    times = np.diff(np.floor(ends + rng.random()).astype(int), prepend=0)
    drawn: list[int] = np.repeat(order, times).tolist()
    rng.shuffle(drawn)
    return drawn
