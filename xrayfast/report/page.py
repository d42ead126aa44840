"""A run as one self-contained HTML page: what `report.html` holds.

The page asks nothing of a network, and its Content-Security-Policy forbids it to: the one style sheet and the
one script are allowed by their hashes. Whatever comes from the data set is escaped.
"""

from __future__ import annotations

import base64
import hashlib
import io
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure
from PIL import Image

from xrayfast.files import write_text
from xrayfast.metrics.summary import OVERALL, PER_LABEL, Task
from xrayfast.report.figures import (
    DPI,
    Case,
    binary_figure,
    confusion_figure,
    cooccurrence_figure,
    loss_and_metric_curves,
    png_bytes,
    readable,
)

__all__ = ["Case", "ReportData", "SplitReport", "render", "write_page"]

TEMPLATES = Path(__file__).parent / "templates"
PICTURE_SIDE = 160
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

FACT_NAMES = {
    "arch": "Network",
    "lr": "Learning rate",
    "lr_div": "Learning rate divisor",
    "wd": "Weight decay",
    "tta": "Test-time augmentation",
    "size": "Image size",
}


@dataclass(frozen=True)
class SplitReport:
    """The results on one split.

    Attributes:
        name: which split.
        summary: as `metrics.summary.summarise` returns it.
        cases: the top losses, in the order to show.
        predictions_note: a sentence on where the predictions come from, or "".
    """

    name: Literal["valid", "test"]
    summary: Mapping[str, Any]
    cases: tuple[Case, ...]
    predictions_note: str


@dataclass(frozen=True)
class ReportData:
    """Everything that the page shows.

    Attributes:
        run_name: the run's name, the page's title.
        created: date and time, for people.
        command: the command line or call that started the run.
        facts: how it was trained, by name: arch, weights, loss, optimizer, seed, device, versions and so on.
        task: "single" or "multi".
        labels: the names, in the order of the network's outputs.
        counts: images by label (rows, in the order of `labels`, then "images" and, where known, "patients")
            and by split (columns among train, valid and test).
        data_notes: sentences on the data.
        history: a row an epoch, as `figures.loss_and_metric_curves` takes it.
        best_epoch: the epoch whose weights were kept, or None.
        splits: the evaluated splits.
        warnings: sentences that a reader must see first.
    """

    run_name: str
    created: str
    command: str
    facts: Mapping[str, str]
    task: Task
    labels: Sequence[str]
    counts: pd.DataFrame
    data_notes: tuple[str, ...]
    history: pd.DataFrame
    best_epoch: int | None
    splits: tuple[SplitReport, ...]
    warnings: tuple[str, ...]


def write_page(data: ReportData, path: Path) -> None:
    """Write the page; `path` holds the old file or the whole new one, never a part.

    Raises:
        WriteError: the file can't be written.
    """
    write_text(path, render(data))


def render(data: ReportData) -> str:
    """The whole page as one HTML document that needs no other file.

    Args:
        data: what to show; names and sentences are plain text and are escaped here.
    """
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_showable,
    )
    style, script = (
        (TEMPLATES / "report.css").read_text("utf-8"),
        (TEMPLATES / "report.js").read_text("utf-8"),
    )
    splits = [_split_view(split, data) for split in data.splits]
    return environment.get_template("report.html.j2").render(
        policy=_policy(style, script),
        style=Markup(style),
        script=Markup(script),
        run_name=data.run_name,
        created=data.created,
        command=data.command,
        task_text=_task_text(data),
        contents=_contents(data),
        warnings=data.warnings,
        counts=_counts_table(data),
        data_notes=data.data_notes,
        facts=[(_fact_name(name), value) for name, value in data.facts.items()],
        curves=_curves_view(data),
        epochs=_epochs_table(data),
        splits=splits,
        task=data.task,
        has_patients="patients" in data.counts.index[len(data.labels) :],
    )


@dataclass(frozen=True)
class _Cell:
    """Its text (None for a number that is not defined), the number to sort by, and a smaller remark."""

    text: str | None
    value: float | None = None
    aside: str = ""


@dataclass(frozen=True)
class _Column:
    name: str
    text: bool = False


