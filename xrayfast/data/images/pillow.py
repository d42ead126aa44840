"""PNG, JPEG, TIFF, BMP and WebP, decoded by Pillow."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from xrayfast.data.images.radiograph import (
    Pixels,
    Radiograph,
    looked_up,
    require_few_scans,
    require_sensible_size,
    to_levels,
)
from xrayfast.errors import ReadError

_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP")
_JPEG_START = b"\xff\xd8"
_HIGH_DEPTH_MODES = frozenset({"I", "I;16", "I;16L", "I;16B", "I;16N", "F"})
_BIT_DEPTHS = (8, 10, 12, 14, 15, 16)
_ORIENTATION_TAG, _PHOTOMETRIC_TAG, _WHITE_IS_ZERO = 274, 262, 0

_FEW_LEVELS = 64
"""A colour channel of 16 bits that comes down to fewer levels than this holds a film of at most 14 bits."""


def decode(path: Path, stream: BinaryIO) -> Radiograph:
    """Decode an open file by the rules that `radiograph.read` states.

    Args:
        path: its name, for messages.
        stream: at its start.

    Raises:
        ReadError: no image that Pillow reads, damaged, truncated, too large or too long.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        radiograph = _decode(path, stream)
    said = {f"Pillow: {warning.message}" for warning in caught if not _is_about_size(warning)}
    notes = radiograph.notes + tuple(sorted(said))
    return Radiograph(radiograph.pixels, notes, radiograph.format, radiograph.mode, radiograph.bits)


def _decode(path: Path, stream: BinaryIO) -> Radiograph:
    """Decode the stream; any failure of the decoder is a ReadError with the path."""
    try:
        with Image.open(_bounded(path, stream), formats=_FORMATS) as image:
            require_sensible_size(path, *image.size)
            notes: list[str] = []
            # A JPEG with previews inside calls itself MPO.
            form, mode, bits = (image.format or "").replace("MPO", "JPEG"), image.mode, _bits(image)
            pixels = _displayed(image, notes)
        return Radiograph(pixels, tuple(notes), form, mode, bits)
    except ReadError:
        raise
    except Exception as error:  # Pillow's decoders raise nearly any type on damaged files.
        raise _failure(path, error) from error


def _bounded(path: Path, stream: BinaryIO) -> BinaryIO:
    """The same content; a JPEG only where it has few scans."""
    start = stream.read(len(_JPEG_START))
    stream.seek(0)
    if start != _JPEG_START:
        return stream
    content = stream.read()
    require_few_scans(path, content)
    return io.BytesIO(content)


def _failure(path: Path, error: Exception) -> ReadError:
    if isinstance(error, UnidentifiedImageError):
        return ReadError(
            f"{path}: found no image that can be read; expected DICOM, PNG, JPEG, TIFF, BMP or WebP. Convert it."
        )
    if isinstance(error, Image.DecompressionBombError):
        return ReadError(f"{path}: found an image of far too many pixels ({error}). Scale it down.")
    return ReadError(f"{path}: found a damaged or truncated image ({error}); expected a whole one. Fetch it again.")


def _bits(image: Image.Image) -> int:
    """Bits stored a sample, by Pillow's mode and by what its decoder is to unpack."""
    if image.mode in ("I", "F"):
        return 32
    if image.mode in _HIGH_DEPTH_MODES or ";16" in str(getattr(image, "tile", ())[:1]):
        return 16
    return 1 if image.mode == "1" else 8


def _displayed(image: Image.Image, notes: list[str]) -> Pixels:
    """The upright gray image as (H, W) uint8; what was done is added to the notes."""
    halved = _bits(image) == 16 and image.mode not in _HIGH_DEPTH_MODES
    # Asked for before decoding, because Pillow turns a TIFF upright, and forgets the tag, as it decodes; a PNG is
    # decoded by being asked.
    turned = _is_turned(image)
    inverted = _stores_white_as_zero(image)
    image.load()
    # What lies upright already would only be copied.
    upright = ImageOps.exif_transpose(image) if _is_turned(image) else image
    if upright.mode in _HIGH_DEPTH_MODES:
        pixels = _scaled(upright, notes)
    else:
        if halved:
            _require_many_levels(upright)
            notes.append("16-bit channels: the high 8 bits kept")
        pixels = _gray(upright, notes)
    if inverted:
        pixels = 255 - pixels
        notes.append("WhiteIsZero inverted")
    if turned:
        notes.append("EXIF orientation applied")
    # Not n_frames: counting the pages of a hostile TIFF takes hours.
    if getattr(image, "is_animated", False):
        notes.append("first of several frames")
    return pixels


def _is_turned(image: Image.Image) -> bool:
    """Whether an EXIF orientation is still to be applied."""
    return image.getexif().get(_ORIENTATION_TAG, 1) in range(2, 9)


def _stores_white_as_zero(image: Image.Image) -> bool:
    """Whether a TIFF is WhiteIsZero; Pillow inverts those of up to 8 bits itself, but not those of 16."""
    tags = getattr(image, "tag_v2", {})
    return image.mode.startswith("I;16") and tags.get(_PHOTOMETRIC_TAG) == _WHITE_IS_ZERO


def _require_many_levels(image: Image.Image) -> None:
    """Refuse colour of 16 bits a channel, of which Pillow keeps 8, where those 8 hold next to nothing."""
    highest = max(int(band.getextrema()[1]) for band in image.convert("RGB").split())  # type: ignore[arg-type]
    if highest < _FEW_LEVELS:
        raise ValueError(
            f"colour of 16 bits a channel that fills {highest + 1} of 256 levels; save it as gray of 16 bits"
        )


def _gray(image: Image.Image, notes: list[str]) -> Pixels:
    """An image of 1 or 8 bits a channel as (H, W) uint8."""
    if image.has_transparency_data:
        notes.append("transparency laid on black")
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        image = Image.alpha_composite(black, image.convert("RGBA"))
    elif image.mode not in ("L", "RGB"):
        notes.append(f"mode {image.mode} converted to gray")
        if image.mode != "1":
            image = image.convert("RGB")
    return np.array(image if image.mode == "L" else image.convert("L"), dtype=np.uint8)


def _scaled(image: Image.Image, notes: list[str]) -> Pixels:
    """An image of more than 8 bits as (H, W) uint8, by the rule that `radiograph.read` states."""
    values = np.asarray(image)
    if values.dtype.kind == "u":
        full = _full_scale(float(values.max()), is_float=False)
        notes.append(f"16-bit scaled from 0..{full:g}")
        return looked_up(to_levels(np.arange(full + 1), full), values)
    values = values.astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError("some pixels are not finite numbers")
    if values.min() < 0:
        notes.append(f"minimum {values.min():g} taken as 0")
        values -= values.min()
    full = _full_scale(float(values.max()), is_float=image.mode == "F")
    notes.append(f"32-bit scaled from 0..{full:g}")
    return to_levels(values, full)


def _full_scale(maximum: float, is_float: bool) -> float:
    if is_float and 0 < maximum <= 1:
        return 1.0
    fulls = (2**bits - 1 for bits in _BIT_DEPTHS)
    return float(next((full for full in fulls if maximum <= full), maximum))


def _is_about_size(warning: warnings.WarningMessage) -> bool:
    """Whether Pillow warns of many pixels, for which this package has its own limit."""
    return issubclass(warning.category, Image.DecompressionBombWarning)
