"""What probabilities are given to images with and without a label, and what deciding by them is worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from xrayfast.display.figure_style import GRID, MUTED, SERIES
from xrayfast.metrics.classification import Floats
from xrayfast.report.curves import GUESSING, Curve, say
from xrayfast.report.panels import Panels

BINS = 20

_WITH: dict[str, Any] = {"color": SERIES[1], "linewidth": 1.6}
_WITHOUT: dict[str, Any] = {"color": SERIES[0], "linewidth": 1.4, "linestyle": (0, (5, 1.5))}


@dataclass(frozen=True, eq=False)
class NetBenefit:
    """A label's decision curve: (T,) thresholds in (0, 1) and the net benefit there of deciding by the network and of
    calling every image positive.
    """

    label: str
    thresholds: Sequence[float]
    model: Floats
    all: Floats


def histogram_figure(curves: Sequence[Curve]) -> Figure:
    """The share of the images with a label, and of those without, by their probability; one panel per label."""
    panels = Panels(len(curves), _side(len(curves)))
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
        _scale(axes, 0.0, 1.08 * top or 1.0)
        say(axes, "" if top else "masked on all images")
    handles = [Line2D([], [], **style) for style in (_WITH, _WITHOUT)]
    return panels.done("Probability", "Share of images", handles, ["with the label", "without it"])


def decision_curve_figure(curves: Sequence[NetBenefit]) -> Figure:
    """Net benefit against threshold probability, of the network, of calling every image positive and of none, one panel
    per label (Vickers and Elkin 2006, Med Decis Making 26:565).
    """
    panels = Panels(len(curves), _side(len(curves)))
    treat_all: dict[str, Any] = {"color": MUTED, "linewidth": 1.2, "linestyle": (0, (5, 1.5))}
    model: dict[str, Any] = {"color": SERIES[0], "linewidth": 1.6}
    for index, curve in enumerate(curves):
        axes = panels.panel(index, curve.label)
        axes.axhline(0, **GUESSING)
        axes.plot(curve.thresholds, curve.all, gid="all", **treat_all)
        axes.plot(curve.thresholds, curve.model, gid="model", **model)
        top = max(1.1 * float(np.nanmax([*curve.all, *curve.model])), 0.01)
        _scale(axes, -0.3 * top, top)
    handles = [Line2D([], [], **style) for style in (model, treat_all, {**GUESSING, "gid": None})]
    return panels.done("Threshold probability", "Net benefit", handles, ["network", "all positive", "none positive"])


def _side(n: int) -> float:
    return {1: 2.9, 2: 2.9, 3: 2.5}.get(n, 1.75)


def _scale(axes: Any, low: float, high: float) -> None:
    """Three or so ticks of round numbers between the limits, and a grid."""
    axes.set_ylim(low, high)
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.grid(color=GRID, linewidth=0.8)
