"""The DataLoader that reads the images of a manifest, and its dataset's items."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from xrayfast.data.cache.image_cache import DecodedImages
from xrayfast.data.images.reader import fit_square
from xrayfast.learning.dataloaders.device_data import DeviceFeed
from xrayfast.learning.dataloaders.sampling import draw_balanced
from xrayfast.learning.dataloaders.transforms import KNOWN_TRANSFORMS, OpenPipeline
from xrayfast.learning.distributed.rows import OwnRows, split_rows
from xrayfast.learning.fastai_api import (
    L,
    TensorCategory,
    TensorImageBW,
    TensorMultiCategory,
    TfmdDL,
    chunked,
    register_drawing,
)


@dataclass(frozen=True, eq=False)
class GoingOn:
    """The point within an epoch at which training resumes; the batches before it are not read.

    Attributes:
        batches: number of batches that are done.
        restore: function that restores the random number generators to their states after these batches.
    """

    batches: int
    restore: Callable[[], None]


class RadiographDL(TfmdDL):
    """A DataLoader that reads the images of a manifest a batch at a time, without a transform per image.

    Other items, such as files to predict, are read as in any TfmdDL. So are all items if the user's own transforms are
    in `after_item` or `before_batch`.

    Attributes:
        sampling_weights: weights with which shuffled images are drawn; None to draw each image once.
        rows: indices into the dataset of the last epoch's images, in order.
        feed: source of the batches on the device; None if this loader reads them.
        own: the rows of each batch that this rank reads; None for all.
        going_on: the point at which the epoch resumes; None to start at its beginning.
    """

    own: OwnRows | None = None
    going_on: GoingOn | None = None
    sampling_weights: NDArray[np.float64] | None = None
    rows: Sequence[int] = ()
    feed: DeviceFeed | None = None

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        for event in ("after_item", "before_batch", "after_batch"):
            setattr(self, event, OpenPipeline(getattr(self, event)))

    def new(self, dataset: Any = None, cls: Any = None, **options: Any) -> Any:
        """Make a DataLoader as fastai does; for the same dataset it keeps the sampling weights, feed and own rows."""
        found = super().new(dataset, cls, **options)
        if found.dataset is self.dataset:
            found.sampling_weights, found.feed, found.own = self.sampling_weights, self.feed, self.own
        return found

    def __iter__(self) -> Iterator[Any]:
        """Yield the batches of an epoch on the device, after the batch transforms; with `own`, this rank's rows."""
        batches = super().__iter__() if self.feed is None or self._table is None else self._fed()
        if self.going_on is not None:
            batches = self._go_on(batches, self.going_on.restore)
        if self.own is not None:
            for start in range(self.n_done * self.bs, len(self) * self.bs, self.bs):
                self.own.total = min(self.bs, self.n - start)
                yield next(batches)
        yield from batches

    @property
    def n_done(self) -> int:
        """Number of batches that are already done when an epoch resumes."""
        return self.going_on.batches if self.going_on else 0

    def _go_on(self, batches: Iterator[Any], restore: Callable[[], None]) -> Iterator[Any]:
        """Yield the batches, and call `restore` between reading the first one and its batch transforms.

        DataLoaders draw random numbers before they read the first batch.
        """
        transforms, self.after_batch.fs = self.after_batch.fs, L()
        try:
            first = next(batches)
        finally:
            self.after_batch.fs = transforms
        restore()
        yield self.after_batch(first)
        yield from batches

    def _fed(self) -> Iterator[Any]:
        """Yield the batches of `feed`."""
        assert self.feed is not None
        self.randomize()
        self.before_iter()
        order = self.get_idxs()
        # torch's DataLoader draws a number here: with the same seed, images are then augmented in the same way.
        torch.empty((), dtype=torch.int64).random_()
        for batch in self.feed.batches(split_rows(order, self.bs, self.own, self.drop_last), self.own):
            yield self.after_batch(batch)
        self.after_iter()

    @property
    def _table(self) -> pd.DataFrame | None:
        """The table of a manifest's split; None if items are something else, or are transformed one by one."""
        items = getattr(self.dataset, "items", None)
        rows = items.table if isinstance(items, ImageItems) else items
        changed = [t for t in (*self.after_item.fs, *self.before_batch.fs) if type(t) not in KNOWN_TRANSFORMS]
        fits = isinstance(rows, pd.DataFrame) and "target" in rows and self.bs is not None and not changed
        return rows if fits else None

    def shuffle_fn(self, idxs: list[int]) -> list[int]:
        """Draw the images of an epoch from the loader's own generator."""
        if self.sampling_weights is None:
            return list(super().shuffle_fn(idxs))
        return draw_balanced(self.sampling_weights, self.rng)

    def get_idxs(self) -> Any:
        """Return fastai's indices, without those of batches that are done, and keep all of them in `rows`."""
        self.rows = super().get_idxs()
        return self.rows[self.n_done * self.bs :] if self.going_on else self.rows

    def create_batches(self, samps: Iterable[int]) -> Iterator[tuple[Any, ...]]:
        """Yield batches of (N, 1, side, side) uint8 images and their targets."""
        if (rows := self._table) is None:
            yield from super().create_batches(samps)
            return
        images, target = self.dataset.tls[0].tfms[-1].images, targets_of(self.dataset, rows)
        paths = rows["path"].to_numpy(dtype=object)
        for whole in chunked(samps, self.bs, self.drop_last):
            chunk = whole if self.own is None else self.own.take(whole)
            batch = TensorImageBW(torch.from_numpy(_read_batch(images, paths[chunk])).unsqueeze(1))
            yield (batch,) if target is None else (batch, target[chunk])

    def _pre_show_batch(self, b: Any, max_n: int = 9) -> Any:
        """Prepare a batch to be drawn, as each of fastai's methods that draw does first."""
        register_drawing()
        return super()._pre_show_batch(b, max_n)

    def show_batch(self, b: Any = None, max_n: int = 9, ctxs: Any = None, show: bool = True, **options: Any) -> Any:
        """Show a batch as fastai does, with space between the images for titles of several lines."""
        shown = super().show_batch(b, max_n, ctxs, show, **options)
        _leave_space(ctxs is None and show)
        return shown

    def show_results(
        self, b: Any, out: Any, max_n: int = 9, ctxs: Any = None, show: bool = True, **options: Any
    ) -> Any:
        """Show results as fastai does, with space between the images for titles of several lines."""
        shown = super().show_results(b, out, max_n, ctxs, show, **options)
        _leave_space(ctxs is None and show)
        return shown


