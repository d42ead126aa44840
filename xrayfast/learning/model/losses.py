"""The table of losses. To add one, add a class, a row in `LOSSES`, and its name and settings in `config`.

Every loss is an `nn.Module` with the attributes that fastai expects: `reduction`, `activation` and `decodes`. In
multi-label targets NaN is a masked cell: it adds neither loss nor gradient, and the mean is over the other cells. If
all cells of a batch are masked, its loss is 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xrayfast.config import DEFAULT_LOSS, LOSS_SETTINGS, ClassWeights, LossName, Task, require_loss_of
from xrayfast.errors import ConfigError
from xrayfast.errors.arguments import check_arguments

Reduction = Literal["mean", "sum", "none"]
Alpha = float | Sequence[float] | None


def to_probability(logits: Tensor, task: Task) -> Tensor:
    """Return the softmax (single-label) or the sigmoid (multi-label) of logits whose last dimension is the labels."""
    return logits.softmax(dim=-1) if task == "single" else logits.sigmoid()


class Loss(nn.Module):
    """Base class of losses, of (N, C) logits and (N,) class indices (single-label) or (N, L) logits and targets
    (multi-label).
    """

    weight: Tensor | None

    def __init__(self, task: Task, weight: Tensor | None = None, reduction: Reduction = "mean") -> None:
        super().__init__()
        self.task: Task = task
        self.reduction: Reduction = reduction
        self.register_buffer("weight", weight, persistent=False)

    def forward(
        self, logits: Tensor, target: Tensor, other: Tensor | None = None, share: Tensor | None = None
    ) -> Tensor:
        """Return the loss of a batch; see the class for shapes.

        Args:
            logits: outputs for the images.
            target: targets of the images.
            other: with mixup or CutMix, the targets of the images that are mixed in. The losses of both targets, and
                their weights in the mean, are averaged according to `share`; a cell that is masked in either is masked.
            share: (N,) share of `target` in each image, in [0, 1].
        """
        return _reduced(*self._mixed_terms(logits, target, other, share), self.reduction)

    def total_weight(
        self, logits: Tensor, target: Tensor, other: Tensor | None = None, share: Tensor | None = None
    ) -> Tensor:
        """Return the sum of the weights in the mean: the weight of this batch in a mean over several batches."""
        return self._mixed_terms(logits, target, other, share)[1].sum()

    def _mixed_terms(
        self, logits: Tensor, target: Tensor, other: Tensor | None, share: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        # Each operation on fastai's tensor subclasses costs time, and a loss doesn't need their types.
        logits = logits.as_subclass(Tensor)
        losses, weights = self.terms(logits, target.as_subclass(Tensor))
        if other is not None and share is not None:
            others, other_weights = self.terms(logits, other.as_subclass(Tensor))
            share = share.to(losses.dtype).view(-1, *[1] * (losses.ndim - 1))
            both = ((weights > 0) & (other_weights > 0)).to(losses.dtype)
            losses, weights = (both * torch.lerp(b, a, share) for a, b in ((losses, others), (weights, other_weights)))
        return losses, weights

    def terms(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss of each image, (N,), or cell, (N, L), and their weights in the mean: 0 where masked."""
        raise NotImplementedError

    def activation(self, logits: Tensor) -> Tensor:
        """Return probabilities, (N, C) in [0, 1]: the softmax or sigmoid of the logits."""
        return to_probability(logits, self.task)

    def decodes(self, probability: Tensor) -> Tensor:
        """Return decisions from probabilities: (N,) class indices, or (N, L) booleans at a threshold of 0.5."""
        return probability.argmax(dim=-1) if self.task == "single" else probability > 0.5


