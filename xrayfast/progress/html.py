"""Progress as HTML without scripts: a bar, a table of epochs and a plot, in colors for light and dark themes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

from xrayfast.errors import format_cell
from xrayfast.errors.escapes import escape_hidden
from xrayfast.progress.wording import LOSSES, format_duration, metric_columns

MOST_ROWS = 50
"""Largest number of epochs in the table. For longer runs it has the last ones and the best."""

COLORS = ("#2b8cd6", "#dd6b10", "#0ca37a", "#c06aa8", "#b98a00", "#7f7fd5")
"""Colors of the plot: those of reports, adjusted to a contrast of 3 or more on white and on near-black."""

WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 360, 170, 44, 26, 22
"""Size of a panel of the plot, and its margins, in pixels."""

_LINE = "1px solid rgba(128,128,128,.35)"
_MUTED = "opacity:.72"

Series = Mapping[str, Sequence[tuple[int, float]]]
"""The points (epoch, value) of each line, keyed by name."""


@dataclass(frozen=True)
class Bar:
    """A progress bar."""

    title: str
    done: int
    total: int
    text: str

    def render(self) -> str:
        """Return the bar as a line of HTML."""
        return (
            f'<div><progress value="{self.done}" max="{max(self.total, 1)}" '
            'style="width:180px;vertical-align:middle;accent-color:#2b8cd6"></progress> '
            f'<b>{_text(self.title)}</b> <span style="{_MUTED}">{_text(self.text)}</span></div>'
        )


@dataclass
class EpochTable:
    """The epochs so far, with a table and a plot that are rendered once per epoch."""

    rows: list[Mapping[str, Any]] = field(default_factory=list)
    best_epoch: int = 0
    html: str = ""

    @property
    def last_epoch(self) -> int:
        """Number of the last epoch; 0 before the first."""
        return self.rows[-1]["epoch"] if self.rows else 0

    def seconds_per_epoch(self, first: int) -> float | None:
        """Return the mean duration of the epochs after number `first`; None if there are none."""
        seconds = [row["seconds"] for row in self.rows if row["epoch"] > first]
        return sum(seconds) / len(seconds) if seconds else None

    def add(self, row: Mapping[str, Any], best: bool, rate: float | None) -> None:
        """Add an epoch that was trained at `rate` images per second; None if that is not known."""
        self.rows.append({**row, "rate": rate})
        self.best_epoch = row["epoch"] if best else self.best_epoch
        self.html = self._table() + self._plot()

    def _table(self) -> str:
        columns = {"epoch": "epoch", "phase": "phase", **LOSSES, **metric_columns(self.rows[-1])}
        head = [*columns.values(), "images/s", "time"]
        shown = [row for row in self.rows[:-MOST_ROWS] if row["epoch"] == self.best_epoch] + self.rows[-MOST_ROWS:]
        body = [self._row(row, list(columns)) for row in shown]
        more = len(self.rows) - len(shown)
        caption = f'<div style="{_MUTED}">{more} earlier epochs are in history.csv.</div>' if more else ""
        return caption + render_table(head, body)

    def _row(self, row: Mapping[str, Any], columns: Sequence[str]) -> tuple[list[str], bool]:
        best = row["epoch"] == self.best_epoch
        rate = "–" if row["rate"] is None else f"{row['rate']:.1f}"
        texts = [format_cell(row.get(name)) for name in columns] + [rate, format_duration(row["seconds"])]
        texts[0] += " (best)" * best
        return texts, best

    def _plot(self) -> str:
        metrics = metric_columns(self.rows[-1])
        panels = [
            ("Loss", {title: self._points(name) for name, title in LOSSES.items()}),
            ("Validation metrics", {title: self._points(name) for name, title in metrics.items()}),
        ]
        return (
            '<div style="display:flex;flex-wrap:wrap;gap:8px">'
            + "".join(_panel(title, series, self.best_epoch) for title, series in panels if any(series.values()))
            + "</div>"
        )

    def _points(self, name: str) -> list[tuple[int, float]]:
        values = ((row["epoch"], row.get(name)) for row in self.rows)
        return [(epoch, float(value)) for epoch, value in values if value is not None and math.isfinite(value)]


_CELL = "padding:2px 10px 2px 0;text-align:right;background:none;"


def render_table(head: Sequence[str], rows: Sequence[tuple[Sequence[str], bool]]) -> str:
    """Return a table as HTML. Each row has its cells and whether it is bold."""
    cells = "".join(f'<th style="{_CELL}font-weight:600">{_text(name)}</th>' for name in head)
    body = ""
    for texts, bold in rows:
        style = _CELL + ("font-weight:600;" if bold else "")
        row = "".join(f'<td style="{style}">{_text(text)}</td>' for text in texts)
        body += f'<tr style="border-top:{_LINE}">{row}</tr>'
    return (
        '<div style="overflow-x:auto"><table style="border-collapse:collapse;margin:4px 0;color:inherit;'
        f'font-size:12px;font-variant-numeric:tabular-nums"><thead><tr>{cells}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def render_page(title: str, bar: Bar | None, table: EpochTable, notes: Sequence[str]) -> str:
    """Return the whole output of a cell as HTML."""
    noted = "".join(f"<li>{_text(note)}</li>" for note in notes)
    return (
        '<div style="font-size:13px;line-height:1.5;color:inherit">'
        + (f'<div style="{_MUTED}">{_text(title)}</div>' if title else "")
        + (bar.render() if bar else "")
        + table.html
        + (
            f'<details open><summary>Notes</summary><ul style="margin:2px 0 2px 18px;padding:0">{noted}</ul></details>'
            if notes
            else ""
        )
        + "</div>"
    )


def _panel(title: str, series: Series, best_epoch: int) -> str:
    """Draw one panel as SVG: a line per series over the epochs, and a dashed line at the best epoch."""
    points = [point for line in series.values() for point in line]
    epochs, values = [point[0] for point in points], [point[1] for point in points]
    low, high = min(values), max(values)
    low, high = (low - 0.05, high + 0.05) if high - low < 1e-9 else (low, high)
    first, last = min(epochs), max(epochs)
    right, bottom = WIDTH - 8, HEIGHT - BOTTOM

    def place(epoch: float, value: float) -> tuple[float, float]:
        across = (epoch - first) / (last - first) if last > first else 0.5
        return LEFT + 6 + across * (right - LEFT - 12), bottom - 6 - (value - low) / (high - low) * (bottom - TOP - 12)

    drawn = []
    if first <= best_epoch <= last:
        x = place(best_epoch, low)[0]
        drawn.append(f'<path d="M{x:.1f} {TOP}V{bottom}" stroke="currentColor" opacity=".45" stroke-dasharray="3 3"/>')
    legend, across = [], LEFT
    for i, (name, line) in enumerate(series.items()):
        if not line:
            continue
        color, dash = COLORS[i % len(COLORS)], ' stroke-dasharray="6 3"' * (i >= len(COLORS))
        where = [place(*point) for point in line]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in where)
        drawn.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="1.8"{dash}/>')
        dots = where if len(where) <= 40 else where[-1:]
        drawn += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.4" fill="{color}"/>' for x, y in dots]
        legend.append(
            f'<path d="M{across} 12h14" stroke="{color}" stroke-width="2.5"{dash}/>'
            f'<text x="{across + 18}" y="16">{_text(name)}</text>'
        )
        across += 30 + round(6.2 * len(name))
    labels = [
        f'<text x="{LEFT - 4}" y="{place(first, value)[1] + 4:.1f}" text-anchor="end">{format_cell(value)}</text>'
        for value in (low, high)
    ] + [
        f'<text x="{place(epoch, low)[0]:.1f}" y="{HEIGHT - 6}" text-anchor="middle">{epoch}</text>'
        for epoch in sorted({first, last, *({best_epoch} if first < best_epoch < last else ())})
    ]
    return (
        f'<svg role="img" aria-label="{_text(title)} by epoch" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'style="width:{WIDTH}px;max-width:100%;height:auto;color:inherit" font-size="11" fill="currentColor">'
        f'<path d="M{LEFT} {TOP}V{bottom}H{right}" fill="none" stroke="currentColor" opacity=".45"/>'
        + "".join(drawn + legend + labels)
        + f'<text x="{LEFT - 4}" y="{HEIGHT - 6}" text-anchor="end" opacity=".72">epoch</text></svg>'
    )


def _text(text: str) -> str:
    return escape(escape_hidden(text))
