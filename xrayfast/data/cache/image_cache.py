"""Images decoded once, and their facts: from the disk where they are kept and fresh, else from the reader."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from xrayfast.config import DataConfig
from xrayfast.data.cache.decode import SEGMENT_BYTES, Job, Outcome, facts_of, file_key
from xrayfast.data.cache.decode_pool import cpu_count, decode_all
from xrayfast.data.cache.folders import cache_root, image_folder, remove_abandoned, shard_names
from xrayfast.data.cache.locks import ChunkLocks
from xrayfast.data.cache.shards import DamagedError, Facts, Shard
from xrayfast.data.images.reader import Pixels, fit_square, read
from xrayfast.errors import DataError, WriteError

Progress = Callable[[int, int], None]
"""Called with how many files are done and how many there are."""

_CHUNKS = 64  # into which a build is divided, where that makes chunks of 8 to 512 images
_IMAGES_PER_WORKER = 50  # fewer are not worth another process, which takes half a second to start
_PROBLEMS = 20  # named in an error


class DecodedImages(Protocol):
    """Where training, audit and interpretation get their images from: a Store or a Reader."""

    side: int

    def build(
        self, paths: Iterable[str | Path], progress: Progress | None = None, workers: int | None = None
    ) -> dict[str, str]:
        """Decode what has not been; what can't be read, by path."""

    def image(self, path: str | Path) -> Pixels:
        """(side, side) uint8."""

    def batch(self, paths: Sequence[str | Path]) -> Pixels:
        """Of N paths (N, side, side) uint8: `image` of each."""

    def facts(self, path: str | Path) -> Facts:
        """What is known of the decoded original."""


def open_images(config: DataConfig, side: int) -> DecodedImages:
    """The images of that side as the config asks for them: kept on disk, or not."""
    return ImageCache(side, config.window, config.cache_dir) if config.cache else UncachedImages(side, config.window)


def decoded(config: DataConfig, side: int, paths: Sequence[str], progress: Progress | None = None) -> DecodedImages:
    """The images of that side as the config asks for them, each file decoded unless it was before.

    Raises:
        DataError: files that can't be read; the first of them are named.
        ConfigError: there is no such window.
        WriteError: no room to keep the images.
    """
    images = open_images(config, side)
    if problems := list(images.build(paths, progress).values()):
        shown, more = problems[:_PROBLEMS], len(problems) - _PROBLEMS
        raise DataError(
            f"{len(problems)} of {len(paths)} images can't be read; expected none. Mend them, or take them out of the "
            "data set:\n" + "\n".join(shown) + (f"\nand {more} more. 'xrayfast check' lists all." if more > 0 else "")
        )
    return images