def _leave_space(drawn: bool) -> None:
    # Not with rc_context: if a notebook's first figure is made within it, later figures are not shown.
    if drawn:
        from matplotlib import pyplot as plt

        plt.gcf().set_layout_engine("constrained")


def _read_batch(images: DecodedImages, sources: Any) -> NDArray[np.uint8]:
    """Read (N, side, side) images from files or, for a placeholder manifest, from arrays."""
    if isinstance(sources[0], np.ndarray):
        return np.stack([fit_square(source, images.side) for source in sources])
    return images.batch(sources)


def targets_of(dataset: Any, rows: pd.DataFrame) -> Any:
    """Return the targets of all rows, equal to those that the dataset's own transforms make."""
    if len(dataset.tls) < 2:
        return None
    values, vocab = rows["target"].tolist(), list(dataset.tls[1].vocab)
    if isinstance(values[0], str):
        indices = {label: index for index, label in enumerate(vocab)}
        return TensorCategory(torch.tensor([indices[label] for label in values]))
    return TensorMultiCategory(torch.from_numpy(np.stack(values)).float())


class ImageItems:
    """The rows of a manifest's table as the items of a dataset.

    Iteration yields the files, as fastai's `ImageClassifierCleaner` expects.
    """

    def __init__(self, table: pd.DataFrame) -> None:
        self.table = table

    def __len__(self) -> int:
        return len(self.table)

    def __iter__(self) -> Iterator[Any]:
        return (Path(path) if isinstance(path, str) else path for path in self.table["path"])

    @property
    def iloc(self) -> ImageItems:
        """The items themselves: fastai recognizes tables by this attribute, and uses it to index them."""
        return self

    def __getitem__(self, rows: Any) -> pd.Series | ImageItems:
        found = self.table.iloc[rows]
        return found if isinstance(found, pd.Series) else ImageItems(found)
