"""AUROC and average precision of one label in many resamples, from scores that are sorted only once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from xrayfast.metrics.classification import Floats
from xrayfast.metrics.inputs import Bools, DrawnCounts, Indices

_AT_ONCE = 2**24
"""The maximum number of counts put into score order at a time (32 MB), for one or several resamples."""

_SAMPLED = 2**16  # the maximum number of scores sampled per column to choose where columns are divided into pieces

_PIECE = 2**18  # the number of int32 indices that `take` converts to pointer size at a time

_Column: TypeAlias = tuple[Floats, NDArray[np.int32]]
"""Negated scores, ascending, and the unit of each."""


class Ranking:
    """One label's scores, sorted once, so that a resample costs two cumulative sums.

    For both metrics it is enough to know, at each distinct score of a positive, how many negatives score higher and how
    many are tied with it. A ranking holds four bytes per image in memory, and more per positive.

    Args:
        columns: the cells of one label, or of several labels to be pooled, each as (K,) whether an image has the label,
            (K,) finite scores, of which only the order matters, and (K,) the patient (or image) that each cell is drawn
            with.
    """

    def __init__(self, columns: Iterable[tuple[Bools, Floats, Indices]]) -> None:
        positives, negatives = list[_Column](), list[_Column]()
        for positive, score, unit in columns:
            for side, chosen in ((positives, positive), (negatives, ~positive)):
                side.append(_by_falling_score(-score[chosen], unit[chosen].astype(np.int32)))
        falling, self._positives = map(np.concatenate, zip(*_merge(positives), strict=True))
        self._first = np.flatnonzero(np.append(True, falling[1:] != falling[:-1])) if len(falling) else np.zeros(0, int)
        steps = falling[self._first]
        self._negatives, start = np.empty(sum(len(units) for _, units in negatives), np.int32), 0
        self._before, self._through = np.zeros((2, len(steps)), np.intp)
        for falling, units in _merge(negatives):
            self._negatives[start : (start := start + len(units))] = units
            self._before += np.searchsorted(falling, steps, side="left")
            self._through += np.searchsorted(falling, steps, side="right")

    def compute(self, counts: DrawnCounts) -> tuple[Floats, Floats]:
        """Compute the AUROC and average precision of B resamples.

        Args:
            counts: (B, units) how often each patient (or image) is drawn.

        Returns:
            (B,) AUROC and (B,) average precision: the values of `classification.auroc` and `average_precision` if each
            row were repeated as often as it is drawn; NaN where a resample lacks positives or negatives.
        """
        areas, precisions = np.full((2, len(counts)), np.nan)
        size = max(1, min(_AT_ONCE // max(len(self._positives), len(self._negatives), 1), len(counts)))
        # Allocated once: allocating gigabytes for each block would take as long as filling them.
        positives, negatives = (np.empty((size, len(units)), np.int16) for units in (self._positives, self._negatives))
        most = len(self._negatives) * int(counts.max(initial=0))
        passed = np.zeros(len(self._negatives) + 1, np.int32 if most < 2**31 else np.int64)
        for start in range(0, len(counts), size):
            block = counts[start : start + size]
            _take(block, self._positives, positives)
            _take(block, self._negatives, negatives)
            for i in range(len(block)):
                if positives[i].any() and negatives[i].any():
                    areas[start + i], precisions[start + i] = self._measure(positives[i], negatives[i], passed)
        return areas, precisions

    def _measure(
        self, positives: DrawnCounts, negatives: DrawnCounts, passed: NDArray[np.integer]
    ) -> tuple[float, float]:
        """Compute both metrics of one resample from how often each positive and each negative is drawn, both in the
        order of descending scores; `passed` is a buffer for the cumulative sums of the negatives.
        """
        here = np.add.reduceat(positives, self._first, dtype=np.float64)
        np.cumsum(negatives, dtype=passed.dtype, out=passed[1:])
        before, through = passed[self._before].astype(np.float64), passed[self._through]
        true = np.cumsum(here)
        area = 1 - here @ (before + through) / (2 * true[-1] * float(passed[-1]))
        # Above the first drawn positive, precision is 0, or 0 / 0 if no negative is drawn there: hence the maximum.
        precision = true / np.maximum(true + through, 1.0)
        return float(area), float(here @ precision / true[-1])


def _by_falling_score(falling: Floats, units: NDArray[np.int32]) -> _Column:
    order = np.argsort(falling)
    return falling[order], units[order]


def _merge(columns: list[_Column]) -> Iterator[_Column]:
    """Merge sorted columns into one, and yield it in consecutive pieces of about `_AT_ONCE` cells: to merge all labels
    of ten million images at once takes gigabytes.
    """
    if len(columns) == 1:
        yield columns[0]
        return
    count = sum(len(units) for _, units in columns) // _AT_ONCE
    sample = np.sort(np.concatenate([falling[:: 1 + len(falling) // _SAMPLED] for falling, _ in columns]))
    edges = sample[np.arange(1, count + 1) * len(sample) // (count + 1)]
    cuts = [[0, *np.searchsorted(falling, edges), len(falling)] for falling, _ in columns]
    for piece in range(count + 1):
        own = [slice(*ends[piece : piece + 2]) for ends in cuts]
        falling, units = (
            np.concatenate([part[here] for part, here in zip(side, own, strict=True)])
            for side in zip(*columns, strict=True)
        )
        yield _by_falling_score(falling, units)


def _take(counts: DrawnCounts, units: NDArray[np.int32], out: DrawnCounts) -> None:
    """Write the (B, K) counts of K units into the first B rows of `out`."""
    for start in range(0, len(units), _PIECE):
        out[: len(counts), start : start + _PIECE] = counts.take(units[start : start + _PIECE], axis=1)
