"""Functions that print results in the terminal, for several commands."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from xrayfast.cli.output import Output
from xrayfast.config import DEFAULT_METRIC, Task
from xrayfast.errors import format_cell, format_estimate, format_interval, plural, plural_noun
from xrayfast.metrics.operating_points.decision import MOST_LIKELY_STAYS, Decision
from xrayfast.metrics.registry import headline_metrics, label_columns, metric_title, prevalence_metrics
from xrayfast.metrics.summary import interval_of
from xrayfast.reporting.wording import (
    gap_test,
    gap_title,
    images_of_patients,
    joining_text,
    label_rows,
    positive_class_metric,
    unit_of,
)

if TYPE_CHECKING:
    from xrayfast.reporting.interpretation import Interpretation
    from xrayfast.runs.cross_validation import CrossValidation
    from xrayfast.workflows.export import Export

MOST_CONFUSED = 10
"""Largest number of pairs of classes in the table of confusions."""

WIDE = 100
"""Width in columns from which a terminal has room for all metrics."""


def show_metrics(
    out: Output, result: Mapping[str, Any], task: Task, split: str = "table", without: Iterable[str] = ()
) -> None:
    """Print the warnings of a result, its headline metrics and the metrics per label, with intervals."""
    for warning in result.get("warnings", ()):
        out.finding("warning", warning["text"].rstrip("."), warning["advice"])
    intervals = result.get("intervals", {})
    out.table(
        f"{images_of_patients(result, split)}{', with 95% intervals' if intervals else ''}",
        ["metric", "value"],
        [_headline_row(result, name) for name in headline_metrics(task)],
    )
    if text := joining_text(result).rpartition(" A radiograph that is shown")[0]:
        out.line(text)
    rows = [row for row in label_rows(result) if row["label"] not in set(without)]
    by_label = intervals.get("per_label", {})
    metrics = label_columns("wide" if out.console.width >= WIDE else "narrow")
    threshold = ["threshold"] if (task == "multi" or "positive" in result) and out.console.width >= WIDE else []
    out.table(
        "By label",
        ["label", plural_noun(unit_of(result)), *map(_title, metrics), *threshold],
        [
            (
                row["label"],
                row["support"],
                *_cells(row, by_label.get(row["label"], {}), metrics),
                *map(row.get, threshold),
            )
            for row in rows
        ],
    )
    if rows and all(name in rows[0] for name in prevalence_metrics()):
        out.table(
            "At the stated prevalence",
            ["label", "prevalence", "PPV", "NPV"],
            [
                (label, f"{result['prevalence'][label]:g}", *_cells(row, by_label.get(label, {}), prevalence_metrics()))
                for row in rows
                if (label := row["label"]) in result["prevalence"]
            ],
        )
    if result.get("at_thresholds"):
        out.table(
            "Each class against the rest, at its threshold",
            ["class", "threshold", "recall", "specificity"],
            [
                (row["label"], row["threshold"], *_cells(row, row["intervals"], ("recall", "specificity")))
                for row in result["at_thresholds"]
            ],
        )


def show_cross_validation(out: Output, cv: CrossValidation) -> None:
    """Print the pooled results of a cross-validation and the results per fold."""
    metrics, task = cv.metrics, cv.task
    show_metrics(out, metrics["valid"], task, "folds")
    names = [name for name in headline_metrics(task) if name in metrics["spread"]]
    names = names if out.console.width >= WIDE else names[:3]
    several = cv.folds.repeats > 1
    rows: list[tuple[Any, ...]] = [
        (
            *((row["repeat"],) if several else ()),
            row["fold"],
            row["images"],
            row["best_epoch"],
            *map(row["overall"].get, names),
        )
        for row in metrics["folds"]
    ]
    empty = ("",) * (len(rows[0]) - len(names) - 1)
    for title in ("mean", "sd"):
        rows.append((title, *empty, *(metrics["spread"][name][title] for name in names)))
    columns = ["fold", plural_noun(unit_of(metrics["valid"])), "best epoch", *map(metric_title, names)]
    out.table("By fold", ["repeat", *columns] if several else columns, rows)
    if beside := metrics.get("by_patient"):
        pairs = [(name, metrics["valid"]["overall"].get(name), beside["overall"].get(name)) for name in names]
        out.table(
            "All images out of fold, by image and by patient",
            ["metric", "by image", f"by patient ({beside['name']})", "difference"],
            [
                (metric_title(name), here, there, here - there)
                for name, here, there in pairs
                if here is not None and there is not None
            ],
        )
    out.line()
    inner = cv.folds.inner_valid
    show_decision(out, cv.decision, f"{'the inner validation' if inner else 'the out-of-fold'} predictions")


def _headline_row(result: Mapping[str, Any], name: str) -> tuple[str, str]:
    """Return the title of a metric and its value with the interval; see `wording.positive_class_metric`."""
    title, name, row = positive_class_metric(result, name)
    values = result["overall"] if row is None else row
    return title, format_estimate(values[name], interval_of(result, name, row["label"] if row else None))


def _title(name: str) -> str:
    return metric_title(name).split(" (")[0]


def _cells(row: Mapping[str, Any], intervals: Mapping[str, Any], names: Iterable[str]) -> list[str]:
    return [format_estimate(row[name], intervals.get(name)) for name in names]


def show_decision(out: Output, decision: Decision, chosen_on: str = "validation") -> None:
    """Print how probabilities were calibrated and thresholds chosen, and on which predictions."""
    fitted = decision.calibration
    if fitted is None:
        out.line("Probabilities were not calibrated.")
    elif isinstance(fitted, tuple):
        out.line(f"Probabilities were calibrated on {chosen_on} by a slope and a bias for {decision.whose_logit}.")
        show_uncalibrated(out, decision)
    else:
        failed = f" ({fitted.reason})" if fitted.reason else ""
        out.line(
            f"Probabilities were calibrated on {chosen_on} by temperature scaling: temperature "
            f"{fitted.temperature:.2f}{failed}."
        )
    if decision.rule is not None:
        out.line(f"Thresholds were chosen on {chosen_on} for {decision.purpose}.")
        for sentence in filter(None, [decision.shortfall, MOST_LIKELY_STAYS * decision.is_one_vs_rest]):
            out.line(sentence)


def show_uncalibrated(out: Output, decision: Decision) -> None:
    """Print a note on the labels for which slope and bias could not both be fitted, with the reasons."""
    if failed := decision.uncalibrated:
        reasons = "; ".join(f"{', '.join(labels)} ({reason})" for reason, labels in failed.items())
        out.note(f"Labels whose calibration is missing or incomplete: {reasons}.")


def show_subgroups(out: Output, grouping: Mapping[str, Any], task: Task) -> None:
    """Print a table of subgroups, and a sentence on each of the three largest gaps."""
    names = list(headline_metrics(task))
    names = names[:3] if out.console.width >= WIDE else list(dict.fromkeys((names[0], DEFAULT_METRIC, *names)))[:2]
    labels = ["labels"] if task == "multi" else []  # number of labels with an AUROC, over which the macro mean is taken
    out.table(
        f"By {grouping['by']}",
        [
            *(grouping["by"], plural_noun(unit_of(grouping["groups"][0])), "patients", *labels),
            *(positive_class_metric(grouping["groups"][0], name)[0] for name in names),
        ],
        [
            (
                group["value"],
                group["images"],
                group["patients"],
                *(group["with_auroc"] for _ in labels),
                *(_headline_row(group, name)[1] for name in names),
            )
            for group in grouping["groups"]
        ],
    )
    for gap in grouping["gaps"][:3]:
        test = f"; {gap_test(gap)}" if gap_test(gap) else ""
        between = "" if gap["low"] is None else f" ({format_interval(gap['low'], gap['high'])})"
        out.line(
            f"Gap: {gap_title(gap)} is {gap['highest_value']:.3f} for {gap['highest']} and "
            f"{gap['lowest_value']:.3f} for {gap['lowest']}, a difference of {gap['difference']:.3f}{between}{test}."
        )
    if not grouping["gaps"] and len(grouping["groups"]) > 1:
        out.line("No two groups are large enough to be compared.")
    for note in grouping["notes"]:
        out.line(note)


def show_results(out: Output, found: Interpretation, top: int) -> None:
    """Print the tables of an interpretation: overall, by label, subgroups, confusions, largest losses."""
    summary = found.summary
    show_metrics(out, summary, found.task, found.split)
    out.line()
    show_decision(out, found.decision)
    for grouping in summary.get("subgroups", []):
        show_subgroups(out, grouping, found.task)
    if found.task == "single":
        matrix = found.confusion_matrix()
        out.table(
            "Confusion: actual in rows, predicted in columns",
            ["", *found.vocab],
            [(label, *row) for label, row in zip(found.vocab, matrix.tolist(), strict=True)],
        )
    else:
        cells = [(label, tn, fp, fn, tp) for label, ((tn, fp), (fn, tp)) in summary["confusion_per_label"].items()]
        out.table("Confusion by label", ["label", "true neg.", "false pos.", "false neg.", "true pos."], cells)
    confused = found.most_confused()[:MOST_CONFUSED]
    if confused:
        out.table("Most confused", ["actual", "predicted", plural_noun(unit_of(summary))], confused, text_columns=2)
    rows = [
        (case["image"], case["actual"] or "none", case["predicted"] or "none", format_cell(float(case["loss"])))
        for case in found.top_losses_table(top).to_dict("records")
    ]
    out.table("Largest losses", ["image", "actual", "predicted", "loss"], rows, text_columns=3)
    for note in summary["notes"]:
        out.note(note)


def show_export(out: Output, found: Export) -> None:
    """Print what was exported, and how its probabilities differ from those of the run."""
    metadata = found.metadata
    parity = metadata.parity
    auroc: list[tuple[str, str]] = []
    if (difference := metadata.auroc) is not None:
        value = format_estimate(difference.difference, dict(difference))
        auroc = [(f"AUROC (mean) minus the run's, {plural(difference.images, 'image')} not trained on", value)]
    of_dicom = f", {parity.dicom:,} of them DICOM" if parity.dicom else ""
    out.table(
        f"{metadata.run}: {plural(metadata.networks, 'network')}, {metadata.arch}, {metadata.size} px",
        ["", "found"],
        [
            ("weights", metadata.precision),
            ("size of the file", f"{found.bytes / 1e6:.1f} MB"),
            ("images compared with the run", f"{parity.images:,}{of_dicom}"),
            ("largest difference in probability", f"{parity.largest:.2g}"),
            ("images with a different decision", f"{parity.decisions:,}"),
            *auroc,
        ],
    )
    out.line()
    out.line(metadata.intended_use)
    out.done("Exported", found.path)
    out.json({"file": str(found.path), "bytes": found.bytes, **metadata.model_dump(mode="json")})
