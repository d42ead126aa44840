"""Detection of stored values that evidently have other bits or another sign than their file says."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from xrayfast.data.arrays import Ints

Codes: TypeAlias = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
Signed: TypeAlias = npt.NDArray[np.int32]

_NOISE = 1.2
"""Mean squared step between neighbors, in units of the variance: 2 in white noise, below 0.7 in radiographs."""

_LEVELS_AT_WRAP = 4
"""Least number of distinct values on each side of the wrap in an image read with the wrong sign; masks have one."""

_SURROUND_SHARE, _FEWEST_LEVELS = 0.05, 16
"""Least share of the pixels that is a surround, and least number of distinct values of an image that has one."""

_GAP_AT_CORNERS = 0.25
"""Least gap between a surround and the next value, as a fraction of the range of the other values, if it is the lowest
value and on at least two corners. Elsewhere, the gap must exceed the range."""

_WRAPS = 10
"""If values of the whole range occur, the wrong sign makes at least this many times as many steps of half the range or
more."""


def has_other_sign(codes: Codes, counts: Ints, bits: int, signed: bool) -> bool:
    """Whether an image (H, W) evidently has signed values although its file says unsigned, or the other way round.

    Read with the wrong sign, values wrap around within the image: there are values on both sides of the wrap, and none
    or few between them. `counts` is the number of pixels per code.
    """
    quarter = 1 << max(0, bits - 2)
    lowest, low, high, highest = (counts[i * quarter : (i + 1) * quarter] for i in range(4))
    sides = (low, high) if signed else (lowest, highest)
    if any(np.count_nonzero(side) < _LEVELS_AT_WRAP for side in sides):
        return False
    other, told = to_integers(codes, bits, not signed), to_integers(codes, bits, signed)
    if not signed and (low.any() or high.any()):
        wraps, wraps_told = (
            sum(np.count_nonzero(step >= 2 * quarter) for step in _sample_steps(values)) for values in (other, told)
        )
        if wraps_told < _WRAPS * max(1, wraps):
            return False
    return is_likelier(other, told)


def find_surround(values: npt.NDArray[Any], counts: Ints, corners: npt.NDArray[Any]) -> int | None:
    """Return the place of a surround, or None: the highest or lowest value, if on many pixels and far from all others.

    Scaled together with its surround, the image would have only a few gray levels.

    Args:
        values: (V,) values of the image, in any order.
        counts: (V,) number of pixels with each value.
        corners: (4,) values at the corners of the image. The lowest value may be less far if it is on two of them.
    """
    occurring = np.flatnonzero(counts)
    occurring = occurring[np.argsort(values[occurring], kind="stable")]
    if len(occurring) < _FEWEST_LEVELS:
        return None
    found = values[occurring].astype(np.float64)
    low = _GAP_AT_CORNERS if np.count_nonzero(corners == found[0]) >= 2 else 1
    ends = (-1, found[-1] - found[-2], found[-2] - found[0]), (0, found[1] - found[0], low * (found[-1] - found[1]))
    for end, gap, least in ends:
        if counts[occurring[end]] >= _SURROUND_SHARE * counts.sum() and gap > least:
            return int(occurring[end])
    return None


def corner_pixels(image: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the four corners of an image (H, W)."""
    return image[[0, 0, -1, -1], [0, -1, 0, -1]]


def to_integers(codes: Codes, bits: int, signed: bool) -> Signed:
    """Return the integers that codes of `bits` bits stand for, with or without a sign."""
    sign = 1 << (bits - 1) if signed else 0
    return (codes.astype(np.int32) ^ sign) - sign


def is_likelier(values: Signed, other: Signed) -> bool:
    """Whether the first of two readings, (H, W) or (H, W, C), of the same codes is the right one.

    With wrong bits, values wrap around: where the two readings have different steps between neighbors, the right one
    has the smaller steps. If the image itself has steps as large as the wrap, wrong bits turn it into noise, in which
    neighbors differ more, relative to the variance.
    """
    ours, theirs = (np.concatenate([step.ravel() for step in _sample_steps(x)]) for x in (values, other))
    differ = ours != theirs
    if not differ.any():
        return False
    step, other_step = np.median(ours[differ]), np.median(theirs[differ])
    noise, other_noise = (np.square(x, dtype=np.float64).mean() for x in (ours, theirs))
    noise, other_noise = noise / values.var(), other_noise / other.var()
    return bool(step < other_step or (other_noise > _NOISE and noise < other_noise / 2))


def _sample_steps(values: Signed) -> tuple[Signed, Signed]:
    """Return the absolute steps between neighbors along at most 512 rows and along at most 512 columns."""
    rows, columns = values[:: -(-values.shape[0] // 512)], values[:, :: -(-values.shape[1] // 512)]
    return np.abs(np.diff(rows, axis=1)), np.abs(np.diff(columns, axis=0))
