"""The metrics of a split's summary as sentences and Markdown tables."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from xrayfast.config import Task
from xrayfast.errors import format_estimate, format_value, plural
from xrayfast.metrics.registry import (
    AT_THRESHOLD,
    headline_metrics,
    label_columns,
    metric_phrase,
    metric_title,
    prevalence_metrics,
)
from xrayfast.metrics.summary import interval_of
from xrayfast.reporting.markdown.markup import DASH, Markdown, markdown_table
from xrayfast.reporting.wording import (
    gap_test,
    interval_methods,
    label_rows,
    positive_class_metric,
    resampled_units,
    unit_of,
    units_of,
)


def format_number(value: Any, form: str = ".3f") -> str:
    """Format a number, or return a dash if it is missing or not finite.

    >>> format_number(0.25), format_number(None)
    ('0.250', '–')
    """
    return DASH if value is None or not math.isfinite(value) else format_value(value, form)


def estimate(summary: Mapping[str, Any], name: str, row: Mapping[str, Any] | None = None) -> str:
    """Format a metric with its interval: over all labels, or of one label if its row of `per_label` is given."""
    if row is None:
        return format_estimate(summary["overall"].get(name), interval_of(summary, name))
    return format_estimate(row.get(name), interval_of(summary, name, row["label"]))


def interval_note(summary: Mapping[str, Any]) -> str:
    """Describe how the intervals were computed, or say that there are none."""
    found = summary.get("intervals")
    if not found:
        return "No confidence intervals were computed: these are point estimates."
    units = f" from {resampled_units(summary)}" if "units" in found and "by" in found else ""
    how = f", {found['resamples']:,} bootstrap resamples, seed {found['seed']}" if "resamples" in found else ""
    level = f"{found.get('level', 0.95):.0%}"
    return f"In parentheses: {level} confidence intervals ({interval_methods(summary)}){units}{how}."


def headline_markdown(summary: Mapping[str, Any], task: Task) -> Markdown:
    """Return the headline metrics that the summary has, with their intervals."""
    names = [name for name in headline_metrics(task) if name in summary["overall"]]
    shown = [positive_class_metric(summary, name) for name in names]
    return markdown_table(("Metric", "Value"), [(title, estimate(summary, name, row)) for title, name, row in shown])


def labels_markdown(summary: Mapping[str, Any]) -> Markdown:
    """Return one row per label: images with and without it, and its metrics with their intervals."""
    names = (*label_columns("full"), *prevalence_metrics())
    of_labels = label_rows(summary)
    keys = [key for key in names if any(key in row for row in of_labels)]
    units = units_of(summary)
    counts = {"support": f"{units} with", "negatives": f"{units} without"}
    counts = {key: words for key, words in counts.items() if any(key in row for row in of_labels)}
    rows = []
    for row in of_labels:
        images = (format_number(row.get(key), ",d") for key in counts)
        rows.append((row["label"], *images, *(estimate(summary, key, row) for key in keys)))
    return markdown_table(("Label", *counts.values(), *map(metric_title, keys)), rows)


def threshold_blocks(summary: Mapping[str, Any]) -> list[Markdown]:
    """Return a table of each class against the rest at its threshold, if thresholds were chosen; otherwise nothing."""
    found = summary.get("at_thresholds")
    if not found:
        return []
    columns = ("Class against the rest, at its threshold", "Threshold", *map(metric_title, AT_THRESHOLD))
    rows = []
    for row in found:
        rates = (format_estimate(row[name], row["intervals"].get(name)) for name in AT_THRESHOLD)
        rows.append((row["label"], format_number(row["threshold"], ".4g"), *rates))
    return [markdown_table(columns, rows)]


def subgroup_blocks(summary: Mapping[str, Any], task: Task) -> list[str]:
    """Return, for each attribute such as sex or age, a table of its groups and the largest gaps in sentences."""
    keys = [key for key in headline_metrics(task) if key in summary["overall"]][:5]
    blocks: list[str] = []
    for by in summary.get("subgroups") or ():
        rows = []
        for group in by["groups"]:
            counts = (format_number(group.get(count), ",d") for count in ("images", "patients"))
            rows.append(
                (group["value"], *counts, *(estimate(group, *positive_class_metric(group, key)[1:]) for key in keys))
            )
        missing = f" (not known for {plural(by['missing'], unit_of(by['groups'][0]))})" if by.get("missing") else ""
        blocks.append(f"By {by['by']}{missing}:")
        titles = [positive_class_metric(by["groups"][0], key)[0] for key in keys]
        blocks.append(markdown_table((by["by"].capitalize(), units_of(by["groups"][0]), "Patients", *titles), rows))
        blocks += [_gap(gap) for gap in (by.get("gaps") or ())[:3]]
        blocks += [str(note) for note in by.get("notes") or ()]
    return blocks


def _gap(gap: Mapping[str, Any]) -> str:
    mean = f", mean over {plural(gap['labels'], 'label')}" if gap.get("labels") else ""
    of = f" of {gap['label']}" if gap.get("label") else mean
    test = f"; {gap_test(gap)}" if gap_test(gap) else ""
    return (
        f"Gap in {metric_phrase(gap['metric'])}{of}: highest for {gap['highest']}, lowest for {gap['lowest']}, "
        f"difference {format_estimate(gap['difference'], gap)}{test}."
    )
