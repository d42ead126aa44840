"""Predicted probabilities of a trained network, with or without test-time augmentation (`--tta`)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from xrayfast.config import AUGMENTATIONS, Augmentation, Device
from xrayfast.data.images.reader import fit_square
from xrayfast.data.splits.words import SPLITS, Split
from xrayfast.errors import ConfigError, RunError
from xrayfast.learning.dataloaders.augment import DEFAULT, augment, draws_of_view, normalize
from xrayfast.learning.device import give_memory, require_usual_torch, torch_device
from xrayfast.learning.distributed.rows import OwnRows
from xrayfast.learning.inference.reading import reading
from xrayfast.learning.memory import keep_freed_memory
from xrayfast.learning.model.fusion import fuse_batch_norm, to_channels_last
from xrayfast.learning.model.losses import make_loss, to_probability
from xrayfast.learning.model.own_network import network_of_run
from xrayfast.learning.model.pretrained.timm_networks import is_timm
from xrayfast.learning.model.weights import load_weights
from xrayfast.learning.threads import FreeThreads
from xrayfast.metrics.operating_points.decision import Decision, Probabilities
from xrayfast.runs.predictions import Predictions, image_attributes, truth_of
from xrayfast.runs.run import Run, find_copy

if TYPE_CHECKING:
    from xrayfast.learning.fastai_api import Learner

TTA_VIEWS = 4
"""Augmented views per image under test-time augmentation; fastai's default."""

TTA_WEIGHT = 0.25
"""Weight of the image without augmentation, against the mean over its views; fastai's default."""


