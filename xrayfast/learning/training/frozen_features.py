"""The frozen-feature cache: outputs of frozen layers, computed once per image and view, to train later layers on."""

from __future__ import annotations

import hashlib
import math
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from xrayfast._version import __version__
from xrayfast.config import ReuseFrozen, TrainConfig
from xrayfast.errors import WriteError, truncate
from xrayfast.files.atomic import replace_atomically
from xrayfast.files.writable import ensure_folder
from xrayfast.learning.dataloaders.augment import normalize
from xrayfast.learning.device import send
from xrayfast.learning.fastai_api import Callback
from xrayfast.learning.model.fusion import fuse_batch_norm, to_channels_last
from xrayfast.learning.model.subnetworks import split_network
from xrayfast.learning.randomness import isolated_rng
from xrayfast.learning.training.callbacks.order import CALLBACK_ORDER
from xrayfast.learning.training.learner import RadiographLearner
from xrayfast.learning.training.mixed_precision import autocast, training_precision
from xrayfast.learning.training.phases import Phase

MEMORY_BYTES = 256 * 2**20
"""Size of the largest cache in memory. A larger one is in an unnamed temporary file, which the system removes."""

EPOCHS_PER_VIEW = 10
"""Largest number of epochs that train on one view, unless reuse_frozen is "on"."""

_FLOAT16_MAX = 65504.0
_BATCH_SIZE = 64
_CHUNK_SIZE = 16
"""Images per forward pass: on a CPU as fast as the whole batch, with a quarter of the memory."""


def frozen_group_counts(phases: Sequence[Phase], mode: ReuseFrozen, views: int) -> tuple[int, ...]:
    """Return, per phase, how many of the network's first layer groups are not run because their features are cached.

    With "auto" a phase caches the features of its frozen groups if it has more epochs than there are views, so that
    caching saves passes through these groups. A shorter phase uses the cache of another phase, if one fits.

    >>> head, last = Phase("head", 1, 5, ()), Phase("last block", 6, 4, ())
    >>> frozen_group_counts([head, last], "auto", 2), frozen_group_counts([head], "auto", 2)
    ((4, 4), (0,))
    >>> frozen_group_counts([head], "on", 2), frozen_group_counts([last], "off", 2)
    ((5,), (0,))
    """
    if mode == "off":
        return (0,) * len(phases)
    own = [phase.frozen_groups if mode == "on" or phase.epochs > views else 0 for phase in phases]
    return tuple(
        count or max((other for other in own if other <= phase.frozen_groups), default=0)
        for count, phase in zip(own, phases, strict=True)
    )


def view_count(phases: Sequence[Phase], group_counts: Sequence[int], train: TrainConfig) -> int:
    """Return the number of views to cache: with "auto", enough that each is trained on for at most ten epochs.

    >>> [view_count([Phase("head", epochs, 5, ())], [5], TrainConfig()) for epochs in (10, 30, 31)]
    [2, 3, 4]
    """
    epochs = sum(phase.epochs for phase, count in zip(phases, group_counts, strict=True) if count)
    more = math.ceil(epochs / EPOCHS_PER_VIEW) if train.reuse_frozen == "auto" and train.augment != "off" else 1
    return max(train.views, more)


@dataclass(frozen=True, eq=False)
class FrozenFeatures:
    """Cached features of a learner's training and validation images: outputs of the first layer groups.

    `split_network` divides the network; the values of an image are flattened and concatenated to F numbers.

    Attributes:
        n_frozen: number of layer groups that the features are computed with.
        shapes: shape of each of an image's values.
        train: (V, N, F) float16, for each of N training images the image without augmentation and V - 1 augmented
            views. On the device if `Placement.fits`.
        valid: (M, F) float16, for M validation images. On the device if `Placement.fits`.
        targets: targets of the training split and of the validation split.
        key: hash of everything that the features depend on, see `cache_key`.
    """

    n_frozen: int
    shapes: tuple[torch.Size, ...]
    train: Tensor
    valid: Tensor
    targets: tuple[Tensor, Tensor]
    key: str


