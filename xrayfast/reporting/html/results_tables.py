"""The tables of a split's results; every number in them is from its summary, and therefore in `metrics.json`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from xrayfast.config import Task
from xrayfast.errors import plural_noun
from xrayfast.metrics.intervals.formulas import METHODS
from xrayfast.metrics.operating_points import calibration_metrics, fixed_rates
from xrayfast.metrics.operating_points.decision import Decision
from xrayfast.metrics.registry import (
    AT_THRESHOLD,
    LABELS_MEAN,
    headline_metrics,
    label_columns,
    label_metrics,
    metric_title,
    overall_metrics,
)
from xrayfast.metrics.summary import interval_of
from xrayfast.reporting.html.tables import Cell, Table, metric_cell, number_cell
from xrayfast.reporting.wording import label_rows, percent, positive_class_metric, split_images, unit_of, units_of

CONFUSED_ROWS = 10

TITLES = {"support": "{}", "negatives": "{} without", "threshold": "Threshold"}
MOST_USED = ("support", "threshold", *label_columns("page"))
"""The columns of the table by label that fits a printed page."""

FORMS = {"support": ",d", "negatives": ",d", "threshold": "#.3g"}


def headline_table(split: str, summary: Mapping[str, Any], task: Task) -> Table:
    """Return the headline metrics, with what they mean."""
    metrics = {name: metric for name, metric in headline_metrics(task).items() if name in summary["overall"]}
    rows = []
    for mean, metric in metrics.items():
        title, name, row = positive_class_metric(summary, mean)
        meaning = metric.meaning if row is None else metric.meaning.replace(f", {LABELS_MEAN}", "")
        rows.append([Cell(title, aside=meaning), metric_cell(summary, name, row)])
    caption = "Over all labels" if task == "multi" else "Over all classes"
    return Table(f"{split}-overall", caption, ("Metric", "Value"), rows, stacked=True)


def all_metrics_table(split: str, summary: Mapping[str, Any], task: Task) -> Table:
    """Return every metric over all labels, with the method of its interval."""
    names = [name for name in overall_metrics(task) if name in summary["overall"]]
    rows = [[Cell(metric_title(name)), metric_cell(summary, name)] for name in names]
    columns = ["Metric", "Value"]
    if "intervals" in summary:
        columns.append("Interval")
        rows = [[*row, Cell(_method(interval_of(summary, name)))] for row, name in zip(rows, names, strict=True)]
    return Table(f"{split}-all", f"All {len(rows)} metrics over all labels", columns, rows, words=["Interval"])


def label_tables(split: str, summary: Mapping[str, Any]) -> tuple[Table, list[Table]]:
    """Return the metrics by label: a table of the most used, no wider than a printed page, and tables of all others."""
    kind = split_images(split, summary)
    first = label_table(f"{split}-by-label", f"By label, {kind}; click a header to sort", summary)
    others = [metric for name, metric in label_metrics(prevalence=True).items() if name not in MOST_USED]
    decided = ["negatives", *(metric.name for metric in others if metric.depends_on != "probability")]
    calibrated = [metric.name for metric in others if metric.depends_on == "probability"]
    decided_caption, probabilities = "further metrics at the thresholds", "calibration metrics"
    further = [
        label_table(f"{split}-by-label-decided", f"By label, {kind}: {decided_caption}", summary, decided),
        label_table(f"{split}-by-label-calibrated", f"By label, {kind}: {probabilities}", summary, calibrated),
    ]
    return first, [table for table in further if len(table.columns) > 1]


def at_thresholds_table(split: str, summary: Mapping[str, Any]) -> Table | None:
    """Return each class against the rest at its own threshold; None if no thresholds were chosen."""
    found = summary.get("at_thresholds")
    if not found:
        return None
    columns = ["Class", "Threshold", *map(column_title, AT_THRESHOLD)]
    rows = [
        [
            Cell(row["label"]),
            number_cell(row["threshold"], FORMS["threshold"]),
            *(number_cell(row[name], interval=row["intervals"].get(name)) for name in AT_THRESHOLD),
        ]
        for row in found
    ]
    caption = "Each class against the rest at its own threshold, whichever class is the most likely"
    return Table(f"{split}-at-thresholds", caption, columns, rows, sortable=True)


def fixed_rates_table(split: str, summary: Mapping[str, Any]) -> Table | None:
    """Return sensitivity at fixed specificities and the reverse; None for metrics of older versions."""
    if "fixed_rates" not in summary:
        return None
    titles = fixed_rates.TITLES
    rows = [[Cell(row["label"]), *_operating_cells(row, titles)] for row in summary["fixed_rates"]]
    columns = ["Label", *titles.values()]
    caption = f"By label, {split_images(split, summary)}: points of the ROC curve, whatever the threshold; "
    caption += "no interval if too few patients (or images) are beyond the fixed rate"
    return Table(f"{split}-fixed-rates", caption, columns, rows, sortable=True)


def calibration_table(split: str, summary: Mapping[str, Any]) -> Table | None:
    """Return the calibration metrics of each label before and after calibration; None for metrics of older versions."""
    if "calibration" not in summary:
        return None
    titles = calibration_metrics.TITLES
    rows = [
        [Cell(row["label"]), Cell(when), *_operating_cells(row, titles)]
        for when, found in summary["calibration"].items()
        for row in found
    ]
    columns = ["Label", "Calibration", *titles.values()]
    caption = (
        "By label: an intercept below 0 means that probabilities are too high, a slope below 1 that they are too "
        "extreme; Brier skill is 1 at best, and 0 if the prevalence is predicted for all"
    )
    caption += "".join(
        f"; {row['label']} {when}: neither, since {row['reason']}"
        for when, found in summary["calibration"].items()
        for row in found
        if "reason" in row
    )
    return Table(f"{split}-calibration", caption, columns, rows, sortable=True, words=["Calibration"])


def _operating_cells(row: Mapping[str, Any], names: Iterable[str]) -> list[Cell]:
    return [number_cell(row[name], interval=row["intervals"].get(name)) for name in names]


def delong_table(split: str, summary: Mapping[str, Any]) -> Table | None:
    """Return each AUROC with the reported interval and with DeLong's interval on the logit scale.

    It is None if there are no intervals.
    """
    found = summary.get("intervals", {}).get("delong")
    if not found:
        return None
    rows = [
        [Cell(label), metric_cell(summary, "auroc", row), number_cell(found[label]["auroc"], interval=found[label])]
        for row in label_rows(summary)
        if (label := row["label"]) in found
    ]
    columns = ("Label", "AUROC, as reported", "AUROC, DeLong")
    return Table(f"{split}-delong", "The same AUROC with intervals by two methods", columns, rows, sortable=True)


def confused_table(split: str, summary: Mapping[str, Any]) -> Table:
    """Return one row per pair of classes, the most frequent mistakes first."""
    support = {row["label"]: row["support"] for row in summary["per_label"]}
    cells = summary["most_confused"]
    rows = []
    for cell in cells[:CONFUSED_ROWS]:
        images = number_cell(cell["count"], ",d", aside=percent(cell["count"], support[cell["actual"]]))
        rows.append([Cell(cell["actual"]), Cell(cell["predicted"]), images])
    shown = f", the first {CONFUSED_ROWS} of {len(cells)} pairs" if len(cells) > CONFUSED_ROWS else ""
    caption = f"Mistakes by pair of classes, with their share of the actual class{shown}"
    columns = ("Actual", "Predicted", units_of(summary))
    return Table(f"{split}-confused", caption, columns, rows, sortable=True, words=["Predicted"])


def binary_table(split: str, counts_by_label: Mapping[str, Sequence[Sequence[int]]], unit: str = "image") -> Table:
    """Return the four cells of each label's 2x2 matrix, [[tn, fp], [fn, tp]]."""
    rows = [
        [Cell(label), *(number_cell(n, ",d") for row in counts for n in row)]
        for label, counts in counts_by_label.items()
    ]
    columns = ("Label", "True negative", "False positive", "False negative", "True positive")
    return Table(f"{split}-binary", f"{plural_noun(unit).capitalize()} by label", columns, rows, sortable=True)


