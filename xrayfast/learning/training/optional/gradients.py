"""`--accumulate`: one optimizer step for several batches."""

from __future__ import annotations

import torch
from torch import Tensor

from xrayfast.learning.fastai_api import Callback, CancelBatchException
from xrayfast.learning.model.losses import Loss, batch_weight
from xrayfast.learning.training.callbacks.order import CALLBACK_ORDER


class AccumulateGradients(Callback):
    """Callback that lets the optimizer step once per `batches` batches, with the gradient of one large batch.

    The gradient is the mean over the batches; each batch has the weight that its loss has in the mean over all their
    images. At the end of an epoch the optimizer also steps for the batches that are left.

    fastai's GradientAccumulation weights batches by numbers of images even if cells are masked or classes are weighted.
    At the end of an epoch it carries the gradients that are left into the next one, and divides them by the full
    number.
    """

    order = CALLBACK_ORDER["AccumulateGradients"]
    run_valid = False

    total: Tensor | None

    def __init__(self, batches: int) -> None:
        self.batches = batches

    def before_train(self) -> None:
        """Start at zero: gradients are left if a callback skipped the last batch of an epoch."""
        self.opt.zero_grad()
        self._begin()

    def _begin(self) -> None:
        self.count, self.total = 0, None

    def before_backward(self) -> None:
        """Weight the gradient of the batch, relative to the size of the first one so that fp16 does not overflow."""
        if not self.count:
            self.unit = self.yb[0].numel()
        if isinstance(self.loss_func, Loss):
            weight = self.loss_func.total_weight(self.pred.detach(), *self.yb) / self.unit
        else:
            weight = batch_weight(self.yb[0]) / self.unit
        self.learn.loss_grad = self.loss_grad * weight
        self.total = weight if self.total is None else self.total + weight
        self.count += 1

    def before_step(self) -> None:
        """Skip the step until there are enough batches; then divide the summed gradients to get their mean."""
        if self.count < self.batches and self.iter + 1 < self.n_iter:
            raise CancelBatchException  # skips the step and zero_grad
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        if self.total is not None:
            torch._foreach_div_(gradients, self.total.clamp(min=1e-12).to(gradients[0]))
        self._begin()
