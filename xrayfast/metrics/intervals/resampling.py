"""Bootstrap and jackknife resamples of patients, and the metrics of a split in each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from xrayfast.metrics.classification import Floats
from xrayfast.metrics.inputs import DrawnCounts
from xrayfast.metrics.intervals.resampled_metrics import MetricValues, ResampledMetrics

SHARES = 200
"""The number of groups of a grouped jackknife: it costs at most a fifth of a thousand resamples, however many patients
there are."""

_CELLS = 2**27
"""The maximum number of counts in a block of resamples (256 MB)."""

_MOST_IN_BLOCK = 256

_VALUES = 2**21
"""The maximum number of values in a block of `small_block` resamples."""


def draws(n_units: int, resamples: int, seed: int, block: int) -> Iterator[DrawnCounts]:
    """Yield the counts of bootstrap resamples, a block at a time; the draws do not depend on the block size.

    Each resample draws `n_units` of the `n_units` patients (or images), with replacement.

    Yields:
        (B, units) how often each patient (or image) is drawn, B at most `block`.
    """
    rng = np.random.default_rng(seed)
    for start in range(0, resamples, block):
        counts = np.empty((min(block, resamples - start), n_units), np.int16)
        for one in counts:
            one[:] = np.bincount(rng.integers(n_units, size=n_units), minlength=n_units)
        yield counts


def left_out(n_units: int, seed: int, block: int) -> Iterator[DrawnCounts]:
    """Yield the counts of jackknife resamples: each without one patient, or, if there are more than `SHARES` patients,
    without one of `SHARES` groups of about equal size.

    The seed assigns patients (or images) to groups.

    Yields:
        (B, units) of 1, and 0 where left out, B at most `block`.
    """
    shares = min(n_units, SHARES)
    share_of = np.random.default_rng((seed, 1)).permutation(n_units) % shares
    for start in range(0, shares, block):
        yield (share_of != np.arange(start, min(start + block, shares))[:, None]).astype(np.int16)


def block_size(split: ResampledMetrics) -> int:
    """Return how many resamples to compute at a time."""
    return max(1, min(_CELLS // max(split.n_units, 1), _MOST_IN_BLOCK))


def small_block(values: int) -> int:
    """Return how many resamples to compute at a time if each is expanded to this many values, such as one per image."""
    return max(4, _VALUES // max(1, values))


def compute_blocks(splits: Sequence[ResampledMetrics], blocks: Iterator[DrawnCounts]) -> MetricValues:
    """Compute the metrics of one split, or those of the first minus those of the second, in all resamples.

    Returns:
        (R,) and (R, L) arrays, where R is the number of resamples in all blocks.
    """
    values = [difference([split.resampled(counts) for split in splits]) for counts in blocks]
    return _combined(values, np.concatenate)


def difference(values: Sequence[MetricValues]) -> MetricValues:
    """Return the values of one split, or those of the first minus those of the second.

    The difference has no terms, because each split has its own bins.
    """
    if len(values) == 1:
        return values[0]
    return _combined([replace(one, terms={}) for one in values], lambda pair: pair[0] - pair[1])


def _combined(several: Sequence[MetricValues], combine: Callable[[list[Floats]], Floats]) -> MetricValues:
    return MetricValues(
        {name: combine([values.overall[name] for values in several]) for name in several[0].overall},
        {name: combine([values.per_label[name] for values in several]) for name in several[0].per_label},
        {total: combine([values.terms[total] for values in several]) for total in several[0].terms},
    )
