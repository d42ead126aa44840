"""fastai callbacks: frozen layers, seeds, progress, and the checkpoint after each epoch."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from torch.distributions import Beta

from xrayfast.errors import TrainingError, XrayfastError, shorten
from xrayfast.learning.augment import cutmix, mixup
from xrayfast.learning.device import send
from xrayfast.learning.fastai_api import Callback, CancelFitException, L
from xrayfast.learning.model.layers import LayerGroup
from xrayfast.learning.randomness import reseed
from xrayfast.learning.threads import FreeThreads
from xrayfast.learning.training.callback_order import CALLBACK_ORDER
from xrayfast.learning.training.metrics import TrainRecorder, finite
from xrayfast.learning.training.phases import Phase
from xrayfast.metrics.registry import history_column
from xrayfast.own_code import describe_code, names_of_code
from xrayfast.progress import NullReporter as NullReporter
from xrayfast.progress import Reporter
from xrayfast.runs.batches import add_epoch, empty_batches

Row = dict[str, Any]

SECONDS_BETWEEN_REPORTS = 0.1
"""Shortest interval between two reports of batches."""


class FrozenInference(Callback):
    """Frozen layer groups run in inference mode, batch norm and dropout included.

    fastai's `freeze` leaves batch norm training, so that a "frozen" epoch still back-propagates through the whole
    backbone: 10.9 instead of 23.5 images per second for resnet18 at 224 px on two cores.
    """

    order = CALLBACK_ORDER["FrozenInference"]

    def __init__(self, groups: Sequence[LayerGroup]) -> None:
        self.groups = groups

    def before_train(self) -> None:
        """After fastai has put the whole model into training mode."""
        for group in self.groups:
            if not any(parameter.requires_grad for parameter in group.parameters):
                for module in group.modules:
                    module.eval()


class RepeatChannel(Callback):
    """Gives the network three equal channels where a DataLoader gives one."""

    order = CALLBACK_ORDER["RepeatChannel"]

    def before_batch(self) -> None:
        """Images (N, 1, H, W) become (N, 3, H, W)."""
        if self.x.ndim == 4 and self.x.shape[1] == 1:
            self.learn.xb = (self.x.repeat(1, 3, 1, 1), *self.xb[1:])


class MixImages(Callback):
    """Mixes each training image with another of its batch, by mixup, CutMix or, where both are given, one of them per
    batch with equal probability; see `Loss.forward` for the loss.

    The shares are drawn on the CPU from torch's global generator, which `EpochSeeds` seeds. fastai's MixUp and CutMix
    average losses without class weights, mix multi-label targets within losses that are not linear in them, such as
    the focal loss, and leave mixed targets to what computes metrics of them.

    Args:
        mixup: the parameter of mixup's Beta(A, A), 0 for no mixup.
        cutmix: that of CutMix.
    """

    order = CALLBACK_ORDER["MixImages"]
    run_valid = False

    def __init__(self, mixup: float, cutmix: float) -> None:
        self.mixup, self.cutmix = mixup, cutmix

    def before_batch(self) -> None:
        """Targets become those of the image, of the one mixed into it, and the share of the first."""
        images, target = self.xb[0].as_subclass(Tensor), self.yb[0].as_subclass(Tensor)
        cut = bool(self.cutmix) and not (self.mixup and torch.rand(()) < 0.5)
        alpha = torch.tensor(self.cutmix if cut else self.mixup)
        partner = torch.randperm(len(images))
        share = Beta(alpha, alpha).sample((len(images),))
        partner = send(partner, images.device)
        others, other = images[partner], target[partner]
        if cut:
            images, share = cutmix(images, others, share, torch.rand(2, len(images)))
        else:
            images = mixup(images, others, share)
        if target.is_floating_point():  # so that whatever counts unmasked cells sees those of both
            target = target.masked_fill(other.isnan(), math.nan)
        self.learn.xb, self.learn.yb = (images, *self.xb[1:]), (target, other, send(share, images.device))


class EpochSeeds(Callback):
    """Seeds every epoch by its number, so that a resumed run draws the same as an uninterrupted one."""

    order = CALLBACK_ORDER["EpochSeeds"]

    def __init__(self, seed: int, first_epoch: int) -> None:
        self.seed, self.first_epoch = seed, first_epoch

    def before_train(self) -> None:
        """Seed augmentation, dropout and the order of the images."""
        epoch = self.first_epoch + self.epoch
        reseed(self.seed, "epoch", epoch)
        self.dls.train.rng = random.Random(f"{self.seed} order {epoch}")


class AdaptThreads(Callback):
    """Before each epoch, lets torch compute with as many threads as CPUs are free.

    Args:
        threads: within whose block training is.
        changed: called with a sentence where the number has changed.
    """

    order = CALLBACK_ORDER["AdaptThreads"]

    def __init__(self, threads: FreeThreads, changed: Callable[[str], None]) -> None:
        self.threads, self.changed = threads, changed

    def before_train(self) -> None:
        """Choose the number."""
        if self.threads.choose():
            self.changed(self.threads.note or "The machine is free again: torch computes with all threads.")


class BatchProgress(Callback):
    """Reports batches to a Reporter.

    Args:
        reporter: receives the batches.
        first_epoch: number of epochs before the phase.
        alone: whether no other rank trains: then training also stops where the reported loss is not finite.
    """

    order = CALLBACK_ORDER["BatchProgress"]

    def __init__(self, reporter: Reporter, first_epoch: int, alone: bool) -> None:
        self.reporter, self.first_epoch, self.alone = reporter, first_epoch, alone

    def before_train(self) -> None:
        """Start the clock of the split."""
        self.images, self.began = 0, time.perf_counter()
        self.reported = self.began

    before_validate = before_train

    def after_batch(self) -> None:
        """Count images; report ten times per second at most, as reading the loss makes the CPU wait for the device."""
        self.images += len(self.yb[0])  # of all ranks
        now = time.perf_counter()
        due = now - self.reported >= SECONDS_BETWEEN_REPORTS or self.iter + 1 == self.n_iter
        if due and self.learn.recorder.smooth_loss.count:  # without one all batches were skipped so far
            self.reported = now
            loss = float(self.learn.recorder.smooth_loss.value)
            self.reporter.batch(
                split="train" if self.training else "valid",
                done=self.iter + 1,
                total=self.n_iter,
                epoch=self.first_epoch + self.epoch + 1,
                loss=loss,
                images=self.images,
                seconds=now - self.began,
            )
            if self.training and self.alone and not math.isfinite(loss):
                raise CancelFitException  # EpochCheckpoint finds the batch; other ranks would wait for this one


class EpochCheckpoint(Callback):
    """After each epoch: adds its row to the history, saves, and stops training early or if it diverged.

    Args:
        history: of the epochs so far.
        phase: the phase that is trained.
        first_epoch: number of epochs before it.
        monitor: the column that decides which epoch is best.
        patience: epochs without improvement after which training stops, or None.
        save: called when the history is up to date, with whether the epoch is the best so far.
        reporter: receives the row.
        sizes: the side of the images in each epoch of the phase.
        train: has recorded the epoch's training batches.

    Attributes:
        failure: why training can't go on, to be raised when `fit` returns; or None.
        stopped_early: whether `patience` ended training.
    """

    order = CALLBACK_ORDER["EpochCheckpoint"]

    def __init__(
        self,
        history: History,
        phase: Phase,
        first_epoch: int,
        monitor: str,
        patience: int | None,
        save: Callable[[bool], None],
        reporter: Reporter,
        sizes: Sequence[int],
        train: TrainRecorder,
    ) -> None:
        self.history, self.phase, self.first_epoch, self.monitor = history, phase, first_epoch, monitor
        self.patience, self.save, self.reporter, self.sizes = patience, save, reporter, sizes
        self.train_batches = train
        self.failure: XrayfastError | None = None
        self.stopped_early = self.saved = False

    def before_train(self) -> None:
        """Start the epoch's clock."""
        self.began = time.perf_counter()
        self.trained = True

    def before_epoch(self) -> None:
        """An epoch that is skipped on resuming leaves no row."""
        self.trained, self.saved = False, False

    def after_epoch(self) -> None:
        """Add the row, save, and decide whether to go on."""
        if not self.trained:
            # What the epoch had shown, for callbacks that follow a metric.
            shown = self.history.rows[self.first_epoch + self.epoch]
            names = [self.recorder.metric_names[1], *map(valid_column, self.recorder.metric_names[2:-1])]
            self.recorder.values[-1] = L(math.nan if shown.get(name) is None else shown[name] for name in names)
            return
        batches, losses = self.train_batches, self.train_batches.read_losses()
        names = self.recorder.metric_names[2:-1]  # "epoch", the smoothed training loss; last is "time"
        if not losses or len(self.recorder.values[-1]) <= len(names):
            self.failure = self._cut_short()
            raise CancelFitException
        valid = {valid_column(n): self._number(n, v) for n, v in zip(names, self.recorder.values[-1][1:], strict=True)}
        # Not raised here: fastai replaces the message of an exception that a callback raises.
        self.failure = self.failure or self._divergence(losses, valid["valid_loss"])
        if self.failure is not None:
            raise CancelFitException
        row: Row = {
            "epoch": len(self.history.rows) + 1,
            "phase": self.phase.name,
            "size": self.sizes[self.epoch],
            **{history_column("train", name): value for name, value in batches.read_metrics().items()},
            **{name: value if name == "valid_loss" else finite(value) for name, value in valid.items()},
            "lr": batches.lrs[-1],
            "lr_lowest": batches.lowest_lrs[-1],
            "seconds": round(time.perf_counter() - self.began, 3),
        }
        improved = self.history.add(row, self.monitor)
        self.history.batches = add_epoch(self.history.batches, row["epoch"], losses, batches.lrs, batches.lowest_lrs)
        try:
            self.save(improved)
        except XrayfastError as error:
            self.failure = error
            raise CancelFitException from error
        self.saved = True
        self.reporter.epoch(row, improved)
        if self.patience is not None and self.history.stale_epochs(self.first_epoch, self.sizes[-1]) >= self.patience:
            self.stopped_early = True
            raise CancelFitException

    def after_cancel_fit(self) -> None:
        """Where training ended within an epoch, say why."""
        if self.failure is None and not self.saved:
            if self.training and self.recorder.has_loss:  # another callback ended the batch
                self.train_batches.add_batch()
            self.failure = self._divergence(self.train_batches.read_losses()) or self._cut_short()

    def _cut_short(self) -> TrainingError:
        """The error of an epoch that was not finished."""
        return TrainingError(
            f"A callback ended epoch {len(self.history.rows) + 1} before it was trained and validated, and fit records "
            f"whole epochs. Let it raise CancelFitException in after_epoch, with an order above {self.order}."
        )

    def _number(self, name: str, value: Any) -> float:
        """A metric's value as a float; where it is no number, NaN, and `failure` says so."""
        try:
            return math.nan if value is None else float(value)
        except (TypeError, ValueError):
            found = f"an array of shape {tuple(value.shape)}" if hasattr(value, "shape") else f"{value!r:.80}"
            self.failure = TrainingError(f"The metric {name} gave {found}; expected one number.")
            return math.nan

    def _divergence(self, losses: Sequence[float], valid_loss: float | None = None) -> TrainingError | None:
        """The first loss of the epoch that is not finite, as an error; None where all are."""
        where, images = f"epoch {len(self.history.rows) + 1}", ""
        batch = next((i for i, loss in enumerate(losses) if not math.isfinite(loss)), None)
        if batch is not None:
            lr = self.train_batches.lrs[batch]
            found = f"training loss is {losses[batch]} in {where}, batch {batch + 1} of {len(self.dls.train)}, at a "
            found += f"learning rate of {lr:.3g}"
            images = self._name_images(batch)
        elif valid_loss is not None and not math.isfinite(valid_loss):
            found = f"validation loss is {valid_loss} after {where}, which ended at a learning rate of "
            found += f"{self.train_batches.lrs[-1]:.3g}"
        else:
            return None
        own = describe_code(names_of_code(self.learn.settings) | self.learn.own_code)
        first = batch == 0 and not self.history.rows
        cause = "It is the very first batch" if first else "A gradient that is not finite has the same effect"
        hint = f" {cause}, so the reason may be code of the user's own: {own}." if own else ""
        clip = "" if self.learn.settings["clip_grad"] else " --clip-grad 1 limits what one batch can do."
        return TrainingError(
            f"The {found}: training diverged. Use a lower --lr (the head's peak is {self.phase.lrs[-1]:g}); "
            f"'xrayfast lr-find' suggests one.{clip}{images}{hint}"
        )

    def _name_images(self, batch: int) -> str:
        """What is known of the images of the first batch whose loss is not finite, in a sentence."""
        outputs, files = self.train_batches.outputs.outputs, self._files(batch)
        if batch >= len(outputs):  # of mixed images none are kept
            return f" Its images: {shorten(files)}."
        finite = outputs[batch].isfinite().flatten(1).all(dim=1).tolist()
        bad = [file for file, ok in zip(files, finite, strict=False) if not ok]
        if bad and any(finite):
            return f" Of its {len(files)} images, the network's outputs are not finite for: {shorten(bad)}."
        if bad and batch:
            return (
                f" The outputs for all of its images are not finite, so the weights were not before it; the batch "
                f"before has: {shorten(self._files(batch - 1))}."
            )
        return f" Its images: {shorten(files)}."

    def _files(self, batch: int) -> list[str]:
        """The images of a training batch."""
        loader, place = self.dls.train, self.train_batches.places[batch]
        paths = loader.dataset.items.table["path"]
        return [str(paths.iloc[row]) for row in loader.rows[place * loader.bs : (place + 1) * loader.bs]]


