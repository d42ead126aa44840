"""Draws a plot in the terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any


def draw_curve(lrs: Sequence[float] | Any, losses: Sequence[float] | Any, width: int) -> str:
    """Draw the loss over the learning rate (log scale) as text without colors, at most `width` columns wide.

    Losses above twice the first are left out, so that the divergence at the end does not flatten the rest of the curve.
    """
    import plotext as plt

    points = [(math.log10(lr), loss) for lr, loss in zip(lrs, losses, strict=True) if math.isfinite(loss)]
    if not points:
        return "(no finite losses)"
    ceiling = 2 * points[0][1]
    x, y = zip(*((lr, loss) for lr, loss in points if loss <= ceiling), strict=True)
    plt.clear_figure()
    plt.theme("clear")
    plt.plot_size(min(72, width), 14)
    plt.plot(x, y)
    ticks = list(range(math.ceil(min(x)), math.floor(max(x)) + 1))
    plt.xticks(ticks, [f"1e{tick}" for tick in ticks])
    plt.xlabel("learning rate")
    plt.ylabel("loss")
    text: str = plt.uncolorize(plt.build())
    plt.clear_figure()
    return text
