"""`xrayfast demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from xrayfast.cli.common import open_and_show, show_run
from xrayfast.cli.options import Json
from xrayfast.cli.output import Output
from xrayfast.progress.terminal import reporting


def demo(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder for the data and the run.")] = Path("demo"),
    as_json: Json = False,
) -> None:
    """Make synthetic data, train on it from scratch and write a report, offline, in about two minutes."""
    from xrayfast.synthetic import write_dataset
    from xrayfast.workflows import demo as choices

    out = Output(as_json)
    data = folder / "data"
    settings = choices.SETTINGS.updated({"source": data, "labels": data / "labels.csv"})
    if not (data / "labels.csv").is_file():
        made = write_dataset(data, images=choices.IMAGES, size=choices.SIZE)
        out.line(f"Made {made.images} synthetic radiographs of {made.patients} patients in {data}.")
    manifest = open_and_show(out, settings)
    from xrayfast.workflows.fit import fit
    from xrayfast.workflows.interpret import interpret

    with reporting(out) as reporter:
        run = fit(
            manifest,
            config=settings,
            runs=folder / "runs",
            reporter=reporter,
            command="xrayfast demo",
        )
    interpret(run)
    show_run(out, run)
    out.done("Report", run.report_path)
