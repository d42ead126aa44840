"""From a manifest to fastai's DataBlock and DataLoaders."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from xrayfast.config import DataLoadersOrigin, DataOnDevice, Device, Task, field_types
from xrayfast.cpus import cpu_count
from xrayfast.data.cache.image_cache import DecodedImages, UncachedImages
from xrayfast.data.decoding import decode_manifest
from xrayfast.data.images.reader import fit_square
from xrayfast.data.manifest import Manifest
from xrayfast.errors import ConfigError, DataError, ReadError
from xrayfast.errors.arguments import check_arguments, show
from xrayfast.errors.escapes import warn
from xrayfast.errors.signals import STOP_SIGNALS, end_by_parent_alone, leave_signals_to_parent
from xrayfast.learning.augment import denormalize
from xrayfast.learning.device import torch_device
from xrayfast.learning.device_data import DEVICE_SHARE, DeviceFeed, Placement, contains_files, place_images
from xrayfast.learning.distributed.rows import OwnRows, split_rows
from xrayfast.learning.fastai_api import (
    CategoryBlock,
    DataBlock,
    DataLoaders,
    IntToFloatTensor,
    L,
    TensorCategory,
    TensorImageBW,
    TensorMultiCategory,
    TfmdDL,
    TransformBlock,
    chunked,
    register_drawing,
)
from xrayfast.learning.own_dataloaders import describe_dataloaders, image_shape
from xrayfast.learning.randomness import isolated_rng
from xrayfast.learning.training.optional.progressive import Shrink
from xrayfast.learning.training.optional.sampling import draw_balanced, sampling_weights
from xrayfast.learning.training.transforms import (
    AUGMENTING,
    IMAGE_TYPES,
    KNOWN_TRANSFORMS,
    Augment,
    LabelTarget,
    Normalization,
    OpenPipeline,
    OpenRadiograph,
    OwnAugmentation,
    foreign_transforms,
    make_augmentation,
)
from xrayfast.own_code import OWN, name_of
from xrayfast.progress import show_progress

SPLIT_INDEX = {"train": 0, "valid": 1, "test": 2}
"""The index of each split in the DataLoaders: `dls[2]` is the test split, where there is one."""


@dataclass(frozen=True, eq=False)
class GoingOn:
    """Where an epoch goes on that was stopped: its first batches are not read.

    Attributes:
        batches: how many are done.
        restore: sets the generators to what they were after those.
    """

    batches: int
    restore: Callable[[], None]


class RadiographDL(TfmdDL):
    """A DataLoader that reads the images of a manifest a batch at a time, without a transform per image.

    Other items, such as files to predict on, it reads as any TfmdDL does, and all items where transforms of the user's
    own are in `after_item` or `before_batch`.

    Attributes:
        sampling_weights: by which images are drawn where they are shuffled; None for each once.
        rows: the images of the last epoch in their order, by their place in the dataset.
        feed: gives the same batches on the device; None where this loader reads them.
        own: the rows of each batch that a rank reads; None for all.
        going_on: where the epoch goes on; None for its beginning.
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
        """fastai's, which draws alike from the same images."""
        found = super().new(dataset, cls, **options)
        if found.dataset is self.dataset:
            found.sampling_weights, found.feed, found.own = self.sampling_weights, self.feed, self.own
        return found

    def __iter__(self) -> Iterator[Any]:
        """The batches of an epoch on the device, after the batch transforms; of a rank its own rows."""
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
        """Batches of the epoch that are done before it goes on."""
        return self.going_on.batches if self.going_on else 0

    def _go_on(self, batches: Iterator[Any], restore: Callable[[], None]) -> Iterator[Any]:
        """The batches; `restore` is called between reading the first one, before which loaders draw, and varying it."""
        transforms, self.after_batch.fs = self.after_batch.fs, L()
        try:
            first = next(batches)
        finally:
            self.after_batch.fs = transforms
        restore()
        yield self.after_batch(first)
        yield from batches

    def _fed(self) -> Iterator[Any]:
        """The batches that `feed` gives."""
        assert self.feed is not None
        self.randomize()
        self.before_iter()
        order = self.get_idxs()
        # As torch's own DataLoader draws one: with the same seed images are then augmented alike.
        torch.empty((), dtype=torch.int64).random_()
        for batch in self.feed.batches(split_rows(order, self.bs, self.own, self.drop_last), self.own):
            yield self.after_batch(batch)
        self.after_iter()

    @property
    def _table(self) -> pd.DataFrame | None:
        """The rows of a manifest's split; None where items are something else, or transformed one by one."""
        items = getattr(self.dataset, "items", None)
        rows = items.table if isinstance(items, ImageItems) else items
        changed = [t for t in (*self.after_item.fs, *self.before_batch.fs) if type(t) not in KNOWN_TRANSFORMS]
        fits = isinstance(rows, pd.DataFrame) and "target" in rows and self.bs is not None and not changed
        return rows if fits else None

    def shuffle_fn(self, idxs: list[int]) -> list[int]:
        """The images of an epoch, by the loader's own generator."""
        if self.sampling_weights is None:
            return list(super().shuffle_fn(idxs))
        return draw_balanced(self.sampling_weights, self.rng)

    def get_idxs(self) -> Any:
        """fastai's, which are kept, from the batch on where the epoch goes on."""
        self.rows = super().get_idxs()
        return self.rows[self.n_done * self.bs :] if self.going_on else self.rows

    def create_batches(self, samps: Iterable[int]) -> Iterator[tuple[Any, ...]]:
        """Batches of (N, 1, side, side) uint8 images and their targets."""
        if (rows := self._table) is None:
            yield from super().create_batches(samps)
            return
        images, target = self.dataset.tls[0].tfms[-1].images, _targets(self.dataset, rows)
        paths = rows["path"].to_numpy(dtype=object)
        for whole in chunked(samps, self.bs, self.drop_last):
            chunk = whole if self.own is None else self.own.take(whole)
            batch = TensorImageBW(torch.from_numpy(_read_batch(images, paths[chunk])).unsqueeze(1))
            yield (batch,) if target is None else (batch, target[chunk])

    def show_batch(self, b: Any = None, max_n: int = 9, ctxs: Any = None, show: bool = True, **options: Any) -> Any:
        """fastai's, with space between the images for titles of several lines."""
        register_drawing()
        shown = super().show_batch(b, max_n, ctxs, show, **options)
        _leave_space(ctxs is None and show)
        return shown

    def show_results(
        self, b: Any, out: Any, max_n: int = 9, ctxs: Any = None, show: bool = True, **options: Any
    ) -> Any:
        """The same."""
        register_drawing()
        shown = super().show_results(b, out, max_n, ctxs, show, **options)
        _leave_space(ctxs is None and show)
        return shown