def fold_table(metrics: Mapping[str, Any], task: Task, id: str) -> Table:
    """Return the headline metrics of each fold, with mean, standard deviation, lowest and highest value over folds."""
    folds, several = metrics["folds"], len(metrics["repeats"]) > 1
    names = [name for name in headline_metrics(task) if name in metrics["spread"]]
    rows = [
        [
            Cell(f"{row['repeat']}.{row['fold']}" if several else str(row["fold"])),
            Cell(row["run"]),
            number_cell(row["images"], ",d"),
            number_cell(row["patients"], ",d"),
            number_cell(row["best_epoch"], "d"),
            *(number_cell(row["overall"][name]) for name in names),
        ]
        for row in folds
    ]
    empty = [Cell("")] * 4
    totals = [
        [Cell(title), *empty, *(number_cell(metrics["spread"][name][key]) for name in names)]
        for title, key in {"Mean": "mean", "Standard deviation": "sd", "Lowest": "lowest", "Highest": "highest"}.items()
    ]
    columns = ["Repeat and fold" if several else "Fold", "Run", units_of(metrics["valid"]), "Patients", "Best epoch"]
    columns += map(metric_title, names)
    caption = "By fold, with the pooled calibration and thresholds; the standard deviation is between folds"
    return Table(id, caption, columns, rows, totals, sortable=True, words=["Run"])


