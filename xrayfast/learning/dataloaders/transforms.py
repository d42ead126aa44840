"""The transforms of images and labels, and how those of the user's own DataLoaders differ from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor, nn

from xrayfast.config import AUGMENTATIONS, Augmentation, AugmentationName
from xrayfast.data.cache.image_cache import DecodedImages
from xrayfast.data.images.pillow import gray_pixels
from xrayfast.data.images.reader import IMAGE_SUFFIXES, fit_square
from xrayfast.data.splits.words import SPLITS
from xrayfast.errors import ConfigError, ReadError
from xrayfast.learning.dataloaders.augment import DEFAULT, denormalize, draws_of_view, normalize, random_draws, shrink
from xrayfast.learning.dataloaders.augment import augment as vary
from xrayfast.learning.distributed.rows import OwnRows
from xrayfast.learning.fastai_api import (
    DataLoaders,
    EncodedMultiCategorize,
    IntToFloatTensor,
    L,
    MultiCategory,
    PILImageBW,
    Pipeline,
    TensorImage,
    TensorImageBW,
    ToTensor,
    Transform,
    show_title,
)
from xrayfast.learning.randomness import isolated_rng
from xrayfast.own_code import name_of, separate_code

Augment = AugmentationName | bool | Callable[..., Any] | Sequence[Callable[..., Any]]


IMAGE_TYPES = (str, Path, np.ndarray, Image.Image)
"""Types of items that fastai's test_dl and predict take."""

TRIED = 4
"""Number of random images that the user's own augmentation is tried on."""


class Shrink(Transform):
    """A batch transform that shrinks images to `side`; None leaves them unchanged."""

    order = 20
    side: int | None = None

    def encodes(self, images: TensorImageBW) -> TensorImageBW:
        """Resize (N, 1, H, W) to (N, 1, side, side)."""
        return TensorImageBW(shrink(images.as_subclass(Tensor), self.side))


class OpenRadiograph(Transform):
    """The transform from a file, an array or a Pillow image to a square 8-bit gray image, padded with black."""

    input_types = IMAGE_TYPES

    def __init__(self, images: DecodedImages) -> None:
        super().__init__()
        self.images = images

    def encodes(self, source: str | Path | np.ndarray | Image.Image) -> PILImageBW:
        """Return the cached image, read the file, or convert an image in memory as if it were read from a PNG.

        Raises:
            ReadError: the file, or the array or object in memory, is not an image.
        """
        if isinstance(source, (str, Path)):
            return PILImageBW(Image.fromarray(self.images.image(str(source))))
        try:
            if isinstance(source, np.ndarray):
                source = source[..., 0] if source.ndim == 3 and source.shape[2] == 1 else source
                image = Image.fromarray(source.astype(np.float32) if source.dtype.kind == "f" else source)
            else:
                image = source
            if 0 in image.size:
                raise ValueError("no pixels")
            pixels = gray_pixels(image)
        except (TypeError, ValueError) as error:
            found = f"{source.dtype} of shape {source.shape}" if isinstance(source, np.ndarray) else repr(source)
            raise ReadError(
                f"image in memory: found {found} ({error}); expected shape (H, W) of bool, uint8, uint16 or finite "
                "floats, or (H, W, 3) of uint8. Convert it with astype."
            ) from error
        return PILImageBW(Image.fromarray(fit_square(pixels, self.images.side)))


class LabelNames(MultiCategory):
    """The labels of an image, which fastai shows above it, wrapped to its width.

    Attributes:
        masked: labels whose cells are masked.
    """

    masked: tuple[str, ...] = ()

    def show(self, ctx: Any = None, sep: str = "; ", color: str = "black", **options: Any) -> Any:
        """Add the labels to the title of the axes, or to the row of a table."""
        names = [*map(str, self), *(f"{name} masked" for name in self.masked)]
        return show_title(fill(sep.join(names) or "no label", 28), ctx=ctx, color=color, **options)


class LabelTarget(EncodedMultiCategorize):
    """The transform for the (L,) values of a multi-label target, which decodes them to the labels that are present."""

    def decodes(self, target: Any) -> LabelNames:
        """Return the labels that are 1, and those that are masked (NaN)."""
        names = LabelNames(self.vocab[i] for i, value in enumerate(target) if value == 1)
        names.masked = tuple(self.vocab[i] for i, value in enumerate(target) if value != value)
        return names


