"""Forest plots: estimates with their intervals, one row per label, subgroup or run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from xrayfast.display.figure_style import BOUNDARY, GRID, INK, MUTED, SERIES, SMALL, TEXT, style_axes
from xrayfast.display.notebook_figure import NotebookFigure
from xrayfast.errors import format_interval, format_value
from xrayfast.metrics.summary import interval_of
from xrayfast.reporting.figures.layout import axes_at, fitting
from xrayfast.reporting.wording import label_rows, positive_class_metric

ROW, ABOVE, BELOW = 0.235, 0.36, 0.32
NAMES, VALUES, GAP = 1.95, 1.22, 0.16
NAME_CHARACTERS = 20

GUESS = {"auroc": 0.5, "auroc_macro": 0.5}
"""The value of a random classifier, for metrics for which it does not depend on the data."""


@dataclass(frozen=True)
class Estimate:
    """A value with its interval; None if not defined. `guess` is the value of a random classifier, if known."""

    value: float | None
    low: float | None = None
    high: float | None = None
    guess: float | None = None


@dataclass(frozen=True)
class ForestRow:
    """A row: its name, a remark in smaller type such as a number of images, and one estimate per column."""

    name: str
    aside: str
    estimates: Sequence[Estimate]


def label_forest(summary: Mapping[str, Any], metrics: Sequence[str]) -> list[ForestRow]:
    """Return one row per label of `label_rows`."""
    rows = []
    for row in label_rows(summary):
        known = row["support"] + row["negatives"]
        share = row["support"] / known if known else None
        estimates = [
            _estimate(
                row.get(name), interval_of(summary, name, row["label"]), share if name == "ap" else GUESS.get(name)
            )
            for name in metrics
        ]
        rows.append(ForestRow(row["label"], f"{row['support']:,}", estimates))
    return rows


def group_forest(groups: Sequence[Mapping[str, Any]], metrics: Sequence[str]) -> list[ForestRow]:
    """Return one row per subgroup (`metrics.json`, "subgroups"); metrics as in `wording.positive_class_metric`."""

    def estimate(group: Mapping[str, Any], metric: str) -> Estimate:
        _, name, row = positive_class_metric(group, metric)
        value = (group["overall"] if row is None else row).get(name)
        return _estimate(value, interval_of(group, name, row["label"] if row else None), GUESS.get(metric))

    return [
        ForestRow(str(group["value"]), f"{group['images']:,}", [estimate(group, metric) for metric in metrics])
        for group in groups
    ]


def forest_figure(rows: Sequence[ForestRow], titles: Sequence[str], width: float = 9.2) -> Figure:
    """Return `draw_forest` as a figure of its own, `width` inches wide."""
    height = forest_height(len(rows))
    figure: Figure = NotebookFigure(figsize=(width, height))
    draw_forest(figure, rows, titles, height, width)
    return figure


def forest_height(rows: int) -> float:
    """Return the height of a forest plot in inches."""
    return ABOVE + rows * ROW + BELOW


def draw_forest(figure: Figure, rows: Sequence[ForestRow], titles: Sequence[str], top: float, width: float) -> None:
    """Draw rows of estimates from the left edge, one panel per metric, with the numbers beside each estimate."""
    room = (width - NAMES) / len(titles)
    height = len(rows) * ROW
    bottom = top - ABOVE - height
    across, up = figure.get_size_inches()
    for i, row in enumerate(rows):
        y = (top - ABOVE - (i + 0.5) * ROW) / up
        style: dict[str, Any] = {"va": "center", "parse_math": False}
        figure.text(0.0, y, fitting(row.name, NAME_CHARACTERS), fontsize=TEXT, color=INK, **style)
        figure.text((NAMES - 0.1) / across, y, row.aside, ha="right", fontsize=SMALL - 1, color=MUTED, **style)
    for j, title in enumerate(titles):
        axes = axes_at(figure, NAMES + j * room, bottom, room - VALUES - GAP, height)
        _draw_column(axes, [row.estimates[j] for row in rows], title)


def _draw_column(axes: Any, estimates: Sequence[Estimate], title: str) -> None:
    style_axes(axes)
    axes.spines["left"].set_visible(False)
    axes.set_yticks([])
    axes.set_ylim(len(estimates) - 0.5, -0.5)
    low = min((end for one in estimates for end in (one.low, one.value, one.guess) if end is not None), default=0.0)
    high = max((end for one in estimates for end in (one.high, one.value, one.guess) if end is not None), default=1.0)
    start, end = math.floor(10 * low - 0.2) / 10, math.ceil(10 * high + 0.2) / 10
    axes.set_xlim(max(start, -0.02) if low >= 0 else start, min(end, 1.02) if high <= 1 else end)
    inches = axes.get_position().width * axes.figure.get_figwidth()
    axes.xaxis.set_major_locator(MaxNLocator(4 if inches > 1 else 2))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.grid(axis="x", color=GRID, linewidth=0.8)
    guesses = {one.guess for one in estimates}
    if len(guesses) == 1 and None not in guesses:
        axes.axvline(estimates[0].guess, gid="guessing", **BOUNDARY)
    for i, one in enumerate(estimates):
        if len(guesses) > 1 and one.guess is not None:
            axes.plot([one.guess], [i], "|", color=MUTED, markersize=7, gid="guessing")
        text = "not defined"
        if one.value is not None:
            text = format_value(one.value)
            if one.low is not None and one.high is not None:
                axes.plot([one.low, one.high], [i, i], color=SERIES[0], linewidth=1.4, gid="interval")
                text += f" ({format_interval(one.low, one.high)})"
            axes.plot([one.value], [i], "o", color=SERIES[0], markersize=4.5, gid="value")
        place: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "va": "center"}
        axes.annotate(
            text, (1, i), (5, 0), fontsize=SMALL - 0.5, color=INK if one.value is not None else MUTED, **place
        )
    axes.set_title(title, loc="left", fontsize=TEXT, color=INK)


def _estimate(value: float | None, interval: Mapping[str, Any] | None, guess: float | None) -> Estimate:
    found = interval or {}
    return Estimate(value, found.get("low"), found.get("high"), guess)
