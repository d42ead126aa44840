"""Positions in a figure, and names shortened to fit."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

from xrayfast.display.figure_style import INK, MUTED, TEXT
from xrayfast.display.notebook_figure import NotebookFigure
from xrayfast.errors.escapes import escape_hidden

LABEL_CHARACTERS = 30


def zoom(figure: Figure, figsize: Sequence[float] | None) -> Figure:
    """Scale the figure and its text to fit into `figsize` inches; None leaves it unchanged."""
    if figsize is not None:
        width, height = figure.get_size_inches()
        factor = min(figsize[0] / width, figsize[1] / height)
        figure.set_size_inches(factor * width, factor * height)
        for text in figure.findobj(Text):
            text.set_fontsize(factor * text.get_fontsize())
    return figure


def fitting(text: str, width: int = LABEL_CHARACTERS) -> str:
    """Shorten a text to `width` characters by cutting its middle: names with the same beginning stay distinct."""
    text = escape_hidden(text)
    if len(text) <= width:
        return text
    tail = (width - 1) // 2
    return f"{text[: width - 1 - tail]}…{text[len(text) - tail :]}"


def wrap_names(before: str, names: str, after: str, width: int, lines: int) -> list[str]:
    """Wrap `before`, names joined by ", ", and `after` into at most `lines` lines of `width` characters.

    If that is too long, only the first names are given, with how many more there are. A single name that is too long
    is cut in its middle.
    """
    every = escape_hidden(names).split(", ")
    for count in range(len(every), 0, -1):
        more = f", … {len(every) - count} more" if count < len(every) else ""
        wrapped = textwrap.wrap(f"{before}{', '.join(every[:count])}{more}{after}", width)
        if len(wrapped) <= lines:
            return wrapped
    for room in range(len(every[0]) - 1, 0, -1):
        wrapped = textwrap.wrap(f"{before}{fitting(every[0], room)}{more}{after}", width)
        if len(wrapped) <= lines:
            break
    return wrapped


def write_caption(axes: Axes, lines: Sequence[str]) -> None:
    """Write lines below an image, the first in bold."""
    style: dict[str, Any] = {"transform": axes.transAxes, "va": "top", "color": INK, "fontsize": 7.5}
    axes.text(0, -0.03, lines[0], fontweight="bold", parse_math=False, **style)
    axes.text(0, -0.10, "\n".join(lines[1:]), linespacing=1.3, parse_math=False, **style)


def grid_figure(n: int, columns: int, width: float, height: float, gap: float, foot: float = 0.0) -> tuple[Figure, Any]:
    """Return a figure for n cells in rows of at most `columns`, and the left and top of each cell. Lengths are in
    inches; `width` includes one `gap`, and `foot` is free space below the cells.
    """
    columns = max(1, min(columns, n))
    top = math.ceil(n / columns) * height + gap + foot
    places = [(gap + i % columns * width, top - gap - i // columns * height) for i in range(n)]
    return NotebookFigure(figsize=(columns * width + gap, top)), places


def axes_at(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """Add axes to a figure at a position in inches."""
    across, up = figure.get_size_inches()
    return figure.add_axes((left / across, bottom / up, width / across, height / up))


def hide_axes(axes: Axes) -> None:
    """Show neither lines nor ticks, for an image; matplotlib would make the ticks of axes that are only off."""
    axes.set(xticks=(), yticks=())
    axes.set_axis_off()


def message_figure(text: str) -> Figure:
    """Return a small figure with one line of text, in place of an empty one."""
    figure = NotebookFigure(figsize=(5, 1.2))
    figure.add_axes((0, 0, 1, 1)).set_axis_off()  # matplotlib's inline backend shows no figure without axes
    figure.text(0.5, 0.5, text, ha="center", va="center", fontsize=TEXT, color=MUTED)
    return figure