def cache_features(
    learn: RadiographLearner,
    n_frozen: int,
    views: int,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
    interrupted: Callable[[], bool] = lambda: False,
    folder: Path | None = None,
    shared: Path | None = None,
) -> FrozenFeatures:
    """Run the first layer groups on V views of each training image and on each validation image.

    Batch norm is in evaluation mode, as in any frozen layer. Features are clipped to float16's range.

    In the folder `shared`, learners on the same images with other splits, such as folds, share the features of images
    without augmentation, which are bit-identical. The rounding of an image's features depends on how many images are
    computed at once, but not on which ones. So features from full chunks are shared, and those of the last, smaller
    chunk of each split are always computed.

    Args:
        learn: a learner from `xrayfast.learner`.
        n_frozen: number of layer groups that stay frozen.
        views: number V of views.
        progress: called with the number of images done and the total.
        interrupted: called after each batch; training stops with a KeyboardInterrupt if it returns True.
        folder: folder for a cache that is too large for memory; None for the system's temporary folder.
        shared: folder of features that learners share; None to share none.

    Raises:
        WriteError: the cache fits neither in memory nor on the disk.
    """
    network, _ = split_network(learn.model.eval(), learn.groups, n_frozen)
    frozen = (
        network
        if not learn.is_torchvision
        else to_channels_last(fuse_batch_norm(nn.Sequential(network)), learn.dls.device)
    )
    done, total = 0, views * len(learn.dls.train_ds) + len(learn.dls.valid_ds)

    def after_batch(images: int) -> None:
        nonlocal done
        done += images
        progress(done, total)
        if interrupted():
            raise KeyboardInterrupt

    shapes = _shapes(learn, n_frozen)
    width = sum(shape.numel() for shape in shapes)
    common = None if shared is None else SharedFeatures(shared, _hash_settings(learn, n_frozen, __version__))
    compute = partial(_compute_features, learn, frozen, after_batch=after_batch, folder=folder, width=width)
    valid, valid_targets = compute(learn.dls.valid, 1, shared=common)
    train, targets = compute(learn.dls.train, views, shared=common)
    key = cache_key(learn, n_frozen, views)
    return FrozenFeatures(n_frozen, shapes, train, valid[0], (targets, valid_targets), key)


def cache_bytes(learn: RadiographLearner, n_frozen: int, views: int) -> int:
    """Return the size of the cache in bytes."""
    numbers = sum(shape.numel() for shape in _shapes(learn, n_frozen))
    return 2 * numbers * (views * len(learn.dls.train_ds) + len(learn.dls.valid_ds))


def _shapes(learn: RadiographLearner, n_frozen: int) -> tuple[torch.Size, ...]:
    """Return the shapes of an image's values, found from a blank image."""
    frozen, _ = split_network(learn.model.eval(), learn.groups, n_frozen)
    with torch.no_grad():
        values = frozen(torch.zeros(1, 3, learn.dls.size, learn.dls.size, device=learn.dls.device))
    return tuple(value.shape[1:] for value in values)


def caching_problem(learn: RadiographLearner, n_frozen: int) -> str:
    """Return why a network's features can't be cached, or "".

    The user's own networks and timm's are checked: torch.fx has to trace the computation correctly.
    """
    if learn.is_torchvision or not n_frozen:
        return ""
    try:
        frozen, later = split_network(learn.model.eval(), learn.groups, n_frozen)
        with isolated_rng("probe"), torch.no_grad():
            probe = normalize(torch.rand(2, 1, learn.dls.size, learn.dls.size, device=learn.dls.device))
            difference = (later(*frozen(probe))[0] - learn.model(probe)).abs().max()
    except Exception as error:  # whatever the user's code raises when it is traced
        return f"torch.fx can't trace it ({truncate(str(error), 200)})"
    return "" if difference < 1e-3 else "its outputs differ when torch.fx traces it"


def free_disk_bytes(folder: Path | None) -> int:
    """Return the free bytes on the disk that holds caches that are too large for memory."""
    path = Path(folder or tempfile.gettempdir())
    return shutil.disk_usage(next(parent for parent in (path, *path.absolute().parents) if parent.exists())).free


def cache_key(learn: RadiographLearner, n_frozen: int, views: int) -> str:
    """Return a hash of everything that features depend on: weights, images, size, seed, views, precision and device."""
    return _hash_settings(learn, n_frozen, views, [_paths(dl) for dl in learn.dls.loaders[:2]])


def _paths(loader: Any) -> list[Any]:
    return loader.dataset.items.table["path"].tolist()