class ChestAugmentation(Transform):
    """The batch transform that augments the training split; see `xrayfast.learning.dataloaders.augment.augment`.

    Attributes:
        setting: the setting `augment` that it is made from.
        view: function that returns the seed and the number of the view to make; None for random views, as in training.
        own: this rank's rows in distributed training. Each rank draws the random numbers of the whole batch, so that
            the augmentation of an image does not depend on the world size.
    """

    order = 30
    split_idx = 0  # training only
    view: Callable[[], tuple[int, int]] | None = None
    own: OwnRows | None = None

    def __init__(self, setting: str = "default", ranges: Augmentation = DEFAULT) -> None:
        super().__init__()
        self.setting, self.ranges = setting, ranges

    def encodes(self, images: TensorImageBW) -> TensorImageBW:
        """Augment (N, 1, H, W) images in [0, 1]."""
        return TensorImageBW(self.vary(images.as_subclass(Tensor)))

    def vary(self, images: Tensor) -> Tensor:
        """Augment (N, 1, H, W) images in [0, 1], as a plain tensor."""
        draws = None if self.view is None else draws_of_view(images, *self.view())
        if draws is None and self.own is not None:
            draws = self.own.take(random_draws(self.own.total).T).T
        return vary(images, draws, self.ranges)


class OwnAugmentation(Transform):
    """The batch transform that augments the training split with the user's own functions, one after the other.

    A function gets (N, 1, H, W) floats in [0, 1] as a plain tensor, a fastai Transform gets them as a TensorImageBW.

    Attributes:
        setting: the setting `augment` that it is made from.
        own: this rank's rows in distributed training; each rank draws its own random numbers for them.
    """

    order = 30
    split_idx = 0  # training only
    own: OwnRows | None = None

    def __init__(self, setting: str, functions: Sequence[Callable[..., Any]]) -> None:
        super().__init__()
        self.setting, self.functions = setting, tuple(functions)

    def encodes(self, images: TensorImageBW) -> TensorImageBW:
        """Augment (N, 1, H, W) images in [0, 1].

        Raises:
            ConfigError: a function fails, or its result has another shape or dtype.
        """
        with nullcontext() if self.own is None else self.own.drawing():
            return self._vary(images)

    def try_on(self, size: int) -> Tensor:
        """Augment some random images, to find errors early; return the result.

        Each image in turn is replaced by another one, with the same random numbers: it has to change where it is.

        Raises:
            ConfigError: as in `encodes`; or the result for an image does not depend on it.
        """
        images, others = torch.rand(2, TRIED, 1, size, size)

        def augmented(given: Tensor) -> Tensor:
            with isolated_rng("probe"):
                return self.encodes(TensorImageBW(given.clone())).as_subclass(Tensor).clone()

        first = augmented(images)
        for number in range(TRIED):
            changed = images.clone()
            changed[number] = others[number]
            if torch.equal(augmented(changed)[number], first[number]):
                raise ConfigError(
                    f"augment {name_of(self.functions)} returns the same for different images in place {number + 1} of "
                    f"a batch of {TRIED}; expected each image augmented, and in its place, since its label stays "
                    "there. Return no constant, and no batch in another order."
                )
        return first

    def _vary(self, images: TensorImageBW) -> TensorImageBW:
        for function in self.functions:
            if isinstance(function, nn.Module):
                function.to(images.device)
            of_fastai, before = isinstance(function, Transform), images
            try:
                images = function(images, split_idx=0) if of_fastai else function(images.as_subclass(Tensor))
            except Exception as error:  # whatever the user's code raises
                raise ConfigError(
                    f"augment {name_of(function)} fails for a batch of shape {tuple(before.shape)}: {error}. Batches "
                    "have one gray channel of floats in [0, 1]."
                ) from error
            found = getattr(images, "shape", None), getattr(images, "dtype", type(images).__name__)
            if found != (before.shape, before.dtype):
                raise ConfigError(
                    f"augment {name_of(function)} returns {found[1]} of shape {found[0]} for a batch of "
                    f"{before.dtype} of shape {tuple(before.shape)}; expected the same shape and dtype."
                )
            images = TensorImageBW(images)
        return images


