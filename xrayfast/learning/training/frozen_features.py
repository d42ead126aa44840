"""Frozen layers computed once: what they give for each image is kept, and the layers after them are trained on it."""

from __future__ import annotations

import hashlib
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from xrayfast.config import ReuseFrozen
from xrayfast.errors import WriteError
from xrayfast.learning.fastai_api import Callback, Learner
from xrayfast.learning.model.fusion import fuse_batch_norm, to_channels_last
from xrayfast.learning.randomness import isolated_rng
from xrayfast.learning.training.mixed_precision import autocast, training_precision
from xrayfast.learning.training.phases import Phase

MEMORY_BYTES = 256 * 2**20
"""Up to this much is kept in memory; more goes into an unnamed file, which the operating system drops with it."""

EPOCHS_A_VIEW = 10
"""In how many epochs a view is trained on at most, unless "on" is asked for."""

_FLOAT16_MAX = 65504.0
_BATCH = 64
_AT_ONCE = 16
"""Images of a batch that run at once: on a CPU as fast as the whole, in a quarter of the memory."""


def cuts(phases: Sequence[Phase], mode: ReuseFrozen, views: int) -> tuple[int, ...]:
    """For each phase, how many of the network's first blocks are not run in it, because what they give is kept.

    With "auto" a phase keeps what it does not train where it has more epochs than there are views: then it runs the
    blocks less often. A shorter phase takes what another one keeps anyway.

    >>> head, last = Phase("head", 1, 5, ()), Phase("last block", 6, 4, ())
    >>> cuts([head, last], "auto", 2), cuts([head], "auto", 2), cuts([head], "on", 2), cuts([last], "off", 2)
    ((4, 4), (0,), (5,), (0,))
    """
    if mode == "off":
        return (0,) * len(phases)
    own = [phase.frozen if mode == "on" or phase.epochs > views else 0 for phase in phases]
    return tuple(
        cut or max((other for other in own if other <= phase.frozen), default=0)
        for cut, phase in zip(own, phases, strict=True)
    )


def views_for(phases: Sequence[Phase], cut_by_phase: Sequence[int], mode: ReuseFrozen, views: int) -> int:
    """How many views are kept: with "auto" at least so many that each is trained on in ten epochs at most.

    >>> [views_for([Phase("head", epochs, 5, ())], [5], "auto", 2) for epochs in (10, 30, 31)]
    [2, 3, 4]
    """
    epochs = sum(phase.epochs for phase, cut in zip(phases, cut_by_phase, strict=True) if cut)
    return max(views, math.ceil(epochs / EPOCHS_A_VIEW)) if mode == "auto" else views


@dataclass(frozen=True, eq=False)
class FrozenFeatures:
    """What the first blocks of a network give for the images of a learner.

    Attributes:
        cut: how many blocks of the body.
        train: (V, N, ...) float16: of each of the N training images as it is, and of V - 1 augmented views.
        valid: (M, ...) float16.
        targets: of the training and of the validation split.
        key: names the blocks' weights, the images, their size, the views and the precision.
    """

    cut: int
    train: Tensor
    valid: Tensor
    targets: tuple[Tensor, Tensor]
    key: str


def keep(
    learn: Learner,
    cut: int,
    views: int,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
    interrupted: Callable[[], bool] = lambda: False,
    folder: Path | None = None,
) -> FrozenFeatures:
    """Run the first `cut` blocks on every image of the training split, V views of each, and of the validation split.

    Their batch norm is in inference mode, as in any frozen block. Kept values are saturated at float16's ends.

    Args:
        learn: a learner of `xrayfast.learner`.
        cut: blocks of the body that stay frozen.
        views: V.
        progress: told how many images of how many are done.
        interrupted: asked after each batch whether to stop, with a KeyboardInterrupt.
        folder: for what is too large for memory; None for the system's temporary files.

    Raises:
        WriteError: there is neither memory nor disk for it.
    """
    first = to_channels_last(fuse_batch_norm(nn.Sequential(*_stages(learn.model, cut)[0])), learn.dls.device)
    done, total = 0, views * len(learn.dls.train_ds) + len(learn.dls.valid_ds)

    def told(count: int) -> None:
        nonlocal done
        done += count
        progress(done, total)
        if interrupted():
            raise KeyboardInterrupt

    valid, valid_targets = _run(learn, first, _in_order_of_rows(learn.dls.valid), 1, told, folder)
    train, targets = _run(learn, first, _in_order_of_rows(learn.dls.train), views, told, folder)
    return FrozenFeatures(cut, train, valid[0], (targets, valid_targets), key(learn, cut, views))


def bytes_needed(learn: Learner, cut: int, views: int) -> int:
    """What `keep` would keep, in bytes; found by one blank image."""
    size, device = learn.dls.size, learn.dls.device
    with torch.no_grad():
        x = torch.zeros(1, 3, size, size, device=device)
        for stage in _stages(learn.model.eval(), cut)[0]:
            x = stage(x)
    return 2 * x.numel() * (views * len(learn.dls.train_ds) + len(learn.dls.valid_ds))


def room(folder: Path | None) -> int:
    """Bytes that are free where `keep` keeps what memory is too small for."""
    place = Path(folder or tempfile.gettempdir())
    return shutil.disk_usage(next(found for found in (place, *place.absolute().parents) if found.exists())).free


