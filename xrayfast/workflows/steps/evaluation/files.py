"""Write the page and the tables of an evaluation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from xrayfast.data.cache.image_cache import DecodedImages
from xrayfast.files.atomic import write_text
from xrayfast.files.csv_tables import write_csv
from xrayfast.metrics.operating_points.decision import Decision
from xrayfast.metrics.summary import interval_of
from xrayfast.reporting.case import Case
from xrayfast.reporting.html.pages.evaluation_page import EvaluationData, render_evaluation_page
from xrayfast.reporting.html.split_section import SplitName, SplitReport
from xrayfast.reporting.interpretation import IMAGE_SIZE, RIGHT_SHOWN, Interpretation
from xrayfast.runs.evaluation import Evaluation
from xrayfast.runs.predictions import Predictions
from xrayfast.workflows.steps.evaluation.exported_run import EvaluatedRun, knows_images

_COUNTS = ("label", "support", "negatives", "threshold")
_WORST = 12  # images with the largest losses are shown


def shown_cases(
    decision: Decision, predictions: Predictions, paths: Mapping[str, str], images: DecodedImages
) -> tuple[tuple[Case, ...], tuple[Case, ...]]:
    """Return the images of other data with the largest losses, and some that were predicted correctly."""
    files = {image: Path(path) for image, path in paths.items()}
    shown = images if images.side >= IMAGE_SIZE // 2 else None
    no_metrics: dict[str, Any] = {"per_label": []}  # `cases` needs none
    found = Interpretation(predictions, decision.task, files, images=shown, decision=decision, summary=no_metrics)
    return found.cases(_WORST), found.right_cases(RIGHT_SHOWN)


def write_page(
    run: EvaluatedRun,
    decision: Decision,
    evaluation: Evaluation,
    metrics: Mapping[str, Any],
    created: str,
    command: str,
    cases: tuple[tuple[Case, ...], tuple[Case, ...]],
) -> None:
    """Write `evaluation.html`."""
    note = "From the run's saved predictions." if metrics["own"] else "Predicted for this evaluation."
    # Other data may turn out to be copies of the run's own test split.
    own_test = metrics["images"]["own_test"] == metrics["images"]["evaluated"]
    own: SplitName = "folds" if run.has_folds else "valid"
    name: SplitName = "test" if own_test else own if metrics["own"] else "external"
    split = SplitReport(name, metrics["result"], cases[0], note, evaluation.predictions, right=cases[1])
    page = EvaluationData(
        run_name=run.name,
        created=created,
        command=command,
        task=run.task,
        labels=run.labels,
        metrics=metrics,
        split=split,
        decision=decision,
        chosen_on=run.chosen_on,
        seen_left_out=knows_images(run),
    )
    write_text(evaluation.report_path, render_evaluation_page(page))


def write_tables(evaluation: Evaluation, result: Mapping[str, Any]) -> None:
    """Write `tables/overall.csv`, `per_label.csv` and, if there are subgroups, `subgroups.csv` and `gaps.csv`."""
    tables: dict[str, Iterable[dict[str, Any]]] = {"overall": _overall_rows(result), "per_label": _label_rows(result)}
    if "subgroups" in result:
        tables["subgroups"] = _subgroup_rows(result["subgroups"])
        tables["gaps"] = [{"by": column["by"], **gap} for column in result["subgroups"] for gap in column["gaps"]]
    for name, rows in tables.items():
        if table := list(rows):
            write_csv(evaluation.table_path(name), pd.DataFrame(table), "%.6g")


def _overall_rows(summary: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for metric, value in summary["overall"].items():
        yield _row(metric, value, interval_of(summary, metric))


def _label_rows(summary: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for row in summary["per_label"]:
        counts = {name: row[name] for name in _COUNTS if name in row}
        for metric in [name for name in row if name not in counts]:
            yield {**counts, **_row(metric, row[metric], interval_of(summary, metric, row["label"]))}
        for metric in operating_rows(summary, row["label"]):
            yield {**counts, **metric}


def operating_rows(summary: Mapping[str, Any], label: str | None = None) -> list[dict[str, Any]]:
    """Return a row per label and metric of `results.operating_results` after calibration, for one label or all."""
    found = [*summary.get("calibration", {}).get("after", ()), *summary.get("fixed_rates", ())]
    return [
        {"label": row["label"], **_row(metric, row[metric], row["intervals"].get(metric))}
        for row in found
        if label in (None, row["label"])
        for metric in row
        if metric not in ("label", "intervals")
    ]


def _subgroup_rows(columns: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for column in columns:
        for group in column["groups"]:
            counts = {name: group[name] for name in ("images", "patients", "scored")}
            subgroup = {"by": column["by"], "group": group["value"], **counts}
            for row in _overall_rows(group):
                yield {**subgroup, "label": None, **row}
            for row in _label_rows(group):
                yield {**subgroup, **row}


def _row(metric: str, value: Any, interval: Mapping[str, Any] | None) -> dict[str, Any]:
    low, high = (None, None) if interval is None else (interval["low"], interval["high"])
    return {"metric": metric, "value": value, "low": low, "high": high}
