"""Segments: files of many decoded images of one size, written once and whole, every part under a checksum.

    header    magic, side, number of images, bytes of `kinds`; CRC-32 of header, records and kinds
    records   one an image: key, digest, size of the original, bits, kind, CRC-32 of the square
    kinds     lines of JSON: [format, mode, [note, ...]], once for all the records that name it by number
    squares   side * side bytes an image, in the records' order

Squares are read by their offset, not through a mapping: a mapped page counts as resident memory, and a file
that another process cuts short would end this one (SIGBUS).
"""

from __future__ import annotations

import json
import os
import secrets
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from xrayfast.data.images.reader import Pixels
from xrayfast.errors import WriteError
from xrayfast.files import replacing

SUFFIX = ".pictures"

KEY_BYTES = 16

FORMAT = 1
"""Raised when files are laid out differently: part of the magic, and of the folder's name."""

_MAGIC = b"xrayfst%d" % FORMAT
_HEADER = struct.Struct("<8sIIII")
_RECORD = np.dtype(
    [
        ("key", f"V{KEY_BYTES}"),
        ("digest", "V16"),
        ("width", "<u4"),
        ("height", "<u4"),
        ("bits", "<u2"),
        ("kind", "<u2"),
        ("crc", "<u4"),
    ]
)


class DamagedError(Exception):
    """A segment that doesn't hold what was written; its images are to be decoded again."""


@dataclass(frozen=True)
class Facts:
    """What is known of a decoded original once its pixels are gone.

    Attributes:
        width: of the image as displayed, in pixels.
        height: of the same.
        bits: bits stored a sample.
        mode: Pillow's mode, or DICOM's photometric interpretation.
        format: of the file: "PNG", "JPEG", "TIFF", "BMP", "WEBP" or "DICOM".
        digest: 32 hexadecimal digits over shape and decoded 8-bit pixels: equal digests are equal images,
            whatever the files' bytes.
        notes: what was done to the stored values on the way, in the order done.
    """

    width: int
    height: int
    bits: int
    mode: str
    format: str
    digest: str
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Entry:
    """One image to be kept: the key under which it is found, its facts and its (side, side) uint8 square."""

    key: bytes
    facts: Facts
    square: Pixels


class Shard:
    """The open index of a segment: 48 bytes an image in memory, and no open file.

    Attributes:
        path: of the file.
        side: of its squares, in pixels.
    """

    def __init__(self, path: Path, side: int) -> None:
        """Read and check the index.

        Raises:
            DamagedError: the file isn't a whole segment of that side.
            OSError: it can't be read.
        """
        self.path, self.side = path, side
        with path.open("rb") as file:
            count, head = _checked_head(file, side)
        end = _HEADER.size + count * _RECORD.itemsize
        self._records = np.frombuffer(head[_HEADER.size : end], _RECORD)
        self._kinds = head[end:]  # as text, which takes a tenth of the memory
        self._squares = len(head)

    def keys(self) -> list[bytes]:
        """The images' keys, in the order of their rows."""
        keys = self._records["key"].tobytes()
        return [keys[i : i + KEY_BYTES] for i in range(0, len(keys), KEY_BYTES)]

    def facts(self, row: int) -> Facts:
        """The facts of the image in that row."""
        record = self._records[row]
        form, mode, notes = json.loads(self._kinds.split(b"\n")[record["kind"]])
        width, height, bits = int(record["width"]), int(record["height"]), int(record["bits"])
        return Facts(width, height, bits, mode, form, record["digest"].tobytes().hex(), tuple(notes))

    def square(self, row: int) -> Pixels:
        """The image in that row: (side, side) uint8, the caller's own.

        Raises:
            DamagedError: its bytes are not those that were written.
            OSError: they can't be read.
        """
        square: Pixels = np.empty((self.side, self.side), np.uint8)
        self.fill([square], [row])
        return square

    def fill(self, squares: Sequence[Pixels], rows: Sequence[int]) -> None:
        """Read the images in those rows into arrays, each (side, side) uint8 and contiguous; opens the file once.

        Raises:
            DamagedError: the bytes of one are not those that were written.
            OSError: they can't be read.
        """
        with self.path.open("rb", buffering=0) as file:
            for square, row in zip(squares, rows, strict=True):
                file.seek(self._squares + row * square.nbytes)
                size = file.readinto(square.data)
                if size != square.nbytes or zlib.crc32(square.data) != self._records["crc"][row]:
                    raise DamagedError(f"{self.path}: row {row} is damaged")


