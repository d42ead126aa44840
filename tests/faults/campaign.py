"""Time limits, sizes and counts of the parts of the fault campaign."""

import os
import time
from collections.abc import Iterator

SEED = int(os.environ.get("XRAYFAST_FAULTS_SEED", "0"))
SECONDS = float(os.environ.get("XRAYFAST_FAULTS_SECONDS", "600"))
"""Per part; 0 for no limit."""

HANG = 3600.0
"""Seconds after which a command counts as hanging. Speed is measured in CPU time, which does not depend on the load."""

COUNTS: list[str] = []
"""The results of the finished parts, for the summary line."""


def size_of(part: str, default: int) -> int:
    """Return the number of rounds of a part if time allows, from XRAYFAST_FAULTS_KILLS etc."""
    return int(os.environ.get(f"XRAYFAST_FAULTS_{part.upper()}", default))


def rounds(size: int) -> Iterator[int]:
    """Yield 0 to size - 1, but start no round after the time of the part is over; at least one."""
    start = time.monotonic()
    for number in range(size):
        if number and 0 < SECONDS < time.monotonic() - start:
            return
        yield number


def conclude(done: int, size: int, what: str, wrong: list[str]) -> None:
    """Record the count of a part, and fail if there was an error."""
    COUNTS.append(f"{done if done == size else f'{done} of {size}'} {what}, {len(wrong)} wrong")
    assert not wrong, "\n".join(wrong)
