"""The end of each epoch: its row in the history, its checkpoint, early stopping and errors."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

from xrayfast.errors import ConfigError, TrainingError, XrayfastError, shorten
from xrayfast.learning.fastai_api import Callback, CancelFitException, L
from xrayfast.learning.training.callbacks.order import CALLBACK_ORDER
from xrayfast.learning.training.metrics import finite, to_number
from xrayfast.learning.training.phases import Phase
from xrayfast.learning.training.recorders import TrainRecorder
from xrayfast.metrics.registry import history_column
from xrayfast.own_code import describe_code, names_of_code
from xrayfast.progress import Reporter
from xrayfast.runs.batches import add_epoch
from xrayfast.runs.history import History, Row, valid_column


class EpochCheckpoint(Callback):
    """Callback that adds each epoch to the history and saves it, and stops training early or when it diverges.

    Args:
        first_epoch: number of epochs before the phase.
        monitor: the column that decides which epoch is best.
        patience: number of epochs without improvement after which training stops; None for no early stopping.
        save: function that saves the epoch; its argument is whether the epoch is the best so far.
        sizes: the side of the images in each epoch of the phase.

    Attributes:
        failure: error that ended training, to be raised when `fit` returns; or None.
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
        self.stopped_early = self.saved = self.trained = False

    def before_train(self) -> None:
        """Start the epoch's clock, and require the network's own parameters: the optimizer has no others."""
        self.began = time.perf_counter()
        self.trained = True
        known = {id(parameter) for group in self.opt.param_lists for parameter in group}
        if other := [name for name, p in self.learn.model.named_parameters() if id(p) not in known]:
            self.failure = ConfigError(
                f"A callback replaced layers of the network: {shorten(other)}. They would not be trained, and the "
                "run's folder could not describe them. Give fit the whole network as arch= instead."
            )
            raise CancelFitException

    def before_epoch(self) -> None:
        """Mark the epoch as not trained: an epoch that is skipped on resuming leaves no row."""
        self.trained, self.saved = False, False

    def after_epoch(self) -> None:
        """Add the row, save, and decide whether to go on."""
        if not self.trained and self.first_epoch + self.epoch < len(self.history.rows):
            # The recorded values of the skipped epoch, for callbacks that track a metric.
            shown = self.history.rows[self.first_epoch + self.epoch]
            names = [self.recorder.metric_names[1], *map(valid_column, self.recorder.metric_names[2:-1])]
            self.recorder.values[-1] = L(math.nan if shown.get(name) is None else shown[name] for name in names)
            return
        batches, losses = self.train_batches, self.train_batches.read_losses()
        names = self.recorder.metric_names[2:-1]  # without "epoch", the smoothed training loss, and "time" at the end
        if not losses or len(self.recorder.values[-1]) <= len(names):
            self.failure = self._cut_short()
            raise CancelFitException
        valid = {valid_column(n): self._number(n, v) for n, v in zip(names, self.recorder.values[-1][1:], strict=True)}
        # Not raised here: fastai changes the message of an exception that a callback raises.
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
        """Set `failure` if training was ended within an epoch."""
        if self.failure is None and not self.saved:
            if self.training and self.recorder.has_loss:  # another callback ended the batch
                self.train_batches.add_batch()
            self.failure = self._divergence(self.train_batches.read_losses()) or self._cut_short()

    def _cut_short(self) -> TrainingError:
        return TrainingError(
            f"A callback ended epoch {len(self.history.rows) + 1} before it was trained and validated, but fit "
            "records whole epochs. Let the callback raise CancelFitException in after_epoch, with an order above "
            f"{self.order}."
        )

    def _number(self, name: str, value: Any) -> float:
        """Return a metric's value as a float; if it is not a number, return NaN and set `failure`."""
        try:
            return to_number(name, value)
        except TrainingError as error:
            self.failure = error
            return math.nan

    def _divergence(self, losses: Sequence[float], valid_loss: float | None = None) -> TrainingError | None:
        """Return an error for the first loss of the epoch that is not finite; None if all are finite."""
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
        cause = "This was the very first batch" if first else "A gradient that is not finite has the same effect"
        hint = f" {cause}, so the cause may be code of your own: {own}." if own else ""
        clip = "" if self.learn.settings["clip_grad"] else " --clip-grad 1 limits the effect of a single batch."
        return TrainingError(
            f"The {found}: training diverged. Use a lower --lr (the head's peak is {self.phase.lrs[-1]:g}); "
            f"'xrayfast lr-find' suggests one.{clip}{images}{hint}"
        )

    def _name_images(self, batch: int) -> str:
        """Return a sentence that names the images of the first batch whose loss is not finite."""
        outputs, files = self.train_batches.outputs.outputs, self._files(batch)
        if batch >= len(outputs):  # outputs of mixed images are not kept
            return f" Its images: {shorten(files)}."
        finite = outputs[batch].isfinite().flatten(1).all(dim=1).tolist()
        bad = [file for file, ok in zip(files, finite, strict=False) if not ok]
        if bad and any(finite):
            return (
                f" The network's outputs are not finite for {len(bad):,} of its {len(files):,} images: {shorten(bad)}."
            )
        if bad and batch:
            return (
                " The outputs for all of its images are not finite, so the weights were already not finite before "
                f"it. The images of the previous batch: {shorten(self._files(batch - 1))}."
            )
        return f" Its images: {shorten(files)}."

    def _files(self, batch: int) -> list[str]:
        loader, place = self.dls.train, self.train_batches.places[batch]
        paths = loader.dataset.items.table["path"]
        return [str(paths.iloc[row]) for row in loader.rows[place * loader.bs : (place + 1) * loader.bs]]
