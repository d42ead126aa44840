"""Curves of a network's probabilities: ROC, precision-recall, decision and reliability curves.

Up to `TOGETHER` labels share a panel of ROC or precision-recall curves, each with its own color and dashes; more labels
get a small panel each.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import ArrayLike, NDArray

from xrayfast.config import Task
from xrayfast.display.figure_style import INK, MUTED, SERIES, SMALL, TEXT
from xrayfast.errors import format_interval, format_value
from xrayfast.metrics.classification import Floats
from xrayfast.metrics.inputs import column
from xrayfast.metrics.intervals.roc_band import FALSE_RATES, roc_band
from xrayfast.metrics.operating_points.thresholds import count_at_thresholds
from xrayfast.metrics.summary import interval_of
from xrayfast.reporting.figures.layout import fitting
from xrayfast.reporting.figures.panels import Panels, name_lines, style_square, style_y
from xrayfast.reporting.wording import label_rows
from xrayfast.runs.predictions import Predictions

TOGETHER = 5
"""Most labels that share a panel."""

FEW_IMAGES = 10
"""Bins of a reliability diagram with fewer images are drawn only as small rings, since they say little."""

_ON_OFF = ((5, 1.5), (1.2, 1.2), (6, 1.5, 1.2, 1.5), (3, 1.5, 1.2, 1.5, 1.2, 1.5))
DASHES: tuple[Any, ...] = ("-", *((0, lengths) for lengths in _ON_OFF))

GUESSING: dict[str, Any] = {"color": MUTED, "linewidth": 0.9, "linestyle": (0, (2, 3)), "gid": "guessing"}

BEFORE: dict[str, Any] = {"marker": "s", "facecolors": "none", "edgecolors": MUTED, "linewidths": 0.9, "gid": "before"}
HOLLOW: dict[str, Any] = {"color": "none", "edgecolor": MUTED, "linewidth": 0.8, "zorder": 3}
AFTER: dict[str, Any] = {"marker": "o", "facecolors": SERIES[0], "edgecolors": SERIES[0], "gid": "after"}

BinValues = Mapping[str, Any]
"""A bin of a reliability diagram, as in `metrics.json`."""


@dataclass(frozen=True, eq=False)
class Curve:
    """One label's curve.

    Attributes:
        area: the area under the curve with its interval, as text for the legend; or "".
        mark: x and y of the operating point, or None.
        threshold: of the operating point, or None.
        band: lower and upper ends of the sensitivity at `roc_band.FALSE_RATES`, or None.
    """

    label: str
    truth: NDArray[np.int64]
    score: Floats
    area: str = ""
    mark: tuple[float, float] | None = None
    threshold: float | None = None
    band: tuple[Floats, Floats] | None = None


def roc_points(truth: ArrayLike, score: ArrayLike) -> tuple[Floats, Floats] | None:
    """Return the false and true positive rates of (N,) truth and scores, from (0, 0) to (1, 1).

    Returns:
        (K + 1,) and (K + 1,) for K distinct scores; None if no image or every image has the label.
    """
    true, false = _counts(truth, score)
    if not true[-1] or not false[-1]:
        return None
    return false / false[-1], true / true[-1]


def precision_recall_points(truth: ArrayLike, score: ArrayLike) -> tuple[Floats, Floats] | None:
    """Return the recalls and precisions at each of the (N,) scores as threshold, from the highest score down.

    Returns:
        (K,) non-decreasing recalls and (K,) precisions for K distinct scores; None if no image has the label, or if
        every image has it, since any score would then give a precision of 1.
    """
    true, false = (counts[1:] for counts in _counts(truth, score))
    if not len(true) or not true[-1] or not false[-1]:
        return None
    return true / true[-1], true / (true + false)


@dataclass(frozen=True)
class CurveKind:
    """A kind of curve: how to draw it, its axis labels, and the corner that is free of curves for a good network."""

    draw: Callable[[Axes, Curve, Mapping[str, Any]], None]
    x: str
    y: str
    corner: str


def _draw_one_roc(axes: Axes, curve: Curve, style: Mapping[str, Any]) -> None:
    points = roc_points(curve.truth, curve.score)
    if points is not None:
        axes.plot([0, 1], [0, 1], **GUESSING)
        if curve.band is not None:
            axes.fill_between(FALSE_RATES, *curve.band, color=style["color"], alpha=0.14, linewidth=0, gid="band")
        axes.plot(*points, gid="curve", **style)


def _draw_one_precision_recall(axes: Axes, curve: Curve, style: Mapping[str, Any]) -> None:
    points = precision_recall_points(curve.truth, curve.score)
    if points is not None:
        recall, precision = points
        # The area under the steps is the average precision.
        axes.step(np.r_[0.0, recall], np.r_[precision[0], precision], where="pre", gid="curve", **style)
        share = float((curve.truth[curve.truth >= 0] == 1).mean())
        axes.axhline(share, **{**GUESSING, "color": style["color"]})


ROC = CurveKind(_draw_one_roc, "1 − specificity", "Sensitivity", "lower right")
"""Sensitivity against 1 - specificity, with the diagonal of a random classifier."""

PRECISION_RECALL = CurveKind(_draw_one_precision_recall, "Recall (sensitivity)", "Precision", "lower left")
"""Precision against recall; a thin line is the precision of a random classifier."""


def curves_figure(curves: Sequence[Curve], kind: CurveKind) -> Figure:
    """Plot the curves of all labels in one panel with a legend or, if they are many, each in its own panel."""
    if len(curves) > TOGETHER:
        panels = Panels(len(curves), 1.75)
        for index, curve in enumerate(curves):
            lacking = _lacking(curve)
            axes = panels.panel(index, curve.label, "" if lacking else curve.area)
            kind.draw(axes, curve, {"color": SERIES[0], "linewidth": 1.6})
            _mark(axes, curve, SERIES[0])
            say(axes, lacking)
        return panels.done(kind.x, kind.y)
    panels = Panels(1, 3.6)
    return panels.done(kind.x, kind.y, *_draw_lines(panels.panel(0), curves, kind))


def draw_curves(axes: Axes, curves: Sequence[Curve], kind: CurveKind) -> None:
    """Draw the curves of at most `TOGETHER` labels into one panel."""
    style_square(axes)
    _finish_axes(axes, kind.x, kind.y, kind.corner, *_draw_lines(axes, curves, kind))


def label_curves(
    summary: Mapping[str, Any], task: Task, predictions: Predictions, labels: Sequence[str] | None = None
) -> tuple[list[Curve], list[Curve]]:
    """Return the curves of `ROC` and those of `PRECISION_RECALL`, one per label.

    The labels are `labels`, or by default those of `label_rows` of the summary.
    """
    rows = {row["label"]: row for row in summary["per_label"]}
    roc, precision_recall = [], []
    drawn = [row["label"] for row in label_rows(summary)] if labels is None else labels
    # Bands of many labels, each in a small panel, would hide the curves.
    resampled = summary.get("intervals") if len(drawn) <= TOGETHER else None
    for label in drawn:
        row, i = rows[label], predictions.labels.index(label)
        arrays = label, predictions.truth[:, i], predictions.probability[:, i]
        recall, specificity, precision = (row[name] for name in ("recall", "specificity", "precision"))
        # Predicting the most likely of several classes has no single threshold, so the curves have no point to mark.
        marked = (task == "multi" or "positive" in summary) and None not in (recall, specificity, precision)
        marks = ((1 - specificity, recall), (recall, precision)) if marked else (None, None)
        threshold = row["threshold"] if marked else None
        band = roc_band(*arrays[1:], predictions.groups, seed=resampled["seed"]) if resampled else None
        area = _area("AUROC", row["auroc"], interval_of(summary, "auroc", label))
        roc.append(Curve(*arrays, area, marks[0], threshold, band))
        area = _area("AP", row["ap"], interval_of(summary, "ap", label))
        precision_recall.append(Curve(*arrays, area, marks[1], threshold))
    return roc, precision_recall


def decision_curve_figure(net_benefit: Mapping[str, Any]) -> Figure:
    """Plot net benefit by threshold, one panel per label, with the lines of treating all and treating none."""
    found = net_benefit["labels"]
    panels = Panels(len(found))
    for index, label in enumerate(found):
        _draw_decision_curve(panels.panel(index, label), net_benefit["thresholds"], found[label])
    return panels.done(*_DECISION_AXES, list(_DECISION_LINES.values()), list(_DECISION_LINES))


_DECISION_AXES = ("Threshold probability", "Net benefit")
_DECISION_LINES = {
    "network": Line2D([], [], color=SERIES[0], linewidth=1.8),
    "treat all": Line2D([], [], color=MUTED, linewidth=1.2),
    "treat none": Line2D([], [], **{**GUESSING, "gid": None}),
}


def _draw_decision_curve(axes: Axes, thresholds: Sequence[float], benefits: Mapping[str, Sequence[float]]) -> None:
    # Show all of the net benefit above 0, and little of what is below.
    top = max(*benefits["model"], *benefits["all"], 0.01)
    axes.axhline(0, **GUESSING)
    axes.plot(thresholds, benefits["all"], color=MUTED, linewidth=1.2, gid="all")
    if "low" in benefits:
        ends = benefits["low"], benefits["high"]
        axes.fill_between(thresholds, *ends, color=SERIES[0], alpha=0.14, linewidth=0, gid="band")
    axes.plot(thresholds, benefits["model"], color=SERIES[0], linewidth=1.8, gid="curve")
    axes.set_ylim(-0.25 * top, 1.08 * top)
    style_y(axes)


def reliability_figure(
    after: Mapping[str, Sequence[BinValues]], before: Mapping[str, Sequence[BinValues]] | None = None
) -> Figure:
    """Plot observed share against mean probability, one panel per label, with the number of images in each bin below.

    Args:
        after: bins of the reported probabilities by label, with the fields of `metrics.reliability.Bin`; they are
            drawn with their Wilson intervals.
        before: bins of the probabilities before calibration, drawn in gray; None if nothing was calibrated.
    """
    panels = Panels(len(after), strip=0.4)
    for index, (label, bins) in enumerate(after.items()):
        axes, strip = panels.panel(index, label), panels.strip(index)
        _draw_reliability(axes, strip, bins, None if before is None else before[label])
    shown = _reliability_handles(before is not None)
    if any(0 < one["count"] < FEW_IMAGES for bins in after.values() for one in bins):
        shown[f"small: fewer than {FEW_IMAGES} in the bin"] = Line2D(
            [], [], linestyle="", color=SERIES[0], marker=AFTER["marker"], markersize=3, fillstyle="none"
        )
    return panels.done(*_RELIABILITY_AXES, list(shown.values()), list(shown))


def draw_reliability(
    axes: Axes, label: str, after: Sequence[BinValues], before: Sequence[BinValues] | None = None
) -> None:
    """Draw the panel of `reliability_figure` for one label, without the number of images in each bin."""
    style_square(axes)
    _draw_reliability(axes, None, after, before)
    axes.set_title(fitting(label), loc="left", fontsize=TEXT, color=INK, parse_math=False)
    shown = _reliability_handles(before is not None)
    _finish_axes(axes, *_RELIABILITY_AXES, "upper left", list(shown.values()), list(shown))


_RELIABILITY_AXES = ("Mean probability", "Observed share")


def _reliability_handles(calibrated: bool) -> dict[str, Line2D]:
    dot = Line2D([], [], linestyle="", color=SERIES[0], marker=AFTER["marker"])
    square = Line2D([], [], linestyle="", color=MUTED, marker=BEFORE["marker"], fillstyle="none")
    return {"before calibration": square, "after calibration": dot} if calibrated else {"as reported": dot}


def _draw_reliability(
    axes: Axes, strip: Axes | None, after: Sequence[BinValues], before: Sequence[BinValues] | None
) -> None:
    axes.plot([0, 1], [0, 1], **GUESSING)
    if before is not None:
        _draw_bins(axes, strip, pd.DataFrame(list(before)), BEFORE, HOLLOW)
    table = pd.DataFrame(list(after))
    enough = table[table["count"] >= FEW_IMAGES]
    axes.vlines(
        enough["predicted"], enough["observed_low"], enough["observed_high"], color=SERIES[0], linewidth=0.9, alpha=0.7
    )
    _draw_bins(axes, strip, table, AFTER, {"color": SERIES[0], "alpha": 0.55})
    say(axes, "" if (table["count"] > 0).any() else "masked on all images")


def _draw_lines(axes: Axes, curves: Sequence[Curve], kind: CurveKind) -> tuple[list[Line2D], list[str]]:
    """Draw each curve in its own color and dashes; return the lines of a legend and their names."""
    handles, names = [], []
    for curve, color, dashes in zip(curves, SERIES, DASHES, strict=False):
        style = {"color": color, "linestyle": dashes, "linewidth": 1.8}
        kind.draw(axes, curve, style)
        _mark(axes, curve, color)
        lacking = _lacking(curve)
        handles.append(Line2D([], [], **({"linestyle": ""} if lacking else style)))
        names.append(": ".join(filter(None, (fitting(curve.label), lacking or curve.area))))
    return handles, names


def _finish_axes(axes: Axes, x: str, y: str, corner: str, handles: Sequence[Line2D], names: Sequence[str]) -> None:
    """Label the axes and put a legend inside, since other axes may be below; narrow axes get smaller type."""
    width = 72 * axes.bbox.width / axes.figure.dpi
    size = min(SMALL, width / (4.5 + 0.6 * max(map(len, names))))  # a character is about half as wide as high
    axes.set_xlabel(x, fontsize=TEXT, color=MUTED)
    axes.set_ylabel(y, fontsize=TEXT, color=MUTED)
    box: dict[str, Any] = {"frameon": True, "framealpha": 0.8, "edgecolor": "none", "borderaxespad": 0.3}
    name_lines(axes, handles, names, loc=corner, fontsize=size, handlelength=2.0, **box)


def _area(name: str, value: float | None, interval: Mapping[str, Any] | None) -> str:
    """Format an area as in "AUROC 0.812 (0.751 to 0.866)"; "" if it is not defined."""
    if value is None:
        return ""
    ends = "" if not interval or interval["low"] is None else f" ({format_interval(interval['low'], interval['high'])})"
    return f"{name} {format_value(value)}{ends}"


def _draw_bins(
    axes: Axes, strip: Axes | None, bins: pd.DataFrame, dots: Mapping[str, Any], bars: Mapping[str, Any]
) -> None:
    """Draw a dot for each bin, larger for more images, and a bar for its count in the strip.

    A bin of fewer than `FEW_IMAGES` images is a small ring without a bar.
    """
    few, enough = bins[(bins["count"] > 0) & (bins["count"] < FEW_IMAGES)], bins[bins["count"] >= FEW_IMAGES]
    sizes = 9 + 36 * enough["count"] / max(enough["count"].max(), 1) if len(enough) else 9
    axes.scatter(enough["predicted"], enough["observed"], sizes, zorder=3, clip_on=False, **dots)
    ring = {**dots, "facecolors": "none", "gid": "few", "linewidths": 0.7, "alpha": 0.6}
    axes.scatter(few["predicted"], few["observed"], 7, zorder=2, clip_on=False, **ring)
    if strip is not None:
        strip.bar(enough["low"], enough["count"], enough["high"] - enough["low"], align="edge", **bars)


def _counts(truth: ArrayLike, score: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the true and false positives at each distinct score as threshold, from the highest; both start with 0."""
    positive, values, _ = column(truth, score)
    _, true, false = count_at_thresholds(values, positive)
    return np.r_[0, true], np.r_[0, false]


def _lacking(curve: Curve) -> str:
    """Say why a label has no curve; "" if it has one."""
    truth = curve.truth[curve.truth >= 0]
    if not len(truth):
        return "masked on all images"
    if not (truth == 1).any():
        return "no image with the label"
    return "no image without the label" if (truth == 1).all() else ""


def _mark(axes: Axes, curve: Curve, color: str) -> None:
    if curve.mark is not None:
        axes.plot(*curve.mark, "o", color=color, markeredgecolor=INK, markersize=5.5, gid="threshold", clip_on=False)


def say(axes: Axes, text: str) -> None:
    """Write a text in the middle of a panel that has nothing to draw."""
    if text:
        axes.text(0.5, 0.5, "\n".join(textwrap.wrap(text, 18)), ha="center", va="center", fontsize=TEXT, color=MUTED)
