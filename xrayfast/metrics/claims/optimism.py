"""The optimism of F1 if the threshold was chosen to maximize it on the same images."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from xrayfast.metrics.classification import Floats
from xrayfast.metrics.intervals.resampling import draws, small_block

RESAMPLES = 200


def f1_optimism(truth: NDArray[np.integer], score: Floats, unit: NDArray[np.integer], seed: int = 0) -> float | None:
    """Estimate how much higher the highest F1 on these images is, on average, than the F1 of its threshold on new
    images.

    In each of `RESAMPLES` resamples of patients, the threshold with the highest F1 is chosen and applied to the images
    of the patients that the resample lacks. The F1 of all these predictions together is subtracted from the highest F1
    on these images. In simulations with 3 to 100 positives, 150 studies each, the estimate differed from the true mean
    by at most 0.024; Harrell's optimism was half of the true mean with 8 positives.

    Returns:
        The difference; None if no image has the label, or every resample has all images with the label.

    Efron 1983 (J Am Stat Assoc 78:316); Efron and Tibshirani 1997, the leave-one-out bootstrap.
    """
    known = truth >= 0
    order = np.argsort(-score[known], kind="stable")
    positive, ranked = (truth[known][order] == 1).astype(np.float64), score[known][order]
    if not positive.any():
        return None
    _, of_image = np.unique(unit[known][order], return_inverse=True)
    last = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))  # images with equal scores are predicted together

    def sums(weights: Floats) -> tuple[Floats, Floats, Floats]:
        """Return (B, T) hits and images at or above each threshold, and (B,) positives, of (B, N) weighted images."""
        hits, called = (np.cumsum(values, axis=1)[:, last] for values in (weights * positive, weights))
        return hits, called, weights @ positive

    hits, called, total = sums(np.ones((1, len(ranked))))
    apparent = float((2 * hits / (called + total[:, None])).max())
    found = np.zeros(3)
    for counts in draws(int(of_image.max()) + 1, RESAMPLES, seed, small_block(len(ranked))):
        weights = counts[:, of_image].astype(np.float64)
        hits, called, total = sums(weights)
        best = (2 * hits / np.maximum(called + total[:, None], 1)).argmax(axis=1)
        drawn = np.arange(len(best))[total > 0]
        hits, called, total = sums((weights[drawn] == 0).astype(np.float64))
        place = np.arange(len(drawn)), best[drawn]
        found += hits[place].sum(), called[place].sum(), total.sum()
    return apparent - float(2 * found[0] / (found[1] + found[2])) if found[2] else None
