"""Sums over images for many resamples at once, as one product of a sparse matrix with the counts of each patient."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xrayfast.metrics.classification import Floats
from xrayfast.metrics.inputs import Indices


class GroupedSums:
    """Named sums over images, each of a shape of its own."""

    def __init__(self, n_units: int) -> None:
        self._units = n_units
        self._size = 0
        self._places: dict[str, tuple[int, tuple[int, ...]]] = {}
        self._parts: list[tuple[NDArray[Any], NDArray[Any], NDArray[Any]]] = []
        self._matrix: Any = None

    def add(
        self, name: str, shape: tuple[int, ...], index: Indices, unit: Indices, value: Floats | None = None
    ) -> None:
        """Take in one array of sums.

        Args:
            name: what `sums` calls it.
            shape: of the array of sums.
            index: (K,) flat index into it.
            unit: (K,) the patient (or image) that a value comes from.
            value: (K,) or None for ones.
        """
        values = np.ones(len(index)) if value is None else value
        self._parts.append((index + self._size, unit, values))
        self._places[name] = (self._size, shape)
        self._size += math.prod(shape)
        self._matrix = None

    def sums(self, counts: Floats) -> dict[str, Floats]:
        """Every sum under B sets of counts.

        Args:
            counts: (B, units) how often each patient (or image) is drawn.

        Returns:
            (B, *shape) by name.
        """
        if self._matrix is None:
            from scipy.sparse import coo_array

            row, unit, value = (np.concatenate(part) for part in zip(*self._parts, strict=True))
            self._matrix = coo_array((value, (row, unit)), shape=(self._size, self._units)).tocsr()
        flat = (self._matrix @ counts.T).T
        return {
            name: flat[:, start : start + math.prod(shape)].reshape(-1, *shape)
            for name, (start, shape) in self._places.items()
        }
