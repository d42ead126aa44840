"""Grids of images with their predictions, such as the top losses."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from xrayfast.display.figure_style import GRID, MUTED, TEXT
from xrayfast.reporting.case import Case as Case
from xrayfast.reporting.figures.layout import (
    axes_at,
    fitting,
    grid_figure,
    hide_axes,
    message_figure,
    wrap_names,
    write_caption,
)


def top_losses_figure(cases: Sequence[Case], columns: int = 4) -> Figure:
    """Plot a grid of images with file name, actual and predicted labels and loss, in the given order.

    Args:
        cases: what to show; a case without pixels gets an empty panel that says so.
        columns: images per row.
    """
    if not cases:
        return message_figure("No predictions to show")
    side, caption, gap = 2.3, 1.15, 0.22
    figure, places = grid_figure(len(cases), columns, side + gap, side + caption, gap)
    for case, (left, top) in zip(cases, places, strict=True):
        axes = axes_at(figure, left, top - side, side, side)
        draw_image(axes, case)
        write_caption(axes, _caption_lines(case))
    return figure


def draw_image(axes: Axes, case: Case) -> None:
    """Draw the pixels in a black square, whatever their aspect ratio."""
    hide_axes(axes)
    if case.pixels is None:
        axes.add_patch(Rectangle((0, 0), 1, 1, color=GRID))
        axes.text(0.5, 0.5, "can no longer\nbe read", ha="center", va="center", fontsize=TEXT, color=MUTED)
        return
    sides = case.pixels.shape
    square = np.zeros((max(sides), max(sides)), np.uint8)
    top, left = ((max(sides) - side) // 2 for side in sides)
    square[top : top + sides[0], left : left + sides[1]] = case.pixels
    axes.imshow(square, cmap="gray", vmin=0, vmax=255)


def _caption_lines(case: Case) -> list[str]:
    """Return the lines of a caption: file name, actual and predicted labels (at most two lines each), and loss."""
    certain = "" if math.isnan(case.probability) else f" ({case.probability:.2f})"
    lines = [fitting(case.image, 32)]
    for name, text in (("Actual", case.actual), ("Predicted", case.predicted)):
        lines += wrap_names(f"{name}: ", text or "no label", certain if name == "Predicted" else "", 36, 2)
    return [*lines, f"Loss: {case.loss:.3f}"]
