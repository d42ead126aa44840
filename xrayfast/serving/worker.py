"""A single thread that computes requests in order of arrival, with a bounded queue."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Result = TypeVar("Result")

MAX_WAITING = 256
"""Largest number of requests in the queue; `uploads.MAX_HELD_BYTES` bounds their memory."""


class Busy(Exception):
    """Raised if the queue is full."""


class Worker:
    """A worker that computes one request at a time, because a network uses all CPUs, and large images much memory.

    Attributes:
        waiting: number of requests that wait or are being computed.
    """

    def __init__(self) -> None:
        self.waiting = 0
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="xrayfast-serve")

    async def run(self, work: Callable[[], Result]) -> Result:
        """Call `work` in the thread after all earlier requests, and return its result.

        Raises:
            Busy: the queue is full.
        """
        if self.waiting >= MAX_WAITING:
            raise Busy
        self.waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work)
        finally:
            self.waiting -= 1

    def close(self) -> None:
        """Drop the waiting requests, and don't wait for the one that is being computed."""
        self._pool.shutdown(wait=False, cancel_futures=True)
