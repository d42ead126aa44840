"""Record losses and metrics in each epoch: on the training batches, and in fastai's Recorder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import torch

from xrayfast.config import Task
from xrayfast.learning.fastai_api import AvgLoss, AvgSmoothLoss, Callback, L, Recorder, noop
from xrayfast.learning.model.losses import batch_weight
from xrayfast.learning.training.callbacks.order import CALLBACK_ORDER
from xrayfast.learning.training.metrics import EpochOutputs
from xrayfast.metrics import registry


class UnmaskedLoss(AvgLoss):
    """fastai's mean loss of an epoch, with each batch weighted by its number of images or unmasked cells."""

    def accumulate(self, learn: Any) -> None:
        """Add a batch."""
        weight = batch_weight(learn.yb[0])
        self.total += learn.loss.detach().mean() * weight
        self.count += weight


class SmoothLoss(AvgSmoothLoss):
    """fastai's smoothed training loss, kept on the device; fastai's own waits for the device after every batch."""

    def accumulate(self, learn: Any) -> None:
        """Add a batch."""
        self.count += 1
        loss = learn.loss.detach().mean()
        before: torch.Tensor = self.val
        self.val: torch.Tensor = torch.lerp(loss, before.to(loss), self.beta)


class EpochRecorder(Recorder):
    """fastai's Recorder with `UnmaskedLoss` and `SmoothLoss`; after a fit the losses are moved to the CPU for plots.

    Attributes:
        of_run: whether the records are those of a finished run, and nothing was trained since.
        has_loss: whether the current batch has a loss that is not yet recorded.
        counted: whether the last batch was recorded; a batch that a callback skipped is not.
        n_fits: number of fits so far, without range tests.
        used: names of the callbacks of these fits that are neither xrayfast's nor needed by fastai itself.
    """

    name = "recorder"
    order = CALLBACK_ORDER["EpochRecorder"]
    losses: list[torch.Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.loss, self.smooth_loss = UnmaskedLoss(), SmoothLoss()
        self.of_run = self.has_loss = self.counted = False
        self.n_fits, self.used = 0, dict[str, None]()

    def before_fit(self) -> None:
        """Forget the last fit, except the names of its callbacks."""
        super().before_fit()
        if "LRFinder" not in [type(cb).__name__ for cb in self.learn.cbs]:
            self.n_fits += 1
            self.used = self.used | dict.fromkeys(type(cb).__name__ for cb in self.learn.cbs if _is_added(cb))
        self.of_run = self.has_loss = False
        self.log = L([None])

    def after_loss(self) -> None:
        """Note that the batch has outputs and a loss."""
        self.has_loss = True

    def after_batch(self) -> None:
        """Record the batch, unless a callback skipped it: outputs and loss are then those of an earlier batch."""
        self.counted, self.has_loss = self.has_loss, False
        if self.counted:
            super().after_batch()

    def after_epoch(self) -> None:
        """Log the epoch as fastai does, without the time if nothing reads the log, since fastprogress formats it."""
        self.add_time = self.learn.logger is not noop
        if self.log[0] != self.epoch:  # a callback ended the epoch before it began
            self.log = L(self.epoch)
        super().after_epoch()
        if not self.add_time:
            self.log.append("")
            self.add_time = True

    def restore(self, history: pd.DataFrame, batches: pd.DataFrame | None, momenta: Sequence[float] = ()) -> None:
        """Restore the records of a run, as if it had been one fit.

        Args:
            history: one row per epoch, from `Run.history`.
            batches: one row per training batch, from `Run.batches`; if None, each epoch counts as one batch with its
                mean loss and its last learning rate.
            momenta: momentum in each batch, if known.
        """
        if batches is None:
            batches = history[["epoch", "lr"]].assign(loss=history["train_loss"])
        losses = batches["loss"].ewm(alpha=1 - self.smooth_loss.beta).mean()  # as fastai smooths them
        self.losses, self.lrs = [torch.tensor(loss) for loss in losses], batches["lr"].tolist()
        self.hps = {"lr": self.lrs} | ({"mom": list(momenta)} if momenta else {})
        self.iters = batches.groupby("epoch").size().cumsum().tolist()
        valid = [name for name in history.columns.tolist() if name.startswith("valid_")]
        self.values = L(history[["train_loss", *valid]].to_numpy(dtype=float).tolist()).map(L)
        names = [name if name == "valid_loss" else name.removeprefix("valid_") for name in valid]
        self.metric_names = L("epoch", "train_loss", *names, "time")
        self.of_run = True

    def after_fit(self) -> None:
        """Move the losses of all batches to the CPU in one copy."""
        losses = getattr(self, "losses", None)  # None if a callback ended training before the first batch
        if losses and losses[0].device.type != "cpu":
            self.losses = list(torch.stack(losses).cpu())


_OF_EVERY_FIT = (
    "CastToTensor", "GradientClip", "ParamScheduler", "ProgressCallback", "SkipToEpoch", "TrainEvalCallback"
)  # fmt: skip
"""fastai's callbacks that a learner has, or that `fit_one_cycle` and the like add."""


def _is_added(cb: Callback) -> bool:
    return not (type(cb).__module__.startswith("xrayfast.") or type(cb).__name__ in _OF_EVERY_FIT)


class TrainRecorder(Callback):
    """Callback that records the losses, learning rates and outputs of an epoch's training batches.

    Losses and outputs stay on the device, since reading each of them would wait for it. Outputs are those of training:
    of augmented views, with dropout, and with the weights at each batch. Those of mixed images are not kept.

    Args:
        frozen_groups: number of frozen layer groups, from the input.

    Attributes:
        places: the number of each batch in the epoch, from 0: callbacks may skip some.
        lrs: the head's learning rate in each batch of the epoch so far.
        lowest_lrs: the learning rate of the first unfrozen layer group in each batch.
    """

    order = CALLBACK_ORDER["TrainRecorder"]

    def __init__(self, frozen_groups: int, task: Task, n_labels: int) -> None:
        self.frozen_groups = frozen_groups
        self.outputs = EpochOutputs(task, n_labels, registry.train_metrics(task))
        self.before_train()

    def before_train(self) -> None:
        """Forget the last epoch."""
        self.outputs.clear()
        self.losses: list[torch.Tensor] = []
        self.places: list[int] = []
        self.lrs: list[float] = []
        self.lowest_lrs: list[float] = []
        self.total: torch.Tensor | float = 0.0
        self.weight: torch.Tensor | float = 0.0

    def after_batch(self) -> None:
        """Add a training batch, unless a callback skipped it."""
        if self.training and self.recorder.counted:
            self.add_batch()

    def add_batch(self) -> None:
        """Add the batch, and add its loss to the epoch's mean.

        The mean is not fastai's smoothed loss, which continues over epochs, so that resuming would change it.
        """
        loss, weight = self.loss.detach(), batch_weight(self.yb[0])
        self.total += loss * weight
        self.weight += weight
        if len(self.yb) == 1:  # a mixed image has no label to compare its output with
            self.outputs.add(self.pred, self.yb[0])
        self.losses.append(loss)
        self.places.append(self.iter)
        self.lrs.append(float(self.opt.hypers[-1]["lr"]))
        self.lowest_lrs.append(float(self.opt.hypers[self.frozen_groups]["lr"]))

    def state(self) -> dict[str, torch.Tensor]:
        """Return the records of the epoch's batches so far as tensors, for a checkpoint."""
        rates = {"lrs": self.lrs, "lowest_lrs": self.lowest_lrs}
        found = {name: torch.tensor(values, dtype=torch.float64) for name, values in rates.items()}
        found["losses"] = torch.stack(self.losses)
        found |= {"total": torch.as_tensor(self.total), "weight": torch.as_tensor(self.weight)}
        if self.outputs.outputs:
            found |= {"outputs": torch.cat(self.outputs.outputs), "targets": torch.cat(self.outputs.targets)}
        return {name: tensor.as_subclass(torch.Tensor) for name, tensor in found.items()}

    def restore(self, state: Mapping[str, torch.Tensor]) -> None:
        """Restore a `state`, after whose batches training continues; no callback may have skipped a batch."""
        on_device = {name: tensor.to(self.dls.device) for name, tensor in state.items()}
        self.losses, self.lrs = [*on_device["losses"]], state["lrs"].tolist()
        self.lowest_lrs, self.places = state["lowest_lrs"].tolist(), [*range(len(self.lrs))]
        self.total, self.weight = on_device["total"], on_device["weight"]
        if "outputs" in state:
            self.outputs.outputs = [*on_device["outputs"].split(self.dls.train.bs)]
            self.outputs.targets = [*on_device["targets"].split(self.dls.train.bs)]

    def read_losses(self) -> list[float]:
        """Read the losses of the epoch's batches so far from the device, in one copy."""
        return torch.stack(self.losses).tolist() if self.losses else []

    def read_metrics(self) -> dict[str, float | None]:
        """Return the mean loss, weighted as in `UnmaskedLoss`, and the metrics of the outputs, if any, by name."""
        loss = float(self.total) / max(float(self.weight), 1.0)
        metrics = self.outputs.values() if self.outputs.outputs else {}
        self.outputs.clear()  # not needed while the epoch is validated and saved
        return {"loss": loss, **metrics}
