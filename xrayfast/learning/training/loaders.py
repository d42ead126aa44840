"""From a manifest to fastai's DataBlock and DataLoaders."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from textwrap import fill
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from xrayfast.config import (
    AUGMENTATIONS,
    Augmentation,
    AugmentationName,
    DataLoadersOrigin,
    DataOnDevice,
    Device,
    Task,
    field_types,
)
from xrayfast.cpus import cpu_count
from xrayfast.data.cache.image_cache import DecodedImages, UncachedImages
from xrayfast.data.decoding import decode_manifest
from xrayfast.data.images.pillow import gray_pixels
from xrayfast.data.images.reader import fit_square
from xrayfast.data.manifest import Manifest
from xrayfast.data.splits.stratify import SPLITS
from xrayfast.errors import ConfigError, DataError, ReadError
from xrayfast.errors.arguments import check_arguments, show
from xrayfast.errors.escapes import warn
from xrayfast.errors.signals import STOP_SIGNALS, end_by_parent_alone, leave_signals_to_parent
from xrayfast.learning.augment import DEFAULT, denormalize, draws_of_view, normalize, random_draws, shrink
from xrayfast.learning.augment import augment as vary
from xrayfast.learning.device import torch_device
from xrayfast.learning.device_data import DEVICE_SHARE, DeviceFeed, Placement, contains_files, place_images
from xrayfast.learning.distributed.rows import OwnRows, split_rows
from xrayfast.learning.fastai_api import (
    CategoryBlock,
    DataBlock,
    DataLoaders,
    EncodedMultiCategorize,
    IntToFloatTensor,
    L,
    MultiCategory,
    PILImageBW,
    Pipeline,
    TensorCategory,
    TensorImage,
    TensorImageBW,
    TensorMultiCategory,
    TfmdDL,
    ToTensor,
    Transform,
    TransformBlock,
    chunked,
    register_drawing,
    show_title,
)
from xrayfast.learning.own_dataloaders import describe_dataloaders, image_shape
from xrayfast.learning.randomness import isolated_rng
from xrayfast.learning.training.optional.progressive import Shrink
from xrayfast.learning.training.optional.sampling import draw_balanced, sampling_weights
from xrayfast.own_code import OWN, name_of, separate_code
from xrayfast.progress import show_progress

Augment = AugmentationName | bool | Callable[..., Any] | Sequence[Callable[..., Any]]

SPLIT_INDEX = {"train": 0, "valid": 1, "test": 2}
"""The index of each split in the DataLoaders: `dls[2]` is the test split, where there is one."""


_IMAGES = (str, Path, np.ndarray, Image.Image)
"""What fastai's test_dl and predict take."""


class OpenRadiograph(Transform):
    """A file, an array or a Pillow image to a square 8-bit gray image, padded with black."""

    input_types = _IMAGES

    def __init__(self, images: DecodedImages) -> None:
        super().__init__()
        self.images = images

    def encodes(self, source: str | Path | np.ndarray | Image.Image) -> PILImageBW:
        """The cached image, the file, or what is in memory as if it had been read from a PNG.

        Raises:
            ReadError: the file, or what is in memory, is no image.
        """
        if isinstance(source, (str, Path)):
            return PILImageBW(Image.fromarray(self.images.image(str(source))))
        try:
            if isinstance(source, np.ndarray):
                image = Image.fromarray(source.astype(np.float32) if source.dtype.kind == "f" else source)
            else:
                image = source
            if 0 in image.size:
                raise ValueError("no pixels")
            pixels = gray_pixels(image)
        except (TypeError, ValueError) as error:
            found = f"{source.dtype} of shape {source.shape}" if isinstance(source, np.ndarray) else repr(source)
            raise ReadError(
                f"image in memory: found {found} ({error}); expected (H, W) of bool, uint8, uint16 or finite floats, "
                "or (H, W, 3) of uint8. Convert it with astype."
            ) from error
        return PILImageBW(Image.fromarray(fit_square(pixels, self.images.side)))


class LabelNames(MultiCategory):
    """The labels of an image as fastai shows them above it, wrapped to its width.

    Attributes:
        masked: those whose cells are masked.
    """

    masked: tuple[str, ...] = ()

    def show(self, ctx: Any = None, sep: str = "; ", color: str = "black", **options: Any) -> Any:
        """Add them to the title of the axes, or to the row of a table."""
        names = [*map(str, self), *(f"{name} masked" for name in self.masked)]
        return show_title(fill(sep.join(names) or "no label", 28), ctx=ctx, color=color, **options)


