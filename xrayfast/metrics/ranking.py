"""AUROC and average precision of one label in many resamples, with one sort."""

from __future__ import annotations

import numpy as np

from xrayfast.metrics.classification import Floats
from xrayfast.metrics.inputs import Bools, Indices


class Ranking:
    """One label's scores, sorted once, so that a resample costs two cumulative sums.

    Both metrics change only at the scores of positives: for each distinct one, from the highest, the negatives before
    it and those tied with it are counted.

    Args:
        positive: (K,) whether an image has the label.
        score: (K,) finite; only the order counts.
        unit: (K,) the patient (or image) that is drawn with it.
    """

    def __init__(self, positive: Bools, score: Floats, unit: Indices) -> None:
        falling = -score
        order = np.argsort(falling, kind="stable")
        positive, falling, drawn_with = positive[order], falling[order], unit.astype(np.int32)[order]
        self._positives, self._negatives = drawn_with[positive], drawn_with[~positive]
        steps, self._first = np.unique(falling[positive], return_index=True)
        self._before = np.searchsorted(falling[~positive], steps, side="left")
        self._through = np.searchsorted(falling[~positive], steps, side="right")

    def compute(self, counts: Floats) -> tuple[Floats, Floats]:
        """AUROC and average precision of B resamples.

        Args:
            counts: (B, units) how often each patient (or image) is drawn.

        Returns:
            (B,) AUROC and (B,) average precision, as `classification.auroc` and `average_precision` define them on the
            repeated rows; NaN where a resample lacks positives or negatives.
        """
        areas, precisions = np.full((2, len(counts)), np.nan)
        for i, drawn in enumerate(counts):
            if not drawn[self._positives].any() or not drawn[self._negatives].any():
                continue
            here = np.add.reduceat(drawn[self._positives], self._first)
            negatives = np.concatenate([[0.0], np.cumsum(drawn[self._negatives])])
            before, through = negatives[self._before], negatives[self._through]
            true = np.cumsum(here)
            areas[i] = 1 - here @ (before + through) / (2 * true[-1] * negatives[-1])
            # Before the first drawn positive, precision is 0, or 0 / 0 without a drawn negative.
            precision = true / np.maximum(true + through, 1.0)
            precisions[i] = here @ precision / true[-1]
        return areas, precisions