def key(learn: Learner, cut: int, views: int) -> str:
    """Names all that kept values depend on: kept under another key, they are stale."""
    settings, digest = learn.settings, hashlib.sha256()
    facts = [cut, views, learn.dls.size, settings["seed"], training_precision(learn), str(learn.dls.device)]
    digest.update(repr([*facts, [dl.dataset.items["path"].tolist() for dl in learn.dls.loaders[:2]]]).encode())
    for stage in _stages(learn.model, cut)[0]:
        for name, tensor in stage.state_dict().items():
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


class FeatureBatches:
    """A loader's batches, in its order, with kept values in place of images.

    Args:
        loader: whose order and batch size it takes.
        values: (V, N, ...); each image's view is drawn anew for each batch.
        targets: (N, ...).
    """

    def __init__(self, loader: Any, values: Tensor, targets: Tensor) -> None:
        self.loader, self.values, self.targets = loader, values, targets

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        self.loader.randomize()
        order = torch.tensor(self.loader.get_idxs())
        n_views, device = len(self.values), self.loader.device
        for rows in order.split(self.loader.bs):
            if self.loader.drop_last and len(rows) < self.loader.bs:
                return
            views = torch.randint(n_views, (len(rows),)) if n_views > 1 else torch.zeros(len(rows), dtype=torch.long)
            yield self.values[views, rows].to(device).float(), self.targets[rows].to(device)


class _FromKept(Callback):
    """Hands the learner kept values instead of images."""

    order = -40

    def __init__(self, train: FeatureBatches, valid: FeatureBatches) -> None:
        self.train, self.valid = train, valid

    def before_train(self) -> None:
        self.learn.dl = self.train

    def before_validate(self) -> None:
        self.learn.dl = self.valid


@contextmanager
def training_on_features(learn: Learner, kept: FrozenFeatures) -> Iterator[None]:
    """Within it `learn.fit` trains the blocks after the cut and the head on kept values; the first blocks are not run.

    The network keeps all its weights, and its optimiser and checkpoints are those of the whole.
    """
    rest, (targets, valid_targets), model = _stages(learn.model, kept.cut)[1], kept.targets, learn.model

    def forward(x: Tensor) -> Tensor:
        for stage in rest:
            x = stage(x)
        return x

    callback = _FromKept(
        FeatureBatches(learn.dls.train, kept.train, targets),
        FeatureBatches(learn.dls.valid, kept.valid.unsqueeze(0), valid_targets),
    )
    model.forward = forward  # the instance's own, before the class's
    try:
        with learn.added_cbs(callback):
            yield
    finally:
        del model.forward


def _stages(model: Any, cut: int) -> tuple[list[nn.Module], list[nn.Module]]:
    """The layers whose outputs are kept, and those after them.

    Behind a body that is frozen altogether the head's pooling is kept too: it has nothing to train, and makes the
    values fifty times smaller.
    """
    stages, end = [*model[0], *model[1]], cut
    if cut == len(model[0]):
        fixed = [isinstance(stage, nn.Dropout) or bool(stage.state_dict()) for stage in stages[cut:]]
        end += fixed.index(True)
    return stages[:end], stages[end:]


def _in_order_of_rows(loader: Any) -> Any:
    return loader.new(shuffle=False, drop_last=False, bs=_BATCH)


def _run(
    learn: Learner,
    first: nn.Module,
    loader: Any,
    views: int,
    told: Callable[[int], None],
    folder: Path | None,
) -> tuple[Tensor, Tensor]:
    """The values (V, N, ...) and targets (N, ...) of a loader's images; the first view is the image itself."""
    values, targets = torch.empty(0), []
    for view in range(views):
        start = 0
        with isolated_rng(learn.settings["seed"], "view", view), loader.dataset.set_split_idx(0 if view else 1):
            for x, y in loader:
                with torch.no_grad(), autocast(learn):
                    found = torch.cat([first(part).float() for part in x.as_subclass(Tensor).split(_AT_ONCE)])
                found = found.clamp(-_FLOAT16_MAX, _FLOAT16_MAX)
                if not len(values):
                    values = _room((views, len(loader.dataset), *found.shape[1:]), folder)
                values[view, start : start + len(found)] = found.to(values)
                start += len(found)
                if not view:
                    targets.append(y.as_subclass(Tensor).cpu())
                told(len(found))
    return values, torch.cat(targets)


def _room(shape: tuple[int, ...], folder: Path | None) -> Tensor:
    """An empty float16 tensor in memory or, where that is too large, in a file without a name."""
    size = 2 * int(np.prod(shape))
    if size <= MEMORY_BYTES:
        return torch.empty(shape, dtype=torch.float16)
    place = Path(folder or tempfile.gettempdir())
    try:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        if (free := room(place)) < size:
            other = "--cache-dir" if folder else "the environment variable TMPDIR"
            raise WriteError(
                f"{place}: found {free / 1e9:.1f} GB free; what the frozen layers give needs {size / 1e9:.1f} GB. Make "
                f"room there. A new run can also keep it elsewhere ({other}), keep fewer --frozen-views, or compute it "
                "anew each epoch (--reuse-frozen off)."
            )
        with tempfile.TemporaryFile(dir=place) as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)  # a full disk is told now, not by a signal later
            return torch.from_numpy(np.memmap(file, dtype=np.float16, mode="w+", shape=shape))
    except OSError as error:
        raise WriteError(
            f"{place}: can't be written to ({error.strerror}). --cache-dir names another folder for a new run."
        ) from error