class LabelTarget(EncodedMultiCategorize):
    """(L,) values of a multi-label target; decoded to the labels that are present."""

    def decodes(self, target: Any) -> LabelNames:
        """1 is present, NaN masked."""
        names = LabelNames(self.vocab[i] for i, value in enumerate(target) if value == 1)
        names.masked = tuple(self.vocab[i] for i, value in enumerate(target) if value != value)
        return names


class ChestAugmentation(Transform):
    """The batch transform that augments the training split; see `xrayfast.learning.augment.augment`.

    Attributes:
        setting: that it is made from.
        ranges: how far images are varied.
        view: gives seed and number of the view to make of each image; None for a random one, as in training.
        own: the rows of the batch that the images are, of which all ranks draw the numbers: an image is varied alike
            whatever the world size is.
    """

    order = 30
    split_idx = 0  # training only
    view: Callable[[], tuple[int, int]] | None = None
    own: OwnRows | None = None

    def __init__(self, setting: str = "default", ranges: Augmentation = DEFAULT) -> None:
        super().__init__()
        self.setting, self.ranges = setting, ranges

    def encodes(self, images: TensorImageBW) -> TensorImageBW:
        """(N, 1, H, W) in [0, 1] to the same."""
        return TensorImageBW(self.vary(images.as_subclass(Tensor)))

    def vary(self, images: Tensor) -> Tensor:
        """The same of a plain tensor."""
        draws = None if self.view is None else draws_of_view(images, *self.view())
        if draws is None and self.own is not None:
            draws = self.own.take(random_draws(self.own.total).T).T
        return vary(images, draws, self.ranges)


class OwnAugmentation(Transform):
    """The batch transform that augments the training split by the user's own code, one function after the other.

    A function gets (N, 1, H, W) floats in [0, 1] as a plain tensor, a fastai Transform as a TensorImageBW.

    Attributes:
        setting: that it is made from.
        own: the rows of a rank, which draws for them alone.
    """

    order = 30
    split_idx = 0  # training only
    own: OwnRows | None = None

    def __init__(self, setting: str, functions: Sequence[Callable[..., Any]]) -> None:
        super().__init__()
        self.setting, self.functions = setting, tuple(functions)

    def encodes(self, images: TensorImageBW) -> TensorImageBW:
        """(N, 1, H, W) in [0, 1] to the same.

        Raises:
            ConfigError: a function fails, or gives something of another shape or type.
        """
        with nullcontext() if self.own is None else self.own.drawing():
            return self._vary(images)

    def _vary(self, images: TensorImageBW) -> TensorImageBW:
        for function in self.functions:
            if isinstance(function, nn.Module):
                function.to(images.device)
            of_fastai, before = isinstance(function, Transform), images
            try:
                images = function(images, split_idx=0) if of_fastai else function(images.as_subclass(Tensor))
            except Exception as error:  # whatever the user's code raises
                raise ConfigError(
                    f"augment {name_of(function)} fails on a batch of shape {tuple(before.shape)}: {error}. It gets "
                    "one gray channel of floats in [0, 1]."
                ) from error
            found = getattr(images, "shape", None), getattr(images, "dtype", type(images).__name__)
            if found != (before.shape, before.dtype):
                raise ConfigError(
                    f"augment {name_of(function)} gives {found[1]} of shape {found[0]} for a batch of "
                    f"{before.dtype} of shape {tuple(before.shape)}; expected the same."
                )
            images = TensorImageBW(images)
        return images


class Normalization(Transform):
    """The batch transform from one channel in [0, 1] to a network's three: (N, 1, H, W) to (N, 3, H, W)."""

    order = 99

    def encodes(self, images: TensorImageBW) -> TensorImage:
        """Normalised by ImageNet's statistics."""
        return TensorImage(normalize(images.as_subclass(Tensor)))

    def decodes(self, images: TensorImage) -> TensorImage:
        """Back to [0, 1], for display."""
        return TensorImage(denormalize(images.as_subclass(Tensor)))


BATCH_TRANSFORMS: tuple[type[Transform], ...] = (IntToFloatTensor, Shrink, Normalization)
"""The batch transforms that each split's images pass."""

KNOWN_TRANSFORMS = (ToTensor, ChestAugmentation, OwnAugmentation, *BATCH_TRANSFORMS)
"""All transforms of `dataloaders`; others are the user's own."""


