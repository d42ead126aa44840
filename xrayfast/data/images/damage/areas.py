"""Detectors of areas: repeated lines and halves, boxes, and images far from square."""

from __future__ import annotations

import re
from collections.abc import Sequence
from operator import eq, sub

import numpy as np

from xrayfast.data.images.damage.sample import COVERED, LEAST_SIDE, LEAST_SPREAD, SAMPLED, SHADED, Sample
from xrayfast.data.images.notes import Note
from xrayfast.data.images.radiograph import BLACK, Pixels
from xrayfast.data.images.thumbnail import is_one_strip

_DOUBLE = (1.6, 2.7)  # ratio of the sides of an image of two radiographs; above that, of more
_BANDS, _MARGIN, _FRAME = 10, 0.25, 0.06  # a band is 1/10 of the height or more; shares of a plain margin, its frame
_REPEATED = 0.985  # correlation
_FILLED = 0.8  # plain share of a box
_ALONG, _NEAR = 0.7, 0.2  # shares of the side


def _find_lines_alike(sample: Sample) -> str:
    rows, columns = _alike_share(sample.pixels), _alike_share(sample.pixels.T)
    share = max(rows, columns)
    return Note.LINES_ALIKE(share, "rows" if rows >= columns else "columns") if share else ""


def _alike_share(pixels: Pixels) -> float:
    """Return the share of the rows that are in the largest band of equal rows.

    Bands of less than a tenth, black or white bands, and plain margins of less than a quarter do not count.
    """
    height, width = pixels.shape
    found, column = 0.0, pixels[:, width // 2].tobytes()
    some = column[:: max(1, height // _BANDS // 2)]
    if not any(map(eq, some, some[1:])):
        return found  # the usual case
    for band in re.finditer(rb"(.)\1{%d,}" % (height // _BANDS), column, re.DOTALL):
        rows, share = pixels[slice(*band.span())], len(band[0]) / height
        inside = rows[0, width // 4 : -(width // 4)]  # within a frame, and between bars
        low, high = int(inside.min()), int(inside.max())
        is_margin = low == high and min(band.start(), height - band.end()) <= _FRAME * height
        if high > BLACK and low < 255 - BLACK and (rows == rows[0]).all() and share > _MARGIN * is_margin:
            found = max(found, share)
    return found


def _find_halves_alike(sample: Sample) -> str:
    """Detect equal or mirrored halves: their correlation is over 0.985; at most 0.96 and 0.97 in radiographs."""
    found: dict[int, list[str]] = {1: [], -1: []}
    for axis, name, lines in ((0, "left and right", sample.pixels), (1, "upper and lower", sample.pixels.T)):
        two_rows = [lines[len(lines) * share // 8].tobytes() for share in (4, 3)]
        for way in (1, -1):
            if not all(_is_half_alike(row, way) for row in two_rows):
                continue
            if _are_halves_alike(lines if way == 1 else _without_margins(lines, sample.margins[:: 1 - 2 * axis]), way):
                found[way].append(name)
    if same := " and ".join(found[1]):
        return Note.REPEATED(same)
    mirrored = " and ".join(found[-1])
    return Note.MIRRORED(mirrored) if mirrored else ""


def _without_margins(pixels: Pixels, margins: Sequence[tuple[float, float]]) -> Pixels:
    """Remove the narrower of the upper and lower margins from both sides, and the narrower of the left and right ones.

    A symmetrical image stays symmetrical, but the symmetry of margins does not count.
    """
    cut = [int(min(margin) * side) for margin, side in zip(margins, pixels.shape, strict=True)]
    inside = [slice(each, side - each) for each, side in zip(cut, pixels.shape, strict=True)]
    found = pixels[inside[0], inside[1]]
    return found if min(found.shape) >= LEAST_SIDE // 2 else pixels


def _is_half_alike(row: bytes, way: int) -> bool:
    """Whether 12 pixels of both halves differ by less than 8 gray levels on average.

    This takes 1 us and excludes most images.
    """
    half, every = len(row) // 2, max(1, len(row) // 24)
    second = row[-half::every] if way == 1 else row[: -half - 1 : -every]
    return sum(map(abs, map(sub, row[:half:every], second))) < 96


def _are_halves_alike(pixels: Pixels, way: int) -> bool:
    """Whether the left half equals the right one, forwards (`way` 1) or backwards (-1).

    The mean of each row is subtracted, so that a ramp from top to bottom does not count.
    """
    height, width = pixels.shape
    rows = np.linspace(1, height - 2, LEAST_SIDE).round().astype(np.intp)
    columns = np.linspace(2, width // 2 - 3, LEAST_SIDE).round().astype(np.intp)
    halves = (pixels[:, : width // 2], pixels[:, width - width // 2 :][:, ::way])
    one, two = (half[np.ix_(rows, columns)].astype(np.float32) for half in halves)
    one, two = (values - values.mean(axis=1, keepdims=True) for values in (one, two))
    size = max(LEAST_SPREAD * one.size, float(np.sqrt(np.square(one).sum() * np.square(two).sum())))
    return bool((one * two).sum() > _REPEATED * size)


def _find_strip(sample: Sample) -> str:
    """Detect an image with one side more than 1.6 times as long as the other, also without plain margins.

    One radiograph of 7,818 is such an image. Plain margins are at the sides of a radiograph on a wide screen.
    """
    height, width = sample.pixels.shape
    longer = max(height, width) / min(height, width)
    if longer <= _DOUBLE[0]:
        return ""
    high, wide = (side * (1 - sum(margin)) for side, margin in zip((height, width), sample.margins, strict=True))
    if 1 / _DOUBLE[0] <= wide / high <= _DOUBLE[0]:
        return ""
    if longer < _DOUBLE[1] and is_one_strip(sample.values, sample.variances[1] ** 0.5, is_wide=width > height):
        return Note.STRIP(width, height)
    return Note.IN_ONE(width, height, "two" if longer < _DOUBLE[1] else "several")


def _find_box(sample: Sample) -> str:
    """Detect a plain box: one gray level covers 3% of the middle and fills four fifths of a box within the image.

    In radiographs, one covers at most 1%.
    """
    level, share = sample.plain_middle
    if share < COVERED:
        return ""  # the usual case
    of_level = (sample.steepest == 0) & (sample.center == level)
    rows, columns = (np.flatnonzero(of_level.any(axis=axis)) for axis in (1, 0))
    sides = [(side[0], side[-1] + 1) for side in (rows, columns)]
    if any(start == 0 or end == SAMPLED for start, end in sides) or (
        not SHADED[0] < level < SHADED[1] and _is_band(sides)
    ):
        return ""
    box = of_level[slice(*sides[0]), slice(*sides[1])]
    if box.mean() <= _FILLED:
        return ""
    return Note.BOX(box.size / SAMPLED**2)


def _is_band(sides: Sequence[tuple[int, int]]) -> bool:
    """Whether a box is near a border and along most of it, like a margin inside a frame."""
    return any(
        wide[1] - wide[0] > _ALONG * SAMPLED and min(high[0], SAMPLED - high[1]) < _NEAR * SAMPLED
        for high, wide in (sides, sides[::-1])
    )


OF_AREAS = (_find_lines_alike, _find_halves_alike, _find_strip, _find_box)
