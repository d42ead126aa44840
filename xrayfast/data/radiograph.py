"""One image file to one array of the picture that it shows, whatever the encoding."""

from __future__ import annotations

import stat
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from xrayfast.errors import ReadError

Pixels: TypeAlias = npt.NDArray[np.uint8]

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})
"""Endings, in lower case, by which a file counts as an image."""

MAX_PIXELS = 150_000_000
"""The largest picture decoded: five times the largest detectors in use, and below the size at which Pillow
itself refuses, so that the limit and its message are ours."""

_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP")
_DICOM_SUFFIXES = frozenset({".dcm", ".dicom"})
_HIGH_DEPTH_MODES = frozenset({"I", "I;16", "I;16L", "I;16B", "I;16N", "F"})
_BIT_DEPTHS = (8, 10, 12, 14, 15, 16)
_ORIENTATION_TAG, _PHOTOMETRIC_TAG, _WHITE_IS_ZERO = 274, 262, 0


@dataclass(frozen=True)
class Radiograph:
    """One picture as a viewer shows it.

    Attributes:
        pixels: (H, W) uint8, 0 black to 255 white.
        notes: what was done to the stored values on the way, in the order done; empty for plain 8-bit gray.
    """

    pixels: Pixels
    notes: tuple[str, ...] = ()


def read(path: Path | str) -> Radiograph:
    """Read a PNG, JPEG, TIFF, BMP or WebP file as the gray picture that it shows.

    Values of more than 8 bits are scaled, never clipped: full scale is the smallest of the 8, 10, 12, 14, 15
    and 16-bit ranges that holds the picture's maximum, and a value v becomes `round(v * 255 / full)`. So a
    12-bit film stored in 16 bits keeps its brightness whether or not it reaches 4095. Larger maxima are full
    scale themselves, as is 1 for floating-point pictures within 0..1; where there are negative values the
    minimum is taken as 0. Colours become luma (ITU-R BT.601), transparency is laid on black, an EXIF
    orientation is applied, and of several frames the first is taken.

    Raises:
        ReadError: the path is no regular file that can be opened, or what it holds is empty, truncated,
            damaged, too large, no image, or DICOM.
    """
    path = Path(path)
    _require_regular_file(path)
    try:
        with path.open("rb") as stream, warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            _require_image_bytes(path, stream)
            radiograph = _decode(path, stream)
    except OSError as error:
        raise ReadError(f"{path}: can't be read ({error.strerror or error}). Check the file.") from error
    said = {f"Pillow: {warning.message}" for warning in caught if not _is_about_size(warning)}
    return Radiograph(radiograph.pixels, radiograph.notes + tuple(sorted(said)))


def fit_square(pixels: Pixels, size: int) -> Pixels:
    """The whole picture in a square: the longer side becomes `size`, the rest is black, the picture centred.

    Args:
        pixels: (H, W) uint8.
        size: the side of the square in pixels.

    Returns:
        (size, size) uint8; the same array where it already has that shape. Bilinear, with Pillow's
        antialiasing when it shrinks.
    """
    if pixels.shape == (size, size):
        return pixels
    height, width = pixels.shape
    scale = size / max(height, width)
    new_height, new_width = max(1, round(height * scale)), max(1, round(width * scale))
    resized = Image.fromarray(pixels).resize((new_width, new_height), Image.Resampling.BILINEAR)
    top, left = (size - new_height) // 2, (size - new_width) // 2
    square = np.zeros((size, size), np.uint8)
    square[top : top + new_height, left : left + new_width] = np.asarray(resized)
    return square


def _require_regular_file(path: Path) -> None:
    """Refuse what opening would hang on (a FIFO) or explain badly."""
    try:
        status = path.stat()
    except FileNotFoundError as error:
        found = "a link to nothing" if path.is_symlink() else "no such file"
        raise ReadError(f"{path}: found {found}; expected an image file. Check the path.") from error
    except (OSError, ValueError) as error:
        raise ReadError(f"{path}: can't be read ({error}). Check the path and its permissions.") from error
    if stat.S_ISDIR(status.st_mode):
        raise ReadError(f"{path}: found a folder; expected an image file. Name the files in it.")
    if not stat.S_ISREG(status.st_mode):
        raise ReadError(f"{path}: found a pipe, socket or device; expected a regular image file. Remove it.")
    if status.st_size == 0:
        raise ReadError(f"{path}: found an empty file; expected an image. Fetch the file again.")


