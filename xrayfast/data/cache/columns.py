"""Files of numeric columns, every byte of them under one checksum.

    header    magic; lengths of columns, 8 bytes each; CRC-32 of what follows
    columns   one after the other

The reader knows the names and types; a file of other types counts as damaged.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Mapping
from io import FileIO
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from xrayfast.files.atomic import replace_atomically

Layout: TypeAlias = Mapping[str, tuple[int, npt.DTypeLike]]
"""By the name of each column: which of the lengths in the header it has, and the type of its values, also with a
shape."""

Columns: TypeAlias = dict[str, npt.NDArray[Any]]

_BLOCK = 2**20  # bytes that are read and checked at a time


def write_columns(path: Path, magic: bytes, layout: Layout, columns: Columns) -> None:
    """Write columns in the order of the layout, atomically."""
    lengths, parts, crc = [0] * _count(layout), [], 0
    for name, (which, kind) in layout.items():
        values = np.ascontiguousarray(columns[name], np.dtype(kind).base)
        lengths[which] = len(values)
        if values.size:
            parts.append(values.data.cast("B"))
            crc = zlib.crc32(parts[-1], crc)
    with replace_atomically(path) as temporary, temporary.open("wb") as file:
        file.write(_header(magic, layout).pack(magic, *lengths, crc))
        for part in parts:
            file.write(part)
        file.flush()
        os.fsync(file.fileno())


def read_columns(path: Path, magic: bytes, layout: Layout) -> Columns | None:
    """Return the columns of a file; None if there is no file, or it is damaged, has another layout or can't be read."""
    header, columns, found = _header(magic, layout), Columns(), 0
    try:
        with path.open("rb", buffering=0) as file:
            found_magic, *lengths, crc = header.unpack(file.read(header.size))
            sizes = [lengths[which] * np.dtype(kind).itemsize for which, kind in layout.values()]
            # Checked before as much memory is allocated as the header says.
            if found_magic != magic or os.fstat(file.fileno()).st_size != header.size + sum(sizes):
                return None
            for name, (which, kind) in layout.items():
                columns[name] = np.empty(lengths[which], np.dtype(kind))
                found = _read_into(file, columns[name], found)
    except (OSError, struct.error):
        return None
    return columns if found == crc else None


def _header(magic: bytes, layout: Layout) -> struct.Struct:
    return struct.Struct(f"<{len(magic)}s{_count(layout)}QI")


def _count(layout: Layout) -> int:
    """Return the number of lengths in the header."""
    return 1 + max(which for which, _ in layout.values())


def _read_into(file: FileIO, column: npt.NDArray[Any], crc: int) -> int:
    """Fill a column from a file; return the CRC-32 so far, computed while each block is in the processor's cache."""
    view = column.data.cast("B") if column.size else memoryview(b"")
    while view:
        size = file.readinto(view[:_BLOCK])
        if not size:
            raise OSError("the file ends early")
        crc, view = zlib.crc32(view[:size], crc), view[size:]
    return crc
