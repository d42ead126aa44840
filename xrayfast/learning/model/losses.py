"""Cross entropy, binary cross entropy and the focal loss, all fastai-compatible.

In multi-label targets NaN means that nobody knows: such a cell has no loss and no gradient, and means are over the
cells that are known. A batch in which nothing is known has the loss 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xrayfast.config import ClassWeights, LossName, Task
from xrayfast.errors import ConfigError
from xrayfast.learning.fastai_api import BCEWithLogitsLossFlat, CrossEntropyLossFlat, TensorBase

Reduction = Literal["mean", "sum", "none"]


class FocalLoss(nn.Module):
    """Focal loss for softmax (single-label) and sigmoid (multi-label) problems, element by element.

    FL(p_t) = -alpha_t (1 - p_t)^gamma log(p_t), where p_t is the probability given to the truth (Lin et al. 2017,
    "Focal Loss for Dense Object Detection", arXiv:1708.02002). The modulating factor is computed in log space, so
    value and gradient stay finite at any logit.

    Args:
        task: "single": logits (N, C), targets (N,) class indices. "multi": logits (N, L), targets (N, L) in [0, 1],
            or NaN where unknown.
        gamma: focusing strength, at least 0; 0 gives (binary) cross entropy.
        alpha: None for no balancing. "multi": a number or one per label in (0, 1), the weight of positives, 1 - alpha
            that of negatives (as in the paper and in torchvision). "single": a positive number or one per class that
            multiplies the loss of images of that class.
        weight: (C,) or (L,) weights from class counts, in the sense of the loss that gamma 0 gives: `weight` of
            cross entropy (whose mean is weighted), `pos_weight` of binary cross entropy.
        reduction: "mean", "sum" or "none"; "none" gives (N,) for "single" and (N, L), 0 where unknown, for "multi".

    Raises:
        ConfigError: gamma or alpha out of bounds.

    >>> loss = FocalLoss("single", gamma=0.0)
    >>> round(float(loss(torch.tensor([[2.0, 0.0]]), torch.tensor([0]))), 4)
    0.1269
    """

    alpha: Tensor | None
    weight: Tensor | None

    def __init__(
        self,
        task: Task,
        gamma: float = 2.0,
        alpha: float | Sequence[float] | None = None,
        weight: Tensor | None = None,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__()
        if not (gamma >= 0 and math.isfinite(gamma)):
            raise ConfigError(f"gamma is {gamma}; expected a number of at least 0.")
        self.task: Task = task
        self.gamma = gamma
        self.reduction: Reduction = reduction
        self.register_buffer("alpha", None if alpha is None else _checked_alpha(alpha, task), persistent=False)
        self.register_buffer("weight", weight, persistent=False)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """The loss of a batch; see the class for shapes.

        Raises:
            ConfigError: alpha has another length than there are classes.
        """
        # fastai's tensor subclasses carry types that mean nothing for a loss and cost time at each operation.
        logits, target = logits.as_subclass(Tensor), target.as_subclass(Tensor)
        if self.alpha is not None and self.alpha.numel() not in (1, logits.shape[-1]):
            raise ConfigError(
                f"alpha has {self.alpha.numel()} values; expected one, or one for each of the {logits.shape[-1]} "
                "labels."
            )
        if self.task == "multi":
            target, known = known_targets(target.to(logits.dtype))
            return _reduced(self._sigmoid(logits, target) * known, known, self.reduction)
        losses, weights = self._softmax(logits, target)
        return _reduced(losses, torch.ones_like(losses) if weights is None else weights, self.reduction)

    def _softmax(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor | None]:
        log_p = F.log_softmax(logits, dim=-1)
        log_pt = log_p.gather(-1, target.unsqueeze(-1)).squeeze(-1)
        others = log_p.scatter(-1, target.unsqueeze(-1), -math.inf)
        losses = -(self.gamma * torch.logsumexp(others, dim=-1)).exp() * log_pt if self.gamma else -log_pt
        if self.alpha is not None:
            losses = losses * self.alpha.expand(logits.shape[-1])[target]
        if self.weight is None:
            return losses, None
        weights = self.weight[target]
        return losses * weights, weights

    def _sigmoid(self, logits: Tensor, target: Tensor) -> Tensor:
        losses = F.binary_cross_entropy_with_logits(logits, target, reduction="none", pos_weight=self.weight)
        if self.gamma:
            # log(1 - p_t), where 1 - p_t = y (1 - p) + (1 - y) p; the log of a hard target's 0 is -inf, which
            # logaddexp leaves out.
            log_miss = torch.logaddexp(target.log() + F.logsigmoid(-logits), (1 - target).log() + F.logsigmoid(logits))
            losses = losses * (self.gamma * log_miss).exp()
        if self.alpha is not None:
            losses = losses * (self.alpha * target + (1 - self.alpha) * (1 - target))
        return losses

    def activation(self, logits: Tensor) -> Tensor:
        """Probabilities from logits: softmax or sigmoid, (N, C) in [0, 1]."""
        return logits.softmax(dim=-1) if self.task == "single" else logits.sigmoid()

    def decodes(self, probability: Tensor) -> Tensor:
        """Decisions from probabilities: (N,) class indices, or (N, L) booleans at a threshold of 0.5."""
        return probability.argmax(dim=-1) if self.task == "single" else probability > 0.5


def known_targets(target: Tensor) -> tuple[Tensor, Tensor]:
    """Multi-label targets with 0 for NaN, and 1.0 where they are known, 0.0 where not; both as (N, L)."""
    known = ~target.isnan()
    return target.nan_to_num(nan=0.0), known.to(target.dtype)


def batch_weight(target: Tensor) -> Tensor:
    """What the mean loss of a batch counts for in the mean over an epoch: its images or, of (N, L) targets, its known
    cells.
    """
    target = target.as_subclass(Tensor)
    return (~target.isnan()).sum() if target.is_floating_point() else torch.tensor(len(target))


def _reduced(losses: Tensor, weights: Tensor, reduction: str) -> Tensor:
    """The losses, their sum, or their mean with these weights, which is 0 where all of them are."""
    if reduction == "none":
        return losses
    return losses.sum() if reduction == "sum" else losses.sum() / weights.sum().clamp(min=1e-12)


def _checked_alpha(alpha: float | Sequence[float], task: Task) -> Tensor:
    values = torch.as_tensor(alpha, dtype=torch.float32).reshape(-1)
    if task == "multi" and not bool(((values > 0) & (values < 1)).all()):
        raise ConfigError(
            f"alpha is {alpha}; expected numbers between 0 and 1, the weight of positives against negatives (0 or 1 "
            "would leave one side out). Leave alpha out for no balancing, which some papers write as alpha = 1."
        )
    if task == "single" and not bool((values > 0).all() and values.isfinite().all()):
        raise ConfigError(f"alpha is {alpha}; expected positive numbers.")
    return values


def make_loss(
    name: LossName,
    task: Task,
    *,
    gamma: float = 2.0,
    alpha: float | Sequence[float] | None = None,
    class_weights: ClassWeights = "none",
    positives: Sequence[int] | None = None,
    known: Sequence[int] | None = None,
) -> nn.Module:
    """The loss that a configuration asks for.

    Args:
        name: "auto" is cross entropy for single-label and binary cross entropy for multi-label data.
        task: "single" or "multi".
        gamma: of the focal loss.
        alpha: of the focal loss.
        class_weights: "auto" weighs classes by their inverse frequency in the training split.
        positives: training images of each label; needed for class weights.
        known: training images of which each label is known; needed for class weights.

    Raises:
        ConfigError: the loss does not fit the task, or options contradict each other.
    """
    if name == "auto":
        name = "ce" if task == "single" else "bce"
    if name == "ce" and task == "multi":
        raise ConfigError("loss ce is for one label an image, and this data has several. Use --loss bce or focal.")
    if name == "bce" and task == "single":
        raise ConfigError(
            "loss bce is for several labels an image, and this data has one. Use --loss ce or focal, or --task multi."
        )
    if alpha is not None and name != "focal":
        raise ConfigError(f"alpha belongs to the focal loss; the loss is {name}. Use --loss focal, or leave alpha out.")
    weight = None
    if class_weights == "auto":
        if alpha is not None:
            raise ConfigError("alpha and class weights both balance the classes; use one of them.")
        if positives is None or known is None:
            raise ConfigError("class weights need the counts of the training split.")
        weight = balanced_weights(positives, known, task)
    if name == "ce":
        return CrossEntropyLossFlat(weight=weight)
    if name == "bce":
        return _BinaryCrossEntropy(pos_weight=weight)
    return FocalLoss(task, gamma=gamma, alpha=alpha, weight=weight)


def balanced_weights(positives: Sequence[int], known: Sequence[int], task: Task) -> Tensor:
    """Inverse-frequency weights.

    Args:
        positives: training images of each of the L labels.
        known: training images of which it is known whether they have the label.
        task: "single": known / (L x count), scikit-learn's "balanced". "multi": negatives / positives, the
            `pos_weight` that gives both sides the same sum.

    Returns:
        (L,) float32. A label without a positive gets 1: there is nothing to weigh.
    """
    counts = torch.as_tensor(positives, dtype=torch.float32)
    images = torch.as_tensor(known, dtype=torch.float32)
    raw = images / (len(counts) * counts) if task == "single" else (images - counts) / counts
    return torch.where(counts > 0, raw, torch.ones_like(raw)).clamp(min=1e-6)


class _BinaryCrossEntropy(BCEWithLogitsLossFlat):
    """fastai's loss, kept (N, L): flattened, a weight for each label no longer lines up with its column.

    Its mean is over the known cells only, as in FocalLoss.
    """

    def __init__(self, pos_weight: Tensor | None) -> None:
        super().__init__(flatten=False, pos_weight=pos_weight)

    def __call__(self, logits: Tensor, target: Tensor, **_: object) -> Tensor:
        logits, (target, known) = logits.as_subclass(Tensor), known_targets(target.as_subclass(Tensor).to(logits.dtype))
        losses = F.binary_cross_entropy_with_logits(logits, target, reduction="none", pos_weight=self.func.pos_weight)
        return TensorBase(_reduced(losses * known, known, self.reduction))
