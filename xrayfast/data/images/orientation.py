"""A note on a frontal chest radiograph that looks upside down, on its side, or inverted.

Two weighted sums of 8 x 8 mean gray levels, over their spread: one turns its sign where the image is turned upside
down, one where rows become columns, and both where it is inverted. Each is about 1 in upright images. The weights are a
ridge regression of 1 on such differences, on 7,668 images of one hospital and 124 of many that weigh the same;
`tests/data/images/orientation_fit.py` derives them again. Learned from the 124 alone, the lowest sums of the 7,668 are
-0.33 and -0.27, and 96 and 77 % are above 0.6, which turned are noted.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_SIDE = 64
_UPRIGHT = ((-15, -50, -54, -42), (29, 29, -50, -42), (36, 23, -43, -44), (20, 8, -7, -16))
_STANDING = ((0, -8, -14, 82), (8, 0, -46, 72), (14, 46, 0, 154), (-82, -72, -154, 0))
"""Thousandths, of the upper left quarter: the same at the right; below, with the other sign in `_UPRIGHT` alone."""

_LEAST, _FRONTAL = -0.6, 0.2  # the latter of the second sum, which other objects brighter above than below lack
_SPREAD = 5  # gray levels, added to the spread of images without contrast
_MARGIN, _INSIDE = (12, 243), 0.25  # gray levels between which pixels are; share of them in lines that are no margin

UPSIDE_DOWN, ON_ITS_SIDE = "may be upside down", "may lie on its side"
MAY_BE_INVERTED = "may be inverted: the lungs brighter than the body around them"


def _weights() -> npt.NDArray[np.float32]:
    """(64 * 64, 2) of all pixels of a sample."""
    found = []
    for quarter, below in ((_UPRIGHT, -1), (_STANDING, 1)):
        upper = np.hstack([quarter, np.fliplr(quarter)])
        means = np.vstack([upper, below * np.flipud(upper)])
        found.append(np.kron(means, np.full((8, 8), 1 / 64 / 1000)).ravel())
    weights: npt.NDArray[np.float32] = np.array(found, np.float32).T.copy()
    return weights


_WEIGHTS = _weights()


def describe_orientation(sample: npt.NDArray[np.int16], values: npt.NDArray[np.float32], spread: float) -> str:
    """A note on an image that is not an upright, or "".

    Args:
        sample: (64, 64) of its pixels.
        values: the same, flat.
        spread: standard deviation of its means over 4 x 4 of these.
    """
    whole = values @ _WEIGHTS / (spread + _SPREAD)
    if whole.min() > _LEAST:
        return ""  # the usual case
    inside = _without_margins(sample)
    spread = float(inside.reshape(16, 4, 16, 4).mean(axis=(1, 3)).std())
    up, standing = np.maximum(whole, inside.ravel().astype(np.float32) @ _WEIGHTS / (spread + _SPREAD))
    if min(up, standing) > _LEAST:
        return ""
    if up > _LEAST:
        return ON_ITS_SIDE
    if standing < _LEAST / 2:
        return MAY_BE_INVERTED
    return UPSIDE_DOWN if standing > _FRONTAL else ""


def _without_margins(sample: npt.NDArray[np.int16]) -> npt.NDArray[np.int16]:
    """The sample (64, 64) without black or white margins."""
    is_inside = (sample > _MARGIN[0]) & (sample < _MARGIN[1])
    places = []
    for axis in (1, 0):
        lines = np.flatnonzero(is_inside.mean(axis=axis) > _INSIDE)
        if len(lines) < _SIDE // 4:
            return sample
        places.append(np.linspace(lines[0], lines[-1], _SIDE).round().astype(np.intp))
    return sample[np.ix_(*places)]
