"""`xrayfast predict`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xrayfast.cli import options as o
from xrayfast.cli.output import Output
from xrayfast.errors import plural_noun

if TYPE_CHECKING:
    import pandas as pd

_UNITS = ("unit_join", "patient_col", "study_col")


@o.takes("tta", "batch_size", "device", "unit", *_UNITS, of_run=("tta", *_UNITS))
def predict(
    given: dict[str, Any],
    run: Annotated[
        Path,
        typer.Argument(
            metavar="RUN", help="Folder of a run, ensemble or cross-validation, ONNX file, or hf:ORG/NAME[@REVISION]."
        ),
    ],
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="[RUN...] FILES...",
            help="Image files, folders or patterns. Probabilities are averaged over all runs given before them.",
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="CSV file to write.")] = Path(
        "predictions.csv"
    ),
    abstain_below: o.AbstainBelow = None,
    as_json: o.Json = False,
) -> None:
    """Predict on new images, and write a CSV with one row per file, in input order.

    The run's calibration and thresholds, chosen on its validation split, are applied. With --unit each row is a study
    or patient, whose images' probabilities are joined.

    The row of a file that can't be read has the error instead; all other files are predicted, and the exit code is 1.
    """
    unit = given.get("unit", "image")
    from xrayfast.cli.results import show_uncalibrated
    from xrayfast.exported.onnx_model import is_model_file
    from xrayfast.files.csv_tables import write_csv
    from xrayfast.files.intact import INFO_FILE
    from xrayfast.files.writable import require_text_file
    from xrayfast.hub.download import is_hub_name
    from xrayfast.runs.run import Run

    out = Output(as_json)
    chosen: list[Any] = [run if is_model_file(run) else Run(run)]
    while sources and (is_hub_name(sources[0]) or (Path(sources[0]) / INFO_FILE).is_file()):
        chosen.append(Run(sources.pop(0)))
    require_text_file(output, columns=("file", "predicted"))
    from xrayfast.workflows.predict import CSV_NUMBERS
    from xrayfast.workflows.predict import predict as work

    table = work(
        chosen[0] if len(chosen) == 1 else chosen,
        sources,
        abstain_below=abstain_below,
        progress=False,
        note=out.note,
        **given,
    )
    write_csv(output, table, CSV_NUMBERS)
    failed, read = table[table["error"] != ""], table[table["predicted"].notna()]
    if len(read):
        _show_answers(out, read, plural_noun(unit), abstain_below)
    if len(chosen) == 1 and isinstance(chosen[0], Run):
        show_uncalibrated(out, chosen[0].decision)
    for error in failed["error"]:
        out.note(error)
    of = "files" if unit == "image" else plural_noun(unit)
    partly = int((read["error"] != "").sum())  # only for studies and patients
    lacking = f", {partly:,} of them without the files that can't be read" if partly else ""
    out.done(f"{len(read):,} of {len(table):,} {of} predicted{lacking}", output)
    out.json({"predictions": str(output), of: len(table), "failed": failed["file"].tolist()})
    if len(failed):
        raise typer.Exit(1)


def _show_answers(out: Output, read: pd.DataFrame, units: str, abstain_below: float | None) -> None:
    """Print how often each label is predicted, and how often there is no answer."""
    from xrayfast.data.labels.names import LABEL_JOIN

    answers = read["predicted"]
    if abstain_below is not None:
        abstained = read["abstained"] != ""
        answers = answers.where(~abstained | (answers != ""), "no answer")
    counts = Counter(label for text in answers for label in text.split(LABEL_JOIN))
    out.table("Predicted", ["label", units], [(label or "none", count) for label, count in counts.most_common()])
    if abstain_below is not None:
        out.line(
            f"No answer on at least one label, because it would be less certain than {abstain_below}: "
            f"{int(abstained.sum()):,} of {len(read):,} {units}."
        )
