"""Memory allocation while a network computes, and after."""

from __future__ import annotations

import ctypes
import gc
import sys
from typing import Any
from weakref import WeakSet

_learners: WeakSet[Any] = WeakSet()

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # of malloc.h


def keep_freed_memory() -> None:
    """Let glibc keep the memory that this process frees, from now on; on other systems nothing happens.

    Otherwise every activation of more than 32 MB is returned to the system and allocated again, page by zeroed page, in
    each batch: an epoch of resnet18 at 224 px (bf16, two cores) takes 31 s with this and 40 s without.
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
    """Give memory that this process has freed back to the system, where glibc keeps it; elsewhere nothing happens."""
    if sys.platform.startswith("linux") and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        trim(0)


def free_earlier_learners() -> None:
    """Free the learners of earlier runs, with their weights and optimizers.

    A learner of fastai and its callbacks refer to each other, so that only the garbage collector frees one. In a
    process of half a million objects, as torch and fastai make them, that runs after dozens of runs by itself.
    """
    if _learners:
        gc.collect()


def free_later(learn: Any) -> None:
    """Let `free_earlier_learners` free a learner, once nothing else refers to it."""
    _learners.add(learn)
