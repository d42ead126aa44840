"""Images on the device: a whole split at once, or batches that threads read ahead, without worker processes."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xrayfast.config import DataOnDevice
from xrayfast.cpus import cpu_count
from xrayfast.data.cache.image_cache import DecodedImages, ImageCache
from xrayfast.errors import ConfigError
from xrayfast.learning.device import free_memory, send
from xrayfast.learning.distributed.rows import OwnRows, split_rows
from xrayfast.learning.fastai_api import TensorImageBW

DEVICE_SHARE = 0.4
"""Default share of the device's free memory for data; the rest is for the network and its activations."""


@dataclass(frozen=True)
class Placement:
    """How images get to the device during training, and how much of its memory data may take.

    Attributes:
        share: largest share of the device's free memory that data takes with "auto".
        resident: whether all images of the training and the validation split are on the device.
        feeds: whether a `DeviceFeed` provides the batches instead of the DataLoaders' workers.
        note: a sentence for the user on this; "" if the DataLoaders read the images because of settings or device.
    """

    choice: DataOnDevice
    share: float
    device: torch.device
    resident: bool = False
    feeds: bool = False
    note: str = ""

    def fits(self, size: int) -> bool:
        """Whether `size` bytes of other data, such as frozen features, should be on the device too."""
        if self.choice == "off" or (free := free_memory(self.device)) is None:
            return False
        return size <= free * (1 if self.choice == "on" else self.share)


def place_images(
    choice: DataOnDevice, share: float, device: torch.device, images: DecodedImages, count: int, workers: int | None
) -> Placement:
    """Decide how the `count` images of the training and the validation split get to the device.

    With "auto", images that fit are put on a CUDA device, and others are read ahead from the cache. The DataLoaders
    read them if the device is not CUDA, if there is no cache (worker processes then decode the files), or if `workers`
    is set.

    Raises:
        ConfigError: data_on_device is "on", and the images do not fit.
    """
    size, free = count * images.side**2, free_memory(device)
    by_loader = Placement(choice, share, device)
    resident, read_ahead = replace(by_loader, resident=True, feeds=True), replace(by_loader, feeds=True)
    if choice == "on":
        if free is not None and size > free:
            raise ConfigError(
                f"data_on_device is on, but the images take {size / 1e9:.1f} GB and only {free / 1e9:.1f} GB are "
                f"free on {device}. Use --data-on-device auto, which then reads images ahead instead, or a smaller "
                "--size."
            )
        return replace(resident, note=f"All images are kept on {device}, where they take {size / 1e9:.2f} GB.")
    if choice == "off" or workers or free is None:
        return by_loader
    if size <= share * free:
        note = (
            f"All images are kept on {device}, where they take {size / 1e9:.2f} of the {free / 1e9:.1f} GB that are "
            "free."
        )
        return replace(resident, note=note)
    much = (
        f"they would take {size / 1e9:.1f} GB, more than {share:.0%} (--device-share) of the {free / 1e9:.1f} GB "
        f"that are free on {device}"
    )
    if not isinstance(images, ImageCache):
        how = "Worker processes read them, because they are not cached."
        return replace(by_loader, note=f"Images are not kept on the device: {much}. {how}")
    how = f"Threads ({_threads()}) read them ahead."
    return replace(read_ahead, note=f"Images are not kept on the device: {much}. {how}")


