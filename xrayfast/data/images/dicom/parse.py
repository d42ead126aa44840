"""Opening DICOM files: is it one, how is it encoded, where are its pixels.

pydicom parses; what stands around it is for hostile files: nothing is inflated further than the header asks for, and
no parse takes more steps than a header has.
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

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_IMPLICIT, _EXPLICIT, _BIG = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"
_DEFLATED = "1.2.840.10008.1.2.1.99"

UNCOMPRESSED = frozenset({_IMPLICIT, _EXPLICIT, _BIG, _DEFLATED})
"""The transfer syntaxes, by UID, whose pixels stand in the file as they are."""

_MARK, _MARK_AT = b"DICM", 128
_TRANSFER_SYNTAX, _PIXEL_DATA, _FLOAT_PIXELS = 0x00020010, 0x7FE00010, frozenset({0x7FE00008, 0x7FE00009})
_META_GROUP, _AFTER_META = 0x0002, 0x00030000
_FIRST_GROUPS = frozenset({_META_GROUP, 0x0008})
_SECOND_GROUPS = frozenset({*_FIRST_GROUPS, 0x0010, 0x0018, 0x0020, 0x0028})
_LONG_LENGTH = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})
_UNDEFINED = 0xFFFFFFFF

BEFORE_PIXELS = min(_FLOAT_PIXELS)
"""The first tag that holds pixels."""

_MAX_READS = 100_000
"""Steps of parsing one header: a million empty sequence items take 8 MB of file, a gigabyte of memory and 15 seconds;
real headers take hundreds of steps."""

_HEADER_BYTES = 2**22
"""How much of a deflated file is inflated to look at its header."""


def is_dicom(head: bytes) -> bool:
    """Whether a file that begins so is DICOM: by "DICM" at byte 128, or by two elements that could be its first.

    Args:
        head: the first 512 bytes, or all there are.
    """
    return head[_MARK_AT : _MARK_AT + len(_MARK)] == _MARK or any(
        _begins_with_elements(head, order) for order in ("<", ">")
    )


def _begins_with_elements(head: bytes, order: str) -> bool:
    """Whether two elements of ascending tags in likely groups stand at the start."""
    place, last_tag = 0, -1
    for groups in (_FIRST_GROUPS, _SECOND_GROUPS):
        if len(head) < place + 12:
            return False
        group, number, vr, length = struct.unpack(f"{order}HH2sH", head[place : place + 8])
        size = 8
        if vr in _LONG_LENGTH:
            (length,) = struct.unpack(f"{order}L", head[place + 8 : place + 12])
            size = 12
        elif not _names_type(vr):
            if order == ">":
                return False  # big endian always names the type
            (length,) = struct.unpack("<L", head[place + 4 : place + 8])
        tag = group << 16 | number
        if group not in groups or tag <= last_tag or length % 2:
            return False
        place, last_tag = place + size + length, tag
    return True


def _names_type(vr: bytes) -> bool:
    return vr.isalpha() and vr.isupper()


@dataclass(frozen=True)
class DicomFile:
    """A parsed header, and what follows it.

    Attributes:
        elements: those asked for.
        syntax: the UID of the transfer syntax; a guess at an uncompressed one where the file doesn't say.
        pixels: "integer", "float", or "" where there are none.
        at_pixels: gives the stream at the pixels, with as many bytes as one asks for, or somewhat more.
    """

    elements: Elements
    syntax: str
    pixels: str
    at_pixels: Callable[[int], BinaryIO]

    def pixel_data(self, expected: int, of_bytes: bool) -> bytes:
        """The value of Pixel Data.

        Args:
            expected: how many bytes it has where it is uncompressed; a deflated file is inflated no further.
            of_bytes: whether the pixels are single bytes, which big endian words would have changed places.

        Raises:
            ReadError: cut off, or compressed although the transfer syntax says otherwise.
        """
        path, (implicit, little) = self.elements.path, self.elements.dataset.original_encoding
        dataset = _parsed(
            path, self.at_pixels(expected), bool(implicit), bool(little), [_PIXEL_DATA], lambda tag: tag != _PIXEL_DATA
        )
        raw = dataset.get_item(_PIXEL_DATA)
        if raw is None or not isinstance(raw.value, bytes):
            raise ReadError(f"{path}: found pixel data that is cut off; expected a whole file. Fetch it again.")
        if self.syntax in UNCOMPRESSED and getattr(raw, "length", 0) == _UNDEFINED:
            raise ReadError(
                f"{path}: found compressed pixel data, and a header that does not say how; expected its Transfer "
                "Syntax UID. Export the file again."
            )
        if of_bytes and raw.VR == "OW" and self.syntax == _BIG:
            swapped: bytes = np.frombuffer(raw.value, np.uint16, len(raw.value) // 2).byteswap().tobytes()
            return swapped
        return raw.value


def open_dicom(path: Path, stream: BinaryIO, tags: Iterable[int], stop: int = BEFORE_PIXELS) -> DicomFile:
    """Parse the header of a DICOM file as far as it is needed.

    Args:
        path: its name, for messages.
        stream: the file.
        tags: the elements wanted.
        stop: the first tag that ends the reading.

    Raises:
        ReadError: no header that can be parsed, or one of far too many elements.
    """
    stream.seek(_MARK_AT)
    if stream.read(len(_MARK)) != _MARK:
        stream.seek(0)
    syntax = _syntax(path, stream)
    start = stream.tell()
    header = BytesIO(_inflated(path, stream, start, _HEADER_BYTES)) if syntax == _DEFLATED else stream
    # As plain numbers: pydicom's own comparison of tags takes half the time of a header.
    dataset = _parsed(path, header, syntax == _IMPLICIT, syntax != _BIG, tags, lambda tag: int.__ge__(tag, stop))
    place = header.tell()

    def at_pixels(expected: int) -> BinaryIO:
        whole = header
        if syntax == _DEFLATED:
            whole = BytesIO(_inflated(path, stream, start, place + expected + _HEADER_BYTES))
        whole.seek(place)
        return whole

    elements = Elements(path, dataset)
    group, number = struct.unpack("<HH" if elements.little else ">HH", _peek(header, 4))
    next_tag = group << 16 | number
    pixels = "integer" if next_tag == _PIXEL_DATA else "float" if next_tag in _FLOAT_PIXELS else ""
    return DicomFile(elements, syntax, pixels, at_pixels)


def _syntax(path: Path, stream: BinaryIO) -> str:
    """The transfer syntax, from the file meta information, behind which the stream is left, or from what follows."""
    text = ""
    if _peek(stream, 2) == struct.pack("<H", _META_GROUP):
        meta = _parsed(path, stream, False, True, [_TRANSFER_SYNTAX], lambda tag: tag >= _AFTER_META)
        text = Elements(path, meta).text("TransferSyntaxUID")
    if text:
        if not re.fullmatch(r"[0-9.]{1,64}", text):
            raise ReadError(f"{path}: found a Transfer Syntax UID that is no UID. Export the file again.")
        return text
    first = _peek(stream, 6)
    if not _names_type(first[4:6]):
        return _IMPLICIT
    # The first group is small, so that its bytes tell their order.
    return _BIG if first[0] < first[1] else _EXPLICIT


def _parsed(
    path: Path, stream: BinaryIO, implicit: bool, little: bool, tags: Iterable[int], is_end: Callable[[int], bool]
) -> Dataset:
    """Some elements of the data set at the stream's place; the stream is left at the first tag that ends it."""
    from pydicom.filereader import read_dataset

    try:
        return read_dataset(
            cast(BinaryIO, _Steps(stream)),
            implicit,
            little,
            stop_when=lambda tag, _vr, _length: is_end(tag),
            specific_tags=list(tags),
        )
    except Exception:  # pydicom raises nearly any type on damaged files, and quotes them.
        raise ReadError(
            f"{path}: found a DICOM header that can't be parsed, or of too many elements. Fetch the file again."
        ) from None


class _Steps:
    """A stream for pydicom: it ends a parse of too many steps, and never makes room for bytes that aren't there."""

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
    """The next bytes, filled up with zeros at the end, without moving on."""
    place = stream.tell()
    content = stream.read(size)
    stream.seek(place)
    return content.ljust(size, b"\0")


def _inflated(path: Path, stream: BinaryIO, start: int, size: int) -> bytes:
    """The first `size` bytes of a deflated data set, or fewer: a small file can inflate to gigabytes."""
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