class Normalization(Transform):
    """The batch transform from (N, 1, H, W) in [0, 1] to the network's input, (N, 3, H, W)."""

    order = 99

    def encodes(self, images: TensorImageBW) -> TensorImage:
        """Repeat the channel three times, and normalize with ImageNet statistics."""
        return TensorImage(normalize(images.as_subclass(Tensor)))

    def decodes(self, images: TensorImage) -> TensorImage:
        """Map images back to [0, 1], for display."""
        return TensorImage(denormalize(images.as_subclass(Tensor)))


BATCH_TRANSFORMS: tuple[type[Transform], ...] = (IntToFloatTensor, Shrink, Normalization)
"""The batch transforms for the images of every split."""


KNOWN_TRANSFORMS = (ToTensor, ChestAugmentation, OwnAugmentation, *BATCH_TRANSFORMS)
"""All transforms that `dataloaders` uses; others are the user's own."""


_OF_TENSORS: dict[type[Transform], Callable[[Any, Tensor], Tensor]] = {
    IntToFloatTensor: lambda transform, images: images.float().div_(transform.div),
    Shrink: lambda transform, images: shrink(images, transform.side),
    ChestAugmentation: ChestAugmentation.vary,
    Normalization: lambda transform, images: normalize(images),
}
"""Functions of plain tensors that compute the same as xrayfast's batch transforms."""


class OpenPipeline(Pipeline):
    """A fastai Pipeline that is faster for xrayfast's own transforms, and to which plain functions can be added."""

    def __call__(self, batch: Any) -> Any:
        """Apply the transforms to a batch.

        For each transform fastai looks for a method by the types in the batch, which takes as long as augmentation on a
        GPU. If all transforms are xrayfast's, images are passed through them as plain tensors instead.
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
        """Add transforms, or plain functions, which become Transforms."""
        super().add([t if isinstance(t, Transform) else Transform(t) for t in L(ts)], items, train_setup)


def make_augmentation(augment: Augment) -> list[Transform]:
    """Return a list with the batch transform that augments, or an empty one."""
    settings, code = separate_code({"augment": augment})
    if code:
        functions = code["augment"]
        return [
            OwnAugmentation(settings["augment"], functions if isinstance(functions, (list, tuple)) else [functions])
        ]
    name = ("default" if augment else "off") if isinstance(augment, bool) else str(augment)
    return [ChestAugmentation(name, ranges)] if (ranges := AUGMENTATIONS.get(name)) else []


AUGMENTING = (ChestAugmentation, OwnAugmentation)


def transform_names(dls: DataLoaders) -> list[str]:
    """Return the names of the transforms of validation images, in order."""
    dl = dls.loaders[1]
    transforms = [*dl.dataset.tls[0].tfms.fs, *dl.after_item.fs, *dl.before_batch.fs, *dl.after_batch.fs]
    return [_name_of_transform(t) for t in transforms if getattr(t, "split_idx", None) != 0]


def _name_of_transform(transform: Any) -> str:
    """Return the class of a transform, or the name of the function that a plain Transform calls."""
    kind = type(transform)
    return str(transform.name).split("<locals>.")[-1] if kind is Transform else kind.__name__


def opens_radiographs(items: Any) -> bool:
    """Whether `OpenRadiograph` is the last transform of the items of DataLoaders."""
    return any(isinstance(transform, OpenRadiograph) for transform in items.tfms.fs[-1:])


def reads_by_itself(items: Any) -> bool:
    """Whether a `get_x` makes arrays or Pillow images out of paths, so that it and not `OpenRadiograph` reads files."""
    item = items._get(0) if len(items) else None  # fastai's access to items of lists and of tables
    cells = [cell for cell in item if isinstance(cell, (str, Path))] if isinstance(item, (pd.Series, tuple)) else []
    if not (isinstance(item, (str, Path)) or any(Path(cell).suffix.lower() in IMAGE_SUFFIXES for cell in cells)):
        return False
    for transform in items.tfms.fs[:-1]:
        item = transform(item)
    return not isinstance(item, (str, Path))


def foreign_transforms(dls: DataLoaders) -> str:
    """Describe how the transforms differ from those of `dataloaders`: added and missing ones of the first split that
    differs; "" if none does. Transforms that only augment the training split don't count.
    """
    for split, dl in zip(SPLITS, dls.loaders, strict=False):
        items = dl.dataset.tls[0]
        if opens_radiographs(items) and reads_by_itself(items):
            return f"dls.{split} has {', '.join(map(_name_of_transform, items.tfms.fs[:-1]))}, which reads files itself"
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
