"""The finished epochs of a run: their rows, their batches, and which is best."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from xrayfast.metrics.registry import history_column
from xrayfast.runs.batches import empty_batches

Row = dict[str, Any]


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
