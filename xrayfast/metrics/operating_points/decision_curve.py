"""Net benefit: what deciding by a probability is worth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from xrayfast.metrics.classification import Floats
from xrayfast.metrics.inputs import column, table

THRESHOLDS = tuple(k / 100 for k in range(1, 100))
"""The probabilities at which net benefit is computed."""


def net_benefit(truth: ArrayLike, probability: ArrayLike, thresholds: ArrayLike = THRESHOLDS) -> Floats:
    """True positives less false ones weighted by the odds of the threshold, per image.

    Someone who treats from a probability of p on takes (1 - p) / p false positives for as bad as one missed image. Net
    benefit is then in units of true positives: 0 is that of treating no image.

    Args:
        truth: (N,) of 1, 0, and -1 where masked, which is left out.
        probability: (N,) in [0, 1].
        thresholds: (T,) in (0, 1), at or above which an image is treated.

    Returns:
        (T,); NaN where every cell is masked.

    Raises:
        ValueError: As in `metrics.inputs.column`.

    Vickers and Elkin 2006, Med Decis Making 26:565.
    """
    positive, values, _ = column(truth, probability)
    limits = np.asarray(thresholds, dtype=np.float64)
    if not len(positive):
        return np.full(limits.shape, np.nan)
    true, false = (
        len(scores) - np.searchsorted(np.sort(scores), limits, side="left")
        for scores in (values[positive], values[~positive])
    )
    benefit: Floats = (true - false * limits / (1 - limits)) / len(positive)
    return benefit


def treat_all(share: float, thresholds: ArrayLike = THRESHOLDS) -> Floats:
    """(T,) the net benefit of treating every image, at a prevalence."""
    limits = np.asarray(thresholds, dtype=np.float64)
    benefit: Floats = share - (1 - share) * limits / (1 - limits)
    return benefit


def net_benefits(truth: ArrayLike, probability: ArrayLike, labels: Sequence[str]) -> dict[str, Any]:
    """The decision curves of (N, L) truth and probabilities, ready for JSON.

    Returns:
        `thresholds`, and by label the net benefits there of deciding by the `model` and of treating `all`; labels that
        are masked throughout are left out.

    Raises:
        ValueError: As in `metrics.inputs.table`.
    """
    actual, values = table(truth, probability)
    found = {}
    for label, cells, scores in zip(labels, actual.T, values.T, strict=True):
        if (cells >= 0).any():
            share = float((cells == 1).sum() / (cells >= 0).sum())
            curves = {"model": net_benefit(cells, scores), "all": treat_all(share)}
            found[label] = {name: curve.round(6).tolist() for name, curve in curves.items()}
    return {"thresholds": list(THRESHOLDS), "labels": found}
