"""Reading image files with several threads."""

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
"""Number of files to read before predicting them: limits memory, and lets progress be reported."""

MAX_THREADS = 8
"""Largest number of threads: each holds an image of full size, and more would wait for the GIL."""


class LazyImages(Sequence[Image], Generic[File, Image]):
    """A sequence of images that are read when a slice is taken; `reading` makes one."""

    def __init__(self, files: Sequence[File], read: Callable[[File], Image], pool: ThreadPoolExecutor) -> None:
        self._files, self._read, self._pool = files, read, pool
        self._begun: Iterator[Image] | None = None

    def __len__(self) -> int:
        """The number of files."""
        return len(self._files)

    def __getitem__(self, index: Any) -> Any:
        """Read the images of a slice, as a list, or a single image."""
        if not isinstance(index, slice):
            return self._read(self._files[index])
        if index == slice(0, CHUNK) and self._begun is not None:
            begun, self._begun = self._begun, None
            return list(begun)
        return list(self._pool.map(self._read, self._files[index]))

    def begin(self) -> None:
        """Start to read the first `CHUNK` files in the background, for `chunks`."""
        self._begun = self._pool.map(self._read, self._files[:CHUNK])

    def chunks(self, progress: Callable[[int, int], None], size: int | None = None) -> Iterator[list[Image]]:
        """Yield the images, `size` (default `CHUNK`) at a time, and report the images done and the total after each."""
        for start in range(0, len(self), size or CHUNK):
            yield self[start : start + (size or CHUNK)]
            progress(min(start + (size or CHUNK), len(self)), len(self))


@contextmanager
def reading(files: Sequence[File], read: Callable[[File], Image]) -> Iterator[LazyImages[File, Image]]:
    """Yield the files as a sequence of images; the files of a slice are read by one thread per CPU.

    Decoders release the GIL. Only `LazyImages.begin` reads ahead: reading and computing each keep all CPUs busy.
    """
    # Recording warnings changes the filters of the whole process, and threads restore them in any order. So all
    # warnings are ignored here (pydicom's may quote a header), and the filters are restored at the end.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pool = ThreadPoolExecutor(min(MAX_THREADS, cpu_count()))
        try:
            yield LazyImages(files, read, pool)
        finally:
            pool.shutdown(cancel_futures=True)
