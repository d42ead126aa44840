"""Notes on an image that is damaged, composed of several images, or shows something else than a body.

A detector is a function of `_Sample` that returns a note, or "" if it finds nothing. Its threshold is between what it
detects and the 7,818 radiographs of three public collections; its docstring gives their extreme value too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, lru_cache
from itertools import islice
from operator import eq, sub

import numpy as np
import numpy.typing as npt

from xrayfast.data.arrays import Bools, Floats32, Places
from xrayfast.data.images.notes import Note
from xrayfast.data.images.outline import describe_outline, varied_lines
from xrayfast.data.images.radiograph import BLACK, Pixels
from xrayfast.data.images.thumbnail import describe_thumbnail, is_one_strip

LEAST_SIDE = 48
"""Least number of pixels of the shorter side of an image whose areas and lines are checked."""

_SAMPLED, _COLUMNS = 64, 32  # rows and columns of a sample; fewest columns over which rows are compared

_STEEP, _OF_NOISE, _LEAST_SPREAD = 6, 0.85, 30  # gray levels; share of the difference of unrelated pixels; variance
_WRAPS, _FLATTER = {160: 2.0, 216: 1.2}, 40  # jumps per 1,000 steps, keyed by gray levels; levels of steps beside them
_SINGLE, _STANDS_OUT = 0.006, 40  # share of the pixels, gray levels
_OUT_OF_LINE, _LINES, _DRAWN = 1.25, 4, 20  # ratio of differences, lines in 128, gray levels
_SAME_LINES, _CHANGES = 0.45, 0.1  # shares of lines in the middle half: equal to the next one; changes between these
_SHEARED, _STEEPER = 1.02, 2.6  # ratios of differences between rows
_FINE, _FINE_ON_PLAIN, _PLAIN = 0.3, 0.62, (48, 207)  # shares of the variance, gray levels

_DOUBLE = (1.6, 2.7)  # ratio of the sides of an image of two radiographs; above that, of more
_BANDS, _MARGIN, _FRAME = 10, 0.25, 0.06  # a band is 1/10 of the height or more; shares of a plain margin, its frame
_REPEATED = 0.985  # correlation
_COVERED, _FILLED, _PLAIN_MIDDLE = 0.03, 0.8, 0.1  # plain shares: of a middle with a box, the box, a covered middle
_ALONG, _NEAR = 0.7, 0.2  # shares of the side
_MIDDLE, _QUARTER = ((slice(_SAMPLED // n, -(_SAMPLED // n)),) * 2 for n in (5, 4))
_CLEAR_CUT, _INK, _WHITE_TEXT, _BLACK_TEXT = 60, 8, 0.004, 0.035  # gray levels; shares of the pixels in the middle
_PANEL, _SHADED, _ALL_PLAIN = 3, (28, 243), 0.99  # lines, gray levels, share of the pixels
_EVEN_AT_MIDDLE, _EVEN = 0.06, 0.026  # deviation of gray levels from an even distribution: at the middle level, maximum
_POINT_SYMMETRY = 0.92  # correlation
_FEW_LEVELS, _BUNCHED, _LEVELS_LOST, _PERIODS, _WAVES = 40, 0.12, (8, 33), 5, 512
_AROUND, _PLAIN_LINE = 3, 0.5  # lines from a step to those that it is compared with; gray levels between plain lines
_REGULAR, _LEAST_REGULAR, _IN_PLACE, _LEAST_PERIOD = 2.5, 3, 0.75, 8
_HALVED, _HALVED_TWICE, _ROLLED, _IN_THIRDS, _CONTENT = 3.5, 2.0, 2.5, 2.2, 150
_CORNERS, _OBJECT, _SYMMETRICAL = 24, 0.25, 0.9
_EDGE, _WHITE_EDGE = 3, 0.9  # lines, share
_UNLIKE_CORNER, _ROUND, _RIM, _NARROW = 16, 0.85, (0.85, 0.97, 1.04), 0.35

_EQUAL = np.full(_SAMPLED**2, 1 / _SAMPLED**2, np.float32)
"""Weights of a mean as a matrix product, which takes a quarter of the time and is exact for bytes."""

_BLOCKS = np.repeat(np.eye(_SAMPLED // 4, dtype=np.float32), 4, axis=1) / 4
"""(16, 64) weights of the means of 4 pixels."""


class _Sample:
    """64 x 64 pixels of an image, the pixels beside them, and how much each line of the image differs from the next."""

    def __init__(self, pixels: Pixels) -> None:
        self.pixels = pixels
        self.bytes = pixels.ravel().take(_places(*pixels.shape), mode="wrap")  # not checked: two thirds of the time
        center = self.bytes[0]
        self.steps = np.empty((4, *center.shape), np.uint8)  # to the pixels above, below, left and right
        for other, found in zip(self.bytes[1:], self.steps, strict=True):
            _differ(center, other, found)
        self.means = (self.steps.reshape(4, -1).astype(np.float32) @ _EQUAL).tolist()
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
        return float(self.values @ _EQUAL)

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
        if np.count_nonzero(still) < _COVERED * still.size:
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
        return (_BLOCKS @ self.values.reshape(_SAMPLED, _SAMPLED) @ _BLOCKS.T).ravel()

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
        down, across = _differ(columns[1:], columns[:-1]), _differ(rows[:, 1:], rows[:, :-1])
        return _means(down), _means(across.T)

    @cached_property
    def jumps(self) -> tuple[Floats32, Floats32]:
        """The jumps of both profiles: see `_jumps`."""
        return _jumps(self.profiles[0]), _jumps(self.profiles[1])

    @cached_property
    def all_profiles(self) -> tuple[Floats32, Floats32]:
        """The profiles over all pixels: over some of them, a slanted edge has steps at regular distances."""
        down, across = (_differ(lines[1:], lines[:-1]) for lines in (self.pixels, self.pixels.T))
        return _means(down), _means(across)


@lru_cache(maxsize=64)
def _places(height: int, width: int) -> Places:
    """Return (5, 64, 64) places in an image's flat pixels: of a sample, and above, below, left and right of it."""
    rows, columns = (np.linspace(1, side - 2, _SAMPLED).round().astype(np.intp) for side in (height, width))
    beside = np.array([0, -width, width, -1, 1], np.intp)
    return rows[:, None] * width + columns + beside[:, None, None]


