"""The number of CPUs that this process may use, and how much of them other programs use. Does not import torch."""

from __future__ import annotations

import math
import os
import sys
import threading
import time
from contextlib import suppress
from itertools import accumulate
from pathlib import Path, PurePosixPath

import psutil

SHORTEST, LONGEST = 0.3, 60.0
"""Limits of a measurement in seconds: clock ticks are too coarse for shorter ones, and longer ones are outdated."""

THREADS_SET_BY_USER = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")

_WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
"""Variables with which the user decides how threads wait: OpenMP's own, and those of GNU's and Intel's libraries."""

_NOT_BUSY = ("idle", "iowait", "guest", "guest_nice", "interrupt", "dpc")
"""Fields of psutil's CPU times that are idle time, or that other fields already include."""


def cpu_count() -> int:
    """Return the number of CPUs that this process may use, given its affinity and its container's quota."""
    return max(1, math.ceil(min(len(_usable()) or os.cpu_count() or 1, _quota())))


class CpuMeter:
    """Measures how much other programs use the CPUs that this process may run on, from one call to the next."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._measured: float | None = None
        self._time, self._busy = time.monotonic(), _busy_seconds()

    def others(self) -> float:
        """Return the number of CPUs that other programs have used, on average since the last call.

        A call within 0.3 s of the last returns the same number. If the meter was made less than 0.3 s ago, or the last
        call was more than a minute ago, 0.3 s are measured first.
        """
        with self._lock:
            age = time.monotonic() - self._time
            if age < SHORTEST and self._measured is not None:
                return self._measured
            if age > LONGEST:
                self._time, self._busy = time.monotonic(), _busy_seconds()
            if not SHORTEST <= age <= LONGEST:
                time.sleep(SHORTEST)
            now, busy = time.monotonic(), _busy_seconds()
            self._measured = max(0.0, busy - self._busy) / (now - self._time)
            self._time, self._busy = now, busy
            return self._measured

    def describe(self) -> str:
        """Describe the last measurement: "other programs use 1.6 of 2 CPUs"; "" if they use less than half a CPU."""
        if self._measured is None or self._measured < 0.5:
            return ""
        return f"other programs use {self._measured:.1f} of {len(_usable()) or cpu_count()} CPUs"


def _usable() -> list[int]:
    """Return the numbers of the CPUs that this process may run on; empty if the system can't tell."""
    process = psutil.Process()
    return list(process.cpu_affinity() or []) if hasattr(process, "cpu_affinity") else []  # not on macOS


def _quota(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> float:
    """Return the number of CPUs that the quotas of this process's control groups allow; infinity without a limit.

    Linux containers, systemd and SLURM set such quotas. Both versions of control groups are read, and all enclosing
    groups.
    """
    groups = {"": "", "cpu": ""}  # keyed by controller; version 2 has one group for all
    with suppress(OSError, ValueError):  # not on Linux
        for line in own.read_text("utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            groups |= dict.fromkeys(controllers.split(","), path)
    least = math.inf
    for controller, files in (("", ("cpu.max",)), ("cpu", ("cpu.cfs_quota_us", "cpu.cfs_period_us"))):
        group, parts = root / controller, PurePosixPath(groups[controller]).parts[1:]
        # A container may see paths of its host, which do not exist in it.
        for folder in accumulate(parts, Path.joinpath, initial=group):
            with suppress(OSError, ValueError):  # the file does not exist, or has "max" for no limit
                quota, period = (int(word) for file in files for word in (folder / file).read_text("ascii").split())
                least = min(least, quota / period) if quota > 0 and period > 0 else least  # -1 means no limit
    return least


def _busy_seconds() -> float:
    """Return the CPU time of all programs except this one and its ended children; 0 if the system can't tell."""
    try:
        each = psutil.cpu_times(percpu=True)
        usable = _usable() or range(len(each))
        all_busy = sum(sum(each[i]) - sum(getattr(each[i], name, 0.0) for name in _NOT_BUSY) for i in usable)
        return float(
            all_busy - sum(psutil.Process().cpu_times()[:4])
        )  # user and system time, of this process and its children
    except (OSError, IndexError, psutil.Error, NotImplementedError):
        return 0.0


METER = CpuMeter()
"""The meter of this machine. Its first measurement begins when this module is imported."""


def choose_waiting() -> None:
    """Let torch's threads wait without using a CPU if the user set more of them than there are free CPUs.

    By default, they wait for each other in busy loops, which keep a CPU from the thread that they wait for: on two CPUs
    that other programs used too, `fit` with OMP_NUM_THREADS=2 took 220 s and 81 s of CPU, and 36 s and 12 s with
    OMP_WAIT_POLICY=passive, with the same losses. Nothing is changed if there are enough free CPUs, if torch is loaded
    already, or if the user set how threads wait.
    """
    numbers = [os.environ.get(name, "") for name in THREADS_SET_BY_USER]
    threads = max((int(number) for number in numbers if number.isdecimal()), default=1)
    if threads < 2 or "torch" in sys.modules or any(name in os.environ for name in _WAITING):
        return
    if threads > round(cpu_count() - METER.others()):
        os.environ["OMP_WAIT_POLICY"] = "passive"