def _leave_space(drawn: bool) -> None:
    # Not by rc_context: where a notebook's first figure is made in it, later ones are not shown.
    if drawn:
        from matplotlib import pyplot as plt

        plt.gcf().set_layout_engine("constrained")


def _read_batch(images: DecodedImages, sources: Any) -> NDArray[np.uint8]:
    """(N, side, side) images of files or, in a placeholder manifest, of arrays."""
    if isinstance(sources[0], np.ndarray):
        return np.stack([fit_square(source, images.side) for source in sources])
    return images.batch(sources)


def _targets(dataset: Any, rows: pd.DataFrame) -> Any:
    """The targets of all rows, equal to those of the dataset's own transform."""
    if len(dataset.tls) < 2:
        return None
    values, vocab = rows["target"].tolist(), list(dataset.tls[1].vocab)
    if isinstance(values[0], str):
        indices = {label: index for index, label in enumerate(vocab)}
        return TensorCategory(torch.tensor([indices[label] for label in values]))
    return TensorMultiCategory(torch.from_numpy(np.stack(values)).float())


class RadiographDataLoaders(DataLoaders):
    """fastai's DataLoaders of a manifest's splits: `train`, `valid` and, where there is one, the test split.

    Attributes:
        manifest: the data set.
        images: its decoded images.
        origin: "xrayfast" where `dataloaders` made them; else they are the user's "own", or of their "own transforms"
            where images are not read and normalised as ours are, so that no run can repeat it.
        placement: how images get to the device.
    """

    def __init__(
        self,
        *loaders: TfmdDL,
        manifest: Manifest,
        images: DecodedImages,
        origin: DataLoadersOrigin = "xrayfast",
        path: Path | str = ".",
        device: torch.device | None = None,
        placement: Placement | None = None,
    ) -> None:
        super().__init__(*loaders, path=path, device=device)
        self.placement = placement or Placement("off", DEVICE_SHARE, torch.device(device or "cpu"))
        self.manifest, self.images = manifest, images
        self.origin: DataLoadersOrigin = origin

    def test_dl(self, test_items: Any, **options: Any) -> Any:
        """fastai's, of a table or of files, arrays and Pillow images.

        Raises:
            DataError: there is none, or something else.
        """
        if not hasattr(test_items, "iloc"):
            test_items = [test_items] if isinstance(test_items, IMAGE_TYPES) else list(test_items)
            if other := [item for item in test_items if not isinstance(item, (*IMAGE_TYPES, pd.Series))]:
                raise DataError(f"found {show(other[0])}; expected files, arrays or Pillow images to predict on.")
        if not len(test_items):
            raise DataError("No images to predict on: expected files, arrays or Pillow images.")
        return super().test_dl(test_items, **options)

    @property
    def reads_files(self) -> bool:
        """Whether images are files that are read as ours are."""
        return self.origin != "own transforms" and bool(self.manifest.table["path"].notna().all())

    @property
    def notes(self) -> list[str]:
        """What is said of how images get to the device."""
        return [self.placement.note] if self.placement.note else []

    @property
    def size(self) -> int:
        """Side of the square images in pixels."""
        return self.images.side

    @property
    def augment(self) -> str:
        """How the training split is augmented, as in the settings."""
        if self.origin == "own transforms":
            return f"{OWN}DataLoaders"
        return next((t.setting for t in self.train.after_batch.fs if isinstance(t, AUGMENTING)), "off")

    def training_views(self, rows: Sequence[int]) -> NDArray[np.uint8] | None:
        """Images of the training split as the network gets them, augmented, and normalised back: (n, side, side).

        Args:
            rows: which, of the training split.

        Returns:
            None where the DataLoaders are the user's own.
        """
        if self.origin != "xrayfast":
            return None
        paths = self.manifest.subset("train").table["path"].iloc[list(rows)].tolist()
        images = TensorImageBW(torch.from_numpy(self.images.batch(paths)).unsqueeze(1))
        seen = denormalize(self.train.after_batch(images).as_subclass(Tensor).float())[:, 0]
        return (seen * 255).round().to(torch.uint8).cpu().numpy()

    @property
    def balanced_sampling(self) -> bool:
        """Whether training images are drawn by the frequency of their labels, as in the settings."""
        return getattr(self.train, "sampling_weights", None) is not None

    def new_empty(self) -> DataLoaders:
        """Fastai's own DataLoaders without data, which is what `Learner.export` writes."""
        return DataLoaders(*(dl.new(dl.dataset.new_empty()) for dl in self.loaders), path=self.path, device=self.device)


