"""A run as one self-contained HTML page: what `report.html` holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from xrayfast.config import Task
from xrayfast.files import write_text
from xrayfast.report.blocks import confusion_blocks, curves_plot, multi_blocks
from xrayfast.report.figures import Case
from xrayfast.report.html import picture_view, render_template
from xrayfast.report.tables import (
    SPLITS,
    confused_table,
    counts_table,
    epochs_table,
    images_text,
    number,
    overall_table,
    per_label_table,
    percent,
)

__all__ = ["Case", "ReportData", "SplitReport", "render", "write_page"]

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
    splits = [_split_view(split, data) for split in data.splits]
    view = {
        "run_name": data.run_name,
        "created": data.created,
        "command": data.command,
        "task_text": _task_text(data),
        "contents": _contents(data),
        "warnings": data.warnings,
        "counts": counts_table(data.counts, data.labels, data.task),
        "data_notes": data.data_notes,
        "facts": [(_fact_name(name), value) for name, value in data.facts.items()],
        "curves": curves_plot(data.history, data.best_epoch),
        "epochs": epochs_table(data.history, data.best_epoch, data.task),
        "best_epoch": data.best_epoch,
        "splits": splits,
        "task": data.task,
        "has_patients": "patients" in data.counts.index[len(data.labels) :],
    }
    return render_template("report.html.j2", view)


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


def _split_view(split: SplitReport, data: ReportData) -> dict[str, Any]:
    """What the templates show of one split."""
    summary, task = split.summary, data.task
    overall = overall_table(split.name, summary, task)
    blocks = confusion_blocks if task == "single" else multi_blocks
    notes = list(summary["notes"])
    per_label = per_label_table(split.name, summary)
    if any(cell.text is None for row in per_label.rows for cell in row):
        notes.append(
            "A dash stands for a number that is not defined: AUROC needs images with the label and images "
            "without, and a rate needs at least one image to be a rate of."
        )
    return {
        "name": split.name,
        "title": SPLITS[split.name],
        "images_text": images_text(summary["images"]),
        "predictions_note": split.predictions_note,
        "words": _words(split, task),
        "overall": [(name.text, value.text) for name, value in overall.rows],
        "totals": overall,
        "per_label": per_label,
        "notes": notes,
        "matrices": blocks(split.name, summary, data.labels),
        "confused": confused_table(split.name, summary) if task == "single" else None,
        "cases": [_case_view(case) for case in split.cases],
    }


def _words(split: SplitReport, task: Task) -> str:
    """The result as sentences, with what no skill would give beside it."""
    summary, n = split.summary, int(split.summary["scored"])
    if n == 0:
        return "This split holds no images." if not summary["images"] else "Nothing is known of this split's images."
    kind = SPLITS[split.name].lower()
    exact = summary["overall"]["accuracy" if task == "single" else "subset_accuracy"]
    right = round(exact * n)
    share = f"{right:,} ({percent(right, n)})"
    if task == "single":
        common = max(summary["per_label"], key=lambda row: row["support"])
        return (
            f"Of {images_text(n, kind)}, {share} were given the right class. Always answering "
            f"“{common['label']}”, the most common class here, would be right for "
            f"{percent(common['support'], n)}."
        )
    auroc = summary["overall"]["auroc_macro"]
    ranking = (
        "AUROC is defined for no label."
        if auroc is None
        else "Averaged over the labels, an image with the label scores above one without in "
        f"{percent(auroc, 1)} of pairs (AUROC)."
    )
    return f"Of {images_text(n, kind)}, {share} were given exactly the right set of labels. {ranking}"


def _case_view(case: Case) -> dict[str, Any]:
    return {
        "image": case.image,
        "actual": case.actual,
        "predicted": case.predicted,
        "probability": number(case.probability, ".2f").text,
        "loss": number(case.loss).text,
        **picture_view(case.pixels),
    }