class ImageCache:
    """Images of one side and window, kept on disk.

    An image is found by its file's path, size and times and never outlives a change of them; what is damaged
    on disk is noticed and dropped. Several processes may read and build the same store. It can be pickled,
    and used after a fork: no file stays open.

    Attributes:
        side: of the squares, in pixels.
        window: for `radiograph.read`.
        folder: where the images are.
    """

    def __init__(self, side: int, window: str = "auto", root: Path | None = None) -> None:
        """Nothing is read or written yet.

        Args:
            side: of the squares, in pixels.
            window: for `radiograph.read`.
            root: the cache's folder; None for the user's.
        """
        self.side, self.window, self._root = side, window, cache_root(root)
        self.folder = image_folder(self._root, side, window)
        self._segments: dict[str, Shard] | None = None
        self._places: dict[bytes, tuple[Shard, int]] = {}

    def __reduce__(self) -> tuple[type[ImageCache], tuple[int, str, Path]]:
        """What lies on disk is read anew by the process that unpickles it."""
        return ImageCache, (self.side, self.window, self._root)

    def build(
        self, paths: Iterable[str | Path], progress: Progress | None = None, workers: int | None = None
    ) -> dict[str, str]:
        """Decode the files that aren't kept as they stand now, in several processes, and keep them.

        Stopped or killed, it goes on from there the next time. Runs that build at the same time share the work.

        Args:
            paths: of the images.
            progress: called about twice a second at least, if anything is to be done.
            workers: processes; None for as many as CPUs, or fewer for few files; 0 for this process.

        Returns:
            For each file that can't be read, what is wrong with it.

        Raises:
            ConfigError: there is no such window.
            WriteError: the cache can't be written, or there is too little room; what was written is kept.
        """
        wanted = sorted({str(path) for path in paths})
        self._scan()
        missing = set(self._missing(wanted))
        if not missing:
            return {}
        self._prepare(len(missing))
        chunks = [chunk for chunk in _chunks(wanted, self.side) if not missing.isdisjoint(chunk)]
        job = Job(self.side, self.window, str(self.folder))
        problems: dict[str, str] = {}
        try:
            with contextlib.closing(
                decode_all(
                    job, chunks, _workers(workers, len(missing)), ChunkLocks(self.folder, self._still_missing).claim
                )
            ) as outcomes:
                for outcome in _followed(outcomes, set(wanted) - missing, len(wanted), progress):
                    if outcome.problem:
                        problems[outcome.path] = outcome.problem
        except WriteError as error:
            raise WriteError(f"{error} {self._needs(len(missing))} What was written is kept.") from error
        self._scan()
        return dict(sorted(problems.items()))

    def image(self, path: str | Path) -> Pixels:
        """The image, (side, side) uint8, the caller's own: `fit_square(read(path, window).pixels, side)`.

        Raises:
            ReadError: it isn't kept and can't be read.
        """
        if place := self._place(path):
            segment, row = place
            try:
                return segment.square(row)
            except DamagedError:
                self._drop(segment)
            except OSError:  # removed meanwhile, or the disk fails: the reader needs neither
                pass
        return fit_square(read(path, self.window).pixels, self.side)

    def batch(self, paths: Sequence[str | Path]) -> Pixels:
        """`image` of N paths, (N, side, side) uint8, the caller's own; each segment is opened once.

        Whether a file still is what was decoded is looked up anew each time, which takes a tenth of the time.

        Raises:
            ReadError: one isn't kept and can't be read.
        """
        squares: Pixels = np.empty((len(paths), self.side, self.side), np.uint8)
        kept: dict[Shard, list[tuple[int, int]]] = {}
        left = []
        for place, path in enumerate(paths):
            if found := self._place(path):
                kept.setdefault(found[0], []).append((found[1], place))
            else:
                left.append(place)
        for segment, pairs in kept.items():
            rows, places = zip(*sorted(pairs), strict=True)
            try:
                segment.fill([squares[place] for place in places], rows)
            except (DamagedError, OSError):  # for `image` to find out which, and why
                left += places
        for place in left:
            squares[place] = self.image(paths[place])
        return squares

    def facts(self, path: str | Path) -> Facts:
        """What is known of the decoded original.

        Raises:
            ReadError: it isn't kept and can't be read.
        """
        if place := self._place(path):
            segment, row = place
            return segment.facts(row)
        return facts_of(path, self.window)

    def _place(self, path: str | Path) -> tuple[Shard, int] | None:
        if self._segments is None:
            self._scan()
        try:
            return self._places.get(file_key(path))
        except (OSError, ValueError):  # no such file: the reader says so
            return None

    def _missing(self, paths: Iterable[str]) -> list[str]:
        return [path for path in paths if not self._place(path)]

    def _still_missing(self, paths: Iterable[str]) -> list[str]:
        """Those that no other run has decoded meanwhile either."""
        self._scan()
        return self._missing(paths)

    def _scan(self) -> None:
        """Learn of segments that were added or removed since; remove damaged ones."""
        if self._segments is None:
            self._segments = {}
            with contextlib.suppress(OSError):
                os.utime(self.folder)  # the time of last use, for `cache_info`
        names = shard_names(self.folder)
        if gone := self._segments.keys() - names:
            for name in gone:
                del self._segments[name]
            self._places = {key: place for key, place in self._places.items() if place[0].path.name not in gone}
        for name in sorted(names - self._segments.keys()):
            path = self.folder / name
            try:
                segment = Shard(path, self.side)
            except DamagedError:
                _unlink(path)
                continue
            except OSError:  # removed meanwhile, or not ours to read
                continue
            self._segments[name] = segment
            self._places.update((key, (segment, row)) for row, key in enumerate(segment.keys()))

    def _drop(self, segment: Shard) -> None:
        """Forget a damaged segment, in memory and on disk."""
        _unlink(segment.path)
        if self._segments:
            self._segments.pop(segment.path.name, None)
        self._places = {key: place for key, place in self._places.items() if place[0] is not segment}

    def _prepare(self, n_missing: int) -> None:
        """The folder, with room in it."""
        try:
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)  # images of patients
            self.folder.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(self.folder).free
        except OSError as error:
            raise WriteError(f"{self.folder}: can't be made ({error.strerror}). {self._needs(n_missing)}") from error
        if not os.access(self.folder, os.W_OK):
            raise WriteError(f"{self.folder}: can't be written to (no permission). {self._needs(n_missing)}")
        if free < n_missing * self.side**2:
            raise WriteError(f"{self.folder}: found {_amount(free)} free. {self._needs(n_missing)}")
        remove_abandoned(self.folder)

    def _needs(self, n_missing: int) -> str:
        return (
            f"{n_missing} images of {self.side} px need {_amount(n_missing * self.side**2)} there. "
            "Name another folder with --cache-dir, or keep no images with --no-cache."
        )


