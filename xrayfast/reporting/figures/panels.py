"""Square panels for curves, in rows and columns, with both axes from 0 to 1."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator

from xrayfast.display.figure_style import GRID, INK, MUTED, SMALL, TEXT, style_axes
from xrayfast.display.notebook_figure import NotebookFigure
from xrayfast.reporting.figures.layout import axes_at, fitting

COLUMNS = 5
TITLE_CHARACTERS, REMARK_CHARACTERS = 26, 40

# Free space in inches between panels for tick labels and titles, and below them for a legend.
LEFT, ACROSS, ABOVE, BELOW = 0.6, 0.32, 0.46, 0.34


class Panels:
    """A figure of equal panels, laid out by hand because matplotlib's own layout takes seconds for so many."""

    def __init__(self, n: int, side: float | None = None, strip: float = 0.0) -> None:
        side = {1: 3.6, 2: 3.0, 3: 2.5}.get(n, 1.75) if side is None else side
        self._columns = max(1, min(COLUMNS, n))
        self._rows = max(1, math.ceil(n / self._columns))
        self._side, self._strip = side, strip
        self._ticks = (0.0, 0.5, 1.0) if side < 2 else tuple(i / 5 for i in range(6))
        self._width = LEFT + self._columns * (side + ACROSS)
        self._height = self._rows * (ABOVE + side + strip + BELOW) + 0.14
        self.figure: Figure = NotebookFigure(figsize=(self._width, self._height))

    def panel(self, index: int, title: str = "", remark: str = "") -> Axes:
        """Add the square of one panel, row by row from 0, with a title above it and a small remark below the title."""
        axes = self._axes(index, self._side, 0.0)
        style_square(axes, self._ticks)
        axes.tick_params(labelbottom=not self._strip)
        if remark:
            _write(axes, 0.05 / self._side, fitting(remark, REMARK_CHARACTERS), SMALL - 1, MUTED)
        if title:
            _write(axes, (0.2 if remark else 0.05) / self._side, fitting(title, TITLE_CHARACTERS), TEXT, INK)
        return axes

    def strip(self, index: int) -> Axes:
        """Add the flat panel below a square one, for counts."""
        axes = self._axes(index, self._strip, self._side + 0.06)
        style_axes(axes)
        _style_x(axes, self._ticks)
        axes.set_yticks([])
        return axes

    def done(self, x: str, y: str, handles: Sequence[Line2D] = (), names: Sequence[str] = ()) -> Figure:
        """Return the figure with a label for all x axes, one for all y axes and, if there are handles, a legend."""
        middle = (LEFT + self._columns * (self._side + ACROSS) / 2 - ACROSS / 2) / self._width
        style: dict[str, Any] = {"fontsize": TEXT, "color": MUTED}
        self.figure.text(middle, 0.08 / self._height, x, ha="center", va="center", **style)
        self.figure.text(0.14 / self._width, 0.5, y, ha="center", va="center", rotation=90, **style)
        if handles:
            place = (LEFT / self._width, -0.04 / self._height)
            columns = len(handles) if max(map(len, names)) < 22 else 1
            name_lines(self.figure, handles, names, loc="upper left", bbox_to_anchor=place, ncols=columns)
        return self.figure

    def _axes(self, index: int, height: float, below: float) -> Axes:
        row, column = divmod(index, self._columns)
        left = LEFT + column * (self._side + ACROSS)
        top = self._height - ABOVE - row * (ABOVE + self._side + self._strip + BELOW) - below
        return axes_at(self.figure, left, top - height, self._side, height)


def style_square(axes: Axes, ticks: Sequence[float] = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)) -> None:
    """Set limits, ticks and grid of a panel with both axes from 0 to 1."""
    style_axes(axes)
    _style_x(axes, ticks)
    axes.set_ylim(-0.02, 1.02)
    axes.yaxis.set_major_locator(FixedLocator(ticks))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.grid(color=GRID, linewidth=0.8)


def style_y(axes: Axes) -> None:
    """Few ticks, near the axis: small panels leave little room between them."""
    axes.tick_params(axis="y", pad=1, labelsize=SMALL - 1)
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))


def name_lines(owner: Figure | Axes, handles: Sequence[Line2D], names: Sequence[str], **place: Any) -> None:
    """Add a legend, by default without a frame, in which no name is parsed as TeX or left out."""
    style: dict[str, Any] = {"frameon": False, "borderaxespad": 0, "handlelength": 2.8}
    style |= {"fontsize": SMALL, "labelcolor": INK} | place
    # The texts are set afterwards, because matplotlib leaves out a name that begins with an underscore.
    legend = owner.legend(handles, ["."] * len(handles), **style)
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set_parse_math(False)
        text.set_text(name)


def _style_x(axes: Axes, ticks: Sequence[float]) -> None:
    axes.set_xlim(-0.02, 1.02)
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_major_formatter("{x:g}")


def _write(axes: Axes, above: float, text: str, size: float, color: str) -> None:
    """Write a line of text above a panel; `above` is the distance as a share of the panel's height."""
    axes.text(
        0.0, 1.0 + above, text, transform=axes.transAxes, fontsize=size, color=color, va="bottom", parse_math=False
    )
