"""All metrics of the registry, for one split and for resamples of its patients."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from xrayfast.metrics.classification import Floats
from xrayfast.metrics.inputs import Bools, DrawnCounts
from xrayfast.metrics.registry import AbsoluteSum, Metric, label_metrics, overall_metrics
from xrayfast.metrics.resamples import Resamples, Split


@dataclass(frozen=True)
class MetricValues:
    """The metrics of B resamples.

    Attributes:
        overall: (B,) values by name in the registry.
        per_label: (B, L) values by name in the registry.
        terms: (B, K) or (B, L, K) terms of the metrics that are sums of absolute values.
    """

    overall: dict[str, Floats]
    per_label: dict[str, Floats]
    terms: dict[AbsoluteSum, Floats]


class ResampledMetrics(Split):
    """The metrics of one split, for the split itself and in resamples.

    A metric that is undefined (a class is absent, a denominator is zero) is NaN. A macro or weighted mean is over the
    labels for which the metric is defined in the split itself. In a resample in which one of these labels has no value,
    the mean is undefined too, because a mean over other labels would be a different metric.

    Arguments and errors are those of `Split`.
    """

    @cached_property
    def overall_metrics(self) -> dict[str, Metric]:
        """The metrics of the registry that are computed over all labels, by name."""
        return overall_metrics(self.task)

    @cached_property
    def label_metrics(self) -> dict[str, Metric]:
        """The metrics of the registry that are computed per label, by name."""
        return label_metrics(prevalence=self.prevalence is not None)

    @cached_property
    def values(self) -> MetricValues:
        """All metrics of the split itself (B = 1)."""
        return self._values_in(self.whole)

    def resampled(self, counts: DrawnCounts) -> MetricValues:
        """Compute all metrics of B resamples, from (B, n_units) how often each patient (or image) is drawn."""
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
        """The metrics of the split itself over all labels, by name in `registry.overall_metrics`."""
        return {name: float(values[0]) for name, values in self.values.overall.items()}

    @property
    def per_label(self) -> dict[str, Floats]:
        """(L,) metrics of the split itself per label, by name in `registry.label_metrics`."""
        return {name: values[0] for name, values in self.values.per_label.items()}

    def select(self, rows: Bools) -> ResampledMetrics:
        """Return the split restricted to the rows of an (N,) mask, with the same sampling units."""
        patients = self.unit[rows] if self.by == "patient" else None
        arrays = self.truth[rows], self.probability[rows], self.task, patients
        return ResampledMetrics(*arrays, self.thresholds, self.prevalence)
