"""Compute the features of each image that the audit uses: thumbnail, border, brightness, histogram and texture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from xrayfast.data.arrays import Floats32, Integers, Places
from xrayfast.data.cache.columns import Columns, Layout
from xrayfast.data.cache.image_cache import DecodedImages
from xrayfast.data.cache.shards import ImageInfo
from xrayfast.data.images.reader import Pixels, filled_area
from xrayfast.progress import StageProgress, no_progress

THUMB = 40
"""Side of a thumbnail. Sides of 40, 48 and 64 separate pairs of one patient's images from re-encoded, scaled and
cropped copies equally well, 32 worse; 100,000 thumbnails with a side of 40 are 160 MB."""

DETAIL = 64
"""Side of a detailed thumbnail. It is not kept, since few pairs need one."""

LEAST_SIDE = 64
"""Least side of the images that are compared: in smaller images, different chests look alike."""

HISTOGRAM_BINS = 16
"""Number of bins of the histogram."""

NEAR_BLACK = 20
"""Values below this are black, or what JPEG makes of black next to letters."""

_BORDER = 0.05  # width of the border, as a fraction of the height or width
_PLAIN = 16  # greatest range of gray levels in a line of a margin
_LEAST_INSIDE, _MOST_INSIDE = 0.5, 0.99  # least and greatest fraction of the height or width that is inside margins
_EVERY = 200  # images between two progress reports
_PERCENTILES = np.array([0.05, 0.25, 0.5, 0.75, 0.95])
_LEVELS = np.arange(256) / 255
_BIN_STARTS = np.arange(0, 256, 256 // HISTOGRAM_BINS)
_LAYOUT: Layout = {
    "thumbs": (1, np.dtype((np.uint8, (THUMB, THUMB)))),
    "thumb_rows": (0, np.dtype(("<i8", 2))),
    "border": (0, np.dtype(("<f4", 8))),
    "brightness": (0, np.dtype(("<f4", 2 + len(_PERCENTILES)))),
    "histogram": (0, np.dtype(("<f4", HISTOGRAM_BINS))),
    "texture": (0, np.dtype(("<f4", 4))),
}


@dataclass(frozen=True, eq=False)
class Features:
    """Features of N images."""

    rows: Places  # (N,) rows of the images in the manifest, ascending
    image_infos: tuple[ImageInfo, ...]  # properties of each original file
    thumbs: Pixels  # (M, 40, 40) uint8, the N images without their padding, stretched to squares; then without margins
    thumb_rows: Integers  # (N, 2) in `thumbs`: the image, and the image without margins; the same if it has none
    border: Floats32  # (N, 8) mean value and near-black fraction at the top, right, bottom and left edge, in [0, 1]
    brightness: Floats32  # (N, 7) mean, standard deviation and the percentiles 5, 25, 50, 75 and 95, in [0, 1]
    histogram: Floats32  # (N, 16) fractions that add up to 1
    texture: Floats32  # (N, 4) along rows and columns: one-pixel over two-pixel steps, and fraction of zero steps

    def __len__(self) -> int:
        return len(self.rows)

    def copies(self) -> dict[str, list[int]]:
        """Return the positions of images that decode to equal pixels, by the digest of the pixels."""
        found: dict[str, list[int]] = {}
        for place, info in enumerate(self.image_infos):
            found.setdefault(info.digest, []).append(place)
        return found


def compute_features(
    paths: Sequence[str], rows: Places, images: DecodedImages, progress: StageProgress = no_progress
) -> Features:
    """Compute the features of images, loading each image once; features of cached images are cached too."""
    wanted = [paths[row] for row in rows.tolist()]
    infos = images.infos(wanted)

    def compute() -> Columns:
        columns = {name: np.zeros(len(wanted), kind) for name, (_, kind) in _LAYOUT.items()}
        columns["thumb_rows"][:] = np.arange(len(wanted))[:, None]
        without_margins = list[Pixels]()
        for i, (path, info) in enumerate(zip(wanted, infos, strict=True)):
            image = _filled(images, path, info)
            columns["thumbs"][i] = thumbnail(image)
            if (inside := _inside_margins(image)) is not None:
                columns["thumb_rows"][i, 1] = len(wanted) + len(without_margins)
                without_margins.append(thumbnail(inside))
            columns["border"][i] = _border(image)
            columns["brightness"][i], columns["histogram"][i] = _brightness(image)
            columns["texture"][i] = _texture(image)
            if (i + 1) % _EVERY == 0 or i + 1 == len(wanted):
                progress("inspecting", i + 1, len(wanted))
        columns["thumbs"] = np.concatenate([columns["thumbs"], *(thumb[None] for thumb in without_margins)])
        return columns

    return Features(rows, tuple(infos), **images.computed(images.state(wanted), _LAYOUT, compute))


def detailed_thumbnails(paths: Sequence[str], features: Features, images: DecodedImages, places: Integers) -> Pixels:
    """Return (P, 64, 64) detailed versions of thumbnails, given by their places in `features.thumbs`."""
    member_of = np.empty(len(features.thumbs), np.intp)
    member_of[features.thumb_rows.T] = np.arange(len(features))
    found: Pixels = np.empty((len(places), DETAIL, DETAIL), np.uint8)
    for i, (place, member) in enumerate(zip(places, member_of[places].tolist(), strict=True)):
        image = _filled(images, paths[features.rows[member]], features.image_infos[member])
        if place != features.thumb_rows[member, 0]:
            inside = _inside_margins(image)
            image = image if inside is None else inside
        found[i] = thumbnail(image, DETAIL)
    return found


def thumbnail(image: Pixels, side: int = THUMB) -> Pixels:
    """Resize an image (H, W) to (side, side), ignoring its aspect ratio, which alignment recovers."""
    small = Image.fromarray(np.ascontiguousarray(image)).resize((side, side), Image.Resampling.BILINEAR)
    return np.asarray(small)


def _filled(images: DecodedImages, path: str, info: ImageInfo) -> Pixels:
    """Return an image without the padding that makes it a square."""
    return images.image(path)[filled_area(info.width, info.height, images.side)]


def _inside_margins(image: Pixels) -> Pixels | None:
    """Return the image without black, white or gray margins; None if they are a hundredth, or over half of a side."""
    if all(np.ptp(edge) > _PLAIN for edge in (image[0], image[-1], image[:, 0], image[:, -1])):
        return None  # the usual case
    inside = image
    for _ in range(2):  # rows, then columns as rows
        lines = np.flatnonzero(np.ptp(inside, axis=1) > _PLAIN)
        if len(lines) < 3:
            return None
        # Without the first line inside a margin, which scaling has mixed with the margin.
        inside = inside[lines[0] + (lines[0] > 0) : lines[-1] + (lines[-1] == len(inside) - 1)].T
    shares = [after / before for after, before in zip(inside.shape, image.shape, strict=True)]
    return inside if _LEAST_INSIDE <= min(shares) < _MOST_INSIDE else None


def _border(image: Pixels) -> Floats32:
    deep, wide = (max(1, round(n * _BORDER)) for n in image.shape)
    strips = image[:deep], image[:, -wide:], image[-deep:], image[:, :wide]
    values = [(x.sum(dtype=np.int64) / (255 * x.size), np.count_nonzero(x < NEAR_BLACK) / x.size) for x in strips]
    return np.array(values, np.float32).ravel()


def _texture(image: Pixels) -> Floats32:
    """Return how fine the texture is on every fourth line; noise, compression, scaling and gamma change it."""
    values = []
    for lines in (image[::4], image[:, ::4].T):
        levels = lines.astype(np.int16)
        step, two = levels[:, 1:] - levels[:, :-1], levels[:, 2:] - levels[:, :-2]
        values += [(np.abs(step).mean() + 0.1) / (np.abs(two).mean() + 0.1), np.count_nonzero(step == 0) / step.size]
    return np.array(values, np.float32)


def _brightness(image: Pixels) -> tuple[Floats32, Floats32]:
    """Return mean, standard deviation and percentiles, and the histogram, from the counts of the 256 values."""
    shares = np.array(Image.fromarray(np.ascontiguousarray(image)).histogram()) / image.size
    mean = float(shares @ _LEVELS)
    deviation = float(shares @ (_LEVELS - mean) ** 2) ** 0.5
    percentiles = _LEVELS[np.searchsorted(shares.cumsum(), _PERCENTILES)]
    histogram = np.add.reduceat(shares, _BIN_STARTS)
    return np.array([mean, deviation, *percentiles], np.float32), histogram.astype(np.float32)
