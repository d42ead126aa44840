"""`read`: one image file of any format to one 8-bit gray array."""

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
from xrayfast.data.images.pillow import decode_with_pillow
from xrayfast.data.images.radiograph import Pixels, Radiograph
from xrayfast.errors import ReadError
from xrayfast.files.virtual.access import open_binary
from xrayfast.files.virtual.paths import to_path

__all__ = [
    "IMAGE_SUFFIXES", "READER_VERSION", "Pixels", "Radiograph", "filled_area", "fit_square", "is_image", "read",
    "read_bytes",
]  # fmt: skip

READER_VERSION = 12
"""Increased when any image or its notes may come out differently: images cached by another version are not used."""

_FORMAT_BY_SUFFIX = {
    ".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".jpe": "JPEG", ".jfif": "JPEG", ".bmp": "BMP", ".tif": "TIFF",
    ".tiff": "TIFF", ".webp": "WEBP", ".dcm": "DICOM", ".dicom": "DICOM",
}  # fmt: skip

IMAGE_SUFFIXES = frozenset(_FORMAT_BY_SUFFIX)
"""Suffixes, in lower case, by which a file counts as an image."""

_OTHER_SUFFIXES = frozenset({".csv", ".tsv", ".txt", ".json", ".yaml", ".md", ".html", ".py", ".npy", ".zip", ".gz"})
"""Suffixes of files that often lie beside images and never are one."""

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
    b"version https://git-lfs": "a Git LFS pointer, not the file itself",
}


def read(path: Path | str, window: str = "auto") -> Radiograph:
    """Read a DICOM, PNG, JPEG, TIFF, BMP or WebP file as the gray image that a viewer shows.

    The format is found from the content, not the suffix; where they differ the notes say so.

    More than 8 bits are scaled: full scale is the smallest of the 8, 10, 12, 14, 15 and 16-bit ranges that holds the
    image's 99.5 percentile, and a value v becomes `floor(v * 255 / full + 0.5)`, at most 255. So a 12-bit image stored
    in 16 bits keeps its brightness whether or not it reaches 4095, and whether or not a marker exceeds it. A larger
    percentile is full scale itself, as is 1 for floating-point images within 0..1; where there are negative values the
    0.5 percentile becomes 0. A surround, which is one value on many pixels and far from all others, does not count, and
    becomes black, unless a window of the file says what it is. Of 16-bit colour channels the high 8 bits are kept.
    Colour becomes luma (ITU-R BT.601), transparency is composited on black, an EXIF orientation is applied, and of
    several frames the first is taken.

    DICOM follows the standard (PS3.3 C.11): modality LUT or rescale, then VOI LUT or window, whose range becomes 0..255
    as above; MONOCHROME1 is inverted unless the Presentation LUT Shape is IDENTITY, MONOCHROME2 where it is INVERSE;
    pixel padding is black, and pixels that are not square are made so. Values that evidently have more bits than the
    header says, or another sign, are read with these. `window` is one of

    - "auto": the file's first VOI LUT, else its first window; but the full range where that window cuts off a tenth of
      it or less. Where the file has none, or one that saturates nearly all of the image (95 %), the full range of its
      stored bits if these are 8 or fewer, or if the image fills at least half of that range between its 0.5 and 99.5
      percentiles (without padding); else the range between those percentiles.
    - "1" to "9": the n-th of the file's VOI LUTs and windows, in this order.
    - "percentile": the percentile range, whatever the file says; "full": the full range of the stored bits.
    - "CENTER/WIDTH", such as "2048/4096": this window, after the modality LUT.

    Colour DICOM and all other formats have no window.

    The notes say what was done, where little can be seen (one shade, nearly black or white, noise, a black or white
    half, three quarters dark or bright, a small part of a black image), where an image looks damaged (lost or shifted
    lines, a wrong width, rows alike, few gray levels, values that overflow, salt and pepper, strong compression) or is
    no plain radiograph (several images in one, halves swapped, repeated or mirrored, upside down, on its side, turned,
    sheared, inverted, cut out as a circle, blacked out within, an edge map, a Fourier spectrum, a drawn grid, box or
    text, equalized gray levels, a test object).

    Raises:
        ReadError: no regular file that can be opened, or one that is empty, truncated, damaged, over a limit of
            `limits`, no image, of several frames (DICOM), or of an encoding that is not read.
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
    """Read the content of a file as `read` does; no file is opened or written.

    Args:
        name: of the file, for its suffix and for messages.
        content: all of it.
        window: as of `read`.

    Raises:
        ReadError: as `read`.
        ConfigError: `window` is none of those of `read`.
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
        notes.append(f"{radiograph.format} in a file named {path.suffix}")
    return replace(radiograph, notes=(*radiograph.notes, *notes)) if notes else radiograph


def is_image(path_text: str) -> bool:
    """Whether a file counts as an image: by its suffix or, where that is unknown, by DICOM's first bytes.

    With a known suffix the file is not opened; a remote one never is, and counts by its suffix alone. DICOM files often
    have none, or are named by their UID, whose last number then looks like one.
    """
    suffix = os.path.splitext(path_text)[1].lower()  # noqa: PTH122 (called for each file of large trees)
    if suffix in IMAGE_SUFFIXES:
        return True
    if suffix in _OTHER_SUFFIXES:
        return False
    return is_dicom_file(path_text)


def fit_square(pixels: Pixels, size: int) -> Pixels:
    """Resize the whole image into a square: the longer side becomes `size`, the image is centred, the rest black.

    Bilinear, with Pillow's antialiasing when it shrinks.

    Returns:
        (size, size) uint8; the same array where it already has that shape.
    """
    if pixels.shape == (size, size):
        return pixels
    height, width = pixels.shape
    square = np.zeros((size, size), np.uint8)
    area = square[filled_area(width, height, size)]
    area[:] = np.asarray(Image.fromarray(pixels).resize((area.shape[1], area.shape[0]), Image.Resampling.BILINEAR))
    return square


def filled_area(width: int, height: int, size: int) -> tuple[slice, slice]:
    """The rows and columns of the square that an image of that width and height fills in `fit_square`."""
    scale = size / max(height, width)
    rows, columns = (max(1, round(side * scale)) for side in (height, width))
    top, left = (size - rows) // 2, (size - columns) // 2
    return slice(top, top + rows), slice(left, left + columns)


def _require_image_signature(path: Path, head: bytes) -> None:
    """Refuse, by its first bytes, a file that is often mistaken for an image."""
    if head[:2] in (b"\x89P", b"\xff\xd8", b"II", b"MM", b"BM", b"RI"):
        return
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
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
