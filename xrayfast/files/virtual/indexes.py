"""List the members of an archive by name: read from its headers, checked, and cached."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import hashlib
import io
import json
import lzma
import posixpath
import re
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

from xrayfast.errors import ReadError, XrayfastError
from xrayfast.files.atomic import replace_atomically
from xrayfast.files.cache_folder import cache_root
from xrayfast.files.virtual.addresses import is_remote
from xrayfast.files.virtual.remote import State

_FOLDER, _NAME = "archives", re.compile(r"[0-9a-f]{32}\.json")
"""Folder of the indexes below the cache's root, and pattern of their names."""

MAX_MEMBERS = 2_000_000
"""Maximum number of members of an archive: NIH ChestX-ray14 has 112,120 in 12 archives."""

MAX_HEADER = 2**28
"""Maximum size of a header or directory in bytes: a zip's directory has about 100 bytes per member."""

MAX_RATIO, MIN_UNPACKED = 200, 2**30
"""Maximum ratio of a tar's decompressed to compressed size, checked from 1 GiB on. Radiographs are compressed already;
a file of zeros expands a thousandfold."""

SIDECARS, MAX_SIDECAR = (".cls", ".json"), 2**16
"""Suffixes of the labels next to images in WebDataset shards, and the maximum size of one in bytes. For a remote tar,
these files are cached with its index, because requesting each costs more than reading the tar once."""

_FORMAT = 2
_DEFLATED, _UTF8 = 8, 0x800
_DAMAGED = (
    *(OSError, EOFError, tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError),
    *(ValueError, OverflowError, RecursionError, NotImplementedError, struct.error),
)


class Member(NamedTuple):
    """The position of a file in an archive: of its header in a zip, of its content in the (decompressed) tar."""

    offset: int
    size: int
    packed: int = 0  # compressed size in a zip
    method: int = 0  # compression method in a zip
    crc: int = 0


class Index(NamedTuple):
    """The members of an archive by path; if it is remote, also the content of its label files (see `SIDECARS`)."""

    members: dict[str, Member]
    texts: dict[str, str]


def is_zip(path: str) -> bool:
    """Whether an archive is a zip rather than a tar, judging from its suffix."""
    return path.lower().endswith(".zip")


def unpacks(path: str) -> str:
    """Return the compression of a tar according to its suffix; "" if it is not compressed."""
    kinds = {"gz": "gzip", "tgz": "gzip", "bz2": "bzip2", "tbz": "bzip2", "tbz2": "bzip2", "xz": "xz", "txz": "xz"}
    return kinds.get(path.lower().rpartition(".")[2], "")


def open_unpacked(path: str, packed: BinaryIO) -> BinaryIO:
    """Return the decompressed stream of a compressed tar; seeking backward in it starts from the beginning."""
    kind = unpacks(path)
    if kind == "gzip":
        return cast(BinaryIO, gzip.GzipFile(fileobj=packed))
    return cast(BinaryIO, bz2.BZ2File(packed) if kind == "bzip2" else lzma.LZMAFile(packed))


def build_index(path: str, state: State, open_stream: Callable[[], BinaryIO]) -> Index:
    """Return the index of an archive, from the cache if it is there, else from the archive.

    Raises:
        ReadError: the archive is damaged or cut off, has too many members, or expands far too much; or a member is a
            link or device, is encrypted or compressed with an unsupported method, has a path outside of the archive, or
            has the same name as another.
    """
    kept = _place(path, state)
    with contextlib.suppress(OSError, ValueError, TypeError):
        content = json.loads(kept.read_text(encoding="utf-8"))
        members = {name: Member(*numbers) for name, *numbers in content["members"]}
        return Index(members, dict(content["texts"]))
    index = _read_index(path, state, open_stream)
    with contextlib.suppress(XrayfastError, OSError):  # without a writable folder, it is read again
        kept.parent.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        kept.parent.mkdir(mode=0o700, exist_ok=True)  # private, because file names may identify patients
        with replace_atomically(kept) as temporary:
            rows = [[name, *member] for name, member in index.members.items()]
            content = {"members": rows, "texts": index.texts}
            temporary.write_text(json.dumps(content, separators=(",", ":")), encoding="utf-8")
    return index


def clear_indexes() -> int:
    """Remove all cached indexes, which are rebuilt when needed; return the bytes freed."""
    freed = 0
    for place in (cache_root() / _FOLDER).glob("*.json"):
        with contextlib.suppress(OSError):
            if _NAME.fullmatch(place.name) and not place.is_symlink():
                size = place.stat().st_size
                place.unlink()
                freed += size
    return freed


def _place(path: str, state: State) -> Path:
    name = hashlib.blake2b(f"{_FORMAT}\0{path}\0{state.stamp}".encode(errors="surrogateescape"), digest_size=16)
    return cache_root() / _FOLDER / f"{name.hexdigest()}.json"


def _read_index(path: str, state: State, open_stream: Callable[[], BinaryIO]) -> Index:
    members: dict[str, Member] = {}
    texts: dict[str, str] = {}
    try:
        with open_stream() as stream:
            found = _zip_members(path, stream) if is_zip(path) else _tar_members(path, stream, state, texts)
            for name, member in found:
                if name in members:
                    raise ReadError(f"{path}: found two files named {name}; expected one. Make the archive again.")
                if len(members) >= MAX_MEMBERS:
                    raise _too_many(path)
                members[name] = member
    except XrayfastError:
        raise
    except _DAMAGED as error:
        raise ReadError(
            f"{path}: can't be read as an archive ({type(error).__name__}); expected a complete archive of the type "
            "that its suffix says. Download it again."
        ) from error
    _require_no_file_as_folder(path, members)
    return Index(members, texts)


