"""Decoded images for training, audit and interpretation: `ImageCache` keeps them on disk, `UncachedImages` does not."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import PIL

from xrayfast._version import __version__
from xrayfast.config import DataConfig
from xrayfast.cpus import cpu_count
from xrayfast.data.cache.columns import Columns, Layout, read_columns, write_columns
from xrayfast.data.cache.decode_pool import LockChunk, decode_all
from xrayfast.data.cache.decode_worker import SHARD_BYTES, Job, Outcome, key_or_none, read_with_info
from xrayfast.data.cache.file_keys import NO_KEY, FileKeys
from xrayfast.data.cache.folders import COMPUTED_SUFFIX, image_folder, remove_abandoned
from xrayfast.data.cache.index import FolderIndex
from xrayfast.data.cache.locks import ChunkLocks
from xrayfast.data.cache.shards import KEY_BYTES, DamagedError, ImageInfo, Shard
from xrayfast.data.cache.shares import Share
from xrayfast.data.images.reader import Pixels, fit_square, read
from xrayfast.errors import DataError, ReadError, WriteError
from xrayfast.files.cache_folder import cache_root
from xrayfast.files.virtual.access import read_order

DecodingProgress = Callable[[int, int], None]
"""Called with the number of files that are done and the number of all files."""

_CHUNKS = 64  # per build, if chunks then have 8 to 512 images
_IMAGES_PER_WORKER = 50  # fewer are not worth another process, which takes half a second to start
_PROBLEMS = 20  # listed in an error
_COMPUTED = b"xraycmp1"


def open_images(config: DataConfig, side: int) -> DecodedImages:
    """Return the images with one side, cached on disk or not as the config says; nothing is decoded yet."""
    return ImageCache(side, config.window, config.cache_dir) if config.cache else UncachedImages(side, config.window)


def require_readable(problems: Sequence[str], total: int) -> None:
    """Raise a DataError if any of `total` files can't be read: `problems` are the messages of `DecodedImages.build`."""
    if problems:
        shown, more = problems[:_PROBLEMS], len(problems) - _PROBLEMS
        raise DataError(
            f"{len(problems):,} of {total:,} images can't be read; expected none. Fix them, or leave them out with "
            "--unreadable skip:",
            *shown,
            *([f"and {more:,} more. 'xrayfast check' lists all."] if more > 0 else []),
        )


class DecodedImages(ABC):
    """Images of files, decoded with one window of `reader.read`, each fitted into a square of `side` pixels."""

    def __init__(self, side: int, window: str = "auto") -> None:
        self.side, self.window = side, window
        self._built = FileKeys([])

    def build(
        self, paths: Iterable[str | Path], progress: DecodingProgress | None = None, workers: int | None = None
    ) -> dict[str, str]:
        """Decode, in several processes, the files that have not been decoded in their present state.

        Args:
            paths: of the images.
            progress: called at least twice a second, if anything has to be decoded.
            workers: how many processes; None for one per CPU, or fewer for few files; 0 to decode in this process.

        Returns:
            For each file that can't be read, a message that says what is wrong with it.

        Raises:
            ConfigError: invalid window.
            WriteError: the cache can't be written, or there is too little space; what was written is kept.
        """
        self._built = FileKeys(str(path) for path in paths)
        wanted = sorted(self._built.paths, key=read_order)
        missing = set(self._find_missing(self._built))
        if not missing:
            self._finish_build()
            return {}
        chunks = [chunk for chunk in _chunks(wanted, self.side) if not missing.isdisjoint(chunk)]
        problems: dict[str, str] = {}
        with self._prepare_build(len(missing)) as (folder, lock_chunk):
            job = Job(self.side, self.window, folder)
            outcomes = decode_all(job, chunks, _n_workers(workers, len(missing)), lock_chunk)
            with contextlib.closing(outcomes):
                for outcome in _report_progress(outcomes, missing, len(wanted), progress):
                    if outcome.problem:
                        problems[outcome.path] = outcome.problem
                    else:
                        self._remember(outcome)
        self._finish_build()
        return dict(sorted(problems.items()))

    def image(self, path: str | Path) -> Pixels:
        """Return `fit_square(read(path, window).pixels, side)`: (side, side) uint8, writeable.

        Raises:
            ReadError: the image isn't cached and can't be read.
        """
        return fit_square(read(path, self.window).pixels, self.side)

    def image_or_none(self, path: str | Path) -> Pixels | None:
        """Return `image`; None if it can't be read, for pages that then say so in its place."""
        try:
            return self.image(path)
        except ReadError:
            return None

    def batch(self, paths: Sequence[str | Path]) -> Pixels:
        """Return `image` of N paths: (N, side, side) uint8, writeable."""
        squares: Pixels = np.empty((len(paths), self.side, self.side), np.uint8)
        self.fill(squares, paths)
        return squares

    def fill(self, squares: Pixels, paths: Sequence[str | Path]) -> None:
        """Read the images of N paths into `squares`, (N, side, side) uint8; raises the same errors as `batch`."""
        for place, path in enumerate(paths):
            squares[place] = self.image(path)

    def info(self, path: str | Path) -> ImageInfo:
        """Return the size, bit depth, format, digest and notes of the original image."""
        key = key_or_none(path)
        return (key and self._known_info(key)) or read_with_info(path, self.window)[1]

    def infos(self, paths: Iterable[str]) -> list[ImageInfo]:
        """Return `info` of many files in their state at the last build, without looking them up again."""
        keys = ((path, self._built.find(path)) for path in paths)
        return [(key and self._known_info(key)) or self.info(path) for path, key in keys]

    def state(self, paths: Iterable[str]) -> bytes:
        """Return a hash of files in their state at the last build; other or changed files have another hash."""
        digest = hashlib.blake2b(digest_size=KEY_BYTES)
        for path in paths:
            digest.update(self._built.find(path) or key_or_none(path) or NO_KEY)
        return digest.digest()

    def computed(self, key: bytes, layout: Layout, compute: Callable[[], Columns]) -> Columns:
        """Return a result that was computed from images: if images are cached, it is kept on disk and read from there.

        `key` is a hash of everything that the result depends on, except for versions.
        """
        return compute()

    @abstractmethod
    def _known_info(self, key: bytes) -> ImageInfo | None:
        """Return the info of a decoded file by its key; None if it has not been decoded in that state."""

    @abstractmethod
    def _find_missing(self, files: FileKeys) -> list[str]:
        """Return the files that have not been decoded in the state in which they were looked up."""

    def _still_missing(self, chunk: Sequence[str]) -> list[str]:
        """Return those files of a chunk that are not decoded yet, in its order, in which archives are read once."""
        missing = set(self._find_missing(FileKeys(chunk)))
        return [path for path in chunk if path in missing]

    @abstractmethod
    def _prepare_build(self, n_missing: int) -> contextlib.AbstractContextManager[tuple[str | None, LockChunk]]:
        """Return the context of a build, which yields the folder for shards and the function that locks a chunk."""

    def _remember(self, outcome: Outcome) -> None:  # noqa: B027 - a hook that need not do anything
        """Called for each file that was decoded."""

    def _finish_build(self) -> None:  # noqa: B027 - a hook that need not do anything
        """Called when all files that can be decoded are decoded."""


