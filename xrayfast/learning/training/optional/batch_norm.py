"""`--precise-bn`: statistics of batch norm, recomputed with the current weights after each epoch."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from xrayfast.learning.distributed.rows import OwnRows
from xrayfast.learning.fastai_api import Callback
from xrayfast.learning.model.layers import LayerGroup
from xrayfast.learning.training.callbacks.order import CALLBACK_ORDER
from xrayfast.learning.training.mixed_precision import autocast

IMAGES = 256
"""Smallest number of training images from which statistics are computed, if an epoch has that many."""


class PreciseBatchNorm(Callback):
    """Callback that recomputes the statistics of unfrozen batch norms after each epoch, from its last batches.

    The running statistics are an average over batches in which the weights changed, so they lag behind: more with a
    high learning rate and few batches. In the first epoch after unfreezing, the network that is validated then differs
    from the one that was trained (Wu and Johnson 2021, "Rethinking 'Batch' in BatchNorm", arXiv 2105.07576). Training
    itself, which normalizes by batch, does not change.

    If no batch norm of the backbone trains, as with a frozen backbone or vgg16, nothing is recomputed.
    """

    order = CALLBACK_ORDER["PreciseBatchNorm"]
    norms: list[_BatchNorm]
    batches: deque[tuple[tuple[Any, ...], int]]

    def __init__(self, groups: Sequence[LayerGroup]) -> None:
        self.groups = groups
        self.clear()

    def before_train(self) -> None:
        """Find the batch norms that train; frozen layers are already in evaluation mode."""
        self.clear()  # an interrupted epoch may have left batches
        if not hasattr(self.learn, "lr_finder") and any(norm.training for norm in backbone_norms(self.groups)):
            self.norms = [norm for norm in batch_norms(self.model) if norm.training]

    def after_loss(self) -> None:
        """Keep the last batches, with at least `IMAGES` images together over all ranks."""
        if self.training and self.norms:
            self.batches.append((self.xb, len(self.yb[0])))
            while sum(images for _, images in self.batches) - self.batches[0][1] >= IMAGES:
                self.batches.popleft()

    def state(self, left: int, own: OwnRows | None) -> list[Tensor]:
        """Return the kept batches, with the images of all ranks, if the rest of the epoch has too few images.

        Args:
            left: number of images left in the epoch.
            own: this rank's rows in distributed training, in which all ranks must call this.
        """
        found = []
        for (images,), total in self.batches if left < IMAGES else ():
            if own is not None:
                own.total = total
            plain = images.as_subclass(Tensor)
            found.append(plain if own is None else own.gather(plain))
        return found

    def restore(self, batches: Iterable[Tensor], own: OwnRows | None) -> None:
        """Restore the batches that `state` returned."""
        self.batches.extend(((batch if own is None else own.take(batch),), len(batch)) for batch in batches)

    def after_train(self) -> None:
        """Recompute the statistics."""
        if self.batches:
            with autocast(self.learn):
                estimate_statistics(self.model, self.norms, self.batches)
        self.clear()

    def clear(self) -> None:
        """Forget the batch norms and the batches."""
        self.norms, self.batches = [], deque()


def batch_norms(module: nn.Module) -> list[_BatchNorm]:
    """Return the batch norms with running statistics in a module."""
    return [norm for norm in module.modules() if isinstance(norm, _BatchNorm) and norm.track_running_stats]


def backbone_norms(groups: Sequence[LayerGroup]) -> list[_BatchNorm]:
    """Return the batch norms with running statistics in the backbone: in all layer groups but the last, the head."""
    return [norm for group in groups[:-1] for module in group.modules for norm in batch_norms(module)]


def estimate_statistics(
    model: nn.Module, norms: Sequence[_BatchNorm], batches: Iterable[tuple[tuple[Any, ...], int]]
) -> None:
    """Set the running statistics of batch norms to the mean and unbiased variance per batch, averaged over batches.

    Batches are weighted by their numbers of images, and each is normalized with its own statistics. All other modules
    are in evaluation mode, so that nothing random is drawn.

    Args:
        model: the network.
        norms: the modules of the network whose statistics are set.
        batches: for each batch the arguments of the network (this rank's rows), and the number of images over all
            ranks.
    """
    modes, total = {module: module.training for module in model.modules()}, 0
    momenta = [norm.momentum for norm in norms]
    try:
        model.eval()
        for norm in norms:
            norm.train()
        for batch, images in batches:
            total += images
            for norm in norms:
                norm.momentum = images / total
            with torch.no_grad():
                model(*batch)
    finally:
        for module, mode in modes.items():
            module.training = mode
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
