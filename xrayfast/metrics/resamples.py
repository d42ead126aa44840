"""A split prepared once, and the quantities that metrics are computed from, of many resamples of its patients."""

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
"""From a Split, some of its rows and further arguments to what these rows add to sums."""

Compute: TypeAlias = "Callable[[Resamples], Floats]"
"""From B resamples to (B,) values over all labels, or to (B, L) values by label."""

_ROWS = 2**14
"""Images whose sums are taken at a time: what is prepared of ten million would not fit into memory. It is always as
many, so that rounding does not depend on the memory."""


@dataclass(frozen=True)
class Summands:
    """What each of N images adds to an array of sums.

    Attributes:
        shape: of the array.
        index: (N, K) flat index into it, of each image's K summands, in range for those that do not count too.
        value: (N, K) summands, 0 for those that do not count.
    """

    shape: tuple[int, ...]
    index: NDArray[np.integer]
    value: NDArray[np.generic]

    def under(self, counts: Floats) -> Floats:
        """(B, *shape) the sums of B resamples, by (N, B) how often each image is drawn."""
        from scipy.sparse import csr_array

        n, per_image = self.index.shape
        summands = np.ravel(self.value).astype(np.float64), np.ravel(self.index)
        matrix = csr_array((*summands, np.arange(n + 1) * per_image), shape=(n, math.prod(self.shape)))
        sums: Floats = (matrix.T @ counts).T.reshape(-1, *self.shape)
        return sums


class Split:
    """The images of one split, prepared once, so that metrics of many resamples of its patients are cheap.

    Args:
        truth: (N, L) of 1, 0, and -1 where masked. "single": rows that are one-hot, or -1 throughout.
        probability: (N, L) in [0, 1].
        task: "single" or "multi".
        groups: (N,) patient numbers, or None where images are drawn.
        threshold: a label is predicted at or above it ("multi"), one number or (L,).
        prevalence: for the metrics at a stated prevalence, one number or (L,), NaN for labels without; None for none.

    Attributes:
        truth: (N, L) int8.
        probability: (N, L), clipped to [0, 1].
        thresholds: (L,); likewise `prevalence`, or None.
        predicted: (N, L) int8 of 0 and 1.
        unit: (N,) the patient (or image) that is drawn, `n_units` how many there are.
        by: which of the two, "patient" or "image".

    Raises:
        ValueError: As in `metrics.inputs.table` and `sampling_units`; a row without exactly one class ("single");
            thresholds or prevalences of another shape than () or (L,), or out of range.
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
        """The edges of each label's bins, those of `reliability.inner_edges`; or of the most likely class alone."""
        if (binning, top) not in self._edges:
            columns = (self.cells_of(i)[1] for i in range(self.truth.shape[1]))
            shown = [top_label(self.truth, self.probability)[1]] if top else columns
            self._edges[binning, top] = [inner_edges(probability, binning=binning) for probability in shown]
        return self._edges[binning, top]

    def cells_of(self, label: int) -> tuple[NDArray[np.int8], Floats, Indices]:
        """(K,) truth, probability and unit of the K cells of one label that are not masked."""
        rows = np.flatnonzero(self.truth[:, label] >= 0)
        return self.truth[rows, label], self.probability[rows, label], self.unit[rows]

    @cached_property
    def rankings(self) -> list[Ranking]:
        """The order of each label's scores."""
        return [Ranking([self._ranked(i)]) for i in range(self.truth.shape[1])]

    @cached_property
    def pooled_ranking(self) -> Ranking:
        """The order of the scores of all labels together."""
        return Ranking(map(self._ranked, range(self.truth.shape[1])))

    @cached_property
    def whole(self) -> Resamples:
        """The split itself: B = 1, with each image drawn once."""
        return Resamples(self, np.ones((1, self.n_units), np.int16))

    def _ranked(self, label: int) -> tuple[Bools, Floats, Indices]:
        truth, probability, unit = self.cells_of(label)
        return truth == 1, probability, unit


