"""Limits that every decoder enforces before it decodes, against damaged and hostile files."""

from __future__ import annotations

from pathlib import Path

from xrayfast.errors import ReadError
from xrayfast.files.regular_files import require_regular_file
from xrayfast.files.virtual.addresses import is_web_address

MAX_BYTES = 2**30
"""Largest file read: an uncompressed image of MAX_PIXELS in 16-bit color has nearly this size."""

MAX_PIXELS = 150_000_000
"""Most pixels decoded: five times the largest detectors in use, and below the limit at which Pillow itself refuses."""

MAX_ASPECT = 20
"""Highest aspect ratio decoded. Whole spines and legs stay below 8; a longer strip is no radiograph, and nothing of it
is left after resizing to a square."""

MAX_JPEG_SCANS = 100
"""Most scans in a JPEG: a few kilobytes of empty scans would otherwise keep the decoder busy for hours; progressive
files have about ten."""

_ARITHMETIC_FRAMES = (b"\xff\xc9", b"\xff\xca")


def require_image_file(path: Path) -> None:
    """Refuse files that would hang on opening (a FIFO), give an obscure error, or never end.

    Raises:
        ReadError: the path is no file, a folder, a pipe, an empty file, a file of more than MAX_BYTES, or not UTF-8.
        RemoteError: remote storage can't be read.
    """
    if is_web_address(str(path)):  # its size is not known before it is read
        return
    require_image_bytes(path, require_regular_file(path, "an image file", MAX_BYTES, ReadError).st_size)


def require_image_bytes(path: Path, size: int) -> None:
    """Raise a ReadError for an image of 0 bytes, or of more than MAX_BYTES."""
    if size == 0:
        raise ReadError(f"{path}: found an empty file; expected an image. Fetch the file again.")
    if size > MAX_BYTES:
        raise ReadError(f"{path}: found {size:,} bytes; expected at most {MAX_BYTES:,}. Scale the image down.")


def require_sensible_size(path: Path, width: int, height: int) -> None:
    """Raise a ReadError for no pixels, more than MAX_PIXELS, or one side more than MAX_ASPECT times the other."""
    if width < 1 or height < 1:
        raise ReadError(f"{path}: found {width} x {height} pixels; expected an image. Fetch the file again.")
    if width * height > MAX_PIXELS:
        raise ReadError(
            f"{path}: found {width} x {height} pixels; expected at most {MAX_PIXELS // 10**6} million. "
            "Scale the image down."
        )
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise ReadError(
            f"{path}: found {width} x {height} pixels; expected an aspect ratio of at most {MAX_ASPECT} to 1. "
            "Crop the image, or leave it out."
        )


def require_few_scans(path: Path, codestream: bytes) -> None:
    """Raise a ReadError for a JPEG with so many scans, more than MAX_JPEG_SCANS, that decoding would not end."""
    scans = codestream.count(b"\xff\xda")
    if scans > MAX_JPEG_SCANS:
        raise ReadError(f"{path}: found a JPEG with {scans} scans; expected at most {MAX_JPEG_SCANS}. Save it again.")


def require_enough_data(path: Path, codestream: memoryview | bytes, width: int, height: int) -> None:
    """Refuse a JPEG with too few bytes for its size: a block of 8 x 8 pixels takes at least one bit.

    Decoders silently fill missing blocks with gray.

    Raises:
        ReadError: there are fewer bits than blocks, unless the coding is arithmetic, which can take less than a bit.
    """
    blocks = -(-width // 8) * -(-height // 8)
    if 8 * len(codestream) < blocks and not any(marker in bytes(codestream) for marker in _ARITHMETIC_FRAMES):
        raise ReadError(
            f"{path}: found a JPEG of {len(codestream)} bytes that claims {width} x {height} pixels; expected "
            f"{blocks // 8} bytes or more. Fetch the file again."
        )
