"""Figures that a notebook displays once, and axes of the user's own."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from typing import TypeVar

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from xrayfast.display.overview import notebook_shell
from xrayfast.errors import ConfigError
from xrayfast.errors.arguments import show

F = TypeVar("F", bound=Figure)

_pending: list[NotebookFigure] = []
"""What `display_after_cell` displays at the end of the cell that is running."""


class NotebookFigure(Figure):
    """A Figure that a notebook displays without pyplot, which alone would print it as text."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=110, bbox_inches="tight")
        return buffer.getvalue()

    def _ipython_display_(self) -> None:
        """Display it in the formats that the notebook has chosen, and no second time after the cell.

        Raises:
            NotImplementedError: there is no notebook; IPython takes another format then.
        """
        shell = notebook_shell()
        if shell is None:
            raise NotImplementedError
        if self in _pending:
            _pending.remove(self)
            if pyplot := sys.modules.get("matplotlib.pyplot"):
                pyplot.close(self)  # which would display it again
        formatters = shell.display_formatter.formatters
        found = {kind: formatters[kind](self) for kind in formatters if kind.startswith("image/")}
        pairs = {kind: one if isinstance(one, tuple) else (one, {}) for kind, one in found.items() if one is not None}
        data, metadata = ({kind: pair[i] for kind, pair in pairs.items()} for i in (0, 1))
        shell.display_pub.publish(data=data, metadata=metadata)


def display_after_cell(figure: F) -> F:
    """Let a notebook display a figure after the cell that drew it, as pyplot's are, unless the cell does so itself.

    So each call that draws shows one image, in the middle of a cell and before a semicolon too. Until then it is
    pyplot's current figure, on which `plt.title` acts.
    """
    shell = notebook_shell()
    if shell is not None and isinstance(figure, NotebookFigure):
        if _display_pending not in shell.events.callbacks["post_execute"]:
            shell.events.register("post_execute", _display_pending)
        _pending.append(figure)
        pyplot = sys.modules.get("matplotlib.pyplot")
        if pyplot and matplotlib.__version_info__ >= (3, 11):  # before, it took figures of its own alone
            pyplot.figure(figure)
    return figure


def _display_pending() -> None:
    for figure in tuple(_pending):
        figure._ipython_display_()


def draw_or_display(
    ax: Axes | None, draw: Callable[..., object], figure: Callable[..., Figure], *drawn: object
) -> Figure | Axes:
    """Draw on the user's axes, or a figure that a notebook displays where there are none.

    Args:
        ax: the axes, or None.
        draw: called with the axes and `drawn`.
        figure: called with `drawn`; gives the figure.
        drawn: what is drawn.

    Returns:
        The figure; `ax` where it is given.

    Raises:
        ConfigError: `ax` is something else.
    """
    require_axes(ax)
    if ax is None:
        return display_after_cell(figure(*drawn))
    draw(ax, *drawn)
    return ax


def require_axes(ax: object) -> None:
    """Accept matplotlib's axes, or None.

    Raises:
        ConfigError: it is something else, such as an array of axes.
    """
    if not isinstance(ax, Axes | None):
        raise ConfigError(f"ax is {show(ax)}; expected one Axes of matplotlib, such as plt.subplots()[1].")
