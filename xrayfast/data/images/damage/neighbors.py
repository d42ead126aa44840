"""Detectors that compare neighboring pixels."""

from __future__ import annotations

import numpy as np

from xrayfast.data.arrays import Floats32
from xrayfast.data.images.damage.sample import EQUAL, LEAST_SPREAD, SAMPLED, Sample, differ
from xrayfast.data.images.notes import Note
from xrayfast.data.images.radiograph import Pixels

_STEEP, _OF_NOISE = 6, 0.85  # gray levels; share of the difference of unrelated pixels
_WRAPS, _FLATTER = {160: 2.0, 216: 1.2}, 40  # jumps per 1,000 steps, keyed by gray levels; levels of steps beside them
_SINGLE, _STANDS_OUT = 0.006, 40  # share of the pixels, gray levels
_OUT_OF_LINE, _LINES, _DRAWN = 1.25, 4, 20  # ratio of differences, lines in 128, gray levels
_SAME_LINES, _CHANGES = 0.45, 0.1  # shares of lines in the middle half: equal to the next one; changes between these
_SHEARED, _STEEPER = 1.02, 2.6  # ratios of differences between rows
_FINE, _FINE_ON_PLAIN, _PLAIN = 0.3, 0.62, (48, 207)  # shares of the variance, gray levels


def _find_noisy_part(sample: Sample) -> str:
    """Detect noise in a quarter of the rows or columns.

    Neighbors there differ more than 0.85 times as much as unrelated pixels do; at most 0.18 times in radiographs.
    """
    if sample.means[0] <= _STEEP:
        return ""
    center, up, left = sample.center, sample.beside[0], sample.beside[2]
    center, up, left = (values[2:-2, 2:-2] for values in (center, up, left))  # without the edge of a frame
    return Note.PARTLY_NOISE() if _has_noisy_strip(center, up, left) or _has_noisy_strip(center.T, left.T, up.T) else ""


def _has_noisy_strip(center: Pixels, up: Pixels, left: Pixels) -> bool:
    steps = [(center - other).reshape(4, -1) for other in (up, left)]
    unlike = np.minimum(*(np.square(step, dtype=np.float32).mean(axis=1) for step in steps))
    return bool((unlike > _OF_NOISE * 2 * (center.reshape(4, -1).var(axis=1) + LEAST_SPREAD)).any())


def _find_wrapped(sample: Sample) -> str:
    """Detect values that overflow: steps between black and white that go against the slope on both sides.

    Of 1,000 steps, more than 2 go so over 160 gray levels (at most 1.1 in radiographs), or more than 1.2 over 216 (at
    most 0.8). This happens where 256 is subtracted from values above 255. At the edges of letters, there is no slope,
    or it goes the same way.
    """
    if 2 * np.count_nonzero(sample.steepest > min(_WRAPS)) < 6 * min(_WRAPS.values()):
        return ""  # the usual case
    jumps = sample.steps[1::2]
    if all(np.count_nonzero(jumps > levels) < 6 * least for levels, least in _WRAPS.items()):
        return ""
    shares = dict.fromkeys(_WRAPS, 0.0)
    for lines in (sample.pixels, sample.pixels.T):
        rows = np.linspace(0, len(lines) - 1, SAMPLED).round().astype(np.intp)
        steps = np.diff(lines[rows].astype(np.int16), axis=1)
        way = np.sign(steps[:, 1:-1])
        before, after = -way * steps[:, :-2], -way * steps[:, 2:]
        against = (before > 1) & (before < _FLATTER) & (after > 1) & (after < _FLATTER)
        found = np.abs(steps[:, 1:-1])[against]
        for levels in shares:
            shares[levels] += 500 * np.count_nonzero(found > levels) / against.size
    return Note.OVERFLOW() if any(shares[levels] > least for levels, least in _WRAPS.items()) else ""


def _find_single_pixels(sample: Sample) -> str:
    """Detect salt and pepper: single pixels over 40 gray levels above or below all of those beside them.

    They are more than 0.6% of the pixels; at most 0.2% in radiographs.
    """
    least = _SINGLE * sample.center.size
    if np.count_nonzero(sample.steps.min(axis=0) > _STANDS_OUT) <= least:
        return ""  # the usual case
    over = sample.center - sample.beside.max(axis=0)
    under = sample.beside.min(axis=0) - sample.center
    return Note.SALT_AND_PEPPER() if np.count_nonzero(np.maximum(over, under) > _STANDS_OUT) > least else ""


