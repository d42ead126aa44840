"""What a display is told of phases and folds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol


class DisplayedPhase(Protocol):
    """A phase of training, `learning.training.phases.Phase`, as a display sees it."""

    @property
    def name(self) -> str:
        """Of what is trained."""

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
    """How far the training of a fold in a process of its own is.

    Attributes:
        name: such as "fold 2".
        status: "waiting", "starting", "training" or "done".
        epochs: number of epochs of all phases; 0 where it is not known yet.
        rows: of `history.csv`, one per finished epoch.
        best_epoch: number of the best one; None before the first.
        monitor: the column that decides which is best.
    """

    name: str
    status: str
    epochs: int
    rows: Sequence[Mapping[str, Any]]
    best_epoch: int | None
    monitor: str
