"""Reliability diagrams."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from xrayfast.metrics.classification import Floats, ratio
from xrayfast.metrics.inputs import Indices, column, table
from xrayfast.metrics.proportions import wilson
from xrayfast.metrics.scoring import one_class

Binning = Literal["width", "mass"]
"""Bins of equal width, or of equally many images."""

RELIABILITY_BINS = 15
"""The number of bins, as in Guo et al. 2017."""


@dataclass(frozen=True)
class Bin:
    """One bin of a reliability diagram; in an empty bin `count` is 0 and the fields after it are NaN.

    Attributes:
        low: left edge, not in the bin (except 0, which is in the first bin).
        high: right edge, in the bin.
        predicted: their mean probability.
        observed: the share of positives.
        observed_low: lower limit of Wilson's interval of `observed`.
    """

    low: float
    high: float
    count: int
    predicted: float
    observed: float
    observed_low: float
    observed_high: float


def inner_edges(probability: ArrayLike, bins: int = RELIABILITY_BINS, binning: Binning = "width") -> Floats:
    """Return the edges between bins; a value on an edge belongs to the lower bin, as in scikit-learn.

    Args:
        probability: (N,) in [0, 1].
        bins: the number of bins.
        binning: "width" divides [0, 1] evenly; "mass" takes the quantiles, and merges equal ones (if many
            probabilities are equal), so that there can be fewer bins.

    Returns:
        (K,) ascending, K at most bins - 1. `np.searchsorted(edges, probability)` is the index of the bin.

    Raises:
        ValueError: bins is below 1.
    """
    if bins < 1:
        raise ValueError(f"bins is {bins}; expected at least 1")
    edges: Floats = np.linspace(0.0, 1.0, bins + 1)[1:-1]
    if binning == "mass":
        values = np.asarray(probability, dtype=np.float64)
        edges = np.unique(np.quantile(values, edges)) if values.size else np.empty(0)
        edges = edges[edges < values.max(initial=-np.inf)]
    return edges


def top_label(truth: ArrayLike, probability: ArrayLike) -> tuple[Indices, Floats, Indices]:
    """Return whether the most likely class is right, and its probability (single-label).

    Returns:
        (K,) 0 or 1, (K,) probabilities and (K,) row numbers of the K images that have a class.
    """
    actual, values = table(truth, probability)
    rows = np.flatnonzero(one_class(actual))
    chosen = values[rows].argmax(axis=1)
    return (actual[rows, chosen] == 1).astype(np.int64), values[rows, chosen], rows


def reliability(
    truth: ArrayLike, probability: ArrayLike, bins: int = RELIABILITY_BINS, binning: Binning = "width"
) -> list[Bin]:
    """Compute the bins of the reliability diagram of one label (or of `top_label`), (N,) each; see `inner_edges`.

    Returns:
        All bins from 0 to 1, including empty ones; their intervals treat images as independent.

    DeGroot and Fienberg 1983; Niculescu-Mizil and Caruana 2005.
    """
    positive, values, _ = column(truth, probability)
    edges = inner_edges(values, bins, binning)
    which = np.searchsorted(edges, values)
    count = np.bincount(which, minlength=len(edges) + 1)
    hits = np.bincount(which, weights=positive, minlength=len(edges) + 1)
    predicted = ratio(np.bincount(which, weights=values, minlength=len(edges) + 1), count)
    low, high = wilson(hits, count)
    ends = np.concatenate([[0.0], edges, [1.0]])
    columns = (ends[:-1], ends[1:], count, predicted, ratio(hits, count), low, high)
    return [Bin(*row) for row in zip(*(values.tolist() for values in columns), strict=True)]
