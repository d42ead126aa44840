"""`xrayfast interpret`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xrayfast.cli.options import Json, RunFolder, Runs
from xrayfast.cli.output import Output, shown

if TYPE_CHECKING:
    from xrayfast.learning.interpretation import RadiographInterpretation

MOST_CONFUSED = 10


def interpret(
    run: RunFolder = None,
    split: Annotated[
        str | None,
        typer.Option(metavar="valid|test", show_default="test, where there is one", help="Part to report on."),
    ] = None,
    top: Annotated[int, typer.Option(min=1, max=100, help="Images with the largest losses to show.")] = 12,
    runs: Runs = Path("runs"),
    as_json: Json = False,
) -> None:
    """Report on a run: tables, figures and report.html, from its saved predictions."""
    if split not in (None, "valid", "test"):
        raise typer.BadParameter(f"'{split}' is not one of valid, test.", param_hint="--split")
    from xrayfast.run import Run

    out = Output(as_json)
    chosen = Run.newest(runs) if run is None else Run(run)
    from xrayfast.workflows.interpret import interpret as work

    found = work(chosen, split=split, top=top)  # type: ignore[arg-type]
    show_results(out, found, top=min(top, 5))
    out.done("Report", chosen.report_path)
    out.json({"run": str(chosen.path), "report": str(chosen.report_path), "metrics": chosen.metrics})


def show_results(out: Output, found: RadiographInterpretation, top: int) -> None:
    """The tables of an interpretation: overall, by label, confusions, largest losses."""
    from xrayfast.metrics.summary import OVERALL, PER_LABEL

    summary: dict[str, Any] = found.summary
    out.table(
        f"{summary['images']} images",
        ["metric", "value"],
        [(title, summary["overall"][name]) for name, title in OVERALL[found.task].items()],
    )
    out.table(
        "By label",
        ["label", *(title.split(" (")[0] for title in PER_LABEL.values())],
        [(row["label"], *(row[name] for name in PER_LABEL)) for row in summary["per_label"]],
    )
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