def _too_many(path: str) -> ReadError:
    return ReadError(
        f"{path}: found more than {MAX_MEMBERS:,} files; expected at most that many. Split the archive into several."
    )


def _zip_members(path: str, stream: BinaryIO) -> Iterator[tuple[str, Member]]:
    with zipfile.ZipFile(cast(BinaryIO, _Bounded(path, stream, None))) as archive:
        for info in archive.infolist():
            if info.is_dir():
                continue
            name = _require_inside(path, _zip_name(info))
            if (info.external_attr >> 16) & 0o170000 == 0o120000:
                raise _link(path, name)
            if info.flag_bits & 1:
                raise ReadError(
                    f"{path}: {name} is encrypted; expected an archive without a password. Make the archive again "
                    "without one."
                )
            if info.compress_type not in (zipfile.ZIP_STORED, _DEFLATED):
                raise ReadError(
                    f"{path}: {name} is compressed with method {info.compress_type}; expected stored or deflated. "
                    "Make the archive again with zip."
                )
            numbers = info.header_offset, info.file_size, info.compress_size, info.compress_type, info.CRC
            yield name, Member(*numbers)


def _zip_name(info: zipfile.ZipInfo) -> str:
    """Return a member's name, which macOS and others write in UTF-8 without the flag that says so."""
    if not info.flag_bits & _UTF8:
        with contextlib.suppress(UnicodeError):
            return info.filename.encode("cp437").decode()
    return info.filename


def _tar_members(path: str, stream: BinaryIO, state: State, texts: dict[str, str]) -> Iterator[tuple[str, Member]]:
    """Yield the members in order; if the tar is remote, add the content of its label files to `texts`."""
    unpacked, limit = stream, None
    if unpacks(path):
        unpacked, limit = open_unpacked(path, stream), max(MIN_UNPACKED, MAX_RATIO * state.size)
    bounded = _Bounded(path, unpacked, limit)
    end = 0
    with tarfile.open(fileobj=cast(BinaryIO, bounded), mode="r:") as archive:
        for number, info in enumerate(archive):
            archive.members = []  # type: ignore[attr-defined]  # or it would keep all, at a kilobyte each
            if number >= MAX_MEMBERS:
                raise _too_many(path)
            if info.size < 0 or info.offset < end:
                raise ReadError(f"{path}: found files that overlap. Do not trust this archive.")
            end = info.offset_data + (-(-info.size // 512) * 512 if info.isreg() else 0)
            if info.isdir():
                continue
            name = _require_inside(path, info.name)
            if info.issym() or info.islnk():
                raise _link(path, name)
            if not info.isreg() or info.issparse():
                raise ReadError(
                    f"{path}: {name} is not a regular file; expected images and tables. Make the archive again."
                )
            if is_remote(path) and name.lower().endswith(SIDECARS) and info.size <= MAX_SIDECAR:
                bounded.seek(info.offset_data)
                texts[name] = bounded.read(info.size).decode("utf-8-sig", "replace")
            yield name, Member(info.offset_data, info.size)
    # `tarfile` mistakes a damaged header for the end.
    bounded.seek(end)
    if bounded.read(512).strip(b"\0") or bounded.tell() < end + 512:
        raise ReadError(
            f"{path}: the end of the tar is missing, or a header in it is damaged. Download the archive again."
        )


def _link(path: str, name: str) -> ReadError:
    return ReadError(
        f"{path}: {name} is a link; expected files. Make the archive again with the linked files (tar -h)."
    )


def _require_inside(path: str, written: str) -> str:
    """Return a member's path with '/'; raise an error if it leads out of the archive."""
    name = written.replace("\\", "/")
    if name.startswith("/") or re.match("[A-Za-z]:", name) or ".." in name.split("/") or "\0" in name or not name:
        raise ReadError(
            f"{path}: found a file named '{written}', which is outside the archive; expected paths inside it. Do not "
            "trust this archive."
        )
    return posixpath.normpath(name)


def _require_no_file_as_folder(path: str, members: Iterable[str]) -> None:
    names = set(members)
    for folder in {name.rpartition("/")[0] for name in names}:
        while folder:
            if folder in names:
                raise ReadError(f"{path}: found {folder} both as a file and as a folder. Make the archive again.")
            folder = folder.rpartition("/")[0]


class _Bounded(io.RawIOBase):
    """A stream that raises an error for a header that would fill the memory, or for content that would never end."""

    def __init__(self, path: str, stream: BinaryIO, limit: int | None) -> None:
        super().__init__()
        self._path, self._stream, self._limit = path, stream, limit

    def read(self, size: int = -1) -> bytes:
        if size > MAX_HEADER:
            raise ReadError(
                f"{self._path}: found a header of {size:,} bytes; expected at most {MAX_HEADER:,}. Do not trust this "
                "archive."
            )
        content = self._stream.read(size if size >= 0 else MAX_HEADER)
        self._check()
        return content

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if self._limit is not None and whence == io.SEEK_SET and offset > self._limit:
            raise self._too_large()
        place = self._stream.seek(offset, whence)
        self._check()
        return place

    def tell(self) -> int:
        return self._stream.tell()

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def _check(self) -> None:
        if self._limit is not None and self._stream.tell() > self._limit:
            raise self._too_large()

    def _too_large(self) -> ReadError:
        return ReadError(
            f"{self._path}: found more than {self._limit:,} bytes when decompressed; expected at most {MAX_RATIO} "
            "times the archive's size. Do not trust this archive; if you know that it is right, unpack it."
        )