def _hash_settings(learn: RadiographLearner, n_frozen: int, *more: Any) -> str:
    """Return a hash of the frozen weights, of the settings that an image's features depend on, and of `more`."""
    digest = hashlib.sha256()
    settings = [learn.dls.size, learn.settings["seed"], training_precision(learn), str(learn.dls.device)]
    digest.update(repr([n_frozen, *settings, *more]).encode())
    for name, tensor in split_network(learn.model, learn.groups, n_frozen)[0].state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


class FeatureLoader:
    """A DataLoader of features instead of images.

    Args:
        loader: the DataLoader of the images, which determines order and batch size.
        features: (V, N, F) features; in each batch a random view of each image is used.
    """

    def __init__(self, loader: Any, features: Tensor, targets: Tensor) -> None:
        self.loader, self.features, self.targets = loader, features, targets.to(features.device)

    def __len__(self) -> int:
        return len(self.loader)

    @property
    def n_done(self) -> int:
        """Number of batches that are already done when an epoch resumes."""
        return self.loader.n_done

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        self.loader.randomize()
        order, own = torch.tensor(self.loader.get_idxs()), self.loader.own
        if self.loader.going_on is not None:
            self.loader.going_on.restore()
        n_views, device = len(self.features), self.loader.device
        for rows in order.split(self.loader.bs):
            if self.loader.drop_last and len(rows) < self.loader.bs:
                return
            views = torch.randint(n_views, (len(rows),)) if n_views > 1 else torch.zeros(len(rows), dtype=torch.long)
            if own is not None:
                own.total, views, rows = len(rows), own.take(views), own.take(rows)
            of_view, of_image = send(torch.stack([views, rows]), self.features.device)
            features, targets = self.features[of_view, of_image], self.targets[of_image]
            yield send(features, device).float(), send(targets, device)


class UseFrozenFeatures(Callback):
    """Callback that replaces the learner's images with cached features."""

    order = CALLBACK_ORDER["UseFrozenFeatures"]

    def __init__(self, train: FeatureLoader, valid: FeatureLoader) -> None:
        self.train, self.valid = train, valid

    def before_train(self) -> None:
        """Train on the features of the training split."""
        self.learn.dl = self.train

    def before_validate(self) -> None:
        """Validate on the features of the validation split."""
        self.learn.dl = self.valid


@contextmanager
def training_on_features(learn: RadiographLearner, features: FrozenFeatures) -> Iterator[None]:
    """Within the block, `learn.fit` trains the later layer groups on cached features; the first groups are not run.

    The network keeps all its weights; optimizer and checkpoints are those of the whole network.
    """
    model, (targets, valid_targets) = learn.model, features.targets
    _, later = split_network(model, learn.groups, features.n_frozen)
    shapes = features.shapes

    def forward(x: Tensor) -> Tensor:
        flat = x.split([shape.numel() for shape in shapes], dim=1)
        (output,) = later(*(value.view(-1, *shape) for value, shape in zip(flat, shapes, strict=True)))
        return output

    callback = UseFrozenFeatures(
        FeatureLoader(learn.dls.train, features.train, targets),
        FeatureLoader(learn.dls.valid, features.valid.unsqueeze(0), valid_targets),
    )
    model.forward = forward  # on the instance, where it overrides the method of the class
    try:
        with learn.added_cbs(callback):
            yield
    finally:
        del model.forward


class SharedFeatures:
    """Features of images without augmentation, in files that learners in different processes read and add to.

    Args:
        key: hash of everything except the image that the features depend on.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self.folder, self.key = folder, key

    def read(self) -> dict[bytes, Any]:
        """Return the records of all images in the files, keyed by the hash of the image's path."""
        found: dict[bytes, Any] = {}
        for file in sorted(self.folder.glob(f"{self.key}-*.npy")):
            table = np.load(file, mmap_mode="r", allow_pickle=False)
            found |= zip(table["image"].tolist(), table, strict=True)
        return found

    def write(self, images: Sequence[bytes], features: Tensor, targets: Tensor) -> None:
        """Write (N, F) features and (N, ...) targets of N images to a new file."""
        target = targets.numpy()
        fields = [("image", "S64"), ("target", target.dtype, target.shape[1:])]
        table = np.empty(len(images), np.dtype([*fields, ("features", np.float16, features.shape[1:])]))
        table["image"], table["target"], table["features"] = images, target, features.numpy()
        path = ensure_folder(self.folder) / f"{self.key}-{secrets.token_hex(4)}.npy"
        with replace_atomically(path) as temporary, temporary.open("wb") as file:
            np.save(file, table, allow_pickle=False)


