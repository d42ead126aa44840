"""`read`, which reads an image file of any format as one 8-bit gray array."""

from __future__ import annotations

import io
import os
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from xrayfast.data.images.contents import describe_contents
from xrayfast.data.images.dicom.parse import HEAD_BYTES, is_dicom, is_dicom_file
from xrayfast.data.images.dicom.render import decode_dicom
from xrayfast.data.images.dicom.windowing import WindowChoice, parse_window
from xrayfast.data.images.limits import require_image_bytes, require_image_file
from xrayfast.data.images.notes import Note
from xrayfast.data.images.pillow import decode_with_pillow
from xrayfast.data.images.radiograph import Pixels, Radiograph
from xrayfast.errors import ReadError
from xrayfast.files.virtual.access import open_binary
from xrayfast.files.virtual.paths import to_path

__all__ = [
    "IMAGE_SUFFIXES", "READER_VERSION", "Pixels", "Radiograph", "filled_area", "fit_square", "is_image", "read",
    "read_bytes",
]  # fmt: skip

READER_VERSION = 19
"""Increased when any image or its notes may come out differently: images cached by another version are not used."""

_FORMAT_BY_SUFFIX = {
    ".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".jpe": "JPEG", ".jfif": "JPEG", ".bmp": "BMP", ".tif": "TIFF",
    ".tiff": "TIFF", ".webp": "WEBP", ".dcm": "DICOM", ".dicom": "DICOM",
}  # fmt: skip

IMAGE_SUFFIXES = frozenset(_FORMAT_BY_SUFFIX)
"""Suffixes, in lower case, of files that count as images."""

_OTHER_SUFFIXES = frozenset({".csv", ".tsv", ".txt", ".json", ".yaml", ".md", ".html", ".py", ".npy", ".zip", ".gz"})
"""Suffixes of files that are often beside images and are never images."""

_OTHER_SIGNATURES = {
    b"<": "HTML or XML text (a download may have saved an error page)",
    b"GIF8": "a GIF",
    b"%PDF": "a PDF",
    b"PK\x03\x04": "a ZIP archive",
    b"\x1f\x8b": "a gzip archive",
    b"\x93NUMPY": "a NumPy array",
    b"\x89HDF": "an HDF5 file",
    b"\xff\x4f\xff\x51": "a bare JPEG 2000 codestream",
    b"\x00\x00\x00\x0cjP  ": "a JPEG 2000 file",
    b"ftyphei": "a HEIC file, as phones write",
    b"ftypmif1": "a HEIC file, as phones write",
    b"ftypavif": "an AVIF file",
    b"version https://git-lfs": "a Git LFS pointer, not the file itself",
}


def read(path: Path | str, window: str = "auto") -> Radiograph:
    """Read a DICOM, PNG, JPEG, TIFF, BMP or WebP file as the gray image that a viewer shows.

    The format is recognized from the content, not the suffix; if they differ, a note says so.

    Values of more than 8 bits are scaled: a value v becomes `floor(v * 255 / full + 0.5)`, at most 255, where `full` is
    the smallest of the 8, 10, 12, 14, 15 and 16-bit ranges that holds all values of unsigned 16-bit images but the
    highest (unless it is the only one) and 0.5% of the pixels, of other images their 99.5th percentile. So a 12-bit
    image stored in 16 bits keeps its brightness whether or not it reaches 4095, and whether or not a marker exceeds
    4095. If no range holds the percentile, `full` is the percentile itself; for floating-point images within 0..1 it is
    1. If there are negative values, the 0.5th percentile becomes 0, and `full` of floating-point images is the 99.5th.
    A surround, which is one value on many pixels and far from all others, or less far below them but at corners, does
    not count and becomes black, unless the file has a window. 16-bit color channels keep their high 8 bits. Color
    becomes luma (ITU-R BT.601), transparency is composited on black, an EXIF orientation is applied, and only the first
    of several frames is read.

    DICOM files are rendered according to the standard (PS3.3 C.11): modality LUT or rescale, then VOI LUT or window,
    whose range becomes 0..255. MONOCHROME1 is inverted unless the Presentation LUT Shape is IDENTITY, MONOCHROME2 only
    if it is INVERSE. Pixel padding becomes black, and pixels that are not square are made square. Values that evidently
    have more bits or another sign than the header says are read that way. `window` is one of

    - "auto": the file's first VOI LUT, else its first window, but the full range if that window cuts off a tenth of it
      or less. If the file has neither, or its choice saturates nearly all of the image (95%): the full range of the
      stored bits if these are 8 or fewer, or if the image fills at least half of that range between its 0.5th and
      99.5th percentiles (without padding); else the range between these percentiles.
    - "1" to "9": the n-th of the file's VOI LUTs and windows, in this order.
    - "percentile": the range between these percentiles, whatever the file says; "full": the full range of the stored
      bits.
    - "CENTER/WIDTH", such as "2048/4096": this window, after the modality LUT.

    Color DICOM and all other formats have no window.

    The notes say what was done; whether little can be seen (one shade, nearly black or white, noise, a black or white
    half, three quarters dark or bright, a small part of a black image, white on all sides); whether the image looks
    damaged (lost or shifted lines, a wrong width, equal rows, few gray levels, values that overflow, salt and pepper,
    strong compression); and whether it is no plain radiograph (several images in one, halves swapped, repeated or
    mirrored, upside down, on its side, rotated, sheared, inverted, cut out as a circle, blacked out within, an edge
    map, a Fourier spectrum, a drawn grid, box or text, equalized gray levels, a test object).

    Raises:
        ReadError: the path is no regular file that can be opened, or the file is empty, truncated, damaged, over a
            limit of `limits`, no image, of several frames (DICOM), or in an encoding that is not supported.
        RemoteError: remote storage can't be read.
        ConfigError: `window` is none of the above, or a package that remote storage needs is missing.
    """
    path = to_path(path)
    choice = parse_window(window)
    require_image_file(path)
    try:
        with open_binary(path) as stream:
            return _decode(path, stream, choice)
    except OSError as error:
        raise ReadError(f"{path}: can't be read ({error.strerror or error}). Check the file.") from error


