"""All metrics of the registry, of one split and of resamples of its patients."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from xrayfast.metrics.classification import Floats
from xrayfast.metrics.inputs import Bools, DrawnCounts
from xrayfast.metrics.registry import AbsoluteSum, Metric, label_metrics, overall_metrics
from xrayfast.metrics.resamples import Resamples, Split


@dataclass(frozen=True)
class MetricValues:
    """Metrics of B resamples: (B,) each overall, and (B, L) by label, by the names of the registry; and the (B, K) or
    (B, L, K) terms of those that are sums of absolute values.
    """

    overall: dict[str, Floats]
    per_label: dict[str, Floats]
    terms: dict[AbsoluteSum, Floats]


class ResampledMetrics(Split):
    """The metrics of one split, as it is and in many resamples.

    A metric without a value (a class is absent, a denominator is zero) is NaN. A macro or weighted mean is over the
    labels for which the metric has a value in the split itself; a resample in which one of these has none has no mean
    either, because a mean over other labels would be another metric.

    Made, and refused, as `Split` is.
    """

    @cached_property
    def overall_metrics(self) -> dict[str, Metric]:
        """The rows of the registry that are computed over all labels, by name."""
        return overall_metrics(self.task)

    @cached_property
    def label_metrics(self) -> dict[str, Metric]:
        """Those that are computed by label."""
        return label_metrics(prevalence=self.prevalence is not None)

    @cached_property
    def values(self) -> MetricValues:
        """All metrics of the split itself, B = 1."""
        return self._values_in(self.whole)

    def resampled(self, counts: DrawnCounts) -> MetricValues:
        """All metrics of B resamples, by (B, n_units) how often each patient (or image) is drawn."""
        return self._values_in(Resamples(self, counts))

    def _values_in(self, resamples: Resamples) -> MetricValues:
        metrics = [*self.overall_metrics.values(), *self.label_metrics.values()]
        return MetricValues(
            {name: metric.compute(resamples) for name, metric in self.overall_metrics.items()},
            {name: resamples.of_labels(metric.compute) for name, metric in self.label_metrics.items()},
            {each.compute: each.compute.terms(resamples) for each in metrics if isinstance(each.compute, AbsoluteSum)},
        )

    @property
    def overall(self) -> dict[str, float]:
        """The metrics of the split itself, by the names of `registry.overall_metrics`."""
        return {name: float(values[0]) for name, values in self.values.overall.items()}

    @property
    def per_label(self) -> dict[str, Floats]:
        """(L,) metrics of the split itself, by the names of `registry.label_metrics`."""
        return {name: values[0] for name, values in self.values.per_label.items()}

    def select(self, rows: Bools) -> ResampledMetrics:
        """The split of some rows, chosen by an (N,) mask, drawn by patient (or image) as here."""
        arrays = self.truth[rows], self.probability[rows], self.task, self.unit[rows]
        return ResampledMetrics(*arrays, self.thresholds, self.prevalence)
