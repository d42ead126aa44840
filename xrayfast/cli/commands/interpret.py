"""`xrayfast interpret`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xrayfast.cli import options as o
from xrayfast.cli.output import Output, shown

if TYPE_CHECKING:
    from xrayfast.report.interpretation import Interpretation
    from xrayfast.run import Run

MOST_CONFUSED = 10


@o.takes(o.RESULTS_SETTINGS)
def interpret(
    given: dict[str, Any],
    run: o.RunFolder = None,
    split: Annotated[
        str | None,
        typer.Option(metavar="valid|test", show_default="test, where there is one", help="Part to report on."),
    ] = None,
    top: Annotated[int, typer.Option(min=1, max=100, help="Images with the largest losses to show.")] = 12,
    saliency: Annotated[
        int,
        typer.Option(
            "--saliency",
            metavar="N",
            min=0,
            max=100,
            help="Show where the network looks on N of those images (Grad-CAM); without it the report has none.",
        ),
    ] = 0,
    explain: Annotated[
        list[Path] | None,
        typer.Option(
            "--explain",
            metavar="FILE",
            show_default=False,
            help="Show where the network looks on a file of your choice, in figures/. May be repeated.",
        ),
    ] = None,
    runs: o.Runs = Path("runs"),
    as_json: o.Json = False,
) -> None:
    """Report on a run: tables, figures, model card and report.html, from its saved predictions.

    With an option of the results, thresholds and calibration are chosen anew on validation, and kept for all later
    commands; all parts are measured anew.
    """
    o.require_one_of(split, o.PREDICTED_SPLITS, "--split")
    from xrayfast.run import Run

    out = Output(as_json)
    chosen = Run.newest(runs) if run is None else Run(run)
    from xrayfast.workflows.interpret import write_report

    found = write_report(chosen, split=split, top=top, saliency=saliency, **given)  # type: ignore[arg-type]
    show_results(out, found, top=min(top, 5))
    for figure in _explained(chosen, explain or []):
        out.done("Saliency", figure)
    out.done("Report", chosen.report_path)
    out.done("Model card", chosen.model_card_path)
    out.done("CLAIM checklist", chosen.claim_path)
    out.json({"run": str(chosen.path), "report": str(chosen.report_path), "metrics": chosen.metrics})


def _explained(run: Run, files: list[Path]) -> list[Path]:
    """A figure of each file."""
    if not files:
        return []
    from xrayfast.workflows.explain import explain

    stems = [file.stem for file in files]
    numbers = [f"{i}-" if stems.count(stem) > 1 else "" for i, stem in enumerate(stems, 1)]
    paths = [run.figure_path(f"saliency-{number}{stem}") for number, stem in zip(numbers, stems, strict=True)]
    for explanation, path in zip(explain(run, files), paths, strict=True):
        explanation.save(path)
    return paths


def show_results(out: Output, found: Interpretation, top: int) -> None:
    """The tables of an interpretation: overall, by label, subgroups, confusions, largest losses."""
    from xrayfast.cli.results import show_decision, show_measures, show_subgroups

    summary = found.summary
    show_measures(out, summary, found.task)
    out.line()
    show_decision(out, found.decision)
    for one in summary.get("subgroups", []):
        show_subgroups(out, one, found.task)
    if found.task == "single":
        matrix = found.confusion_matrix()
        out.table(
            "Confusion: actual in rows, predicted in columns",
            ["", *found.vocab],
            [(label, *row) for label, row in zip(found.vocab, matrix.tolist(), strict=True)],
        )
    else:
        cells = [(label, tn, fp, fn, tp) for label, ((tn, fp), (fn, tp)) in summary["confusion_per_label"].items()]
        out.table("Confusion by label", ["label", "true neg.", "false pos.", "false neg.", "true pos."], cells)
    confused = found.most_confused()[:MOST_CONFUSED]
    if confused:
        out.table("Most confused", ["actual", "predicted", "images"], confused, text_columns=2)
    rows = [
        (case["image"], case["actual"] or "none", case["predicted"] or "none", shown(float(case["loss"])))
        for case in found.top_losses_table(top).to_dict("records")
    ]
    out.table("Largest losses", ["image", "actual", "predicted", "loss"], rows, text_columns=3)
    for note in summary["notes"]:
        out.note(note)
