"""fastai's DataBlock and DataLoaders, made from a manifest."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Sequence
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
from xrayfast.data.manifest import Manifest
from xrayfast.data.splits.words import SPLITS
from xrayfast.errors import ConfigError, DataError, ReadError, shorten
from xrayfast.errors.arguments import check_arguments, show
from xrayfast.errors.escapes import warn
from xrayfast.errors.signals import STOP_SIGNALS, end_by_parent_alone, leave_signals_to_parent
from xrayfast.learning.dataloaders.augment import denormalize
from xrayfast.learning.dataloaders.device_data import DEVICE_SHARE, DeviceFeed, Placement, contains_files, place_images
from xrayfast.learning.dataloaders.own_dataloaders import describe_dataloaders, image_shape
from xrayfast.learning.dataloaders.radiograph_loader import ImageItems, RadiographDL, targets_of
from xrayfast.learning.dataloaders.sampling import sampling_weights
from xrayfast.learning.dataloaders.transforms import (
    AUGMENTING,
    IMAGE_TYPES,
    Augment,
    LabelTarget,
    Normalization,
    OpenRadiograph,
    OwnAugmentation,
    Shrink,
    foreign_transforms,
    make_augmentation,
    opens_radiographs,
)
from xrayfast.learning.device import torch_device
from xrayfast.learning.distributed.rows import OwnRows
from xrayfast.learning.fastai_api import (
    CategoryBlock,
    DataBlock,
    DataLoaders,
    IntToFloatTensor,
    TensorImageBW,
    TfmdDL,
    TransformBlock,
)
from xrayfast.learning.randomness import isolated_rng
from xrayfast.option_effects import check_given
from xrayfast.own_code import OWN, name_of
from xrayfast.progress import show_progress


class RadiographDataLoaders(DataLoaders):
    """fastai DataLoaders of a manifest's splits: `train`, `valid` and, if there is one, the test split.

    Attributes:
        origin: "xrayfast" if `dataloaders` made them; "own" for the user's own; "own transforms" for the user's own if
            images are not read and normalized as xrayfast does, so that a saved run can't do the same.
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

    @property
    def device(self) -> torch.device:
        """The device of the batches."""
        return self._device

    @device.setter
    def device(self, device: torch.device | str) -> None:
        # fastai keeps a string as it is.
        self._device = torch.device(device)
        for dl in self.loaders:
            dl.to(self._device)
            if getattr(dl, "feed", None) is not None and dl.feed.device != self._device:
                dl.feed = None

    def test_dl(self, test_items: Any, **options: Any) -> Any:
        """Make fastai's test DataLoader, of files, arrays and Pillow images, of a manifest or of a manifest's table.

        With `with_labels=True` it has the labels of a manifest, such as those of external data.

        Raises:
            DataError: there are no items, one is something else, or labels are asked for that are not there or are not
                those of these DataLoaders.
        """
        if self.origin == "xrayfast":
            test_items = self._table_of(test_items, bool(options.get("with_labels")))
        if not hasattr(test_items, "iloc"):
            shape = getattr(test_items, "shape", (0, 0))  # an array of several images has one more dimension
            is_one = isinstance(test_items, IMAGE_TYPES) and (len(shape) == 2 or shape[-1] in (1, 3, 4))
            test_items = [test_items] if is_one or not isinstance(test_items, Iterable) else list(test_items)
            if other := [item for item in test_items if not isinstance(item, (*IMAGE_TYPES, pd.Series))]:
                raise DataError(f"found {show(other[0])}; expected files, arrays or Pillow images to predict on.")
        if not len(test_items):
            raise DataError("No images to predict on: expected files, arrays or Pillow images.")
        return super().test_dl(test_items, **options)

    def _table_of(self, items: Any, with_labels: bool) -> Any:
        """Return a manifest's table, and other items as they are."""
        if isinstance(items, Manifest):
            if with_labels and (items.labels, items.task) != (self.manifest.labels, self.manifest.task):
                raise DataError(
                    f"with_labels: the manifest has the labels {', '.join(items.labels)} ({items.task}-label), and "
                    f"these DataLoaders have {', '.join(self.manifest.labels)} ({self.manifest.task}-label)."
                )
            return target_table(items)
        if isinstance(items, ImageItems):
            return items
        columns = list(items.columns) if isinstance(items, pd.DataFrame) else ["path"]
        if "path" not in columns:
            raise DataError(f"The table has the columns {shorten(columns)}; expected 'path', as in Manifest.table.")
        if with_labels and "target" not in columns:
            raise DataError(
                "with_labels: found items without labels; expected a Manifest, as in "
                "test_dl(xrayfast.open_data('other/'), with_labels=True)."
            )
        return items

    @property
    def reads_files(self) -> bool:
        """Whether images are files that are read and normalized as xrayfast does."""
        return self.origin != "own transforms" and bool(self.manifest.table["path"].notna().all())

    @property
    def notes(self) -> list[str]:
        """Sentences for the user on how images get to the device."""
        return [self.placement.note] if self.placement.note else []

    @property
    def size(self) -> int:
        """Side of the square images in pixels."""
        return self.images.side

    @property
    def augment(self) -> str:
        """The setting `augment`: how the training split is augmented."""
        if self.origin == "own transforms":
            return f"{OWN}DataLoaders"
        return next((t.setting for t in self.train.after_batch.fs if isinstance(t, AUGMENTING)), "off")

    def training_views(self, rows: Sequence[int]) -> NDArray[np.uint8] | None:
        """Return augmented training images as the network gets them, denormalized: (n, side, side).

        Returns:
            None if the DataLoaders are the user's own.
        """
        if self.origin != "xrayfast":
            return None
        paths = self.manifest.subset("train").table["path"].iloc[list(rows)].tolist()
        images = TensorImageBW(torch.from_numpy(self.images.batch(paths)).unsqueeze(1))
        self.train.after_batch.split_idx = 0  # set by iterating, which a run resumed after its last epoch did not do
        seen = denormalize(self.train.after_batch(images).as_subclass(Tensor).float())[:, 0]
        return (seen * 255).round().to(torch.uint8).cpu().numpy()

    @property
    def balanced_sampling(self) -> bool:
        """The setting `balanced_sampling`: whether images of rare labels are drawn more often."""
        return getattr(self.train, "sampling_weights", None) is not None

    def new_empty(self) -> DataLoaders:
        """Return fastai DataLoaders without data, for `Learner.export`."""
        return DataLoaders(*(dl.new(dl.dataset.new_empty()) for dl in self.loaders), path=self.path, device=self.device)


