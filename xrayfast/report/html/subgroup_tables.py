"""Subgroups on a page: a table per attribute, its metrics by label, and the largest gaps in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from xrayfast.config import Task
from xrayfast.metrics.registry import headline_metrics, metric_title
from xrayfast.report.html.tables import Cell, Column, Table, number_cell

GAPS_NAMED, GAPS_SHOWN = 3, 20

BY_LABEL = ("auroc", "recall", "specificity")
"""The metrics that are shown by label and subgroup."""


def subgroup_sections(split: str, subgroups: Sequence[Mapping[str, Any]], task: Task) -> list[dict[str, Any]]:
    """The variables of the templates for each attribute that forms subgroups.

    Args:
        split: its name, which begins the ids.
        subgroups: as they stand in `metrics.json` under "subgroups".
        task: "single" or "multi".
    """
    return [
        {
            "by": one["by"],
            "table": _overall(f"{split}-by-{i}", one, task),
            "by_label": [_by_label(f"{split}-by-{i}-{name}", one, name) for name in BY_LABEL],
            "gaps_text": _gaps_text(one),
            "gaps": _gaps(f"{split}-by-{i}-gaps", one),
            "notes": one.get("notes", []),
            "group_notes": [f"{group['value']}: {note}" for group in one["groups"] for note in group["notes"]],
        }
        for i, one in enumerate(subgroups)
    ]


def _overall(id: str, one: Mapping[str, Any], task: Task) -> Table:
    """One row per subgroup."""
    names = [name for name in headline_metrics(task) if all(name in group["overall"] for group in one["groups"])]
    columns = [Column(_title(one["by"]), text=True), Column("Images"), Column("Patients")]
    counts = ["with_auroc"] if task == "multi" and all("with_auroc" in group for group in one["groups"]) else []
    columns += [Column("Labels with AUROC") for _ in counts]
    rows = [
        [
            Cell(str(group["value"])),
            number_cell(group["images"], ",d"),
            number_cell(group.get("patients"), ",d"),
            *(number_cell(group[name], ",d") for name in counts),
            *(number_cell(group["overall"][name], interval=_found(group, "overall").get(name)) for name in names),
        ]
        for group in one["groups"]
    ]
    columns += [Column(metric_title(name)) for name in names]
    return Table(id, f"By {one['by']}; a header sorts the table", columns, rows, sortable=True)


def _by_label(id: str, one: Mapping[str, Any], name: str) -> Table:
    """One row per label, one column per subgroup."""
    labels = [row["label"] for row in one["groups"][0]["per_label"]] if one["groups"] else []
    rows = [[Cell(label), *(_cell(group, label, name) for group in one["groups"])] for label in labels]
    columns = [Column("Label", text=True), *(Column(str(group["value"])) for group in one["groups"])]
    return Table(id, f"{metric_title(name)} by label and {one['by']}", columns, rows, sortable=True)


def _cell(group: Mapping[str, Any], label: str, name: str) -> Cell:
    row: Mapping[str, Any] = next((row for row in group["per_label"] if row["label"] == label), {})
    return number_cell(row.get(name), interval=_found(group, "per_label").get(label, {}).get(name))


def _gaps(id: str, one: Mapping[str, Any]) -> Table | None:
    """The largest differences between two subgroups; None where there are none."""
    gaps = one["gaps"]
    if not gaps:
        return None
    rows = [
        [
            Cell(_metric(gap)),
            number_cell(gap["highest_value"], aside=str(gap["highest"])),
            number_cell(gap["lowest_value"], aside=str(gap["lowest"])),
            number_cell(gap["difference"], interval=gap),
        ]
        for gap in gaps[:GAPS_SHOWN]
    ]
    columns = (Column("Metric", text=True), Column("Highest"), Column("Lowest"), Column("Difference"))
    caption = f"Gaps by {one['by']}, largest first"
    caption += f"; the first {GAPS_SHOWN} of {len(gaps)}" if len(gaps) > GAPS_SHOWN else ""
    return Table(id, caption, columns, rows, sortable=True)


def _gaps_text(one: Mapping[str, Any]) -> str:
    """The largest gaps in words, and how many chance alone would seldom make."""
    gaps = one["gaps"]
    if not gaps:
        return "No two groups are large enough to be compared."
    sentences = []
    for gap in gaps[:GAPS_NAMED]:
        cell = number_cell(gap["difference"], interval=gap)
        between = f", interval {cell.interval.text}" if cell.interval else ""
        sentences.append(
            f"{_metric(gap)} is {gap['highest_value']:.3f} for {gap['highest']} and {gap['lowest_value']:.3f} "
            f"for {gap['lowest']} (difference {cell.text}{between})"
        )
    start = "The largest gap: " if len(sentences) == 1 else "The largest gaps: "
    known = [gap for gap in gaps if gap["low"] is not None]
    clear = sum(gap["low"] > 0 for gap in known)
    many = f" Of {len(known)} intervals of gaps, {clear or 'none'} lie wholly above 0." if known else ""
    return f"{start}{'; '.join(sentences)}.{many}"


def _metric(gap: Mapping[str, Any]) -> str:
    if gap["label"] is not None:
        return f"{metric_title(gap['metric'])} of {gap['label']}"
    over = f" over {gap['labels']} labels" if "labels" in gap else ""
    return f"{metric_title(gap['metric'])}{over}"


def _found(group: Mapping[str, Any], of: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = group.get("intervals", {}).get(of, {})
    return found


def _title(by: str) -> str:
    return by[:1].upper() + by[1:]
