"""`report.html`: a run as one self-contained page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from xrayfast.config import Task
from xrayfast.metrics.claims.headline import optimism
from xrayfast.metrics.operating_points.decision import Decision
from xrayfast.own_code import show_setting
from xrayfast.reporting.html.decision_section import decision_section
from xrayfast.reporting.html.plots import Plot
from xrayfast.reporting.html.render import render_template
from xrayfast.reporting.html.split_section import SplitReport, split_section
from xrayfast.reporting.html.tables import counts_table, epochs_table, flow_steps, train_and_valid_table
from xrayfast.reporting.overfitting import TrainAndValid
from xrayfast.reporting.wording import hidden_layers, other_remarks
from xrayfast.runs.info_types import RunInfo
from xrayfast.runs.metrics_types import ShownImage
from xrayfast.runs.run import Run


@dataclass(frozen=True, eq=False)
class ReportData:
    """Everything that the page shows.

    Attributes:
        model_facts: facts on model and training, keyed by their titles.
        labels: the names, in the order of the network's outputs.
        counts: images by label (rows, in the order of `labels`, then "images" and, if known, "patients")
            and by split (columns among train, valid and test).
        splits: the evaluated splits, valid before test; the last is that of the headline.
        source: path of the data; "" if unknown.
        curves: `plots.history_plot` of the history.
        batches: `plots.batches_plot`; None if the run has recorded no batches.
        training_images: a few training images as the network saw them.
        overfitting: comparison of training and validation; None if the run has no metrics of the training split.
    """

    run_name: str
    info: RunInfo
    model_facts: Mapping[str, str]
    task: Task
    labels: Sequence[str]
    counts: pd.DataFrame
    history: pd.DataFrame
    splits: tuple[SplitReport, ...]
    decision: Decision
    source: str
    curves: Plot | None
    batches: Plot | None = None
    overfitting: TrainAndValid | None = None
    methods: str = ""
    training_images: Sequence[ShownImage] = ()


def render_run_page(data: ReportData) -> str:
    """Return the page as one self-contained HTML document."""
    info = data.info
    splits = [split_section(split, data.task, split is data.splits[-1]) for split in data.splits]
    totals = data.counts.iloc[len(data.labels) :]  # by position: a label may be named "patients"
    patients = dict(totals.loc["patients"]) if "patients" in totals.index else {}
    view = {
        **vars(data),
        "task_text": task_text(data.task, data.labels),
        "remarks": other_remarks(info.remarks, *(split.summary for split in data.splits)),
        "counts": counts_table(data.counts, data.labels, data.task),
        "flow": flow_steps(info.flow, patients),
        "train_and_valid": None if data.overfitting is None else train_and_valid_table(data.overfitting),
        "epochs": epochs_table(data.history, info.best_epoch, data.task),
        "optimistic": optimism(),
        "decision": decision_section(data.decision),
        "splits": splits,
        "has_patients": bool(patients),
    }
    return render_template("report.html.j2", view)


def task_text(task: Task, labels: Sequence[str]) -> str:
    """Describe the task in a line."""
    kind = f"one of {len(labels)} classes" if task == "single" else f"any of {len(labels)} labels"
    if len(labels) == 1:
        kind = f"with or without {labels[0]}"
    return f"Chest radiographs, {kind} per image"


def training_facts(run: Run) -> dict[str, str]:
    """Return how a run was trained, keyed by the titles of the facts."""
    info, config = run.info, run.config
    train, model = config.train, config.model
    if info.members and not info.phases:
        return {
            "Networks": ", ".join(info.members),
            **({"Parameters of all": f"{info.parameters:,}"} if info.parameters else {}),
            "Image size": f"{model.size} px",
        }
    last = f" to {train.seed + train.members - 1}" if train.members > 1 else ""
    phases = [f"{phase.name} ({phase.epochs})" for phase in info.phases or ()]
    versions = {"xrayfast": info.xrayfast, **info.versions}
    return {
        "Network": show_setting(model.arch),
        "Head": ", ".join(filter(None, [model.head, hidden_layers(model)])),
        "Weights": model.weights,
        **({"Networks": f"{len(info.members)}, averaged"} if info.members else {}),
        "Parameters": f"{info.parameters or 0:,}" + (" each" if info.members else ""),
        "Image size": f"{model.size} px",
        "Batch size": str(run.global_batch),
        "Phases (epochs)": ", ".join(phases) or "by hand",
        "Learning rate": "by hand" if info.lr is None else f"{info.lr:.2g}",
        "Schedule": train.schedule,
        "Optimizer": train.optimizer,
        "Weight decay": str(train.wd),
        **train.loop_options,
        "Loss": show_setting(info.loss or train.loss),
        "Class weights": train.class_weights,
        "Test-time augmentation": "yes" if train.tta else "no",
        "Precision": info.precision or train.precision,
        "Device": f"{info.device} ({info.device_name})",
        "Seed": f"{train.seed}{last} (split {config.data.split_seed})",
        "Training time": "not recorded" if info.seconds is None else f"{info.seconds:.0f} s",
        "Versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
    }
