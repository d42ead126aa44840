"""`xrayfast predict`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from xrayfast.cli.options import DEVICES, Json, require_one_of
from xrayfast.cli.output import Output


def predict(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")],
    sources: Annotated[list[str], typer.Argument(metavar="FILES...", help="Image files, folders and patterns.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="CSV file to write.")] = Path(
        "predictions.csv"
    ),
    abstain_below: Annotated[
        float | None,
        typer.Option(
            "--abstain-below",
            metavar="P",
            min=0,
            max=1,
            help="Give no answer where its calibrated probability is below this, such as 0.8.",
        ),
    ] = None,
    tta: Annotated[bool, typer.Option("--tta", help="Average over augmented views.")] = False,
    batch_size: Annotated[int, typer.Option("--batch-size", "-b", min=1, help="Images a batch.")] = 32,
    device: Annotated[str, typer.Option(metavar="auto|cpu|cuda|mps", help="Where to compute.")] = "auto",
    as_json: Json = False,
) -> None:
    """Predict on new images: a CSV with a row per file, in input order.

    Probabilities are calibrated and labels decided as validation chose.

    A file that can't be read is a row with its error; the others go on, and the exit code is 1.
    """
    require_one_of(device, DEVICES, "--device")
    from xrayfast.errors import DataError
    from xrayfast.files import write_csv
    from xrayfast.run import Run

    out = Output(as_json)
    chosen = Run(run)
    if not output.absolute().parent.is_dir():
        raise DataError(f"{output}: there is no folder {output.absolute().parent} to write it to.")
    from xrayfast.workflows.predict import predict as work

    table = work(chosen, sources, abstain_below=abstain_below, tta=tta, batch_size=batch_size, device=device)  # type: ignore[arg-type]
    write_csv(output, table, "%.9g")
    failed = table[table["error"] != ""]
    told = table[table["error"] == ""]
    undecided = told["abstained"] != "" if abstain_below is not None else None
    answers = (
        told["predicted"]
        if undecided is None
        else told["predicted"].where(~undecided | (told["predicted"] != ""), "no answer")
    )
    counts = answers.value_counts()
    out.table("Predicted", ["label", "images"], [(label or "none", int(count)) for label, count in counts.items()])
    if undecided is not None:
        out.line(
            f"{int(undecided.sum())} of {len(told)} images have no answer on one label or more, below {abstain_below}."
        )
    for error in failed["error"]:
        out.note(error)
    out.done(f"{len(table) - len(failed)} of {len(table)} files predicted", output)
    out.json({"predictions": str(output), "files": len(table), "failed": failed["file"].tolist()})
    if len(failed):
        raise typer.Exit(1)
