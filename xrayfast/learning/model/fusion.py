"""Faster networks: the channels-last memory format, and batch norm fused into convolutions for inference."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.fx.experimental.optimization import fuse


def to_channels_last(model: nn.Module, device: torch.device) -> nn.Module:
    """Put the weights of convolutions into channels-last format, in place, and return the network.

    Not on MPS, where it is slower, and not for a network that needs contiguous images (see `make_contiguous`).
    """
    contiguous = make_contiguous in model._forward_pre_hooks.values()
    if device.type != "mps" and not contiguous:
        for module in model.modules():  # not model.to(...), which fails on 5-D buffers such as Swin's
            if isinstance(module, nn.Conv2d):
                module.to(memory_format=torch.channels_last)
    return model


def make_contiguous(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """A forward pre-hook for networks that can't take images in channels-last format, such as those with `x.view`."""
    return tuple(x.contiguous() for x in inputs)


class _ThreadTracer(torch.fx.Tracer):
    """Tracer that leaves modules alone that run in other threads: while it traces, it gets the calls of all modules."""

    def __init__(self) -> None:
        super().__init__()
        self._thread = threading.get_ident()

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: Any) -> Any:
        """Trace a call of this thread."""
        if threading.get_ident() != self._thread:
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        """Trace the use of a parameter in this thread."""
        if threading.get_ident() != self._thread:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)


_TRACING = threading.Lock()
"""One trace at a time: each replaces `nn.Module.__call__`, and puts back what it found."""


class FusedNetwork(nn.Sequential):
    """A network for inference in which each batch norm after a convolution is fused into the convolution."""


def fuse_batch_norm(model: nn.Sequential) -> FusedNetwork:
    """Return a copy with batch norm fused into convolutions; it and the model itself are in evaluation mode.

    The logits are the same up to float32 rounding. Children that torch.fx can't trace are copied without fusing.
    """
    return FusedNetwork(*(_fuse_or_copy(child) for child in model.eval()))


def _fuse_or_copy(module: nn.Module) -> nn.Module:
    try:
        with _TRACING:
            traced = torch.fx.GraphModule(module, _ThreadTracer().trace(module))
        return fuse(traced, no_trace=True)
    except (torch.fx.proxy.TraceError, RuntimeError, TypeError, KeyError, AttributeError):
        return copy.deepcopy(module)
