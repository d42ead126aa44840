"""The cache's folders: where stores of decoded pictures lie, how much they hold, and their removal.

    <root>/pictures/v1-256px-0123abcd/    one for each side, and each window and version of the reader
        <16 hex>.pictures                 segments
        <16 hex>.lock, .*.tmp             of runs that build

Pictures of files that have changed since, or are gone, stay until `clear_cache`.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from xrayfast.data.cache.shards import FORMAT, SUFFIX, count_images
from xrayfast.data.images.reader import READER_VERSION
from xrayfast.errors import WriteError

VARIABLE = "XRAYFAST_CACHE"
"""The environment variable that names the cache's root."""

LOCK_SUFFIX = ".lock"

_FOLDER = re.compile(r"v\d+-(\d+)px-[0-9a-f]{8}")
_FILE = re.compile(rf"[0-9a-f]{{16}}(?:{re.escape(SUFFIX)}|{re.escape(LOCK_SUFFIX)})|\..+\.tmp")
_ABANDONED = 3600.0  # seconds after which a temporary file or a lock has no writer any more; one lives seconds


@dataclass(frozen=True)
class CacheFolder:
    """One folder of the cache.

    Attributes:
        path: of the folder.
        side: of its pictures, in pixels.
        pictures: how many there are.
        bytes: that its files take.
        used: when a run last used it, in seconds since 1970.
    """

    path: Path
    side: int
    images: int
    bytes: int
    used: float


def cache_root(root: Path | None = None) -> Path:
    """The cache's root: the one given, else $XRAYFAST_CACHE, else the place for this user on this system."""
    if root is not None:
        return Path(root).absolute()
    if named := os.environ.get(VARIABLE):
        return Path(named).expanduser().absolute()
    import platformdirs

    return Path(platformdirs.user_cache_dir("xrayfast", appauthor=False))


def image_folder(root: Path | None, side: int, window: str) -> Path:
    """The folder of the pictures of one side, made by this version of the reader with one window."""
    settings = hashlib.blake2b(f"{READER_VERSION} {window}".encode(), digest_size=4).hexdigest()
    return cache_root(root) / "pictures" / f"v{FORMAT}-{side}px-{settings}"


def cache_info(root: Path | None = None) -> list[CacheFolder]:
    """The cache's folders, those used last first."""
    found = []
    for folder in _folders(root):
        files = [(path, size) for path, size, _ in _files(folder)]
        images = sum(count_images(path) for path, _ in files if path.suffix == SUFFIX)
        with contextlib.suppress(FileNotFoundError):  # another process may have removed it
            used = folder.stat().st_mtime
            found.append(CacheFolder(folder, _side(folder), images, sum(size for _, size in files), used))
    return sorted(found, key=lambda folder: folder.used, reverse=True)


def clear_cache(root: Path | None = None) -> int:
    """Remove all pictures that are kept, and nothing else: no file by another name, nothing behind a link.

    Runs that use them go on by decoding.

    Returns:
        The bytes that were freed.

    Raises:
        WriteError: a file can't be removed.
    """
    freed = 0
    for folder in _folders(root):
        for path, size, _ in _files(folder):
            freed += size * _removed(path)
        with contextlib.suppress(OSError):  # something else is in it, or was put there just now
            folder.rmdir()
    with contextlib.suppress(OSError):
        (cache_root(root) / "pictures").rmdir()
    return freed


def shard_names(folder: Path) -> set[str]:
    """The names of the segments in a folder."""
    return {path.name for path, _, _ in _files(folder) if path.suffix == SUFFIX}


def remove_abandoned(folder: Path) -> None:
    """Remove what killed runs have left in the folder."""
    for path, _, changed in _files(folder):
        if path.suffix != SUFFIX and time.time() - changed > _ABANDONED:
            with contextlib.suppress(OSError):
                path.unlink()


def _removed(path: Path) -> bool:
    """Remove a file; whether it was there."""
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise WriteError(f"{path}: can't be removed ({error.strerror}). Check who owns the cache's folder.") from error
    return True


def _side(folder: Path) -> int:
    match = _FOLDER.fullmatch(folder.name)
    return int(match[1]) if match else 0


def _folders(root: Path | None) -> list[Path]:
    """The folders of stores, of any version; no links."""
    with contextlib.suppress(OSError), os.scandir(cache_root(root) / "pictures") as entries:
        return [Path(e.path) for e in entries if _FOLDER.fullmatch(e.name) and e.is_dir(follow_symlinks=False)]
    return []


def _files(folder: Path) -> Iterator[tuple[Path, int, float]]:
    """Path, bytes and time of change of the folder's files that a store has made; no links."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if not _FILE.fullmatch(entry.name):
                continue
            with contextlib.suppress(FileNotFoundError):
                status = entry.stat(follow_symlinks=False)
                if stat.S_ISREG(status.st_mode):
                    yield Path(entry.path), status.st_size, status.st_mtime
