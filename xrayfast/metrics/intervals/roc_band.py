"""The confidence band of a ROC curve."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from xrayfast.metrics.classification import Floats
from xrayfast.metrics.inputs import column, sampling_units
from xrayfast.metrics.intervals.resampling import draws, small_block

FALSE_RATES = np.linspace(0, 1, 101)
"""The false positive rates at which a band is computed."""


def roc_band(
    truth: ArrayLike, score: ArrayLike, groups: ArrayLike | None = None, *, resamples: int = 400, seed: int = 0
) -> tuple[Floats, Floats] | None:
    """Compute pointwise 95% percentile intervals of the sensitivity at each of `FALSE_RATES`, from resamples of
    patients.

    Returns:
        (101,) lower and (101,) upper limits; None if a class is absent, from the images or from every resample.
    """
    positive, values, place = column(truth, score)
    if not positive.any() or positive.all():
        return None
    unit, n_units = sampling_units(groups, len(np.asarray(truth)))
    order = np.argsort(-values, kind="stable")
    # Images with equal scores are predicted positive together.
    ends = np.flatnonzero(np.append(np.diff(values[order]) != 0, True))
    own, has = unit[place][order], positive[order]
    rates = []
    for counts in draws(n_units, resamples, seed, small_block(len(values))):
        weight = counts[:, own]
        true, false = (np.cumsum(weight * side, axis=1)[:, ends] for side in (has, ~has))
        for hits, alarms in zip(true, false, strict=True):
            if hits[-1] and alarms[-1]:
                # Where the curve is vertical, `interp` returns the upper end.
                curve = np.r_[0.0, alarms / alarms[-1]], np.r_[0.0, hits / hits[-1]]
                rates.append(np.interp(FALSE_RATES, *curve))
    if not rates:
        return None
    low, high = np.quantile(np.stack(rates), [0.025, 0.975], axis=0)
    return low, high
