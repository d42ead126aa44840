"""Progressive resizing: the first epochs train on smaller images; the learning-rate schedule spans all epochs."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from xrayfast.learning.dataloaders.transforms import Shrink
from xrayfast.learning.fastai_api import Callback, Learner
from xrayfast.learning.training.callbacks.order import CALLBACK_ORDER


def sizes_by_epoch(epochs: int, progressive: Sequence[int], size: int) -> tuple[int, ...]:
    """Return the side of the images in each epoch.

    The second size gets twice as many epochs as the first, the third three times as many, and so on, since the network
    has to relearn on large images a part of what it learned on small ones.

    Args:
        epochs: number of epochs.
        progressive: increasing sizes that end with the network's; empty without progressive resizing.
        size: the network's size.

    >>> sizes_by_epoch(6, (128, 176, 224), 224), sizes_by_epoch(2, (128, 176, 224), 224), sizes_by_epoch(2, (), 224)
    ((128, 176, 176, 224, 224, 224), (176, 224), (224, 224))
    """
    sizes = tuple(progressive) or (size,)
    ends = [epochs * n * (n + 1) // (len(sizes) * (len(sizes) + 1)) for n in range(1, len(sizes) + 1)]
    return tuple(sizes[bisect_right(ends, epoch)] for epoch in range(epochs))


@contextmanager
def resize_progressively(learn: Learner, sizes: Sequence[int]) -> Iterator[None]:
    """Within the block, epoch e of `learn.fit` trains and validates on images of `sizes[e]` px."""
    transform = next(transform for transform in learn.dls.train.after_batch.fs if isinstance(transform, Shrink))
    try:
        with learn.added_cbs(ProgressiveSizes(transform, sizes)):
            yield
    finally:
        transform.side = None


class ProgressiveSizes(Callback):
    """Callback that sets the image size of each epoch."""

    order = CALLBACK_ORDER["ProgressiveSizes"]

    def __init__(self, transform: Shrink, sizes: Sequence[int]) -> None:
        self.transform, self.sizes = transform, sizes

    def before_epoch(self) -> None:
        """Set the size for this epoch."""
        self.transform.side = self.sizes[self.epoch]
