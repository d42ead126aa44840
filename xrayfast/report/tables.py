"""The tables of the page: what their cells say, from the summaries, the history and the counts of a run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from xrayfast.config import Task
from xrayfast.metrics.summary import OVERALL, PER_LABEL

CONFUSED_ROWS = 10

SPLITS = {"train": "Training", "valid": "Validation", "test": "Test"}

MEANING = {
    "accuracy": "Share of the images whose most likely class is the right one.",
    "subset_accuracy": "Share of the images with exactly the right set of labels, at a threshold of 0.5.",
    "f1_macro": "Harmonic mean of precision and recall of each label, then the mean over the labels.",
    "auroc_macro": "Chance that an image with the label scores above one without, then the mean over the "
    "labels; 0.5 is guessing.",
    "ap_macro": "Area under each label's precision-recall curve, then the mean over the labels; guessing "
    "gives the label's share of the images.",
}


@dataclass(frozen=True)
class Cell:
    """Its text (None for a number that is not defined), the number to sort by, and a smaller remark."""

    text: str | None
    value: float | None = None
    aside: str = ""


@dataclass(frozen=True)
class Column:
    """Its header, and whether its cells are words or numbers."""

    name: str
    text: bool = False


@dataclass(frozen=True)
class Table:
    """A table whose first column names the rows."""

    id: str
    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    totals: Sequence[Sequence[Cell]] = ()
    sortable: bool = False
    stacked: bool = False


@dataclass(frozen=True)
class Matrix:
    """A square table of counts: the labels name its rows, actual, and its columns, predicted."""

    id: str
    caption: str
    labels: Sequence[str]
    rows: Sequence[Sequence[int]]


def number(value: Any, form: str = ".3f") -> Cell:
    """A cell of a number; what is missing or not finite has no text."""
    if value is None or not math.isfinite(value):
        return Cell(None)
    return Cell(format(value, form), float(value))


def images_text(count: int, kind: str = "") -> str:
    """As in "1,024 validation images"."""
    noun = "image" if count == 1 else "images"
    return " ".join(filter(None, (f"{count:,}", kind, noun)))


def percent(part: float, whole: float) -> str:
    """A share with one decimal; `whole` is above 0."""
    return f"{100 * part / whole:.1f}%"


def overall_table(split: str, summary: Mapping[str, Any], task: Task) -> Table:
    """A metric a row, with what it means."""
    return Table(
        f"{split}-overall",
        "Over all labels" if task == "multi" else "Over all classes",
        (Column("Metric", text=True), Column("Value")),
        [(Cell(name, aside=MEANING[key]), number(summary["overall"].get(key))) for key, name in OVERALL[task].items()],
        stacked=True,
    )


def per_label_table(split: str, summary: Mapping[str, Any]) -> Table:
    """A label a row, with its support and metrics."""
    columns = [Column("Label", text=True), *(Column(name) for name in PER_LABEL.values())]
    rows = [
        [Cell(row["label"]), *(number(row[key], "d" if key == "support" else ".3f") for key in PER_LABEL)]
        for row in summary["per_label"]
    ]
    caption = f"By label, {images_text(summary['images'], SPLITS[split].lower())}; a header sorts the table"
    return Table(f"{split}-by-label", caption, columns, rows, sortable=True)


def confused_table(split: str, summary: Mapping[str, Any]) -> Table:
    """A pair of classes a row, most mistakes first."""
    support = {row["label"]: row["support"] for row in summary["per_label"]}
    cells = summary["most_confused"]
    rows = [
        [
            Cell(cell["actual"]),
            Cell(cell["predicted"]),
            Cell(f"{cell['count']:,}"),
            Cell(percent(cell["count"], support[cell["actual"]])),
        ]
        for cell in cells[:CONFUSED_ROWS]
    ]
    shown = f", the first {CONFUSED_ROWS} of {len(cells)} pairs" if len(cells) > CONFUSED_ROWS else ""
    columns = (
        Column("Actual", text=True),
        Column("Predicted", text=True),
        Column("Images"),
        Column("Share"),
    )
    return Table(
        f"{split}-confused",
        f"Mistakes by pair of classes, with their share of the actual class{shown}",
        columns,
        rows,
    )


def binary_table(split: str, counts_by_label: Mapping[str, Sequence[Sequence[int]]]) -> Table:
    """The four cells of each label's 2x2 matrix, [[tn, fp], [fn, tp]]."""
    columns = ("True negative", "False positive", "False negative", "True positive")
    return Table(
        f"{split}-binary",
        "Images by label",
        (Column("Label", text=True), *map(Column, columns)),
        [[Cell(label), *(Cell(f"{n:,}") for row in rows for n in row)] for label, rows in counts_by_label.items()],
    )


def epochs_table(history: pd.DataFrame, best_epoch: int | None, task: Task) -> Table:
    """An epoch a row."""
    names = {"train_loss": "Training loss", "valid_loss": "Validation loss", **OVERALL[task]}
    forms = {column: (name, ".3f") for column, name in names.items()}
    forms |= {"lr": ("Learning rate", ".2g"), "seconds": ("Seconds", ".1f")}
    forms = {column: form for column, form in forms.items() if column in history}
    rows = []
    for record in history.to_dict("records"):
        epoch = int(record["epoch"])
        cells = [number(float(record[column]), form) for column, (_, form) in forms.items()]
        rows.append(
            [
                Cell(str(epoch), aside="best" if epoch == best_epoch else ""),
                Cell(str(record["phase"])),
                *cells,
            ]
        )
    columns = [
        Column("Epoch", text=True),
        Column("Phase", text=True),
        *(Column(name) for name, _ in forms.values()),
    ]
    return Table("epochs", "Each epoch; metrics on the validation images", columns, rows)


def counts_table(counts: pd.DataFrame, labels: Sequence[str], task: Task) -> Table:
    """Images by label and split; the rows after the labels are totals, whatever a label is called."""
    n_labels = len(labels)
    split_names = [str(column) for column in counts.columns]
    records = [
        (str(name), [float(value) for value in row])
        for name, row in zip(counts.index, counts.to_numpy(dtype=float), strict=True)
    ]
    totals = dict(records[n_labels:])
    images = totals.get("images", [math.nan] * len(split_names))

    def row(name: str, values: Sequence[float], shares: bool) -> list[Cell]:
        cells = [Cell(name)]
        for value, whole in zip(values, images, strict=True):
            known = shares and math.isfinite(value) and whole > 0
            cells.append(Cell(number(value, ",.0f").text, aside=percent(value, whole) if known else ""))
        return cells

    return Table(
        "counts",
        "Images by class and split" if task == "single" else "Images by label and split; an image may have several",
        [
            Column("Class" if task == "single" else "Label", text=True),
            *(Column(SPLITS.get(name, name)) for name in split_names),
        ],
        [row(name, values, shares=True) for name, values in records[:n_labels]],
        [row(f"All {name}", values, shares=False) for name, values in records[n_labels:]],
    )