def _rows_to_compute(images: Sequence[bytes], known: Mapping[bytes, Any]) -> list[int]:
    """Return the rows of images to compute: those without known features, enough others to fill their last chunk, and
    those in the last, smaller chunk of the split.

    >>> _CHUNK_SIZE, len(_rows_to_compute([b"%d" % i for i in range(40)], {b"%d" % i: None for i in range(25)}))
    (16, 24)
    """
    full = len(images) - len(images) % _CHUNK_SIZE
    missing = [row for row in range(full) if images[row] not in known]
    others = [row for row in range(full) if images[row] in known]
    return [*missing, *others[: -len(missing) % _CHUNK_SIZE], *range(full, len(images))]


def _compute_features(
    learn: RadiographLearner,
    frozen: nn.Module,
    loader: Any,
    views: int,
    *,
    after_batch: Callable[[int], None],
    folder: Path | None,
    width: int,
    shared: SharedFeatures | None,
) -> tuple[Tensor, Tensor]:
    """Compute features (V, N, F) and targets (N, ...) of a DataLoader's images in order; view 0 is not augmented."""
    loader, count = loader.new(shuffle=False, drop_last=False, bs=_BATCH_SIZE), len(loader.dataset)
    images = [hashlib.sha256(str(path).encode()).hexdigest().encode() for path in _paths(loader)] if shared else []
    known, targets = shared.read() if shared else {}, dict[int, Tensor]()
    if learn.dls.placement.fits(2 * views * count * width):
        features = torch.empty((views, count, width), dtype=torch.float16, device=learn.dls.device)
    else:
        features = _allocate((views, count, width), folder)
    for row, image in enumerate(images):
        if image in known:
            features[0, row] = torch.from_numpy(known[image]["features"].copy())
            targets[row] = torch.from_numpy(np.array(known[image]["target"]))
    for view in range(views):
        rows = list(range(count)) if view or not known else _rows_to_compute(images, known)
        vars(loader)["get_idxs"] = partial(list, rows)
        if len(rows) < count:
            after_batch(count - len(rows))
        start = 0
        with isolated_rng(learn.settings["seed"], "view", view), loader.dataset.set_split_idx(0 if view else 1):
            for x, y in loader:
                with torch.no_grad(), autocast(learn):
                    chunks = [frozen(chunk) for chunk in x.as_subclass(Tensor).split(_CHUNK_SIZE)]
                    batch = torch.cat([torch.cat([v.float().flatten(1) for v in chunk], 1) for chunk in chunks])
                batch, y = batch.clamp(-_FLOAT16_MAX, _FLOAT16_MAX).to(features), y.as_subclass(Tensor)
                if loader.own is not None:
                    batch, y = loader.own.gather(batch), loader.own.gather(y)
                computed = rows[start : start + len(batch)]
                features[view, computed] = batch
                targets.update(zip(computed, y.cpu(), strict=True))
                start += len(batch)
                after_batch(len(batch))
        new = [row for row in rows[: len(rows) - count % _CHUNK_SIZE] if images[row] not in known] if shared else []
        if shared and new and not view:
            own = torch.stack([targets[row] for row in new])
            shared.write([images[row] for row in new], features[0, new].cpu(), own)
    return features, torch.stack([targets[row] for row in range(count)])


def _allocate(shape: tuple[int, ...], folder: Path | None) -> Tensor:
    """Allocate a float16 tensor in memory or, if it is too large, in an unnamed temporary file."""
    size = 2 * int(np.prod(shape))
    if size <= MEMORY_BYTES:
        return torch.empty(shape, dtype=torch.float16)
    path = Path(folder or tempfile.gettempdir())
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if (free := free_disk_bytes(path)) < size:
            other = "--cache-dir" if folder else "the environment variable TMPDIR"
            raise WriteError(
                f"{path}: found {free / 1e9:.1f} GB free; the frozen-feature cache needs {size / 1e9:.1f} GB. Free "
                f"some space. A new run can also use another folder ({other}), fewer --frozen-views, or no cache "
                "(--reuse-frozen off)."
            )
        with tempfile.TemporaryFile(dir=path) as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)  # a full disk raises an error now, instead of SIGBUS later
            return torch.from_numpy(np.memmap(file, dtype=np.float16, mode="w+", shape=shape))
    except OSError as error:
        raise WriteError(
            f"{path}: can't be written to ({error.strerror}). Start a new run with another folder (--cache-dir)."
        ) from error
