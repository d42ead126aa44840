"""Confusion and co-occurrence matrices as figures."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import ArrayLike, NDArray

from xrayfast.display.figure_style import INK, MUTED, SMALL, TEXT
from xrayfast.display.notebook_figure import NotebookFigure
from xrayfast.reporting.figures.layout import axes_at, fitting

SHADES = LinearSegmentedColormap.from_list("xrayfast", ["#f3f6f9", "#9cc3e0", "#2f7fb5", "#0b3c5d"])
# White text reaches a higher contrast than INK from this shade on.
WHITE_TEXT_FROM = 0.64


def merge_rare(matrix: ArrayLike, labels: Sequence[str], most: int) -> tuple[NDArray[np.int64], list[str]]:
    """Limit a confusion matrix to `most` classes: merge the classes with the fewest images into one last class.

    Args:
        matrix: (C, C) counts; rows actual, columns predicted.
        labels: the C names.
        most: most classes of the result.
    """
    counts = np.asarray(matrix, dtype=np.int64)
    if len(labels) <= most:
        return counts, list(labels)
    common = np.sort(np.argsort(-counts.sum(axis=1), kind="stable")[: most - 1])
    place = np.full(len(labels), most - 1)
    place[common] = np.arange(most - 1)
    merged = np.zeros((most, most), dtype=np.int64)
    np.add.at(merged, (place[:, None], place[None]), counts)
    return merged, [*(labels[i] for i in common), f"{len(labels) - most + 1} others"]


def confusion_figure(matrix: ArrayLike, labels: Sequence[str], normalize: bool = False) -> Figure:
    """Return `draw_confusion` as a figure of its own, as large as the labels need."""
    figure, axes = _matrix_axes(labels)
    draw_confusion(axes, matrix, labels, normalize)
    return figure


def draw_confusion(axes: Axes, matrix: ArrayLike, labels: Sequence[str], normalize: bool = False) -> None:
    """Draw the confusion matrix, shaded according to the shares within each row.

    Args:
        axes: where to draw.
        matrix: (C, C) counts; rows actual, columns predicted.
        labels: the C names.
        normalize: write only the percentage of the row, without the count above it.
    """
    counts = np.asarray(matrix, dtype=np.int64)
    shares = _row_shares(counts)
    texts = [
        [_cell(count, share, normalize) for count, share in zip(*rows, strict=True)]
        for rows in zip(counts, shares, strict=True)
    ]
    note = "Per cent and shade: share of the actual class"
    _label_matrix(axes, np.nan_to_num(shares), texts, labels, "Confusion matrix", note, 1 if normalize else 2)


def binary_figure(counts_by_label: Mapping[str, Sequence[Sequence[int]]], normalize: bool = False) -> Figure:
    """Plot one 2x2 matrix per label as small multiples, shaded according to the shares within each row.

    Args:
        counts_by_label: [[tn, fp], [fn, tp]] by label.
        normalize: write only the percentage of the row, without the count above it.
    """
    n_columns = max(1, min(5, len(counts_by_label)))
    n_rows = max(1, math.ceil(len(counts_by_label) / n_columns))
    figure = NotebookFigure(figsize=(1.95 * n_columns + 0.35, 2.15 * n_rows + 0.35), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.1)  # type: ignore[union-attr, call-arg]
    panels = figure.subplots(n_rows, n_columns, squeeze=False).ravel()
    for panel in panels[len(counts_by_label) :]:
        panel.remove()
    for panel, (label, rows) in zip(panels, counts_by_label.items(), strict=False):
        draw_binary(panel, label, rows, normalize)
        panel.set(xlabel="", ylabel="")
    figure.supxlabel("Predicted", fontsize=TEXT, color=MUTED)
    figure.supylabel("Actual", fontsize=TEXT, color=MUTED)
    return figure


def draw_binary(axes: Axes, label: str, rows: Sequence[Sequence[int]], normalize: bool = False) -> None:
    """Draw the 2x2 matrix of a label, [[tn, fp], [fn, tp]], shaded according to the shares within each row."""
    counts = np.asarray(rows, dtype=np.int64)
    shares = _row_shares(counts)
    names = (("TN", "FP"), ("FN", "TP"))
    texts = [[f"{names[i][j]}\n{_cell(counts[i, j], shares[i, j], normalize)}" for j in range(2)] for i in range(2)]
    _shaded_cells(axes, np.nan_to_num(shares), texts, size=SMALL)
    axes.set_xticks([0.5, 1.5], ["no", "yes"], fontsize=SMALL, color=MUTED)
    axes.set_yticks([0.5, 1.5], ["no", "yes"], fontsize=SMALL, color=MUTED)
    axes.set_xlabel("Predicted", fontsize=TEXT, color=MUTED)
    axes.set_ylabel("Actual", fontsize=TEXT, color=MUTED)
    title = "\n".join(textwrap.wrap(fitting(label), 20)) or " "
    axes.set_title(title, fontsize=TEXT, color=INK, parse_math=False)


def cooccurrence_figure(matrix: ArrayLike, labels: Sequence[str]) -> Figure:
    """Plot how often label j (column) was predicted on images that have label i (row)."""
    counts = np.asarray(matrix, dtype=np.int64)
    # The square root keeps rare labels visible beside common ones.
    shades = np.sqrt(counts / max(1, int(counts.max(initial=0))))
    texts = [[str(count) for count in row] for row in counts]
    title, note = "Predicted labels by actual label", "Counts; the diagonal is correct"
    figure, axes = _matrix_axes(labels)
    _label_matrix(axes, shades, texts, labels, title, note, lines=1)
    return figure


def _row_shares(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    totals = counts.sum(axis=1, keepdims=True).astype(float)
    shares = np.full(counts.shape, np.nan)
    np.divide(counts, totals, out=shares, where=totals > 0)
    return shares


def _cell(count: int, share: float, share_only: bool = False) -> str:
    if math.isnan(share):
        percent = "—"
    elif 0 < share < 0.005 or 0.995 <= share < 1:
        percent = "<1%" if share < 0.5 else ">99%"
    else:
        percent = f"{100 * share:.0f}%"
    return percent if share_only else f"{count}\n{percent}"


def _shaded_cells(axes: Axes, shades: NDArray[np.float64], texts: Sequence[Sequence[str]], size: float) -> None:
    """Draw square cells, the first row on top, each with its text in the middle."""
    axes.pcolormesh(shades, cmap=SHADES, vmin=0, vmax=1, edgecolors="white", linewidth=1.5)
    axes.set_aspect("equal")
    axes.invert_yaxis()
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    for (i, j), shade in np.ndenumerate(shades):
        empty = texts[i][j].split("\n")[0] in ("0", "0%", "—")
        color = "white" if shade >= WHITE_TEXT_FROM else MUTED if empty else INK
        axes.text(j + 0.5, i + 0.5, texts[i][j], ha="center", va="center", fontsize=size, color=color)


def _matrix_size(labels: Sequence[str]) -> tuple[float, int, bool]:
    """Return the side of a cell in inches, the length of the longest name, and whether the names below are slanted."""
    longest = max((len(fitting(label)) for label in labels), default=1)
    side = 1.15 if len(labels) <= 4 else 0.85 if len(labels) <= 8 else 0.6
    return side, longest, longest * 0.08 > side


def _matrix_axes(labels: Sequence[str]) -> tuple[Figure, Axes]:
    """Return a figure for a square matrix with room for the names, and its axes."""
    side, longest, slanted = _matrix_size(labels)
    n, margin, below = len(labels), 0.45 + 0.08 * longest, 0.45 + (0.06 * longest if slanted else 0.2)
    figure = NotebookFigure(figsize=(margin + n * side + 0.2, below + n * side + 0.7))
    return figure, axes_at(figure, margin, below, n * side, n * side)


def _label_matrix(
    axes: Axes,
    shades: NDArray[np.float64],
    texts: Sequence[Sequence[str]],
    labels: Sequence[str],
    title: str,
    note: str,
    lines: int,
) -> None:
    """Draw a square matrix under its title, with the labels as names of rows and columns."""
    names, n = [fitting(label) for label in labels], len(labels)
    side, _, slanted = _matrix_size(labels)
    size = {1.15: 10.0, 0.85: 9.0, 0.6: 8.0}[side]
    _shaded_cells(axes, shades, texts, size if lines == 1 else size - 0.5)
    for i in range(n):  # on the diagonal actual and predicted agree
        axes.add_patch(Rectangle((i + 0.03, i + 0.03), 0.94, 0.94, fill=False, edgecolor=INK, linewidth=0.9))
    ticks = np.arange(n) + 0.5
    slant: dict[str, Any] = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if slanted else {}
    axes.set_xticks(ticks, names, fontsize=TEXT, color=INK, parse_math=False, **slant)
    axes.set_yticks(ticks, names, fontsize=TEXT, color=INK, parse_math=False)
    axes.set_xlabel("Predicted", fontsize=TEXT, color=MUTED, labelpad=8)
    axes.set_ylabel("Actual", fontsize=TEXT, color=MUTED, labelpad=8)
    axes.set_title(note, loc="left", fontsize=SMALL, color=MUTED, pad=8)
    above: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points"}
    axes.annotate(title, (0, 1), (0, 24), fontsize=10.5, fontweight="bold", color=INK, **above)