def _require_image_bytes(path: Path, stream: BinaryIO) -> None:
    """Refuse by its first bytes what is often mistaken for an image."""
    head = stream.read(132)
    stream.seek(0)
    if path.suffix.lower() in _DICOM_SUFFIXES or head[128:] == b"DICM":
        raise ReadError(f"{path}: found DICOM; expected an image. DICOM is not read yet; convert to PNG.")
    if head.lstrip()[:1] == b"<":
        raise ReadError(f"{path}: found HTML or XML text; expected an image. A download may have saved an error page.")


def _decode(path: Path, stream: BinaryIO) -> Radiograph:
    """Decode the stream; any failure of the decoder is a ReadError with the path."""
    try:
        with Image.open(stream, formats=_FORMATS) as image:
            _require_sensible_size(path, image.size)
            notes: list[str] = []
            pixels = _displayed(image, notes)
        return Radiograph(pixels, tuple(notes))
    except ReadError:
        raise
    except UnidentifiedImageError as error:
        raise ReadError(
            f"{path}: found no image that can be read; expected PNG, JPEG, TIFF, BMP or WebP. Convert it."
        ) from error
    except Image.DecompressionBombError as error:
        raise ReadError(f"{path}: found a picture of far too many pixels ({error}). Scale it down.") from error
    except Exception as error:  # Pillow's decoders raise nearly any type on damaged files.
        raise ReadError(
            f"{path}: found a damaged or truncated image ({error}); expected a whole one. Fetch it again."
        ) from error


def _require_sensible_size(path: Path, size: tuple[int, int]) -> None:
    width, height = size
    if width * height > MAX_PIXELS:
        raise ReadError(
            f"{path}: found {width} x {height} pixels; expected at most {MAX_PIXELS // 10**6} million. "
            "Scale the picture down."
        )


def _displayed(image: Image.Image, notes: list[str]) -> Pixels:
    """The upright gray picture as (H, W) uint8; what was done is added to the notes."""
    frames = getattr(image, "n_frames", 1)
    # Asked for before decoding, because Pillow turns a TIFF upright, and forgets the tag, as it decodes.
    turned = image.getexif().get(_ORIENTATION_TAG, 1) in range(2, 9)
    inverted = _stores_white_as_zero(image)
    image.load()
    upright = ImageOps.exif_transpose(image)
    pixels = _scaled(upright, notes) if upright.mode in _HIGH_DEPTH_MODES else _gray(upright, notes)
    if inverted:
        pixels = 255 - pixels
        notes.append("WhiteIsZero inverted")
    if turned:
        notes.append("EXIF orientation applied")
    if frames > 1:
        notes.append(f"first of {frames} frames")
    return pixels


def _stores_white_as_zero(image: Image.Image) -> bool:
    """Whether a TIFF is WhiteIsZero; Pillow inverts those of up to 8 bits itself, but not those of 16."""
    tags = getattr(image, "tag_v2", {})
    return image.mode.startswith("I;16") and tags.get(_PHOTOMETRIC_TAG) == _WHITE_IS_ZERO


def _gray(image: Image.Image, notes: list[str]) -> Pixels:
    """A picture of 1 or 8 bits a channel as (H, W) uint8."""
    if image.has_transparency_data:
        notes.append("transparency laid on black")
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        image = Image.alpha_composite(black, image.convert("RGBA"))
    elif image.mode not in ("L", "RGB"):
        notes.append(f"mode {image.mode} converted to gray")
        if image.mode != "1":
            image = image.convert("RGB")
    return np.array(image.convert("L"), dtype=np.uint8)


def _scaled(image: Image.Image, notes: list[str]) -> Pixels:
    """A picture of more than 8 bits as (H, W) uint8, by the rule that `read` states."""
    values = np.asarray(image).astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError("some pixels are not finite numbers")
    if values.min() < 0:
        notes.append(f"minimum {values.min():g} taken as 0")
        values -= values.min()
    full = _full_scale(float(values.max()), is_float=image.mode == "F")
    notes.append(f"{'32' if image.mode in 'IF' else '16'}-bit scaled from 0..{full:g}")
    # The half is added and cut, not np.rint: halves go up everywhere, not to the nearest even number.
    return np.floor(values * (255 / full) + 0.5).astype(np.uint8)


def _full_scale(maximum: float, is_float: bool) -> float:
    if is_float and 0 < maximum <= 1:
        return 1.0
    fulls = (2**bits - 1 for bits in _BIT_DEPTHS)
    return float(next((full for full in fulls if maximum <= full), maximum))


def _is_about_size(warning: warnings.WarningMessage) -> bool:
    """Whether Pillow warns of many pixels, for which this module has its own limit."""
    return issubclass(warning.category, Image.DecompressionBombWarning)
