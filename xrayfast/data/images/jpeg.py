"""Detection of errors in JPEGs that decoders silently ignore: missing data, and data below the last row."""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Iterator

import numpy as np
from PIL import Image

from xrayfast.data.images.notes import Note

_MISSING = 128
"""The value that libjpeg gives to pixels whose data are missing."""

_START_OF_SCAN, _END = b"\xff\xda", b"\xff\xd9"
_PROGRESSIVE = (0xC2, 0xCA)
_INVENTED, _SMOOTHED = 64, 2  # blocks that libjpeg may decode from the last bits; rows of blocks below that it smooths
_FURTHER_DATA = bytes(73 * i % 251 for i in range(1024))
_SEGMENT = re.compile(rb"\xff+([\x01-\xbf\xc0-\xcf\xd8-\xfe])")  # not in a scan's data, only at its end


def lacks_last_rows(image: Image.Image) -> bool:
    """Whether the last rows of a decoded JPEG end in the gray that libjpeg fills in if the data end too early."""
    if image.format not in ("JPEG", "MPO") or image.mode == "CMYK" or image.height <= 8:
        return False
    return _ends_in_gray(image, 8)


def _ends_in_gray(image: Image.Image, block: int) -> bool:
    corner = image.getpixel((image.width - 1, image.height - 1))
    if corner not in (_MISSING, (_MISSING,) * 3):  # the usual case
        return False
    # The block in which the data end may have any values; the blocks after it are gray.
    bottom = image.crop((image.width // 2, (image.height - 1) // block * block, image.width, image.height))
    return all(low == high == _MISSING for low, high in np.reshape(bottom.getextrema(), (-1, 2)))


def note_wrong_length(stream: io.BytesIO) -> list[str]:
    """Return notes on a JPEG whose data go on below the last row, or that is progressive and lacks data.

    The position of `stream` is where the decoder stopped reading.
    """
    content, end = stream.getvalue(), stream.tell()
    segments = list(_segments(content))
    if not any(marker in _PROGRESSIVE for marker, _ in segments):
        scan = content.rfind(_START_OF_SCAN, 0, end)
        return [Note.MORE_ROWS()] * (0 <= scan < end < content.find(_END, scan))
    if _lacks_scans(content, segments):
        notes = [Note.MISSING_SCANS()]
    else:
        notes = [Note.CUT_SCAN()] * _takes_further_data(content, segments[-1])
    return [Note.MORE_ROWS()] * _first_scan_goes_on(content, segments) + notes


def _takes_further_data(content: bytes, end: tuple[int, int]) -> bool:
    """Whether data appended to a JPEG's last scan change the image: decoders ignore what follows a complete scan."""
    marker, start = end
    if marker != _END[1]:
        return False
    longer = content[:start] + _FURTHER_DATA + _END
    decoded = (Image.open(io.BytesIO(data), formats=("JPEG",)).tobytes() for data in (content, longer))
    return next(decoded) != next(decoded)


def _segments(content: bytes) -> Iterator[tuple[int, int]]:
    """Yield the markers of a JPEG and their positions, up to the marker that ends the image."""
    place = 2
    while found := _SEGMENT.search(content, place):
        marker, start = found[1][0], found.end() - 2
        yield marker, start
        if marker == _END[1] or len(content) < start + 4:
            return
        place = start + 2 + struct.unpack(">H", content[start + 2 : start + 4])[0]


def _first_scan_goes_on(content: bytes, segments: list[tuple[int, int]]) -> bool:
    """Whether the first scan of a progressive JPEG, a small image of its own, has rows of blocks below the last row."""
    (frame,) = [start for marker, start in segments if marker in _PROGRESSIVE][:1]
    scans = [i for i, (marker, _) in enumerate(segments) if marker == _START_OF_SCAN[1]]
    if len(scans) < 2:
        return False
    longer = bytearray(content[: segments[scans[0] + 1][1]] + _END)
    height, width, components = struct.unpack(">HHB", content[frame + 5 : frame + 10])
    block = 8 * max(factors & 15 for factors in content[frame + 11 : frame + 10 + 3 * components : 3])
    below = -(-_INVENTED * block // width) * block + 8 * (_SMOOTHED + 1)
    longer[frame + 5 : frame + 7] = struct.pack(">H", min(0xFFFF, -(-height // block) * block + below))
    with Image.open(io.BytesIO(longer), formats=("JPEG",)) as image:
        image.draft("L", (max(1, width // 8), max(1, height // 8)))
        image.load()
        return not _ends_in_gray(image, 1)


def _lacks_scans(content: bytes, segments: list[tuple[int, int]]) -> bool:
    """Whether the scans of a progressive JPEG lack bits of any coefficient of the first component."""
    missing = np.full(64, True)
    first = None
    for marker, start in segments:
        if marker == _START_OF_SCAN[1]:
            count = content[start + 4]
            components = content[start + 5 : start + 5 + 2 * count : 2]
            low, high, bits = content[start + 5 + 2 * count : start + 8 + 2 * count]
            first = components[0] if first is None else first
            if first in components:
                missing[low : high + 1] = bits & 15 > 0
    return bool(missing.any())
