"""Who decodes what, where several runs build one store at the same time."""

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
    """Locks by which runs that build at the same time leave each other's chunks alone."""

    def __init__(self, folder: Path, still_missing: Callable[[Sequence[str]], Sequence[str]]) -> None:
        """Nothing is locked yet.

        Args:
            folder: where the locks are.
            still_missing: which of these files nobody has decoded yet; asked by one thread at a time.
        """
        self._folder, self._still_missing = folder, still_missing
        self._one_at_a_time = threading.Lock()
        self._first_tried: dict[Path, float] = {}

    @contextlib.contextmanager
    def claim(self, chunk: Sequence[str]) -> Iterator[Sequence[str] | None]:
        """What of the chunk is still to be decoded, by this run as long as the context lasts; None: another has it."""
        from filelock import FileLock, Timeout

        name = hashlib.blake2b("\0".join(chunk).encode(errors="surrogateescape"), digest_size=8).hexdigest()
        path = self._folder / (name + LOCK_SUFFIX)
        tried = self._first_tried.setdefault(path, time.monotonic())
        lock = FileLock(path)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if time.monotonic() - tried < _PATIENCE:
                yield None
                return
        except (OSError, NotImplementedError):  # a file system without locks
            pass
        try:
            with self._one_at_a_time:
                missing = self._still_missing(chunk)
            yield missing
        finally:
            if lock.is_locked:
                lock.release()
                with contextlib.suppress(OSError):
                    path.unlink()
