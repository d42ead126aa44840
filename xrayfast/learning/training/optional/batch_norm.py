"""`--precise-bn`: the statistics of batch norm, computed from the weights as they are."""

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
"""Training images from which statistics are computed, at least, where an epoch has as many."""


class PreciseBatchNorm(Callback):
    """After the batches of each epoch, computes the statistics of the batch norms that train, from the last batches.

    The running statistics of training are an average over batches during which the weights moved, and lag behind them:
    the more so, the higher the learning rate and the fewer the batches. In the first epoch after unfreezing, the
    network that is validated is then another than the one that was trained (Wu and Johnson 2021, "Rethinking 'Batch'
    in BatchNorm", arXiv 2105.07576). Training itself, which normalises by batch, stays the same.

    While the backbone has no batch norm that trains, as with a frozen backbone or vgg16, nothing is computed.

    Args:
        groups: the layer groups of the network, from the input to the head.
    """

    order = CALLBACK_ORDER["PreciseBatchNorm"]
    norms: list[_BatchNorm]
    batches: deque[tuple[tuple[Any, ...], int]]

    def __init__(self, groups: Sequence[LayerGroup]) -> None:
        self.groups = groups
        self.clear()

    def before_train(self) -> None:
        """Find the batch norms that train; frozen layers are in inference mode by now."""
        self.clear()  # of an epoch that was interrupted
        if not hasattr(self.learn, "lr_finder") and any(norm.training for norm in backbone_norms(self.groups)):
            self.norms = [norm for norm in batch_norms(self.model) if norm.training]

    def after_loss(self) -> None:
        """Keep the last batches that have `IMAGES` images together, over all ranks."""
        if self.training and self.norms:
            self.batches.append((self.xb, len(self.yb[0])))
            while sum(images for _, images in self.batches) - self.batches[0][1] >= IMAGES:
                self.batches.popleft()

    def state(self, left: int, own: OwnRows | None) -> list[Tensor]:
        """The kept batches, of all ranks' images, where the epoch has too few images left to do without them.

        Args:
            left: images of the epoch that are still to come.
            own: this rank's rows; all ranks call then.
        """
        found = []
        for (images,), total in self.batches if left < IMAGES else ():
            if own is not None:
                own.total = total
            plain = images.as_subclass(Tensor)
            found.append(plain if own is None else own.gather(plain))
        return found

    def restore(self, batches: Iterable[Tensor], own: OwnRows | None) -> None:
        """Keep batches of which `state` gave the images."""
        self.batches.extend(((batch if own is None else own.take(batch),), len(batch)) for batch in batches)

    def after_train(self) -> None:
        """Compute the statistics."""
        if self.batches:
            with autocast(self.learn):
                estimate_statistics(self.model, self.norms, self.batches)
        self.clear()

    def clear(self) -> None:
        """Free the batches."""
        self.norms, self.batches = [], deque()


def batch_norms(module: nn.Module) -> list[_BatchNorm]:
    """The batch norms of a network or a module of it that have running statistics."""
    return [norm for norm in module.modules() if isinstance(norm, _BatchNorm) and norm.track_running_stats]


def backbone_norms(groups: Sequence[LayerGroup]) -> list[_BatchNorm]:
    """Those of all layer groups but the head, which is the last one."""
    return [norm for group in groups[:-1] for module in group.modules for norm in batch_norms(module)]


def estimate_statistics(
    model: nn.Module, norms: Sequence[_BatchNorm], batches: Iterable[tuple[tuple[Any, ...], int]]
) -> None:
    """Set the running statistics of batch norms to the averages over batches of the mean and the unbiased variance,
    weighted by size, where each batch is normalised by its own.

    All other modules are in inference mode meanwhile, so that nothing random is drawn.

    Args:
        model: the network.
        norms: those of its modules whose statistics are computed.
        batches: arguments of the network, of a rank those of its own rows, and the number of all ranks' images.
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
