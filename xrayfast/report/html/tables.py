"""Tables as the pages show them, and those of a run's data and training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from xrayfast.config import Task
from xrayfast.errors import plural
from xrayfast.metrics.registry import epoch_metrics

SPLIT_TITLES = {"train": "Training", "valid": "Validation", "test": "Test", "external": "External test"}
"""The splits of a data set, and the external test, with the names that people read."""


@dataclass(frozen=True)
class Ends:
    """The two ends of an interval, and how they are written."""

    low: float
    high: float
    text: str


@dataclass(frozen=True)
class Cell:
    """Its text (None for a number that is not defined), the number to sort by, a smaller remark, and an interval."""

    text: str | None
    value: float | None = None
    aside: str = ""
    interval: Ends | None = None


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


def number(value: Any, form: str = ".3f", interval: Mapping[str, Any] | None = None, aside: str = "") -> Cell:
    """A cell of a number; what is missing or not finite has no text.

    Args:
        value: the number, or None.
        form: how it is written, and the ends of its interval.
        interval: its `low` and `high`, which may be None.
        aside: a smaller remark.
    """
    if value is None or not math.isfinite(value):
        return Cell(None, aside=aside)
    return Cell(format(value, form), float(value), aside, ends(interval, form))


def ends(interval: Mapping[str, Any] | None, form: str = ".3f") -> Ends | None:
    """Both ends of an interval; None where it has none."""
    if not interval or interval.get("low") is None or interval.get("high") is None:
        return None
    low, high = float(interval["low"]), float(interval["high"])
    return Ends(low, high, f"{low:{form}} to {high:{form}}")


def images_text(count: int, kind: str = "") -> str:
    """As in "1,024 validation images"."""
    return plural(count, " ".join(filter(None, (kind, "image"))))


def percent(part: float, whole: float = 1.0) -> str:
    """A share with one decimal; `whole` is above 0."""
    return f"{100 * part / whole:.1f}%"


def epochs_table(history: pd.DataFrame, best_epoch: int | None, task: Task) -> Table:
    """An epoch a row."""
    forms = {"train_loss": ("Training loss", ".3f"), "valid_loss": ("Validation loss", ".3f")}
    forms |= {name: (metric.title, ".3f") for name, metric in epoch_metrics(task).items()}
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
    how = ", before calibration and with 0.5 as every threshold" if task == "multi" else ""
    return Table("epochs", f"Each epoch; metrics on the validation images{how}", columns, rows)


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
            cells.append(number(value, ",.0f", aside=percent(value, whole) if known else ""))
        return cells

    return Table(
        "counts",
        "Images by class and split" if task == "single" else "Images by label and split; an image may have several",
        [
            Column("Class" if task == "single" else "Label", text=True),
            *(Column(SPLIT_TITLES.get(name, name)) for name in split_names),
        ],
        [row(name, values, shares=True) for name, values in records[:n_labels]],
        [row(f"All {name}", values, shares=False) for name, values in records[n_labels:]],
    )


def flow_view(flow: Sequence[tuple[str, int]]) -> list[dict[str, str]]:
    """The flow of images as what the templates draw: what is told, the number, and whether the step leads on.

    Args:
        flow: as `data.manifest.Manifest.flow` gives it.
    """
    view = []
    for text, images in flow:
        kind = "out" if text.startswith("Left out") else "part" if text.startswith(("Split ", "Part ")) else "step"
        told = SPLIT_TITLES.get(text.partition(" ")[2], text) if kind == "part" else text
        view.append({"kind": kind, "text": told, "images": f"{images:,}"})
    return view
