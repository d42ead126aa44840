"""Mixup and CutMix."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import Beta

from xrayfast.learning.dataloaders.augment import cutmix, mixup
from xrayfast.learning.device import send
from xrayfast.learning.fastai_api import Callback
from xrayfast.learning.training.callbacks.order import CALLBACK_ORDER

MOST_EQUAL = 8.0
"""Largest A at which shares vary enough: with Beta(8, 8), 5% of images have less than 0.27 or more than 0.73."""


def describe_equal_shares(mixup: float, cutmix: float) -> list[str]:
    """Return a note on mixup or CutMix with so large an A that nearly every image is mixed half and half."""
    return [
        f"{name} is {a:g}: 95% of the shares drawn from Beta({a:g}, {a:g}) are within 0.5 ± "
        f"{0.98 / math.sqrt(2 * a + 1):.2g}, so nearly every image is half of another one. Usual values are 0.1 to 1."
        for name, a in (("mixup", mixup), ("cutmix", cutmix))
        if a > MOST_EQUAL
    ]


class MixImages(Callback):
    """Callback that mixes each training image with another one of its batch, by mixup or CutMix.

    If both are set, each batch uses one of them, with equal probability. `Loss.forward` describes the loss. Shares are
    drawn on the CPU from torch's global generator, which `EpochSeeds` seeds.

    fastai's MixUp and CutMix are not used: they average losses without class weights, mix multi-label targets before
    losses that are not linear in them, such as the focal loss, and pass mixed targets to the metrics.

    Args:
        mixup: parameter A of mixup's distribution Beta(A, A); 0 for no mixup.
        cutmix: parameter A of CutMix's distribution Beta(A, A); 0 for no CutMix.
    """

    order = CALLBACK_ORDER["MixImages"]
    run_valid = False

    def __init__(self, mixup: float, cutmix: float) -> None:
        self.mixup, self.cutmix = mixup, cutmix

    def before_batch(self) -> None:
        """Mix the images, and set the targets: the image's own, those of the image mixed in, and the own share."""
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
        if target.is_floating_point():  # mask the cells of both, for code that counts unmasked cells of `target`
            target = target.masked_fill(other.isnan(), math.nan)
        self.learn.xb, self.learn.yb = (images, *self.xb[1:]), (target, other, send(share, images.device))