class Predictor:
    """Preprocessing, network and decision of a classifier.

    It computes in float32, whatever precision the network was trained in, so that probabilities are the same on every
    machine up to float32 rounding. Batch norm is fused into the convolutions, except in the user's own and in timm's
    networks. It imports torch, but not fastai.

    Attributes:
        network: the network without fused batch norm, in evaluation mode: (N, 3, size, size) normalized float32 to
            (N, L) logits. It is backbone and head in sequence, or the user's own.
        fused: the copy that computes predictions, in evaluation mode, with batch norm fused if possible.
        decision: labels, task, calibration and thresholds.
        seed: seed of the views in test-time augmentation.
        tta: whether the decision was fitted on predictions averaged over augmented views.
        augmentation: augmentation of these views; None without augmentation.
    """

    def __init__(
        self,
        network: nn.Module,
        decision: Decision,
        size: int,
        seed: int = 0,
        *,
        tta: bool = False,
        augmentation: Augmentation | None = DEFAULT,
        fuse: bool = True,
    ) -> None:
        self.network, self.decision, self.size, self.seed, self.tta = network.eval(), decision, size, seed, tta
        self.device = next(network.parameters()).device
        self.augmentation = augmentation
        # Not the user's own code: torch.fx may trace another branch than the one that runs.
        fused = fuse_batch_norm(network) if fuse and isinstance(network, nn.Sequential) else copy.deepcopy(network)
        self.fused = to_channels_last(fused, self.device)

    @classmethod
    def from_run(cls, run: Run, device: Device = "auto", arch: Callable[..., Any] | None = None) -> Predictor:
        """Load the network of a run's best epoch, with the run's calibration, thresholds and seed.

        Raises:
            ConfigError: the run's arch is the user's own code, and not given as `arch`.
            RunError: the run is incomplete, or its images passed transforms that are not recorded in it.
            WeightsError: the weights don't belong to the network that the folder describes.
            ConfigError: the device is not available.
        """
        run.require_known_transforms("other images can't be read as its network saw them")
        require_usual_torch(training=False)
        keep_freed_memory()
        decision, target, model, train = run.decision, torch_device(device), run.config.model, run.config.train
        network = network_of_run(model, len(decision.labels), run.model_path, arch)
        if next(network.parameters()).is_meta:
            give_memory(network, target)
        network.to(target)
        to_channels_last(network, target)
        load_weights(network, run.model_path)
        return cls(
            network,
            decision,
            model.size,
            train.seed,
            tta=train.tta,
            augmentation=train.augmentation,
            fuse=arch is None and not is_timm(model.arch),
        )

    @classmethod
    def from_learner(cls, learn: Learner) -> Predictor:
        """Take the current network of a learner on `xrayfast.dataloaders`, without calibration and thresholds."""
        dls = learn.dls
        # A plain fastai Learner has no settings.
        seed, fuse = (learn.settings["seed"], learn.is_torchvision) if hasattr(learn, "settings") else (0, False)
        ranges = AUGMENTATIONS.get(dls.augment)
        decision = Decision(dls.manifest.task, dls.manifest.labels)
        return cls(learn.model, decision, dls.size, seed, augmentation=ranges, fuse=fuse)

    def inputs(self, images: Sequence[NDArray[np.uint8]]) -> Tensor:
        """Preprocess N arrays (H, W) uint8 into the network's input: (N, 3, size, size) normalized float32."""
        return normalize(self._squares(images))

    def logits(self, images: Sequence[NDArray[np.uint8]], *, batch_size: int = 32) -> NDArray[np.float32]:
        """Return the network's outputs for N arrays (H, W) uint8: (N, L) float32."""
        return self._logits(images, batch_size)[0].numpy()

    def probabilities(
        self, images: Sequence[NDArray[np.uint8]], *, tta: bool | None = None, batch_size: int = 32
    ) -> Probabilities:
        """Return raw and calibrated probabilities of images.

        Args:
            images: N arrays (H, W) uint8.
            tta: average over augmented views, which depend only on the seed and on the image itself; by default if the
                decision was fitted with test-time augmentation.
            batch_size: images per batch.
        """
        views = TTA_VIEWS if (self.tta if tta is None else tta) and self.augmentation else 0
        raw, *augmented = to_probability(self._logits(images, batch_size, views), self.decision.task)
        if augmented:
            raw = torch.lerp(torch.stack(augmented).mean(dim=0), raw, TTA_WEIGHT)
        return Probabilities(raw.numpy(), self.decision.calibrated(raw.numpy()))

    def probabilities_and_spread(
        self, images: Sequence[NDArray[np.uint8]], *, tta: bool | None = None, batch_size: int = 32
    ) -> tuple[Probabilities, None]:
        """Return the probabilities, and None instead of the spread that an `EnsemblePredictor` returns."""
        return self.probabilities(images, tta=tta, batch_size=batch_size), None

    def _squares(self, images: Sequence[NDArray[np.uint8]]) -> Tensor:
        """Return the images as (N, 1, size, size) float32 in [0, 1] on the device."""
        squares = np.stack([fit_square(image, self.size) for image in images])
        return torch.from_numpy(squares).unsqueeze(1).to(self.device).float().div_(255)

    def _logits(self, images: Sequence[NDArray[np.uint8]], batch_size: int, views: int = 0) -> Tensor:
        """Return (1 + views, N, L) logits of the images without augmentation, and of each view."""
        if batch_size < 1:
            raise ConfigError(f"batch_size is {batch_size}; expected at least 1.")
        logits = [torch.empty(1 + views, 0, len(self.decision.labels))]
        with torch.no_grad(), _no_autocast(self.device.type), FreeThreads():
            for start in range(0, len(images), batch_size):
                batch = self._squares(images[start : start + batch_size])
                augmented = (self._view(batch, view) for view in range(views))
                passes = [self.fused(normalize(inputs)).float().cpu() for inputs in (batch, *augmented)]
                logits.append(torch.stack(passes))
        return torch.cat(logits, dim=1)

    def _view(self, batch: Tensor, number: int) -> Tensor:
        return augment(batch, draws_of_view(batch, self.seed, number), self.augmentation or DEFAULT)


class EnsemblePredictor:
    """Several networks whose probabilities are averaged, with the methods of a `Predictor`."""

    def __init__(self, members: Sequence[Predictor], decision: Decision) -> None:
        self.members, self.decision = members, decision
        self.size, self.device, self.tta = members[0].size, members[0].device, members[0].tta

    def probabilities(
        self, images: Sequence[NDArray[np.uint8]], *, tta: bool | None = None, batch_size: int = 32
    ) -> Probabilities:
        """Return raw and calibrated probabilities of images; see `Predictor.probabilities`."""
        return self.probabilities_and_spread(images, tta=tta, batch_size=batch_size)[0]

    def probabilities_and_spread(
        self, images: Sequence[NDArray[np.uint8]], *, tta: bool | None = None, batch_size: int = 32
    ) -> tuple[Probabilities, NDArray[np.float64]]:
        """Return the probabilities, and the (N, L) standard deviation of raw probabilities over the members."""
        found = [member.probabilities(images, tta=tta, batch_size=batch_size).raw for member in self.members]
        every = np.stack(found).astype(np.float64)
        raw = every.mean(axis=0)
        return Probabilities(raw.astype(np.float32), self.decision.calibrated(raw)), every.std(axis=0, ddof=1)


