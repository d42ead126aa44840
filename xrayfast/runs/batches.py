"""`batches.csv`: the loss and the learning rates of every training batch, as a table and as a figure.

The table is bounded: a long run keeps, of each so many consecutive batches, the one with the lowest and the one with
the highest loss. How many is in the column `batches`, the same in all rows; 1 where every batch has its row.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from xrayfast.errors import ConfigError, RunError
from xrayfast.files.atomic import write_text
from xrayfast.files.csv_tables import read_csv

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_ROWS = 20_000
"""Most rows of a table, unless each epoch has two already."""

_TYPES: dict[Any, Any] = {
    "epoch": "int64",
    "batch": "int64",
    "loss": float,
    "lr": float,
    "lr_lowest": float,
    "batches": "int64",
}

_MOST_MARKED_EPOCHS = 40
"""Most epochs of a run whose figure has a line between two epochs."""


def empty_batches() -> pd.DataFrame:
    """The table before the first epoch: `epoch` and `batch` from 1, `loss` of the batch, `lr` of the head, `lr_lowest`
    of the first unfrozen layer group, and `batches`.
    """
    table: pd.DataFrame = pd.DataFrame(columns=list(_TYPES)).astype(_TYPES)
    return table


def read_batches(path: Path) -> pd.DataFrame:
    """Read `batches.csv`; numbers are those that were written, to the bit.

    Raises:
        RunError: it can't be read, lacks a column, or holds something else than numbers.
    """
    table: pd.DataFrame = read_csv(path, list(_TYPES), dtype=str)  # pandas' own parser may round the last digit
    try:
        table = table.astype(_TYPES)
    except ValueError as error:
        raise RunError(f"{path}: expected numbers ({error}).") from error
    return table


def write_batches(path: Path, table: pd.DataFrame) -> None:
    """Write `batches.csv`, whole or not at all; 1.6 times as fast as pandas, as it is written after each epoch."""
    rows = zip(*(table[name].tolist() for name in _TYPES), strict=True)
    lines = [",".join(_TYPES), *(",".join(map(str, row)) for row in rows)]
    write_text(path, "\n".join(lines) + "\n")


def add_epoch(
    table: pd.DataFrame,
    epoch: int,
    losses: Sequence[float],
    lrs: Sequence[float],
    lowest_lrs: Sequence[float],
    most_rows: int = MOST_ROWS,
) -> pd.DataFrame:
    """The table with an epoch more, thinned further where it has grown over `most_rows`.

    What is left depends on the batches alone, not on when the table was thinned or read again.
    """
    rows = {"epoch": epoch, "batch": np.arange(1, len(losses) + 1), "loss": losses, "lr": lrs, "lr_lowest": lowest_lrs}
    added = pd.DataFrame({**rows, "batches": 1}).astype(_TYPES)
    width = int(table["batches"].iloc[0]) if len(table) else 1
    whole = pd.concat([table, thin_batches(added, width)], ignore_index=True)
    while len(whole) > most_rows and width < whole["batch"].max():
        width = max(4, 2 * width)  # of two, both would stay
        whole = thin_batches(whole, width)
    return whole


def thin_batches(table: pd.DataFrame, width: int) -> pd.DataFrame:
    """Of each `width` consecutive batches of an epoch (fewer at its end), those with the lowest and the highest loss.

    Thinning in steps, each a multiple of the last, gives the same as thinning once.
    """
    if width == 1:
        return table
    losses = table.groupby(["epoch", (table["batch"] - 1) // width])["loss"]
    chosen = np.union1d(losses.idxmin(), losses.idxmax())
    thinned: pd.DataFrame = table.loc[chosen].reset_index(drop=True).assign(batches=width)
    return thinned


def smoothed_losses(losses: pd.Series) -> pd.Series:
    """The exponential mean of the losses so far, corrected for its start, over about a fifteenth of them."""
    smoothed: pd.Series = losses.ewm(span=max(5, len(losses) / 15)).mean()
    return smoothed


def batches_figure(table: pd.DataFrame, epoch: int | None = None) -> Figure:
    """The loss of every batch, and the learning rates below, as a Figure that notebooks display.

    Arguments and errors are those of `draw_losses`.
    """
    from xrayfast.display.figure_style import MUTED, SERIES, TEXT, style_axes
    from xrayfast.display.notebook_figure import NotebookFigure

    figure = NotebookFigure(figsize=(8.6, 4.4))
    places = {"left": 0.08, "right": 0.99, "bottom": 0.11, "top": 0.9, "hspace": 0.1}
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1), gridspec_kw=places)
    draw_losses(above, table, epoch)
    above.set_xlabel("")
    rows, x, name = _of_epoch(table, epoch)
    style_axes(below, grid=True)
    below.plot(x, rows["lr"], color=SERIES[1], linewidth=1.2, gid="lr")
    if not rows["lr"].equals(rows["lr_lowest"]):
        below.plot(x, rows["lr_lowest"], color=SERIES[1], linewidth=1.2, linestyle=":", gid="lr-lowest")
        below.set_yscale("log")
    below.set_ylabel("Learning rate", fontsize=TEXT, color=MUTED)
    below.set_xlabel(name, fontsize=TEXT, color=MUTED)
    return figure


def draw_losses(axes: Axes, table: pd.DataFrame, epoch: int | None = None) -> None:
    """Draw the loss of every batch thin, their exponential mean thick, and a line where an epoch begins.

    Args:
        axes: where to draw.
        table: as `read_batches` gives it.
        epoch: draw only this one, by the number of the batch; None for all.

    Raises:
        ConfigError: the table has no such epoch.
    """
    from matplotlib.ticker import MaxNLocator

    from xrayfast.display.figure_style import BOUNDARY, MUTED, SERIES, TEXT, legend_above, style_axes

    rows, x, name = _of_epoch(table, epoch)
    style_axes(axes, grid=True)
    width = int(rows["batches"].iloc[0]) if len(rows) else 1
    each = "Each batch" if width == 1 else f"Lowest and highest of each {width} batches"
    axes.plot(x, rows["loss"], color=SERIES[0], linewidth=0.6, alpha=0.5, gid="batches", label=each)
    style: dict[str, Any] = {"color": SERIES[0], "linewidth": 2, "marker": "o" if len(rows) == 1 else None}
    axes.plot(x, smoothed_losses(rows["loss"]), gid="smoothed", label="Smoothed", **style)
    epochs = rows["epoch"].unique()
    for start in epochs[1:] - 1 if len(epochs) <= _MOST_MARKED_EPOCHS else ():
        axes.axvline(start, gid="epoch", **BOUNDARY)
    axes.set_xlabel(name, fontsize=TEXT, color=MUTED)
    axes.set_ylabel("Training loss", fontsize=TEXT, color=MUTED)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    legend_above(axes, columns=2)


def _of_epoch(table: pd.DataFrame, epoch: int | None) -> tuple[pd.DataFrame, pd.Series, str]:
    """The rows to draw, where each is on the x axis, and the name of that axis."""
    if epoch is None:
        length = table.groupby("epoch")["batch"].transform("max")
        return table, table["epoch"] - 1 + table["batch"] / length, "Epochs trained"
    rows = table[table["epoch"] == epoch]
    if rows.empty:
        there = f"epochs {table['epoch'].min()} to {table['epoch'].max()}" if len(table) else "no epoch"
        raise ConfigError(f"epoch is {epoch}; this run has the batches of {there}.")
    return rows, rows["batch"], f"Batch of epoch {epoch}"
