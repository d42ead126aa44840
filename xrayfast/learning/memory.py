"""Memory that is allocated and freed during and after training."""

from __future__ import annotations

import ctypes
import gc
import sys
from typing import Any
from weakref import WeakSet

_learners: WeakSet[Any] = WeakSet()

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # constants in malloc.h


def keep_freed_memory() -> None:
    """From now on, let glibc keep the memory that this process frees; without glibc, do nothing.

    Otherwise each activation of more than 32 MB is returned to the system, and its pages are zeroed and allocated again
    in the next batch: an epoch of resnet18 at 224 px (bf16, two cores) takes 31 s with this and 40 s without.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # another C library
        return
    if not mallopt(_MMAP_THRESHOLD, 2**30):
        mallopt(_MMAP_THRESHOLD, 2**25)  # the largest value that older versions accept
    mallopt(_TRIM_THRESHOLD, 2**31 - 1)
    mallopt(_TOP_PAD, 2**26)


def return_freed_memory() -> None:
    """Return the freed memory that glibc keeps to the system; without glibc, do nothing."""
    if sys.platform.startswith("linux") and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        trim(0)


def free_earlier_learners() -> None:
    """Free the learners of earlier runs, with their weights and optimizers.

    A fastai learner and its callbacks refer to each other, so only the garbage collector frees them. In a process with
    the half a million objects of torch and fastai, its full collection would run only after dozens of runs.
    """
    if _learners:
        gc.collect()


def free_later(learn: Any) -> None:
    """Register a learner for `free_earlier_learners`, which frees it once nothing else refers to it."""
    _learners.add(learn)
