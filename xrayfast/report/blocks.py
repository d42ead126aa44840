"""Figures as the page holds them: in the page itself, and with a heading, a sentence and their numbers."""

from __future__ import annotations

import base64
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from xrayfast.report.figures import DPI, loss_and_metric_curves, png_bytes
from xrayfast.report.matrices import binary_figure, confusion_figure, cooccurrence_figure
from xrayfast.report.tables import SPLITS, Matrix, Table, binary_table, images_text


@dataclass(frozen=True)
class Plot:
    """A figure as a data URI's content, with its size in CSS pixels."""

    title: str
    alt: str
    data: str
    width: int
    height: int
    wide: bool


@dataclass(frozen=True)
class Block:
    """A figure with its heading, a sentence and the same numbers as a table."""

    title: str
    text: str
    figure: Plot
    table: Table | Matrix
    square: bool


def plot(figure: Figure, title: str, alt: str) -> Plot:
    """The figure at 100 CSS pixels an inch, without a background so that it suits a dark page as well."""
    content = png_bytes(figure, transparent=True)
    # A PNG begins with 8 bytes of signature and the IHDR chunk: length, name, width, height.
    width, height = (round(side * 100 / DPI) for side in struct.unpack(">II", content[16:24]))
    return Plot(title, alt, base64.b64encode(content).decode(), width, height, wide=width > 600)


def curves_plot(history: pd.DataFrame, best_epoch: int | None) -> Plot | None:
    """Losses and metrics by epoch; None without epochs."""
    if history.empty:
        return None
    best = "" if best_epoch is None else f" Epoch {best_epoch} was kept."
    epochs = f"{len(history)} epoch" + ("s" if len(history) > 1 else "")
    alt = f"Losses and validation metrics over {epochs}.{best} The numbers are in the table below."
    return plot(loss_and_metric_curves(history, best_epoch), "Losses and metrics by epoch", alt)


def confusion_blocks(split: str, summary: Mapping[str, Any], labels: Sequence[str]) -> list[Block]:
    """What a single-label task has: the confusion matrix."""
    matrix = summary["confusion"]
    n, right = summary["images"], sum(matrix[i][i] for i in range(len(matrix)))
    kind = SPLITS[split].lower()
    alt = f"Confusion matrix of {images_text(n, kind)} and {len(labels)} classes; {right} on the diagonal."
    return [
        Block(
            "Confusion matrix",
            "Each row is an actual class, each column a predicted one; the framed diagonal is right.",
            plot(confusion_figure(matrix, labels), "Confusion matrix", alt),
            Matrix(
                f"{split}-confusion",
                "Actual class (rows) by predicted class (columns)",
                labels,
                matrix,
            ),
            square=True,
        )
    ]


def multi_blocks(split: str, summary: Mapping[str, Any], labels: Sequence[str]) -> list[Block]:
    """What a multi-label task has: a matrix a label, and which labels are predicted together."""
    counts, cooccurrence = summary["confusion_per_label"], summary["cooccurrence"]
    kind = images_text(summary["images"], SPLITS[split].lower())
    by_label = plot(
        binary_figure(counts),
        "One matrix a label",
        f"{len(counts)} two-by-two matrices, one a label, of {kind}; the numbers are in the table below.",
    )
    together = plot(
        cooccurrence_figure(cooccurrence, labels),
        "Predicted labels by actual label",
        f"Matrix of actual by predicted labels of {kind}; the numbers are in the table below.",
    )
    return [
        Block(
            "Right and wrong by label",
            "For each label the images that carry it (yes) and those that don't (no), by what was predicted "
            "at a threshold of 0.5. Per cent and shade are shares of the row.",
            by_label,
            binary_table(split, counts),
            square=False,
        ),
        Block(
            "Which labels are predicted together",
            "How often the label of the column was predicted on images that carry the label of the row. An "
            "image may carry several labels, so a cell beside the diagonal is not always a mistake.",
            together,
            Matrix(
                f"{split}-cooccurrence",
                "Actual label (rows) by predicted label (columns)",
                labels,
                cooccurrence,
            ),
            square=True,
        ),
    ]
