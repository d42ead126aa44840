"""`xrayfast interpret`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xrayfast.cli import options as o
from xrayfast.cli.common import choose_run
from xrayfast.cli.output import Output
from xrayfast.config import PREDICTED_SPLITS, ResultsConfig

if TYPE_CHECKING:
    from xrayfast.runs.run import Run


@o.takes("results", of_run=ResultsConfig.model_fields)
def interpret(
    given: dict[str, Any],
    run: o.RunFolder = None,
    split: Annotated[
        str | None, o.choice_option(PREDICTED_SPLITS, show_default="test, if there is one", help="Split to report on.")
    ] = None,
    top: Annotated[int, typer.Option(min=1, max=100, help="Number of images with the largest losses to show.")] = 12,
    saliency: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=0,
            max=100,
            help="Show where the network looks (Grad-CAM) on N images, half of them predicted correctly. 0: none.",
        ),
    ] = 0,
    explain: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="Write a figure of where the network looks in this image file to figures/. May be repeated.",
        ),
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN[,...]",
            help="Also report by subgroup, for these columns of the table of labels with at most 20 values. Saved with "
            "the run.",
        ),
    ] = None,
    figure_format: Annotated[
        str, typer.Option(metavar="png,svg,pdf", help="Formats of the files in figures/, separated by commas.")
    ] = "png",
    runs: o.Runs = None,
    as_json: o.Json = False,
) -> None:
    """Report on a run from its saved predictions: tables, figures, model card and report.html.

    If an option under Results is given, calibration and thresholds are chosen again on the validation split and saved
    in the run, and the metrics of all splits are computed again.
    """
    from xrayfast.errors import RunError

    out = Output(as_json)
    chosen = choose_run(run, runs)
    from xrayfast.cli.results import show_results
    from xrayfast.data.images.reader import read
    from xrayfast.workflows.interpret import write_report

    try:
        _ = chosen.metrics
    except RunError as error:
        if chosen.predicted_splits:
            out.note(str(error))
    for file in explain or []:
        read(file, chosen.config.data.window)  # raises an error before anything is written
    columns = o.split_columns(by)
    with chosen.lock(out.note):
        found = write_report(chosen, split, top, saliency, given, columns, figure_format=figure_format)  # type: ignore[arg-type]
        show_results(out, found, top=min(top, 5))
        for figure in _explained(chosen, explain or []):
            out.done("Saliency", figure)
    out.done("Report", chosen.report_path)
    if chosen.model_card_path.is_file():
        out.done("Model card", chosen.model_card_path)
    if chosen.claim_path.is_file():
        out.done("CLAIM checklist", chosen.claim_path)
    out.json({"run": str(chosen.path), "report": str(chosen.report_path), "metrics": chosen.metrics})


def _explained(run: Run, files: list[Path]) -> list[Path]:
    """Write a saliency figure for each file, and return the paths."""
    if not files:
        return []
    from xrayfast.workflows.explain import explain

    stems = [file.stem for file in files]
    prefixes = [f"{i}-" if stems.count(stem) > 1 else "" for i, stem in enumerate(stems, 1)]
    paths = [run.figure_path(f"saliency-{prefix}{stem}") for prefix, stem in zip(prefixes, stems, strict=True)]
    for explanation, path in zip(explain(run, files), paths, strict=True):
        explanation.save(path)
    return paths
