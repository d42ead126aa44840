"""Decoding of PNG, JPEG, TIFF, BMP and WebP with Pillow."""

from __future__ import annotations

import io
import os
import re
import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from xrayfast.data.images.bits import corner_pixels, find_surround, has_other_sign
from xrayfast.data.images.jpeg import lacks_last_rows, note_wrong_length
from xrayfast.data.images.limits import MAX_PIXELS, require_enough_data, require_few_scans, require_sensible_size
from xrayfast.data.images.notes import Note
from xrayfast.data.images.radiograph import Pixels, Radiograph, apply_lut, scale_to_uint8
from xrayfast.errors import ReadError

_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP")
_HIGH_DEPTH_MODES = frozenset({"I", "I;16", "I;16L", "I;16B", "I;16N", "F"})
_BIT_DEPTHS = (8, 10, 12, 14, 15, 16)
_ORIENTATION_TAG, _PHOTOMETRIC_TAG, _WHITE_IS_ZERO = 274, 262, 0

_LEAST_OFFSET = 1 << 14
"""Unsigned 16-bit values that start here or above and reach at most half as far again have an offset, such as 2**15."""

_FEW_LEVELS = 64
"""A 16-bit color channel whose high 8 bits have fewer levels than this holds an image of at most 14 bits."""

_COLORS, _PROBED = 24, [(x, 7 * x % 16) for x in range(1, 16)]
"""Places, in sixteenths of width and height, that are probed for color; if one has any, this many rows and columns of
pixels are looked at."""

_CHROMA = 48  # least difference between the channels of a colored pixel
_COLORED_SHARE = 0.02
_MARKED_LINES = 3  # least number of lines with a colored pixel
_TINT = 3  # gray levels between the means of the channels; JPEG adds less to gray
_ONE_HUE = 0.975  # mean resultant length of hues, above which they are a tint

_LINES, _APART = 32, 16  # least number, and largest distance, of lines in which colored marks are looked for

_LEAST_STEP, _STEPS = 256, 256  # fewest bytes of a JPEG that are decoded in a step, and the number of steps

_COARSE = 7400
"""The sum of a JPEG's 64 quantization steps for luminance at quality 25; in 7,801 radiographs it is at most 736."""

_STRONG = 40  # ratio of decoded to encoded bytes; the Canadian Association of Radiologists allows 30 (2011)
_WEBP_GAIN = 1.5

_LOSSLESS_WEBP, _WEBP_HEAD = b"VP8L", 64  # name of the chunk, and the first bytes of a file, which contain it

_OF_SCREENS = 0.4, 0.6  # gamma in a PNG's header that screens have too; 0.455 in sRGB

_SQUARE = 0.02  # share by which the resolutions of square pixels differ at most

_HELD = 0.995
"""The share of the pixels that full scale must include: hot pixels and burned-in markers may exceed it."""