class UncachedImages(DecodedImages):
    """Images that are decoded each time they are asked for; a build keeps their infos in memory."""

    def __init__(self, side: int, window: str = "auto") -> None:
        super().__init__(side, window)
        self._infos: dict[bytes, ImageInfo] = {}

    def _known_info(self, key: bytes) -> ImageInfo | None:
        return self._infos.get(key)

    def _find_missing(self, files: FileKeys) -> list[str]:
        return [path for path in files.paths if files.find(path) not in self._infos]

    @contextlib.contextmanager
    def _prepare_build(self, n_missing: int) -> Iterator[tuple[None, LockChunk]]:
        yield None, lambda chunk: contextlib.nullcontext(self._still_missing(chunk))

    def _remember(self, outcome: Outcome) -> None:
        if outcome.key and outcome.info:
            self._infos[outcome.key] = outcome.info


class ImageCache(DecodedImages):
    """Images cached on disk.

    An image is found by its file's path, size and times: after any change it is decoded again. Damaged shards are
    detected and removed. A build that was stopped or killed continues where it was. Several processes may read and
    build the same cache, and simultaneous builds share the work. A cache can be pickled and used after a fork, because
    no file stays open.
    """

    def __init__(self, side: int, window: str = "auto", root: Path | None = None) -> None:
        """Nothing is read or written yet; a root of None is the user's cache folder."""
        super().__init__(side, window)
        self._root = cache_root(root)
        self.folder = image_folder(self._root, side, window)
        self._index: FolderIndex | None = None

    def __reduce__(self) -> tuple[type[ImageCache], tuple[int, str, Path]]:
        """Pickle the settings alone; the process that unpickles the cache reads the index from disk."""
        return ImageCache, (self.side, self.window, self._root)

    def image(self, path: str | Path) -> Pixels:
        """Return the image as `DecodedImages.image` does, but from disk if it is cached."""
        if place := self._find(path):
            shard, row = place
            try:
                return shard.square(row)
            except DamagedError:
                self._opened().discard(shard.path)
            except OSError:  # the shard was removed, or the disk fails: the image file is still there
                pass
        return super().image(path)

    def fill(self, squares: Pixels, paths: Sequence[str | Path]) -> None:
        """Read the images as `DecodedImages.fill` does, but open each shard once.

        Each file is checked for changes every time, which takes a tenth of the time.
        """
        by_shard: dict[Shard, list[tuple[int, int]]] = {}
        remaining = []
        for index, path in enumerate(paths):
            if place := self._find(path):
                by_shard.setdefault(place[0], []).append((place[1], index))
            else:
                remaining.append(index)
        for shard, pairs in by_shard.items():
            rows, indices = zip(*sorted(pairs), strict=True)
            try:
                shard.fill([squares[index] for index in indices], rows)
            except (DamagedError, OSError):  # `image` handles the error for each of them
                remaining += indices
        for index in remaining:
            squares[index] = self.image(paths[index])

    def build_share(
        self, paths: Sequence[str], share: Share, progress: DecodingProgress | None = None
    ) -> tuple[dict[str, str], list[int]]:
        """Build the images of one share; if all other shares are done, write the index of all images.

        `paths` are those of all images, the same on all machines. Return the result of `build`, which may raise errors,
        and the numbers of the shares that are not done yet.
        """
        problems = self.build(share.of_paths(paths), progress)
        try:
            self._make_folder()
            share.record(self.folder, paths)
        except OSError as error:
            raise WriteError(f"{self.folder}: can't be created ({error.strerror}).") from error
        to_do = share.others_to_do(self.folder, paths)
        if not to_do:
            self._opened().refresh()
            self._opened().save(unlisted=0)
        return problems, to_do

    def computed(self, key: bytes, layout: Layout, compute: Callable[[], Columns]) -> Columns:
        """Like `DecodedImages.computed`. Results of other versions of xrayfast, numpy or Pillow are not used."""
        name = hashlib.blake2b(f"{__version__} {np.__version__} {PIL.__version__} ".encode() + key, digest_size=16)
        path = self.folder / f"{name.hexdigest()}{COMPUTED_SUFFIX}"
        if (known := read_columns(path, _COMPUTED, layout)) is not None:
            return known
        columns = compute()
        with contextlib.suppress(WriteError):  # the file saves time only
            write_columns(path, _COMPUTED, layout, columns)
        return columns

    def _known_info(self, key: bytes) -> ImageInfo | None:
        place = self._opened().find(key)
        return place[0].info(place[1]) if place else None

    def _find(self, path: str | Path) -> tuple[Shard, int] | None:
        """Return the shard and row of a file in its present state; None if it is not cached."""
        key = key_or_none(path)
        return self._opened().find(key) if key else None

    def _find_missing(self, files: FileKeys) -> list[str]:
        index = self._opened()
        index.refresh()
        return [files.paths[i] for i in np.flatnonzero(index.missing(files.words)).tolist()]

    def _opened(self) -> FolderIndex:
        if self._index is None:
            self._index = FolderIndex(self.folder, self.side)
            self._index.refresh()
            with contextlib.suppress(OSError):
                os.utime(self.folder)  # the time of last use, for `cache_info`
        return self._index

    def _make_folder(self) -> None:
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)  # images of patients
        self.folder.mkdir(parents=True, exist_ok=True)

    @contextlib.contextmanager
    def _prepare_build(self, n_missing: int) -> Iterator[tuple[str, LockChunk]]:
        hint = (
            f"{n_missing:,} images of {self.side} px need {_format_bytes(n_missing * self.side**2)} there. "
            "Name another folder with --cache-dir, or decode the images again in each run with --no-cache."
        )
        try:
            self._make_folder()
            free = shutil.disk_usage(self.folder).free
        except OSError as error:
            raise WriteError(f"{self.folder}: can't be created ({error.strerror}). {hint}") from error
        if not os.access(self.folder, os.W_OK):
            raise WriteError(f"{self.folder}: can't be written to (no permission). {hint}")
        if free < n_missing * self.side**2:
            raise WriteError(f"{self.folder}: found {_format_bytes(free)} free. {hint}")
        remove_abandoned(self.folder)
        try:
            yield str(self.folder), ChunkLocks(self.folder, self._still_missing).lock
        except WriteError as error:
            raise WriteError(f"{error} {hint} The images decoded so far are kept.") from error
        self._opened().refresh()

    def _finish_build(self) -> None:
        with contextlib.suppress(WriteError):  # the index only saves time: without it, shards are opened
            self._opened().save()


