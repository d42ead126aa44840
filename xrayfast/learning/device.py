"""The device to compute on, its free memory, copies to it, and the meta device."""

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
    """Return the device with that name; "auto" is the first available of CUDA, MPS and CPU.

    Raises:
        ConfigError: the device is not available.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    names = [kind for kind, there in available.items() if there]
    if name == "auto":
        return torch.device(names[0])
    if name not in names:
        raise ConfigError(
            f"device is {name}, but torch finds no such device on this machine. Use auto, or one of: "
            f"{', '.join(names)}."
        )
    return torch.device(name)


def require_usual_torch(*, training: bool) -> None:
    """Check torch's settings of the whole process, which change results or let computations fail.

    Args:
        training: whether gradients are needed; autocast would then change the precision of the run.

    Raises:
        ConfigError: a setting is not torch's default.
    """
    default = torch.empty(0).device.type  # not torch.get_default_device(), which old versions don't tell of `with`
    changed = {
        "torch.set_default_dtype(torch.float32)": torch.get_default_dtype() is not torch.float32,
        # Initial weights would be drawn by the generator of another device.
        "torch.set_default_device('cpu') (device= sets where to compute)": default != "cpu"
        and (training or default == "meta"),
    }
    if training:
        changed["torch.set_grad_enabled(True)"] = not torch.is_grad_enabled()
        changed["code outside of torch.inference_mode"] = torch.is_inference_mode_enabled()
        changed["code outside of torch.autocast (precision= sets it)"] = any(map(torch.is_autocast_enabled, _AUTOCAST))
    if found := [usual for usual, is_changed in changed.items() if is_changed]:
        raise ConfigError(f"torch's settings in this process would change the results; expected {' and '.join(found)}.")


_AUTOCAST = ("cpu", "cuda")
"""Types of devices whose autocast could be on."""


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """Move a tensor to a device; from the CPU to CUDA asynchronously, through pinned memory."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def free_memory(device: torch.device) -> int | None:
    """Return the free bytes of a CUDA device, including unused ones that torch has reserved; None for other devices."""
    if device.type != "cuda":
        return None
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0]) + kept


@contextmanager
def on_meta_device() -> Iterator[None]:
    """Within the block, build networks on the meta device: shapes without memory or random numbers."""
    with torch.device("meta"), _WithoutWeights():
        yield


def give_memory(network: nn.Module, device: torch.device) -> None:
    """Move a network from the meta device to `device` without initializing its values.

    Not by torch's `to_empty`, which imports sympy.
    """
    network._apply(lambda tensor: torch.empty(tensor.shape, dtype=tensor.dtype, device=device))


class _WithoutWeights(TorchFunctionMode):
    """Mode in which no initial weights are computed.

    On the meta device torch would import its compiler for them, which takes as long as the import of torch.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        options = kwargs or {}
        if func in _DRAWS or getattr(func, "__module__", "") == "torch.nn.init":
            return args[0] if args else options["tensor"]
        return func(*args, **options)


_DRAWS = {torch.Tensor.normal_, torch.Tensor.uniform_}