class Resamples:
    """B resamples of a split: the quantities that metrics are computed from, each computed when first asked for.

    `counts` are (B, n_units): how often each patient (or image) of the split is drawn.
    """

    def __init__(self, split: Split, counts: DrawnCounts) -> None:
        self.split, self.counts = split, counts.astype(np.int16, copy=False)
        self._sums: dict[tuple[Any, ...], Floats] = {}
        self._of_labels: dict[Compute, Floats] = {}

    def sums(self, prepare: Prepare, *args: Any) -> Floats:
        """(B, ...) the sums that `prepare(split, rows, *args)` describes, over all rows."""
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
        """(B, L, 2, 2) the confusion matrix of each label: rows actual, columns predicted negative, positive."""
        return self.sums(_sum_cells)

    @cached_property
    def unmasked(self) -> Floats:
        """(B, L) images of which the label is not masked."""
        unmasked: Floats = self.cells.sum(axis=(-2, -1))
        return unmasked

    @property
    def confusion(self) -> Floats:
        """(B, C, C) actual by predicted class ("single")."""
        return self.sums(_sum_confusion)

    @property
    def images(self) -> Floats:
        """(B,) images of which some label is not masked."""
        return self.sums(_sum_image_values)

    def cell_sum(self, function: CellFunction) -> Floats:
        """(B, L) the sum over unmasked cells of an (N, L) function of truth and probability."""
        return self.sums(_sum_cell_values, function)

    def image_sum(self, function: ImageFunction) -> Floats:
        """(B,) the sum over unmasked images of an (N,) function of (N, L) truth, probability and predicted labels."""
        return self.sums(_sum_image_values, function)

    @cached_property
    def ranked(self) -> tuple[Floats, Floats]:
        """(B, L) AUROC and (B, L) average precision."""
        areas, precisions = zip(*(ranking.compute(self.counts) for ranking in self.split.rankings), strict=True)
        return np.stack(areas, axis=1), np.stack(precisions, axis=1)

    @cached_property
    def pooled(self) -> Resamples:
        """The same resamples with the cells of all labels taken for those of one label: for micro averages."""
        # No strong reference back: a cycle would keep the arrays of each block until the garbage is collected.
        return _Pooled(proxy(self))

    def scores(self, function: ScoreFunction) -> Floats:
        """(B, L) a function of a label's (K,) truth and (K,) probabilities, computed for each resample and label."""
        return np.stack([self._score(function, *self.split.cells_of(i)) for i in range(self.cells.shape[1])], axis=1)

    def _score(self, function: ScoreFunction, truth: NDArray[np.int8], probability: Floats, unit: Indices) -> Floats:
        drawn = (counts[unit] for counts in self.counts)
        return np.array([function(np.repeat(truth, times), np.repeat(probability, times)) for times in drawn])

    def of_labels(self, compute: Compute) -> Floats:
        """(B, L) a metric of each label, computed once."""
        if compute not in self._of_labels:
            self._of_labels[compute] = compute(self)
        return self._of_labels[compute]

    def defined(self, compute: Compute) -> Bools:
        """(L,) for which labels a metric has a value in the split itself."""
        defined: Bools = ~np.isnan(self.split.whole.of_labels(compute)[0])
        return defined

    def mean(self, compute: Compute, weights: Floats | None = None) -> Floats:
        """(B,) the mean of a metric over the labels for which it has a value in the split itself, by (B, L) weights."""
        values, defined = self.of_labels(compute), self.defined(compute)
        share = (np.ones_like(values) if weights is None else weights)[:, defined]
        # A label that weighs nothing in a resample (no image carries it) needs no value there.
        counted = np.where(share > 0, share * values[:, defined], 0.0)
        return ratio(counted.sum(axis=1), share.sum(axis=1))


class SingleSample(Resamples):
    """A split as it is, once: without the sorted rankings that pay off only over many resamples."""

    def __init__(self, split: Split) -> None:
        super().__init__(split, np.ones((1, split.n_units), np.int16))

    @cached_property
    def ranked(self) -> tuple[Floats, Floats]:
        """(1, L) AUROC and (1, L) average precision."""
        return self.scores(auroc), self.scores(average_precision)

    def defined(self, compute: Compute) -> Bools:
        """(L,) for which labels a metric has a value."""
        defined: Bools = ~np.isnan(self.of_labels(compute)[0])
        return defined


class _Pooled(Resamples):
    def __init__(self, resamples: Resamples) -> None:
        super().__init__(resamples.split, resamples.counts)
        self._resamples = resamples

    @property
    def cells(self) -> Floats:
        cells: Floats = self._resamples.cells.sum(axis=1, keepdims=True)
        return cells

    @cached_property
    def ranked(self) -> tuple[Floats, Floats]:
        area, precision = self.split.pooled_ranking.compute(self.counts)
        return area[:, None], precision[:, None]

    def cell_sum(self, function: CellFunction) -> Floats:
        total: Floats = self._resamples.cell_sum(function).sum(axis=1, keepdims=True)
        return total

    def scores(self, function: ScoreFunction) -> Floats:
        columns = zip(*map(self.split.cells_of, range(self.split.truth.shape[1])), strict=True)
        return self._score(function, *map(np.concatenate, columns))[:, None]


def _sum_cells(split: Split, rows: slice) -> Summands:
    truth = split.truth[rows]
    n_labels = truth.shape[1]
    # The cells of a label's 2x2 matrix are true negative, false positive, false negative, true positive.
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
