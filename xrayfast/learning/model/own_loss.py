"""The user's own loss, with the attributes that fastai and predictions expect of a loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xrayfast.config import Task
from xrayfast.errors import ConfigError, shorten
from xrayfast.learning.model.losses import Loss, fill_masked
from xrayfast.own_code import name_of

TRIED = 16
"""Number of training images whose targets a loss is tried on."""


class OwnLoss(Loss):
    """A loss that calls the user's own function of logits and targets, which does its own averaging.

    The function gets plain tensors: (N, C) logits and (N,) int64 class indices, or (N, L) logits and float targets, in
    which NaN is a masked cell that it has to leave out.

    Args:
        task: "single" or "multi"; probabilities are the softmax or the sigmoid of the logits.
        loss: the callable, such as a loss of fastai or torch; a class is instantiated without arguments.

    Attributes:
        per_image: whether it can return one loss per image; set by `try_on`.
    """

    def __init__(self, task: Task, loss: Callable[..., Any]) -> None:
        super().__init__(task)
        self.loss = loss() if isinstance(loss, type) else loss
        self.name = f"{name_of(self.loss)} (own code)"
        self.y_int = getattr(self.loss, "y_int", task == "single")  # see `CrossEntropyLoss`
        self.per_image = False
        if isinstance(inner := getattr(self.loss, "func", None), nn.Module):
            self.inner = inner  # fastai's losses are not modules: without this, their weights would stay on the CPU

    def extra_repr(self) -> str:
        """Return the name of the callable, for `learn.summary()`."""
        return self.name

    def unsuited_note(self, target: Tensor) -> str | None:
        """Return a note if a loss of multi-label targets can't be one of logits whose sigmoid is the probability."""
        if self.task != "multi":
            return None
        target = target[torch.argsort(target.isnan().any(dim=1), stable=True)[:TRIED]]
        logits = torch.zeros_like(target, requires_grad=True)
        spread = torch.linspace(-1, 1, target.numel(), device=target.device).view_as(target)
        (slope,) = torch.autograd.grad(self(logits, target), logits)
        if (target == 0).any() and slope.isfinite().all() and not (slope[target == 0] > 0).any():
            problem = "does not lower logits of 0 where the target is 0: it may expect probabilities, or targets of -1"
        elif torch.allclose(self(spread, target), self(spread + 2, target), rtol=1e-4, atol=1e-5):
            problem = "stays the same if all logits of an image rise, as a loss of exactly one class per image does"
        else:
            return None
        return (
            f"loss {self.name} {problem}, but the sigmoid of each logit is used as its label's probability. Use a loss "
            "such as BCEWithLogitsLoss, or rely on the ranking only."
        )

    def untrained_note(self) -> str | None:
        """Return a note if the loss has parameters, which only the network's optimizer could train."""
        names = [name for name, parameter in self.named_parameters() if parameter.requires_grad]
        if not names:
            return None
        return (
            f"loss {self.name} has parameters that are not trained, as the optimizer gets only those of the network: "
            f"{shorten(names)}. They keep their first values."
        )

    def forward(
        self, logits: Tensor, target: Tensor, other: Tensor | None = None, share: Tensor | None = None
    ) -> Tensor:
        """Return the loss of a batch; with `reduction` "none", one per image or cell if the callable has a reduction.

        If images are mixed, it is the mean of the losses per image or cell, as in `Loss.forward`.
        """
        if other is not None:
            return super().forward(logits, target, other, share)
        logits, target = logits.as_subclass(Tensor), target.as_subclass(Tensor)
        if self.reduction == "none" and not self.per_image:  # fastai's MixUp, `get_preds(with_loss=True)`
            raise ConfigError(
                f"loss {self.name} does not return one loss per image with reduction='none', which mixed images, "
                "with_loss and fastai's interpretation need. Give it an argument reduction, like torch's losses."
            )
        if self.reduction == "mean":
            value = self.loss(logits, target)
        elif hasattr(self.loss, "reduction"):
            own, self.loss.reduction = self.loss.reduction, self.reduction
            try:
                value = self.loss(logits, target)
            finally:
                self.loss.reduction = own
        else:
            value = self.loss(logits, target, reduction=self.reduction)
        return value.as_subclass(Tensor) if isinstance(value, Tensor) else value

    def terms(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Return the losses per image or cell, and their weights: 0 where masked. Needs `per_image`."""
        before, self.reduction = self.reduction, "none"
        try:
            losses = self(logits, target).view(len(target), -1)
        finally:
            self.reduction = before
        if target.is_floating_point() and losses.shape == target.shape:
            return losses, (~target.isnan()).to(losses.dtype)
        losses = losses.mean(dim=1)
        return losses, torch.ones_like(losses)

    def try_on(self, target: Tensor) -> None:
        """Call the loss on some targets before training, to find errors early and to set `per_image`.

        Raises:
            ConfigError: it fails, does not return one number with a gradient, returns NaN because of masked cells, is
                not lower for right answers, or needs log-probabilities.
        """
        masked = target.isnan().any(dim=1)
        target = target[torch.argsort(~masked, stable=True)[:TRIED]]
        logits = torch.linspace(-1, 1, target.numel(), device=target.device).view_as(target).requires_grad_()
        truth = target.argmax(dim=1) if self.task == "single" else target
        where = f"logits {tuple(logits.shape)} and {self.task}-label targets {tuple(truth.shape)} of {truth.dtype}"
        try:
            value = self(logits, truth)
        except Exception as error:  # whatever the user's code raises
            raise ConfigError(f"loss {self.name} fails for {where}: {error}") from error
        if not isinstance(value, Tensor) or value.numel() != 1 or not value.requires_grad:
            found = f"values of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            found = "a number without a gradient" if isinstance(value, Tensor) and value.numel() == 1 else found
            raise ConfigError(f"loss {self.name} returns {found} for {where}; expected one number with a gradient.")
        if masked.any() and not value.isfinite() and self(logits, fill_masked(truth)[0]).isfinite():
            raise ConfigError(
                f"loss {self.name} returns {value.item()} if label cells are masked, because their targets are NaN. "
                "Leave them out of the mean, as in losses[~targets.isnan()].mean(), or give these cells a target "
                "with --uncertain and --blank."
            )
        if isinstance(self.loss, nn.NLLLoss) or self.loss is F.nll_loss:
            raise ConfigError(f"loss {self.name} needs log-probabilities; expected a loss of logits: CrossEntropyLoss.")
        right = 6 * target.nan_to_num(0.5) - 3
        found_right, found_wrong = (self(sign * right, truth).item() for sign in (1, -1))
        if found_right >= found_wrong and right.any():  # not if all these cells are masked
            raise ConfigError(
                f"loss {self.name} is {found_right:.3g} for right answers and {found_wrong:.3g} for wrong ones; "
                "expected a lower value for right ones. Check its sign, and whether it uses the logits."
            )
        self.reduction, self.per_image = "none", True
        try:
            each = self(logits, truth)
            self.per_image = each.numel() in (len(truth), truth.numel()) and bool(each.isfinite().all())
        except Exception:  # it has no reduction
            self.per_image = False
        finally:
            self.reduction = "mean"
