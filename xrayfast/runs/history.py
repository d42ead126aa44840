"""The finished epochs of a run: their rows, their batches, and the best one."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from xrayfast.metrics.registry import history_column
from xrayfast.runs.batches import empty_batches

Row = dict[str, Any]


class History:
    """The finished epochs: the rows of `history.csv`, the best one, and the batches.

    Attributes:
        best_epoch: 1-based number of the best epoch; None before the first.
        batches: table of batches, see `xrayfast.runs.batches`.
    """

    def __init__(
        self, rows: list[Row] | None = None, best_epoch: int | None = None, batches: pd.DataFrame | None = None
    ) -> None:
        self.rows = rows or []
        self.best_epoch = best_epoch
        self.batches = empty_batches() if batches is None else batches

    def stale_epochs(self, first_epoch: int, size: int) -> int:
        """Return the number of epochs since the best one and after `first_epoch`, on images of `size` px.

        Epochs on smaller images don't count, since they can't become the best.
        """
        since = self.rows[max(self.best_epoch or 0, first_epoch) :]
        return sum(row["size"] == size for row in since)

    def add(self, row: Row, monitor: str) -> bool:
        """Append a row, and return whether it is the best so far."""
        self.rows.append(row)
        best = None if self.best_epoch is None else self.rows[self.best_epoch - 1]
        if best is None or _quality(row, monitor) > _quality(best, monitor):
            self.best_epoch = row["epoch"]
            return True
        return False


def valid_column(name: str) -> str:
    """Return the history column of a validation value in fastai's Recorder: "valid_loss", or a metric by its name."""
    return name if name == "valid_loss" else history_column("valid", name)


def _quality(row: Row, monitor: str) -> tuple[int, float, float]:
    """Return a key by which the best epoch has the largest value.

    An epoch on larger images is better than any on smaller ones, since predictions use the largest size. An undefined
    metric (a class without validation images) is worse than any defined one. The validation loss breaks ties, so that
    early stopping works even if the metric is never defined.
    """
    loss = row["valid_loss"]
    negative_loss = -math.inf if loss is None or math.isnan(loss) else -loss
    value = negative_loss if monitor == "valid_loss" else row.get(monitor)
    return row["size"], (-math.inf if value is None or math.isnan(value) else value), negative_loss