@dataclass(frozen=True)
class _Table:
    """A table whose first column names the rows."""

    id: str
    caption: str
    columns: Sequence[_Column]
    rows: Sequence[Sequence[_Cell]]
    totals: Sequence[Sequence[_Cell]] = ()
    sortable: bool = False
    stacked: bool = False


@dataclass(frozen=True)
class _Matrix:
    id: str
    caption: str
    labels: Sequence[str]
    rows: Sequence[Sequence[int]]


@dataclass(frozen=True)
class _Plot:
    """A figure as a data URI's content, with its size in CSS pixels."""

    title: str
    alt: str
    data: str
    width: int
    height: int
    wide: bool


@dataclass(frozen=True)
class _Block:
    """A figure with its heading, a sentence and the same numbers as a table."""

    title: str
    text: str
    figure: _Plot
    table: _Table | _Matrix
    square: bool


def _policy(style: str, script: str) -> str:
    def source(text: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode('utf-8')).digest()).decode()}'"

    return (
        f"default-src 'none'; img-src data:; style-src {source(style)}; script-src {source(script)}; "
        "base-uri 'none'; form-action 'none'"
    )


def _showable(value: Any) -> Any:
    """Plain text without what HTML can't hold; what is marked as safe stays as it is."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return "\n".join(readable(line) for line in value.split("\n"))
    return value


def _contents(data: ReportData) -> list[tuple[str, str]]:
    """Id and title of each section, in order."""
    results = [(f"results-{split.name}", f"Results: {SPLITS[split.name].lower()}") for split in data.splits]
    return [
        ("glance", "Result at a glance"),
        ("warnings", "Warnings"),
        ("data", "Data"),
        ("training", "Training"),
        *results,
        ("failures", "Predicted against actual"),
        ("limits", "Limits and intended use"),
        ("reproduce", "How to reproduce"),
    ]


def _task_text(data: ReportData) -> str:
    if data.task == "single":
        return f"Chest radiographs, one of {len(data.labels)} classes an image"
    return f"Chest radiographs, any of {len(data.labels)} labels an image"


def _fact_name(name: str) -> str:
    words = name.replace("_", " ")
    return FACT_NAMES.get(name, words[:1].upper() + words[1:])


def _number(value: Any, form: str = ".3f") -> _Cell:
    """A cell of a number; what is missing or not finite has no text."""
    if value is None or not math.isfinite(value):
        return _Cell(None)
    return _Cell(format(value, form), float(value))


def _images(count: int, kind: str = "") -> str:
    noun = "image" if count == 1 else "images"
    return " ".join(filter(None, (f"{count:,}", kind, noun)))


def _percent(part: float, whole: float) -> str:
    return f"{100 * part / whole:.1f}%"


def _split_view(split: SplitReport, data: ReportData) -> dict[str, Any]:
    """What the templates show of one split."""
    summary, task = split.summary, data.task
    overall = [(key, name, _number(summary["overall"].get(key))) for key, name in OVERALL[task].items()]
    notes = list(summary["notes"])
    per_label = _per_label_table(split)
    if any(cell.text is None for row in per_label.rows for cell in row):
        notes.append(
            "A dash stands for a number that is not defined: AUROC needs images with the label and images "
            "without, and a rate needs at least one image to be a rate of."
        )
    return {
        "name": split.name,
        "title": SPLITS[split.name],
        "images_text": _images(summary["images"]),
        "predictions_note": split.predictions_note,
        "words": _words(split, task),
        "overall": [(name, cell.text) for _, name, cell in overall],
        "totals": _Table(
            f"{split.name}-overall",
            "Over all labels" if task == "multi" else "Over all classes",
            (_Column("Metric", text=True), _Column("Value")),
            [(_Cell(name, aside=MEANING[key]), cell) for key, name, cell in overall],
            stacked=True,
        ),
        "per_label": per_label,
        "notes": notes,
        "matrices": _confusion_blocks(split, data) if task == "single" else _multi_blocks(split, data),
        "confused": _confused_table(split) if task == "single" else None,
        "cases": [_case_view(case) for case in split.cases],
    }


def _words(split: SplitReport, task: Task) -> str:
    """The result as sentences, with what no skill would give beside it."""
    summary, n = split.summary, int(split.summary["images"])
    if n == 0:
        return "This split holds no images."
    kind = SPLITS[split.name].lower()
    exact = summary["overall"]["accuracy" if task == "single" else "subset_accuracy"]
    right = round(exact * n)
    share = f"{right:,} ({_percent(right, n)})"
    if task == "single":
        common = max(summary["per_label"], key=lambda row: row["support"])
        return (
            f"Of {_images(n, kind)}, {share} were given the right class. Always answering "
            f"“{common['label']}”, the most common class here, would be right for "
            f"{_percent(common['support'], n)}."
        )
    auroc = summary["overall"]["auroc_macro"]
    ranking = (
        "AUROC is defined for no label."
        if auroc is None
        else "Averaged over the labels, an image with the label scores above one without in "
        f"{_percent(auroc, 1)} of pairs (AUROC)."
    )
    return f"Of {_images(n, kind)}, {share} were given exactly the right set of labels. {ranking}"


def _per_label_table(split: SplitReport) -> _Table:
    columns = [_Column("Label", text=True), *(_Column(name) for name in PER_LABEL.values())]
    rows = [
        [_Cell(row["label"]), *(_number(row[key], "d" if key == "support" else ".3f") for key in PER_LABEL)]
        for row in split.summary["per_label"]
    ]
    caption = f"By label, {_images(split.summary['images'], SPLITS[split.name].lower())}; a header sorts the table"
    return _Table(f"{split.name}-by-label", caption, columns, rows, sortable=True)


def _confused_table(split: SplitReport) -> _Table:
    support = {row["label"]: row["support"] for row in split.summary["per_label"]}
    cells = split.summary["most_confused"]
    rows = [
        [
            _Cell(cell["actual"]),
            _Cell(cell["predicted"]),
            _Cell(f"{cell['count']:,}"),
            _Cell(_percent(cell["count"], support[cell["actual"]])),
        ]
        for cell in cells[:CONFUSED_ROWS]
    ]
    shown = f", the first {CONFUSED_ROWS} of {len(cells)} pairs" if len(cells) > CONFUSED_ROWS else ""
    columns = (
        _Column("Actual", text=True),
        _Column("Predicted", text=True),
        _Column("Images"),
        _Column("Share"),
    )
    return _Table(
        f"{split.name}-confused",
        f"Mistakes by pair of classes, with their share of the actual class{shown}",
        columns,
        rows,
    )


def _confusion_blocks(split: SplitReport, data: ReportData) -> list[_Block]:
    matrix = split.summary["confusion"]
    n, right = split.summary["images"], sum(matrix[i][i] for i in range(len(matrix)))
    kind = SPLITS[split.name].lower()
    alt = f"Confusion matrix of {_images(n, kind)} and {len(data.labels)} classes; {right} on the diagonal."
    return [
        _Block(
            "Confusion matrix",
            "Each row is an actual class, each column a predicted one; the framed diagonal is right.",
            _plot(confusion_figure(matrix, data.labels), "Confusion matrix", alt),
            _Matrix(
                f"{split.name}-confusion",
                "Actual class (rows) by predicted class (columns)",
                data.labels,
                matrix,
            ),
            square=True,
        )
    ]


def _multi_blocks(split: SplitReport, data: ReportData) -> list[_Block]:
    counts, cooccurrence = split.summary["confusion_per_label"], split.summary["cooccurrence"]
    kind = _images(split.summary["images"], SPLITS[split.name].lower())
    columns = ("True negative", "False positive", "False negative", "True positive")
    binary = _Table(
        f"{split.name}-binary",
        "Images by label",
        (_Column("Label", text=True), *map(_Column, columns)),
        [[_Cell(label), *(_Cell(f"{n:,}") for row in rows for n in row)] for label, rows in counts.items()],
    )
    by_label = _plot(
        binary_figure(counts),
        "One matrix a label",
        f"{len(counts)} two-by-two matrices, one a label, of {kind}; the numbers are in the table below.",
    )
    together = _plot(
        cooccurrence_figure(cooccurrence, data.labels),
        "Predicted labels by actual label",
        f"Matrix of actual by predicted labels of {kind}; the numbers are in the table below.",
    )
    return [
        _Block(
            "Right and wrong by label",
            "For each label the images that carry it (yes) and those that don't (no), by what was predicted "
            "at a threshold of 0.5. Per cent and shade are shares of the row.",
            by_label,
            binary,
            square=False,
        ),
        _Block(
            "Which labels are predicted together",
            "How often the label of the column was predicted on images that carry the label of the row. An "
            "image may carry several labels, so a cell beside the diagonal is not always a mistake.",
            together,
            _Matrix(
                f"{split.name}-cooccurrence",
                "Actual label (rows) by predicted label (columns)",
                data.labels,
                cooccurrence,
            ),
            square=True,
        ),
    ]


def _plot(figure: Figure, title: str, alt: str) -> _Plot:
    """The figure at 100 CSS pixels an inch, without a background so that it suits a dark page as well."""
    content = png_bytes(figure, transparent=True)
    # A PNG begins with 8 bytes of signature and the IHDR chunk: length, name, width, height.
    width, height = (round(side * 100 / DPI) for side in struct.unpack(">II", content[16:24]))
    return _Plot(title, alt, base64.b64encode(content).decode(), width, height, wide=width > 600)


def _curves_view(data: ReportData) -> _Plot | None:
    if data.history.empty:
        return None
    best = "" if data.best_epoch is None else f" Epoch {data.best_epoch} was kept."
    epochs = f"{len(data.history)} epoch" + ("s" if len(data.history) > 1 else "")
    alt = f"Losses and validation metrics over {epochs}.{best} The numbers are in the table below."
    return _plot(loss_and_metric_curves(data.history, data.best_epoch), "Losses and metrics by epoch", alt)


def _epochs_table(data: ReportData) -> _Table:
    names = {"train_loss": "Training loss", "valid_loss": "Validation loss", **OVERALL[data.task]}
    forms = {column: (name, ".3f") for column, name in names.items()}
    forms |= {"lr": ("Learning rate", ".2g"), "seconds": ("Seconds", ".1f")}
    forms = {column: form for column, form in forms.items() if column in data.history}
    rows = []
    for record in data.history.to_dict("records"):
        epoch = int(record["epoch"])
        cells = [_number(float(record[column]), form) for column, (_, form) in forms.items()]
        rows.append(
            [
                _Cell(str(epoch), aside="best" if epoch == data.best_epoch else ""),
                _Cell(str(record["phase"])),
                *cells,
            ]
        )
    columns = [
        _Column("Epoch", text=True),
        _Column("Phase", text=True),
        *(_Column(name) for name, _ in forms.values()),
    ]
    return _Table("epochs", "Each epoch; metrics on the validation images", columns, rows)


def _counts_table(data: ReportData) -> _Table:
    """Images by label and split; the rows after the labels are totals, whatever a label is called."""
    n_labels = len(data.labels)
    split_names = [str(column) for column in data.counts.columns]
    records = [
        (str(name), [float(value) for value in row])
        for name, row in zip(data.counts.index, data.counts.to_numpy(dtype=float), strict=True)
    ]
    totals = dict(records[n_labels:])
    images = totals.get("images", [math.nan] * len(split_names))

    def row(name: str, values: Sequence[float], shares: bool) -> list[_Cell]:
        cells = [_Cell(name)]
        for value, whole in zip(values, images, strict=True):
            known = shares and math.isfinite(value) and whole > 0
            cells.append(_Cell(_number(value, ",.0f").text, aside=_percent(value, whole) if known else ""))
        return cells

    return _Table(
        "counts",
        "Images by class and split"
        if data.task == "single"
        else "Images by label and split; an image may have several",
        [
            _Column("Class" if data.task == "single" else "Label", text=True),
            *(_Column(SPLITS.get(name, name)) for name in split_names),
        ],
        [row(name, values, shares=True) for name, values in records[:n_labels]],
        [row(f"All {name}", values, shares=False) for name, values in records[n_labels:]],
    )


def _case_view(case: Case) -> dict[str, Any]:
    view: dict[str, Any] = {
        "image": case.image,
        "actual": case.actual,
        "predicted": case.predicted,
        "probability": _number(case.probability, ".2f").text,
        "loss": _number(case.loss).text,
        "data": None,
    }
    if case.pixels is not None:
        picture = Image.fromarray(case.pixels)
        picture.thumbnail((PICTURE_SIDE, PICTURE_SIDE), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=85)
        view |= {
            "data": base64.b64encode(buffer.getvalue()).decode(),
            "width": picture.width,
            "height": picture.height,
        }
    return view