def _find_odd_lines(sample: Sample) -> str:
    """Detect lost, shifted or drawn lines.

    Lines side by side differ more than 1.25 times as much as lines two apart (at most 0.84 times in radiographs), or 4
    or more of 128 lines are unlike both lines beside them (at most 1 in radiographs).
    """
    above, below, before, after = sample.means
    _, up, down, left, right = sample.bytes
    over_row, over_column = (
        float(differ(*two).ravel().astype(np.float32) @ EQUAL) for two in ((up, down), (left, right))
    )
    found = (
        above + below > 2 * _OUT_OF_LINE * max(over_row, 0.5)
        or before + after > 2 * _OUT_OF_LINE * max(over_column, 0.5)
        or _has_lines(sample.pixels, sample.profiles[0])
        or _has_lines(sample.pixels.T, sample.profiles[1])
    )
    return Note.ODD_LINES() if found else ""


def _has_lines(pixels: Pixels, steps: Floats32) -> bool:
    """Whether 4 or more of up to 128 rows in the middle are on average far brighter or darker than both beside them."""
    if np.count_nonzero(steps > _DRAWN) <= _LINES:
        return False  # the usual case
    height, width = pixels.shape
    means = pixels[max(0, height // 2 - 64) : height // 2 + 64, :: width // 48].mean(axis=1)
    between = np.diff(means)
    far = np.abs(between) > _DRAWN
    return int(np.count_nonzero((between[1:] * between[:-1] < 0) & far[1:] & far[:-1])) >= _LINES


def _find_repeated_lines(sample: Sample) -> str:
    """Detect repeated rows or columns: 45% or more of those in the middle half equal the next one.

    Other rows or columns must be between them. In radiographs, at most 37% equal the next one, and are black.
    """
    for steps in sample.profiles:
        middle = steps[len(steps) // 4 : -(len(steps) // 4)] > 0
        if np.count_nonzero(middle) > (1 - _SAME_LINES) * len(middle):
            continue  # the usual case
        if np.count_nonzero(middle[1:] != middle[:-1]) > _CHANGES * len(middle):
            return Note.REPEATED_LINES()
    return ""


def _find_wrong_width(sample: Sample) -> str:
    """Detect a wrong width: rows shifted one against the next.

    Rows fit the next row more than 1.02 times better if they are shifted by a pixel (at most 0.97 times in
    radiographs), or differ from it more than 2.6 times as much as columns from the next column (at most 2 times). These
    differences are medians over the rows, because a few rows are at the edges of boxes.
    """
    if sample.means[0] < 1.1 * sample.means[2]:
        return ""  # the usual case
    to_row, to_column = (float(np.median(sample.steps[way].mean(axis=1))) for way in (0, 2))
    if to_row < 1.1 * to_column:
        return ""
    height, width = sample.pixels.shape
    rows, every = np.linspace(0, height - 2, 16).astype(np.intp), max(1, width // SAMPLED)
    one, next_one = sample.pixels[rows].astype(np.int16), sample.pixels[rows + 1, 1:-1:every].astype(np.int16)
    before, same, after = (int(np.abs(next_one - one[:, k : width - 2 + k : every]).sum()) for k in (0, 1, 2))
    shifted = same + 500 > _SHEARED * (min(before, after) + 500)
    steep = to_row + 0.5 > _STEEPER * (to_column + 0.5)
    if steep and not shifted:  # unless it is a ramp
        steep = abs(float((sample.beside[0] - sample.center).mean())) < 0.5 * sample.means[0]
    return Note.WRONG_WIDTH() if shifted or steep else ""


def _find_edge_map(sample: Sample) -> str:
    """Detect an edge map: less than 0.3 of the variance is between blocks of 4 x 4 pixels; 0.56 or more in radiographs.

    If the median pixel is nearly black or white, less than 0.62 is enough; such radiographs have 0.69 or more.
    """
    variance, between = sample.variances
    between /= max(variance, 1)
    if between >= _FINE_ON_PLAIN:
        return ""  # the usual case
    return Note.EDGE_MAP() if between < _FINE or not _PLAIN[0] < np.median(sample.center) < _PLAIN[1] else ""


OF_NEIGHBORS = (
    _find_noisy_part, _find_wrapped, _find_repeated_lines, _find_single_pixels, _find_odd_lines, _find_wrong_width,
    _find_edge_map,
)  # fmt: skip
"""Only the first note of these is given, because several of them detect the same damage."""
