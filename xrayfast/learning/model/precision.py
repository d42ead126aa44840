"""The float type that a network computes in."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from xrayfast.config import Precision
from xrayfast.errors import ConfigError


def resolve_precision(precision: Precision, device: torch.device) -> Precision:
    """Resolve "auto" for a device: bf16 if its hardware supports it, else fp16 on CUDA and fp32 on other devices.

    Without hardware support bf16 is emulated, and slower than fp32.

    Raises:
        ConfigError: fp16 without CUDA: small gradients would underflow, as nothing scales them there.
    """
    if precision == "fp16" and device.type != "cuda":
        raise ConfigError(f"precision fp16 needs a CUDA device, but this device is {device.type}. Use bf16 or fp32.")
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "bf16" if device.type == "cpu" and has_amx() else "fp32"


def has_amx() -> bool:
    """Whether this CPU has hardware units for bfloat16 matrix products (Intel's AMX)."""
    supported = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return bool(supported and supported())


def first_conv_in_fp32(model: nn.Module) -> nn.Module:
    """Compute the network's first convolution in float32 even under autocast, and return the network.

    ImageNet weights have color filters, whose positive and negative weights cancel out on gray images. What is left is
    a hundredth of the response to color. Batch norm scales it to unit variance, and the rounding error of bfloat16 with
    it: on radiographs the error is 18 to 30% of the spread of resnet18's logits, and 3% with this convolution in
    float32. It costs resnet18 3 to 8% of a training step at 224 px on two cores with AMX.
    """
    convolution = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
    if convolution is not None:
        convolution.register_forward_pre_hook(_suspend_autocast)
        convolution.register_forward_hook(_resume_autocast, always_call=True)
    return model


# Not a nested autocast context: it would stay open after Ctrl-C, and keep the cast weights in autocast's cache, since
# torch calls the hooks after an Exception but not after a KeyboardInterrupt. The flag that is set here is reset when
# the outer context is left.
def _suspend_autocast(module: Any, inputs: tuple[Tensor]) -> tuple[Tensor] | None:
    kind = module.weight.device.type
    module.suspended = kind in ("cpu", "cuda") and torch.is_autocast_enabled(kind)
    if not module.suspended:
        return None
    torch.set_autocast_enabled(kind, False)
    return (inputs[0].to(module.weight.dtype),)


def _resume_autocast(module: Any, inputs: tuple[Tensor], output: Tensor) -> None:
    if module.__dict__.pop("suspended"):
        torch.set_autocast_enabled(module.weight.device.type, True)
