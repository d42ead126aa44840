"""Read the members of zip and tar archives, also compressed with gzip, bzip2 or xz, local or remote.

Nothing is unpacked to disk. Members are read by their offset in the archive. In a compressed tar, reaching an offset
means decompressing everything before it, so its members are best read in order, and each worker decompresses it once.
A ReadError says that an archive is damaged or hostile (see `indexes.build_index`), or that a member is too large.
"""

from __future__ import annotations

import lzma
import os
import stat
import struct
import threading
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

from xrayfast.errors import ReadError
from xrayfast.files.virtual import remote
from xrayfast.files.virtual.addresses import is_remote
from xrayfast.files.virtual.indexes import Member, build_index, is_zip, open_unpacked, unpacks
from xrayfast.files.virtual.remote import State

MAX_MEMBER = 2**30
"""Maximum size of a member that is read, the same as for an image file."""

_LOCAL_HEADER = struct.Struct("<4s22xHH")
_SLACK = 1024  # bytes by which a zip member's name and extra fields may be longer than in the directory


@dataclass(frozen=True)
class Archive:
    """An archive in one state, and its members by path."""

    path: str
    state: State
    members: Mapping[str, Member]
    texts: Mapping[str, str]

    @cached_property
    def names(self) -> Mapping[str, State]:
        """The states of the members, by path."""
        stamp = self.state.stamp
        return {
            name: State(member.size, f"{stamp} {member.offset} {member.size}") for name, member in self.members.items()
        }

    def read(self, name: str) -> bytes:
        """Return the content of a member."""
        if name in self.texts:
            return self.texts[name].encode()
        member, where = self.members[name], f"{self.path}/{name}"
        if member.size > MAX_MEMBER:
            raise ReadError(
                f"{where}: found {member.size:,} bytes; expected at most {MAX_MEMBER:,}. Remove it from the archive."
            )
        if unpacks(self.path):
            content = _cursor.read(self, member)
        elif is_zip(self.path):
            content = self._unzip(member, where)
        else:
            content = self._read(member.offset, member.size)
        if len(content) != member.size:
            found = f"{len(content):,} bytes; expected {member.size:,}"
            raise ReadError(f"{where}: found {found}. The archive is cut off or has changed: download it again.")
        return content

    def _read(self, start: int, count: int) -> bytes:
        if is_remote(self.path):
            return remote.read(self.path, start, start + count)
        with Path(self.path).open("rb") as file:
            file.seek(start)
            return file.read(count)

    def _unzip(self, member: Member, where: str) -> bytes:
        """Return the content of a zip's member, which follows its own header, whose length only that header tells."""
        about = _LOCAL_HEADER.size + member.packed + _SLACK
        raw = self._read(member.offset, about)
        if len(raw) < _LOCAL_HEADER.size or raw[:4] != b"PK\x03\x04":
            raise ReadError(f"{where}: not found where the zip's directory says it is. Download the archive again.")
        _, name, extra = _LOCAL_HEADER.unpack_from(raw)
        start = _LOCAL_HEADER.size + name + extra
        if start + member.packed > about:
            raw = self._read(member.offset, start + member.packed)
        packed = raw[start : start + member.packed]
        try:
            content = packed if member.method == 0 else zlib.decompressobj(-15).decompress(packed, member.size + 1)
        except zlib.error as error:
            raise ReadError(f"{where}: found damaged data in the zip. Download the archive again.") from error
        if zlib.crc32(content) != member.crc:
            raise ReadError(f"{where}: found data that don't match their checksum. Download the archive again.")
        return content


_archives: dict[str, Archive] = {}


def open_archive(path: str) -> Archive:
    """Return the archive at a path in its present state; its members are listed once per state."""
    state = archive_state(path)
    known = _archives.get(path)
    if known is None or known.state != state:
        known = _archives[path] = Archive(path, state, *build_index(path, state, lambda: _open_stream(path)))
    return known


def archive_state(path: str) -> State:
    """Return the state of an archive as a file."""
    if is_remote(path):
        return remote.state_of(path)
    return plain_state(os.stat(path))  # noqa: PTH116 - called for each image of each epoch


def plain_state(status: os.stat_result) -> State:
    """Return the state of a plain file or folder."""
    stamp = f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"
    return State(status.st_size, stamp, stat.S_ISDIR(status.st_mode))


def _open_stream(path: str) -> BinaryIO:
    return remote.open_stream(path) if is_remote(path) else Path(path).open("rb")


class _Cursor(threading.local):
    """The stream of the compressed tar that a thread is reading, which continues at its last position."""

    def __init__(self) -> None:
        self._of: tuple[Archive, int] | None = None
        self._packed: BinaryIO | None = None
        self._stream: BinaryIO | None = None

    def read(self, archive: Archive, member: Member) -> bytes:
        of = (archive, os.getpid())  # forked processes would share the file position
        try:
            if self._stream is None or self._of is None or self._of[0] is not archive or self._of[1] != of[1]:
                if self._packed is not None:
                    self._packed.close()
                self._packed = _open_stream(archive.path)
                self._stream, self._of = open_unpacked(archive.path, self._packed), of
            self._stream.seek(member.offset)
            return self._stream.read(member.size)
        except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
            self._of = None
            raise ReadError(
                f"{archive.path}: found damaged data ({type(error).__name__}). Download the archive again."
            ) from error


_cursor = _Cursor()
