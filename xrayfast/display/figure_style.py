"""Colors, text sizes and axes of all figures, which are drawn with Agg, without pyplot and global state."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes

INK = "#1c2430"
MUTED = "#5b6673"
GRID = "#e3e7eb"
# Okabe and Ito's palette, whose colors stay distinct with the common color vision deficiencies. Each series also has
# its own marker, for printing in gray.
SERIES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P")

TEXT = 9.0
SMALL = 8.0

BOUNDARY: dict[str, Any] = {"color": MUTED, "linewidth": 0.9, "linestyle": (0, (3, 3))}
"""Style of a line between two phases or epochs."""


def style_axes(axes: Axes, grid: bool = False) -> None:
    """Show only the left and bottom axes, in a muted color; with `grid`, add horizontal lines."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(MUTED)
    axes.tick_params(labelsize=SMALL, colors=MUTED, labelcolor=INK, length=3)
    axes.set_axisbelow(True)
    if grid:
        axes.grid(axis="y", color=GRID, linewidth=0.8)


def legend_above(axes: Axes, columns: int) -> None:
    """Add a legend above the axes, without a frame."""
    legend = axes.legend(
        loc="lower left",
        bbox_to_anchor=(-0.02, 1.06),
        ncols=columns,
        frameon=False,
        fontsize=SMALL,
        labelcolor=INK,
        borderaxespad=0,
        columnspacing=1.4,
        handletextpad=0.5,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)  # names may contain a "$"
    legend.set_in_layout(True)
