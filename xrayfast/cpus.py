"""The CPUs that this process may use, and how much of them other programs use. Imports no torch."""

from __future__ import annotations

import math
import os
import threading
import time
from contextlib import suppress
from itertools import accumulate
from pathlib import Path, PurePosixPath

import psutil

SHORTEST, LONGEST = 0.3, 60.0
"""Seconds that a measurement may cover: for fewer the system's clock ticks are too coarse, and more are out of date."""

_NOT_BUSY = ("idle", "iowait", "guest", "guest_nice", "interrupt", "dpc")
"""Times in psutil's tuple without work, or contained in others of it."""


def cpu_count() -> int:
    """The CPUs that this process may use, by its affinity and its container's quota."""
    return max(1, math.ceil(min(len(_usable()) or os.cpu_count() or 1, _quota())))


class CpuMeter:
    """Measures what other programs use of the CPUs that this one may run on, from call to call."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._measured: float | None = None
        self._time, self._busy = time.monotonic(), _busy_seconds()

    def others(self) -> float:
        """CPUs in use by other programs, on average since the last call.

        Waits 0.3 s where there is nothing to average: at once after the meter was made, and after more than a minute.
        A call within 0.3 s of the last returns the same.
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
        """The last measurement, as in "other programs use 1.6 of 2 CPUs"; "" where they use less than half a CPU."""
        if self._measured is None or self._measured < 0.5:
            return ""
        return f"other programs use {self._measured:.1f} of {len(_usable()) or cpu_count()} CPUs"


def _usable() -> list[int]:
    """Numbers of the CPUs that this process may run on; none where the system can't tell."""
    process = psutil.Process()
    return list(process.cpu_affinity() or []) if hasattr(process, "cpu_affinity") else []  # not on macOS


def _quota(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> float:
    """CPUs that this process may use by the quotas of its control group and of those around it, of either version, as
    Linux containers, systemd and SLURM set them; infinity without a limit.
    """
    groups = {"": "", "cpu": ""}  # by controller; version 2 has one group for all
    with suppress(OSError, ValueError):  # not on Linux
        for line in own.read_text("utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            groups |= dict.fromkeys(controllers.split(","), path)
    least = math.inf
    for controller, files in (("", ("cpu.max",)), ("cpu", ("cpu.cfs_quota_us", "cpu.cfs_period_us"))):
        group, parts = root / controller, PurePosixPath(groups[controller]).parts[1:]
        # A container may be shown paths of its host, which are not there.
        for folder in accumulate(parts, Path.joinpath, initial=group):
            with suppress(OSError, ValueError):  # no such file; "max" for no limit
                quota, period = (int(word) for file in files for word in (folder / file).read_text("ascii").split())
                least = min(least, quota / period) if quota > 0 and period > 0 else least  # -1 for no limit
    return least


def _busy_seconds() -> float:
    """CPU time of all programs but this one and its ended children; 0 where the system can't tell."""
    try:
        each = psutil.cpu_times(percpu=True)
        usable = _usable() or range(len(each))
        all_busy = sum(sum(each[i]) - sum(getattr(each[i], name, 0.0) for name in _NOT_BUSY) for i in usable)
        return float(all_busy - sum(psutil.Process().cpu_times()[:4]))  # user and system, the children's too
    except (OSError, IndexError, psutil.Error, NotImplementedError):
        return 0.0


METER = CpuMeter()
"""There is one machine to measure; the first measurement begins with the import of this module."""
