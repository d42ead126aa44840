"""The device to compute on."""

from __future__ import annotations

import torch

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
