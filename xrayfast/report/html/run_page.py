"""A run as one self-contained HTML page: what `report.html` holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from xrayfast.config import Task
from xrayfast.files import write_text
from xrayfast.metrics.decision import Decision
from xrayfast.report.figures import Case
from xrayfast.report.html.decision_view import decision_view
from xrayfast.report.html.figure_blocks import Plot, history_plot
from xrayfast.report.html.render import render_template
from xrayfast.report.html.results import SplitReport
from xrayfast.report.html.results_view import results_view
from xrayfast.report.html.tables import SPLIT_TITLES, counts_table, epochs_table, flow_view

__all__ = ["Case", "ReportData", "SplitReport", "render", "task_text", "write_page"]

FACT_NAMES = {
    "arch": "Network",
    "lr": "Learning rate",
    "lr_div": "Learning rate divisor",
    "wd": "Weight decay",
    "tta": "Test-time augmentation",
    "size": "Image size",
}


@dataclass(frozen=True, eq=False)
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
        decision: calibration and thresholds; None for the network's own probabilities.
        flow: from the image files that were found to the splits: what is told of them, and how many.
        audit: sentences on what was looked for in the data, and found.
        source: of the data; "" where it is not known.
        curves: `blocks.history_plot` of the history, where it was drawn before.
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
    decision: Decision | None = None
    flow: Sequence[tuple[str, int]] = ()
    audit: Sequence[str] = ()
    source: str = ""
    curves: Plot | None = None


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
    splits = [results_view(split, data.task) for split in data.splits]
    view = {
        "run_name": data.run_name,
        "created": data.created,
        "command": data.command,
        "task_text": task_text(data.task, data.labels),
        "contents": _contents(data),
        "warnings": data.warnings,
        "source": data.source,
        "counts": counts_table(data.counts, data.labels, data.task),
        "flow": flow_view(data.flow),
        "audit": data.audit,
        "data_notes": data.data_notes,
        "facts": [(_fact_name(name), value) for name, value in data.facts.items()],
        "curves": data.curves or history_plot(data.history, data.best_epoch),
        "epochs": epochs_table(data.history, data.best_epoch, data.task),
        "best_epoch": data.best_epoch,
        "decision": decision_view(data.decision or Decision(data.task, tuple(data.labels))),
        "splits": splits,
        "has_patients": "patients" in data.counts.index[len(data.labels) :],
        "has_intervals": any(split["intervals_text"] for split in splits),
    }
    return render_template("report.html.j2", view)


def _contents(data: ReportData) -> list[tuple[str, str]]:
    """Id and title of each section, in order."""
    results = [(f"results-{split.name}", f"Results: {SPLIT_TITLES[split.name].lower()}") for split in data.splits]
    return [
        ("glance", "Result at a glance"),
        ("warnings", "Warnings"),
        ("data", "Data"),
        ("training", "Model and training"),
        ("decision", "Calibration and thresholds"),
        *results,
        ("failures", "Predicted against actual"),
        *([("saliency", "What the network looks at")] if any(map(_explained, data.splits)) else []),
        ("limits", "Limits and intended use"),
        ("reproduce", "How to reproduce"),
    ]


def _explained(split: SplitReport) -> bool:
    return bool(split.saliency or split.saliency_notes)


def task_text(task: Task, labels: Sequence[str]) -> str:
    """What the network tells, in a line."""
    if task == "single":
        return f"Chest radiographs, one of {len(labels)} classes an image"
    return f"Chest radiographs, any of {len(labels)} labels an image"


def _fact_name(name: str) -> str:
    words = name.replace("_", " ")
    return FACT_NAMES.get(name, words[:1].upper() + words[1:])
