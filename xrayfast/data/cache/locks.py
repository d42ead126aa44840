"""File locks, with which runs that build the same cache at the same time share the work."""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from xrayfast.data.cache.folders import LOCK_SUFFIX

_PATIENCE = 600.0  # seconds to wait for another run's chunk; a lock only saves work, no image depends on it


class ChunkLocks:
    """One lock per chunk of files: a run skips the chunks that another run is decoding."""

    def __init__(self, folder: Path, find_missing: Callable[[Sequence[str]], Sequence[str]]) -> None:
        """Nothing is locked yet; `find_missing`, called by one thread at a time, returns the files not decoded yet."""
        self._folder, self._find_missing = folder, find_missing
        self._serial = threading.Lock()
        self._first_tried: dict[Path, float] = {}

    @contextlib.contextmanager
    def lock(self, chunk: Sequence[str]) -> Iterator[Sequence[str] | None]:
        """Lock a chunk; yield its files that are not decoded yet, or None if another run has the lock."""
        from filelock import FileLock, Timeout

        name = hashlib.blake2b("\0".join(chunk).encode(errors="surrogateescape"), digest_size=8).hexdigest()
        path = self._folder / (name + LOCK_SUFFIX)
        first_tried = self._first_tried.setdefault(path, time.monotonic())
        lock = FileLock(path)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if time.monotonic() - first_tried < _PATIENCE:
                yield None
                return
        except (OSError, NotImplementedError):  # a file system without locks
            pass
        try:
            with self._serial:
                missing = self._find_missing(chunk)
            yield missing
        finally:
            if lock.is_locked:
                lock.release()
                with contextlib.suppress(OSError):
                    path.unlink()
