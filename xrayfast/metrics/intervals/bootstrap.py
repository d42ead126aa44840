"""Confidence intervals of every metric, by a bootstrap over patients."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from xrayfast.errors import shorten
from xrayfast.metrics.classification import Floats
from xrayfast.metrics.inputs import check_level
from xrayfast.metrics.intervals.confidence_limits import bca, norm_limits
from xrayfast.metrics.intervals.resampled_metrics import ResampledMetrics, Resamples
from xrayfast.metrics.intervals.resampling import block_size, compute_blocks, difference, draws, left_out
from xrayfast.metrics.proportions import clopper_pearson
from xrayfast.metrics.registry import AbsoluteSum, Metric, metric_title

OFTEN_UNDEFINED = 0.05
"""The share of resamples without a value above which `Intervals.notes` warns."""

MAX_UNDEFINED = 0.2
"""The share above which there is no interval: the remaining resamples have rare images more often than by chance, and
would make it too narrow."""

MIN_UNITS = 5
"""With fewer patients there are no intervals, since resamples hardly differ."""

FEW_UNITS = 30
"""With fewer patients `Intervals.notes` warns that the intervals are likely too narrow."""


@dataclass(frozen=True)
class Interval:
    """A metric's value and its interval.

    Attributes:
        value: of the split itself; NaN where it has none.
        low: lower end; NaN where there is no value, where more than `MAX_UNDEFINED` of the resamples have none,
            where all have the same value, or with fewer than `MIN_UNITS` patients.
        high: upper end.
        undefined: the share of resamples without a value, which are left out.
        method: "bca", "exact" or "inversion", as `intervals` says.
        fixed: whether all resamples have the same value, and there is no interval.
    """

    value: float
    low: float
    high: float
    undefined: float
    method: str = "bca"
    fixed: bool = False


@dataclass(frozen=True)
class Intervals:
    """The intervals of one split, or of the differences between two models on it.

    Attributes:
        overall: by the names of `registry.overall_metrics`.
        per_label: L intervals by the names of `registry.label_metrics`.
        n_units: how many patients (or images) are drawn from.
        by: "patient" or "image".
        level: of confidence.
        resamples: how often they were drawn.
        seed: of the draws.
    """

    overall: dict[str, Interval]
    per_label: dict[str, tuple[Interval, ...]]
    n_units: int
    by: str
    level: float
    resamples: int
    seed: int

    def notes(self, labels: Sequence[str]) -> list[str]:
        """Warnings about these intervals, as sentences; `labels` are the L names."""
        notes = []
        if self.n_units < MIN_UNITS:
            notes.append(f"No intervals: with fewer than {MIN_UNITS} {self.by}s there are too few to draw from.")
        elif self.n_units < FEW_UNITS:
            notes.append(f"The intervals rest on {self.n_units} {self.by}s and are likely too narrow.")
        lost = self._where(labels, lambda found: found.undefined > MAX_UNDEFINED and not math.isnan(found.value))
        if lost:
            notes.append(
                f"No interval, because a class was not drawn in more than {MAX_UNDEFINED:.0%} of the resamples: {lost}."
            )
        often = self._where(labels, lambda found: found.undefined > OFTEN_UNDEFINED and not math.isnan(found.low))
        if often:
            notes.append(
                f"Without a value in more than {OFTEN_UNDEFINED:.0%} of the resamples, because a class was not drawn; "
                f"the interval is over the others, and is likely too narrow: {often}."
            )
        fixed = self._where(labels, lambda found: found.fixed)
        if fixed:
            notes.append(f"No interval, because every resample has the same value: {fixed}.")
        return notes

    def _where(self, labels: Sequence[str], holds: Callable[[Interval], bool]) -> str:
        """The metrics for which a condition holds, by label, as text; "" where there are none."""
        found = [("overall", [name for name, interval in self.overall.items() if holds(interval)])]
        for i, label in enumerate(labels):
            found.append((label, [name for name, row in self.per_label.items() if holds(row[i])]))
        listed = [(where, [metric_title(name).replace(",", "") for name in names]) for where, names in found if names]
        return shorten([f"{where} ({shorten(names, 4)})" for where, names in listed], 10)


def intervals(split: ResampledMetrics, resamples: int = 1000, level: float = 0.95, seed: int = 0) -> Intervals:
    """Every metric with the interval of a bootstrap over patients.

    Images of one patient, and the network's errors on them, are correlated: drawing images would make intervals too
    narrow. Thresholds are fixed, since they were not chosen on these images.

    The ends are those of `confidence_limits.bca`, with two exceptions. A metric with the same value in every resample
    would have an interval of zero width: a proportion of 0 or 1 gets the exact one of Clopper and Pearson, in which
    each patient with an image in the denominator is one trial, and other metrics get none. A calibration error,
    which noise only makes larger, gets `confidence_limits.norm_limits`.

    Args:
        split: whose patients (or images) are drawn.
        resamples: how often.
        level: of confidence.
        seed: of the draws.

    Raises:
        ValueError: Fewer than one resample; a level outside (0, 1).

    Efron 1979 and 1987; of clusters Field and Welsh 2007.
    """
    found = _bca([split], resamples, level, seed)
    if split.n_units < MIN_UNITS:
        return found
    metrics = [*split.overall_metrics.values(), *split.label_metrics.values()]
    sums = [metric.compute for metric in metrics if isinstance(metric.compute, AbsoluteSum)]
    blocks = [
        [total.terms(block) for total in sums]
        for block in (Resamples(split, counts) for counts in draws(split.n_units, resamples, seed, block_size(split)))
    ]
    drawn = {total: np.concatenate(terms) for total, terms in zip(sums, zip(*blocks, strict=True), strict=True)}

    def corrected(interval: Interval, metric: Metric, label: int | None = None) -> Interval:
        if not isinstance(metric.compute, AbsoluteSum):
            return _widen(interval, _trials(split, metric, label), level)
        cell = (...,) if label is None else (..., label, slice(None))
        low, high = norm_limits(metric.compute.terms(split.whole)[0][cell], drawn[metric.compute][cell], level)
        return replace(interval, low=low, high=high, method="inversion")

    overall = {name: corrected(found.overall[name], metric) for name, metric in split.overall_metrics.items()}
    per_label = {
        name: tuple(corrected(interval, metric, i) for i, interval in enumerate(found.per_label[name]))
        for name, metric in split.label_metrics.items()
    }
    return replace(found, overall=overall, per_label=per_label)


def paired_differences(
    a: ResampledMetrics, b: ResampledMetrics, resamples: int = 1000, level: float = 0.95, seed: int = 0
) -> Intervals:
    """How much higher each metric of one model is than another's on the same images, with BCa intervals.

    Both models are evaluated on the same drawn patients, so that what is hard for both cancels.

    Args:
        a: the split with the first model's probabilities.
        b: the same images, labels and patients with the second's.
        resamples: how often patients are drawn.
        level: of confidence.
        seed: of the draws.

    Returns:
        Intervals of a minus b. Where less is better (Brier score, log loss, calibration error), a positive difference
        favours b. Noise biases both calibration errors upwards, not always equally: the interval of their difference is
        approximate.

    Raises:
        ValueError: As `intervals`.
    """
    return _bca([a, b], resamples, level, seed)


def _bca(splits: Sequence[ResampledMetrics], resamples: int, level: float, seed: int) -> Intervals:
    """Every metric of one split, or of the first minus the second of two, with its BCa interval."""
    check_level(level)
    if resamples < 1:
        raise ValueError(f"resamples is {resamples}; expected at least 1")
    values, n_units, resampled = difference([split.whole.values for split in splits]), splits[0].n_units, []
    if n_units >= MIN_UNITS:
        block = block_size(splits[0])
        counts = draws(n_units, resamples, seed, block), left_out(n_units, seed, block)
        resampled = [compute_blocks(splits, blocks) for blocks in counts]

    def interval(value: float, *of_resamples: Floats) -> Interval:
        undefined = float(np.isnan(of_resamples[0]).mean()) if of_resamples else 0.0
        if not of_resamples or undefined > MAX_UNDEFINED:
            return Interval(value, math.nan, math.nan, undefined)
        drawn, without = of_resamples
        return Interval(value, *bca(drawn, value, without, level), undefined)

    overall = {
        name: interval(float(value[0]), *(each.overall[name] for each in resampled))
        for name, value in values.overall.items()
    }
    per_label = {
        name: tuple(
            interval(value, *(each.per_label[name][:, i] for each in resampled))
            for i, value in enumerate(row[0].tolist())
        )
        for name, row in values.per_label.items()
    }
    return Intervals(overall, per_label, n_units, splits[0].by, level, resamples, seed)


def _widen(found: Interval, trials: int, level: float) -> Interval:
    """Replace an interval of zero width by the exact one of a proportion of 0 or 1, or by none."""
    if found.low != found.high:
        return found
    if not (trials and found.low == found.value and found.value in (0.0, 1.0)):
        return replace(found, low=math.nan, high=math.nan, fixed=True)
    low, high = clopper_pearson(trials if found.value == 1 else 0, trials, level)
    return replace(found, low=float(low), high=float(high), method="exact")


def _trials(split: ResampledMetrics, metric: Metric, label: int | None = None) -> int:
    """Patients (or images) with an image in the denominator of a proportion; 0 for a metric that is none."""
    if metric.denominator is None:
        return 0
    unmasked = split.truth >= 0
    cells: NDArray[np.bool_] = {
        "unmasked": unmasked,
        "positive": split.truth == 1,
        "negative": split.truth == 0,
        "predicted positive": unmasked & (split.predicted == 1),
        "predicted negative": unmasked & (split.predicted == 0),
    }[metric.denominator]
    return len(np.unique(split.unit[cells.any(axis=1) if label is None else cells[:, label]]))
