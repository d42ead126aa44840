"""Figures that a notebook displays exactly once, and drawing on the user's own axes."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from typing import TypeVar

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backend_bases import RendererBase
from matplotlib.figure import Figure
from matplotlib.text import Text

from xrayfast.display.overview import notebook_shell
from xrayfast.errors import ConfigError
from xrayfast.errors.arguments import show

F = TypeVar("F", bound=Figure)

_pending: list[NotebookFigure] = []
"""Figures that `display_after_cell` will display at the end of the running cell."""


class NotebookFigure(Figure):
    """A Figure that a notebook displays as an image without pyplot; a plain Figure would be printed as text.

    It draws text without TeX, whatever a matplotlibrc says: names of files and labels are no TeX commands.
    """

    def draw(self, renderer: RendererBase) -> None:
        """Draw as matplotlib does, but without TeX."""
        for text in self.findobj(Text):
            text.set_usetex(False)
        super().draw(renderer)

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=110, bbox_inches="tight")
        return buffer.getvalue()

    def _ipython_display_(self) -> None:
        """Display the figure in the notebook's chosen formats, and prevent a second display after the cell."""
        shell = notebook_shell()
        if shell is None:
            raise NotImplementedError
        if self in _pending:
            _pending.remove(self)
            if pyplot := sys.modules.get("matplotlib.pyplot"):
                pyplot.close(self)  # pyplot would display it again
        formatters = shell.display_formatter.formatters
        found = {kind: formatters[kind](self) for kind in formatters if kind.startswith("image/")}
        pairs = {kind: one if isinstance(one, tuple) else (one, {}) for kind, one in found.items() if one is not None}
        data, metadata = ({kind: pair[i] for kind, pair in pairs.items()} for i in (0, 1))
        shell.display_pub.publish(data=data, metadata=metadata)


def display_after_cell(figure: F) -> F:
    """Let a notebook display a figure at the end of the cell that drew it, unless the cell displays it itself.

    So each call that draws shows one image, even in the middle of a cell or before a semicolon, as with pyplot. Until
    then the figure is pyplot's current figure, so that `plt.title` changes it.
    """
    shell = notebook_shell()
    if shell is not None and isinstance(figure, NotebookFigure):
        if _display_pending not in shell.events.callbacks["post_execute"]:
            shell.events.register("post_execute", _display_pending)
        _pending.append(figure)
        pyplot = sys.modules.get("matplotlib.pyplot")
        if pyplot and matplotlib.__version_info__ >= (3, 11):  # older versions accept only pyplot's own figures
            pyplot.figure(figure)
    return figure


def _display_pending() -> None:
    for figure in tuple(_pending):
        figure._ipython_display_()


def draw_or_display(
    ax: Axes | None, draw: Callable[..., object], figure: Callable[..., Figure], *drawn: object
) -> Figure | Axes:
    """Draw on the user's axes or, without any, on a new figure that a notebook displays.

    Args:
        ax: the axes, or None.
        draw: function that draws on axes; called with the axes and `drawn`.
        figure: function that returns a new figure; called with `drawn`.
        drawn: data to draw.

    Returns:
        `ax` if it is given, otherwise the figure.

    Raises:
        ConfigError: `ax` is neither Axes nor None.
    """
    require_axes(ax)
    if ax is None:
        return display_after_cell(figure(*drawn))
    draw(ax, *drawn)
    return ax


def require_axes(ax: object) -> None:
    """Raise a ConfigError unless this is matplotlib's Axes or None."""
    if not isinstance(ax, Axes | None):
        raise ConfigError(f"ax is {show(ax)}; expected one matplotlib Axes, such as plt.subplots()[1].")
