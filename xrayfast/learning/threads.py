"""The number of threads that torch computes with: at most the number of CPUs that other programs leave free.

torch's threads wait for each other at the end of each operation. With more threads than free CPUs, each wait lasts
until the system has run the last thread: on two CPUs, two processes of two threads took 2.7 times as long as two of one
thread, and up to 30 times as long with small operations.
"""

from __future__ import annotations

import os

import torch
from typing_extensions import Self

from xrayfast.cpus import METER, THREADS_SET_BY_USER, cpu_count
from xrayfast.errors import plural


class FreeThreads:
    """Context manager that limits torch's threads to the number of free CPUs, and restores their number afterwards.

    If OMP_NUM_THREADS or MKL_NUM_THREADS is set, the number is not changed. On an idle machine it is changed only if
    the container has fewer CPUs.

    Attributes:
        note: if the machine is busy, a sentence for the user with the number of threads; else "".
    """

    def __enter__(self) -> Self:
        self._before, self.note = torch.get_num_threads(), ""
        self.choose()
        return self

    def __exit__(self, *_: object) -> None:
        torch.set_num_threads(self._before)

    def choose(self) -> bool:
        """Set the number of threads from the load since the last call; return whether it changed."""
        free = round(cpu_count() - METER.others())
        if any(os.environ.get(name) for name in THREADS_SET_BY_USER):
            return False
        before, most = torch.get_num_threads(), min(self._before, cpu_count())
        threads = max(1, min(most, free))
        torch.set_num_threads(threads)
        self.note = ""
        if threads < most:
            self.note = (
                f"The machine is busy: {METER.describe()}. torch computes with {plural(threads, 'thread')} instead "
                f"of {most}, which is faster now but rounds sums differently; OMP_NUM_THREADS sets a fixed number."
            )
        return threads != before
