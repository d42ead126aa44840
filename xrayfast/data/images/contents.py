"""Notes on an image in which little can be seen, or that is no plain radiograph."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from operator import sub

import numpy as np

from xrayfast.data.images.damage import describe_damage
from xrayfast.data.images.damage.sample import LEAST_SIDE
from xrayfast.data.images.notes import Note
from xrayfast.data.images.radiograph import BLACK, Pixels

_SAMPLED = 64  # rows and columns
_RUN = 16  # neighboring pixels
_CONSTANT, _FLAT, _DARK, _BRIGHT = 2.55, 64, 64, 191  # gray levels of 0..255
_NOISE = 0.8
_FEW_SHADES = 8
_SHADE = 8  # gray levels by which pixels of one shade may differ
_AT_SHADE, _OF_SHADES = 0.7, 0.95  # least shares: of a shade's pixels within 1 of its level, of all pixels in shades
_LEAST_PIXELS = 16  # of a shade

_BLACK_SHARE = 0.95  # least share of black pixels in a black half
_SMALL = 0.3  # largest share of the area that a small image on black fills
_MOSTLY_DARK, _MOSTLY_BRIGHT, _NEAR, _SURROUND = 80, 192, 20, 0.45  # gray levels; share of a black surround

_SMOOTH, _PARTLY_SMOOTH, _EDGED = 0.18, 0.4, 0.9
_STILL, _STILL_BESIDE_EDGES, _OF_TWO_PEAKS = 0.5, 0.35, 0.8
"""Thresholds of `_describe_texture`: bends over steps; shares of equal neighbors, and of pixels at the two commonest
gray levels."""


def describe_contents(pixels: Pixels) -> list[str]:
    """Return notes on an image (H, W) in which little can be seen, or that is no plain radiograph.

    The checks look at samples of the pixels, and at all of them only if these are unusual.
    """
    height, width = pixels.shape
    # With this step through the flattened image, all columns are sampled evenly.
    few = sorted(pixels.reshape(-1)[:: height // _SAMPLED * width + (width * 3) // 8 + 1].tobytes())
    if few[len(few) // 2] <= BLACK and (inside := _cut_black(pixels)) is not None:
        share = inside.size / pixels.size
        return [Note.ON_BLACK(share), *describe_contents(inside)]
    low, high = few[len(few) // 20], few[-1 - len(few) // 20]
    if high - low < 1.25 * _FLAT or 2 * len(set(few)) <= len(few):
        # Odd steps, because every second line may be lost.
        sample = pixels[:: -(-height // _SAMPLED) | 1, :: -(-width // _SAMPLED) | 1]
        # Checked before contrast, because the values of label maps may be 0, 1 and 2.
        if _count_shades(sample) and (shades := _count_shades(pixels)) > 1:
            return [Note.TWO_SHADES() if shades == 2 else Note.FEW_SHADES(shades)]
        counted = np.bincount(sample.ravel()).cumsum()
        low, high = counted.searchsorted((0.05 * sample.size, 0.95 * sample.size)).tolist()
        if high - low < _FLAT:
            return _describe_flat(pixels, sample, low, high)
    if notes := _describe_noise(pixels, high - low) or _describe_texture(pixels):
        return notes
    return describe_damage(pixels) + _describe_areas(pixels, few) or _describe_brightness(pixels, few)


def _cut_black(pixels: Pixels) -> Pixels | None:
    """Return the image inside a black surround, if it is small and the whole is no mask; else None."""
    is_shown = pixels[:: -(-pixels.shape[0] // _SAMPLED), :: -(-pixels.shape[1] // _SAMPLED)] > BLACK
    places = []
    for axis, side in ((1, pixels.shape[0]), (0, pixels.shape[1])):
        lines = np.flatnonzero(np.count_nonzero(is_shown, axis=axis) > 1)
        if not len(lines):
            return None
        every = -(-side // _SAMPLED)
        places.append(slice(max(0, int(lines[0] - 1) * every), int(lines[-1] + 2) * every))
    inside = pixels[places[0], places[1]]
    is_small = inside.size < _SMALL * pixels.size and min(inside.shape) >= LEAST_SIDE
    return np.ascontiguousarray(inside) if is_small and not _count_shades(pixels) else None


def _describe_brightness(pixels: Pixels, few: Sequence[int]) -> list[str]:
    """Return a note if three quarters of the pixels are dark, but fewer than 45% black, or three quarters are bright.

    Dark is below 80; radiographs have an upper quartile of 85 or more. Bright is above 192; they have a lower quartile
    of 187 or less.
    """
    if few[len(few) * 3 // 4] > _MOSTLY_DARK + _NEAR and few[len(few) // 4] < _MOSTLY_BRIGHT - _NEAR:
        return []  # the usual case
    counted = np.bincount(pixels.ravel(), minlength=256).cumsum()
    lower, upper = counted.searchsorted((0.25 * pixels.size, 0.75 * pixels.size)).tolist()
    is_dark = upper < _MOSTLY_DARK and counted[BLACK] < _SURROUND * pixels.size
    way = "dark" if is_dark else "bright" if lower > _MOSTLY_BRIGHT else ""
    return [Note.MOSTLY(way)] if way else []


def _describe_texture(pixels: Pixels) -> list[str]:
    """Return a note on an image without the texture of a radiograph, at a scale of 64 pixels for the shorter side.

    The texture is measured by the bend: the mean change from one step between pixels to the next, over the mean size of
    the steps. It is 0.48 to 0.81 in 7,800 radiographs of two public collections, 0.34 or more if these were scaled down
    to 64 pixels; below 0.16 in gradients, heat maps and distance maps, not counting rounding; 0.9 or more in label
    maps.
    """
    side = min(pixels.shape)
    if side < LEAST_SIDE:
        return []
    every = max(1, round(side / _SAMPLED))
    sample = pixels[every // 2 :: every, every // 2 :: every]
    rows = sample[len(sample) // 8 :: len(sample) // 4].astype(np.int16)
    steps = rows[:, 1:] - rows[:, :-1]
    bent, stepped = int(np.abs(steps[:, 1:] - steps[:, :-1]).sum()), 2 * int(np.abs(steps).sum())
    few_still = rows.size - np.count_nonzero(steps) < _STILL_BESIDE_EDGES * rows.size
    if few_still and 1.25 * _PARTLY_SMOOTH * stepped < bent < 0.9 * _EDGED * stepped:
        return []  # the usual case
    bend = _bend([sample, sample.T])
    still = float((sample[:, 1:] == sample[:, :-1]).mean())
    if bend > _EDGED and still > _STILL_BESIDE_EDGES:
        return [Note.PLAIN_AREAS()]
    counts = np.bincount(sample.ravel(), minlength=256 + 2)
    near = counts[:-2] + counts[1:-1] + counts[2:]
    peak = int(near.argmax())
    others = np.concatenate([near[: max(0, peak - _SHADE)], near[peak + _SHADE :]])
    of_two = int(near[peak] + others.max(initial=0)) > _OF_TWO_PEAKS * sample.size
    if bend < _SMOOTH or (bend < _PARTLY_SMOOTH and still > _STILL) or of_two:
        return [Note.TOO_SMOOTH()]
    return []


def _bend(lines: Sequence[Pixels]) -> float:
    """Return the change from step to step along rows, less rounding, over the size of the steps; 0.5 without steps."""
    bent = stepped = 0
    for rows in lines:
        steps = np.diff(rows.astype(np.int16), axis=1)
        bent += int(np.maximum(np.abs(np.diff(steps, axis=1)) - 1, 0).sum())
        stepped += int(np.abs(steps[:, 1:]).sum() + np.abs(steps[:, :-1]).sum())
    return bent / stepped if stepped else 0.5


def _describe_areas(pixels: Pixels, few: Sequence[int]) -> list[str]:
    """Return notes on an image with a black or a white half.

    `few` are some of its pixels, sorted. Of 7,800 radiographs of two public collections, one has a black half and none
    a white one.
    """
    height, width = pixels.shape
    if min(height, width) < LEAST_SIDE:
        return []
    notes = []
    if bisect_right(few, BLACK) > 0.4 * len(few):
        notes += _describe_halves(pixels, Note.HALF_BLACK)
    if bisect_left(few, 255 - BLACK) < 0.6 * len(few):
        notes += _describe_halves(255 - pixels, Note.HALF_WHITE)
    return notes


def _describe_halves(pixels: Pixels, note: Note) -> list[str]:
    height, width = pixels.shape
    halves = {
        ("left", "right"): (pixels[:, : width // 2], pixels[:, width // 2 :]),
        ("upper", "lower"): (pixels[: height // 2], pixels[height // 2 :]),
    }
    notes = []
    for sides, two in halves.items():
        shares = [float((half[::4, ::4] <= BLACK).mean()) for half in two]
        if max(shares) > _BLACK_SHARE and min(shares) < 0.5:
            notes.append(note(sides[shares[0] < shares[1]]))
    return notes


def _count_shades(pixels: Pixels) -> int:
    """Return the number of shades in an image with few of them, such as a mask or label map; 0 for other images.

    Scaling and JPEG turn a shade into several gray levels: most of them close to it, and some between two shades.
    """
    counts = np.bincount(pixels.ravel(), minlength=256)
    shades = int(np.count_nonzero(counts))
    if shades <= _FEW_SHADES:
        return shades if np.count_nonzero(counts >= _LEAST_PIXELS) > 1 else 1
    left = pixels.size
    for shade in range(1, _FEW_SHADES + 1):
        level = int(counts.argmax())
        near = counts[max(0, level - _SHADE) : level + _SHADE + 1]
        own = near.sum()
        if counts[max(0, level - 1) : level + 2].sum() < _AT_SHADE * own:
            return 0
        near[:] = 0
        left -= own
        if left < (1 - _OF_SHADES) * pixels.size:
            return shade
    return 0


def _describe_flat(pixels: Pixels, sample: Pixels, low: int, high: int) -> list[str]:
    """Return notes on an image with little contrast; `low` and `high` are the 5th and 95th percentiles of a sample."""
    if sample.std() < _CONSTANT:
        return [Note.ONE_LEVEL() if pixels.min() == pixels.max() else Note.NEARLY_ONE_LEVEL()]
    notes = [Note.DARK()] if high < _DARK else [Note.BRIGHT()] if low > _BRIGHT else []
    return [*notes, Note.FLAT()]


def _describe_noise(pixels: Pixels, spread: int) -> list[str]:
    """Return a note if neighbors in rows, or in columns, differ as much as any two pixels do.

    The mean squared difference of two independent pixels is twice the variance. If pixels two to five apart differ less
    than half as much as neighbors do, it is not noise: lines were lost, such as every second one.
    """
    height, width = pixels.shape
    run = pixels[height // 2, width // 2 : width // 2 + _RUN].tobytes()
    down = pixels[height // 2 : height // 2 + _RUN, width // 2].tobytes()
    if 2 * max(max(run) - min(run), max(down) - min(down)) < spread:
        return []  # the usual case: 16 pixels of noise have nearly the whole spread
    if 5 * max(sum(map(abs, map(sub, run, run[1:]))), sum(map(abs, map(sub, down, down[1:])))) < _RUN * spread:
        return []  # the usual case: in noise these steps are a third of the spread
    rows, columns = pixels[:: -(-height // _SAMPLED)], pixels[:, :: -(-width // _SAMPLED)]
    for lines in (rows, columns.T) if min(height, width) >= _RUN else ():
        unlike, *apart = (float(np.square(lines[:, n:] - lines[:, :-n].astype(np.float32)).mean()) for n in range(1, 6))
        if unlike > 2 * _NOISE * rows.var():
            return [Note.ODD_LINES() if 2 * min(apart) < unlike else Note.NOISE()]
    return []
