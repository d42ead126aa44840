"""How long each part of the fault campaign goes on, and its count."""

import os
import time
from collections.abc import Iterator

SEED = int(os.environ.get("XRAYFAST_FAULTS_SEED", "0"))
SECONDS = float(os.environ.get("XRAYFAST_FAULTS_SECONDS", "600"))
"""Of each part; 0 for no limit."""

HANG = 3600.0
"""Seconds after which a command hangs. What is to be quick is measured in CPU time, which load leaves as it is."""

COUNTS: list[str] = []
"""What the parts that are done have to say, for the line at the end."""


def size_of(part: str, default: int) -> int:
    """How many rounds a part has if time allows: XRAYFAST_FAULTS_KILLS and the like."""
    return int(os.environ.get(f"XRAYFAST_FAULTS_{part.upper()}", default))


def rounds(size: int) -> Iterator[int]:
    """0 to size - 1, of which those are left out that would begin after the time of a part; one at least."""
    start = time.monotonic()
    for number in range(size):
        if number and 0 < SECONDS < time.monotonic() - start:
            return
        yield number


def conclude(done: int, size: int, what: str, wrong: list[str]) -> None:
    """Keep a part's count, and fail where something is wrong."""
    COUNTS.append(f"{done if done == size else f'{done} of {size}'} {what}, {len(wrong)} wrong")
    assert not wrong, "\n".join(wrong)