def read_bytes(name: str, content: bytes, window: str = "auto") -> Radiograph:
    """Read the content of a file as `read` does, with the same errors; no file is opened or written.

    `name` is that of the file, for its suffix and for messages.
    """
    path, choice = Path(name), parse_window(window)
    require_image_bytes(path, len(content))
    return _decode(path, io.BytesIO(content), choice)


def _decode(path: Path, stream: BinaryIO, choice: WindowChoice) -> Radiograph:
    """Decode an open file of any format, with all notes."""
    head = stream.read(HEAD_BYTES)
    stream.seek(0)
    if is_dicom(head):
        radiograph = decode_dicom(path, stream, choice)
    else:
        _require_image_signature(path, head)
        radiograph = decode_with_pillow(path, stream)
    notes = describe_contents(radiograph.pixels)
    if _FORMAT_BY_SUFFIX.get(path.suffix.lower(), radiograph.format) != radiograph.format:
        notes.append(Note.OTHER_SUFFIX(radiograph.format, path.suffix))
    return replace(radiograph, notes=(*radiograph.notes, *notes)) if notes else radiograph


def is_image(path_text: str) -> bool:
    """Whether a file counts as an image: it has the suffix of one or, if its suffix is unknown, begins as DICOM does.

    A file with a known suffix is not opened. A remote file is never opened: its suffix alone counts. DICOM files often
    have no suffix, or are named after their UID, whose last number then looks like a suffix. A DICOMDIR, the index of
    an exported medium, is none.
    """
    suffix = os.path.splitext(path_text)[1].lower()  # noqa: PTH122 (called for each file of large trees)
    if suffix in IMAGE_SUFFIXES:
        return True
    if suffix in _OTHER_SUFFIXES:
        return False
    return not path_text.upper().endswith("DICOMDIR") and is_dicom_file(path_text)


def fit_square(pixels: Pixels, size: int) -> Pixels:
    """Resize the whole image into a square: the longer side becomes `size`, the image is centered, the rest is black.

    The resizing is bilinear, with Pillow's antialiasing when the image shrinks.

    Returns:
        (size, size) uint8; the same array if it already has that shape.
    """
    if pixels.shape == (size, size):
        return pixels
    height, width = pixels.shape
    square = np.zeros((size, size), np.uint8)
    area = square[filled_area(width, height, size)]
    area[:] = np.asarray(Image.fromarray(pixels).resize((area.shape[1], area.shape[0]), Image.Resampling.BILINEAR))
    return square


def filled_area(width: int, height: int, size: int) -> tuple[slice, slice]:
    """Return the rows and columns of the square that an image of this width and height fills in `fit_square`."""
    scale = size / max(height, width)
    rows, columns = (max(1, round(side * scale)) for side in (height, width))
    top, left = (size - rows) // 2, (size - columns) // 2
    return slice(top, top + rows), slice(left, left + columns)


def _require_image_signature(path: Path, head: bytes) -> None:
    """Refuse a file whose first bytes are those of a format that is often mistaken for an image."""
    if head[:2] in (b"\x89P", b"\xff\xd8", b"II", b"MM", b"BM", b"RI"):
        return
    text = head[4:] if head[4:8] == b"ftyp" else head.lstrip(b"\xef\xbb\xbf \t\r\n")
    for start, name in _OTHER_SIGNATURES.items():
        if text.startswith(start):
            raise ReadError(
                f"{path}: found {name}; expected DICOM, PNG, JPEG, TIFF, BMP or WebP. Convert or remove it."
            )
    if _FORMAT_BY_SUFFIX.get(path.suffix.lower()) == "DICOM":
        raise ReadError(
            f"{path}: found no DICOM header; expected 'DICM' at byte 128, or elements of group 0002 or 0008 at the "
            "start. Fetch the file again."
        )
