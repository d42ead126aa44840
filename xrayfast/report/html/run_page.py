"""`report.html`: a run as one self-contained page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from xrayfast.config import Task
from xrayfast.metrics.decision import Decision
from xrayfast.report.html.decision_section import decision_section
from xrayfast.report.html.plots import Plot, history_plot
from xrayfast.report.html.render import render_template
from xrayfast.report.html.split_section import SplitReport, split_section
from xrayfast.report.html.tables import counts_table, epochs_table, flow_steps
from xrayfast.report.wording import SPLIT_TITLES

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
        facts: on model and training, by name: arch, weights, loss, optimizer, seed, device, versions and so on.
        task: "single" or "multi".
        labels: the names, in the order of the network's outputs.
        counts: images by label (rows, in the order of `labels`, then "images" and, where known, "patients")
            and by split (columns among train, valid and test).
        data_notes: sentences on the data.
        history: one row per epoch, as `figures.loss_and_metric_curves` takes it.
        best_epoch: the epoch whose weights were kept, or None.
        splits: the evaluated splits, valid before test.
        warnings: sentences that a reader must see first.
        decision: calibration and thresholds; None for the network's own probabilities.
        flow: from the image files that were found to the splits: descriptions and numbers of images.
        audit: sentences on duplicates and leaks.
        source: of the data; "" where unknown.
        curves: `plots.history_plot` of the history, where it is drawn already.
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


def render_run_page(data: ReportData) -> str:
    """The whole page as one HTML document that needs no other file.

    Args:
        data: what to show; names and sentences are plain text and are escaped here.
    """
    splits = [split_section(split, data.task) for split in data.splits]
    view = {
        "run_name": data.run_name,
        "created": data.created,
        "command": data.command,
        "task_text": task_text(data.task, data.labels),
        "contents": _contents(data),
        "warnings": data.warnings,
        "source": data.source,
        "counts": counts_table(data.counts, data.labels, data.task),
        "flow": flow_steps(data.flow),
        "audit": data.audit,
        "data_notes": data.data_notes,
        "facts": [(_fact_name(name), value) for name, value in data.facts.items()],
        "curves": data.curves or history_plot(data.history, data.best_epoch),
        "epochs": epochs_table(data.history, data.best_epoch, data.task),
        "best_epoch": data.best_epoch,
        "decision": decision_section(data.decision or Decision(data.task, tuple(data.labels))),
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
        *([("saliency", "What the network looks at")] if any(split.explained for split in data.splits) else []),
        ("limits", "Limits and intended use"),
        ("reproduce", "How to reproduce"),
    ]


def task_text(task: Task, labels: Sequence[str]) -> str:
    """The task in a line."""
    kind = f"one of {len(labels)} classes" if task == "single" else f"any of {len(labels)} labels"
    return f"Chest radiographs, {kind} per image"


def _fact_name(name: str) -> str:
    words = name.replace("_", " ")
    return FACT_NAMES.get(name, words[:1].upper() + words[1:])
