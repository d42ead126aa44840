"""What reading an image file hands back, and the limits that every decoder keeps."""

from __future__ import annotations

import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from xrayfast.errors import ReadError

Pixels: TypeAlias = npt.NDArray[np.uint8]

MAX_BYTES = 2**30
"""The largest file read: an uncompressed image of MAX_PIXELS in 16-bit colour nearly fills it."""

MAX_PIXELS = 150_000_000
"""The largest image decoded: five times the largest detectors in use, and below the size at which Pillow
itself refuses, so that the limit and its message are ours."""

MAX_ASPECT = 20
"""The longest image decoded, longer side to shorter: whole spines and legs stay below 8; a strip beyond this is
no radiograph, and nothing of it is left in a square."""

MAX_JPEG_SCANS = 100
"""The most scans of one JPEG: a few kilobytes of empty scans would otherwise keep the decoder busy for hours;
progressive files have about ten."""

_BLOCK = 2**15  # pixels


@dataclass(frozen=True)
class Radiograph:
    """One image as a viewer shows it.

    Attributes:
        pixels: (H, W) uint8, 0 black to 255 white.
        notes: what was done to the stored values on the way, in the order done; empty for plain 8-bit gray.
        format: of the file: "PNG", "JPEG", "TIFF", "BMP", "WEBP" or "DICOM".
        mode: Pillow's mode, such as "L", "RGB" or "I;16"; DICOM's photometric interpretation.
        bits: bits stored a sample.
    """

    pixels: Pixels
    notes: tuple[str, ...] = ()
    format: str = ""
    mode: str = "L"
    bits: int = 8


def require_regular_file(path: Path) -> None:
    """Refuse what opening would hang on (a FIFO), explain badly, or not end.

    Raises:
        ReadError: no file, a folder, a pipe, an empty file, or one of more than MAX_BYTES.
    """
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
    if status.st_size > MAX_BYTES:
        raise ReadError(
            f"{path}: found a file of {status.st_size / 2**30:.1f} GiB; expected at most {MAX_BYTES // 2**30}. "
            "Leave it out, or save the image alone."
        )


def require_sensible_size(path: Path, width: int, height: int) -> None:
    """Refuse images of no, too many or too oddly placed pixels, before they are decoded.

    Raises:
        ReadError: no pixels, more than MAX_PIXELS, or one side more than MAX_ASPECT times the other.
    """
    if width < 1 or height < 1:
        raise ReadError(f"{path}: found {width} x {height} pixels; expected an image. Fetch the file again.")
    if width * height > MAX_PIXELS:
        raise ReadError(
            f"{path}: found {width} x {height} pixels; expected at most {MAX_PIXELS // 10**6} million. "
            "Scale the image down."
        )
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise ReadError(
            f"{path}: found {width} x {height} pixels; expected sides of at most {MAX_ASPECT} to 1. "
            "Crop the image, or leave it out."
        )


def require_few_scans(path: Path, codestream: bytes) -> None:
    """Refuse a JPEG of so many scans that decoding would not end.

    Raises:
        ReadError: more than MAX_JPEG_SCANS start-of-scan markers.
    """
    scans = codestream.count(b"\xff\xda")
    if scans > MAX_JPEG_SCANS:
        raise ReadError(f"{path}: found a JPEG of {scans} scans; expected at most {MAX_JPEG_SCANS}. Save it anew.")


def to_levels(values: npt.NDArray[np.float64], full: float = 1.0) -> Pixels:
    """0..full, clipped, as 0..255: `floor(255 v / full + 0.5)`.

    The half is added and cut, not np.rint: halves go up everywhere, not to the nearest even number.
    """
    return np.floor(np.clip(values * (255 / full), 0, 255) + 0.5).astype(np.uint8)


def looked_up(levels: Pixels, codes: npt.NDArray[np.uint8] | npt.NDArray[np.uint16]) -> Pixels:
    """`levels[codes]`, for a table and an image of any shape.

    By blocks of rows: NumPy widens all indices to 8 bytes first, and what then leaves the processor's cache takes
    twice the time.
    """
    pixels: Pixels = np.empty(codes.shape, np.uint8)
    rows = max(1, _BLOCK // max(1, codes[:1].size))
    for start in range(0, len(codes), rows):
        pixels[start : start + rows] = levels.take(codes[start : start + rows])
    return pixels
