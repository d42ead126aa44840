"""Draws of patients, and a split's metrics in each of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from xrayfast.metrics.classification import Floats
from xrayfast.metrics.resampled_metrics import MetricValues, ResampledMetrics

SHARES = 200
"""Into how many equal shares patients are dealt at most, to be left out one share at a time: however many patients
there are, this costs a fifth of a thousand resamples."""

_CELLS = 2**22
"""Numbers held in one array while resampling: the size of a block is chosen for it (32 MB)."""


def draws(n_units: int, resamples: int, seed: int, block: int) -> Iterator[Floats]:
    """Counts of resamples, a block at a time; their sequence does not depend on the block's size.

    Args:
        n_units: how many patients (or images) there are, and how many are drawn, with replacement, in each resample.
        resamples: how many in all.
        seed: of the generator.
        block: how many at a time.

    Yields:
        (B, units) how often each is drawn, B at most `block`.
    """
    rng = np.random.default_rng(seed)
    for start in range(0, resamples, block):
        n = min(block, resamples - start)
        counts = [np.bincount(rng.integers(n_units, size=n_units), minlength=n_units) for _ in range(n)]
        yield np.stack(counts).astype(np.float64)


def left_out(n_units: int, seed: int, block: int, at_most: int = SHARES) -> Iterator[Floats]:
    """Counts without one patient at a time, or, where they are many, without one of equal shares of them.

    Args:
        n_units: how many patients (or images) there are.
        seed: of the generator that deals them to shares.
        block: how many at a time.
        at_most: how many shares.

    Yields:
        (B, units) of 1, and 0 for those left out, B at most `block`.
    """
    shares = min(n_units, at_most)
    share_of = np.random.default_rng((seed, 1)).permutation(n_units) % shares
    for start in range(0, shares, block):
        yield (share_of != np.arange(start, min(start + block, shares))[:, None]).astype(np.float64)


def block_size(sample: ResampledMetrics) -> int:
    """How many resamples to measure at a time."""
    return max(4, _CELLS // max(sample.truth.size, 1))


def compute_blocks(samples: Sequence[ResampledMetrics], blocks: Iterator[Floats]) -> MetricValues:
    """The metrics of one split, or the differences of the first and the second of two, under all counts.

    Args:
        samples: one, or two of the same patients.
        blocks: (B, units) counts, as `draws` and `left_out` yield them.

    Returns:
        (R,) and (R, L) arrays, R the counts of all blocks.
    """
    found = [difference([sample.compute(counts) for sample in samples]) for counts in blocks]
    return _combined(found, np.concatenate)


def difference(of: Sequence[MetricValues]) -> MetricValues:
    """The metrics of one, or of the first minus the second of two."""
    return of[0] if len(of) == 1 else _combined(of, lambda values: values[0] - values[1])


def _combined(several: Sequence[MetricValues], combine: Callable[[list[Floats]], Floats]) -> MetricValues:
    return MetricValues(
        {name: combine([one.overall[name] for one in several]) for name in several[0].overall},
        {name: combine([one.per_label[name] for one in several]) for name in several[0].per_label},
    )
