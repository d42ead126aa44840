"""Image files read by several threads."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

from xrayfast.cpus import cpu_count

File = TypeVar("File")
Image = TypeVar("Image")

CHUNK = 256
"""Files to read before predicting on them: bounds memory, and lets progress be reported."""

MAX_THREADS = 8
"""Each holds an image of full size, and more would wait for the interpreter."""


class LazyImages(Sequence[Image], Generic[File, Image]):
    """Images that are read when a slice is taken; `reading` makes one."""

    def __init__(self, files: Sequence[File], read: Callable[[File], Image], pool: ThreadPoolExecutor) -> None:
        self._files, self._read, self._pool = files, read, pool
        self._begun: Iterator[Image] | None = None

    def __len__(self) -> int:
        """The number of files."""
        return len(self._files)

    def __getitem__(self, index: Any) -> Any:
        """The images of a slice, as a list, or a single one."""
        if not isinstance(index, slice):
            return self._read(self._files[index])
        if index == slice(0, CHUNK) and self._begun is not None:
            begun, self._begun = self._begun, None
            return list(begun)
        return list(self._pool.map(self._read, self._files[index]))

    def begin(self) -> None:
        """Read the first `CHUNK` files in the background, for the slice of them."""
        self._begun = self._pool.map(self._read, self._files[:CHUNK])


@contextmanager
def reading(files: Sequence[File], read: Callable[[File], Image]) -> Iterator[LazyImages[File, Image]]:
    """Files as a sequence of images, of which one thread per CPU reads each slice that is taken.

    Decoders release the interpreter to the other threads. Nothing is read ahead but by `LazyImages.begin`: reading
    and computing keep all CPUs busy by themselves.
    """
    # Recording warnings changes the process's filters, and threads restore what they found in any order. So they find
    # all warnings ignored, since pydicom's may quote a header, and the filters are restored here.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pool = ThreadPoolExecutor(min(MAX_THREADS, cpu_count()))
        try:
            yield LazyImages(files, read, pool)
        finally:
            pool.shutdown(cancel_futures=True)
