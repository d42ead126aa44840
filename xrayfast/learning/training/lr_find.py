"""The learning rate range test (Smith 2015, "Cyclical Learning Rates for Training Neural Networks")."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from xrayfast.errors import TrainingError
from xrayfast.files import write_csv
from xrayfast.learning.fastai_api import Callback, Learner, SuggestionMethod
from xrayfast.learning.training.mixed_precision import leave_autocast

METHODS = ("valley", "slide", "minimum", "steep")


@dataclass(frozen=True, eq=False)
class LRCurve:
    """What a range test measured.

    Attributes:
        lrs: (N,) learning rates, growing geometrically.
        losses: (N,) smoothed training loss at each.
        suggestions: fastai's four suggestions by name; None where the curve is too short for one.
    """

    lrs: NDArray[np.float64]
    losses: NDArray[np.float64]
    suggestions: dict[str, float | None]

    @property
    def best(self) -> float:
        """The suggestion to use: the valley's, fastai's default, or the first that there is.

        Raises:
            TrainingError: there is none.
        """
        for name in METHODS:
            if (found := self.suggestions[name]) is not None:
                return found
        raise TrainingError(
            "The range test gave no usable curve: it diverged at once, or had too few steps. Give --lr a number."
        )

    def to_csv(self, path: Path) -> None:
        """Write the columns lr and loss."""
        write_csv(path, pd.DataFrame({"lr": self.lrs, "loss": self.losses}))

    def plot(self) -> Any:
        """The curve with its suggestions, as a matplotlib Figure."""
        from xrayfast.report.figures import lr_figure

        return lr_figure(self.lrs, self.losses, self.suggestions)


class _Stop(Callback):
    """Stops the test between two batches when asked to."""

    def __init__(self, interrupted: Callable[[], bool]) -> None:
        self.interrupted = interrupted

    def after_batch(self) -> None:
        if self.interrupted():
            raise KeyboardInterrupt


def range_test(learn: Learner, steps: int = 100, interrupted: Callable[[], bool] = lambda: False) -> LRCurve:
    """Train for some steps while the learning rate grows from 1e-7 to 10; the learner is left as it was.

    Args:
        learn: a learner, frozen as it is to be trained.
        steps: batches to train on, at least 20; fewer are used where the loss diverges.
        interrupted: asked after each batch whether to stop, with a KeyboardInterrupt.
    """
    path = learn.path
    with tempfile.TemporaryDirectory() as scratch:
        learn.path = Path(scratch)  # fastai saves the model there; its default is the data's or the working folder
        try:
            with learn.added_cbs(_Stop(interrupted)):
                learn.lr_find(num_it=max(steps, 20), show_plot=False, suggest_funcs=None)
        finally:
            leave_autocast(learn)
            learn.path = path
            learn.opt.clear_state()
    lrs = torch.tensor(learn.recorder.lrs, dtype=torch.float64)
    losses = torch.tensor([float(loss) for loss in learn.recorder.losses], dtype=torch.float64)
    return LRCurve(lrs.numpy(), losses.numpy(), _suggestions(lrs, losses, max(steps, 20)))


def _suggestions(lrs: torch.Tensor, losses: torch.Tensor, steps: int) -> dict[str, float | None]:
    """Fastai's suggestions on what fastai gives them: without the first tenth, the last five and all after a NaN."""
    bad = torch.nonzero(~losses.isfinite())
    end = min(len(losses) - 5, int(bad[0]) if len(bad) else len(losses))
    lrs, losses = lrs[steps // 10 : max(end, 0)], losses[steps // 10 : max(end, 0)]
    found: dict[str, float | None] = {}
    for name in METHODS:
        try:
            value = float(getattr(SuggestionMethod, name.capitalize())(lrs, losses, steps)[0])
        except (IndexError, ValueError, RuntimeError):
            value = math.nan  # too few points for this method
        found[name] = value if math.isfinite(value) and value > 0 else None
    return found
