"""A split prepared for resampling, and the quantities in its resamples that metrics are computed from."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias
from weakref import proxy

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xrayfast.config import Task
from xrayfast.metrics.classification import Floats, auroc, average_precision, ratio
from xrayfast.metrics.inputs import Bools, DrawnCounts, Indices, sampling_units, table
from xrayfast.metrics.operating_points.thresholds import decide
from xrayfast.metrics.ranking import Ranking
from xrayfast.metrics.reliability import Binning, inner_edges, top_label
from xrayfast.metrics.scoring import one_class

ScoreFunction: TypeAlias = Callable[[NDArray[np.int8], Floats], float]
CellFunction: TypeAlias = Callable[[NDArray[np.int8], Floats], Floats]
ImageFunction: TypeAlias = Callable[[NDArray[np.int8], Floats, NDArray[np.int8]], NDArray[Any]]

Prepare: TypeAlias = "Callable[..., Summands]"
"""Takes a Split, a slice of its rows and further arguments, and returns the summands of these rows."""

Compute: TypeAlias = "Callable[[Resamples], Floats]"
"""Takes B resamples and returns (B,) values over all labels, or (B, L) values by label."""

_ROWS = 2**14
"""The number of images summed at a time: the summands of ten million images would not fit into memory. The number is
fixed, so that rounding does not depend on the memory available."""


@dataclass(frozen=True)
class Summands:
    """What each of N images adds to an array of sums.

    Attributes:
        shape: the shape of the array.
        index: (N, K) flat index into the array for each image's K summands; valid also where the summand is 0.
        value: (N, K) summands, 0 for those that do not count.
    """

    shape: tuple[int, ...]
    index: NDArray[np.integer]
    value: NDArray[np.generic]

    def under(self, counts: Floats) -> Floats:
        """Return the (B, *shape) sums of B resamples, from (N, B) how often each image is drawn."""
        from scipy.sparse import csr_array

        n, per_image = self.index.shape
        summands = np.ravel(self.value).astype(np.float64), np.ravel(self.index)
        matrix = csr_array((*summands, np.arange(n + 1) * per_image), shape=(n, math.prod(self.shape)))
        return (matrix.T @ counts).T.reshape(-1, *self.shape)


class Split:
    """The images of one split, prepared once so that metrics of many resamples of its patients are cheap.

    `threshold`, at or above which a label is predicted ("multi"), and `prevalence`, which the metrics that need one are
    stated at, are one number or (L,); the latter is NaN for labels without, and None to leave these metrics out.

    Attributes:
        truth, predicted: (N, L) int8.
        thresholds, prevalence: (L,); the latter may be None.
        unit: (N,) the sampling unit of each image: its patient, or the image itself; n_units of them.
        by: "patient" or "image": what the units are.

    Raises:
        ValueError: As in `metrics.inputs.table` and `sampling_units`; a row is neither one-hot nor entirely -1
            ("single"); thresholds or prevalences have another shape than () or (L,); a threshold is NaN; a prevalence
            is outside [0, 1].
    """

    def __init__(
        self,
        truth: ArrayLike,
        probability: ArrayLike,
        task: Task,
        groups: ArrayLike | None = None,
        threshold: ArrayLike = 0.5,
        prevalence: ArrayLike | None = None,
    ) -> None:
        self.truth, self.probability = table(truth, probability)
        self.task = task
        invalid = ~one_class(self.truth) & (self.truth >= 0).any(axis=1)
        if task == "single" and invalid.any():
            raise ValueError(f"truth row {np.argmax(invalid)} is {self.truth[invalid][0].tolist()}; expected one class")
        self.unit, self.n_units = sampling_units(groups, len(self.truth))
        self.by = "image" if groups is None else "patient"
        n_labels = self.truth.shape[1]
        self.thresholds = _per_label(threshold, n_labels, "threshold")
        self.predicted = decide(self.probability, task, self.thresholds)
        self.prevalence = None if prevalence is None else _per_label(prevalence, n_labels, "prevalence")
        if self.prevalence is not None and ((self.prevalence < 0) | (self.prevalence > 1)).any():
            raise ValueError(f"prevalence is {prevalence!r}; expected shares between 0 and 1")
        self._edges: dict[tuple[Binning, bool], list[Floats]] = {}

    def edges(self, binning: Binning, *, top: bool = False) -> list[Floats]:
        """Return the edges between each label's bins (see `reliability.inner_edges`), or with `top` only those of the
        most likely class.
        """
        if (binning, top) not in self._edges:
            columns = (self.cells_of(i)[1] for i in range(self.truth.shape[1]))
            shown = [top_label(self.truth, self.probability)[1]] if top else columns
            self._edges[binning, top] = [inner_edges(probability, binning=binning) for probability in shown]
        return self._edges[binning, top]

    def cells_of(self, label: int) -> tuple[NDArray[np.int8], Floats, Indices]:
        """Return (K,) truth, probability and unit of the K unmasked cells of one label."""
        rows = np.flatnonzero(self.truth[:, label] >= 0)
        return self.truth[rows, label], self.probability[rows, label], self.unit[rows]

    @cached_property
    def rankings(self) -> list[Ranking]:
        """The ranking of each label's scores."""
        return [Ranking([self._ranked(i)]) for i in range(self.truth.shape[1])]

    @cached_property
    def pooled_ranking(self) -> Ranking:
        """The ranking of the pooled scores of all labels."""
        return Ranking(map(self._ranked, range(self.truth.shape[1])))

    @cached_property
    def whole(self) -> Resamples:
        """The split itself as one resample (B = 1), with each image drawn once."""
        return Resamples(self, np.ones((1, self.n_units), np.int16))

    def _ranked(self, label: int) -> tuple[Bools, Floats, Indices]:
        truth, probability, unit = self.cells_of(label)
        return truth == 1, probability, unit