@check_arguments(field_types)
def RadiographBlock(
    size: int = 224, augment: Annotated[Augment, "code"] = "default", images: DecodedImages | None = None
) -> TransformBlock:
    """A fastai block for radiographs: from files to normalized (N, 3, size, size) float32 batches.

    Args:
        size: side of the square in pixels.
        augment: how the training split is augmented, see `dataloaders`.
        images: decoded images of that size; by default each file is read every time.

    Raises:
        ConfigError: your own augmentation code fails, or `images` were decoded at another size.
    """
    if images is not None and images.side != size:
        raise ConfigError(
            f"size is {size}, but these images were decoded at {images.side} pixels. Use size={images.side}, or leave "
            "out images."
        )
    augmentation = make_augmentation(augment)
    if code := [t for t in augmentation if isinstance(t, OwnAugmentation)]:
        with isolated_rng("probe"):
            low, high = code[0].try_on(size).aminmax()
        if not (low >= -1e-3 and high <= 1 + 1e-3):
            warn(
                f"augment {name_of(code[0].functions)} returns values from {float(low):.3g} to {float(high):.3g} for "
                "images in [0, 1]; expected values in [0, 1], like those of validation images. Add clamp(0, 1)."
            )
    return TransformBlock(
        type_tfms=OpenRadiograph(images or UncachedImages(size)),
        batch_tfms=[IntToFloatTensor(), Shrink(), *augmentation, Normalization()],
    )


def datablock(
    labels: tuple[str, ...], task: Task, size: int, images: DecodedImages, augment: Augment = "default"
) -> DataBlock:
    """Make the DataBlock for a table from `target_table`."""
    target = (
        CategoryBlock(vocab=list(labels), sort=False)
        if task == "single"
        else TransformBlock(type_tfms=LabelTarget(vocab=list(labels)))
    )
    block = RadiographBlock(size, augment, images)
    return DataBlock(blocks=(block, target), dl_type=RadiographDL, get_x=_path, get_y=_target, splitter=_splits)