class CrossEntropyLoss(Loss):
    """Cross entropy of single-label logits.

    Args:
        weight: (C,) class weights; the mean is weighted by them too.
        reduction: "mean", "sum" or "none", which returns (N,).
        label_smoothing: share of each target that is spread evenly over all C classes (Szegedy et al. 2016, CVPR).
    """

    y_int = True  # tells fastai's MixUp to mix losses instead of class indices

    def __init__(
        self, weight: Tensor | None = None, reduction: Reduction = "mean", label_smoothing: float = 0.0
    ) -> None:
        super().__init__("single", weight, reduction)
        self.label_smoothing = label_smoothing

    def forward(
        self, logits: Tensor, target: Tensor, other: Tensor | None = None, share: Tensor | None = None
    ) -> Tensor:
        """Return the loss of a batch, by torch's own reduction if images are not mixed."""
        if other is not None:
            return super().forward(logits, target, other, share)
        return self._cross_entropy(logits.as_subclass(Tensor), target.as_subclass(Tensor), self.reduction)

    def terms(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Return the losses, and the weights of the true classes."""
        losses = self._cross_entropy(logits, target, "none")
        return losses, torch.ones_like(losses) if self.weight is None else self.weight[target]

    def _cross_entropy(self, logits: Tensor, target: Tensor, reduction: Reduction) -> Tensor:
        return F.cross_entropy(
            logits, target, weight=self.weight, reduction=reduction, label_smoothing=self.label_smoothing
        )


class FocalLoss(Loss):
    """Focal loss: of the softmax per image (single-label), or of the sigmoid per cell (multi-label).

    FL(p_t) = -alpha_t (1 - p_t)^gamma log(p_t), where p_t is the predicted probability of the truth (Lin et al. 2017,
    "Focal Loss for Dense Object Detection", arXiv:1708.02002). The modulating factor is computed in log space, so
    value and gradient stay finite at any logit.

    Args:
        task: "single": logits (N, C), targets (N,) class indices. "multi": logits (N, L), targets (N, L) in [0, 1],
            or NaN where masked.
        gamma: focusing strength, at least 0; 0 gives (binary) cross entropy.
        alpha: None for no balancing. "multi": the weight of positives, in (0, 1), one number or one per label; the
            weight of negatives is 1 - alpha (as in the paper and in torchvision). "single": a positive number, or one
            per class, that multiplies the loss of images of that class.
        weight: (C,) or (L,) class weights, with the meaning that they have for gamma 0: `weight` of cross entropy
            (whose mean is weighted) or `pos_weight` of binary cross entropy.
        reduction: "mean", "sum" or "none"; "none" returns (N,) for "single" and (N, L), 0 where masked, for "multi".

    Raises:
        ConfigError: gamma or alpha is out of bounds.

    >>> loss = FocalLoss("single", gamma=0.0)
    >>> round(float(loss(torch.tensor([[2.0, 0.0]]), torch.tensor([0]))), 4)
    0.1269
    """

    alpha: Tensor | None

    @check_arguments()
    def __init__(
        self,
        task: Task,
        gamma: float = 2.0,
        alpha: Alpha = None,
        weight: Tensor | None = None,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(task, weight, reduction)
        if not (gamma >= 0 and math.isfinite(gamma)):
            raise ConfigError(f"gamma is {gamma}; expected a number of at least 0.")
        self.gamma = gamma
        self.register_buffer("alpha", None if alpha is None else _checked_alpha(alpha, task), persistent=False)

    def terms(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Return the losses, 0 where masked, and their weights.

        Raises:
            ConfigError: alpha has neither one value nor one per label.
        """
        if self.alpha is not None and self.alpha.numel() not in (1, logits.shape[-1]):
            raise ConfigError(
                f"alpha has {self.alpha.numel()} values; expected one, or one for each of the {logits.shape[-1]} "
                "labels."
            )
        if self.task == "multi":
            target, unmasked = fill_masked(target.to(logits.dtype))
            return self._sigmoid(logits, target) * unmasked, unmasked
        return self._softmax(logits, target)

    def _softmax(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        log_p = F.log_softmax(logits, dim=-1)
        log_pt = log_p.gather(-1, target.unsqueeze(-1)).squeeze(-1)
        others = log_p.scatter(-1, target.unsqueeze(-1), -math.inf)
        losses = -(self.gamma * torch.logsumexp(others, dim=-1)).exp() * log_pt if self.gamma else -log_pt
        if self.alpha is not None:
            losses = losses * self.alpha.expand(logits.shape[-1])[target]
        if self.weight is None:
            return losses, torch.ones_like(losses)
        weights = self.weight[target]
        return losses * weights, weights

    def _sigmoid(self, logits: Tensor, target: Tensor) -> Tensor:
        losses = F.binary_cross_entropy_with_logits(logits, target, reduction="none", pos_weight=self.weight)
        if self.gamma:
            # log(1 - p_t), where 1 - p_t = y (1 - p) + (1 - y) p. With a target of 0 or 1 one of the logs is -inf, and
            # logaddexp returns the other term.
            log_miss = torch.logaddexp(target.log() + F.logsigmoid(-logits), (1 - target).log() + F.logsigmoid(logits))
            losses = losses * (self.gamma * log_miss).exp()
        if self.alpha is not None:
            losses = losses * (self.alpha * target + (1 - self.alpha) * (1 - target))
        return losses


class BinaryCrossEntropyLoss(FocalLoss):
    """Binary cross entropy of multi-label logits: the focal loss with gamma 0.

    Args:
        weight: (L,) weights of positives.
        reduction: as in `FocalLoss`.
        label_smoothing: share of each target that is spread evenly over 0 and 1, as in Keras: with 0.1, 1 becomes 0.95
            and 0 becomes 0.05, as in `CrossEntropyLoss` with two classes.
    """

    def __init__(
        self, weight: Tensor | None = None, reduction: Reduction = "mean", label_smoothing: float = 0.0
    ) -> None:
        super().__init__("multi", 0.0, weight=weight, reduction=reduction)
        self.label_smoothing = label_smoothing

    def terms(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Return the losses of smoothed targets, 0 where masked, and their weights."""
        if self.label_smoothing:
            target = target * (1 - self.label_smoothing) + self.label_smoothing / 2
        return super().terms(logits, target)


class AsymmetricLoss(Loss):
    """Binary cross entropy in which easy negatives count less than easy positives, and the easiest not at all.

    The loss of a positive is -(1 - p)^gamma_pos log(p), that of a negative -q^gamma_neg log(1 - q) with
    q = max(p - margin, 0) (Ridnik et al. 2021, "Asymmetric Loss For Multi-Label Classification", ICCV, whose values are
    the defaults). A target y between 0 and 1 weights the two by y and 1 - y. The paper sums over labels; here the mean
    is over cells, as in the other losses, so that the same learning rates fit.

    Args:
        gamma_neg: focusing strength of negatives, at least 0.
        gamma_pos: focusing strength of positives, at least 0.
        margin: probability up to which a negative has no loss, in [0, 1).
        weight: (L,) weights of positives.
        reduction: "mean", "sum" or "none"; "none" returns (N, L), 0 where masked.
    """

    def __init__(
        self,
        gamma_neg: float = 4.0,
        gamma_pos: float = 0.0,
        margin: float = 0.05,
        weight: Tensor | None = None,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__("multi", weight, reduction)
        self.gamma_neg, self.gamma_pos, self.margin = gamma_neg, gamma_pos, margin

    def terms(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Return the losses, 0 where masked, and their weights."""
        target, unmasked = fill_masked(target.to(logits.dtype))
        log_p, log_miss = F.logsigmoid(logits), F.logsigmoid(-logits)
        positive = -(self.gamma_pos * log_miss).exp() * log_p
        if self.weight is not None:
            positive = positive * self.weight
        # The logarithm is computed in log space so that value and gradient stay finite without a margin, and the base
        # of the power is clamped above 0 so that the gradient stays finite if gamma_neg is below 1.
        shifted = (log_p.exp() - self.margin).clamp(min=1e-8)
        log_margin = torch.full_like(logits, self.margin).log()
        negative = -(shifted**self.gamma_neg) * torch.logaddexp(log_miss, log_margin).clamp(max=0)
        return torch.lerp(negative, positive, target) * unmasked, unmasked


def fill_masked(target: Tensor) -> tuple[Tensor, Tensor]:
    """Return the (N, L) multi-label targets with 0 for NaN, and a mask of the same dtype: 0 where NaN, else 1."""
    return target.nan_to_num(nan=0.0), (~target.isnan()).to(target.dtype)


def batch_weight(target: Tensor) -> Tensor:
    """Return the weight of a batch in the mean loss of an epoch: its number of images or, for (N, L) targets, of
    unmasked cells.
    """
    target = target.as_subclass(Tensor)
    return (~target.isnan()).sum() if target.is_floating_point() else torch.tensor(len(target))


def _reduced(losses: Tensor, weights: Tensor, reduction: str) -> Tensor:
    """Return the losses, their sum, or their weighted mean, which is 0 if all weights are."""
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


LOSSES: dict[LossName, Callable[..., Loss]] = {
    "ce": lambda task, weight, **settings: CrossEntropyLoss(weight, **settings),
    "bce": lambda task, weight, **settings: BinaryCrossEntropyLoss(weight, **settings),
    "asl": lambda task, weight, **settings: AsymmetricLoss(weight=weight, **settings),
    "focal": lambda task, weight, **settings: FocalLoss(task, weight=weight, **settings),
}
"""Functions that make a loss, by its name. They take the task, class weights or None, and the settings that
`config.LOSS_SETTINGS` names.
"""


def make_loss(
    name: LossName,
    task: Task,
    *,
    class_weights: ClassWeights = "none",
    positives: Sequence[int] | None = None,
    unmasked: Sequence[int] | None = None,
    **settings: Any,
) -> Loss:
    """Make the loss that a configuration asks for.

    Args:
        name: a name of `LOSSES`, or "auto" for `config.DEFAULT_LOSS`.
        task: "single" or "multi".
        class_weights: "auto" weights classes by their inverse frequency in the training split, "effective" by the
            inverse of their effective number of images; see `balanced_weights`.
        positives: number of training images with each label; needed for class weights.
        unmasked: number of training images whose cell of each label is not masked; needed for class weights.
        **settings: settings of any loss; those of other losses are ignored, and missing ones have their defaults.
    """
    require_loss_of(task, name)
    if name == "auto":
        name = DEFAULT_LOSS[task]
    weight = None
    if class_weights != "none":
        if settings.get("alpha") is not None:
            raise ConfigError("alpha and class weights both balance the classes; use only one of them.")
        if positives is None or unmasked is None:
            raise ConfigError("class weights need the counts of the training split.")
        weight = balanced_weights(positives, unmasked, task, effective=class_weights == "effective")
    own = {key: settings[key] for key in LOSS_SETTINGS.get(name, ()) if key in settings}
    return LOSSES[name](task, weight, **own)


def prevalence_logits(
    targets: Tensor,
    task: Task,
    *,
    draws: Tensor | None = None,
    weight: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Compute the logits that have the least (binary) cross entropy if they are the same for all images.

    They are the log of the class shares (less their mean), or the log odds of each label.

    Args:
        targets: (N, L) from 0 to 1, NaN where masked; one-hot for "single".
        task: "single" or "multi".
        draws: (N,) how often each image is drawn, relative to the others; None for equally often.
        weight: (L,) class weights of the loss.
        label_smoothing: label smoothing of the loss.

    Returns:
        (L,) float64. One positive and one negative image are added to each label, so all logits are finite.
    """
    unmasked = (~targets.isnan()).double()
    if draws is not None:
        unmasked *= (draws.double() * len(draws) / draws.sum())[:, None]
    positive = (targets.double().nan_to_num() * unmasked).sum(0) + 1
    total = positive.sum() if task == "single" else unmasked.sum(0) + 2
    smoothed = torch.lerp(positive, total / (len(positive) if task == "single" else 2), label_smoothing)
    logits = (smoothed if weight is None else smoothed * weight.double().cpu()).log()
    return logits - (logits.mean() if task == "single" else (total - smoothed).log())


EFFECTIVE_BETA = 0.999
"""Beta of the effective number of images: beyond about 1,000, further images of a class count for little. With 0.9999,
which Cui et al. try too, the weights of classes with up to about 1,000 images are nearly their inverse frequencies.
"""


def balanced_weights(positives: Sequence[int], unmasked: Sequence[int], task: Task, effective: bool = False) -> Tensor:
    """Compute class weights from inverse frequencies, or from inverse effective numbers of images.

    Args:
        positives: number of training images with each of the L labels.
        unmasked: number of training images whose cell of that label is not masked.
        task: "single": unmasked / (L x positives), scikit-learn's "balanced". "multi": negatives / positives, the
            `pos_weight` that gives positives and negatives the same total weight.
        effective: replace each number n of images by the effective number (1 - beta^n) / (1 - beta), with beta
            `EFFECTIVE_BETA` (Cui et al. 2019, "Class-Balanced Loss Based on Effective Number of Samples", CVPR); for
            "single", as in the paper, the weights of the L labels sum to L.

    Returns:
        (L,) float32. A label without a positive or without a negative gets 1: there is nothing to weight.
    """
    counts = torch.as_tensor(positives, dtype=torch.float32)
    images = torch.as_tensor(unmasked, dtype=torch.float32)
    if effective:
        positive, negative = (
            -torch.expm1(n.double() * math.log(EFFECTIVE_BETA)) / (1 - EFFECTIVE_BETA)
            for n in (counts, images - counts)
        )
        inverse = torch.where(counts > 0, 1 / positive, 0)
        raw = (len(counts) * inverse / inverse.sum() if task == "single" else negative / positive).float()
    else:
        raw = images / (len(counts) * counts) if task == "single" else (images - counts) / counts
    return torch.where((counts > 0) & (raw > 0), raw, torch.ones_like(raw))
