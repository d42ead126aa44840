"""`xrayfast report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from xrayfast.cli.common import command_line
from xrayfast.cli.options import DrawSeed, Json, choice_option, out_option, split_columns
from xrayfast.cli.output import Output
from xrayfast.config import MAX_RESAMPLES
from xrayfast.errors import format_cell, format_estimate

TASKS = ("single", "multi")


def report(
    predictions: Annotated[
        list[Path],
        typer.Argument(
            metavar="CSV...", help="CSV files of predictions. The second and later ones are compared with the first."
        ),
    ],
    output: Annotated[
        Path, out_option("--output", "-o", metavar="DIR", help="Folder to write report.html and metrics.json to.")
    ] = Path("report"),
    task: Annotated[
        str | None,
        choice_option(
            TASKS,
            show_default="inferred",
            help="Exactly one class per image (single), or any number of labels (multi).",
        ),
    ] = None,
    positive: Annotated[
        str | None,
        typer.Option(
            metavar="LABEL", show_default="not the normal one", help="Positive class, if there are two classes."
        ),
    ] = None,
    threshold: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[LABEL=]P",
            show_default="0.5",
            help="Predict a label, or the positive class, if its probability is at least this. May be repeated.",
        ),
    ] = None,
    patient_col: Annotated[
        str | None, typer.Option(metavar="COLUMN", show_default="inferred from its name", help="Column of patients.")
    ] = None,
    by: Annotated[
        str | None, typer.Option(metavar="COLUMN[,...]", help="Also report by subgroup, for these columns of the file.")
    ] = None,
    prevalence: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[LABEL=]SHARE", help="Also report predictive values at this prevalence. May be repeated."
        ),
    ] = None,
    resamples: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=0,
            max=MAX_RESAMPLES,
            help="Number of bootstrap resamples of patients for the intervals. 0: no intervals.",
        ),
    ] = 1000,
    seed: DrawSeed = 0,
    as_json: Json = False,
) -> None:
    """Report on predictions of any tool from a CSV file: metrics with intervals, figures and a page.

    The columns are image; patient, if known; prob_LABEL for each label; and either truth, with the image's labels
    separated by '|', or truth_LABEL for each label, with 1 and 0.
    """
    out = Output(as_json)
    from xrayfast.cli.results import show_metrics, show_subgroups
    from xrayfast.metrics.registry import metric_title
    from xrayfast.reporting.comparison import records
    from xrayfast.workflows.report import DIFFERENCES
    from xrayfast.workflows.report import report as work

    found = work(
        predictions,
        output,
        task=task,  # type: ignore[arg-type]
        positive=positive,
        threshold=threshold or (),
        patient_col=patient_col,
        by=split_columns(by),
        prevalence=prevalence or (),
        resamples=resamples,
        seed=seed,
        command=command_line(),
    )
    show_metrics(out, found.metrics, found.task)
    for grouping in found.metrics.get("subgroups", []):
        show_subgroups(out, grouping, found.task)
    rows = [] if found.differences is None else records(found.differences)
    if rows:
        out.table(
            "Differences from the first, on the same images",
            ["predictions", "metric", "difference", "p, corrected"],
            [
                (
                    row["run"],
                    metric_title(row["metric"]) + (f" of {row['label']}" if row["label"] else ""),
                    format_estimate(row["difference"], row, "+.3f"),
                    format_cell(row["p_corrected"]),
                )
                for row in rows
            ],
        )
    out.line()
    for note in [*found.notes, *found.metrics["notes"]]:
        out.note(note)
    if found.differences is not None:
        out.done("Differences", output / DIFFERENCES)
    out.done("Report", output / "report.html")
    out.json({"report": str(found.path), "task": found.task, "notes": found.notes, "metrics": found.metrics,
              "differences": rows})  # fmt: skip
