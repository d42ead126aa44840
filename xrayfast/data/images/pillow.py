"""PNG, JPEG, TIFF, BMP and WebP, decoded by Pillow."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from xrayfast.data.images.limits import require_few_scans, require_sensible_size
from xrayfast.data.images.radiograph import Pixels, Radiograph, apply_lut, scale_to_uint8
from xrayfast.errors import ReadError

_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP")
_HIGH_DEPTH_MODES = frozenset({"I", "I;16", "I;16L", "I;16B", "I;16N", "F"})
_BIT_DEPTHS = (8, 10, 12, 14, 15, 16)
_ORIENTATION_TAG, _PHOTOMETRIC_TAG, _WHITE_IS_ZERO = 274, 262, 0

_FEW_LEVELS = 64
"""A 16-bit colour channel whose high 8 bits have fewer levels than this holds an image of at most 14 bits."""


def decode_with_pillow(path: Path, stream: BinaryIO) -> Radiograph:
    """Decode an open file as `reader.read` documents.

    Raises:
        ReadError: no image that Pillow reads, damaged, truncated, or over a limit.
    """
    notes: list[str] = []
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with Image.open(_require_few_scans(path, stream), formats=_FORMATS) as image:
                require_sensible_size(path, *image.size)
                # Pillow calls a JPEG with embedded previews MPO.
                file_format, mode, bits = (image.format or "").replace("MPO", "JPEG"), image.mode, _bits(image)
                pixels = _to_gray(image, notes)
    except ReadError:
        raise
    except UnidentifiedImageError as error:
        formats = "DICOM, PNG, JPEG, TIFF, BMP or WebP"
        raise ReadError(f"{path}: found no image that can be read; expected {formats}. Convert it.") from error
    except Image.DecompressionBombError as error:
        raise ReadError(f"{path}: found an image of far too many pixels ({error}). Scale it down.") from error
    except Exception as error:  # Pillow's decoders raise nearly any type on damaged files.
        found = f"a damaged or truncated image ({error})"
        raise ReadError(f"{path}: found {found}; expected a whole one. Fetch it again.") from error
    # Not about many pixels, for which `limits` has its own.
    messages = {str(w.message) for w in caught if not issubclass(w.category, Image.DecompressionBombWarning)}
    notes += [f"Pillow: {message}" for message in sorted(messages)]
    return Radiograph(pixels, tuple(notes), file_format, mode, bits)


def _require_few_scans(path: Path, stream: BinaryIO) -> BinaryIO:
    """The same content, once it is no JPEG of too many scans."""
    is_jpeg = stream.read(2) == b"\xff\xd8"
    stream.seek(0)
    if is_jpeg:
        stream = io.BytesIO(stream.read())
        require_few_scans(path, stream.getvalue())
    return stream


def _bits(image: Image.Image) -> int:
    """Bits stored per sample, by Pillow's mode and the raw mode that its decoder unpacks."""
    if image.mode in ("I", "F"):
        return 32
    if image.mode in _HIGH_DEPTH_MODES or ";16" in str(getattr(image, "tile", ())[:1]):
        return 16
    return 1 if image.mode == "1" else 8


def _to_gray(image: Image.Image, notes: list[str]) -> Pixels:
    """The upright gray image, (H, W) uint8; adds what was done to `notes`."""
    reduced = _bits(image) == 16 and image.mode not in _HIGH_DEPTH_MODES
    # Before decoding, in which Pillow turns a TIFF upright and drops the tag. For a PNG, this decodes it.
    rotated = _is_rotated(image)
    # Pillow inverts WhiteIsZero TIFFs of up to 8 bits itself, but not those of 16.
    tags = getattr(image, "tag_v2", {})
    inverted = image.mode.startswith("I;16") and tags.get(_PHOTOMETRIC_TAG) == _WHITE_IS_ZERO
    image.load()
    upright = ImageOps.exif_transpose(image) if _is_rotated(image) else image  # which copies an upright one too
    if upright.mode in _HIGH_DEPTH_MODES:
        pixels = _scale_high_depth(upright, notes)
    else:
        if reduced:
            _require_many_levels(upright)
            notes.append("16-bit channels: the high 8 bits kept")
        pixels = _convert_8_bit(upright, notes)
    if inverted:
        pixels = 255 - pixels
        notes.append("WhiteIsZero inverted")
    if rotated:
        notes.append("EXIF orientation applied")
    # Not n_frames: counting the pages of a hostile TIFF takes hours.
    if getattr(image, "is_animated", False):
        notes.append("first of several frames")
    return pixels


def _is_rotated(image: Image.Image) -> bool:
    """Whether an EXIF orientation is still to be applied."""
    return image.getexif().get(_ORIENTATION_TAG, 1) in range(2, 9)


def _require_many_levels(image: Image.Image) -> None:
    """Refuse 16-bit colour where the high 8 bits, which Pillow keeps, hold next to nothing."""
    highest = max(int(band.getextrema()[1]) for band in image.convert("RGB").split())  # type: ignore[arg-type]
    if highest < _FEW_LEVELS:
        raise ValueError(f"16-bit colour that uses {highest + 1} of 256 levels; save it as 16-bit gray")


def _convert_8_bit(image: Image.Image, notes: list[str]) -> Pixels:
    """An image of 1 or 8 bits per channel as (H, W) uint8."""
    if image.has_transparency_data:
        notes.append("transparency laid on black")
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        image = Image.alpha_composite(black, image.convert("RGBA"))
    elif image.mode not in ("L", "RGB"):
        notes.append(f"mode {image.mode} converted to gray")
        if image.mode != "1":
            image = image.convert("RGB")
    return np.array(image if image.mode == "L" else image.convert("L"), dtype=np.uint8)


def _scale_high_depth(image: Image.Image, notes: list[str]) -> Pixels:
    """An image of more than 8 bits as (H, W) uint8, scaled as `reader.read` documents."""
    values = np.asarray(image)
    if values.dtype.kind == "u":
        full = _full_scale(float(values.max()), is_float=False)
        notes.append(f"16-bit scaled from 0..{full:g}")
        return apply_lut(scale_to_uint8(np.arange(full + 1), full), values)
    values = values.astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError("some pixels are not finite numbers")
    if values.min() < 0:
        notes.append(f"minimum {values.min():g} taken as 0")
        values -= values.min()
    full = _full_scale(float(values.max()), is_float=image.mode == "F")
    notes.append(f"32-bit scaled from 0..{full:g}")
    return scale_to_uint8(values, full)


def _full_scale(maximum: float, is_float: bool) -> float:
    if is_float and 0 < maximum <= 1:
        return 1.0
    ranges = (2**bits - 1 for bits in _BIT_DEPTHS)
    return float(next((full for full in ranges if maximum <= full), maximum))
