"""Recognize a DICOM file, find its transfer syntax, and read header elements and the value of Pixel Data.

pydicom does the parsing. As a protection against hostile files, nothing is inflated beyond what the header calls for,
and the number of reads is limited.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

import numpy as np

from xrayfast.data.images.dicom.elements import Elements
from xrayfast.errors import ReadError
from xrayfast.files.virtual.access import is_file, open_binary
from xrayfast.files.virtual.addresses import is_remote, suffix_of

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

IMPLICIT_LITTLE, EXPLICIT_LITTLE = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
EXPLICIT_BIG, DEFLATED = "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"
_UNCOMPRESSED = frozenset({IMPLICIT_LITTLE, EXPLICIT_LITTLE, EXPLICIT_BIG, DEFLATED})
"""UIDs of the transfer syntaxes whose pixels are not compressed; all others are explicit, little endian."""

_MAGIC, _MAGIC_AT = b"DICM", 128
_TRANSFER_SYNTAX, _PIXEL_DATA, _FLOAT_PIXELS = 0x00020010, 0x7FE00010, frozenset({0x7FE00008, 0x7FE00009})
_META_GROUP, _AFTER_META = 0x0002, 0x00030000
_FIRST_GROUPS = frozenset({_META_GROUP, 0x0008})
_SECOND_GROUPS = frozenset({*_FIRST_GROUPS, 0x0010, 0x0018, 0x0020, 0x0028})
_LONG_LENGTH = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})
_UNDEFINED = 0xFFFFFFFF

FIRST_PIXEL_TAG = min(_FLOAT_PIXELS)
"""The lowest tag that holds pixels."""

_MAX_READS = 100_000
"""Most reads to parse one header: a million empty sequence items take 8 MB of file, a gigabyte of memory and 15
seconds; real headers take hundreds of reads."""

HEAD_BYTES = 512
"""How many bytes of a file `is_dicom` needs."""

_HEADER_BYTES = 2**22
"""How many bytes of a deflated file are inflated to read its header."""


_OTHER_STARTS = (b"\x89P", b"\xff\xd8")
"""First bytes of PNG and JPEG, which are no group of DICOM in either byte order."""


def is_dicom_file(path: str) -> bool:
    """Whether a file begins as DICOM does; False if it can't be read. For a remote file, only the suffix counts."""
    if is_remote(path):
        return suffix_of(path) in (".dcm", ".dicom")
    try:
        if not is_file(path):
            return False
        with open_binary(path) as stream:
            return is_dicom(stream.read(HEAD_BYTES))
    except (OSError, ValueError):
        return False


def is_dicom(head: bytes) -> bool:
    """Whether the first HEAD_BYTES are those of DICOM: "DICM" at byte 128, or two elements that could be the first."""
    if head[_MAGIC_AT : _MAGIC_AT + len(_MAGIC)] == _MAGIC:
        return True
    return head[:2] not in _OTHER_STARTS and any(_starts_with_elements(head, order) for order in ("<", ">"))


def _starts_with_elements(head: bytes, order: str) -> bool:
    """Whether the file starts with two elements whose tags are ascending and in likely groups."""
    place, last_tag = 0, -1
    for groups in (_FIRST_GROUPS, _SECOND_GROUPS):
        if len(head) < place + 12:
            return False
        group, number, vr, length = struct.unpack(f"{order}HH2sH", head[place : place + 8])
        size = 12 if vr in _LONG_LENGTH else 8
        if vr in _LONG_LENGTH:
            (length,) = struct.unpack(f"{order}L", head[place + 8 : place + 12])
        elif not _is_vr(vr):
            if order == ">":
                return False  # big endian is always explicit
            (length,) = struct.unpack("<L", head[place + 4 : place + 8])
        tag = group << 16 | number
        if group not in groups or tag <= last_tag or length % 2:
            return False
        place, last_tag = place + size + length, tag
    return True


def _is_vr(vr: bytes) -> bool:
    return vr.isalpha() and vr.isupper()


