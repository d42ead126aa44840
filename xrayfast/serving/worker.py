"""One thread that computes requests in the order in which they arrived, and a bounded number that wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Result = TypeVar("Result")

MAX_WAITING = 256
"""Requests that may wait; `uploads.MAX_HELD_BYTES` bounds their memory."""


class Busy(Exception):
    """As many requests wait as may."""


class Worker:
    """Computes one after the other: a network uses all CPUs, and one large image is decoded at a time.

    Attributes:
        waiting: how many are computed or wait.
    """

    def __init__(self) -> None:
        self.waiting = 0
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="xrayfast-serve")

    async def run(self, work: Callable[[], Result]) -> Result:
        """What `work` returns, called in the thread once those before it have returned.

        Raises:
            Busy: too many wait.
        """
        if self.waiting >= MAX_WAITING:
            raise Busy
        self.waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work)
        finally:
            self.waiting -= 1

    def close(self) -> None:
        """Drop those that wait; what is being computed is not waited for."""
        self._pool.shutdown(wait=False, cancel_futures=True)