class DeviceFeed:
    """The batches of a split on the device.

    Args:
        paths: (N,) paths of the split.
        targets: (N, ...) targets, or None.
        resident: whether all images are put on the device when the first batch is read; otherwise threads read a few
            batches ahead.
    """

    def __init__(
        self, images: DecodedImages, paths: Sequence[str], targets: Tensor | None, device: torch.device, resident: bool
    ) -> None:
        self.images, self.paths, self.device, self.resident = images, paths, device, resident
        self.targets = None if targets is None else send(targets, device)
        self._pixels: Tensor | None = None

    def batches(self, numbers: Sequence[Sequence[int]], own: OwnRows | None = None) -> Iterator[tuple[Any, ...]]:
        """Yield batches of (N, 1, side, side) uint8 images and their targets.

        Args:
            numbers: the numbers of the images in each batch.
            own: this rank's rows in distributed training; each rank then reads a share of the resident images, and all
                of them are gathered on every rank.
        """
        flat = send(torch.as_tensor([n for batch in numbers for n in batch], dtype=torch.long), self.device)
        chunks = flat.split([len(batch) for batch in numbers])
        if self.resident:
            pixels = self._load(own)
            squares: Iterable[Tensor] = (pixels[rows] for rows in chunks)
        else:
            squares = self._read_ahead(numbers)
        for rows, batch in zip(chunks, squares, strict=True):
            image = TensorImageBW(batch)
            yield (image,) if self.targets is None else (image, self.targets[rows])

    def _load(self, own: OwnRows | None) -> Tensor:
        """Return all images, (N, 1, side, side); the first call puts them on the device."""
        if self._pixels is None:
            count, side, start = len(self.paths), self.images.side, 0
            pixels = torch.empty((count, 1, side, side), dtype=torch.uint8, device=self.device)
            rows = OwnRows(0, 1) if own is None else OwnRows(own.rank, own.world_size)
            size = 256 * rows.world_size
            for batch in self._read_ahead(split_rows(range(count), size, own)):
                rows.total = min(size, count - start)
                pixels[start : start + rows.total] = batch if own is None else rows.gather(batch)
                start += rows.total
            self._pixels = pixels
        return self._pixels

    def _read_ahead(self, numbers: Sequence[Sequence[int]]) -> Iterator[Tensor]:
        """Yield batches in order; threads read them from the cache and copy them while the device computes."""
        if not numbers:
            return
        self.images.image(self.paths[numbers[0][0]])  # loads the cache's index before threads use it
        left, waiting = iter(numbers), deque[Future[tuple[Tensor, Any]]]()
        reader = _Reader(self, max(map(len, numbers)))
        with ThreadPoolExecutor(_threads(), thread_name_prefix="read-ahead") as pool:
            try:
                waiting.extend(pool.submit(reader.read, batch) for batch in islice(left, _threads() + 2))
                while waiting:
                    batch, copied = waiting.popleft().result()
                    if copied is not None:  # the current stream waits for the copy; this thread does not
                        stream = torch.cuda.current_stream(self.device)
                        stream.wait_event(copied)
                        batch.record_stream(stream)
                    waiting.extend(pool.submit(reader.read, batch) for batch in islice(left, 1))
                    yield batch
            finally:
                pool.shutdown(wait=True, cancel_futures=True)


class _Reader:
    """Reader of batches for several threads, each with its own reused buffer, which is pinned for CUDA."""

    def __init__(self, feed: DeviceFeed, size: int) -> None:
        self.feed, self.size = feed, size
        self.cuda = feed.device.type == "cuda"
        self.stream = torch.cuda.Stream(feed.device) if self.cuda else None
        self.of_thread = threading.local()

    def read(self, rows: Sequence[int]) -> tuple[Tensor, Any]:
        """Return the batch of these images on the device, and on CUDA the event of its copy, else None."""
        feed, side = self.feed, self.feed.images.side
        if not hasattr(self.of_thread, "buffer"):
            self.of_thread.buffer = torch.empty((self.size, 1, side, side), dtype=torch.uint8, pin_memory=self.cuda)
        buffer = self.of_thread.buffer[: len(rows)]
        feed.images.fill(buffer.numpy()[:, 0], [feed.paths[row] for row in rows])
        with torch.cuda.stream(self.stream) if self.cuda else nullcontext():
            batch = buffer.to(feed.device, non_blocking=True, copy=True)
            if self.stream is None:
                return batch, None
            copied = self.stream.record_event()
        copied.synchronize()  # then the buffer can be reused
        return batch, copied


def _threads() -> int:
    return min(8, cpu_count())


def contains_files(paths: Any) -> bool:
    """Whether a manifest's images are files; those of a placeholder manifest are arrays."""
    return all(isinstance(path, str) for path in np.asarray(paths, dtype=object)[:1])