def count_images(path: Path) -> int:
    """How many images a segment holds by its header; 0 where that can't be told."""
    try:
        with path.open("rb") as file:
            magic, _, count, _, _ = _HEADER.unpack(file.read(_HEADER.size))
    except (OSError, struct.error):
        return 0
    return int(count) if magic == _MAGIC else 0


def write_shard(folder: Path, side: int, entries: Sequence[Entry]) -> Path:
    """Write a new segment of one or more, and fewer than 65536, images; it is there whole or not at all.

    Raises:
        WriteError: it can't be written; nothing is left of it.
    """
    path = folder / (secrets.token_hex(8) + SUFFIX)
    head = _head(side, entries)
    for attempts_left in (2, 1, 0):
        try:
            with replacing(path) as temporary:
                folder.mkdir(parents=True, exist_ok=True)
                _write(temporary, head, entries)
            return path
        except WriteError as error:
            # Another process may clear the cache, folder and all, at any moment.
            if not (attempts_left and isinstance(error.__cause__, FileNotFoundError)):
                raise
    raise AssertionError("the last attempt returns or raises")


def _write(path: Path, head: bytes, entries: Sequence[Entry]) -> None:
    with path.open("wb") as file:
        file.write(head)
        for entry in entries:
            file.write(np.ascontiguousarray(entry.square).data)
        file.flush()
        os.fsync(file.fileno())


def _head(side: int, entries: Sequence[Entry]) -> bytes:
    """Header, records and kinds."""
    kinds: dict[tuple[str, str, tuple[str, ...]], int] = {}
    records: npt.NDArray[np.void] = np.zeros(len(entries), _RECORD)
    for row, entry in enumerate(entries):
        facts = entry.facts
        kind = kinds.setdefault((facts.format, facts.mode, facts.notes), len(kinds))
        digest, crc = bytes.fromhex(facts.digest), zlib.crc32(np.ascontiguousarray(entry.square).data)
        records[row] = (entry.key, digest, facts.width, facts.height, facts.bits, kind, crc)
    text = "\n".join(json.dumps(kind) for kind in kinds).encode()
    index = records.tobytes() + text
    crc = _crc(side, len(entries), len(text), index)
    return _HEADER.pack(_MAGIC, side, len(entries), len(text), crc) + index


def _checked_head(file: BinaryIO, side: int) -> tuple[int, bytes]:
    """The number of images, and header, records and kinds of an open segment."""
    size = os.fstat(file.fileno()).st_size
    header = file.read(_HEADER.size)
    if len(header) < _HEADER.size:
        raise DamagedError(f"{file.name}: found {size} bytes; expected a header")
    magic, found_side, count, text_bytes, crc = _HEADER.unpack(header)
    index_bytes = count * _RECORD.itemsize + text_bytes
    # Before anything is read whose length a flipped bit may have set.
    if magic != _MAGIC or found_side != side or size != len(header) + index_bytes + count * side * side:
        raise DamagedError(f"{file.name}: found another kind of file, side or length")
    index = file.read(index_bytes)
    if _crc(side, count, text_bytes, index) != crc:
        raise DamagedError(f"{file.name}: the index is damaged")
    return count, header + index


def _crc(side: int, count: int, text_bytes: int, index: bytes) -> int:
    return zlib.crc32(index, zlib.crc32(_HEADER.pack(_MAGIC, side, count, text_bytes, 0)))
