"""The memory of a process and its descendants."""

import threading
import time
from collections import defaultdict
from pathlib import Path

PROC = Path("/proc")


def descendants(pid: int, proc: Path = PROC) -> list[int]:
    """Return the process IDs of a process and its living descendants."""
    children = defaultdict(list)
    for stat in proc.glob("[0-9]*/stat"):
        try:
            # The name is in parentheses and may contain any character; the parent is the second field after it.
            children[int(stat.read_text().rpartition(")")[2].split()[1])].append(int(stat.parent.name))
        except (OSError, IndexError):  # the process has ended
            continue
    found, waiting = [], [pid]
    while waiting:
        at = waiting.pop()
        found.append(at)
        waiting += children[at]
    return found


def pss_mb(pid: int, proc: Path = PROC) -> float:
    """Return the memory of a process in MB, with shared pages divided among the processes (PSS); 0 if it has ended."""
    try:
        lines = (proc / str(pid) / "smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


class PeakMemory(threading.Thread):
    """Samples the memory of a process tree, at most every quarter of a second, until stopped.

    Attributes:
        peak_mb: the largest sum so far, or None on systems without /proc.
    """

    def __init__(self, pid: int, every: float = 0.25) -> None:
        super().__init__(daemon=True)
        self.pid, self.every = pid, every
        self.peak_mb = 0.0 if (PROC / "self" / "smaps_rollup").exists() else None
        self._ended = threading.Event()

    def run(self) -> None:
        pause = self.every
        while self.peak_mb is not None and not self._ended.wait(pause):
            began = time.thread_time()
            self.peak_mb = max(self.peak_mb, sum(map(pss_mb, descendants(self.pid))))
            # The kernel walks all pages, 30 ms per gigabyte: limit this to 4% of one core.
            pause = max(self.every, 25 * (time.thread_time() - began))

    def stop(self) -> float | None:
        self._ended.set()
        self.join()
        return self.peak_mb and round(self.peak_mb, 1)
