"""The learning rate range test (Smith 2015, "Cyclical Learning Rates for Training Neural Networks")."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from xrayfast.errors import TrainingError, plural
from xrayfast.errors.arguments import check_arguments
from xrayfast.files.csv_tables import write_csv
from xrayfast.learning.fastai_api import Callback, Learner, SuggestionMethod
from xrayfast.learning.training.callbacks.order import CALLBACK_ORDER
from xrayfast.progress import StageProgress

if TYPE_CHECKING:
    from matplotlib.axes import Axes

METHODS = ("valley", "slide", "minimum", "steep")


@dataclass(frozen=True, eq=False, repr=False)
class LRCurve:
    """The result of a range test.

    Attributes:
        lrs: (N,) learning rates, growing geometrically.
        losses: (N,) smoothed training loss at each.
        suggestions: fastai's four suggestions, keyed by name, with "steep" computed from averaged losses. A suggestion
            is None if the curve is too short for it; "steep" also if the curve is steepest at one of its ends.
    """

    lrs: NDArray[np.float64]
    losses: NDArray[np.float64]
    suggestions: dict[str, float | None]

    @property
    def best(self) -> float:
        """The suggestion to use: the valley, which is fastai's default, or the first one that is defined.

        Raises:
            TrainingError: no suggestion is defined.
        """
        for name in METHODS:
            if (suggestion := self.suggestions[name]) is not None:
                return suggestion
        raise TrainingError(
            "The range test gave no usable curve: the loss diverged at once, or there were too few steps. Set --lr "
            "to a number."
        )

    @check_arguments()
    def to_csv(self, path: Path | str) -> None:
        """Write the columns `lr` and `loss`."""
        write_csv(Path(path), pd.DataFrame({"lr": self.lrs, "loss": self.losses}))

    def __repr__(self) -> str:
        found = ", ".join(f"{name} {'none' if lr is None else f'{lr:.2g}'}" for name, lr in self.suggestions.items())
        return f"LRCurve({plural(len(self.lrs), 'step')}; {found})"

    def _repr_html_(self) -> str:
        from xrayfast.reporting.html.overview import range_test_overview, render_overview

        return render_overview(range_test_overview(self.lrs, self.losses, self.suggestions))

    def plot(self, ax: Axes | None = None) -> Any:
        """Plot the curve with the suggestions.

        Args:
            ax: the axes to draw on; None for a new figure.

        Returns:
            The matplotlib Figure, which a notebook displays, or `ax` if it is given.

        Raises:
            ConfigError: `ax` is not a matplotlib Axes.
        """
        from xrayfast.display.notebook_figure import draw_or_display
        from xrayfast.reporting.figures.training_curves import draw_range_test, lr_figure

        return draw_or_display(ax, draw_range_test, lr_figure, self.lrs, self.losses, self.suggestions)


class InterruptRangeTest(Callback):
    """Callback that reports progress after each batch, and stops the test when `interrupted` returns True."""

    order = CALLBACK_ORDER["InterruptRangeTest"]

    def __init__(self, steps: int, interrupted: Callable[[], bool], progress: StageProgress) -> None:
        self.steps, self.interrupted, self.progress = steps, interrupted, progress

    def after_batch(self) -> None:
        """Report progress, and raise KeyboardInterrupt if `interrupted` returns True."""
        self.progress("range test", (self.train_iter + 1) * self.dls.train.bs, self.steps * self.dls.train.bs)
        if self.interrupted():
            raise KeyboardInterrupt


def range_test(
    learn: Learner,
    steps: int = 100,
    interrupted: Callable[[], bool] = lambda: False,
    progress: StageProgress = lambda stage, done, total: None,
) -> LRCurve:
    """Train for some steps while the learning rate grows from 1e-7 to 10, and restore the learner.

    Args:
        learn: a learner, with the layer groups frozen that will be frozen in training.
        steps: batches to train on, at least 20; the test ends early if the loss diverges.
        interrupted: called after each batch; the test stops with a KeyboardInterrupt if it returns True.
        progress: called after each batch with the stage "range test", the images done and all images.
    """
    path, steps = learn.path, max(steps, 20)
    with tempfile.TemporaryDirectory() as scratch:
        learn.path = Path(scratch)  # fastai saves the model there, by default in the data's or the working folder
        try:
            with learn.added_cbs(InterruptRangeTest(steps, interrupted, progress)):
                learn.lr_find(num_it=steps, show_plot=False, suggest_funcs=None)
        finally:
            learn.path = path
            learn.opt.clear_state()
    lrs = torch.tensor(learn.recorder.lrs, dtype=torch.float64)
    losses = torch.tensor([float(loss) for loss in learn.recorder.losses], dtype=torch.float64)
    return LRCurve(lrs.numpy(), losses.numpy(), _suggestions(lrs, losses, steps))


def _suggestions(lrs: torch.Tensor, losses: torch.Tensor, steps: int) -> dict[str, float | None]:
    """Return the suggestions, computed as in fastai without the first tenth of the steps, the last five losses, and all
    from the first one that is not finite.
    """
    undefined = torch.nonzero(~losses.isfinite())
    end = min(len(losses) - 5, int(undefined[0]) if len(undefined) else len(losses))
    lrs, losses = lrs[steps // 10 : max(end, 0)], losses[steps // 10 : max(end, 0)]
    suggestions: dict[str, float | None] = {}
    for name in METHODS:
        try:
            if name == "steep":
                value = _steepest(lrs, losses)
            else:
                value = float(getattr(SuggestionMethod, name.capitalize())(lrs, losses, steps)[0])
        except (IndexError, ValueError, RuntimeError):
            value = math.nan  # too few points for this method
        suggestions[name] = None if math.isnan(value) else value
    return suggestions


def _steepest(lrs: torch.Tensor, losses: torch.Tensor) -> float:
    """Return the learning rate at which the loss falls fastest; NaN within a tenth of either end, or if it never falls.

    Unlike fastai's "steep", it compares means over a tenth of the curve: the steepest step between single losses is
    mostly noise.
    """
    width = max(2, len(losses) // 10)
    means = losses.unfold(0, width, 1).mean(dim=1)
    slopes = means[1:] - means[:-1]  # the learning rate grows by the same factor in each step
    place = int(slopes.argmin())
    inside = width <= place < len(slopes) - width and slopes[place] < 0
    return float(lrs[place + width // 2]) if inside else math.nan