def _chunks(paths: Sequence[str], side: int) -> list[Sequence[str]]:
    """Return the paths in chunks, which are the same for all runs that build the same paths and side."""
    size = min(512, max(8, len(paths) // _CHUNKS), max(1, SHARD_BYTES // side**2))
    return [paths[i : i + size] for i in range(0, len(paths), size)]


def _n_workers(requested: int | None, n_missing: int) -> int:
    if requested is not None:
        return max(0, requested)
    return min(cpu_count(), n_missing // _IMAGES_PER_WORKER) if n_missing >= 2 * _IMAGES_PER_WORKER else 1


def _report_progress(
    outcomes: Iterable[Outcome | None], missing: set[str], total: int, progress: DecodingProgress | None
) -> Iterator[Outcome]:
    """Yield the outcomes, remove their files from `missing`, and call `progress` at most ten times per second."""
    reported = 0.0
    for outcome in outcomes:
        if outcome:
            missing.discard(outcome.path)
            yield outcome
        if progress and (not missing or time.monotonic() - reported > 0.1):
            progress(total - len(missing), total)
            reported = time.monotonic()


def _format_bytes(size: int) -> str:
    """Return a number of bytes as text for a message.

    >>> _format_bytes(6_553_600_000), _format_bytes(400)
    ('6.6 GB', '0.0 MB')
    """
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