_OF_TENSORS: dict[type[Transform], Callable[[Any, Tensor], Tensor]] = {
    IntToFloatTensor: lambda transform, images: images.float().div_(transform.div),
    Shrink: lambda transform, images: shrink(images, transform.side),
    ChestAugmentation: ChestAugmentation.vary,
    Normalization: lambda transform, images: normalize(images),
}
"""What our batch transforms compute, of plain tensors."""


class _OpenPipeline(Pipeline):
    """fastai's, to which functions can be added too."""

    def __call__(self, batch: Any) -> Any:
        """Fastai's. For each transform that looks for a method by the types in the batch, which takes as long as
        augmentation on a GPU; where all are ours, images are plain tensors from the first to the last.
        """
        functions = [_OF_TENSORS.get(type(transform)) for transform in self.fs]
        ours = bool(functions) and None not in functions and type(self.fs[-1]) is Normalization
        if not (ours and type(batch) is tuple and type(batch[0]) is TensorImageBW):
            return super().__call__(batch)
        images = batch[0].as_subclass(Tensor)
        for transform, function in zip(self.fs, functions, strict=True):
            if function is not None and transform.split_idx in (None, self.split_idx):
                images = function(transform, images)
        return (images.as_subclass(TensorImage), *batch[1:])

    def add(self, ts: Any, items: Any = None, train_setup: bool = False) -> None:
        """Add transforms, or functions as such."""
        super().add([t if isinstance(t, Transform) else Transform(t) for t in L(ts)], items, train_setup)


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
            setattr(self, event, _OpenPipeline(getattr(self, event)))

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
            test_items = [test_items] if isinstance(test_items, _IMAGES) else list(test_items)
            if other := [item for item in test_items if not isinstance(item, (*_IMAGES, pd.Series))]:
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
        return next((t.setting for t in self.train.after_batch.fs if isinstance(t, _AUGMENTATIONS)), "off")

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


def make_augmentation(augment: Augment) -> list[Transform]:
    """The batch transform, if any."""
    settings, code = separate_code({"augment": augment})
    if code:
        functions = code["augment"]
        return [
            OwnAugmentation(settings["augment"], functions if isinstance(functions, (list, tuple)) else [functions])
        ]
    name = ("default" if augment else "off") if isinstance(augment, bool) else str(augment)
    return [ChestAugmentation(name, ranges)] if (ranges := AUGMENTATIONS.get(name)) else []


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
            if isinstance(transform, _AUGMENTATIONS):
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
        kept = [t for t in dl.after_batch.fs if not isinstance(t, _AUGMENTATIONS)]
        with isolated_rng("loader"):  # the order of images is that of `dls`
            loaders.append(dl.new(after_batch=[*kept, *augmentation]))
        loaders[-1].rng.setstate(dl.rng.getstate())
    found = RadiographDataLoaders(
        *loaders, manifest=dls.manifest, images=dls.images, path=dls.path, placement=dls.placement
    )
    found.origin, found.device = dls.origin, dls.device
    return found


_AUGMENTATIONS = (ChestAugmentation, OwnAugmentation)


def transform_names(dls: DataLoaders) -> list[str]:
    """The names of the transforms of validation images, in their order."""
    dl = dls.loaders[1]
    transforms = [*dl.dataset.tls[0].tfms.fs, *dl.after_item.fs, *dl.before_batch.fs, *dl.after_batch.fs]
    return [_name_of_transform(t) for t in transforms if getattr(t, "split_idx", None) != 0]


def _name_of_transform(transform: Any) -> str:
    """Its class, or the function that a plain Transform calls."""
    kind = type(transform)
    return str(transform.name).split("<locals>.")[-1] if kind is Transform else kind.__name__


def foreign_transforms(dls: DataLoaders) -> str:
    """What transforms do to images of all splits that those of `dataloaders` do not, or lack, of the first split where
    there is such; "" for none. Those that only augment the training split are none.
    """
    for split, dl in zip(SPLITS, dls.loaders, strict=False):
        for event in ("after_item", "before_batch", "after_batch"):
            transforms = list(getattr(dl, event).fs)
            added = [t for t in transforms if type(t) not in KNOWN_TRANSFORMS and getattr(t, "split_idx", None) != 0]
            changed = [f"has {_name_of_transform(t)}" for t in added]
            if event == "after_batch":
                there = {type(t) for t in transforms}
                changed += [f"lacks {kind.__name__}" for kind in BATCH_TRANSFORMS if kind not in there]
            if changed:
                return f"dls.{split}.{event} {' and '.join(changed)}"
    return ""
