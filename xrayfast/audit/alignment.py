"""Correlate two thumbnails after aligning one with the other.

Unless aligned first, two images of one chest taken minutes apart correlate as strongly as an image and its cropped
copy. After alignment, a copy fits everywhere, but another image nowhere exactly. So the second thumbnail is shifted and
scaled by Gauss-Newton steps that maximize the correlation (Evangelidis and Psarakis 2008, doi 10.1109/TPAMI.2008.113,
with axis-parallel affine maps), from coarse to fine, and the result is the correlation of the fine structure.

Brightness, contrast and gamma change a thumbnail's local mean and local contrast, which are therefore normalized. Areas
that are black or white in either image are ignored, because nothing is left there to compare.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from typing import Any

import numpy as np
import numpy.typing as npt

from xrayfast.cpus import cpu_count
from xrayfast.data.arrays import Bools, Floats32

_REACH = 0.14  # maximum stretch or shift of an image, in half side lengths: crops of 7% on one side
_FAINT = 4.0  # local contrast, in gray levels, below which structure counts as noise
_FLAT = 0.02  # contrast assumed for an image without structure; a radiograph's is about 0.6
_BLACK, _WHITE = 4.0, 251.0  # values beyond count as clipped
_LEAST_AREA = 0.25  # least fraction of the image that must be left to compare
_HOPELESS, _HOPELESS_FINE = 0.86, 0.8  # pairs that correlate less after a step are dropped: more steps never reach 0.96
_SIGMA_ALIGN, _SIGMA_FINE, _SIGMA_DETAIL = 1.25, 1.875, 0.8  # of the Gaussian neighborhoods, in pixels
_BLOCK = 64  # pairs or images at a time, so that they stay in the CPU's cache
_THREADS = 8  # maximum; each takes 10 MB


def aligned_correlation(first: npt.NDArray[np.uint8], second: npt.NDArray[np.uint8]) -> tuple[Floats32, Floats32]:
    """Return the correlation of aligned pairs of thumbnails, (P, n, n) each with an even n.

    Returns:
        (P,) correlation in [-1, 1]; -1 if the coarse scale already rules the pair out, or if too little is left to
        compare. Nearly symmetric. And (P, 4) the places of the second, as in `warp`.
    """
    result = np.full(len(first), -1, np.float32)
    coarse, place = _in_blocks(
        lambda a, b: _align(halve(a), halve(b), np.zeros((len(a), 4), np.float32), steps=6), first, second
    )
    left = np.flatnonzero(coarse > _HOPELESS)
    for steps, least in ((0, _HOPELESS_FINE), (6, -1.0)):
        found, place[left] = _in_blocks(partial(_align_fine, steps=steps), first[left], second[left], place[left])
        left, found = left[found > least], found[found > least]
    result[left] = found
    return result, place


def detail_correlation(first: npt.NDArray[np.uint8], second: npt.NDArray[np.uint8], place: Floats32) -> Floats32:
    """Return the correlation (P,) of the finest structure of thumbnails, of any size, at known places."""
    return _in_blocks(partial(_align_fine, steps=0, sigma=_SIGMA_DETAIL), first, second, place)[0]


def _in_blocks(align: Callable[..., tuple[Floats32, Floats32]], *pairs: npt.NDArray[Any]) -> tuple[Floats32, Floats32]:
    """Align all pairs; return correlations (P,) and places (P, 4)."""
    found = in_blocks(
        lambda *block: np.column_stack(align(*(values.astype(np.float32) for values in block))), 5, *pairs
    )
    return found[:, 0], found[:, 1:]


def in_blocks(function: Callable[..., Floats32], columns: int, *arrays: npt.NDArray[Any]) -> Floats32:
    """Apply a function to (N, ...) arrays, block by block in several threads; return its results, (N, columns).

    Threads help because numpy holds the GIL only for a small fraction of the time.
    """
    result = np.empty((len(arrays[0]), columns), np.float32)

    def fill(start: int) -> None:
        result[start : start + _BLOCK] = function(*(array[start : start + _BLOCK] for array in arrays))

    with ThreadPoolExecutor(min(cpu_count(), _THREADS), thread_name_prefix="thumbnails") as pool:
        list(pool.map(fill, range(0, len(result), _BLOCK)))
    return result


def halve(x: Floats32) -> Floats32:
    """Return (P, n, n) at half the size: the mean of every 2 x 2 pixels."""
    even, odd = x[:, ::2], x[:, 1::2]
    # Four sums, because `mean` over two axes of a reshaped array takes ten times as long.
    total: Floats32 = even[:, :, ::2] + even[:, :, 1::2] + odd[:, :, ::2] + odd[:, :, 1::2]
    return total * np.float32(0.25)


def normalize_contrast(x: Floats32, sigma: float, where: Floats32 | None = None) -> Floats32:
    """Return values minus their local mean, divided by their local standard deviation.

    Args:
        x: (P, n, n) gray levels.
        sigma: of the Gaussian neighborhood, in pixels.
        where: (P, n, n) 1 where values count, 0 where they do not; None if all count.
    """
    blur = _blur(x.shape[-1], sigma)
    if where is None:
        difference = x - blur @ x @ blur.T
        variance = blur @ (difference * difference) @ blur.T
    else:
        weight = blur @ where @ blur.T + 1e-6
        difference = (x - (blur @ (x * where) @ blur.T) / weight) * where
        variance = (blur @ (difference * difference) @ blur.T) / weight
    return difference / np.sqrt(variance + _FAINT**2)


def warp(x: Floats32, place: Floats32) -> Floats32:
    """Stretch and shift images with linear interpolation; beyond the edges, edge pixels are repeated.

    Args:
        x: (P, n, n).
        place: (P, 4) stretch and shift along x, then along y, in coordinates from -1 to 1 across the image: the value
            at u is that of the given image at u + stretch u + shift.
    """
    along_y, along_x, _, _ = _sampling(place, x.shape[-1])
    return along_y @ x @ along_x.transpose(0, 2, 1)


def _align(a: Floats32, b: Floats32, place: Floats32, steps: int) -> tuple[Floats32, Floats32]:
    """Return the best correlation found, (P,), and the place of `b` at which it occurs, (P, 4)."""
    target, source = normalize_contrast(a, _SIGMA_ALIGN), normalize_contrast(b, _SIGMA_ALIGN)
    open_a, open_b = _unclipped(a), _unclipped(b)
    slopes, inverse = _slopes(target)
    best, best_place = np.full(len(a), -1, np.float32), place
    for step in range(steps + 1):
        along_y, along_x, at_y, at_x = _sampling(place, a.shape[-1])
        image, unclipped = (along_y @ x @ along_x.transpose(0, 2, 1) for x in (source, open_b))
        # The outermost pixels are ignored, because their neighborhoods differ between the two images.
        where = _overlap(at_x, at_y, margin=1) * open_a * (unclipped > 0.99)
        correlation, residual, scale = _correlation(target, image, where)
        better = correlation > best
        best, best_place = np.where(better, correlation, best), np.where(better[:, None], place, best_place)
        if step < steps:
            uphill = slopes @ residual.reshape(len(a), -1, 1)
            ahead = (inverse @ uphill)[:, :, 0] * scale[:, None]
            place = np.clip(place + ahead, -_REACH, _REACH).astype(np.float32)
    return best, best_place


def _slopes(x: Floats32) -> tuple[Floats32, Floats32]:
    """Return each pixel's derivatives by the four values of a place, (P, 4, n n), and the inverse of their products."""
    side = x.shape[-1]
    grid = _grid(side)
    slope_y, slope_x = np.gradient(x * np.float32(side / 2), axis=(1, 2))
    slopes = np.stack([slope_x * grid, slope_x, slope_y * grid[:, None], slope_y], 1).reshape(len(x), 4, side * side)
    products = slopes @ slopes.transpose(0, 2, 1)
    # A little damping, for images with structure along one axis only.
    products += np.eye(4, dtype=np.float32) * (np.trace(products, axis1=1, axis2=2)[:, None, None] / 4000 + 1e-6)
    return slopes, np.linalg.inv(products)