def _shares_outside(first: int, last: int) -> tuple[float, float]:
    """Return the shares of a side before the first line and after the last line."""
    return first / _SAMPLED, 1 - (last + 1) / _SAMPLED


def _jumps(steps: Floats32) -> Floats32:
    """Return each step over the larger of the steps `_AROUND` lines before and after it, if there are both."""
    around = np.maximum(steps[: -2 * _AROUND], steps[2 * _AROUND :])
    return steps[_AROUND:-_AROUND] / (around + 1)


def _means(steps: Pixels) -> Floats32:
    """Return the mean of each row, as a matrix product, which takes a quarter of the time."""
    return steps.astype(np.float32) @ np.full(steps.shape[1], 1 / steps.shape[1], np.float32)


def _differ(one: Pixels, other: Pixels, out: Pixels | None = None) -> Pixels:
    """Return absolute differences of bytes without widening these, which takes half the time."""
    larger = np.maximum(one, other, out=out)
    return np.subtract(larger, np.minimum(one, other), out=larger)


def describe_damage(pixels: Pixels) -> list[str]:
    """Return the detectors' notes on an image (H, W); none if a side has less than 48 pixels."""
    if min(pixels.shape) < LEAST_SIDE:
        return []
    sample = _Sample(pixels)

    def notes(detectors: Sequence[Callable[[_Sample], str]]) -> Iterator[str]:
        return filter(None, (detect(sample) for detect in detectors))

    return [*islice(notes(_OF_NEIGHBORS), 1), *notes(_OF_AREAS)] or [*islice(notes(_OF_WHOLE), 1)]