@check_arguments(field_types)
def RadiographBlock(
    size: int = 224, augment: Annotated[Augment, "code"] = "default", images: DecodedImages | None = None
) -> TransformBlock:
    """A fastai block of radiographs: files in, normalised (N, 3, size, size) float32 batches out.

    Args:
        size: side of the square in pixels.
        augment: how the training split is augmented, see `dataloaders`.
        images: decoded images of that size; by default each file is read every time.

    Raises:
        ConfigError: code to augment with that fails.
    """
    augmentation = make_augmentation(augment)
    if code := [t for t in augmentation if isinstance(t, OwnAugmentation)]:
        with isolated_rng("probe"):
            low, high = code[0].encodes(TensorImageBW(torch.rand(2, 1, size, size))).aminmax()
        if not (low >= -1e-3 and high <= 1 + 1e-3):
            warn(
                f"augment {name_of(code[0].functions)} gives values from {float(low):.3g} to {float(high):.3g} for "
                "images in [0, 1]; expected [0, 1], as of validation images. clamp(0, 1) keeps to it."
            )
    return TransformBlock(
        type_tfms=OpenRadiograph(images or UncachedImages(size)),
        batch_tfms=[IntToFloatTensor(), Shrink(), *augmentation, Normalization()],
    )


def datablock(labels: tuple[str, ...], task: Task, images: DecodedImages, augment: Augment = "default") -> DataBlock:
    """The DataBlock for the table that `target_table` returns."""
    target = (
        CategoryBlock(vocab=list(labels), sort=False)
        if task == "single"
        else TransformBlock(type_tfms=LabelTarget(vocab=list(labels)))
    )
    block = RadiographBlock(images.side, augment, images)
    return DataBlock(blocks=(block, target), dl_type=RadiographDL, get_x=_path, get_y=_target, splitter=_splits)


