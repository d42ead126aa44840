"""The cache's folders: location, size and removal.

    <root>/pictures/v1-256px-0123abcd/    one per side, window and reader version
        <16 hex>.pictures                 shards
        index                             of the shards, if there are many
        <32 hex>.computed                 results computed from some of the images
        <16 hex>-3-of-8.done              one per share that a machine has built
        <16 hex>.lock, .*.tmp             of runs that are building

Images of files that have changed or are gone stay until `clear_cache`.
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

from xrayfast.data.cache.shards import FORMAT, SHARD_SUFFIX, count_images
from xrayfast.data.images.reader import READER_VERSION
from xrayfast.errors import DataError, WriteError
from xrayfast.files.cache_folder import cache_root
from xrayfast.files.virtual.indexes import clear_indexes

LOCK_SUFFIX = ".lock"

INDEX_NAME = "index"

DONE_SUFFIX = ".done"

COMPUTED_SUFFIX = ".computed"

_IMAGES_FOLDER = "pictures"  # an older word for images, kept so that existing caches remain valid
_FOLDER = re.compile(r"v\d+-\d+px-[0-9a-f]{8}")
_SHARD = re.compile(rf"[0-9a-f]{{16}}{re.escape(SHARD_SUFFIX)}")
_PASSING = re.compile(rf"[0-9a-f]{{16}}{re.escape(LOCK_SUFFIX)}|\..+\.tmp")
_LASTING = re.compile(
    rf"{re.escape(INDEX_NAME)}|[0-9a-f]{{16}}-\d+-of-\d+{re.escape(DONE_SUFFIX)}|"
    rf"[0-9a-f]{{32}}{re.escape(COMPUTED_SUFFIX)}"
)
_ABANDONED = 3600.0  # seconds after which a temporary file or lock is abandoned; runs need them for seconds
_BEING_WRITTEN = 60.0  # seconds since the last change of a temporary file during which a run may still be writing it


@dataclass(frozen=True)
class CacheFolder:
    """One folder of the cache."""

    path: Path  # of the folder
    side: int  # of its images, in pixels
    images: int  # how many it holds
    bytes: int  # of its files
    used: float  # when a run last used it, in seconds since 1970


def image_folder(root: Path | None, side: int, window: str) -> Path:
    """Return the folder of the images with one side and window, as this version of the reader decodes them."""
    settings = hashlib.blake2b(f"{READER_VERSION} {window}".encode(), digest_size=4).hexdigest()
    return cache_root(root) / _IMAGES_FOLDER / f"v{FORMAT}-{side}px-{settings}"


def holds_cache(root: Path) -> bool:
    """Whether a folder is the root of a cache of images of some side and window, and can be read."""
    with contextlib.suppress(DataError):
        return bool(_folders(root))
    return False


def cache_info(root: Path | None = None) -> list[CacheFolder]:
    """Return the cache's folders that have files, the most recently used first."""
    found = []
    for folder in _folders(root):
        if not (files := list(_files(folder))):
            continue
        images = sum(count_images(path) for path, _, _ in files if path.suffix == SHARD_SUFFIX)
        side = int(folder.name.split("-")[1].removesuffix("px"))
        with contextlib.suppress(FileNotFoundError):  # another process may have removed it
            used = folder.stat().st_mtime
            found.append(CacheFolder(folder, side, images, sum(size for _, size, _ in files), used))
    return sorted(found, key=lambda folder: folder.used, reverse=True)


def clear_cache(root: Path | None = None) -> int:
    """Remove all cached images, but no file with another name and nothing behind a link.

    If `root` is None, the indexes of archives are removed too. Runs that use the images then decode the files. Folders
    stay, and so do temporary files changed within the last minute, because a run may be writing to them. Return the
    number of bytes freed.
    """
    freed = clear_indexes() if root is None else 0
    for folder in _folders(root):
        for path, size, changed in _files(folder):
            if path.suffix == ".tmp" and time.time() - changed < _BEING_WRITTEN:
                continue
            try:
                path.unlink()
                freed += size
            except FileNotFoundError:  # another process may have removed it
                continue
            except OSError as error:
                problem = f"can't be removed ({error.strerror})"
                raise WriteError(f"{path}: {problem}. Check who owns the cache's folder.") from error
    return freed


def shard_names(folder: Path) -> set[str]:
    """Return the names of the shards in a folder.

    They come from the folder's listing alone: asking for the size and times of each shard would take seconds on a
    network folder of ten million images.
    """
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        return {e.name for e in entries if _SHARD.fullmatch(e.name) and e.is_file(follow_symlinks=False)}
    return set()


def remove_abandoned(folder: Path) -> None:
    """Remove temporary files and locks that killed runs have left."""
    with contextlib.suppress(DataError):  # the folder can't be listed
        for path, _, changed in _files(folder):
            if _PASSING.fullmatch(path.name) and time.time() - changed > _ABANDONED:
                with contextlib.suppress(OSError):
                    path.unlink()


def _folders(root: Path | None) -> list[Path]:
    """Return the folders of cached images, of any version; no links."""
    entries = _entries(cache_root(root) / _IMAGES_FOLDER)
    return [Path(e.path) for e in entries if _FOLDER.fullmatch(e.name) and e.is_dir(follow_symlinks=False)]


def _files(folder: Path) -> Iterator[tuple[Path, int, float]]:
    """Yield path, size in bytes and modification time of the cache's own files in a folder; no links."""
    for entry in _entries(folder):
        if not any(kind.fullmatch(entry.name) for kind in (_SHARD, _PASSING, _LASTING)):
            continue
        with contextlib.suppress(FileNotFoundError):
            status = entry.stat(follow_symlinks=False)
            if stat.S_ISREG(status.st_mode):
                yield Path(entry.path), status.st_size, status.st_mtime


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """List a folder; none if there is no such folder. Raise a DataError if it can't be read."""
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise DataError(
            f"{folder}: can't be read ({error.strerror}). Check who may read the cache's folder."
        ) from error
