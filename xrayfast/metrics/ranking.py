"""AUROC and average precision of one label in many resamples, with one sort."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from xrayfast.metrics.classification import Floats
from xrayfast.metrics.inputs import Bools, DrawnCounts, Indices

_AT_ONCE = 2**24
"""Most counts that are put in order at a time (32 MB), of one or several resamples."""

_PIECE = 2**18  # indices that are made as long as a pointer at a time


class Ranking:
    """One label's scores, sorted once, so that a resample costs two cumulative sums.

    Both metrics change only at the scores of positives: for each distinct one, from the highest, the negatives before
    it and those tied with it are counted. What stays in memory is four bytes per image, and more per positive.

    Args:
        columns: of one label, or of several whose cells are taken for those of one: (K,) whether an image has the
            label, (K,) scores, finite, of which only the order counts, and (K,) the patient (or image) that is drawn
            with it.
    """

    def __init__(self, *columns: tuple[Bools, Floats, Indices]) -> None:
        falling, self._positives = _by_falling_score(
            (score[positive], unit[positive]) for positive, score, unit in columns
        )
        self._first = np.flatnonzero(np.append(True, falling[1:] != falling[:-1])) if len(falling) else np.zeros(0, int)
        steps = falling[self._first]
        falling, self._negatives = _by_falling_score(
            (score[~positive], unit[~positive]) for positive, score, unit in columns
        )
        self._before = np.searchsorted(falling, steps, side="left")
        self._through = np.searchsorted(falling, steps, side="right")

    def compute(self, counts: DrawnCounts) -> tuple[Floats, Floats]:
        """AUROC and average precision of B resamples.

        Args:
            counts: (B, units) how often each patient (or image) is drawn.

        Returns:
            (B,) AUROC and (B,) average precision, as `classification.auroc` and `average_precision` define them on the
            repeated rows; NaN where a resample lacks positives or negatives.
        """
        areas, precisions = np.full((2, len(counts)), np.nan)
        size = max(1, _AT_ONCE // max(len(self._positives), len(self._negatives), 1))
        for start in range(0, len(counts), size):
            block = counts[start : start + size]
            positives, negatives = _take(block, self._positives), _take(block, self._negatives)
            for i, (own, others) in enumerate(zip(positives, negatives, strict=True), start):
                if own.any() and others.any():
                    areas[i], precisions[i] = self._measure(own, others)
        return areas, precisions

    def _measure(self, positives: DrawnCounts, negatives: DrawnCounts) -> tuple[float, float]:
        """Of one resample, by how often each positive and each negative is drawn, both by falling score."""
        here = np.add.reduceat(positives, self._first, dtype=np.float64)
        most = 2 * len(negatives) * int(negatives.max())
        passed = np.zeros(len(negatives) + 1, np.int32 if most < 2**31 else np.int64)
        np.cumsum(negatives, dtype=passed.dtype, out=passed[1:])
        before, through = passed[self._before], passed[self._through]
        true = np.cumsum(here)
        area = 1 - here @ (before + through) / (2 * true[-1] * float(passed[-1]))
        # Before the first drawn positive, precision is 0, or 0 / 0 without a drawn negative.
        precision = true / np.maximum(true + through, 1.0)
        return float(area), float(here @ precision / true[-1])


def _by_falling_score(columns: Iterable[tuple[Floats, Indices]]) -> tuple[Floats, NDArray[np.int32]]:
    """The scores of several columns in one, negated and sorted, and the units in that order."""
    scores, units = zip(*((-score, unit.astype(np.int32)) for score, unit in columns), strict=True)
    falling = scores[0] if len(scores) == 1 else np.concatenate(scores)
    del scores  # of all labels of ten million images a gigabyte
    order = np.argsort(falling)
    in_order: NDArray[np.int32] = np.concatenate(units)[order]
    del order
    falling.sort()
    return falling, in_order


def _take(counts: DrawnCounts, units: NDArray[np.int32]) -> DrawnCounts:
    """(B, K) the counts of some units."""
    taken = np.empty((len(counts), len(units)), counts.dtype)
    for start in range(0, len(units), _PIECE):
        taken[:, start : start + _PIECE] = counts.take(units[start : start + _PIECE], axis=1)
    return taken