class ImageItems:
    """The rows of a manifest's table as a dataset's items. They iterate over the files, as fastai's
    `ImageClassifierCleaner` expects of items.

    Attributes:
        table: from `target_table`.
    """

    def __init__(self, table: pd.DataFrame) -> None:
        self.table = table

    def __len__(self) -> int:
        return len(self.table)

    def __iter__(self) -> Iterator[Any]:
        return (Path(path) if isinstance(path, str) else path for path in self.table["path"])

    @property
    def iloc(self) -> ImageItems:
        """By which fastai tells tables, and indexes them."""
        return self

    def __getitem__(self, rows: Any) -> pd.Series | ImageItems:
        found = self.table.iloc[rows]
        return found if isinstance(found, pd.Series) else ImageItems(found)


def target_table(data: Manifest) -> pd.DataFrame:
    """The manifest's table with a `target` column: the label (single) or the (L,) float32 vector (multi)."""
    if data.task == "single":
        targets: list[Any] = [data.labels[i] for i in data.targets.argmax(axis=1)]
    else:
        targets = list(data.targets)
    return data.table.assign(target=pd.Series(targets, index=data.table.index, dtype=object))


@check_arguments(field_types)
def dataloaders(
    data: Manifest,
    *,
    size: int = 224,
    batch_size: int = 32,
    workers: int | None = None,
    data_on_device: DataOnDevice = "auto",
    device_share: float = DEVICE_SHARE,
    device: Device = "auto",
    seed: int = 0,
    augment: Annotated[Augment, "code"] = "default",
    balanced_sampling: bool = False,
    images: DecodedImages | None = None,
    progress: bool | None = None,
) -> RadiographDataLoaders:
    """Fastai DataLoaders: `dls.train`, `dls.valid` and, where there is a test split, `dls[2]`.

    In a multi-label target NaN is a masked cell; the losses of `xrayfast.learner` leave such cells out, and so must any
    other.

    Args:
        data: the images and their split.
        size: side of the square in pixels.
        batch_size: images per batch; the last training batch is dropped if it has a single image, on which batch norm
            can't train.
        workers: processes that read images; by default none on a CPU, which the network keeps busy anyway, and up to
            eight with an accelerator.
        data_on_device: whether all images lie in the memory of the device; "auto" decides as `place_images` does.
        device_share: of its free memory that data takes with "auto", at most.
        device: where batches go.
        seed: of the order of training images.
        augment: "mild", "default" or "strong", see `fit --augment`; False or "off" for not at all; or code of your own,
            a list of what varies a batch (N, 1, H, W) of floats in [0, 1]: functions, modules, fastai Transforms.
        balanced_sampling: whether images of rare classes or labels are drawn more often, see `sampling_weights`.
        images: decoded images of that size; by default from the cache of the data set's settings, which decodes now
            what it lacks.
        progress: whether to display that progress; by default in a notebook and in a terminal.

    Raises:
        ConfigError: no such device here, code to augment with that fails, or images that do not fit on the device.
        DataError: images that can't be read, the first of them named, or a manifest whose table was changed.
        WriteError: no disk space for decoded images.
    """
    data.require_consistent()
    target = torch_device(device)
    if images is None:
        with show_progress(progress) as reporter:
            data, images = decode_manifest(data, size, partial(reporter.preparing, "decoding"))
    sizes = data.table["split"].value_counts()
    n_train, n_valid = int(sizes.get("train", 0)), int(sizes.get("valid", 0))
    placement = Placement("off", device_share, target)
    if contains_files(data.table["path"]):
        placement = place_images(data_on_device, device_share, target, images, n_train + n_valid, workers)
    with isolated_rng(seed, "loader"):
        dls = datablock(data.labels, data.task, images, augment).dataloaders(
            ImageItems(target_table(data)),
            bs=batch_size,
            val_bs=2 * batch_size,
            num_workers=_workers(workers, target),
            device=target,
            pin_memory=target.type == "cuda",
            drop_last=n_train % batch_size == 1 and n_train > 1,
            wif=_init_worker,
        )
    if balanced_sampling:
        dls.train.sampling_weights = sampling_weights(data.subset("train").truth)
    for index, dl in enumerate(dls.loaders) if placement.feeds else ():
        rows = dl.dataset.items.table
        resident = placement.resident and index < SPLIT_INDEX["test"]  # the test split is predicted once
        dl.feed = DeviceFeed(images, rows["path"].tolist(), _targets(dl.dataset, rows), target, resident)
    return RadiographDataLoaders(
        *dls.loaders, manifest=data, images=images, path=dls.path, device=target, placement=placement
    )