# Detectors that compare neighboring pixels


def _find_noisy_part(sample: _Sample) -> str:
    """Detect noise in a quarter of the rows or columns.

    Neighbors there differ more than 0.85 times as much as unrelated pixels do; at most 0.18 times in radiographs.
    """
    if sample.means[0] <= _STEEP:
        return ""
    center, up, left = sample.center, sample.beside[0], sample.beside[2]
    center, up, left = (values[2:-2, 2:-2] for values in (center, up, left))  # without the edge of a frame
    noisy = _has_noisy_strip(center, up, left) or _has_noisy_strip(center.T, left.T, up.T)
    return Note.PARTLY_NOISE() if noisy else ""


def _has_noisy_strip(center: Pixels, up: Pixels, left: Pixels) -> bool:
    steps = [(center - other).reshape(4, -1) for other in (up, left)]
    unlike = np.minimum(*(np.square(step, dtype=np.float32).mean(axis=1) for step in steps))
    return bool((unlike > _OF_NOISE * 2 * (center.reshape(4, -1).var(axis=1) + _LEAST_SPREAD)).any())


def _find_wrapped(sample: _Sample) -> str:
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
        rows = np.linspace(0, len(lines) - 1, _SAMPLED).round().astype(np.intp)
        steps = np.diff(lines[rows].astype(np.int16), axis=1)
        way = np.sign(steps[:, 1:-1])
        before, after = -way * steps[:, :-2], -way * steps[:, 2:]
        against = (before > 1) & (before < _FLATTER) & (after > 1) & (after < _FLATTER)
        found = np.abs(steps[:, 1:-1])[against]
        for levels in shares:
            shares[levels] += 500 * np.count_nonzero(found > levels) / against.size
    is_wrapped = any(shares[levels] > least for levels, least in _WRAPS.items())
    return Note.OVERFLOW() if is_wrapped else ""


def _find_single_pixels(sample: _Sample) -> str:
    """Detect salt and pepper: single pixels over 40 gray levels above or below all of those beside them.

    They are more than 0.6% of the pixels; at most 0.2% in radiographs.
    """
    least = _SINGLE * sample.center.size
    if np.count_nonzero(sample.steps.min(axis=0) > _STANDS_OUT) <= least:
        return ""  # the usual case
    over = sample.center - sample.beside.max(axis=0)
    under = sample.beside.min(axis=0) - sample.center
    found = np.count_nonzero(np.maximum(over, under) > _STANDS_OUT) > least
    return Note.SALT_AND_PEPPER() if found else ""


