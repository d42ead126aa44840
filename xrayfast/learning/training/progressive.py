"""Progressive resizing: the first epochs on smaller images, with the schedule running on over all of them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor

from xrayfast.learning.augment import shrink
from xrayfast.learning.fastai_api import Callback, Learner, TensorImageBW, Transform


class Shrink(Transform):
    """The batch transform that makes images smaller, to `side`; None leaves them as they are."""

    order = 20
    side: int | None = None

    def encodes(self, images: TensorImageBW) -> TensorImageBW:
        """(N, 1, H, W) to (N, 1, side, side)."""
        return TensorImageBW(shrink(images.as_subclass(Tensor), self.side))


def sizes_by_epoch(epochs: int, progressive: Sequence[int], size: int) -> tuple[int, ...]:
    """The side of the images in each epoch: the second size gets twice as many as the first, the third three times,
    and so on, since what was learned on small images has to be learned anew, in part, on large ones.

    Args:
        epochs: how many there are.
        progressive: growing sizes that end at the network's, or none.
        size: the network's own.

    >>> sizes_by_epoch(6, (128, 176, 224), 224), sizes_by_epoch(2, (128, 176, 224), 224), sizes_by_epoch(2, (), 224)
    ((128, 176, 176, 224, 224, 224), (176, 224), (224, 224))
    """
    steps = tuple(progressive) or (size,)
    ends = [epochs * number * (number + 1) // (len(steps) * (len(steps) + 1)) for number in range(1, len(steps) + 1)]
    return tuple(steps[bisect_right(ends, epoch)] for epoch in range(epochs))


@contextmanager
def resized(learn: Learner, sizes: Sequence[int]) -> Iterator[None]:
    """Within it epoch e of `learn.fit` trains and validates on images of `sizes[e]`."""
    shrink = next(transform for transform in learn.dls.train.after_batch.fs if isinstance(transform, Shrink))
    try:
        with learn.added_cbs(_Resizing(shrink, sizes)):
            yield
    finally:
        shrink.side = None


class _Resizing(Callback):
    """Sets the size of the coming epoch."""

    def __init__(self, shrink: Shrink, sizes: Sequence[int]) -> None:
        self.shrink, self.sizes = shrink, sizes

    def before_epoch(self) -> None:
        self.shrink.side = self.sizes[self.epoch]