def as_read_error(error: ReadError) -> ReadError:
    """The error as the image reader raised it: torch puts a worker's traceback before the message."""
    return ReadError(str(error).rsplit("xrayfast.errors.ReadError: ", 1)[-1].strip())


def _workers(workers: int | None, device: torch.device) -> int:
    if workers is not None:
        return workers
    return 0 if device.type == "cpu" else min(8, cpu_count())


def _init_worker() -> None:
    """Only SIGTERM of the main process ends a worker: it needs the batch that others stop it after."""
    leave_signals_to_parent(tuple(number for number in STOP_SIGNALS if number != signal.SIGTERM))
    end_by_parent_alone()


def _path(row: pd.Series | str | Path | np.ndarray | Image.Image) -> Any:
    """The path in a manifest's row, or an item of `test_dl` or `predict`, which fastai tells by the annotation."""
    return row["path"] if isinstance(row, pd.Series) else row


def _target(row: pd.Series) -> Any:
    return row["target"]


def _splits(items: ImageItems) -> list[NDArray[np.int64]]:
    """Row numbers of train, valid and, if any, test."""
    splits = [np.flatnonzero(items.table["split"].to_numpy() == name) for name in SPLIT_INDEX]
    return splits if len(splits[-1]) else splits[:-1]


def share_rows(dls: DataLoaders, own: OwnRows | None) -> None:
    """Let the DataLoaders of the training and the validation split read a rank's own rows of each batch; None: all."""
    for dl in dls.loaders[:2]:
        dl.own = own
        for transform in dl.after_batch.fs:
            if isinstance(transform, AUGMENTING):
                transform.own = own


def adopt_dataloaders(dls: DataLoaders) -> RadiographDataLoaders:
    """DataLoaders of the user's own as ours: the same loaders, with a manifest of what they know.

    Raises:
        DataError: they have no training batch, no validation split, no labels or no square images.
    """
    if isinstance(dls, RadiographDataLoaders):
        return dls
    manifest = describe_dataloaders(dls)
    readers = [dl.dataset.tls[0].tfms.fs[-1] for dl in dls.loaders]
    known = all(isinstance(reader, OpenRadiograph) for reader in readers) and not foreign_transforms(dls)
    images = readers[0].images if known else UncachedImages(image_shape(dls)[1])
    return RadiographDataLoaders(
        *dls.loaders,
        manifest=manifest,
        images=images,
        origin="own" if known else "own transforms",
        path=dls.path,
        device=torch.device(dls.device or "cpu"),
    )


def replace_augmentation(dls: RadiographDataLoaders, augment: Augment) -> RadiographDataLoaders:
    """The same data loaders with another augmentation of the training split.

    Raises:
        ConfigError: images are not normalised as ours are, so that it is not known where to augment.
    """
    if dls.origin == "own transforms":
        raise ConfigError(f"augment has no effect: {foreign_transforms(dls)}. Augment in the batch_tfms of dls.")
    augmentation = make_augmentation(augment)
    loaders = []
    for dl in dls.loaders:
        kept = [t for t in dl.after_batch.fs if not isinstance(t, AUGMENTING)]
        with isolated_rng("loader"):  # the order of images is that of `dls`
            loaders.append(dl.new(after_batch=[*kept, *augmentation]))
        loaders[-1].rng.setstate(dl.rng.getstate())
    found = RadiographDataLoaders(
        *loaders, manifest=dls.manifest, images=dls.images, path=dls.path, placement=dls.placement
    )
    found.origin, found.device = dls.origin, dls.device
    return found
