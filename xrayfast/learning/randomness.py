"""Seeded random numbers that leave the states of the global generators unchanged."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor


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
    """Seed the global generators; to be called only within `isolated_rng`."""
    hashed = int.from_bytes(hashlib.sha256(repr(seed).encode()).digest()[:4], "little")
    random.seed(hashed)
    np.random.seed(hashed)
    torch.manual_seed(hashed)


def generator_states(device: torch.device) -> dict[str, Tensor]:
    """Return the states of the global generators as tensors for `restore_generators`: torch's, that of `device` if it
    is CUDA, Python's and NumPy's.
    """
    _, python, gauss = random.getstate()
    _, key, *rest = cast("tuple[Any, ...]", np.random.get_state())
    states = {
        "torch": torch.get_rng_state(),
        "python": torch.tensor([*python, math.nan if gauss is None else gauss], dtype=torch.float64),
        "numpy": torch.tensor([*key.tolist(), *rest], dtype=torch.float64),  # 32-bit integers, and the next normal
    }
    return states | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def restore_generators(states: Mapping[str, Tensor], device: torch.device) -> None:
    """Restore the states of the global generators.

    Raises:
        KeyError, TypeError, ValueError, RuntimeError: the tensors are not such states.
    """
    *python, gauss = states["python"].tolist()
    random.setstate((3, tuple(map(int, python)), None if math.isnan(gauss) else gauss))
    *key, position, has_gauss, cached = states["numpy"].tolist()
    np.random.set_state(("MT19937", np.array(key, dtype=np.uint32), int(position), int(has_gauss), cached))
    torch.set_rng_state(states["torch"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
