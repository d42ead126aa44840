"""The float type in which a Learner trains; its predictions are in float32."""

from __future__ import annotations

import copy
import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from xrayfast.config import Precision
from xrayfast.learning.fastai_api import Callback, Learner, MixedPrecision
from xrayfast.learning.model.precision import resolve_precision
from xrayfast.learning.randomness import isolated_rng
from xrayfast.learning.training.callbacks.order import CALLBACK_ORDER
from xrayfast.learning.training.loaders import ImageItems

TOLERANCE = 0.1
"""Largest difference of bf16 logits from fp32 logits with which "auto" takes bf16, relative to the logits' spread over
images.
"""

IMAGES_TRIED = 16
"""Training images on which that difference is computed."""


def set_precision(learn: Learner, precision: Precision, **scaler: Any) -> None:
    """Set `learn.precision` and its callback that trains in it, with options of the scaler of fp16's gradients."""
    chosen = resolve_precision(precision, learn.dls.device)
    learn.precision = None if (precision, chosen) == ("auto", "bf16") else chosen
    learn.remove_cbs([Autocast, Float16])
    learn.add_cbs({"fp32": [], "bf16": [Autocast()], "fp16": [Float16(**scaler)]}[chosen])


def training_precision(learn: Learner) -> Precision:
    """The float type that a learner trains in, and computes frozen layers in: "fp32", "bf16" or "fp16".

    "auto" on a device with units for bf16 is decided at the first call, which comes before any training, and stays:
    bf16 where this network's logits of training images tolerate it, else fp32. Networks differ: on radiographs bf16
    moves the logits of torchvision's resnet18 by 3 % of their spread, those of mobilenet_v2 by 20 %
    (`pytest -m slow -k tolerates_bf16`).
    """
    if learn.precision is None:
        learn.precision = "bf16" if bf16_logit_error(learn) < TOLERANCE else "fp32"
    return learn.precision


def restore_precision(learn: Learner, recorded: object) -> None:
    """Decide "auto" by what a run recorded when it began: its weights have changed since.

    A run that began in fp16 did not try bf16; it continues in fp32.
    """
    if learn.precision is None and recorded is not None:
        learn.precision = "bf16" if recorded == "bf16" else "fp32"


def bf16_logit_error(learn: Learner) -> float:
    """Root-mean-square difference of bf16 logits from fp32 logits of training images, relative to the logits' spread.

    Batch norm uses the statistics of the batch; batches are as large as in training, if there are that many of these
    images. Infinite where the learner has no two images of a manifest.
    """
    items = getattr(getattr(learn.dls, "train_ds", None), "items", None)
    paths = items.table["path"].tolist() if isinstance(items, ImageItems) else []
    if len(paths) < 2:
        return math.inf
    rows = np.unique(np.linspace(0, len(paths) - 1, IMAGES_TRIED).round().astype(int)).tolist()
    n_batches = max(1, len(rows) // learn.dls.train.bs)
    network = copy.deepcopy(learn.model).eval()
    for module in network.modules():
        module.train(isinstance(module, _BatchNorm))
    with isolated_rng("precision"), torch.no_grad():
        x = learn.dls.test_dl([paths[row] for row in rows], bs=len(rows), num_workers=0).one_batch()[0]
        batches = x.as_subclass(Tensor).tensor_split(n_batches)
        logits = torch.cat([network(batch) for batch in batches])
        with torch.autocast(x.device.type, torch.bfloat16):
            error = torch.cat([network(batch).float() for batch in batches]) - logits
    return float(error.norm() / (logits - logits.mean(dim=0)).norm())


def autocast(learn: Learner) -> AbstractContextManager[Any]:
    """The context in which a learner's frozen layers are computed, without gradients."""
    types = {"bf16": torch.bfloat16, "fp16": torch.float16}
    chosen = training_precision(learn)
    return torch.autocast(learn.dls.device.type, dtype=types[chosen]) if chosen in types else nullcontext()


class Autocast(Callback):
    """bfloat16 on any device; fastai's own is hard-coded to CUDA."""

    order = CALLBACK_ORDER["Autocast"]

    def __init__(self) -> None:
        self.context: AbstractContextManager[Any] | None = None

    def before_batch(self) -> None:
        """Enter autocast for the forward pass and the loss, but not within `get_preds`, which computes in float32."""
        self.leave()
        if not hasattr(self.learn, "gather_preds") and training_precision(self.learn) == "bf16":
            self.context = torch.autocast(self.dls.device.type, dtype=torch.bfloat16)
            self.context.__enter__()

    def after_pred(self) -> None:
        """Losses and metrics in float32."""
        self.learn.pred = self.pred.float()

    def leave(self) -> None:
        """Leave autocast, if it is entered: before the backward pass, and after a batch that was aborted."""
        if self.context is not None:
            context, self.context = self.context, None
            context.__exit__(None, None, None)

    before_fit = after_loss = leave


class Float16(MixedPrecision):
    """fastai's float16 with scaled gradients, whose context can be left."""

    order = CALLBACK_ORDER["Float16"]
    entered = False

    def before_fit(self) -> None:
        """Make context and scaler."""
        self.leave()
        super().before_fit()

    def before_batch(self) -> None:
        """Enter autocast."""
        self.leave()
        super().before_batch()
        self.entered = True

    def leave(self) -> None:
        """Leave autocast, if it is entered: before the backward pass, and after a batch that was aborted."""
        if self.entered:
            self.entered = False
            super().after_loss()

    after_loss = leave


def leave_autocast(learn: Learner) -> None:
    """Leave autocast after training that was aborted within a batch."""
    for callback in learn.cbs:
        if isinstance(callback, (Autocast, Float16)):
            callback.leave()