class Resamples:
    """B resamples of a split, and the quantities that metrics are computed from, each computed on first use.

    Args:
        counts: (B, n_units) how often each patient (or image) of the split is drawn.
    """

    def __init__(self, split: Split, counts: DrawnCounts) -> None:
        self.split, self.counts = split, counts.astype(np.int16, copy=False)
        self._sums: dict[tuple[Any, ...], Floats] = {}
        self._of_labels: dict[Compute, Floats] = {}

    def sums(self, prepare: Prepare, *args: Any) -> Floats:
        """Return the (B, ...) sums of the summands `prepare(split, rows, *args)` over all rows."""
        key = (prepare, *args)
        if key not in self._sums:
            total: Any = 0.0
            for start in range(0, max(len(self.split.unit), 1), _ROWS):
                rows = slice(start, start + _ROWS)
                drawn = self.counts.take(self.split.unit[rows], axis=1).T.astype(np.float64, order="C")
                total = total + prepare(self.split, rows, *args).under(drawn)
            self._sums[key] = total
        return self._sums[key]

    @property
    def cells(self) -> Floats:
        """(B, L, 2, 2) confusion matrix of each label: rows actual, columns predicted, both negative then positive."""
        return self.sums(_sum_cells)

    @cached_property
    def unmasked(self) -> Floats:
        """(B, L) number of images whose label is not masked."""
        return self.cells.sum(axis=(-2, -1))

    @property
    def confusion(self) -> Floats:
        """(B, C, C) confusion matrix: rows actual, columns predicted classes ("single")."""
        return self.sums(_sum_confusion)

    @property
    def images(self) -> Floats:
        """(B,) number of images with an unmasked label."""
        return self.sums(_sum_image_values)

    def cell_sum(self, function: CellFunction) -> Floats:
        """Return the (B, L) sum over unmasked cells of an (N, L) function of truth and probability."""
        return self.sums(_sum_cell_values, function)

    def image_sum(self, function: ImageFunction) -> Floats:
        """Return the (B,) sum over unmasked images of an (N,) function of (N, L) truth, probability and predicted
        labels.
        """
        return self.sums(_sum_image_values, function)

    @cached_property
    def ranked(self) -> tuple[Floats, Floats]:
        """(B, L) AUROC and (B, L) average precision."""
        areas, precisions = zip(*(ranking.compute(self.counts) for ranking in self.split.rankings), strict=True)
        return np.stack(areas, axis=1), np.stack(precisions, axis=1)

    @cached_property
    def pooled(self) -> Resamples:
        """The same resamples with the cells of all labels pooled as if they were one label's, for micro averages."""
        # No strong reference back: a cycle would keep the arrays of each block until garbage collection.
        return _Pooled(proxy(self))

    def scores(self, function: ScoreFunction) -> Floats:
        """Return (B, L) values of a function of (K,) truth and (K,) probabilities, called per resample and label."""
        return np.stack([self._score(function, *self.split.cells_of(i)) for i in range(self.cells.shape[1])], axis=1)

    def _score(self, function: ScoreFunction, truth: NDArray[np.int8], probability: Floats, unit: Indices) -> Floats:
        drawn = (counts[unit] for counts in self.counts)
        return np.array([function(np.repeat(truth, times), np.repeat(probability, times)) for times in drawn])

    def of_labels(self, compute: Compute) -> Floats:
        """Return the (B, L) values of a metric per label, computed once."""
        if compute not in self._of_labels:
            self._of_labels[compute] = compute(self)
        return self._of_labels[compute]

    def defined(self, compute: Compute) -> Bools:
        """Return (L,) for which labels a metric has a value in the split itself."""
        return ~np.isnan(self.split.whole.of_labels(compute)[0])

    def mean(self, compute: Compute, weights: Floats | None = None) -> Floats:
        """Return the (B,) mean of a metric over the labels for which it has a value in the split itself, weighted by
        (B, L) `weights` if given.
        """
        values, defined = self.of_labels(compute), self.defined(compute)
        share = (np.ones_like(values) if weights is None else weights)[:, defined]
        # A label with weight 0 in a resample (no image has it) needs no value there.
        counted = np.where(share > 0, share * values[:, defined], 0.0)
        return ratio(counted.sum(axis=1), share.sum(axis=1))


