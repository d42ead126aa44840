"""Report on the predictions of any tool: metrics with intervals, figures and an HTML page, from a table alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
from pydantic import Field

from xrayfast.config import MAX_RESAMPLES, MAX_SEED, Task
from xrayfast.data.labels.positive_class import describe_positive_class, positive_class
from xrayfast.errors import ConfigError, DataError
from xrayfast.errors.advice import advise
from xrayfast.errors.arguments import check_arguments
from xrayfast.files.atomic import write_json, write_text
from xrayfast.files.csv_tables import write_csv
from xrayfast.files.intact import INFO_FILE
from xrayfast.files.run_lock import lock_output
from xrayfast.files.writable import PAGE_MARK, require_replaceable
from xrayfast.metrics.claims.headline import HeadlineFacts, headline_warnings
from xrayfast.metrics.operating_points.decision import Decision
from xrayfast.metrics.operating_points.thresholds import OperatingPoint
from xrayfast.metrics.registry import epoch_metrics
from xrayfast.reporting.html.pages.predictions_page import render_predictions_page
from xrayfast.reporting.html.split_section import SplitReport
from xrayfast.runs.predictions import Predictions
from xrayfast.runs.run import now
from xrayfast.workflows.steps.paired import RunPredictions, compare_pair, correct_p_values
from xrayfast.workflows.steps.predictions.tables import read_prediction_table
from xrayfast.workflows.steps.results import compute_metrics, parse_prevalences, patients_by_label

PAGE, METRICS, DIFFERENCES = "report.html", "metrics.json", "differences.csv"


@dataclass(frozen=True, eq=False)
class PredictionReport:
    """Metrics of predictions, and their differences from those of further tables.

    Attributes:
        metrics: the result of `metrics.summary.summarize`, with "warnings" and, if asked for, "subgroups".
        differences: differences of further tables from the first, in the form of `Comparison.differences`; None with
            one table.
        path: the HTML page; None if none was written.
    """

    task: Task
    predictions: Predictions
    metrics: Mapping[str, Any]
    notes: tuple[str, ...]
    differences: pd.DataFrame | None
    path: Path | None

    def __repr__(self) -> str:
        return f"PredictionReport({self.predictions!r}; page: {self.path})"


@check_arguments()
def report(
    predictions: pd.DataFrame | Path | str | Sequence[pd.DataFrame | Path | str],
    output: Path | str | None = None,
    *,
    task: Task | None = None,
    positive: str | None = None,
    threshold: Sequence[str] | str | float = (),
    patient_col: str | None = None,
    by: Sequence[str] | str = (),
    prevalence: Sequence[str] | str = (),
    resamples: Annotated[int, Field(ge=0, le=MAX_RESAMPLES)] = 1000,
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] = 0,
    command: str = "",
) -> PredictionReport:
    """Report on predictions of any tool with the metrics, intervals, figures and warnings of a run's report.

    Probabilities are used as given, without calibration: unless thresholds are given, the most likely class is
    predicted or, if multi-label, each label with a probability of 0.5 or above. A single label is treated as one of two
    classes.

    Args:
        predictions: a CSV file or a DataFrame with columns for image, patient, truth and probabilities
            (examples/guide/other_tools.md lists their names); or several, each of which is compared with the first on
            the images that both have.
        output: a folder to write `report.html`, `metrics.json` and, for several tables, `differences.csv` to.
        task: "single" or "multi"; by default inferred.
        positive: the positive class of a task with two classes.
        threshold: the probability from which a label, or the positive class of two, is predicted: "0.3", or
            "Edema=0.2".
        patient_col: the column of patients, whom the bootstrap resamples; by default found by its name; "none" for
            none.
        by: columns that form subgroups.
        prevalence: prevalences to compute predictive values at, as "0.05" or "Edema=0.02".
        resamples: number of bootstrap resamples; 0 for no intervals.
        seed: seed of the bootstrap.
        command: the command line to show on the page.

    Returns:
        The PredictionReport: `.metrics`, `.predictions`, `.differences`, `.path`.

    Raises:
        DataError: a table can't be read, lacks a column or has an invalid cell.
        ConfigError: an option is wrong.
        RunError: another process writes to the folder `output`.
        WriteError: the output can't be written, or would replace a table given, a run's file, or any other file that is
            not an earlier output.
    """
    given: Sequence[Any] = [predictions] if isinstance(predictions, (str, Path, pd.DataFrame)) else predictions
    sources = [Path(source) if isinstance(source, str) else source for source in given]
    if not sources:
        raise DataError("found no predictions; expected a CSV file or a DataFrame.")
    if run := next((one for one in sources if isinstance(one, Path) and (one / INFO_FILE).is_file()), None):
        raise DataError(
            f"{run}: is a run's folder; expected a table of predictions. 'xrayfast interpret {run}' writes a run's "
            "report."
        )
    groups = (by,) if isinstance(by, str) else tuple(by)
    first, *others = (read_prediction_table(source, task, patient_col, groups) for source in sources)
    found, notes = first.predictions, list(first.notes)
    chosen = positive_class(first.task, found.labels, positive)
    if chosen is not None:
        notes.append(describe_positive_class(found.labels, chosen, positive))
    elif positive is not None:
        raise ConfigError(f"positive is '{positive}', which has no effect: it needs exactly two classes. Leave it out.")
    decision = _decide(first.task, found.labels, chosen, threshold)
    shares = parse_prevalences((prevalence,) if isinstance(prevalence, str) else prevalence, found.labels)
    with lock_output(output) as folder:
        if folder is not None:
            _require_replaceable(folder, sources)
        metrics: dict[str, Any] = compute_metrics(
            found, decision, prevalence=shares, resamples=resamples, seed=seed, by=groups
        )
        metrics["reliability"].pop("before", None)  # nothing was calibrated here
        facts = HeadlineFacts(metrics, first.task, patients_by_label(found), external=True, of_table=True)
        metrics["warnings"] = headline_warnings(facts)
        names = [_name(source, number) for number, source in enumerate(sources, 1)]
        differences = None
        if others:
            rows, known = [], tuple(epoch_metrics(first.task))
            for name, other in zip(names[1:], others, strict=True):
                one, reference = (RunPredictions(table.predictions, decision) for table in (other, first))
                compared, remarks = compare_pair(one, reference, known, max(resamples, 1), seed, names[0])
                rows += [{"run": name, "reference": names[0], **row} for row in compared]
                notes += [f"{name}: {remark}" for remark in remarks]
            differences = correct_p_values(rows)[0] if rows else None
        path = None
        if folder is not None:
            path = folder / PAGE
            write_json(folder / METRICS, {"source": names[0], "task": first.task, "notes": notes, "result": metrics})
            (folder / DIFFERENCES).unlink(missing_ok=True)  # an earlier report may have written it
            if differences is not None:
                write_csv(folder / DIFFERENCES, differences, "%.6g")
            split = SplitReport("table", metrics, (), "", found)
            write_text(path, render_predictions_page(names[0], now(), command, split, decision, notes, differences))
        return PredictionReport(first.task, found, metrics, tuple(map(advise, notes)), differences, path)


def _require_replaceable(folder: Path, sources: Sequence[Path | pd.DataFrame]) -> None:
    tables = [source for source in sources if isinstance(source, Path)]
    require_replaceable(folder / DIFFERENCES, *tables, keys=("run", "reference"))
    require_replaceable(folder / METRICS, keys=("source", "task", "notes", "result"))
    require_replaceable(folder / PAGE, mark=PAGE_MARK)


def _decide(task: Task, labels: Sequence[str], positive: str | None, given: Sequence[str] | str | float) -> Decision:
    items = [str(given)] if isinstance(given, (str, float, int)) else list(given)
    thresholds = parse_prevalences(items, labels, "threshold")
    if thresholds is None:
        return Decision(task, tuple(labels), positive=positive)
    if task == "single" and positive is None:
        raise ConfigError(
            "threshold has no effect: with more than two classes, the most likely class is predicted. Leave it out."
        )
    chosen = thresholds if positive is None else thresholds[[labels.index(positive)]]
    points = tuple(OperatingPoint(None if t != t else t, "", math.nan, math.nan, 0, 0) for t in chosen.tolist())
    return Decision(task, tuple(labels), points=points, positive=positive)


def _name(source: pd.DataFrame | Path, number: int) -> str:
    return f"DataFrame {number}" if isinstance(source, pd.DataFrame) else str(source)
