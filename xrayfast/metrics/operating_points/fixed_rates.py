"""Sensitivity at a fixed specificity, and the reverse, read off the ROC curve of the same images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from xrayfast.metrics.classification import Floats, nan_to_none
from xrayfast.metrics.inputs import Bools, DrawnCounts, Indices, column, sampling_units, table
from xrayfast.metrics.intervals.resampling import draws, small_block
from xrayfast.metrics.proportions import wilson

RATES = (0.9, 0.95)
"""The fixed rates."""

TITLES = {
    **{f"sensitivity_at_specificity_{rate:.0%}"[:-1]: f"Sensitivity at {rate:.0%} specificity" for rate in RATES},
    **{f"specificity_at_sensitivity_{rate:.0%}"[:-1]: f"Specificity at {rate:.0%} sensitivity" for rate in RATES},
}
"""The metrics of `fixed_rate_rows`, and the titles shown to people."""

MIN_BEYOND = 2.5
"""The number of patients (or images) that must be on the wrong side of a fixed rate for an interval: with fewer, such
as 1 of 20 for a rate of 0.95, the scores beyond the highest one are not known.
"""


def fixed_rate_rows(
    truth: ArrayLike,
    probability: ArrayLike,
    labels: Sequence[str],
    groups: ArrayLike | None = None,
    *,
    resamples: int = 0,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Compute the highest sensitivity at a specificity of at least 0.90 and 0.95, and the reverse, ready for JSON.

    The threshold is chosen on the same images, which the intervals account for: patients, with and without the label,
    are resampled, and the threshold is chosen anew in each resample. The variance over the resamples gives an effective
    number of images, at most the actual number, for which Wilson's interval is computed (after Korn and Graubard 1998).
    With many images it agrees with the percentiles of the resamples; with few images, or near 0 and 1, it is not too
    narrow. Its coverage is 0.92 to 0.98 in simulations (`test_fixed_rates.py`). Its limits are None if fewer than
    `MIN_BEYOND` patients are beyond the fixed rate.

    Returns:
        L rows: `label`, the keys of `TITLES`, and `intervals` by the same keys, with `low` and `high`.
    """
    actual, values = table(truth, probability)
    unit, n_units = sampling_units(groups, len(actual))
    rows: list[dict[str, Any]] = [{"label": label, **dict.fromkeys(TITLES), "intervals": {}} for label in labels]
    sides: dict[tuple[int, str], tuple[_Side, float]] = {}
    for i, (cells, scores) in enumerate(zip(actual.T, values.T, strict=True)):
        positive, known, place = column(cells, scores)
        if positive.any() and not positive.all():
            both = _Side(positive, known, unit[place]), _Side(~positive, -known, unit[place])
            rates = ((side, rate) for side in both for rate in RATES)
            sides |= {(i, name): pair for name, pair in zip(TITLES, rates, strict=True)}
    whole = np.ones((1, n_units), np.int16)
    for (i, name), (side, rate) in sides.items():
        rows[i][name] = float(side.highest(whole, rate)[0])
    if resamples and n_units:
        drawn: dict[tuple[int, str], list[Floats]] = {key: [] for key in sides}
        for counts in draws(n_units, resamples, seed, small_block(len(actual))):
            for key, (side, rate) in sides.items():
                drawn[key].append(side.highest(counts, rate))
        for (i, name), (side, rate) in sides.items():
            low, high = side.limits(rows[i][name], rate, np.concatenate(drawn[i, name]))
            rows[i]["intervals"][name] = {"low": nan_to_none(low), "high": nan_to_none(high)}
    return rows


class _Side:
    """The images of one class (`own`) and the `others`, by descending score, with their patients.

    The metric is the highest share of `own` at or above a threshold that at least a fixed rate of the `others` is
    below.
    """

    def __init__(self, positive: Bools, score: Floats, unit: Indices) -> None:
        order = np.argsort(-score, kind="stable")
        positive, falling = positive[order], -score[order]
        self.own, self.others = unit[order][positive], unit[order][~positive]
        # For each of `own`, how many of the others score at least as high: tied images are predicted together.
        self._through = np.searchsorted(falling[~positive], falling[positive], side="right")

    def highest(self, counts: DrawnCounts, rate: float) -> Floats:
        """Return (B,) the highest share in B resamples, from (B, units) counts; NaN if `own` is not drawn."""
        own, others = (
            np.concatenate([np.zeros((len(counts), 1)), np.cumsum(counts[:, side], axis=1)], axis=1)
            for side in (self.own, self.others)
        )
        above = others[:, self._through]
        called = (above <= (1 - rate) * others[:, -1:] + 1e-9).sum(axis=1)
        with np.errstate(invalid="ignore"):
            share: Floats = own[np.arange(len(counts)), called] / own[:, -1]
        return share

    def limits(self, value: float, rate: float, drawn: Floats) -> tuple[float, float]:
        """Return the 95% limits of a share, from its (R,) values in resamples; NaN if too few are beyond the rate."""
        if len(np.unique(self.others)) * (1 - rate) < MIN_BEYOND - 1e-9 or np.isnan(drawn).all():
            return math.nan, math.nan
        n, variance = len(self.own), float(np.nanvar(drawn))
        inside = min(max(value, 0.5 / n), 1 - 0.5 / n)
        effective = min(inside * (1 - inside) / variance, n) if variance > 0 else float(len(np.unique(self.own)))
        low, high = wilson(value * effective, effective)
        return float(low), float(high)
