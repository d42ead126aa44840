"""The pixels that the detectors look at: a sample of an image, those beside them, and how lines differ."""

from __future__ import annotations

from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt

from xrayfast.data.arrays import Floats32, Places
from xrayfast.data.images.outline import varied_lines
from xrayfast.data.images.radiograph import Pixels

LEAST_SIDE = 48
"""Least number of pixels of the shorter side of an image whose areas and lines are checked."""

SAMPLED = 64
"""Rows and columns of a sample."""

_COLUMNS = 32  # fewest columns over which rows are compared

LEAST_SPREAD = 30
"""Smallest variance of pixels that others are compared with."""

COVERED = 0.03
"""Least plain share of a middle with a box."""

_MIDDLE = (slice(SAMPLED // 5, -(SAMPLED // 5)),) * 2

SHADED = (28, 243)
"""The darkest and the brightest gray level that is neither black nor white, for a plain area."""

AROUND = 3
"""Lines from a step to those that it is compared with."""

EQUAL = np.full(SAMPLED**2, 1 / SAMPLED**2, np.float32)
"""Weights of a mean as a matrix product, which takes a quarter of the time and is exact for bytes."""

_BLOCKS = np.repeat(np.eye(SAMPLED // 4, dtype=np.float32), 4, axis=1) / 4
"""(16, 64) weights of the means of 4 pixels."""


class Sample:
    """64 x 64 pixels of an image, the pixels beside them, and how much each line of the image differs from the next."""

    def __init__(self, pixels: Pixels) -> None:
        self.pixels = pixels
        self.bytes = pixels.ravel().take(_places(*pixels.shape), mode="wrap")  # not checked: two thirds of the time
        center = self.bytes[0]
        self.steps = np.empty((4, *center.shape), np.uint8)  # to the pixels above, below, left and right
        for other, found in zip(self.bytes[1:], self.steps, strict=True):
            differ(center, other, found)
        self.means = (self.steps.reshape(4, -1).astype(np.float32) @ EQUAL).tolist()
        self.center = center.astype(np.int16)

    @cached_property
    def beside(self) -> npt.NDArray[np.int16]:
        """(4, 64, 64) the pixels above, below, left and right."""
        return self.bytes[1:].astype(np.int16)

    @cached_property
    def values(self) -> Floats32:
        """(64 * 64,) the values of the pixels."""
        return self.center.ravel().astype(np.float32)

    @cached_property
    def mean(self) -> float:
        """The mean of the pixels."""
        return float(self.values @ EQUAL)

    @cached_property
    def steepest(self) -> Pixels:
        """(64, 64) the largest step from each pixel to those beside it."""
        return self.steps.max(axis=0)

    @cached_property
    def plain_middle(self) -> tuple[int, float]:
        """The commonest gray level of pixels in the middle that equal those beside them, and its share.

        Both are 0 if few pixels do.
        """
        still = self.steepest[_MIDDLE] == 0
        if np.count_nonzero(still) < COVERED * still.size:
            return 0, 0.0  # the usual case
        counts = np.bincount(self.center[_MIDDLE][still])
        return int(counts.argmax()), float(counts.max()) / still.size

    @cached_property
    def counts(self) -> Places:
        """(256,) the number of pixels per gray level."""
        return np.bincount(self.bytes[0].ravel(), minlength=256)

    @cached_property
    def blocks(self) -> Floats32:
        """(256,) the means of 4 x 4 pixels."""
        return (_BLOCKS @ self.values.reshape(SAMPLED, SAMPLED) @ _BLOCKS.T).ravel()

    @cached_property
    def variances(self) -> tuple[float, float]:
        """The variance of the pixels, and that of the means of 4 x 4 pixels."""
        square = self.mean**2
        between = float(self.blocks @ self.blocks) / self.blocks.size - square
        return float(self.values @ self.values) / self.values.size - square, max(between, 0.0)

    @cached_property
    def margins(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """The plain shares of the height, above and below, and of the width, left and right."""
        rows, columns = varied_lines(self.center)
        return _shares_outside(*rows), _shares_outside(*columns)

    @cached_property
    def profiles(self) -> tuple[Floats32, Floats32]:
        """(H - 1,) mean difference of each row from the next, over 32 to 63 pixels; (W - 1,) that of each column."""
        columns = np.ascontiguousarray(self.pixels[:, :: max(1, self.pixels.shape[1] // _COLUMNS)])
        rows = self.pixels[:: max(1, len(self.pixels) // _COLUMNS)]
        down, across = differ(columns[1:], columns[:-1]), differ(rows[:, 1:], rows[:, :-1])
        return _means(down), _means(across.T)

    @cached_property
    def jumps(self) -> tuple[Floats32, Floats32]:
        """The jumps of both profiles: see `jump_sizes`."""
        return jump_sizes(self.profiles[0]), jump_sizes(self.profiles[1])

    @cached_property
    def all_profiles(self) -> tuple[Floats32, Floats32]:
        """The profiles over all pixels: over some of them, a slanted edge has steps at regular distances."""
        down, across = (differ(lines[1:], lines[:-1]) for lines in (self.pixels, self.pixels.T))
        return _means(down), _means(across)


@lru_cache(maxsize=64)
def _places(height: int, width: int) -> Places:
    """Return (5, 64, 64) places in an image's flat pixels: of a sample, and above, below, left and right of it."""
    rows, columns = (np.linspace(1, side - 2, SAMPLED).round().astype(np.intp) for side in (height, width))
    beside = np.array([0, -width, width, -1, 1], np.intp)
    return rows[:, None] * width + columns + beside[:, None, None]


def _shares_outside(first: int, last: int) -> tuple[float, float]:
    """Return the shares of a side before the first line and after the last line."""
    return first / SAMPLED, 1 - (last + 1) / SAMPLED


def jump_sizes(steps: Floats32) -> Floats32:
    """Return each step over the larger of the steps `AROUND` lines before and after it, if there are both."""
    around = np.maximum(steps[: -2 * AROUND], steps[2 * AROUND :])
    return steps[AROUND:-AROUND] / (around + 1)


def _means(steps: Pixels) -> Floats32:
    """Return the mean of each row, as a matrix product, which takes a quarter of the time."""
    return steps.astype(np.float32) @ np.full(steps.shape[1], 1 / steps.shape[1], np.float32)


def differ(one: Pixels, other: Pixels, out: Pixels | None = None) -> Pixels:
    """Return absolute differences of bytes without widening these, which takes half the time."""
    larger = np.maximum(one, other, out=out)
    return np.subtract(larger, np.minimum(one, other), out=larger)
