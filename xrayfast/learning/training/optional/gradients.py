"""`--accumulate`: one step for several batches."""

from __future__ import annotations

import torch
from torch import Tensor

from xrayfast.learning.fastai_api import Callback, CancelBatchException
from xrayfast.learning.model.losses import Loss, batch_weight
from xrayfast.learning.training.callbacks.order import CALLBACK_ORDER


class AccumulateGradients(Callback):
    """Steps once in so many batches, by the gradient that one batch of all their images would have: the mean of the
    batches' gradients, each weighted as its loss is in the mean over all. At the end of an epoch it steps for the
    batches that are left.

    fastai's GradientAccumulation weights batches by their images, also where cells are masked or classes weighted,
    divides by the number asked for where fewer are left, and takes those into the next epoch.

    Args:
        batches: per step.
    """

    order = CALLBACK_ORDER["AccumulateGradients"]
    run_valid = False

    total: Tensor | None

    def __init__(self, batches: int) -> None:
        self.batches = batches

    def before_train(self) -> None:
        """Begin anew; where a callback skipped the last batch of an epoch there are gradients left."""
        self.opt.zero_grad()
        self._begin()

    def _begin(self) -> None:
        self.count, self.total = 0, None

    def before_backward(self) -> None:
        """Weight the batch's gradient; relative to the group's first batch, so that fp16 does not overflow."""
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
        """Wait for further batches, or make the sum of the gradients their mean."""
        if self.count < self.batches and self.iter + 1 < self.n_iter:
            raise CancelBatchException  # leaves out the step, and the gradients as they are
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        if self.total is not None:
            torch._foreach_div_(gradients, self.total.clamp(min=1e-12).to(gradients[0]))
        self._begin()
