"""The float type in which a Learner trains; predictions are computed in float32."""

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
from xrayfast.learning.dataloaders.radiograph_loader import ImageItems
from xrayfast.learning.fastai_api import Callback, Learner, MixedPrecision
from xrayfast.learning.model.precision import resolve_precision
from xrayfast.learning.randomness import isolated_rng
from xrayfast.learning.training.callbacks.order import CALLBACK_ORDER

TOLERANCE = 0.1
"""Largest difference between bf16 and fp32 logits for which "auto" chooses bf16, relative to the logits' spread over
images.
"""

IMAGES_TRIED = 16
"""Number of training images on which that difference is computed."""


def set_precision(learn: Learner, precision: Precision, **scaler: Any) -> None:
    """Set `learn.precision` and add the callback for it; `scaler` are options of fp16's gradient scaler."""
    chosen = resolve_precision(precision, learn.dls.device)
    learn.precision = None if (precision, chosen) == ("auto", "bf16") else chosen
    learn.remove_cbs([Autocast, Float16])
    learn.add_cbs({"fp32": [], "bf16": [Autocast()], "fp16": [Float16(**scaler)]}[chosen])


def training_precision(learn: Learner) -> Precision:
    """Return the float type for training and for frozen layers: "fp32", "bf16" or "fp16".

    On a device with hardware for bf16, "auto" is decided once, at the first call, before any training: bf16 if the
    logits of training images differ little from those in fp32, else fp32. Networks differ: on radiographs bf16 changes
    the logits of torchvision's resnet18 by 3% of their spread, those of mobilenet_v2 by 20%
    (`pytest -m slow -k tolerates_bf16`).
    """
    if learn.precision is None:
        learn.precision = "bf16" if bf16_logit_error(learn) < TOLERANCE else "fp32"
    return learn.precision


def restore_precision(learn: Learner, recorded: object) -> None:
    """Decide "auto" from the precision that a run recorded when it began, as its weights have changed since.

    A run that began in fp16 has not tried bf16, so it continues in fp32.
    """
    if learn.precision is None and recorded is not None:
        learn.precision = "bf16" if recorded == "bf16" else "fp32"


def bf16_logit_error(learn: Learner) -> float:
    """Return the RMS difference between bf16 and fp32 logits of training images, relative to the logits' spread.

    Batch norm uses the statistics of the batch; batches have about the training batch size, if these images are that
    many. The result is infinite if the learner has fewer than two images of a manifest.
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
    """Return the autocast context for a learner's precision, for computing frozen layers without gradients."""
    types = {"bf16": torch.bfloat16, "fp16": torch.float16}
    chosen = training_precision(learn)
    return torch.autocast(learn.dls.device.type, dtype=types[chosen]) if chosen in types else nullcontext()


class Autocast(Callback):
    """Callback that trains in bfloat16 on any device; fastai's own supports CUDA only."""

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
        """Convert the outputs to float32, for losses and metrics."""
        self.learn.pred = self.pred.float()

    def leave(self) -> None:
        """Leave autocast if it was entered: before the backward pass, or after an aborted batch."""
        if self.context is not None:
            context, self.context = self.context, None
            context.__exit__(None, None, None)

    before_fit = after_loss = leave


class Float16(MixedPrecision):
    """fastai's MixedPrecision in float16 with gradient scaling, whose autocast can be left after an aborted batch."""

    order = CALLBACK_ORDER["Float16"]
    entered = False

    def before_fit(self) -> None:
        """Create the autocast context and the gradient scaler."""
        self.leave()
        super().before_fit()

    def before_batch(self) -> None:
        """Enter autocast."""
        self.leave()
        super().before_batch()
        self.entered = True

    def leave(self) -> None:
        """Leave autocast if it was entered: before the backward pass, or after an aborted batch."""
        if self.entered:
            self.entered = False
            super().after_loss()

    after_loss = leave


def leave_autocast(learn: Learner) -> None:
    """Leave autocast after training that was aborted within a batch."""
    for callback in learn.cbs:
        if isinstance(callback, (Autocast, Float16)):
            callback.leave()
