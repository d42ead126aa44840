"""Net benefit: what deciding by a probability is worth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from xrayfast.metrics.classification import Floats
from xrayfast.metrics.inputs import column, sampling_units, table
from xrayfast.metrics.intervals.resampling import draws

_BLOCK = 2**21

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


def net_benefit_limits(
    truth: ArrayLike, probability: ArrayLike, groups: ArrayLike | None = None, *, resamples: int = 1000, seed: int = 0
) -> tuple[Floats, Floats]:
    """Pointwise 95 % percentile intervals of `net_benefit` at `THRESHOLDS`, from resamples of patients.

    Net benefit is a mean over images, and so a ratio of sums by patient, of which percentiles hold the truth in 0.92 to
    0.97 of simulated studies of 60 patients or more (`test_decision_curve.py`).

    Args:
        truth: (N,) of 1, 0, and -1 where masked, which is left out.
        probability: (N,) in [0, 1].
        groups: (N,) patient numbers, or None where images are drawn.
        resamples: how often.
        seed: of the draws.

    Returns:
        (T,) lower and (T,) upper ends; NaN where every cell is masked.

    Raises:
        ValueError: As in `metrics.inputs.column` and `sampling_units`.
    """
    positive, values, rows = column(truth, probability)
    unit, n_units = sampling_units(groups, len(np.asarray(truth)))
    place, limits = unit[rows], np.asarray(THRESHOLDS)
    # What each image adds at a threshold depends on how many thresholds its probability reaches: sums by patient.
    reached = np.searchsorted(limits, values, side="right")
    sums = []
    for side in (positive, ~positive):
        counts = np.zeros((n_units, len(limits) + 1))
        np.add.at(counts, (place[side], reached[side]), 1.0)
        sums.append(counts[:, ::-1].cumsum(axis=1)[:, ::-1][:, 1:])
    benefit, images = sums[0] - sums[1] * limits / (1 - limits), np.bincount(place, minlength=n_units).astype(float)
    blocks = draws(n_units, resamples, seed, max(4, _BLOCK // max(1, n_units)))
    with np.errstate(invalid="ignore"):
        drawn = np.concatenate([(counts @ benefit) / (counts @ images)[:, None] for counts in blocks])
    if np.isnan(drawn).all():
        return np.full(limits.shape, np.nan), np.full(limits.shape, np.nan)
    low, high = np.nanquantile(drawn, [0.025, 0.975], axis=0)
    return low, high


def net_benefits(
    truth: ArrayLike,
    probability: ArrayLike,
    labels: Sequence[str],
    groups: ArrayLike | None = None,
    *,
    resamples: int = 0,
    seed: int = 0,
) -> dict[str, Any]:
    """The decision curves of (N, L) truth and probabilities, ready for JSON.

    Returns:
        `thresholds`, and by label the net benefits there of deciding by the `model`, with the ends `low` and `high` of
        their intervals where there are resamples, and of treating `all`; labels that are masked throughout are left
        out.

    Raises:
        ValueError: As in `metrics.inputs.table` and `sampling_units`.
    """
    actual, values = table(truth, probability)
    found = {}
    for label, cells, scores in zip(labels, actual.T, values.T, strict=True):
        if (cells >= 0).any():
            share = float((cells == 1).sum() / (cells >= 0).sum())
            curves = {"model": net_benefit(cells, scores), "all": treat_all(share)}
            if resamples:
                ends = net_benefit_limits(cells, scores, groups, resamples=resamples, seed=seed)
                curves |= dict(zip(("low", "high"), ends, strict=True))
            found[label] = {name: curve.round(6).tolist() for name, curve in curves.items()}
    return {"thresholds": list(THRESHOLDS), "labels": found}