class UncachedImages:
    """Images that are decoded each time they are asked for; of those built, the facts are remembered.

    Attributes:
        side: of the squares, in pixels.
        window: for `radiograph.read`.
    """

    def __init__(self, side: int, window: str = "auto") -> None:
        self.side, self.window = side, window
        self._facts: dict[bytes, Facts] = {}

    def build(
        self, paths: Iterable[str | Path], progress: Progress | None = None, workers: int | None = None
    ) -> dict[str, str]:
        """Decode the files once, in several processes, and remember their facts.

        Args:
            paths: of the images.
            progress: called about twice a second at least, if anything is to be done.
            workers: processes; None for as many as CPUs, or fewer for few files; 0 for this process.

        Returns:
            For each file that can't be read, what is wrong with it.

        Raises:
            ConfigError: there is no such window.
        """
        wanted = sorted({str(path) for path in paths})
        missing = [path for path in wanted if self._known(path) is None]
        job = Job(self.side, self.window, None)
        problems: dict[str, str] = {}
        outcomes = decode_all(job, _chunks(missing, self.side), _workers(workers, len(missing)))
        with contextlib.closing(outcomes):
            for outcome in _followed(outcomes, set(wanted) - set(missing), len(wanted), progress):
                if outcome.problem:
                    problems[outcome.path] = outcome.problem
                elif outcome.key and outcome.facts:
                    self._facts[outcome.key] = outcome.facts
        return dict(sorted(problems.items()))

    def image(self, path: str | Path) -> Pixels:
        """The image, (side, side) uint8, decoded now.

        Raises:
            ReadError: it can't be read.
        """
        return fit_square(read(path, self.window).pixels, self.side)

    def batch(self, paths: Sequence[str | Path]) -> Pixels:
        """`image` of N paths, (N, side, side) uint8.

        Raises:
            ReadError: one can't be read.
        """
        squares: Pixels = np.empty((len(paths), self.side, self.side), np.uint8)
        for place, path in enumerate(paths):
            squares[place] = self.image(path)
        return squares

    def facts(self, path: str | Path) -> Facts:
        """What is known of the decoded original.

        Raises:
            ReadError: it wasn't built, and can't be read.
        """
        return self._known(path) or facts_of(path, self.window)

    def _known(self, path: str | Path) -> Facts | None:
        try:
            return self._facts.get(file_key(path))
        except (OSError, ValueError):
            return None


def _chunks(paths: Sequence[str], side: int) -> list[Sequence[str]]:
    """The paths in chunks, the same ones for all runs that want the same paths and side."""
    size = min(512, max(8, len(paths) // _CHUNKS), max(1, SEGMENT_BYTES // side**2))
    return [paths[i : i + size] for i in range(0, len(paths), size)]


def _workers(asked: int | None, n_missing: int) -> int:
    if asked is not None:
        return max(0, asked)
    return min(cpu_count(), n_missing // _IMAGES_PER_WORKER) if n_missing >= 2 * _IMAGES_PER_WORKER else 1


def _followed(
    outcomes: Iterable[Outcome | None], done: set[str], total: int, progress: Progress | None
) -> Iterator[Outcome]:
    """The outcomes, while the progress is told about ten times a second."""
    told = 0.0
    for outcome in outcomes:
        if outcome:
            done.add(outcome.path)
            yield outcome
        if progress and (len(done) == total or time.monotonic() - told > 0.1):
            progress(len(done), total)
            told = time.monotonic()


def _amount(size: int) -> str:
    """A number of bytes in words.

    >>> _amount(6_553_600_000), _amount(400)
    ('6.6 GB', '0.0 MB')
    """
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def _unlink(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()
