"""Histograms of the probabilities of images with and without a label."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from xrayfast.display.figure_style import SERIES
from xrayfast.errors import plural_noun
from xrayfast.reporting.figures.curves import GUESSING, Curve, say
from xrayfast.reporting.figures.panels import Panels, style_y

BINS = 20

_WITH: dict[str, Any] = {"color": SERIES[1], "linewidth": 1.6}
_WITHOUT: dict[str, Any] = {"color": SERIES[0], "linewidth": 1.4, "linestyle": (0, (5, 1.5))}


def histogram_figure(curves: Sequence[Curve], unit: str = "image") -> Figure:
    """Plot histograms of the probability of images (or another unit) with and without a label, a panel per label."""
    panels = Panels(len(curves))
    edges = np.linspace(0, 1, BINS + 1)
    for index, curve in enumerate(curves):
        axes = panels.panel(index, curve.label)
        top = 0.0
        for cell, style, name in ((0, _WITHOUT, "without"), (1, _WITH, "with")):
            scores = curve.score[curve.truth == cell]
            if len(scores):
                shares = np.histogram(scores, edges)[0] / len(scores)
                axes.stairs(shares, edges, gid=name, **style)
                axes.stairs(shares, edges, fill=True, color=style["color"], alpha=0.15)
                top = max(top, float(shares.max()))
        if curve.threshold is not None:
            axes.axvline(curve.threshold, **{**GUESSING, "gid": "threshold"})
        axes.set_ylim(0.0, 1.08 * top or 1.0)
        style_y(axes)
        say(axes, "" if top else f"masked on all {plural_noun(unit)}")
    handles = [Line2D([], [], **style) for style in (_WITH, _WITHOUT)]
    return panels.done("Probability", f"Share of {plural_noun(unit)}", handles, ["with the label", "without it"])