def by_patient_table(metrics: Mapping[str, Any], task: Task) -> Table | None:
    """Return the headline metrics of folds by image beside those of folds by patient; None if these are not known."""
    if (beside := metrics.get("by_patient")) is None:
        return None
    here, there = metrics["valid"]["overall"], beside["overall"]
    rows = []
    for name in headline_metrics(task):
        known = here.get(name) is not None and there.get(name) is not None
        difference = here[name] - there[name] if known else None
        cells = (number_cell(here.get(name)), number_cell(there.get(name)), number_cell(difference, "+.3f"))
        rows.append([Cell(metric_title(name)), *cells])
    columns = ["Metric", "By image", f"By patient ({beside['name']})", "Difference"]
    return Table("by-patient", "The same settings with folds by image and by patient, out of fold", columns, rows)


def reliability_table(
    split: str, reliability: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]], unit: str = "image"
) -> Table:
    """Return one row per bin of each label before and after calibration; empty bins are left out."""
    units = plural_noun(unit).capitalize()
    columns = ["Label", "Calibration", "Bin", units, "Mean probability", "Share with the label"]
    rows = [
        [
            Cell(label),
            Cell(when),
            Cell(f"{one['low']:.2f} to {one['high']:.2f}"),
            number_cell(one["count"], ",d"),
            number_cell(one["predicted"]),
            number_cell(one["observed"], interval={"low": one["observed_low"], "high": one["observed_high"]}),
        ]
        for when, by_label in reliability.items()
        for label, bins in by_label.items()
        for one in bins
        if one["count"]
    ]
    words = ("Calibration", "Bin")
    return Table(f"{split}-reliability", f"Bins with at least one {unit}", columns, rows, sortable=True, words=words)


def thresholds_table(decision: Decision) -> Table:
    """Return the operating point of each label, with exact intervals of its rates on validation."""
    rows = []
    for label, point in decision.point_of.items():
        cells = [
            number_cell(point.sensitivity, interval=point.interval("sensitivity")),
            number_cell(point.specificity, interval=point.interval("specificity")),
        ]
        threshold = number_cell(point.threshold, "#.3g", aside="" if point.threshold is not None else "0.5 is used")
        counts = (number_cell(point.positives, ",d"), number_cell(point.negatives, ",d"))
        rows.append([Cell(label), threshold, *cells, *counts, Cell(point.reason or "chosen")])
    units = plural_noun(decision.unit)
    counted = [f"{units.capitalize()} {has}" for has in ("with", "without")]
    columns = ["Label", "Threshold", "Sensitivity", "Specificity", *counted, "Choice"]
    caption = f"Operating points, on the validation {units}"
    return Table("thresholds", caption, columns, rows, sortable=True, words=["Choice"])


def scalings_table(decision: Decision) -> Table | None:
    """Return the slopes and biases of `Decision.scaling_of`; None if there are none."""
    rows = [
        [Cell(label), number_cell(fit.slope, "#.3g"), number_cell(fit.bias, "#.3g"), Cell(fit.reason or "fitted")]
        for label, fit in decision.scaling_of.items()
    ]
    columns, caption = ("Label", "Slope", "Bias", "Choice"), f"Slope and bias of {decision.whose_logit}"
    return Table("scalings", caption, columns, rows, sortable=True, words=["Choice"]) if rows else None


def label_table(id: str, caption: str, summary: Mapping[str, Any], metrics: Iterable[str] = MOST_USED) -> Table:
    """Return those of `metrics` that a summary has, by label."""
    rows = label_rows(summary)
    there = [name for name in metrics if rows and name in rows[0]]
    unit = unit_of(summary)
    columns = ["Label", *(column_title(name, unit) for name in there)]
    cells = [
        [Cell(row["label"]), *(metric_cell(summary, name, row, FORMS.get(name, ".3f")) for name in there)]
        for row in rows
    ]
    return Table(id, caption + _methods_note(summary, there), columns, cells, sortable=True)


def _methods_note(summary: Mapping[str, Any], names: Iterable[str]) -> str:
    """Name the interval methods of a table by label, to end its caption; "" if its metrics have no intervals."""
    found: dict[str, list[str]] = {}
    for name in names:
        used = {_method(interval_of(summary, name, row["label"])) for row in label_rows(summary)} - {None}
        for method in sorted(filter(None, used)):
            found.setdefault(method, []).append(column_title(name))
    text = "; ".join(f"{method} ({', '.join(titles)})" for method, titles in found.items())
    return f". Interval methods: {text}" if text else ""


def column_title(name: str, unit: str = "image") -> str:
    """Return the title of a metric's column in a table by label; counts are of images, studies or patients."""
    return TITLES.get(name, "").format(plural_noun(unit).capitalize()) or metric_title(name)


def _method(interval: Mapping[str, Any] | None) -> str | None:
    return None if not interval or interval.get("low") is None else METHODS.get(interval.get("method", ""))
