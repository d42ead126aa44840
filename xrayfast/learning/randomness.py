"""Seeded random numbers that leave the global generators as they were."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def isolated_rng(*seed: int | str) -> Iterator[None]:
    """Seed the generators that fastai and torch draw from, and restore their states afterwards.

    Args:
        seed: numbers and words that together seed one stream, such as (seed, "epoch", 3).
    """
    python_state, numpy_state = random.getstate(), np.random.get_state()
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        reseed(*seed)
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)


def reseed(*seed: int | str) -> None:
    """Seed the global generators; call it inside `isolated_rng` only."""
    hashed = int.from_bytes(hashlib.sha256(repr(seed).encode()).digest()[:4], "little")
    random.seed(hashed)
    np.random.seed(hashed)
    torch.manual_seed(hashed)
