"""The data that displays receive about phases and folds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol


class DisplayedPhase(Protocol):
    """The interface of a phase of training, which `learning.training.phases.Phase` has."""

    @property
    def name(self) -> str:
        """Name of what is trained."""

    @property
    def epochs(self) -> int:
        """Number of epochs."""

    @property
    def frozen_groups(self) -> int:
        """Number of frozen layer groups."""

    @property
    def lrs(self) -> tuple[float, ...]:
        """The peak learning rate of each layer group."""


@dataclass(frozen=True)
class FoldProgress:
    """The progress of a fold that is trained in its own process.

    Attributes:
        status: "waiting", "starting", "training" or "done".
        rows: rows of `history.csv`, one per finished epoch.
        best_epoch: number of the best epoch; None before the first.
        monitor: the column by which the best epoch is chosen.
    """

    name: str
    status: str
    epochs: int
    rows: Sequence[Mapping[str, Any]]
    best_epoch: int | None
    monitor: str