def _align_fine(
    a: Floats32, b: Floats32, place: Floats32, steps: int, sigma: float = _SIGMA_FINE
) -> tuple[Floats32, Floats32]:
    """Return the correlation of structure, normalized over the images' overlap, and the place, after further steps."""
    if steps:
        _, place = _align(a, b, place, steps)
    along_y, along_x, at_y, at_x = _sampling(place, a.shape[-1])
    image = along_y @ b @ along_x.transpose(0, 2, 1)
    # Half a pixel inward, so that a bright frame around only one of the two does not count.
    where = _overlap(at_x, at_y, margin=0.5) * _unclipped(a) * _unclipped(image)
    a, image = normalize_contrast(a, sigma, where), normalize_contrast(image, sigma, where)
    return _correlation(a, image, where)[0], place


def _correlation(a: Floats32, b: Floats32, where: Floats32) -> tuple[Floats32, Floats32, Floats32]:
    """Return the correlation over `where`, the standardized images' difference there (P, n, n), and its scale.

    Multiplied by the scale, the difference is the residual of a linear fit of `a` to `b` over the whole image.
    """
    count = np.einsum("pij->p", where) + np.float32(1e-3)
    mean_a, mean_b = (np.einsum("pij,pij->p", x, where) / count for x in (a, b))
    a, b = (a - mean_a[:, None, None]) * where, (b - mean_b[:, None, None]) * where
    norm_a, norm_b = (np.sqrt(np.einsum("pij,pij->p", x, x) + count * _FLAT**2) for x in (a, b))
    a, b = a / norm_a[:, None, None], b / norm_b[:, None, None]
    area = count / (where.shape[1] * where.shape[2])
    correlation = np.where(area >= _LEAST_AREA, np.einsum("pij,pij->p", a, b), np.float32(-1))
    return correlation, a - b, norm_a / np.maximum(area, np.float32(0.05))


