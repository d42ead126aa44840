"""In which float type, memory order and form a network computes."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse
from torch.nn.modules.batchnorm import _BatchNorm

from xrayfast.config import Precision
from xrayfast.errors import ConfigError
from xrayfast.learning.fastai_api import Callback, Learner, MixedPrecision
from xrayfast.learning.randomness import isolated_rng

TOLERANCE = 0.1
"""How far logits in bf16 may be from those in fp32, as a share of their spread over pictures, for "auto" to take it."""

PICTURES_TRIED = 16
"""That this is measured on."""


def resolved(precision: Precision, device: torch.device) -> Precision:
    """What "auto" aims at on a device: bf16 where it has units for it, else fp16 on CUDA and fp32 elsewhere.

    Without such units bf16 is emulated, and slower than fp32.

    Raises:
        ConfigError: fp16 without CUDA, where nothing would keep small gradients from vanishing.
    """
    if precision == "fp16" and device.type != "cuda":
        raise ConfigError(f"precision fp16 needs a CUDA device, and this one is {device.type}. Use bf16 or fp32.")
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "bf16" if device.type == "cpu" and has_amx() else "fp32"


def has_amx() -> bool:
    """Whether this CPU multiplies matrices of bfloat16 in units of its own (Intel's AMX)."""
    asked = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return bool(asked and asked())


def set_precision(learn: Learner, precision: Precision) -> None:
    """Give a learner what it needs to train in that precision."""
    chosen = resolved(precision, learn.dls.device)
    learn.precision = None if (precision, chosen) == ("auto", "bf16") else chosen
    learn.add_cbs({"fp32": [], "bf16": [Autocast()], "fp16": [MixedPrecision()]}[chosen])


def settled_precision(learn: Learner) -> Precision:
    """The float type that a learner trains in, and frozen layers are computed in: "fp32", "bf16" or "fp16".

    "auto" on a device with units for bf16 is settled when this is first asked for, and stays: bf16 where it does no
    harm to this network, with the weights that it has then, on pictures of its training part; else fp32. Networks
    differ: on radiographs bf16 moves the logits of torchvision's resnet18 by 3 % of their spread, those of
    mobilenet_v2 by 20 %.
    """
    if learn.precision is None:
        learn.precision = "bf16" if moved_by_bfloat16(learn) < TOLERANCE else "fp32"
    chosen: Precision = learn.precision
    return chosen


def moved_by_bfloat16(learn: Learner) -> float:
    """How far bf16 moves the logits of training pictures, batch norm by batch: root mean square over their spread.

    Infinite where there is only one picture.
    """
    paths = learn.dls.train_ds.items["path"].tolist()
    rows = sorted({round(row) for row in np.linspace(0, len(paths) - 1, PICTURES_TRIED)})
    if len(rows) < 2:
        return math.inf
    network = copy.deepcopy(learn.model).eval()
    for module in network.modules():
        module.train(isinstance(module, _BatchNorm))
    with isolated_rng("precision"), torch.no_grad():
        x = learn.dls.test_dl([paths[row] for row in rows], bs=len(rows), num_workers=0).one_batch()[0]
        exact = network(x.as_subclass(Tensor))
        with torch.autocast(x.device.type, torch.bfloat16):
            moved = network(x.as_subclass(Tensor)).float() - exact
    return float(moved.norm() / (exact - exact.mean(dim=0)).norm())


def autocast(learn: Learner) -> AbstractContextManager[Any]:
    """The context in which a learner's frozen layers are computed; no gradients are to be taken of fp16."""
    types = {"bf16": torch.bfloat16, "fp16": torch.float16}
    chosen = settled_precision(learn)
    return torch.autocast(learn.dls.device.type, dtype=types[chosen]) if chosen in types else nullcontext()


class Autocast(Callback):
    """bfloat16 on any device; fastai's own is hard-coded to CUDA."""

    order = 10

    def __init__(self) -> None:
        self.context: AbstractContextManager[Any] | None = None

    def before_fit(self) -> None:
        """Leave what a batch that was broken off has left open, as weights stay cast as long as it is; and see whether
        bfloat16 is to be used at all.
        """
        self.leave()
        self.reduces = settled_precision(self.learn) == "bf16"

    def before_batch(self) -> None:
        """Enter autocast for the forward pass and the loss; but `get_preds` is in float32 on every machine."""
        self.leave()
        if self.reduces and not hasattr(self.learn, "gather_preds"):
            self.context = torch.autocast(self.dls.device.type, dtype=torch.bfloat16)
            self.context.__enter__()

    def after_pred(self) -> None:
        """Losses and metrics in float32."""
        self.learn.pred = self.pred.float()

    def after_loss(self) -> None:
        """Leave autocast before the backward pass."""
        self.leave()

    def leave(self) -> None:
        """Leave autocast, if it is entered."""
        if self.context is not None:
            context, self.context = self.context, None
            context.__exit__(None, None, None)


def leave_autocast(learn: Learner) -> None:
    """After training that was broken off in the middle of a batch."""
    for callback in learn.cbs:
        if isinstance(callback, Autocast):
            callback.leave()


def in_order(model: nn.Module, device: torch.device) -> nn.Module:
    """The network with its weights in the memory order that convolutions of that device are fastest in."""
    return model if device.type == "mps" else model.to(memory_format=torch.channels_last)


def first_in_float32(model: nn.Module) -> nn.Module:
    """Compute the network's first convolution in float32 under autocast too, in training and in prediction.

    ImageNet's weights have filters for colour, whose positive and negative weights cancel out on grey pictures. What is
    left is a hundredth of what it is on colour ones; batch norm brings it to unit variance, and with it the rounding of
    bfloat16: on radiographs 24 % of the spread of resnet18's logits, and 3 % with this convolution in float32, which
    costs 3 % of a training step at 224 px on two cores with AMX.
    """
    convolution = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
    if convolution is not None:
        convolution.register_forward_pre_hook(_suspend_autocast)
        convolution.register_forward_hook(_resume_autocast, always_call=True)
    return model


def _suspend_autocast(module: Any, inputs: tuple[Tensor]) -> tuple[Tensor]:
    module.suspended = torch.autocast(module.weight.device.type, enabled=False)
    module.suspended.__enter__()
    return (inputs[0].to(module.weight.dtype),)


def _resume_autocast(module: Any, inputs: tuple[Tensor], output: Tensor) -> None:
    module.__dict__.pop("suspended").__exit__(None, None, None)


class Folded(nn.Sequential):
    """A network for inference, each batch norm that follows a convolution folded into it."""


def folded(model: nn.Sequential) -> Folded:
    """A folded copy, in evaluation mode, in which the model is left too.

    Logits are the same to float32's rounding. Parts of the model that can't be traced are copied as they are.
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
