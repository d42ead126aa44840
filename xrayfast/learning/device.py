"""The device to compute on, its memory, and copies to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from xrayfast.config import Device
from xrayfast.errors import ConfigError


def torch_device(name: Device) -> torch.device:
    """The device of that name; "auto" is the first available of CUDA, MPS and CPU.

    Raises:
        ConfigError: it is not available.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    names = [kind for kind, there in available.items() if there]
    if name == "auto":
        return torch.device(names[0])
    if name not in names:
        raise ConfigError(f"device is {name}, and torch finds none here. Use auto, or one of: {', '.join(names)}.")
    return torch.device(name)


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on the device; from the CPU to CUDA by pinned memory, for which nothing waits that computes there."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def free_memory(device: torch.device) -> int | None:
    """Free bytes of a CUDA device, with those that torch keeps for later; None for another device."""
    if device.type != "cuda":
        return None
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0]) + kept


@contextmanager
def without_values() -> Iterator[None]:
    """Within the block networks are built on the meta device: shapes without memory or random numbers."""
    with torch.device("meta"), _WithoutWeights():
        yield


def give_memory(network: nn.Module, device: torch.device) -> None:
    """Move a network from the meta device, without values; torch's `to_empty` imports sympy for what `empty` does."""
    network._apply(lambda tensor: torch.empty(tensor.shape, dtype=tensor.dtype, device=device))


class _WithoutWeights(TorchFunctionMode):
    """Computes no initial weights: for their shape on the meta device torch imports its compiler, and that takes as
    long as the import of torch.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        options = kwargs or {}
        if func in _DRAWS or getattr(func, "__module__", "") == "torch.nn.init":
            return args[0] if args else options["tensor"]
        return func(*args, **options)


_DRAWS = {torch.Tensor.normal_, torch.Tensor.uniform_}
