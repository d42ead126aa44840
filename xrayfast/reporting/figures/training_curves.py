"""Losses and metrics by epoch, losses by batch, and the learning-rate range test."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

from xrayfast.display.figure_style import BOUNDARY, INK, MARKERS, MUTED, SERIES, SMALL, TEXT, legend_above, style_axes
from xrayfast.display.notebook_figure import NotebookFigure
from xrayfast.errors import ConfigError
from xrayfast.metrics.registry import further_columns, history_column, history_metrics

_MOST_MARKED_EPOCHS = 40
"""Most epochs of a run whose figure has a line between two epochs."""


def loss_and_metric_curves(history: pd.DataFrame, best_epoch: int | None = None) -> Figure:
    """Plot losses (left) and metrics (right) by epoch, with the phases named and the best epoch ringed.

    Metrics on the training split are dashed.

    Args:
        history: one row per epoch: `epoch` (1-based over all phases), `phase`, `train_loss`, `valid_loss`, the columns
            of `metrics.registry.history_metrics` for both splits, and those of the user's own metrics; cells may be
            NaN.
        best_epoch: the epoch whose weights were kept, or None.
    """
    figure = NotebookFigure(figsize=(10, 4.1))
    # Laid out by hand, because matplotlib's own layout takes as long as drawing; with room for two rows of a legend.
    places = {"left": 0.06, "right": 0.99, "bottom": 0.11, "top": 0.8, "wspace": 0.18}
    losses, metrics = figure.subplots(1, 2, gridspec_kw=places)
    draw_loss_curves(losses, history, best_epoch)
    draw_metric_curves(metrics, history, best_epoch)
    return figure


def draw_loss_curves(axes: Axes, history: pd.DataFrame, best_epoch: int | None = None) -> None:
    """Draw the losses of `loss_and_metric_curves`."""
    _curves(axes, history, {"train_loss": "Training loss", "valid_loss": "Validation loss"}, best_epoch)
    axes.set_ylabel("Loss", fontsize=TEXT, color=MUTED)


def draw_metric_curves(axes: Axes, history: pd.DataFrame, best_epoch: int | None = None) -> None:
    """Draw the metrics of `loss_and_metric_curves`."""
    titles = {history_column("valid", name): metric.title for name, metric in history_metrics().items()}
    metric_names = {name: title for name, title in titles.items() if name in history} | further_columns(history.columns)
    _curves(axes, history, metric_names, best_epoch)
    trained = [name for name in map(_train_column, metric_names) if name in history]
    split = "Validation images; dashed: training images" if trained else "On the validation images"
    axes.set_ylabel(split, fontsize=TEXT, color=MUTED)
    values = history[[*metric_names, *trained]].to_numpy(dtype=float)
    if np.isfinite(values).any():
        lowest = math.floor(float(np.nanmin(values)) * 10) / 10
        axes.set_ylim(min(lowest, 0.9) - 0.02, max(1.0, float(np.nanmax(values))) + 0.02)


def smoothed_losses(losses: pd.Series) -> pd.Series:
    """The exponential mean of the losses so far, corrected for its start, over about a fifteenth of them."""
    return losses.ewm(span=max(5, len(losses) / 15)).mean()


def batches_figure(table: pd.DataFrame, epoch: int | None = None) -> Figure:
    """The loss of every batch, and the learning rates below, as a Figure that notebooks display.

    Arguments and errors are those of `draw_batch_losses`.
    """
    figure = NotebookFigure(figsize=(8.6, 4.4))
    places = {"left": 0.08, "right": 0.99, "bottom": 0.11, "top": 0.9, "hspace": 0.1}
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1), gridspec_kw=places)
    draw_batch_losses(above, table, epoch)
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


def draw_batch_losses(axes: Axes, table: pd.DataFrame, epoch: int | None = None) -> None:
    """Draw the loss of each batch (of one `epoch`, if given) thin, their exponential mean thick, a line per epoch."""
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


def lr_figure(lrs: ArrayLike, losses: ArrayLike, suggestions: Mapping[str, float | None]) -> Figure:
    """Return `draw_range_test` as a figure of its own."""
    figure = NotebookFigure(figsize=(7, 4.2), layout="constrained")
    draw_range_test(figure.add_subplot(), lrs, losses, suggestions)
    return figure


def draw_range_test(axes: Axes, lrs: ArrayLike, losses: ArrayLike, suggestions: Mapping[str, float | None]) -> None:
    """Draw the learning-rate range test: loss against learning rate, with the suggestions marked on the curve.

    Args:
        axes: where to draw.
        lrs: (N,) increasing, above 0.
        losses: (N,) from fastai's recorder, which has smoothed them already.
        suggestions: learning rate keyed by the name of its rule; None if the rule found none.
    """
    rates, values = np.asarray(lrs, dtype=float), np.asarray(losses, dtype=float)
    known = np.isfinite(values) & (rates > 0)
    rates, values = rates[known], values[known]
    style_axes(axes, grid=True)
    axes.set_xscale("log")
    axes.plot(rates, values, color=INK, linewidth=1.6, marker="o" if len(rates) == 1 else None)
    for (name, rate), color, marker in zip(suggestions.items(), cycle(SERIES), cycle(MARKERS), strict=False):
        style: dict[str, Any] = {"color": color, "marker": marker, "linestyle": ""}
        if rate is None or not rate > 0 or not len(rates):
            axes.plot([], [], label=f"{name}: none found", **style)
            continue
        height = float(np.interp(math.log(rate), np.log(rates), values))
        axes.axvline(rate, color=color, linewidth=0.8, alpha=0.5)
        axes.plot([rate], [height], markersize=9, label=f"{name}: {rate:.2g}", **style)
    axes.set_xlabel("Learning rate", fontsize=TEXT, color=MUTED)
    axes.set_ylabel("Training loss, smoothed", fontsize=TEXT, color=MUTED)
    if len(values):
        # The test ends where the loss explodes; drawing all of it would flatten the part that matters.
        lowest = values.min()
        fall = values[: max(1, len(values) // 10)].max() - lowest
        top = min(values.max(), lowest + 2 * fall) if fall > 0 else values.max()
        room = 0.06 * (top - lowest) or 0.1
        axes.set_ylim(lowest - room, top + room)
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


def _curves(axes: Axes, history: pd.DataFrame, names: Mapping[str, str], best_epoch: int | None) -> None:
    """Draw the lines of one panel; a series without any value stays in the legend as "not defined"."""
    style_axes(axes, grid=True)
    epochs = history["epoch"].to_numpy(dtype=float)
    series = {column: history[column].to_numpy(dtype=float) for column in names}
    for (column, values), color, marker in zip(series.items(), cycle(SERIES), cycle(MARKERS), strict=False):
        label = names[column] if np.isfinite(values).any() else f"{names[column]} (not defined)"
        axes.plot(epochs, values, color=color, marker=marker, markersize=4.5, linewidth=1.6, label=label)
        if (other := _train_column(column)) in history and other not in names:
            style: dict[str, Any] = {"linestyle": (0, (4, 2)), "linewidth": 1.1, "gid": "train"}
            axes.plot(epochs, history[other].to_numpy(dtype=float), color=color, marker=marker, markersize=3, **style)
    best = epochs == best_epoch
    ringed = [column for column, values in series.items() if column != "train_loss" and np.isfinite(values[best]).any()]
    ring: dict[str, Any] = {"marker": "o", "markersize": 11, "markeredgecolor": INK, "markeredgewidth": 1.2}
    for column in ringed:
        ring["label"] = f"Best epoch ({best_epoch})" if column == ringed[0] else None
        axes.plot(epochs[best], series[column][best], linestyle="", markerfacecolor="none", gid="best-epoch", **ring)
    axes.set_xlabel("Epoch", fontsize=TEXT, color=MUTED)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if len(epochs):
        axes.set_xlim(epochs.min() - 0.5, epochs.max() + 0.5)
        _name_phases(axes, epochs, [str(phase) for phase in history["phase"]])
    legend_width = sum(len(label) for label in map(str, (line.get_label() for line in axes.lines)) if label[0] != "_")
    legend_above(axes, columns=3 if legend_width < 60 else 2)


def _train_column(valid_column: str) -> str:
    return "train_" + valid_column.removeprefix("valid_")


def _name_phases(axes: Axes, epochs: NDArray[np.float64], phases: Sequence[str]) -> None:
    """Draw a line where the phase changes, and write each phase's name above its range of the panel."""
    starts = [0] + [i for i in range(1, len(phases)) if phases[i] != phases[i - 1]]
    ends = [*starts[1:], len(phases)]
    # A panel is about 60 characters of this size wide.
    fits = [(end - start) / len(phases) * 60 > len(phases[start]) + 1 for start, end in zip(starts, ends, strict=True)]
    style: dict[str, Any] = {"transform": axes.get_xaxis_transform(), "fontsize": SMALL, "color": MUTED}
    for index, start in enumerate(starts):
        left = epochs[start] - 0.5
        if index:
            axes.axvline(left, gid="phase", **BOUNDARY)
        # If the first name does not fit, it extends to the left; one between two others goes inside the frame.
        outwards = index == 0 and not fits[0] and len(starts) > 1
        inside = 0 < index < len(starts) - 1 and not fits[index]
        name, side = (f"{phases[start]} ", "right") if outwards else (f" {phases[start]}", "left")
        place = epochs[starts[1]] - 0.5 if outwards else left, 0.985 if inside else 1.01
        axes.text(*place, name, ha=side, va="top" if inside else "bottom", parse_math=False, **style)
