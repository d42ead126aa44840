"""The page of a cross-validation as one self-contained file."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from xrayfast.config import DEFAULT_METRIC
from xrayfast.errors import format_cell
from xrayfast.metrics.registry import metric_phrase, metric_title
from xrayfast.metrics.summary import interval_of
from xrayfast.reporting.figures.forest import GUESS, Estimate, ForestRow, forest_figure
from xrayfast.reporting.html.decision_section import decision_section
from xrayfast.reporting.html.pages.run_page import task_text, training_facts
from xrayfast.reporting.html.plots import Plot, plot
from xrayfast.reporting.html.render import render_template
from xrayfast.reporting.html.results_tables import by_patient_table, fold_table
from xrayfast.reporting.html.split_section import SplitReport, split_section
from xrayfast.reporting.html.tables import counts_table, flow_steps
from xrayfast.reporting.wording import other_remarks, percent
from xrayfast.runs.cross_validation import CrossValidation
from xrayfast.runs.metrics_types import MetricsFile


def render_cross_validation_page(cv: CrossValidation, splits: Sequence[SplitReport], methods: str) -> str:
    """Return the page as one self-contained HTML document."""
    info, metrics, task, folds = cv.info, cv.metrics, cv.task, cv.folds
    sections = [split_section(split, task, is_headline=split is splits[0]) for split in splits]
    counts = pd.DataFrame({"folds" if split == "valid" else split: column for split, column in info.counts.items()})
    remarks = other_remarks(info.remarks, *(split.summary for split in splits))
    patients = dict(counts.loc["patients"]) if "patients" in counts.index[len(cv.labels) :] else {}
    return render_template(
        "cross_validation.html.j2",
        {
            "name": cv.path.name,
            "info": info,
            "task_text": task_text(task, cv.labels),
            "how": cv.dealt,
            "splits": sections,
            "folds": fold_table(metrics, task, "folds"),
            "folds_plot": folds_plot(metrics),
            "folds_text": spread_sentence(metrics),
            "repeats": folds.repeats,
            "inner_valid": percent(folds.inner_valid) if folds.inner_valid else "",
            "by_patient": by_patient_table(metrics, task),
            "remarks": remarks,
            "source": cv.config.data.shown,
            "counts": counts_table(counts, cv.labels, task),
            "flow": flow_steps(info.flow, patients),
            "model_facts": training_facts(cv).items(),
            "decision": decision_section(cv.decision, cv.chosen_on),
            "has_patients": bool(patients),
            "tested": len(splits) > 1,
            "methods": methods,
        },
    )


def spread_sentence(metrics: MetricsFile) -> str:
    """Describe mean, standard deviation and range of the default metric over folds."""
    found = metrics["spread"][DEFAULT_METRIC]
    mean, sd, low, high = (format_cell(found[name]) for name in ("mean", "sd", "lowest", "highest"))
    return (
        f"The {metric_phrase(DEFAULT_METRIC)} of single folds is {mean} on average (range {low} to {high}, standard "
        f"deviation {sd}). The standard deviation is not a standard error: the networks share most of their training "
        "images."
    )


def folds_plot(metrics: MetricsFile) -> Plot:
    """Plot the default metric of all images, with its interval, and of each fold."""
    pooled = metrics["valid"]
    interval = interval_of(pooled, DEFAULT_METRIC) or {"low": None, "high": None}
    value, guess = pooled["overall"][DEFAULT_METRIC], GUESS.get(DEFAULT_METRIC)
    whole = Estimate(value, interval["low"], interval["high"], guess)
    rows = [ForestRow("All, out of fold", f"{pooled['images']:,}", [whole])]
    rows += [
        ForestRow(row["run"], f"{row['images']:,}", [Estimate(row["overall"][DEFAULT_METRIC], guess=guess)])
        for row in metrics["folds"]
    ]
    alt = (
        f"The {metric_phrase(DEFAULT_METRIC)} of all images with its interval, and of each fold; the numbers are below."
    )
    return plot(forest_figure(rows, [metric_title(DEFAULT_METRIC)], width=6.4), "folds", "Folds", alt)
