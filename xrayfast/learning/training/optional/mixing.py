"""Training images mixed with each other: mixup and CutMix."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import Beta

from xrayfast.learning.augment import cutmix, mixup
from xrayfast.learning.device import send
from xrayfast.learning.fastai_api import Callback
from xrayfast.learning.training.callbacks.order import CALLBACK_ORDER


class MixImages(Callback):
    """Mixes each training image with another of its batch, by mixup, CutMix or, where both are given, one of them per
    batch with equal probability; see `Loss.forward` for the loss.

    The shares are drawn on the CPU from torch's global generator, which `EpochSeeds` seeds. fastai's MixUp and CutMix
    average losses without class weights, mix multi-label targets within losses that are not linear in them, such as
    the focal loss, and leave mixed targets to what computes metrics of them.

    Args:
        mixup: the parameter of mixup's Beta(A, A), 0 for no mixup.
        cutmix: that of CutMix.
    """

    order = CALLBACK_ORDER["MixImages"]
    run_valid = False

    def __init__(self, mixup: float, cutmix: float) -> None:
        self.mixup, self.cutmix = mixup, cutmix

    def before_batch(self) -> None:
        """Targets become those of the image, of the one mixed into it, and the share of the first."""
        images, target = self.xb[0].as_subclass(Tensor), self.yb[0].as_subclass(Tensor)
        cut = bool(self.cutmix) and not (self.mixup and torch.rand(()) < 0.5)
        alpha = torch.tensor(self.cutmix if cut else self.mixup)
        partner = torch.randperm(len(images))
        share = Beta(alpha, alpha).sample((len(images),))
        partner = send(partner, images.device)
        others, other = images[partner], target[partner]
        if cut:
            images, share = cutmix(images, others, share, torch.rand(2, len(images)))
        else:
            images = mixup(images, others, share)
        if target.is_floating_point():  # so that whatever counts unmasked cells sees those of both
            target = target.masked_fill(other.isnan(), math.nan)
        self.learn.xb, self.learn.yb = (images, *self.xb[1:]), (target, other, send(share, images.device))
