"""Tables of the HTML pages: their cells, and the tables of a run's data and training."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from xrayfast.config import Task
from xrayfast.errors import format_interval, format_value, plural
from xrayfast.metrics.registry import further_columns, history_column, history_metrics
from xrayfast.metrics.summary import interval_of
from xrayfast.reporting.overfitting import TrainAndValid
from xrayfast.reporting.wording import SPLIT_TITLES, percent


@dataclass(frozen=True)
class Ends:
    """The two ends of an interval, and their text."""

    low: float
    high: float
    text: str


@dataclass(frozen=True)
class Cell:
    """A table cell: text (None for an undefined number), the number to sort by, a smaller remark, and an interval."""

    text: str | None
    value: float | None = None
    aside: str = ""
    interval: Ends | None = None


@dataclass(frozen=True)
class Table:
    """A table whose first column names the rows; the cells of other columns are words if in `words`, else numbers."""

    id: str
    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    totals: Sequence[Sequence[Cell]] = ()
    sortable: bool = False
    stacked: bool = False
    words: Collection[str] = ()


@dataclass(frozen=True)
class Matrix:
    """A square table of counts: one row per actual and one column per predicted label."""

    id: str
    caption: str
    labels: Sequence[str]
    rows: Sequence[Sequence[int]]


def number_cell(value: Any, form: str = ".3f", interval: Mapping[str, Any] | None = None, aside: str = "") -> Cell:
    """Return the cell of a number; it has no text if the number is missing or not finite.

    Args:
        value: the number, or None.
        form: the format of the number and of the ends of its interval.
        interval: `low` and `high` of its interval, which may be None.
        aside: a smaller remark.
    """
    if value is None or not math.isfinite(value):
        return Cell(None, aside=aside)
    return Cell(format_value(value, form), float(value), aside, ends(interval, form))


def ends(interval: Mapping[str, Any] | None, form: str = ".3f") -> Ends | None:
    """Return both ends of an interval; None if it has none."""
    if not interval or interval.get("low") is None or interval.get("high") is None:
        return None
    low, high = float(interval["low"]), float(interval["high"])
    return Ends(low, high, format_interval(low, high, form))


def metric_cell(summary: Mapping[str, Any], name: str, row: Mapping[str, Any] | None = None, form: str = ".3f") -> Cell:
    """Return the cell of a metric with its interval: over all labels, or of one label if its row is given."""
    if row is None:
        return number_cell(summary["overall"][name], form, interval_of(summary, name))
    return number_cell(row.get(name), form, interval_of(summary, name, row["label"]))


def epochs_table(history: pd.DataFrame, best_epoch: int | None, task: Task) -> Table:
    """Return one row per epoch."""
    forms = {"train_loss": ("Training loss", ".3f"), "valid_loss": ("Validation loss", ".3f")}
    for name, metric in history_metrics(task).items():
        forms[history_column("train", name)] = f"{metric.title}, training", ".3f"
        forms[history_column("valid", name)] = metric.title, ".3f"
    forms |= {column: (name, ".3f") for column, name in further_columns(history.columns).items()}
    forms |= {"lr": ("Learning rate", ".2g"), "seconds": ("Seconds", ".1f")}
    forms = {column: form for column, form in forms.items() if column in history}
    rows = []
    for record in history.to_dict("records"):
        epoch = Cell(str(int(record["epoch"])), aside="best" if record["epoch"] == best_epoch else "")
        cells = [number_cell(float(record[column]), form) for column, (_, form) in forms.items()]
        rows.append([epoch, Cell(str(record["phase"])), *cells])
    columns = ["Epoch", "Phase", *(name for name, _ in forms.values())]
    how = ", before calibration" + (" and with 0.5 as every threshold" if task == "multi" else "")
    return Table(
        "epochs", f"Each epoch; metrics on the validation images unless said{how}", columns, rows, words=["Phase"]
    )


def train_and_valid_table(found: TrainAndValid) -> Table:
    """Return the loss and the metrics of both splits, and the gaps between the splits."""
    rows = []
    for key, (train, valid) in found.values.items():
        gap = None if train is None or valid is None else train - valid
        rows.append([Cell(found.name(key)), number_cell(train), number_cell(valid), number_cell(gap, "+.3f")])
    columns = ["Metric", "Training", "Validation", "Gap"]
    return Table("train-and-valid", "Loss and metrics of both splits", columns, rows)


def counts_table(counts: pd.DataFrame, labels: Sequence[str], task: Task) -> Table:
    """Return images by label and split; the rows after the labels are totals, whatever the labels are named."""
    records = list(zip(map(str, counts.index), counts.to_numpy(dtype=float).tolist(), strict=True))
    of_labels, totals = records[: len(labels)], records[len(labels) :]
    images = dict(totals).get("images", [math.nan] * len(counts.columns))

    def row(name: str, values: Sequence[float], shares: bool) -> list[Cell]:
        cells = [Cell(name)]
        for value, whole in zip(values, images, strict=True):
            known = shares and math.isfinite(value) and whole > 0
            cells.append(number_cell(value, ",.0f", aside=percent(value, whole) if known else ""))
        return cells

    single = task == "single"
    columns = ["Class" if single else "Label", *(SPLIT_TITLES.get(name, name) for name in map(str, counts.columns))]
    caption = "Images by class and split" if single else "Images by label and split; an image may have several"
    rows = [row(name, values, shares=True) for name, values in of_labels]
    return Table(
        "counts", caption, columns, rows, [row(f"All {name}", values, shares=False) for name, values in totals]
    )


def flow_steps(flow: Sequence[tuple[str, int]], patients: Mapping[str, float]) -> list[dict[str, str]]:
    """Return the steps of the flow chart: kind, text, images, and patients in words ("" if unknown).

    The kind is "step" for images that are kept, "out" for images left out, and "split" for the images of one split.

    Args:
        flow: from `data.manifest.Manifest.flow`; older versions began the splits with "Part".
        patients: number of patients, keyed by split or by the text of a step.
    """
    steps = []
    for text, images in flow:
        kind = "out" if text.startswith("Left out") else "split" if text.startswith(("Split ", "Part ")) else "step"
        name = text.partition(" ")[2] if kind == "split" else text
        of = patients.get(name, math.nan)
        people = plural(int(of), "patient") if math.isfinite(of) else ""
        steps.append({"kind": kind, "text": SPLIT_TITLES.get(name, text), "images": f"{images:,}", "patients": people})
    return steps
