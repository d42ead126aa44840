"""Detectors of properties of the whole image."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from xrayfast.data.arrays import Bools, Floats32, Places
from xrayfast.data.images.damage.sample import (
    AROUND,
    LEAST_SPREAD,
    SAMPLED,
    SHADED,
    Sample,
    jump_sizes,
)
from xrayfast.data.images.notes import Note
from xrayfast.data.images.outline import describe_outline
from xrayfast.data.images.radiograph import BLACK, Pixels
from xrayfast.data.images.thumbnail import describe_thumbnail

_PLAIN_MIDDLE = 0.1  # plain share of a covered middle
_QUARTER = (slice(SAMPLED // 4, -(SAMPLED // 4)),) * 2
_CLEAR_CUT, _INK, _WHITE_TEXT, _BLACK_TEXT = 60, 8, 0.004, 0.035  # gray levels; shares of the pixels in the middle
_PANEL, _ALL_PLAIN = 3, 0.99  # lines, share of the pixels
_EVEN_AT_MIDDLE, _EVEN = 0.06, 0.026  # deviation of gray levels from an even distribution: at the middle level, maximum
_POINT_SYMMETRY = 0.92  # correlation
_FEW_LEVELS, _BUNCHED, _LEVELS_LOST, _PERIODS, _WAVES = 40, 0.12, (8, 33), 5, 512
_PLAIN_LINE = 0.5  # gray levels between plain lines
_REGULAR, _LEAST_REGULAR, _IN_PLACE, _LEAST_PERIOD = 2.5, 3, 0.75, 8
_HALVED, _HALVED_TWICE, _ROLLED, _IN_THIRDS, _CONTENT = 3.5, 2.0, 2.5, 2.2, 150
_CORNERS, _OBJECT, _SYMMETRICAL = 24, 0.25, 0.9
_EDGE, _WHITE_EDGE = 3, 0.9  # lines, share
_UNLIKE_CORNER, _ROUND, _RIM, _NARROW = 16, 0.85, (0.85, 0.97, 1.04), 0.35


def _find_few_levels(sample: Sample) -> str:
    """Detect lost bits: 40 gray levels or fewer (84 or more in radiographs), or 8 to 32 groups of gray levels.

    JPEG turns each level into a group.
    """
    counts = sample.counts
    if np.count_nonzero(counts) <= _FEW_LEVELS:
        levels = int(np.count_nonzero(np.bincount(sample.pixels.ravel())))
        return Note.FEW_LEVELS(levels) if levels <= _FEW_LEVELS else ""
    if _find_period(counts) and (groups := _find_period(np.bincount(sample.pixels.ravel(), minlength=256))):
        return Note.GROUPED_LEVELS(groups)
    return ""


def _find_period(counts: Places) -> int:
    """Return the number of gray levels at equal distances around which the counts (256,) gather; 0 if there are none.

    The Fourier transform of the counts at this distance exceeds that at similar distances by over 0.12 of the pixels;
    by at most 0.09 in radiographs. The ends and the commonest level, which may be a surround, do not count, nor do
    fewer than 5 groups.
    """
    within = counts[6:-6].copy()
    within[within.argmax()] = 0
    low, high = ((levels - 1) * _WAVES // 255 for levels in _LEVELS_LOST)
    power = np.abs(np.fft.rfft(within, _WAVES)[: high + 4]) / max(int(within.sum()), 100)
    beside = np.maximum(power[:-1], power[1:])
    excess = power[low:high] - np.maximum(beside[low - 4 : high - 4], beside[low + 3 : high + 3])
    best = int(excess.argmax())
    if excess[best] <= _BUNCHED:
        return 0  # the usual case
    first, last = counts.cumsum().searchsorted((0.02 * counts.sum(), 0.98 * counts.sum()))
    return round((low + best) * 255 / _WAVES) + 1 if (last - first) * (low + best) > _PERIODS * _WAVES else 0


def _find_equalized(sample: Sample) -> str:
    """Detect equalized gray levels: all but the lowest and highest are distributed evenly.

    Their distance from an even distribution is at most 0.026; 0.030 or more in radiographs.
    """
    if _unevenness(sample.counts, _EVEN_AT_MIDDLE) > 1.5 * _EVEN:
        return ""  # the usual case
    return Note.EQUALIZED() if _unevenness(np.bincount(sample.pixels.ravel(), minlength=256)) <= _EVEN else ""


def _unevenness(counts: Places, at_middle: float = 1.0) -> float:
    """Return the Kolmogorov-Smirnov distance of levels from an even distribution.

    If the distance at the middle level exceeds `at_middle`, return 1.
    """
    levels = counts.nonzero()[0]
    if len(levels) < _FEW_LEVELS:
        return 1.0
    below = counts[levels[1] : levels[-2] + 1].cumsum()
    if abs(below.item(len(below) // 2) / below.item(-1) - 0.5) > at_middle:
        return 1.0
    return float(np.abs(below / below[-1] - np.arange(1, len(below) + 1) / len(below)).max())


def _find_panel(sample: Sample) -> str:
    """Detect a panel with text at a side: at least 3 of 64 lines are more than half, but not wholly, of one gray level.

    In radiographs, such a level is black, white, or at most 23. The level of all four corners does not count: it
    surrounds a radiograph that was rotated, or whose collimator was.
    """
    for pixels in (sample.bytes[0], sample.bytes[0].T):
        for way in (1, -1):
            some = sorted(pixels[way, ::4].tobytes())
            level = some[len(some) // 2]  # the level of half of them, if there is one
            if not SHADED[0] < level < SHADED[1] or some.count(level) < len(some) // 2:
                continue  # the usual case
            shares = (pixels[::way] == level).mean(axis=1)
            lines = int(np.argmax(np.append(shares, 0) < 0.5))
            is_surround = np.all(sample.center[:: SAMPLED - 1, :: SAMPLED - 1] == level)
            if lines >= _PANEL and shares[:lines].mean() < _ALL_PLAIN and not is_surround:
                return Note.PANEL()
    return ""


def _find_regular_steps(sample: Sample) -> str:
    """Detect 3 or more rows or columns at equal distances that differ much from the next one.

    They differ more than 2.5 times as much as those around them do. No radiograph has such lines; with 2 times, 4 have.
    """
    for axis, jumps in enumerate(sample.jumps):
        if _has_regular(jumps) and _has_regular(jump_sizes(sample.all_profiles[axis])):
            return Note.GRID()
    return ""


def _has_regular(jumps: Floats32) -> bool:
    found = (jumps > _REGULAR).nonzero()[0]
    return len(found) >= _LEAST_REGULAR and _are_regular(found, len(jumps))


def _are_regular(found: Places, length: int) -> bool:
    """Whether the places are at regular distances.

    Three quarters of them must be at multiples of one distance, and be three quarters of all its multiples in `length`.
    """
    found = found[np.diff(found, prepend=-SAMPLED) > AROUND]  # a drawn line has two steps
    if len(found) < _LEAST_REGULAR:
        return False
    for distance in {float(d) / n for d in np.diff(found) for n in (1, 2) if d >= _LEAST_PERIOD * n}:
        for start in found[:_LEAST_REGULAR]:
            off = np.abs((found - start + distance / 2) % distance - distance / 2)
            inside = int(np.count_nonzero(off <= 1.01))
            if inside >= max(_LEAST_REGULAR, _IN_PLACE * len(found), _IN_PLACE * (length / distance - 1)):
                return True
    return False


def _find_composed(sample: Sample) -> str:
    """Detect swapped halves, or several images in one: lines at a half or at the thirds differ much from the next.

    The middle row or column differs more than 3.5 times as much as those around it (at most 2.6 in radiographs), both
    more than 2 times (at most 1.3), or one more than 2.5 times while the opposite borders fit together; or both lines
    at the thirds do so more than 2.2 times (at most 1.8).
    """
    note = _describe_steps(sample, sample.profiles)
    return note and _describe_steps(sample, sample.all_profiles)


def _describe_steps(sample: Sample, profiles: tuple[Floats32, Floats32]) -> str:
    halves = [_step_at(steps, 1 / 2) for steps in profiles]
    rolled = (
        step > _ROLLED and _do_borders_fit(lines)
        for step, lines in zip(halves, (sample.pixels, sample.pixels.T), strict=True)
    )
    if max(halves) > _HALVED or min(halves) > _HALVED_TWICE or any(rolled):
        return Note.MIDDLE_EDGE()
    if any(min(_step_at(steps, 1 / 3), _step_at(steps, 2 / 3)) > _IN_THIRDS for steps in profiles):
        return Note.THREE_IN_ONE()
    return ""


def _step_at(steps: Floats32, share: float) -> float:
    """Return the largest of three jumps at a share of the lines; 0 if plain lines are beside them."""
    place = round((len(steps) + 1) * share) - 1
    if min(steps.item(place - 1 - AROUND), steps.item(place + 1 + AROUND)) < _PLAIN_LINE:
        return 0
    return float(jump_sizes(steps[place - 1 - AROUND : place + 2 + AROUND]).max())


def _do_borders_fit(pixels: Pixels) -> bool:
    """Whether the first row continues the last one, and both are not plain."""
    first, last = pixels[0].astype(np.float32), pixels[-1].astype(np.float32)
    content = min(float(first.var()), float(last.var()))
    return content > _CONTENT and float(np.square(first - last).mean()) < 0.2 * content


def _find_symmetry(sample: Sample) -> str:
    """Detect a test object: what differs from four equal corners is symmetrical in both directions.

    Its correlation with its reflections is over 0.9; at most 0.76 in radiographs.
    """
    corners = [sample.center.item(row, column) for row in (1, -2) for column in (1, -2)]
    if max(corners) - min(corners) > _CORNERS:
        return ""  # the usual case
    quarter = sample.center[::2, ::2]
    unlike = np.abs(quarter - sum(corners) // 4)
    inside = unlike > _OBJECT * np.partition(unlike.ravel(), -50)[-50]
    sides = [np.flatnonzero(np.count_nonzero(inside, axis=axis) > 1) for axis in (1, 0)]
    if min(map(len, sides)) < 8:
        return ""
    found = quarter[tuple(slice(side[0], side[-1] + 1) for side in sides)].astype(np.float32)
    found -= found.mean()
    size = float(np.square(found).sum()) * _SYMMETRICAL
    alike = all(float((found * turned).sum()) > size for turned in (found[:, ::-1], found[::-1]))
    return Note.TEST_OBJECT() if alike else ""


def _find_spectrum(sample: Sample) -> str:
    """Detect a Fourier spectrum: it equals itself turned by 180 degrees, and is brightest in the middle.

    The correlation of the means of 4 x 4 pixels is over 0.92; at most 0.88 in radiographs. Radiographs in a frame are
    not brightest in the middle.
    """
    brightest = divmod(int(sample.blocks.argmax()), SAMPLED // 4)
    if not {7, 8}.issuperset(brightest):
        return ""  # the usual case
    between = sample.variances[1]
    turned = float(sample.blocks @ sample.blocks[::-1]) / sample.blocks.size - sample.mean**2
    return Note.SPECTRUM() if turned > _POINT_SYMMETRY * max(between, LEAST_SPREAD) else ""


def _find_circle(sample: Sample) -> str:
    """Detect a circle that was cut out: the image is blank outside an ellipse, and not blank just inside it.

    More than 85% of the pixels outside the ellipse are like a corner of the image, and more than 85% of those just
    inside it, towards each of the four corners, are not; at most 76% in radiographs.
    """
    corners = [sample.center.item(row, column) for row in (0, 6, -7, -1) for column in (row, -1 - row)]
    if max(corners) - min(corners) > 2 * _UNLIKE_CORNER:
        return ""  # the usual case
    inside = np.abs(sample.center - corners[0]) > _UNLIKE_CORNER
    sides = [np.flatnonzero(np.count_nonzero(inside, axis=axis) > 1) for axis in (1, 0)]
    if min(map(len, sides)) < SAMPLED // 3:
        return ""
    framed = inside[np.ix_(*(np.linspace(side[0], side[-1], SAMPLED).round().astype(np.intp) for side in sides))]
    outside, rims = _ellipse()
    found = min(1 - float(framed[outside].mean()), *(float(framed[rim].mean()) for rim in rims)) > _ROUND
    return Note.CIRCLE() if found else ""


@lru_cache(maxsize=1)
def _ellipse() -> tuple[Bools, tuple[Bools, ...]]:
    """Return (64, 64) masks: outside an ellipse in a frame, and just inside it, towards each of the four corners."""
    y, x = np.mgrid[-1 : 1 : SAMPLED * 1j, -1 : 1 : SAMPLED * 1j]
    radius = np.hypot(y, x)
    rim = (radius > _RIM[0]) & (radius < _RIM[1]) & (np.abs(np.abs(x) - np.abs(y)) < _NARROW)
    return radius > _RIM[2], tuple(rim & (a * y > 0) & (b * x > 0) for a in (1, -1) for b in (1, -1))


def _find_covered(sample: Sample) -> str:
    """Detect a covered area: more than a tenth of the middle has one gray level, neither black nor white.

    In radiographs, at most 6% has.
    """
    level, share = sample.plain_middle
    return Note.COVERED() if share > _PLAIN_MIDDLE and SHADED[0] < level < SHADED[1] else ""


def _find_text(sample: Sample) -> str:
    """Detect text or metal: white pixels beside far darker ones, or black pixels beside far brighter ones.

    More than 0.4% of the pixels in the middle are such white ones (at most 0.13% in radiographs), or more than 3.5%
    such black ones (at most 2.5%).
    """
    steep = sample.steepest[_QUARTER] > _CLEAR_CUT
    if np.count_nonzero(steep) <= _WHITE_TEXT * steep.size:
        return ""  # the usual case
    steep &= _is_within(sample.margins)[_QUARTER]
    levels = sample.center[_QUARTER][steep]
    is_white = np.count_nonzero(levels >= 256 - _INK) > _WHITE_TEXT * steep.size
    return Note.TEXT() if is_white or np.count_nonzero(levels <= _INK) > _BLACK_TEXT * steep.size else ""


def _is_within(margins: Sequence[tuple[float, float]]) -> Bools:
    """Return (64, 64) whether a place is inside the plain margins and not at their edge."""
    above, left = (
        (np.arange(SAMPLED) > first * SAMPLED) & (np.arange(SAMPLED) < (1 - last) * SAMPLED - 1)
        for first, last in margins
    )
    return above[:, None] & left


def _find_white_around(sample: Sample) -> str:
    """Detect a figure or a page: nine tenths of three lines at each edge are white.

    At most half of the outermost lines at all four edges are white in radiographs.
    """
    edges = (sample.center[:_EDGE], sample.center[-_EDGE:], sample.center[:, :_EDGE], sample.center[:, -_EDGE:])
    found = all(np.count_nonzero(edge > 255 - BLACK) > _WHITE_EDGE * edge.size for edge in edges)
    return Note.WHITE_AROUND() if found else ""


OF_WHOLE = (
    _find_few_levels, _find_equalized, _find_panel, _find_regular_steps, _find_composed, _find_symmetry, _find_spectrum,
    _find_circle, lambda sample: describe_outline(sample.bytes[0]), _find_covered, _find_text,
    lambda sample: describe_thumbnail(sample.center, sample.values, sample.variances[1] ** 0.5), _find_white_around,
)  # fmt: skip
"""Used if no other detector gives a note; only the first note of these is given."""
