"""A note on an image that at a glance is not one upright frontal chest radiograph.

The note depends on four weighted sums of the mean gray levels of a few areas, each divided by their spread. In one
upright radiograph, all four are about 1. The first changes its sign if the image is turned upside down, the second if
rows become columns, and both if it is inverted. The third is about -1 in two radiographs side by side, the fourth in
three. `_LEAST` is far from the sums of all of 7,792 radiographs.

The weights of the first two sums are a ridge regression of 1 on differences between areas; those of the other two are
linear discriminants. They were learned from 7,668 radiographs of one hospital and 124 of many hospitals, with equal
weight for both groups; `tests/data/images/thumbnail_fit.py` derives them again. With weights learned from the 124
alone, the lowest sums of the 7,668 are -0.33, -0.27, -0.37 and -0.32. If the 7,668 are turned upside down, turned on
their side, or put two or three side by side, 96, 77, 91 and 84% of them get a note.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from xrayfast.data.arrays import Floats32
from xrayfast.data.images.notes import Note

_SIDE = 64
_UPRIGHT = ((-15, -50, -54, -42), (29, 29, -50, -42), (36, 23, -43, -44), (20, 8, -7, -16))
_STANDING = ((0, -8, -14, 82), (8, 0, -46, 72), (14, 46, 0, 154), (-82, -72, -154, 0))
"""Weights in thousandths for the upper left quarter. The right half mirrors the left; the lower half mirrors the upper
half, in `_UPRIGHT` with the opposite sign."""

_NOT_TWO = ((-13, 5, 43, -41, -61, 33, 10, 13), (-3, -14, 12, -16, -40, 23, 17, 34))
_NOT_THREE = ((-8, 57, -36, 14, -12, -57, 21, 23), (-2, 9, -58, -30, 41, 47, 12, -22))
_OFFSETS = np.array([0, 0, 0.05, 0.41], np.float32)
"""Weights in hundredths for the upper and lower part of the left half, in eight columns, which the right half mirrors;
and offsets that are added to the four sums."""

_LEAST, _FRONTAL = -0.6, 0.2  # least sums; the second sum of other objects brighter above than below is lower
_ONE_WIDE, _ONE_HIGH = 0.2, 0.85
_SPREAD = 5  # gray levels, added to the spread because that of an image without contrast is 0
_MARGIN, _INSIDE = (12, 243), 0.25  # in a line that is no margin, at least this share is between these gray levels


def _grids() -> list[npt.NDArray[np.int64]]:
    """Return the weights (8, 8) of the first and of the second sum."""
    uppers = [np.hstack([quarter, np.fliplr(quarter)]) for quarter in (_UPRIGHT, _STANDING)]
    return [np.vstack([upper, below * np.flipud(upper)]) for upper, below in zip(uppers, (-1, 1), strict=True)]


def upright_weights(side: int) -> Floats32:
    """Return weights (side, side) that add up to 0, for a side that is a multiple of 8.

    Of a radiograph, the radiograph turned by 90, 180 or 270 degrees, and these four inverted, the upright one has the
    greatest sum of weighted pixels. Mirroring changes nothing.
    """
    return np.kron(sum(_grids()), np.ones((side // 8, side // 8))).astype(np.float32)


def _weights() -> Floats32:
    """Return the weights (64 * 64, 4) of all pixels of a sample in the four sums."""
    found = [np.kron(grid, np.full((8, 8), 1 / 64 / 1000)) for grid in _grids()]
    for half in (_NOT_TWO, _NOT_THREE):
        of_pixels = np.kron(np.hstack([half, np.fliplr(half)]), np.full((32, 4), 1 / 256 / 100))
        found.append(of_pixels - of_pixels.mean())
    return np.array(found, np.float32).reshape(4, -1).T.copy()


_WEIGHTS = _weights()


def describe_thumbnail(sample: npt.NDArray[np.int16], values: Floats32, spread: float) -> str:
    """Return a note on an image that is not one upright radiograph, or "".

    Args:
        sample: (64, 64) of its pixels.
        values: the same pixels, flat.
        spread: standard deviation of the means of 4 x 4 of these pixels.
    """
    sums = values @ _WEIGHTS / (spread + _SPREAD) + _OFFSETS
    if sums.min() > _LEAST:
        return ""  # the usual case
    inside = _without_margins(sample)
    spread = float(inside.reshape(16, 4, 16, 4).mean(axis=(1, 3)).std())
    of_inside = inside.ravel().astype(np.float32) @ _WEIGHTS / (spread + _SPREAD) + _OFFSETS
    up, standing, one_of_two, one_of_three = np.maximum(sums, of_inside)
    if up < _LEAST:
        if standing < _LEAST / 2:
            return Note.MAY_BE_INVERTED()
        return Note.UPSIDE_DOWN() if standing > _FRONTAL else ""
    if min(one_of_two, one_of_three) < _LEAST:
        return Note.SIDE_BY_SIDE("two" if one_of_two < one_of_three else "three")
    return Note.ON_ITS_SIDE() if standing < _LEAST else ""


def is_one_strip(values: Floats32, spread: float, *, is_wide: bool) -> bool:
    """Whether an image that is far from square looks like one radiograph, or a part of it, and not several in a row.

    `values` and `spread` are as in `describe_thumbnail`. This is true of all of 400 radiographs stretched to twice
    their width, and of one of 400 pairs side by side; of 70% of radiographs stretched to twice their height, and of
    4% of pairs one above the other.
    """
    sums = values @ _WEIGHTS / (spread + _SPREAD) + _OFFSETS
    return bool(sums[2] > _ONE_WIDE if is_wide else sums[0] > _ONE_HIGH)


def _without_margins(sample: npt.NDArray[np.int16]) -> npt.NDArray[np.int16]:
    """Return the sample (64, 64) without black or white margins, stretched to the same shape."""
    is_inside = (sample > _MARGIN[0]) & (sample < _MARGIN[1])
    places = []
    for axis in (1, 0):
        lines = np.flatnonzero(is_inside.mean(axis=axis) > _INSIDE)
        if len(lines) < _SIDE // 4:
            return sample
        places.append(np.linspace(lines[0], lines[-1], _SIDE).round().astype(np.intp))
    return sample[np.ix_(*places)]