def predictor_of_run(
    run: Run, device: Device = "auto", arch: Callable[..., Any] | None = None
) -> Predictor | EnsemblePredictor:
    """Load the predictor of a run, or of an ensemble with all its members.

    Raises:
        RunError: the run has members, and their mean is not calibrated yet.
        XrayfastError: see `Predictor.from_run`.
    """
    members = run.members
    if not members:
        return Predictor.from_run(run, device, arch)
    if (status := run.info.status) != "completed":
        raise RunError(
            f"{run.path}: its networks are not averaged yet; its status is '{status}'. {run.resume_command} computes "
            "their mean."
        )
    if copied := find_copy(members):
        raise RunError(
            f"{copied[0].path}: has the same weights as {copied[1].path}, so one is a copy of the other. Copy "
            f"{run.path} again from where it was made."
        )
    return EnsemblePredictor([Predictor.from_run(member, device, arch) for member in members], run.decision)


def predict_split(learn: Learner, split: Split, *, tta: bool = False, own: OwnRows | None = None) -> Predictions:
    """Predict one split of a learner's data, and return uncalibrated probabilities and losses.

    Args:
        learn: a learner on `xrayfast.dataloaders`.
        split: the split.
        tta: average over augmented views.
        own: this rank's rows, if each rank predicts its own images; all ranks get all predictions.
    """
    data, dls = learn.dls.manifest.subset(split), learn.dls
    if not dls.reads_files:
        with learn.no_bar():
            outputs, _ = learn.get_preds(ds_idx=SPLITS.index(split), act=nn.Identity())
        raw = probability = to_probability(outputs, data.task).float().numpy()
    else:
        paths, batch_size = data.table["path"].tolist(), dls[SPLITS.index(split)].bs
        if own is not None:
            own.total, paths, batch_size = len(paths), own.take(paths), -(-batch_size // own.world_size)
        with reading(paths, dls.images.image) as images:
            raw, probability = Predictor.from_learner(learn).probabilities(images, tta=tta, batch_size=batch_size)
        if own is not None:
            raw, probability = (own.gather(torch.from_numpy(part)).numpy() for part in (raw, probability))
    return replace(
        truth_of(data),
        probability=probability,
        loss=_losses(learn, raw, data.targets),
        raw=probability,
        attributes=image_attributes(data.table),
    )


def _losses(learn: Learner, probability: NDArray[np.float32], targets: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the training loss of each image; for multi-label, the mean over its labels that are not masked.

    The logits are recomputed from the probabilities, which are clamped to be 1e-7 (float32's resolution) away from 0
    and 1; logits with the same probabilities have the same loss.
    """
    clipped = torch.from_numpy(probability).clamp(1e-7, 1 - 1e-7)
    single = learn.dls.manifest.task == "single"
    logits = clipped.log() if single else clipped.logit()
    truth = torch.from_numpy(targets.argmax(axis=1) if single else targets)
    device = next(learn.model.parameters()).device
    with learn.loss_not_reduced():
        losses = _per_image_loss(learn)(logits.to(device), truth.to(device))
    total = losses.as_subclass(Tensor).reshape(len(truth), -1).sum(dim=1).double().cpu().numpy()
    cells = 1 if single else np.maximum((~np.isnan(targets)).sum(axis=1), 1)
    return total / cells


def _per_image_loss(learn: Learner) -> Any:
    """Return the learner's loss, or the task's default loss if the user's own can't return one per image."""
    if getattr(learn.loss_func, "per_image", True):
        return learn.loss_func
    default: Any = make_loss("auto", learn.dls.manifest.task)
    default.reduction = "none"
    return default


def _no_autocast(device_type: str) -> AbstractContextManager[Any]:
    """Return a context without autocast, which training that was interrupted within a batch may have left on."""
    autocasts = device_type in ("cpu", "cuda") and torch.is_autocast_enabled(device_type)
    return torch.autocast(device_type, enabled=False) if autocasts else nullcontext()
