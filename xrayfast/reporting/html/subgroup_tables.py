"""Subgroups on a page: a table per attribute, its metrics by label, and the largest gaps in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from xrayfast.config import Task
from xrayfast.metrics.inputs import ALPHA
from xrayfast.metrics.registry import headline_metrics, metric_title
from xrayfast.metrics.subgroups import GAP_METRICS
from xrayfast.reporting.html.plots import subgroup_plot
from xrayfast.reporting.html.tables import Cell, Table, metric_cell, number_cell
from xrayfast.reporting.wording import gap_test, gap_title, label_rows, positive_class_metric, units_of

GAPS_NAMED, GAPS_SHOWN = 3, 20


def subgroup_sections(split: str, subgroups: Sequence[Mapping[str, Any]], task: Task) -> list[dict[str, Any]]:
    """Return the template variables of each attribute that forms subgroups (`metrics.json`, "subgroups").

    The ids begin with the name of the split.
    """
    notes = list(dict.fromkeys(note for attribute in subgroups for note in attribute.get("notes", ())))
    first = {note: next(i for i, one in enumerate(subgroups) if note in one.get("notes", ())) for note in notes}
    return [
        {
            "by": attribute["by"],
            "plot": subgroup_plot(f"{split}-by-{i}", attribute, task),
            "table": _overall(f"{split}-by-{i}", attribute, task),
            "by_label": [_by_label(f"{split}-by-{i}-{name}", attribute, name) for name in GAP_METRICS],
            "gaps_text": _gaps_text(attribute),
            "gaps": _gaps(f"{split}-by-{i}-gaps", attribute),
            "notes": [note for note in notes if first[note] == i],  # each note once
            "group_notes": [f"{one['value']}: {note}" for one in attribute["groups"] for note in one.get("notes", ())],
        }
        for i, attribute in enumerate(subgroups)
    ]


def _overall(id: str, attribute: Mapping[str, Any], task: Task) -> Table:
    names = [name for name in headline_metrics(task) if all(name in group["overall"] for group in attribute["groups"])]
    counts = ["with_auroc"] if task == "multi" and all("with_auroc" in group for group in attribute["groups"]) else []
    rows = [
        [
            Cell(str(group["value"])),
            number_cell(group["images"], ",d"),
            number_cell(group.get("patients"), ",d"),
            *(number_cell(group[name], ",d") for name in counts),
            *(metric_cell(group, *positive_class_metric(group, name)[1:]) for name in names),
        ]
        for group in attribute["groups"]
    ]
    by = attribute["by"]
    titles = [positive_class_metric(attribute["groups"][0], name)[0] for name in names]
    columns = [by[:1].upper() + by[1:], units_of(attribute["groups"][0]), "Patients"]
    columns += ["Labels with AUROC"] * len(counts) + titles
    return Table(id, f"By {by}; click a header to sort", columns, rows, sortable=True)


def _by_label(id: str, attribute: Mapping[str, Any], name: str) -> Table:
    groups = attribute["groups"]
    by_row = zip(*map(label_rows, groups), strict=True)
    rows = [
        [Cell(row[0]["label"]), *(metric_cell(group, name, cell) for group, cell in zip(groups, row, strict=True))]
        for row in by_row
    ]
    columns = ["Label", *(str(group["value"]) for group in groups)]
    return Table(id, f"{metric_title(name)} by label and {attribute['by']}", columns, rows, sortable=True)


def _gaps(id: str, attribute: Mapping[str, Any]) -> Table | None:
    """Return the largest differences between two subgroups; None if there are none."""
    gaps = attribute.get("gaps", [])
    if not gaps:
        return None
    rows = [
        [
            Cell(gap_title(gap)),
            number_cell(gap["highest_value"], aside=str(gap["highest"])),
            number_cell(gap["lowest_value"], aside=str(gap["lowest"])),
            number_cell(gap["difference"], interval=gap),
            number_cell(gap.get("pairs"), ",d"),
            number_cell(gap.get("p_corrected"), ".2g"),
        ]
        for gap in gaps[:GAPS_SHOWN]
    ]
    columns = ("Metric", "Highest", "Lowest", "Difference", "Pairs compared", "p, corrected")
    caption = f"Gaps by {attribute['by']}, largest first"
    caption += f"; the first {GAPS_SHOWN} of {len(gaps)}" if len(gaps) > GAPS_SHOWN else ""
    return Table(id, caption, columns, rows, sortable=True)


def _gaps_text(attribute: Mapping[str, Any]) -> str:
    """Describe the largest gaps, and count the gaps that are significant after correction."""
    gaps = attribute.get("gaps", [])
    if not gaps:
        return "No two groups are large enough to be compared."
    sentences = []
    for gap in gaps[:GAPS_NAMED]:
        cell = number_cell(gap["difference"], interval=gap)
        between = f", 95% CI {cell.interval.text}" if cell.interval else ""
        test = f"; {gap_test(gap)}" if gap_test(gap) else ""
        sentences.append(
            f"{gap_title(gap)} is {gap['highest_value']:.3f} for {gap['highest']} and {gap['lowest_value']:.3f} "
            f"for {gap['lowest']} (difference {cell.text}{between}{test})"
        )
    start = "The largest gap: " if len(sentences) == 1 else "The largest gaps: "
    tested = [gap["p_corrected"] for gap in gaps if gap.get("p_corrected") is not None]
    clear = sum(p < ALPHA for p in tested)
    many = f" {clear} of {len(tested)} gaps have a p below {ALPHA:g}, corrected for their number." if tested else ""
    return f"{start}{'; '.join(sentences)}.{many}"