def target_table(data: Manifest) -> pd.DataFrame:
    """Return the manifest's table with a column `target`: the label (single) or an (L,) float32 vector (multi)."""
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
    """Make fastai DataLoaders: `dls.train`, `dls.valid` and, if there is a test split, `dls[2]`.

    In multi-label targets NaN is a masked cell. The losses of `xrayfast.learner` leave masked cells out; a loss of your
    own has to do so too.

    Args:
        data: the images and their splits.
        size: side of the square in pixels.
        batch_size: images per batch; the last training batch is dropped if it has a single image, on which batch norm
            can't train.
        workers: worker processes that read images; by default none on a CPU, which the network keeps busy anyway,
            and up to eight with an accelerator.
        data_on_device: "on" keeps all images in the memory of the device, "off" does not; "auto" does if they fit on a
            CUDA device.
        device_share: largest share of the device's free memory that data takes with "auto".
        device: the device for the batches.
        seed: seed for the order of the training images.
        augment: "mild", "default" or "strong", see `fit --augment`; False or "off" for no augmentation; or your own
            code: a function, module or fastai Transform, or a list of them, for batches (N, 1, H, W) of floats in
            [0, 1].
        balanced_sampling: whether images of rare classes or labels are drawn more often, see `sampling_weights`.
        images: decoded images of that size; by default they are read from the data set's cache, and images that it
            lacks are decoded now.
        progress: whether to show the progress of decoding; by default in a notebook and in a terminal.

    Raises:
        ConfigError: the device is not available, an option has no effect beside others, your own augmentation code
            fails, or `images` were decoded at another size or do not fit on the device.
        DataError: images can't be read (the message names the first), the manifest's table was changed, or there are no
            training images.
        WriteError: there is no disk space for decoded images.
    """
    settings = {"workers": workers, "data_on_device": data_on_device, "device_share": device_share}
    check_given(dataloaders, settings)
    data.require_consistent()
    data.require_images("train")
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
        dls = datablock(data.labels, data.task, size, images, augment).dataloaders(
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
        resident = placement.resident and index < SPLITS.index("test")  # the test split is predicted once
        dl.feed = DeviceFeed(images, rows["path"].tolist(), targets_of(dl.dataset, rows), target, resident)
    return RadiographDataLoaders(
        *dls.loaders, manifest=data, images=images, path=dls.path, device=target, placement=placement
    )


def as_read_error(error: ReadError) -> ReadError:
    """Return the error as the image reader raised it: torch puts a worker's traceback before the message."""
    return ReadError(str(error).rsplit("xrayfast.errors.ReadError: ", 1)[-1].strip())


def _workers(workers: int | None, device: torch.device) -> int:
    if workers is not None:
        return workers
    return 0 if device.type == "cpu" else min(8, cpu_count())


def _init_worker() -> None:
    """Let only SIGTERM from the main process end a worker.

    After another signal the main process still needs the current batch, after which it stops.
    """
    leave_signals_to_parent(tuple(number for number in STOP_SIGNALS if number != signal.SIGTERM))
    end_by_parent_alone()


def _path(row: pd.Series | str | Path | np.ndarray | Image.Image) -> Any:
    """Return the path in a manifest's row, or the item itself, as `test_dl` and `predict` pass it.

    fastai reads the annotation of `row` to find the types that it can pass.
    """
    return row["path"] if isinstance(row, pd.Series) else row


def _target(row: pd.Series) -> Any:
    return row["target"]


def _splits(items: ImageItems) -> list[NDArray[np.int64]]:
    splits = [np.flatnonzero(items.table["split"].to_numpy() == name) for name in SPLITS]
    return splits if len(splits[-1]) else splits[:-1]


def share_rows(dls: DataLoaders, own: OwnRows | None) -> None:
    """Let the training and validation DataLoaders read a rank's own rows of each batch; with None, all rows."""
    for dl in dls.loaders[:2]:
        dl.own = own
        for transform in dl.after_batch.fs:
            if isinstance(transform, AUGMENTING):
                transform.own = own


def adopt_dataloaders(dls: DataLoaders) -> RadiographDataLoaders:
    """Wrap the user's own DataLoaders as RadiographDataLoaders, with a manifest made from them.

    Raises:
        DataError: they have no training batch, no validation split, no labels or no square images.
    """
    if isinstance(dls, RadiographDataLoaders):
        return dls
    manifest = describe_dataloaders(dls)
    items = [dl.dataset.tls[0] for dl in dls.loaders]
    known = all(map(opens_radiographs, items)) and not foreign_transforms(dls)
    images = items[0].tfms.fs[-1].images if known else UncachedImages(image_shape(dls)[1])
    return RadiographDataLoaders(
        *dls.loaders,
        manifest=manifest,
        images=images,
        origin="own" if known else "own transforms",
        path=dls.path,
        device=torch.device(dls.device or "cpu"),
    )


def replace_augmentation(dls: RadiographDataLoaders, augment: Augment) -> RadiographDataLoaders:
    """Return copies of the DataLoaders with another augmentation of the training split.

    Raises:
        ConfigError: images are not read and normalized as xrayfast does, so it isn't known where to augment them.
    """
    if dls.origin == "own transforms":
        raise ConfigError(f"augment has no effect: {foreign_transforms(dls)}. Augment in the batch_tfms of dls.")
    augmentation = make_augmentation(augment)
    loaders = []
    for dl in dls.loaders:
        kept = [t for t in dl.after_batch.fs if not isinstance(t, AUGMENTING)]
        with isolated_rng("loader"):  # the order of the images is copied from `dls` below
            loaders.append(dl.new(after_batch=[*kept, *augmentation]))
        loaders[-1].rng.setstate(dl.rng.getstate())
    found = RadiographDataLoaders(
        *loaders, manifest=dls.manifest, images=dls.images, path=dls.path, placement=dls.placement
    )
    found.origin, found.device = dls.origin, dls.device
    return found
