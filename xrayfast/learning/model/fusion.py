"""Networks in the form that is fastest to compute: memory order, and batch norm folded for prediction."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.fx.experimental.optimization import fuse

from xrayfast.learning.fastai_api import Learner, MixedPrecision
from xrayfast.learning.model.precision import Autocast, leave_autocast


def in_order(model: nn.Module, device: torch.device) -> nn.Module:
    """The network with its weights in the memory order that convolutions of that device are fastest in."""
    return model if device.type == "mps" else model.to(memory_format=torch.channels_last)


class Folded(nn.Sequential):
    """A network for inference, each batch norm that follows a convolution folded into it."""


def folded(model: nn.Sequential) -> Folded:
    """A folded copy, in evaluation mode, in which the model is left too.

    Logits are the same to float32's rounding. Splits of the model that can't be traced are copied as they are.
    """
    return Folded(*(_folded(part) for part in model.eval()))


def _folded(part: nn.Module) -> nn.Module:
    try:
        return fuse(part)
    except (torch.fx.proxy.TraceError, RuntimeError, TypeError, KeyError, AttributeError):
        return copy.deepcopy(part)


@contextmanager
def exact(learn: Learner) -> Iterator[None]:
    """Within it a learner predicts in float32, whatever it trains in, by a folded network.

    So its predictions are those of any other machine, to float32's rounding. Within another `exact` nothing changes:
    around a loop, it folds once. A learner is for one thread at a time.
    """
    model = learn.model
    if isinstance(model, Folded):
        yield
        return
    device = next(model.parameters()).device
    reduced = [callback for callback in learn.cbs if isinstance(callback, (Autocast, MixedPrecision))]
    leave_autocast(learn)
    try:
        learn.remove_cbs(reduced)
        learn.model = in_order(folded(model), device)
        yield
    finally:
        learn.model = model
        learn.add_cbs(reduced)
