"""`evaluation.html`: an evaluation of a run on its own or on other data as one self-contained page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from xrayfast.config import Task
from xrayfast.metrics.claims.headline import VALIDATION_IMAGES
from xrayfast.metrics.operating_points.decision import Decision
from xrayfast.reporting.html.decision_section import decision_section
from xrayfast.reporting.html.pages.run_page import task_text
from xrayfast.reporting.html.render import render_template
from xrayfast.reporting.html.split_section import SplitReport, split_section
from xrayfast.reporting.html.tables import Cell, Table, flow_steps
from xrayfast.reporting.wording import external_tables


@dataclass(frozen=True, eq=False)
class EvaluationData:
    """Everything that the page shows.

    Attributes:
        split: the results, named "external" or "test".
        chosen_on: the images that they were chosen on, in words.
        seen_left_out: whether training images of the run were looked for and left out; an exported file does not list
            them.
    """

    run_name: str
    created: str
    command: str
    task: Task
    labels: Sequence[str]
    metrics: Mapping[str, Any]
    split: SplitReport
    decision: Decision
    chosen_on: str = VALIDATION_IMAGES
    seen_left_out: bool = True


def render_evaluation_page(data: EvaluationData) -> str:
    """Return the page as one self-contained HTML document."""
    result = split_section(data.split, data.task)
    metrics, images, labels = data.metrics, data.metrics["images"], data.metrics["labels"]
    flow = [
        ("Images found", images["found"]),
        *((f"Left out: {why}", n) for why, n in images["left_out"]),
        ("Images evaluated", images["evaluated"]),
    ]
    view = {
        **vars(data),
        "source": ", ".join(
            [metrics["source"], *(f"{name} {metrics[name]}" for name in ("table", "split") if metrics.get(name))]
        ),
        "task_text": task_text(data.task, data.labels),
        "flow": flow_steps(flow, {"Images evaluated": data.split.summary.get("patients") or math.nan}),
        "used": labels["used"],
        "unknown": [(label, f"{n:,}") for label, n in labels["unknown"]],
        "lacking": labels["lacking"],
        "notes_on_data": metrics["notes"],
        "beside": [
            Table(f"beside-{i}", title, columns, [list(map(Cell, row)) for row in rows], words=columns)
            for i, (title, columns, rows) in enumerate(external_tables(metrics))
        ],
        "decision": decision_section(data.decision, data.chosen_on),
        "splits": [result],
        "external": data.split.name == "external",
        "has_patients": bool(data.split.summary.get("patients")),
    }
    return render_template("evaluation.html.j2", view)
