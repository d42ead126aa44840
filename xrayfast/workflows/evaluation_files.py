"""An evaluation for people: its page, and its numbers as CSV files, a number a row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from xrayfast.data.cache.image_cache import DecodedImages
from xrayfast.evaluation import Evaluation
from xrayfast.files import write_csv
from xrayfast.predictions import Predictions
from xrayfast.report.figures import Case
from xrayfast.report.html.evaluation_page import EvaluationData, write_evaluation
from xrayfast.report.html.results import SplitReport
from xrayfast.report.interpretation import IMAGE_SIZE, Interpretation
from xrayfast.run import Run

_COUNTS = ("label", "support", "negatives", "threshold")
_WORST = 12
"""Images with the largest losses are shown."""


def worst_cases(
    run: Run, predictions: Predictions, paths: Mapping[str, str], images: DecodedImages
) -> tuple[Case, ...]:
    """The images of other data that went most wrong, with their images.

    Args:
        run: that was tested.
        predictions: of the images.
        paths: of their files, by name.
        images: decoded before; where they are small the files are read again.
    """
    shown = Interpretation(
        predictions,
        run.task,
        {image: Path(path) for image, path in paths.items()},
        images=images if images.side >= IMAGE_SIZE // 2 else None,
        decision=run.decision,
        summary={"per_label": []},  # measured elsewhere; cases need none of it
    )
    return shown.cases(_WORST)


def write_page(
    run: Run, evaluation: Evaluation, metrics: Mapping[str, Any], created: str, command: str, cases: tuple[Case, ...]
) -> None:
    """Write `evaluation.html`.

    Args:
        run: that was tested.
        evaluation: whose predictions are written already.
        metrics: as they go into `metrics.json`.
        created: when, as `run.now` gives it.
        command: the command line.
        cases: of images from elsewhere; the run's own stand in its report.

    Raises:
        WriteError: the folder can't be written to.
    """
    labels, external = metrics["labels"], not metrics["own"]
    note = "Predicted for this evaluation." if external else "From the run's saved predictions."
    split = SplitReport(
        "external" if external else metrics["split"], metrics["result"], cases, note, evaluation.predictions
    )
    page = EvaluationData(
        run_name=run.path.name,
        created=created[:16].replace("T", " ") + " UTC",
        source=metrics["source"] + (f", split {metrics['split']}" if metrics["split"] else ""),
        command=command,
        task=run.task,
        labels=run.labels,
        images=metrics["images"],
        used=labels["used"],
        unknown=labels["unknown"],
        lacking=labels["lacking"],
        split=split,
        decision=run.decision,
        warnings=tuple(metrics["warnings"]),
        notes=tuple(metrics["notes"]),
    )
    write_evaluation(page, evaluation.report_path)


def write_tables(evaluation: Evaluation, result: Mapping[str, Any]) -> None:
    """Write `tables/overall.csv`, `per_label.csv` and, where there are subgroups, `subgroups.csv` and `gaps.csv`.

    Raises:
        WriteError: the folder can't be written to.
    """
    _write(evaluation, "overall", _overall(result))
    _write(evaluation, "per_label", _per_label(result))
    if "subgroups" in result:
        _write(evaluation, "subgroups", _subgroups(result["subgroups"]))
        gaps = [{"by": one["by"], **gap} for one in result["subgroups"] for gap in one["gaps"]]
        if gaps:
            _write(evaluation, "gaps", gaps)


def _write(evaluation: Evaluation, name: str, rows: Any) -> None:
    write_csv(evaluation.table_path(name), pd.DataFrame(list(rows)), "%.6g")


def _overall(summary: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    ends = summary.get("intervals", {}).get("overall", {})
    for measure, value in summary["overall"].items():
        yield {"measure": measure, "value": value, **_ends(ends.get(measure))}


def _per_label(summary: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    ends = summary.get("intervals", {}).get("per_label", {})
    for row in summary["per_label"]:
        counts = {name: row[name] for name in _COUNTS if name in row}
        for measure, value in row.items():
            if measure not in _COUNTS:
                found = ends.get(row["label"], {}).get(measure)
                yield {**counts, "measure": measure, "value": value, **_ends(found)}


def _subgroups(ways: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for one in ways:
        for group in one["groups"]:
            counts = {name: group[name] for name in ("images", "patients", "scored")}
            where = {"by": one["by"], "group": group["value"], **counts}
            for row in _overall(group):
                yield {**where, "label": None, **row}
            for row in _per_label(group):
                yield {**where, **row}


def _ends(interval: Mapping[str, Any] | None) -> dict[str, Any]:
    return {"low": None, "high": None} if interval is None else {"low": interval["low"], "high": interval["high"]}