class SingleSample(Resamples):
    """The split itself as the only sample, without the sorted rankings, which pay off only over many resamples."""

    def __init__(self, split: Split) -> None:
        super().__init__(split, np.ones((1, split.n_units), np.int16))

    @cached_property
    def ranked(self) -> tuple[Floats, Floats]:
        """(1, L) AUROC and (1, L) average precision."""
        return self.scores(auroc), self.scores(average_precision)

    def defined(self, compute: Compute) -> Bools:
        """Return (L,) for which labels a metric has a value."""
        return ~np.isnan(self.of_labels(compute)[0])


class _Pooled(Resamples):
    def __init__(self, resamples: Resamples) -> None:
        super().__init__(resamples.split, resamples.counts)
        self._resamples = resamples

    @property
    def cells(self) -> Floats:
        return self._resamples.cells.sum(axis=1, keepdims=True)

    @cached_property
    def ranked(self) -> tuple[Floats, Floats]:
        area, precision = self.split.pooled_ranking.compute(self.counts)
        return area[:, None], precision[:, None]

    def cell_sum(self, function: CellFunction) -> Floats:
        return self._resamples.cell_sum(function).sum(axis=1, keepdims=True)

    def scores(self, function: ScoreFunction) -> Floats:
        columns = zip(*map(self.split.cells_of, range(self.split.truth.shape[1])), strict=True)
        return self._score(function, *map(np.concatenate, columns))[:, None]


def _sum_cells(split: Split, rows: slice) -> Summands:
    truth = split.truth[rows]
    n_labels = truth.shape[1]
    # The flattened 2x2 matrix of a label is true negative, false positive, false negative, true positive.
    index = 4 * np.arange(n_labels) + 2 * (truth == 1) + split.predicted[rows]
    return Summands((n_labels, 2, 2), index, truth >= 0)


def _sum_cell_values(split: Split, rows: slice, function: CellFunction) -> Summands:
    truth = split.truth[rows]
    values = np.where(truth >= 0, function(truth, split.probability[rows]), 0.0)
    n_labels = truth.shape[1]
    return Summands((n_labels,), np.broadcast_to(np.arange(n_labels), truth.shape), values)


def _sum_confusion(split: Split, rows: slice) -> Summands:
    truth = split.truth[rows]
    n_labels = truth.shape[1]
    index = truth.argmax(axis=1) * n_labels + split.predicted[rows].argmax(axis=1)
    unmasked: Bools = np.asarray((truth >= 0).any(axis=1))
    return Summands((n_labels, n_labels), index[:, None], unmasked[:, None])


def _sum_image_values(split: Split, rows: slice, function: ImageFunction | None = None) -> Summands:
    truth = split.truth[rows]
    unmasked: Bools = np.asarray((truth >= 0).any(axis=1))
    values = unmasked.astype(np.float64)
    if function is not None:
        values[unmasked] = function(truth[unmasked], split.probability[rows][unmasked], split.predicted[rows][unmasked])
    return Summands((), np.zeros((len(truth), 1), np.int64), values[:, None])


def _per_label(value: ArrayLike, n_labels: int, name: str) -> Floats:
    numbers = np.asarray(value, dtype=np.float64)
    if numbers.shape not in ((), (n_labels,)) or (name == "threshold" and np.isnan(numbers).any()):
        raise ValueError(f"{name} is {value!r}; expected one number or {n_labels}, one for each label")
    return np.broadcast_to(numbers, (n_labels,))