def _find_odd_lines(sample: _Sample) -> str:
    """Detect lost, shifted or drawn lines.

    Lines side by side differ more than 1.25 times as much as lines two apart (at most 0.84 times in radiographs), or 4
    or more of 128 lines are unlike both lines beside them (at most 1 in radiographs).
    """
    above, below, before, after = sample.means
    _, up, down, left, right = sample.bytes
    over_row, over_column = (
        float(_differ(*two).ravel().astype(np.float32) @ _EQUAL) for two in ((up, down), (left, right))
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


def _find_repeated_lines(sample: _Sample) -> str:
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


def _find_wrong_width(sample: _Sample) -> str:
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
    rows, every = np.linspace(0, height - 2, 16).astype(np.intp), max(1, width // _SAMPLED)
    one, next_one = sample.pixels[rows].astype(np.int16), sample.pixels[rows + 1, 1:-1:every].astype(np.int16)
    before, same, after = (int(np.abs(next_one - one[:, k : width - 2 + k : every]).sum()) for k in (0, 1, 2))
    shifted = same + 500 > _SHEARED * (min(before, after) + 500)
    steep = to_row + 0.5 > _STEEPER * (to_column + 0.5)
    if steep and not shifted:  # unless it is a ramp
        steep = abs(float((sample.beside[0] - sample.center).mean())) < 0.5 * sample.means[0]
    return Note.WRONG_WIDTH() if shifted or steep else ""


def _find_edge_map(sample: _Sample) -> str:
    """Detect an edge map: less than 0.3 of the variance is between blocks of 4 x 4 pixels; 0.56 or more in radiographs.

    If the median pixel is nearly black or white, less than 0.62 is enough; such radiographs have 0.69 or more.
    """
    variance, between = sample.variances
    between /= max(variance, 1)
    if between >= _FINE_ON_PLAIN:
        return ""  # the usual case
    found = between < _FINE or not _PLAIN[0] < np.median(sample.center) < _PLAIN[1]
    return Note.EDGE_MAP() if found else ""


_OF_NEIGHBORS = (
    _find_noisy_part, _find_wrapped, _find_repeated_lines, _find_single_pixels, _find_odd_lines, _find_wrong_width,
    _find_edge_map,
)  # fmt: skip
"""Only the first note of these is given, because several of them detect the same damage."""


# Detectors of areas


def _find_lines_alike(sample: _Sample) -> str:
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


def _find_halves_alike(sample: _Sample) -> str:
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
    size = max(_LEAST_SPREAD * one.size, float(np.sqrt(np.square(one).sum() * np.square(two).sum())))
    return bool((one * two).sum() > _REPEATED * size)


def _find_strip(sample: _Sample) -> str:
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


def _find_box(sample: _Sample) -> str:
    """Detect a plain box: one gray level covers 3% of the middle and fills four fifths of a box within the image.

    In radiographs, one covers at most 1%.
    """
    level, share = sample.plain_middle
    if share < _COVERED:
        return ""  # the usual case
    of_level = (sample.steepest == 0) & (sample.center == level)
    rows, columns = (np.flatnonzero(of_level.any(axis=axis)) for axis in (1, 0))
    sides = [(side[0], side[-1] + 1) for side in (rows, columns)]
    if any(start == 0 or end == _SAMPLED for start, end in sides) or (
        not _SHADED[0] < level < _SHADED[1] and _is_band(sides)
    ):
        return ""
    box = of_level[slice(*sides[0]), slice(*sides[1])]
    if box.mean() <= _FILLED:
        return ""
    return Note.BOX(box.size / _SAMPLED**2)


def _is_band(sides: Sequence[tuple[int, int]]) -> bool:
    """Whether a box is near a border and along most of it, like a margin inside a frame."""
    return any(
        wide[1] - wide[0] > _ALONG * _SAMPLED and min(high[0], _SAMPLED - high[1]) < _NEAR * _SAMPLED
        for high, wide in (sides, sides[::-1])
    )


_OF_AREAS = (_find_lines_alike, _find_halves_alike, _find_strip, _find_box)


# Detectors of properties of the whole image


def _find_few_levels(sample: _Sample) -> str:
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


def _find_equalized(sample: _Sample) -> str:
    """Detect equalized gray levels: all but the lowest and highest are distributed evenly.

    Their distance from an even distribution is at most 0.026; 0.030 or more in radiographs.
    """
    if _unevenness(sample.counts, _EVEN_AT_MIDDLE) > 1.5 * _EVEN:
        return ""  # the usual case
    is_even = _unevenness(np.bincount(sample.pixels.ravel(), minlength=256)) <= _EVEN
    return Note.EQUALIZED() if is_even else ""


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


def _find_panel(sample: _Sample) -> str:
    """Detect a panel with text at a side: at least 3 of 64 lines are more than half, but not wholly, of one gray level.

    In radiographs, such a level is black, white, or at most 23. The level of all four corners does not count: it
    surrounds a radiograph that was rotated, or whose collimator was.
    """
    for pixels in (sample.bytes[0], sample.bytes[0].T):
        for way in (1, -1):
            some = sorted(pixels[way, ::4].tobytes())
            level = some[len(some) // 2]  # the level of half of them, if there is one
            if not _SHADED[0] < level < _SHADED[1] or some.count(level) < len(some) // 2:
                continue  # the usual case
            shares = (pixels[::way] == level).mean(axis=1)
            lines = int(np.argmax(np.append(shares, 0) < 0.5))
            is_surround = np.all(sample.center[:: _SAMPLED - 1, :: _SAMPLED - 1] == level)
            if lines >= _PANEL and shares[:lines].mean() < _ALL_PLAIN and not is_surround:
                return Note.PANEL()
    return ""


def _find_regular_steps(sample: _Sample) -> str:
    """Detect 3 or more rows or columns at equal distances that differ much from the next one.

    They differ more than 2.5 times as much as those around them do. No radiograph has such lines; with 2 times, 4 have.
    """
    for axis, jumps in enumerate(sample.jumps):
        if _has_regular(jumps) and _has_regular(_jumps(sample.all_profiles[axis])):
            return Note.GRID()
    return ""


def _has_regular(jumps: Floats32) -> bool:
    found = (jumps > _REGULAR).nonzero()[0]
    return len(found) >= _LEAST_REGULAR and _are_regular(found, len(jumps))


def _are_regular(found: Places, length: int) -> bool:
    """Whether the places are at regular distances.

    Three quarters of them must be at multiples of one distance, and be three quarters of all its multiples in `length`.
    """
    found = found[np.diff(found, prepend=-_SAMPLED) > _AROUND]  # a drawn line has two steps
    if len(found) < _LEAST_REGULAR:
        return False
    for distance in {float(d) / n for d in np.diff(found) for n in (1, 2) if d >= _LEAST_PERIOD * n}:
        for start in found[:_LEAST_REGULAR]:
            off = np.abs((found - start + distance / 2) % distance - distance / 2)
            inside = int(np.count_nonzero(off <= 1.01))
            if inside >= max(_LEAST_REGULAR, _IN_PLACE * len(found), _IN_PLACE * (length / distance - 1)):
                return True
    return False


def _find_composed(sample: _Sample) -> str:
    """Detect swapped halves, or several images in one: lines at a half or at the thirds differ much from the next.

    The middle row or column differs more than 3.5 times as much as those around it (at most 2.6 in radiographs), both
    more than 2 times (at most 1.3), or one more than 2.5 times while the opposite borders fit together; or both lines
    at the thirds do so more than 2.2 times (at most 1.8).
    """
    note = _describe_steps(sample, sample.profiles)
    return note and _describe_steps(sample, sample.all_profiles)


def _describe_steps(sample: _Sample, profiles: tuple[Floats32, Floats32]) -> str:
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
    if min(steps.item(place - 1 - _AROUND), steps.item(place + 1 + _AROUND)) < _PLAIN_LINE:
        return 0
    return float(_jumps(steps[place - 1 - _AROUND : place + 2 + _AROUND]).max())


def _do_borders_fit(pixels: Pixels) -> bool:
    """Whether the first row continues the last one, and both are not plain."""
    first, last = pixels[0].astype(np.float32), pixels[-1].astype(np.float32)
    content = min(float(first.var()), float(last.var()))
    return content > _CONTENT and float(np.square(first - last).mean()) < 0.2 * content


def _find_symmetry(sample: _Sample) -> str:
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


def _find_spectrum(sample: _Sample) -> str:
    """Detect a Fourier spectrum: it equals itself turned by 180 degrees, and is brightest in the middle.

    The correlation of the means of 4 x 4 pixels is over 0.92; at most 0.88 in radiographs. Radiographs in a frame are
    not brightest in the middle.
    """
    brightest = divmod(int(sample.blocks.argmax()), _SAMPLED // 4)
    if not {7, 8}.issuperset(brightest):
        return ""  # the usual case
    between = sample.variances[1]
    turned = float(sample.blocks @ sample.blocks[::-1]) / sample.blocks.size - sample.mean**2
    found = turned > _POINT_SYMMETRY * max(between, _LEAST_SPREAD)
    return Note.SPECTRUM() if found else ""


def _find_circle(sample: _Sample) -> str:
    """Detect a circle that was cut out: the image is blank outside an ellipse, and not blank just inside it.

    More than 85% of the pixels outside the ellipse are like a corner of the image, and more than 85% of those just
    inside it, towards each of the four corners, are not; at most 76% in radiographs.
    """
    corners = [sample.center.item(row, column) for row in (0, 6, -7, -1) for column in (row, -1 - row)]
    if max(corners) - min(corners) > 2 * _UNLIKE_CORNER:
        return ""  # the usual case
    inside = np.abs(sample.center - corners[0]) > _UNLIKE_CORNER
    sides = [np.flatnonzero(np.count_nonzero(inside, axis=axis) > 1) for axis in (1, 0)]
    if min(map(len, sides)) < _SAMPLED // 3:
        return ""
    framed = inside[np.ix_(*(np.linspace(side[0], side[-1], _SAMPLED).round().astype(np.intp) for side in sides))]
    outside, rims = _ellipse()
    found = min(1 - float(framed[outside].mean()), *(float(framed[rim].mean()) for rim in rims)) > _ROUND
    return Note.CIRCLE() if found else ""


@lru_cache(maxsize=1)
def _ellipse() -> tuple[Bools, tuple[Bools, ...]]:
    """Return (64, 64) masks: outside an ellipse in a frame, and just inside it, towards each of the four corners."""
    y, x = np.mgrid[-1 : 1 : _SAMPLED * 1j, -1 : 1 : _SAMPLED * 1j]
    radius = np.hypot(y, x)
    rim = (radius > _RIM[0]) & (radius < _RIM[1]) & (np.abs(np.abs(x) - np.abs(y)) < _NARROW)
    return radius > _RIM[2], tuple(rim & (a * y > 0) & (b * x > 0) for a in (1, -1) for b in (1, -1))


def _find_covered(sample: _Sample) -> str:
    """Detect a covered area: more than a tenth of the middle has one gray level, neither black nor white.

    In radiographs, at most 6% has.
    """
    level, share = sample.plain_middle
    found = share > _PLAIN_MIDDLE and _SHADED[0] < level < _SHADED[1]
    return Note.COVERED() if found else ""


def _find_text(sample: _Sample) -> str:
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
    found = is_white or np.count_nonzero(levels <= _INK) > _BLACK_TEXT * steep.size
    return Note.TEXT() if found else ""


def _is_within(margins: Sequence[tuple[float, float]]) -> Bools:
    """Return (64, 64) whether a place is inside the plain margins and not at their edge."""
    above, left = (
        (np.arange(_SAMPLED) > first * _SAMPLED) & (np.arange(_SAMPLED) < (1 - last) * _SAMPLED - 1)
        for first, last in margins
    )
    return above[:, None] & left


def _find_white_around(sample: _Sample) -> str:
    """Detect a figure or a page: nine tenths of three lines at each edge are white.

    At most half of the outermost lines at all four edges are white in radiographs.
    """
    edges = (sample.center[:_EDGE], sample.center[-_EDGE:], sample.center[:, :_EDGE], sample.center[:, -_EDGE:])
    found = all(np.count_nonzero(edge > 255 - BLACK) > _WHITE_EDGE * edge.size for edge in edges)
    return Note.WHITE_AROUND() if found else ""


_OF_WHOLE = (
    _find_few_levels, _find_equalized, _find_panel, _find_regular_steps, _find_composed, _find_symmetry, _find_spectrum,
    _find_circle, lambda sample: describe_outline(sample.bytes[0]), _find_covered, _find_text,
    lambda sample: describe_thumbnail(sample.center, sample.values, sample.variances[1] ** 0.5), _find_white_around,
)  # fmt: skip
"""Used if no other detector gives a note; only the first note of these is given."""
