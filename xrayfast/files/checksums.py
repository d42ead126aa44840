"""Record the checksums of a folder's files when they are written.

In a folder with a `checksums.txt`, that file has one line, in the format of sha256sum, per version of each file. The
line is written before the file is moved to its final name, so that after a kill both versions are known. Lines are only
appended, so that processes writing at the same time lose none. A file that can't be read or written is an OSError.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

CHECKSUMS = "checksums.txt"

_CHECKED = frozenset({".csv", ".json", ".safetensors", ".yaml"})
"""Suffixes of the files that commands read; users may edit reports, cards and figures."""


def start_checksums(folder: Path) -> None:
    """Record the checksums of a folder's CSV, JSON, YAML and safetensors files from now on."""
    _append(folder / CHECKSUMS, "")


def record_checksum(path: Path, new: Path, digest: str | None) -> None:
    """Record the checksum of a file's new version if its folder has checksums; `digest` is the checksum, if known."""
    if path.suffix in _CHECKED and (path.parent / CHECKSUMS).is_file():
        _append(path.parent / CHECKSUMS, f"{digest or file_digest(new)}  {path.name}\n")


def write_checksums(folder: Path, digests: Mapping[str, str]) -> None:
    """Record the checksums of all files in a folder; `digests` are the checksums already known, by file name."""
    files = sorted(folder.iterdir())
    lines = [f"{digests.get(path.name) or file_digest(path)}  {path.name}\n" for path in files]
    _append(folder / CHECKSUMS, "".join(lines))


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file's content in hexadecimal.

    SHA-256 is the fastest digest in hashlib, because CPUs have instructions for it.
    """
    digest, buffer = hashlib.sha256(), memoryview(bytearray(1 << 20))
    with path.open("rb", buffering=0) as file:
        while read := file.readinto(buffer):
            digest.update(buffer[:read])
    return digest.hexdigest()


def _append(path: Path, text: str) -> None:
    """Append text in one write and sync it to disk; never through a symbolic link, which may lead anywhere."""
    if path.is_symlink():
        raise OSError(f"{path.name} is a symbolic link")
    with path.open("ab", buffering=0) as file:
        file.write(text.encode())
        os.fsync(file.fileno())
