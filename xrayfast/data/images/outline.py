"""A note on what is black or white in an image: slanted edges, something blacked out, lost lines, or lungs alone."""

from __future__ import annotations

import numpy as np

from xrayfast.data.arrays import Bools, Floats, Places
from xrayfast.data.images.notes import Note
from xrayfast.data.images.radiograph import BLACK, Pixels

_HOLES = 0.22  # share of the area that is black and not at the outside (see `_holes`); at most 0.197 in radiographs
_GAP = 0.1  # least share of the rows or columns that is black or white between others; at most 0.07 in radiographs
_FRAME = 4  # lines
_BETWEEN = 0.5  # least black share of a column in the middle of the body; at most 0.38 in radiographs
_SIDE = 64
_CORNERS = 0.03  # least share of the area that is black in an image with slanted edges
_SHORT, _LONG = 12, 26  # rows or columns, of 64, along which edges are straight: on both axes, on one
_OFF_LINE, _PARALLEL, _FURTHEST = 0.8, 0.07, 45  # pixels; difference of slopes; pixels from the border
_SLANT, _STEEPEST = 0.15, 1.5  # slopes


def describe_outline(sample: Pixels) -> str:
    """Return a note on an image, of which `sample` has (64, 64) pixels, or "".

    In a rotated or sheared image, opposite edges to black or white are parallel and slanted, and opposite corners are
    black or white. Of 7,818 radiographs, this is true of one that was rotated and of one lateral view.
    """
    shown = sample > BLACK
    seen_by_shade = (("black", shown), ("white", sample < 255 - BLACK))
    for shade, seen in seen_by_shade:
        if seen.size - np.count_nonzero(seen) >= _GAP * seen.size and _has_gap(seen, whole=shade == "white"):
            return Note.GAP(shade)
    if shown.size - int(np.count_nonzero(shown)) >= _HOLES * shown.size:
        share = _holes(_without_frame(sample, shown))
        if share > _HOLES:
            return Note.BLACK_INSIDE(share)
    return next((Note.SLANTED(shade) for shade, seen in seen_by_shade if _is_aslant(seen)), "")


def _is_aslant(shown: Bools) -> bool:
    """Whether opposite corners are not shown, and opposite edges of what is shown are parallel and slanted."""
    upper, lower = ((not row.item(0), not row.item(-1)) for row in (shown[0], shown[-1]))
    may_be = (upper[0] and lower[1]) or (upper[1] and lower[0])
    if not may_be or shown.size - int(np.count_nonzero(shown)) < _CORNERS * shown.size:
        return False  # the usual case
    is_turned = all(upper + lower) and _are_aslant(shown, _SHORT) and _are_aslant(shown.T, _SHORT)
    return is_turned or _are_aslant(shown, _LONG) or _are_aslant(shown.T, _LONG)


def varied_lines(sample: Pixels) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the first and last row, and the first and last column, that are not plain in (n, n) pixels.

    If all are plain, these are the rows or columns at the edges.
    """
    found = []
    for axis in (1, 0):
        lines = np.flatnonzero(np.ptp(sample, axis=axis) > BLACK)
        found.append((int(lines[0]), int(lines[-1])) if len(lines) else (0, len(sample) - 1))
    return found[0], found[1]


def _has_gap(seen: Bools, *, whole: bool) -> bool:
    """Whether nothing is seen on lines across the image, or, unless `whole`, on most of a column between the lungs."""
    rows, columns = (np.flatnonzero(np.count_nonzero(seen, axis=axis) > 1) for axis in (1, 0))
    if min(len(rows), len(columns)) < 2:
        return False
    # The lines of a frame at an edge do not count as a part of the image.
    if any(
        np.diff(lines[_FRAME - 1 : len(lines) - _FRAME + 1]).max(initial=0) > _GAP * _SIDE for lines in (rows, columns)
    ):
        return True
    if whole:
        return False
    first, last = int(columns[0]), int(columns[-1])
    middle = seen[rows[0] : rows[-1] + 1, (3 * first + 2 * last) // 5 : (2 * first + 3 * last) // 5 + 1]
    return bool(middle.mean(axis=0).min() < 1 - _BETWEEN)


def _without_frame(sample: Pixels, shown: Bools) -> Bools:
    """Return `shown` without a plain frame around it: inside a frame, all black would count as a hole."""
    # One more line is removed, which is partly frame if the image was scaled.
    rows, columns = (
        slice(first + (first > 0), last + (last == len(sample) - 1)) for first, last in varied_lines(sample)
    )
    return shown[rows, columns]


def _holes(shown: Bools) -> float:
    """Return the share of an image that is black, with something shown on both sides in its row and in its column."""
    within = ~shown
    for way, found in ((shown, within), (shown.T, within.T)):
        places = np.arange(way.shape[1])
        last = np.where(way.any(axis=1), len(places) - 1 - way[:, ::-1].argmax(axis=1), -1)
        found &= (places > way.argmax(axis=1)[:, None]) & (places < last[:, None])
    return np.count_nonzero(within) / _SIDE**2


def _are_aslant(shown: Bools, length: int) -> bool:
    """Whether the left and right edges of what is shown are straight, slanted and parallel along `length` rows each."""
    left = _straight_slopes(shown.argmax(axis=1), length)
    if not len(left):
        return False  # the usual case
    right = -_straight_slopes(shown[:, ::-1].argmax(axis=1), length)
    return bool((np.abs(left[:, None] - right) <= _PARALLEL).any())


def _straight_slopes(edge: Places, length: int) -> Floats:
    """Return the slopes of an edge wherever it is straight and slanted along `length` rows.

    `edge` is (64,) the distance of the edge from the border in each row.
    """
    rise = np.abs(edge[length:] - edge[:-length])
    starts = np.flatnonzero((rise >= _SLANT * length) & (rise < _STEEPEST * length))
    rows = np.arange(length + 1)
    edges = edge[starts[:, None] + rows]
    slopes = (edges[:, -1] - edges[:, 0]) / length
    off = np.abs(edges - (edges[:, :1] + slopes[:, None] * rows)).max(axis=1)
    return slopes[(off <= _OFF_LINE) & (edges.min(axis=1) > 0) & (edges.max(axis=1) < _FURTHEST)]