class History:
    """The finished epochs: the rows of `history.csv`, which of them is best, and their batches.

    Attributes:
        rows: one per finished epoch.
        best_epoch: 1-based number of the best one, or None before the first.
        batches: the table of `xrayfast.runs.batches`.
    """

    def __init__(
        self, rows: list[Row] | None = None, best_epoch: int | None = None, batches: pd.DataFrame | None = None
    ) -> None:
        self.rows = rows or []
        self.best_epoch = best_epoch
        self.batches = empty_batches() if batches is None else batches

    def stale_epochs(self, first_epoch: int, size: int) -> int:
        """Number of epochs since the best one, after `first_epoch` and on images of that size: no epoch on smaller
        images can be the best.
        """
        since = self.rows[max(self.best_epoch or 0, first_epoch) :]
        return sum(row["size"] == size for row in since)

    def add(self, row: Row, monitor: str) -> bool:
        """Append a row; True where it is the best so far."""
        self.rows.append(row)
        best = None if self.best_epoch is None else self.rows[self.best_epoch - 1]
        if best is None or _quality(row, monitor) > _quality(best, monitor):
            self.best_epoch = row["epoch"]
            return True
        return False


def valid_column(name: str) -> str:
    """The column of a value that fastai's Recorder has of the validation split: "valid_loss", or a metric's name."""
    return name if name == "valid_loss" else history_column("valid", name)


def _quality(row: Row, monitor: str) -> tuple[int, float, float]:
    """Sort key, the best epoch last. An epoch on larger images beats any on smaller ones: predictions use the largest
    size. An undefined metric (a class absent from validation) loses to any defined one, and the validation loss breaks
    ties; so early stopping works even if the metric is never defined.
    """
    loss = row["valid_loss"]
    negative_loss = -math.inf if loss is None or math.isnan(loss) else -loss
    value = negative_loss if monitor == "valid_loss" else row.get(monitor)
    return row["size"], (-math.inf if value is None or math.isnan(value) else value), negative_loss