def decode_with_pillow(path: Path, stream: BinaryIO) -> Radiograph:
    """Decode an open file as `reader.read` documents."""
    notes: list[str] = []
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            jpeg = _read_jpeg(path, stream)
            with Image.open(jpeg or stream, formats=_FORMATS) as image:
                require_sensible_size(path, *image.size)
                # Pillow calls a JPEG with embedded previews MPO.
                file_format, mode, bits = (image.format or "").replace("MPO", "JPEG"), image.mode, _bits(image)
                if jpeg:
                    require_enough_data(path, jpeg.getvalue(), *image.size)
                    # With small steps, reading stops near the end of the last row that the header claims.
                    image.decodermaxblock = max(_LEAST_STEP, len(jpeg.getbuffer()) // _STEPS)
                pixels = _to_gray(image, bits, notes)
                wrong_length = note_wrong_length(jpeg) if jpeg else []
                ratio = pixels.size / _lossy_bytes(jpeg or stream, file_format)
                notes += wrong_length or describe_compression(ratio, webp=file_format == "WEBP")
    except ReadError:
        raise
    except UnidentifiedImageError as error:
        formats = "DICOM, PNG, JPEG, TIFF, BMP or WebP"
        raise ReadError(f"{path}: found no image that can be read; expected {formats}. Convert the file.") from error
    except Image.DecompressionBombError as error:
        counted = re.search(r"\d+", str(error))  # Pillow refuses before the size can be read, with a limit of its own
        found = f"{int(counted[0]):,} pixels" if counted else "too many pixels"
        raise ReadError(
            f"{path}: found {found}; expected at most {MAX_PIXELS // 10**6} million. Scale the image down."
        ) from error
    except Exception as error:  # Pillow's decoders raise nearly any type on damaged files.
        found = f"a damaged or truncated image ({error})"
        raise ReadError(f"{path}: found {found}; expected a whole image. Fetch the file again.") from error
    # Without Pillow's warning about many pixels, for which `limits` has its own limit.
    messages = {str(w.message) for w in caught if not issubclass(w.category, Image.DecompressionBombWarning)}
    notes += [Note.PILLOW(message) for message in sorted(messages)]
    return Radiograph(pixels, tuple(notes), file_format, mode, bits)


def describe_compression(ratio: float, *, webp: bool = False) -> list[str]:
    """Return a note on an image that lossy compression made `ratio` times smaller, if that is too much.

    In 7,801 radiographs, the ratio is at most 11. WebP takes two thirds of JPEG's bytes for the same quality.
    """
    ratio_as_jpeg = ratio / _WEBP_GAIN if webp else ratio
    return [Note.COMPRESSED(min(ratio, 9999))] if ratio_as_jpeg >= _STRONG else []


def _lossy_bytes(stream: BinaryIO, file_format: str) -> float:
    """Return the length in bytes of an image with lossy compression; infinity for other images."""
    if file_format not in ("JPEG", "WEBP"):
        return float("inf")
    stream.seek(0)
    is_lossless = _LOSSLESS_WEBP in stream.read(_WEBP_HEAD) and file_format == "WEBP"
    return float("inf") if is_lossless else stream.seek(0, os.SEEK_END)


def gray_pixels(image: Image.Image) -> Pixels:
    """Return an image in memory as (H, W) uint8, as `reader.read` would read it from a file."""
    return _to_gray(image, _bits(image), [])


def _read_jpeg(path: Path, stream: BinaryIO) -> io.BytesIO | None:
    """Return the content of a JPEG, and refuse one with too many scans; None for another format.

    The stream of another format is then at its start.
    """
    is_jpeg = stream.read(2) == b"\xff\xd8"
    stream.seek(0)
    if not is_jpeg:
        return None
    jpeg = io.BytesIO(stream.read())
    require_few_scans(path, jpeg.getvalue())
    return jpeg


def _bits(image: Image.Image) -> int:
    """Return the bits stored per sample, according to Pillow's mode and the raw mode that its decoder unpacks."""
    if image.mode in ("I", "F"):
        return 32
    tiles = getattr(image, "tile", ())
    if image.mode in _HIGH_DEPTH_MODES or (tiles and ";16" in str(tiles[0][3])):
        return 16
    return 1 if image.mode == "1" else 8


def _to_gray(image: Image.Image, bits: int, notes: list[str]) -> Pixels:
    """Return the upright gray image, (H, W) uint8, and add what was done to `notes`."""
    reduced = bits == 16 and image.mode not in _HIGH_DEPTH_MODES
    # Checked before decoding, in which Pillow turns a TIFF upright and drops the tag. The check decodes a PNG.
    rotated = _is_rotated(image)
    # Pillow itself inverts WhiteIsZero TIFFs of up to 8 bits, but not of 16 bits.
    tags = getattr(image, "tag_v2", {})
    inverted = image.mode.startswith("I;16") and tags.get(_PHOTOMETRIC_TAG) == _WHITE_IS_ZERO
    image.load()
    if lacks_last_rows(image):
        notes.append(Note.MISSING_ROWS())
    # exif_transpose would copy an upright image too.
    upright = ImageOps.exif_transpose(image) if rotated and _is_rotated(image) else image
    if upright.mode in _HIGH_DEPTH_MODES:
        pixels = _scale_high_depth(upright, notes, inverted=inverted)
    else:
        if reduced:
            _require_many_levels(upright)
            notes.append(Note.HIGH_BITS())
        pixels = _convert_8_bit(upright, notes)
    if inverted:
        notes.append(Note.WHITE_IS_ZERO())
    if rotated:
        notes.append(Note.EXIF())
    if sum(getattr(image, "quantization", {}).get(0, ())) > _COARSE:
        notes.append(Note.LOW_QUALITY())
    gamma = image.info.get("gamma")
    if gamma and not _OF_SCREENS[0] < gamma < _OF_SCREENS[1]:
        notes.append(Note.GAMMA(gamma))
    across, down = (image.info.get("dpi") or (1, 1))[:2]
    if across > 0 and down > 0 and not 1 - _SQUARE < across / down < 1 + _SQUARE:
        notes.append(Note.NOT_SQUARE())
    # Not n_frames: counting the pages of a hostile TIFF takes hours.
    if getattr(image, "is_animated", False):
        notes.append(Note.FIRST_FRAME())
    return pixels


def _is_rotated(image: Image.Image) -> bool:
    """Whether an EXIF orientation is still to be applied."""
    return image.getexif().get(_ORIENTATION_TAG, 1) in range(2, 9)


def _require_many_levels(image: Image.Image) -> None:
    """Refuse 16-bit color whose high 8 bits, which are all that Pillow keeps, have only few levels."""
    counts = np.reshape(image.convert("RGB").histogram(), (3, 256)).cumsum(axis=1)
    highest = int(max(np.searchsorted(own, _HELD * own[-1]) for own in counts))
    if highest < _FEW_LEVELS:
        raise ValueError(f"16-bit color whose high 8 bits have only {highest + 1} levels; save it as 16-bit gray")


def _convert_8_bit(image: Image.Image, notes: list[str]) -> Pixels:
    """Return an image of 1 or 8 bits per channel as (H, W) uint8."""
    if image.has_transparency_data and (opacity := image.convert("RGBA").getchannel("A").getextrema()) != (255, 255):
        notes.append(Note.TRANSPARENT() if opacity == (0, 0) else Note.PARTLY_TRANSPARENT())
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        image = Image.alpha_composite(black, image.convert("RGBA")).convert("RGB")
    elif image.mode not in ("L", "RGB"):
        notes.append(Note.MODE(image.mode))
        if image.mode != "1":
            image = image.convert("RGB")
    if image.mode == "RGB":
        notes += describe_image_colors(image)
    return np.array(image if image.mode == "L" else image.convert("L"), dtype=np.uint8)


def describe_image_colors(image: Image.Image) -> list[str]:
    """Return notes on the colors of an RGB image; for most images, which are gray, a few pixels and lines are enough.

    A mark of 60 pixels along one axis is found in an image of any size.
    """
    pixel, (width, height) = image.load(), image.size
    assert pixel is not None
    notes: list[str] = []
    for x, y in _PROBED:
        red, green, blue = pixel[width * x // 16, height * y // 16]  # type: ignore[misc]
        if not red == green == blue:
            notes = _describe_colors(image.resize((_COLORS, _COLORS), Image.Resampling.NEAREST).tobytes())
            break
    if notes not in ([], [Note.TINTED()]):
        return notes
    across, down = (min(side, max(_LINES, -(-side // _APART))) for side in image.size)
    rows, columns = (image.resize(size, Image.Resampling.NEAREST) for size in ((width, down), (across, height)))
    columns = columns.transpose(Image.Transpose.TRANSPOSE)
    if any(_has_colored_marks(lines.tobytes(), lines.width) for lines in (rows, columns)):
        notes = [*notes, Note.COLORED_MARKS()]
    return notes


def _describe_colors(rgb: bytes) -> list[str]:
    """Return notes on the color of some of an image's pixels, three bytes each.

    The color that JPEG adds to gray gets no note.
    """
    red, green, blue = rgb[::3], rgb[1::3], rgb[2::3]
    if red == green == blue:  # the usual case
        return []
    channels = np.frombuffer(rgb, np.uint8).reshape(-1, 3).astype(np.float64)
    is_colored = np.ptp(channels, axis=1) > _CHROMA
    colored, share = channels[is_colored], float(is_colored.mean())
    if share < _COLORED_SHARE:
        return [Note.TINTED()] * bool(np.ptp(channels[~is_colored].mean(axis=0)) > _TINT)
    hues = colored @ np.exp(2j * np.pi / 3 * np.arange(3))
    if share > 0.5 and abs((hues / np.abs(hues)).mean()) < _ONE_HUE:
        return [Note.COLOR_CODED()]
    return [Note.COLORED(share)]


def _has_colored_marks(rgb: bytes, width: int) -> bool:
    """Whether 3 or more rows have a strongly colored pixel, as with thin lines; `rgb` has three bytes per pixel."""
    if rgb[::3] == rgb[1::3] == rgb[2::3]:
        return False
    channels = np.frombuffer(rgb, np.uint8).reshape(-1, width, 3)
    colored = (channels.max(axis=2) - channels.min(axis=2)) > _CHROMA
    return int(np.count_nonzero(colored.any(axis=1))) >= _MARKED_LINES


def _scale_high_depth(image: Image.Image, notes: list[str], *, inverted: bool) -> Pixels:
    """Return an image of more than 8 bits as (H, W) uint8, scaled as `reader.read` documents."""
    values = np.asarray(image)
    if values.dtype == np.uint16 and values.max() >= 3 << 14 and _is_signed(values):
        notes.append(Note.OTHER_SIGN("signed", "unsigned"))
        values = values.view(np.int16)
    if values.dtype.kind == "u":
        pixels, is_around = _scale_codes(values, notes, inverted)
    else:
        pixels, is_around = _scale_numbers(values.astype(np.float64), image, notes)
    if inverted:
        pixels = 255 - pixels
        if is_around is not None:
            pixels[is_around] = 0
    return pixels


def _scale_codes(
    values: npt.NDArray[np.uint16], notes: list[str], inverted: bool
) -> tuple[Pixels, npt.NDArray[np.bool_] | None]:
    """Scale unsigned values; return also where a surround was set to black, if anywhere."""
    is_around = None
    counts = np.bincount(values.ravel(), minlength=1 << 16)
    surround = find_surround(np.arange(1 << 16), counts, corner_pixels(values))
    if surround is not None and (surround or inverted):  # 0 is black already, unless inverted
        notes.append(Note.SURROUND(surround))
        is_around = values == surround
        values = np.where(is_around, np.uint16(0), values)
    least, highest = int((values if surround is None else values[values > 0]).min()), float(values.max())
    if least >= _LEAST_OFFSET and 0 < highest - least <= least / 2:
        notes.append(Note.OFFSET(least))
        values, highest = np.maximum(values, least) - np.uint16(least), highest - least
    full = _full_scale_of_codes(values, highest)
    _note_scale(notes, 16, full, highest)
    return apply_lut(scale_to_uint8(np.arange(highest + 1, dtype=np.float64), full), values), is_around


def _scale_numbers(
    values: npt.NDArray[np.float64], image: Image.Image, notes: list[str]
) -> tuple[Pixels, npt.NDArray[np.bool_] | None]:
    """Scale signed or floating-point values of the image, in place; return the same as `_scale_codes`."""
    if not np.isfinite(values).all():
        raise ValueError("some pixels are not finite numbers")
    is_around, low, is_float = None, 0.0, image.mode == "F"
    if values.min() < 0:
        found, of_found = np.unique(values, return_counts=True)
        if (surround := find_surround(found, of_found, corner_pixels(values))) is not None:
            is_around = values == found[surround]
            values[is_around] = min(0.0, values[~is_around].min())
            notes.append(Note.SURROUND(found[surround]))
    if (lowest := float(values.min())) < 0:
        low = min(0.0, float(np.quantile(values, 1 - _HELD, method="lower")))
        notes.append(Note.MINIMUM(low) if low == lowest else Note.BELOW(low))
        values -= low
    held = float(np.quantile(values, _HELD, method="higher"))
    # Floats around 0 are standardized values, of any scale.
    full = held if is_float and low < 0 < held else _full_scale(held, is_float=is_float)
    _note_scale(notes, _bits(image), full, float(values.max()))
    return scale_to_uint8(values, full), is_around


def _note_scale(notes: list[str], bits: int, full: float, highest: float) -> None:
    notes.append(Note.SCALED(bits, full))
    if highest > full:
        notes.append(Note.ABOVE(full, highest))


def _is_signed(values: npt.NDArray[np.uint16]) -> bool:
    return has_other_sign(values, np.bincount(values.ravel(), minlength=1 << 16), 16, signed=False)


def _full_scale_of_codes(values: npt.NDArray[np.uint16], highest: float) -> float:
    """Return the smallest range that holds nearly all values but the highest, which may be that of a large marker.

    The only value of an image is held too. The values are not sorted, which would take ten times as long.
    """
    full, marked = _full_scale(highest, is_float=False), np.count_nonzero(values == highest) % values.size
    for smaller in [2**bits - 1 for bits in reversed(_BIT_DEPTHS) if 2**bits - 1 < full]:
        if np.count_nonzero(values > smaller) - marked > (1 - _HELD) * values.size:
            break
        full = smaller
    return full


def _full_scale(maximum: float, is_float: bool) -> float:
    if is_float and 0 < maximum <= 1:
        return 1.0
    ranges = (2**bits - 1 for bits in _BIT_DEPTHS)
    return float(next((full for full in ranges if maximum <= full), maximum))
