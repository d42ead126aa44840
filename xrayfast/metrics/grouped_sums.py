"""Sums over images for many resamples at once."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xrayfast.metrics.classification import Floats


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
