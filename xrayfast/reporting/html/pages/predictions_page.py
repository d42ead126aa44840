"""`report.html` of predictions by any tool as one self-contained page."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from xrayfast.errors import format_value
from xrayfast.metrics.operating_points.decision import Decision
from xrayfast.metrics.registry import metric_title
from xrayfast.reporting.comparison import records
from xrayfast.reporting.html.decision_section import decision_section
from xrayfast.reporting.html.pages.run_page import task_text
from xrayfast.reporting.html.render import render_template
from xrayfast.reporting.html.split_section import SplitReport, split_section
from xrayfast.reporting.html.tables import Cell, Table, number_cell


def render_predictions_page(
    source: str,
    created: str,
    command: str,
    split: SplitReport,
    decision: Decision,
    notes: Sequence[str],
    differences: pd.DataFrame | None,
) -> str:
    """Return the page as one self-contained HTML document."""
    result = split_section(split, decision.task)
    view = {
        "source": source,
        "created": created,
        "command": command,
        "task_text": task_text(decision.task, decision.labels),
        "notes_on_data": notes,
        "splits": [result],
        "decision": decision_section(decision),
        "differences": None if differences is None else _differences_table(differences),
        "has_patients": bool(split.summary.get("patients")),
    }
    return render_template("predictions.html.j2", view)


def _differences_table(differences: pd.DataFrame) -> Table:
    columns = ["Predictions", "Label", "Metric", "Difference", "Test", "p, corrected"]
    rows = []
    for row in records(differences):
        p = row["p_corrected"]
        rows.append(
            [
                Cell(str(row["run"])),
                Cell(str(row["label"]) or "all"),
                Cell(metric_title(str(row["metric"]))),
                number_cell(row["difference"], "+.3f", {"low": row["low"], "high": row["high"]}),
                Cell(row["test"] or None),
                Cell(None if p is None else "below 0.001" if p < 0.001 else format_value(p, ".3f"), p),
            ]
        )
    words = ("Label", "Metric", "Test")
    caption = "Paired differences from the first predictions, on the same images, with 95% intervals"
    return Table("paired-differences", caption, columns, rows, words=words)
