"""`xrayfast export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from xrayfast.cli import options as o
from xrayfast.cli.output import Output
from xrayfast.files.writable import require_output_file


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run, ensemble or cross-validation.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            show_default="model.onnx",
            help="File to write; model.pt2 of torch.export.",
        ),
    ] = None,
    format: Annotated[str, typer.Option(metavar="onnx|torch-export", help="ONNX, or torch.export's program.")] = "onnx",
    precision: Annotated[
        str,
        typer.Option(
            metavar="fp32|fp16|int8",
            help="Of an ONNX file's weights; for the last two the AUROC is compared with the run's.",
        ),
    ] = "fp32",
    images: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILES",
            help="Files, folders or patterns to compare on, in place of the run's data. May be repeated.",
        ),
    ] = None,
    with_script: Annotated[
        bool,
        typer.Option(
            "--with-script", help="Write onnx_predict.py beside it, which predicts without xrayfast and torch."
        ),
    ] = False,
    as_json: o.Json = False,
) -> None:
    """Export a run as one file that predicts alone, and compare its probabilities with the run's.

    The file takes gray images of any size; fitting, normalisation, calibration and thresholds are inside.
    xrayfast predict FILE.onnx runs it without torch. Needs pip install 'xrayfast[onnx]'.
    """
    from xrayfast.exported.metadata import Precision
    from xrayfast.workflows.export import Format

    o.check_choice(format, get_args(Format), "--format")
    o.check_choice(precision, get_args(Precision), "--precision")
    from xrayfast.cli.results import show_export
    from xrayfast.progress.terminal import reporting
    from xrayfast.runs.run import Run
    from xrayfast.workflows.export import export as work

    out = Output(as_json)
    if output is not None:
        require_output_file(output)
    options: dict[str, Any] = {
        "format": format,
        "precision": precision,
        "images": images or (),
        "with_script": with_script,
    }
    with reporting(out) as reporter:
        found = work(Run(run), output, progress=reporter.preparing, note=out.note, **options)
    show_export(out, found)
