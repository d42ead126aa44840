"""How many threads torch computes with: no more than other programs leave CPUs for.

The threads of torch wait for each other at the end of each operation. With more of them than free CPUs, each wait lasts
until the system has run the last one: two processes of two threads on two CPUs took 2.7 times as long as two of one
thread, and up to 30 times with small operations.
"""

from __future__ import annotations

import os

import torch
from typing_extensions import Self

from xrayfast.cpus import METER, cpu_count
from xrayfast.errors import plural

SET_BY_USER = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


class FreeThreads:
    """Within the block torch computes with no more threads than CPUs are free; afterwards with as many as before.

    Where OMP_NUM_THREADS or MKL_NUM_THREADS is set, the number stays. On a machine with nothing else to do, it is that
    of torch, or of the container's CPUs where those are fewer.

    Attributes:
        note: where the machine is busy, a sentence that says so and gives the number of threads; else "".
    """

    def __enter__(self) -> Self:
        self._before, self.note = torch.get_num_threads(), ""
        self.choose()
        return self

    def __exit__(self, *_: object) -> None:
        torch.set_num_threads(self._before)

    def choose(self) -> bool:
        """Choose anew, by the load since the last choice; whether the number has changed."""
        free = round(cpu_count() - METER.others())
        if any(os.environ.get(name) for name in SET_BY_USER):
            return False
        before, most = torch.get_num_threads(), min(self._before, cpu_count())
        threads = max(1, min(most, free))
        torch.set_num_threads(threads)
        self.note = ""
        if threads < most:
            self.note = (
                f"The machine is busy: {METER.describe()}. torch computes with {plural(threads, 'thread')} in place "
                f"of {most}, which is faster then, and rounds sums otherwise; OMP_NUM_THREADS sets a fixed number."
            )
        return threads != before
