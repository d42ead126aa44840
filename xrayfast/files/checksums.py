"""The checksums of a folder's files, as they are written.

A folder with a `checksums.txt` has a line for each version of its files that was written, in the form of sha256sum. It
is written before the file takes its name, so that after a kill either version is known; lines are only ever appended,
so that processes that write at the same time lose none.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

CHECKSUMS = "checksums.txt"

_CHECKED = frozenset({".csv", ".json", ".safetensors", ".yaml"})
"""The files that commands read; reports, cards and figures are a user's to edit."""


def start_checksums(folder: Path) -> None:
    """Record checksums of the CSV, JSON, YAML and safetensors files of a folder from now on.

    Raises:
        OSError: `checksums.txt` can't be written.
    """
    _append(folder / CHECKSUMS, "")


def record_checksum(path: Path, new: Path, digest: str | None) -> None:
    """Record the checksum of a new version of a file, where its folder has some; `digest` if it is known already.

    Raises:
        OSError: the version can't be read, or `checksums.txt` can't be written.
    """
    if path.suffix in _CHECKED and (path.parent / CHECKSUMS).is_file():
        _append(path.parent / CHECKSUMS, f"{digest or file_digest(new)}  {path.name}\n")


def write_checksums(folder: Path, digests: Mapping[str, str]) -> None:
    """Record the checksums of all files of a folder; those in `digests` are known already.

    Raises:
        OSError: a file can't be read, or `checksums.txt` can't be written.
    """
    files = sorted(folder.iterdir())
    lines = [f"{digests.get(path.name) or file_digest(path)}  {path.name}\n" for path in files]
    _append(folder / CHECKSUMS, "".join(lines))


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal: of hashlib's the fastest, as processors have instructions for it.

    Raises:
        OSError: it can't be read.
    """
    digest, buffer = hashlib.sha256(), memoryview(bytearray(1 << 20))
    with path.open("rb", buffering=0) as file:
        while read := file.readinto(buffer):
            digest.update(buffer[:read])
    return digest.hexdigest()


def _append(path: Path, text: str) -> None:
    """Append text in one write, and wait until the disk has it; never through a link, which may lead anywhere."""
    if path.is_symlink():
        raise OSError(f"{path.name} is a symbolic link")
    with path.open("ab", buffering=0) as file:
        file.write(text.encode())
        os.fsync(file.fileno())
