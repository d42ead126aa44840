"""Networks in the form that computes fastest: memory format, and batch norm fused into convolutions for inference."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.fx.experimental.optimization import fuse


def to_channels_last(model: nn.Module, device: torch.device) -> nn.Module:
    """The network with its weights in the memory format in which that device's convolutions are fastest, but for one
    that takes contiguous images alone.
    """
    contiguous = make_contiguous in model._forward_pre_hooks.values()
    if device.type != "mps" and not contiguous:
        for module in model.modules():  # torch's own `to` refuses buffers of five dimensions, such as Swin's
            if isinstance(module, nn.Conv2d):
                module.to(memory_format=torch.channels_last)
    return model


def make_contiguous(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """A hook before a network whose code can't take images in channels-last format, such as one with `x.view`."""
    return tuple(x.contiguous() for x in inputs)


class FusedNetwork(nn.Sequential):
    """A network for inference, each batch norm that follows a convolution fused into it."""


def fuse_batch_norm(model: nn.Sequential) -> FusedNetwork:
    """A fused copy in evaluation mode, in which the model is left too.

    Logits are the same to float32's rounding. Children of the model that can't be traced are copied as they are.
    """
    return FusedNetwork(*(_fuse_or_copy(child) for child in model.eval()))


def _fuse_or_copy(module: nn.Module) -> nn.Module:
    try:
        return fuse(module)
    except (torch.fx.proxy.TraceError, RuntimeError, TypeError, KeyError, AttributeError):
        return copy.deepcopy(module)
