"""The figure beside the headline of a split: ranking, decisions and calibration side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from xrayfast.config import Task
from xrayfast.display.figure_style import INK, MUTED, SMALL, TEXT
from xrayfast.display.notebook_figure import NotebookFigure
from xrayfast.metrics.registry import metric_title
from xrayfast.metrics.reliability import reliability
from xrayfast.metrics.summary import MOST_LIKELY
from xrayfast.reporting.case import Case
from xrayfast.reporting.figures import curves
from xrayfast.reporting.figures.forest import draw_forest, forest_height, label_forest
from xrayfast.reporting.figures.layout import axes_at, fitting
from xrayfast.reporting.figures.matrices import draw_confusion, merge_rare
from xrayfast.reporting.figures.top_losses import draw_image
from xrayfast.runs.predictions import Predictions

WIDTH = 9.3
LABELS_SHOWN, CLASSES_SHOWN, EXAMPLES = 20, 10, 6
FOREST_METRICS = ("auroc", "ap")
ALL_LABELS = "all labels together"

_SIDE, _LEFT, _ABOVE, _BELOW = 2.35, 0.55, 0.32, 0.85


def headline_figure(
    summary: Mapping[str, Any], task: Task, predictions: Predictions, examples: Sequence[Case] = ()
) -> Figure:
    """Plot ROC curves, confusion matrix and calibration (single-label), or a forest plot and calibration (multi-label).

    The forest plot has a row per label; the calibration next to it is of all labels pooled.

    Args:
        summary: from `metrics.summary.summarize`; if it has many labels, only the most frequent are shown.
        task: "single" or "multi".
        predictions: predictions of the same images.
        examples: images for a row below, of which at most `EXAMPLES` are drawn.
    """
    rows = label_forest(summary, FOREST_METRICS)
    if len(rows) > LABELS_SHOWN:
        often = sorted(summary["per_label"], key=lambda row: -row["support"])[:LABELS_SHOWN]
        rows = [row for row in rows if row.name in {one["label"] for one in often}]
    panels = _ABOVE + _SIDE + _BELOW
    height = panels if task == "single" else max(panels, forest_height(len(rows)))
    side = WIDTH / EXAMPLES - 0.1
    foot = foot_height(examples)
    figure: Figure = NotebookFigure(figsize=(WIDTH, height + foot))
    top = height + foot
    places = [(_LEFT + i * WIDTH / 3, top - _ABOVE - _SIDE, _SIDE, _SIDE) for i in range(3)]
    if task == "single":
        _draw_ranking(axes_at(figure, *places[0]), summary, task, predictions)
        _draw_decisions(axes_at(figure, *places[1]), summary)
    else:
        draw_forest(figure, rows, list(map(metric_title, FOREST_METRICS)), top, 2 * WIDTH / 3)
    bins = summary["reliability"]
    label = summary.get("positive", MOST_LIKELY)
    if task == "single":
        drawn = label, bins["after"][label], bins["before"][label] if bins.get("before") else None
    else:
        both = predictions.probability, predictions.raw
        after, before = ([asdict(one) for one in reliability(predictions.truth.ravel(), p.ravel())] for p in both)
        drawn = ALL_LABELS, after, before if bins.get("before") else None
    axes = axes_at(figure, *places[2])
    curves.draw_reliability(axes, *drawn)
    _title(axes, f"Calibration: {fitting(drawn[0], 24)}")
    for i, case in enumerate(examples[:EXAMPLES]):
        axes = axes_at(figure, i * WIDTH / EXAMPLES, foot - 0.05 - side, side, side)
        draw_image(axes, case)
        text = (
            f"Actual: {fitting(case.actual or 'no label', 18)}\nPredicted: {fitting(case.predicted or 'no label', 15)}"
        )
        axes.text(0, -0.05, text, transform=axes.transAxes, va="top", fontsize=SMALL - 1, color=INK, parse_math=False)
    return figure


def foot_height(examples: Sequence[Case]) -> float:
    """Return the height in inches of the row of images at the foot of `headline_figure`."""
    return WIDTH / EXAMPLES + 0.5 if examples else 0.0


def _draw_ranking(axes: Axes, summary: Mapping[str, Any], task: Task, predictions: Predictions) -> None:
    roc, _ = curves.label_curves(summary, task, predictions)
    # If there are many classes, only those with the most images are drawn.
    often = sorted(roc, key=lambda curve: -int((curve.truth == 1).sum()))[: curves.TOGETHER]
    curves.draw_curves(axes, [curve for curve in roc if curve in often], curves.ROC)
    _title(axes, "ROC" if len(roc) == 1 else "ROC, each class against the rest")


def _draw_decisions(axes: Axes, summary: Mapping[str, Any]) -> None:
    matrix, names = merge_rare(summary["confusion"], [row["label"] for row in summary["per_label"]], CLASSES_SHOWN)
    labels = [fitting(name, 14) for name in names]
    draw_confusion(axes, matrix, labels, normalize=len(labels) > 5)
    cell = 72 * _SIDE / len(labels)
    for text in axes.texts[: len(labels) ** 2]:
        text.set_fontsize(min(10.0, 0.34 * cell))
    for text in axes.texts[len(labels) ** 2 :]:
        text.remove()
    for tick in (*axes.get_xticklabels(), *axes.get_yticklabels()):
        tick.set_fontsize(SMALL)
    axes.set_yticks(np.arange(len(labels)) + 0.5, labels, rotation=90 if len(labels) <= 3 else 0, va="center")
    _title(axes, "Confusion matrix, per cent of the actual class")


def _title(axes: Axes, text: str) -> None:
    axes.set_title(text, loc="left", fontsize=TEXT, color=MUTED, pad=6, parse_math=False)