@dataclass(frozen=True)
class DicomFile:
    """A parsed header, and access to the pixels."""

    elements: Elements  # those of the keywords
    syntax: str  # UID of the transfer syntax; if the file has none, that of a guessed uncompressed one
    pixels: str  # "integer", "float", or "" if there are none
    at_pixels: Callable[[int], BinaryIO]  # returns the stream at the pixels, with at least as many bytes as asked for

    def pixel_data(self, expected: int, of_bytes: bool) -> bytes:
        """Return the value of Pixel Data.

        Args:
            expected: its length if it is uncompressed, which limits how much of a deflated file is inflated.
            of_bytes: whether samples are single bytes, which are swapped in big-endian words.
        """
        path, (implicit, little) = self.elements.path, self.elements.dataset.original_encoding
        dataset = _parse_elements(
            path, self.at_pixels(expected), bool(implicit), bool(little), [_PIXEL_DATA], lambda tag: tag != _PIXEL_DATA
        )
        raw = dataset.get_item(_PIXEL_DATA)
        if raw is None or not isinstance(raw.value, bytes):
            raise ReadError(f"{path}: found pixel data that is cut off; expected a whole file. Fetch the file again.")
        if self.syntax in _UNCOMPRESSED and getattr(raw, "length", 0) == _UNDEFINED:
            raise ReadError(
                f"{path}: found compressed pixel data, but no Transfer Syntax UID that says how it is compressed; "
                "expected one. Export the file again."
            )
        if of_bytes and raw.VR == "OW" and self.syntax == EXPLICIT_BIG:
            return np.frombuffer(raw.value, np.uint16, len(raw.value) // 2).byteswap().tobytes()
        return raw.value


def open_dicom(path: Path, stream: BinaryIO, keywords: Iterable[str], to_pixels: bool = True) -> DicomFile:
    """Parse the header of a DICOM file, and keep the elements of the keywords.

    It is parsed up to the pixels, or without `to_pixels` only up to the last of the keywords.
    """
    from pydicom.datadict import tag_for_keyword

    tags = [cast(int, tag_for_keyword(keyword)) for keyword in keywords]
    stop = FIRST_PIXEL_TAG if to_pixels else max(tags) + 1
    stream.seek(_MAGIC_AT)
    if stream.read(len(_MAGIC)) != _MAGIC:
        stream.seek(0)
    syntax = _find_syntax(path, stream)
    start = stream.tell()
    header = BytesIO(_inflate(path, stream, start, _HEADER_BYTES)) if syntax == DEFLATED else stream
    # Compared as integers: pydicom's own comparison of tags takes half the time of parsing a header.
    dataset = _parse_elements(
        path, header, syntax == IMPLICIT_LITTLE, syntax != EXPLICIT_BIG, tags, lambda tag: int.__ge__(tag, stop)
    )
    place = header.tell()

    def at_pixels(expected: int) -> BinaryIO:
        deflated = syntax == DEFLATED
        whole = BytesIO(_inflate(path, stream, start, place + expected + _HEADER_BYTES)) if deflated else header
        whole.seek(place)
        return whole

    elements = Elements(path, dataset)
    group, number = struct.unpack("<HH" if elements.little else ">HH", _peek(header, 4))
    next_tag = group << 16 | number
    pixels = "integer" if next_tag == _PIXEL_DATA else "float" if next_tag in _FLOAT_PIXELS else ""
    return DicomFile(elements, syntax, pixels, at_pixels)


def _find_syntax(path: Path, stream: BinaryIO) -> str:
    """Return the transfer syntax in the file meta information, or else guess it from the first element.

    The stream is then behind the file meta information.
    """
    text = ""
    if _peek(stream, 2) == struct.pack("<H", _META_GROUP):
        meta = _parse_elements(path, stream, False, True, [_TRANSFER_SYNTAX], lambda tag: tag >= _AFTER_META)
        text = Elements(path, meta).text("TransferSyntaxUID")
    if text:
        if not re.fullmatch(r"[0-9.]{1,64}", text):
            raise ReadError(f"{path}: found a Transfer Syntax UID that is not a valid UID. Export the file again.")
        return text
    first = _peek(stream, 6)
    if not _is_vr(first[4:6]):
        return IMPLICIT_LITTLE
    # The first group number is small, so its bytes show their order.
    return EXPLICIT_BIG if first[0] < first[1] else EXPLICIT_LITTLE


def _parse_elements(
    path: Path, stream: BinaryIO, implicit: bool, little: bool, tags: list[int], is_end: Callable[[int], bool]
) -> Dataset:
    """Parse some elements of the data set at the stream's position, up to the first tag for which `is_end` is true."""
    from pydicom.filereader import read_dataset

    try:
        limited = cast(BinaryIO, _LimitedStream(stream))
        return read_dataset(limited, implicit, little, stop_when=lambda tag, *_: is_end(tag), specific_tags=tags)
    except Exception:  # pydicom raises nearly any type on damaged files, and quotes them.
        found = "a DICOM header that can't be parsed, or that has too many elements"
        raise ReadError(f"{path}: found {found}. Fetch the file again.") from None


class _LimitedStream:
    """A stream for pydicom that limits the number of reads, and never allocates for bytes that aren't there."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._left = stream, _MAX_READS
        place = stream.tell()
        self._size = stream.seek(0, 2)
        self.tell, self.seek = stream.tell, stream.seek
        self.name = "a file"
        stream.seek(place)

    def read(self, size: int) -> bytes:
        """Read at most `size` bytes."""
        self._left -= 1
        if self._left < 0:
            raise ValueError("too many elements")
        return self._stream.read(min(size, max(0, self._size - self._stream.tell())))


def _peek(stream: BinaryIO, size: int) -> bytes:
    """Return the next bytes, padded with zeros at the end of the file, without moving the position."""
    place = stream.tell()
    content = stream.read(size)
    stream.seek(place)
    return content.ljust(size, b"\0")


def _inflate(path: Path, stream: BinaryIO, start: int, size: int) -> bytes:
    """Return at most the first `size` bytes of a deflated data set, because a small file can inflate to gigabytes."""
    stream.seek(start)
    packed, unpacker = stream.read(size), zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        content = unpacker.decompress(packed, size)
        whole = unpacker.eof or len(content) == size or len(packed) == size
    except zlib.error:
        whole = False
    if not whole:
        raise ReadError(f"{path}: found a deflated data set that is damaged or cut off. Fetch the file again.")
    return content
