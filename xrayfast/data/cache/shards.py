"""Shards: files of many decoded images of one size, written once and atomically, with checksums over every byte.

    header    magic, side, number of images, bytes of `kinds`; CRC-32 of header, records and kinds
    records   one per image: key, digest, size of the original, bits, kind, CRC-32 of the square
    kinds     lines of JSON: [format, mode, [note, ...]], shared by all records with its line number
    squares   side * side bytes per image, in the records' order

Squares are read by offset and not memory-mapped: a mapped page counts as resident memory, and a file that another
process truncates would kill this one (SIGBUS).
"""

from __future__ import annotations

import json
import os
import secrets
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from xrayfast.data.images.reader import Pixels
from xrayfast.errors import WriteError
from xrayfast.files.atomic import replace_atomically

SHARD_SUFFIX = ".pictures"
"""An older word for images, kept like the magic bytes so that existing caches remain valid."""

KEY_BYTES = 16

FORMAT = 1
"""Increased when the layout changes; part of the magic bytes and of the folder's name."""

_MAGIC = b"xrayfst%d" % FORMAT
_HEADER = struct.Struct("<8sIIII")
_RECORD = np.dtype(
    {
        "names": ["key", "digest", "width", "height", "bits", "kind", "crc"],
        "formats": [f"V{KEY_BYTES}", "V16", "<u4", "<u4", "<u2", "<u2", "<u4"],
    }
)


class DamagedError(Exception):
    """A shard is damaged; its images must be decoded again."""


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """What is cached of an image besides its square; `bits`, `mode`, `format` and `notes` are as in `Radiograph`."""

    width: int  # as displayed, in pixels
    height: int
    bits: int
    mode: str
    format: str
    digest: str  # 32 hexadecimal digits over shape and 8-bit pixels: equal for equal images in any file format
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Entry:
    """One image to write: its key, its info and its (side, side) uint8 square."""

    key: bytes
    info: ImageInfo
    square: Pixels


class Shard:
    """A shard whose index is in memory, with 48 bytes per image; no file stays open."""

    def __init__(self, path: Path, side: int) -> None:
        """Read and check the index of a shard with squares of `side` pixels.

        Raises:
            DamagedError: the file is no whole shard of that side.
            OSError: the file can't be read.
        """
        self.path, self.side = path, side
        with path.open("rb") as file:
            count, head = _read_head(file, side)
        end = _HEADER.size + count * _RECORD.itemsize
        self._records = np.frombuffer(head[_HEADER.size : end], _RECORD)
        self._kinds = head[end:]  # parsed on demand: as text it takes a tenth of the memory
        self._squares = len(head)

    def words(self) -> npt.NDArray[np.uint64]:
        """Return the images' keys as (N, 2) words of 8 bytes."""
        return np.frombuffer(self._records["key"].tobytes(), "<u8").reshape(-1, 2)

    def holds(self, key: bytes, row: int) -> bool:
        """Whether `row` has the image with this key."""
        return row < len(self._records) and self._records["key"][row].tobytes() == key

    def info(self, row: int) -> ImageInfo:
        """Return the info of the image in a row."""
        record = self._records[row]
        file_format, mode, notes = _parse_kind(self._kinds.split(b"\n")[record["kind"]])
        width, height, bits = int(record["width"]), int(record["height"]), int(record["bits"])
        return ImageInfo(width, height, bits, mode, file_format, record["digest"].tobytes().hex(), notes)

    def square(self, row: int) -> Pixels:
        """Return the image in a row: (side, side) uint8, writeable; raises the same errors as `fill`."""
        square: Pixels = np.empty((self.side, self.side), np.uint8)
        self.fill([square], [row])
        return square

    def fill(self, squares: Sequence[Pixels], rows: Sequence[int]) -> None:
        """Read the images in `rows` into arrays, each (side, side) uint8 and contiguous; the file is opened once.

        Raises:
            DamagedError: an image has a wrong checksum.
            OSError: the file can't be read.
        """
        with self.path.open("rb", buffering=0) as file:
            for square, row in zip(squares, rows, strict=True):
                file.seek(self._squares + row * square.nbytes)
                size = file.readinto(square.data)
                if size != square.nbytes or zlib.crc32(square.data) != self._records["crc"][row]:
                    raise DamagedError(f"{self.path}: row {row} is damaged")


@lru_cache(maxsize=1024)
def _parse_kind(line: bytes) -> tuple[str, str, tuple[str, ...]]:
    """Return format, mode and notes, which up to millions of infos then share."""
    file_format, mode, notes = json.loads(line)
    return file_format, mode, tuple(notes)


def count_images(path: Path) -> int:
    """Return how many images a shard has according to its header; 0 if the header is not valid."""
    try:
        with path.open("rb") as file:
            magic, _, count, _, _ = _HEADER.unpack(file.read(_HEADER.size))
    except (OSError, struct.error):
        return 0
    return int(count) if magic == _MAGIC else 0


def write_shard(folder: Path, side: int, entries: Sequence[Entry]) -> Path:
    """Write a new shard of 1 to 65,535 images, atomically."""
    path = folder / (secrets.token_hex(8) + SHARD_SUFFIX)
    head = _make_head(side, entries)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WriteError(f"{folder}: can't be created ({error.strerror}); decoded images are cached there.") from error
    with replace_atomically(path) as temporary, temporary.open("wb") as file:
        file.write(head)
        for entry in entries:
            file.write(np.ascontiguousarray(entry.square).data)
        file.flush()
        os.fsync(file.fileno())
    return path


def _make_head(side: int, entries: Sequence[Entry]) -> bytes:
    """Return header, records and kinds as bytes."""
    kinds: dict[tuple[str, str, tuple[str, ...]], int] = {}
    records: npt.NDArray[np.void] = np.zeros(len(entries), _RECORD)
    for row, entry in enumerate(entries):
        info = entry.info
        kind = kinds.setdefault((info.format, info.mode, info.notes), len(kinds))
        digest, crc = bytes.fromhex(info.digest), zlib.crc32(np.ascontiguousarray(entry.square).data)
        records[row] = (entry.key, digest, info.width, info.height, info.bits, kind, crc)
    text = "\n".join(json.dumps(kind) for kind in kinds).encode()
    index = records.tobytes() + text
    crc = _crc(side, len(entries), len(text), index)
    return _HEADER.pack(_MAGIC, side, len(entries), len(text), crc) + index


def _read_head(file: BinaryIO, side: int) -> tuple[int, bytes]:
    """Read and check the header, records and kinds of an open shard; return the number of images, and these bytes."""
    size = os.fstat(file.fileno()).st_size
    header = file.read(_HEADER.size)
    if len(header) < _HEADER.size:
        raise DamagedError(f"{file.name}: found {size} bytes; expected a header")
    magic, found_side, count, text_bytes, crc = _HEADER.unpack(header)
    index_bytes = count * _RECORD.itemsize + text_bytes
    # Checked before reading as many bytes as the header says, because a flipped bit may have changed the number.
    if magic != _MAGIC or found_side != side or size != len(header) + index_bytes + count * side * side:
        raise DamagedError(f"{file.name}: the header has another file type, image size or length than expected")
    index = file.read(index_bytes)
    if _crc(side, count, text_bytes, index) != crc:
        raise DamagedError(f"{file.name}: the index is damaged")
    return count, header + index


def _crc(side: int, count: int, text_bytes: int, index: bytes) -> int:
    return zlib.crc32(index, zlib.crc32(_HEADER.pack(_MAGIC, side, count, text_bytes, 0)))
