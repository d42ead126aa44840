"""Confidence intervals of every metric: by formula where there is a good one for few patients, otherwise by a cluster
bootstrap over patients.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from xrayfast.errors import shorten
from xrayfast.metrics.classification import Floats
from xrayfast.metrics.intervals.confidence_limits import bca, norm_limits
from xrayfast.metrics.intervals.estimates import SplitEstimates
from xrayfast.metrics.intervals.formulas import FEW_FOR_BOOTSTRAP, Estimate, difference_of
from xrayfast.metrics.intervals.resampled_metrics import ResampledMetrics
from xrayfast.metrics.intervals.resampling import block_size, compute_blocks, difference, draws, left_out
from xrayfast.metrics.registry import AbsoluteSum, Metric, metric_phrase

OFTEN_UNDEFINED = 0.05
"""If a metric is undefined in more than this share of the resamples, `Intervals.notes` warns."""

MAX_UNDEFINED = 0.2
"""If a metric is undefined in more than this share of the resamples, it has no interval: the other resamples contain
rare images more often than by chance, so the interval would be too narrow."""

MIN_UNITS = 5
"""With fewer patients there are no intervals, because resamples hardly differ."""

FEW_FOR_CALIBRATION = 60
"""With fewer patients `Intervals.notes` warns that intervals of calibration errors are too narrow."""

MIN_FOR_MEAN_PRECISION = 10
"""If fewer patients have a label, its average precision is biased upward so much that the mean over labels has no
interval."""


@dataclass(frozen=True)
class Interval:
    """A metric's value and its confidence interval.

    Attributes:
        value: the value for the split itself; NaN if undefined.
        low: lower limit; NaN if the value is undefined, if it is undefined in more than `MAX_UNDEFINED` of the
            resamples, if it is `fixed` or `biased`, or with fewer than `MIN_UNITS` patients.
        undefined: the share of resamples in which the metric is undefined; they are left out.
        method: a key of `formulas.METHODS`; `intervals` says which.
        fixed: whether all resamples have the same value, so that there is no interval.
        biased: whether there is no interval because few patients have a label and the value is biased upward.
    """

    value: float
    low: float
    high: float
    undefined: float
    method: str = "expanded-bca"
    fixed: bool = False
    biased: bool = False


@dataclass(frozen=True)
class Intervals:
    """The intervals of one split, or of the differences between two models on it.

    Attributes:
        overall: one interval for each name in `registry.overall_metrics`.
        per_label: L intervals for each name in `registry.label_metrics`.
        n_units: the number of patients (or images) that were resampled.
        by: "patient" or "image": what was resampled.
        rarer: (L,) number of patients (or images) in the rarer class of each label.
    """

    overall: dict[str, Interval]
    per_label: dict[str, tuple[Interval, ...]]
    n_units: int
    by: str
    resamples: int
    seed: int
    rarer: tuple[int, ...] = ()

    def notes(self, labels: Sequence[str], positive: str | None = None) -> list[str]:
        """Return warnings about these intervals as sentences, for the L labels or only for the positive class."""
        notes = []
        if self.n_units < MIN_UNITS:
            notes.append(f"No intervals, because fewer than {MIN_UNITS} {self.by}s are too few to resample.")
            return notes
        shown = {i: label for i, label in enumerate(labels) if positive in (None, label)}
        few = [
            f"{label} ({self.rarer[i]})"
            for i, label in shown.items()
            if self.rarer and 0 < self.rarer[i] < FEW_FOR_BOOTSTRAP
        ]
        if few:
            notes.append(
                f"Fewer than {FEW_FOR_BOOTSTRAP} {self.by}s in the rarer class of {shorten(few, 10)}: their "
                "intervals are wide, and those of F1, kappa and Matthews' correlation may still be too narrow."
            )
        if self.n_units < FEW_FOR_CALIBRATION and any(name.startswith("ece") for name in self.overall):
            notes.append(
                f"With 20 to {FEW_FOR_CALIBRATION} {self.by}s, the 95% interval of a calibration error contains "
                "the true value in 89 to 94% of studies, not in 95%."
            )
        problems: dict[str, Callable[[Interval], bool]] = {
            "No interval, because average precision is biased upward for labels with fewer than "
            f"{MIN_FOR_MEAN_PRECISION} positive {self.by}s, and so is its mean": lambda one: one.biased,
            f"No interval, because a class was not drawn in more than {MAX_UNDEFINED:.0%} of the resamples": (
                lambda one: one.undefined > MAX_UNDEFINED and not math.isnan(one.value)
            ),
            f"Not defined in more than {OFTEN_UNDEFINED:.0%} of the resamples, because a class was not drawn; "
            "the interval is from the other resamples and is likely too narrow": (
                lambda one: one.undefined > OFTEN_UNDEFINED and not math.isnan(one.low)
            ),
            "No interval, because every resample has the same value": lambda one: one.fixed,
        }
        found = {text: self._where(shown, holds) for text, holds in problems.items()}
        return notes + [f"{text}: {where}." for text, where in found.items() if where]

    def _where(self, shown: Mapping[int, str], holds: Callable[[Interval], bool]) -> str:
        """List the metrics for which a condition holds, by label, as text; "" if there are none."""
        found = [("overall", [name for name, interval in self.overall.items() if holds(interval)])]
        for i, label in shown.items():
            found.append((label, [name for name, row in self.per_label.items() if holds(row[i])]))
        listed = [(where, list(map(metric_phrase, names))) for where, names in found if names]
        return shorten([f"{where} ({shorten(names, 4)})" for where, names in listed], 10)


def intervals(split: ResampledMetrics, resamples: int = 1000, seed: int = 0) -> Intervals:
    """Compute every metric and its confidence interval, accounting for several images per patient.

    Images of one patient, and the network's errors on them, are correlated: resampling images instead of patients would
    make intervals too narrow. Thresholds are fixed, because they were not chosen on these images. The interval depends
    on the metric:

    - A proportion: `formulas.estimate_proportion`. Balanced accuracy and macro averages of recall and specificity:
      `formulas.mean_of` such estimates.
    - An AUROC with fewer than `formulas.FEW_FOR_BOOTSTRAP` patients in the rarer class, or with hardly any errors:
      Newcombe's interval, `formulas.estimate_auroc`. The macro average, if this applies to at least one label:
      `formulas.mean_of`.
    - The average precision of a label that fewer than `formulas.FEW_FOR_BOOTSTRAP` patients have: the interval of its
      logit. The mean over labels has no interval if fewer than `MIN_FOR_MEAN_PRECISION` patients have one of them.
    - A calibration error, which noise biases upward: `confidence_limits.norm_limits`.
    - All others: `confidence_limits.bca` with a bootstrap over patients, expanded for few patients.

    Efron 1979 and 1987; cluster bootstrap: Field and Welsh 2007.
    """
    estimates = SplitEstimates(split)
    found, drawn = _bca([split], estimates, resamples, seed)
    if split.n_units < MIN_UNITS:
        return found
    rare = any(0 < count < MIN_FOR_MEAN_PRECISION for count in estimates.positive)

    def chosen(interval: Interval, metric: Metric, label: int | None) -> Interval:
        if isinstance(metric.compute, AbsoluteSum):
            cell = (...,) if label is None else (..., label, slice(None))
            low, high = norm_limits(split.values.terms[metric.compute][0][cell], drawn[metric.compute][cell])
            return replace(interval, low=low, high=high, method="inversion", fixed=False)
        if metric.name == "ap_macro" and rare and not math.isnan(interval.value):
            return replace(interval, low=math.nan, high=math.nan, undefined=0.0, fixed=False, biased=True)
        return _by_formula(interval, estimates.of(metric, label))

    return _choose_each(found, split, chosen)


def paired_differences(a: ResampledMetrics, b: ResampledMetrics, resamples: int = 1000, seed: int = 0) -> Intervals:
    """Compute how much higher each metric is for one model than for another on the same images, with intervals.

    Both models are evaluated in the same resamples of patients, so that the effect of images that are hard for both
    cancels. Where `intervals` computes the interval of a metric by formula for either model, the interval of the
    difference is `formulas.difference_of` instead of the bootstrap's, except for average precision. For proportions
    this is Newcombe's interval for paired proportions, which has a width even for two perfect models.

    `a` and `b` have the same images, labels and patients; the result is a minus b. Where lower is better (Brier score,
    log loss, calibration error), a positive difference favors b. Noise biases both calibration errors upward, not
    always equally, so the interval of their difference is approximate.
    """
    sides = [SplitEstimates(a, [b]), SplitEstimates(b, [a])]
    found, _ = _bca([a, b], sides[0], resamples, seed)
    if a.n_units < MIN_UNITS:
        return found

    def chosen(interval: Interval, metric: Metric, label: int | None) -> Interval:
        one, other = (side.of(metric, label) for side in sides)
        if one is None or other is None or "logit" in (one.method, other.method):
            return interval
        return _by_formula(interval, difference_of(one, other))

    return _choose_each(found, a, chosen)


def _choose_each(
    found: Intervals, split: ResampledMetrics, choose: Callable[[Interval, Metric, int | None], Interval]
) -> Intervals:
    """Replace each interval by what `choose` returns for it, its metric and its label (None over all labels)."""
    overall = {name: choose(found.overall[name], metric, None) for name, metric in split.overall_metrics.items()}
    per_label = {
        name: tuple(choose(interval, metric, i) for i, interval in enumerate(found.per_label[name]))
        for name, metric in split.label_metrics.items()
    }
    return replace(found, overall=overall, per_label=per_label)


def _bca(
    splits: Sequence[ResampledMetrics], estimates: SplitEstimates, resamples: int, seed: int
) -> tuple[Intervals, Mapping[AbsoluteSum, Floats]]:
    """Compute every metric of one split, or the difference of two splits (first minus second), with its BCa interval.

    An interval of zero width is left out. Also return the terms of one split's metrics in the resamples (see
    `MetricValues`).
    """
    if resamples < 1:
        raise ValueError(f"resamples is {resamples}; expected at least 1")
    values, n_units, resampled = difference([split.values for split in splits]), splits[0].n_units, []
    if n_units >= MIN_UNITS:
        block = block_size(splits[0])
        counts = draws(n_units, resamples, seed, block), left_out(n_units, seed, block)
        resampled = [compute_blocks(splits, blocks) for blocks in counts]

    def interval(value: float, patients: int, *of_resamples: Floats) -> Interval:
        undefined = float(np.isnan(of_resamples[0]).mean()) if of_resamples else 0.0
        if not of_resamples or undefined > MAX_UNDEFINED:
            return Interval(value, math.nan, math.nan, undefined)
        drawn, without = of_resamples
        low, high = bca(drawn, value, without, patients=patients)
        return Interval(value, *((math.nan, math.nan) if low == high else (low, high)), undefined, fixed=low == high)

    overall = {
        name: interval(float(value[0]), n_units, *(each.overall[name] for each in resampled))
        for name, value in values.overall.items()
    }
    by_probability = {name for name, metric in splits[0].label_metrics.items() if metric.depends_on == "probability"}
    per_label = {
        name: tuple(
            interval(
                value,
                n_units if name in by_probability else estimates.rarer[i],
                *(each.per_label[name][:, i] for each in resampled),
            )
            for i, value in enumerate(row[0].tolist())
        )
        for name, row in values.per_label.items()
    }
    found = Intervals(overall, per_label, n_units, splits[0].by, resamples, seed, estimates.rarer)
    return found, resampled[0].terms if resampled else {}


def _by_formula(found: Interval, estimate: Estimate | None) -> Interval:
    """Replace a bootstrap interval by the estimate's interval if the bootstrap's is too narrow."""
    if estimate is None or not estimate.few or math.isnan(found.value):
        return found
    return replace(found, low=estimate.low, high=estimate.high, undefined=0.0, method=estimate.method, fixed=False)
