"""In which float type a network computes."""

from __future__ import annotations

import copy
import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from xrayfast.config import Precision
from xrayfast.errors import ConfigError
from xrayfast.learning.fastai_api import Callback, Learner, MixedPrecision
from xrayfast.learning.randomness import isolated_rng

TOLERANCE = 0.1
"""How far logits in bf16 may be from those in fp32, as a share of their spread over images, for "auto" to take it."""

IMAGES_TRIED = 16
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
    learn.add_cbs({"fp32": [], "bf16": [Autocast()], "fp16": [Float16()]}[chosen])


def settled_precision(learn: Learner) -> Precision:
    """The float type that a learner trains in, and frozen layers are computed in: "fp32", "bf16" or "fp16".

    "auto" on a device with units for bf16 is settled when this is first asked for, which is before anything is trained,
    and stays: bf16 where it does no harm to this network on images of its training split, else fp32. Networks differ:
    on radiographs bf16 moves the logits of torchvision's resnet18 by 3 % of their spread, those of mobilenet_v2 by
    20 % (`pytest -m slow -k bears_bf16`).
    """
    if learn.precision is None:
        learn.precision = "bf16" if moved_by_bfloat16(learn) < TOLERANCE else "fp32"
    chosen: Precision = learn.precision
    return chosen


def follow_precision(learn: Learner, recorded: object) -> None:
    """Settle "auto" by what a run recorded when it began: its weights are others now.

    Whether a network bears bf16 was not tried where a run began in fp16; it goes on in fp32.
    """
    if learn.precision is None and recorded is not None:
        learn.precision = "bf16" if recorded == "bf16" else "fp32"


def moved_by_bfloat16(learn: Learner) -> float:
    """How far bf16 moves the logits of training images, batch norm by batch: root mean square over their spread.

    Batches are as large as in training, as far as there are so many of these images.

    Infinite where there are no two images of a manifest.
    """
    items = getattr(getattr(learn.dls, "train_ds", None), "items", None)
    paths = items["path"].tolist() if isinstance(items, pd.DataFrame) and "path" in items else []
    if len(paths) < 2:
        return math.inf
    rows = np.unique(np.linspace(0, len(paths) - 1, IMAGES_TRIED).round().astype(int)).tolist()
    parts = max(1, len(rows) // learn.dls.train.bs)  # no more at once than in training
    network = copy.deepcopy(learn.model).eval()
    for module in network.modules():
        module.train(isinstance(module, _BatchNorm))
    with isolated_rng("precision"), torch.no_grad():
        x = learn.dls.test_dl([paths[row] for row in rows], bs=len(rows), num_workers=0).one_batch()[0]
        batches = x.as_subclass(Tensor).tensor_split(parts)
        logits = torch.cat([network(batch) for batch in batches])
        with torch.autocast(x.device.type, torch.bfloat16):
            moved = torch.cat([network(batch).float() for batch in batches]) - logits
    return float(moved.norm() / (logits - logits.mean(dim=0)).norm())


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
        """Leave what a batch that was broken off has left open: weights stay cast as long as it is."""
        self.leave()

    def before_batch(self) -> None:
        """Enter autocast for the forward pass and the loss; but `get_preds` is in float32 on every machine."""
        self.leave()
        if not hasattr(self.learn, "gather_preds") and settled_precision(self.learn) == "bf16":
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


class Float16(MixedPrecision):
    """fastai's float16 with scaled gradients, whose context can be left."""

    entered = False

    def before_fit(self) -> None:
        """Leave what a batch that was broken off has left open, and make context and scaler."""
        self.leave()
        super().before_fit()

    def before_batch(self) -> None:
        """Enter autocast."""
        self.leave()
        super().before_batch()
        self.entered = True

    def after_loss(self) -> None:
        """Leave it before the backward pass."""
        self.leave()

    def leave(self) -> None:
        """Leave autocast, if it is entered."""
        if self.entered:
            self.entered = False
            super().after_loss()


def leave_autocast(learn: Learner) -> None:
    """After training that was broken off in the middle of a batch."""
    for callback in learn.cbs:
        if isinstance(callback, (Autocast, Float16)):
            callback.leave()


def first_in_float32(model: nn.Module) -> nn.Module:
    """Compute the network's first convolution in float32 under autocast too, in training and in prediction.

    ImageNet's weights have filters for colour, whose positive and negative weights cancel out on grey images. What is
    left is a hundredth of what it is on colour ones; batch norm brings it to unit variance, and with it the rounding of
    bfloat16: on radiographs 18 to 30 % of the spread of resnet18's logits, and 3 % with this convolution in float32. It
    costs resnet18 3 to 8 % of a training step at 224 px on two cores with AMX.
    """
    convolution = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
    if convolution is not None:
        convolution.register_forward_pre_hook(_suspend_autocast)
        convolution.register_forward_hook(_resume_autocast, always_call=True)
    return model


# A context within the context would stay open after Ctrl-C, and with it the weights that autocast has cast: torch calls
# hooks after errors, but not after a KeyboardInterrupt. A switch is set back by whoever leaves the outer context.
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