def _unclipped(x: Floats32) -> Floats32:
    return ((x > _BLACK) & (x < _WHITE)).astype(np.float32)


def _overlap(at_x: Floats32, at_y: Floats32, margin: float) -> Floats32:
    """Return (P, n, n) 1 where both images reach, at least `margin` pixels from the edges of both; else 0."""
    side = at_x.shape[-1]

    def inner(at: Floats32) -> Bools:
        return (at >= margin - 0.5) & (at <= side - 0.5 - margin)

    own = inner(np.arange(side, dtype=np.float32))
    return ((own & inner(at_y))[:, :, None] & (own & inner(at_x))[:, None, :]).astype(np.float32)


def _sampling(place: Floats32, side: int) -> tuple[Floats32, Floats32, Floats32, Floats32]:
    """Return (P, n, n) interpolation weights along y and x, and (P, n) source rows and columns, in pixels."""
    stretch, shift = 1 + place[:, ::2, None], place[:, 1::2, None]
    at: Floats32 = (stretch * _grid(side) + shift + 1) * (side / 2) - 0.5
    inside = np.clip(at, 0, side - 1)
    before = np.minimum(inside.astype(np.intp), side - 2)[:, :, :, None]  # each row has two nonzero weights
    along: Floats32 = np.zeros((*at.shape, side), np.float32)
    ahead = inside[:, :, :, None] - before.astype(np.float32)
    np.put_along_axis(along, before, 1 - ahead, -1)
    np.put_along_axis(along, before + 1, ahead, -1)
    return along[:, 1], along[:, 0], at[:, 1], at[:, 0]


@lru_cache(maxsize=4)
def _grid(side: int) -> Floats32:
    """Return the centers of n pixels between -1 and 1."""
    centers: Floats32 = ((np.arange(side) + 0.5) * 2 / side - 1).astype(np.float32)
    centers.flags.writeable = False  # shared between calls
    return centers


@lru_cache(maxsize=8)
def _blur(side: int, sigma: float) -> Floats32:
    """Return the (n, n) matrix of a Gaussian mean along one axis, over the pixels inside the image."""
    offset = np.arange(side)[:, None] - np.arange(side)
    kernel = np.exp(-0.5 * (offset / sigma) ** 2)
    kernel[kernel < 1e-4] = 0  # the tails are denormal in float32, which takes ten times as long
    rows: Floats32 = (kernel / kernel.sum(1, keepdims=True)).astype(np.float32)
    rows.flags.writeable = False
    return rows
