"""Progress of training, per batch."""

from __future__ import annotations

import math
import time

from xrayfast.learning.fastai_api import Callback, CancelFitException
from xrayfast.learning.training.callbacks.order import CALLBACK_ORDER
from xrayfast.progress import Reporter

SECONDS_BETWEEN_REPORTS = 0.1
"""Shortest interval between two reports of batches."""


class BatchProgress(Callback):
    """Callback that reports batches to a Reporter.

    Args:
        first_epoch: number of epochs before the phase.
        alone: whether this is the only rank; training then also stops if the reported loss is not finite.
    """

    order = CALLBACK_ORDER["BatchProgress"]

    def __init__(self, reporter: Reporter, first_epoch: int, alone: bool) -> None:
        self.reporter, self.first_epoch, self.alone = reporter, first_epoch, alone

    def before_train(self) -> None:
        """Start to count the images and the time of this split."""
        self.images, self.began = 0, time.perf_counter()
        self.reported = self.began

    before_validate = before_train

    def after_batch(self) -> None:
        """Count images; report ten times per second at most, as reading the loss makes the CPU wait for the device."""
        self.images += len(self.yb[0])  # of all ranks
        now = time.perf_counter()
        due = now - self.reported >= SECONDS_BETWEEN_REPORTS or self.iter + 1 == self.n_iter
        recorder = vars(self.learn).get("recorder")  # absent while a callback predicts, such as FetchPredsCallback
        if due and recorder and recorder.smooth_loss.count:  # 0 if all batches so far were skipped
            self.reported = now
            loss = float(recorder.smooth_loss.value)
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
