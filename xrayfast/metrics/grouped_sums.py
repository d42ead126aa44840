"""Sums over images for many resamples at once, as the product of a sparse matrix with the counts of each patient."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from xrayfast.metrics.classification import Floats
from xrayfast.metrics.inputs import Indices


class GroupedSums:
    """An array of sums over images, grouped by the patient (or image) that is drawn.

    Args:
        n_units: how many patients (or images) there are.
        shape: of the array of sums.
        index: (K,) flat index into it, of each summand.
        unit: (K,) the patient (or image) that each summand comes from.
        value: (K,) summands; None for ones, which makes the sums counts.
    """

    def __init__(
        self, n_units: int, shape: tuple[int, ...], index: Indices, unit: Indices, value: Floats | None = None
    ) -> None:
        from scipy.sparse import coo_array

        self._shape, values = shape, np.ones(len(index)) if value is None else value
        self._matrix = coo_array((values, (index, unit)), shape=(math.prod(shape), n_units)).tocsr()

    def under(self, counts: Floats) -> Floats:
        """(B, *shape) the sums of B resamples, by (B, n_units) how often each patient (or image) is drawn."""
        sums: Floats = (self._matrix @ counts.T).T.reshape(-1, *self._shape)
        return sums

    @classmethod
    def stack(cls, arrays: Iterable[GroupedSums]) -> GroupedSums:
        """The sums of K arrays of one shape, (K, *shape): made one after the other, they need less memory."""
        from scipy.sparse import vstack

        first, *others = arrays
        stacked = cls.__new__(cls)
        stacked._shape = (1 + len(others), *first._shape)
        stacked._matrix = vstack([array._matrix for array in (first, *others)], format="csr")
        return stacked
