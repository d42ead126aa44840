"""`xrayfast export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from xrayfast.cli import options as o
from xrayfast.cli.output import Output


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run, ensemble or cross-validation.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", show_default="model.onnx or model.pt2", help="File to write."),
    ] = None,
    format: Annotated[
        str, o.choice_option(("onnx", "torch-export"), help="Format: ONNX, or a program of torch.export.")
    ] = "onnx",
    precision: Annotated[
        str,
        o.choice_option(
            ("fp32", "fp16", "int8"),
            help="Precision of the weights in an ONNX file. With fp16 and int8 the AUROC is compared with the run's.",
        ),
    ] = "fp32",
    images: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILES",
            help="Files, folders or patterns to compare on, instead of the run's data. May be repeated.",
        ),
    ] = None,
    with_script: Annotated[
        bool,
        typer.Option(
            "--with-script",
            help="Also write onnx_predict.py next to the file, a script that predicts without xrayfast and torch.",
        ),
    ] = False,
    as_json: o.Json = False,
) -> None:
    """Export a run as one self-contained file, and compare its probabilities with the run's.

    The file takes gray images of any size, and includes resizing, normalization, calibration and thresholds. 'xrayfast
    predict FILE.onnx' runs it without torch. Needs pip install 'xrayfast[onnx]'.
    """
    from xrayfast.cli.results import show_export
    from xrayfast.progress.terminal import reporting
    from xrayfast.runs.run import Run
    from xrayfast.workflows.export import SCRIPT
    from xrayfast.workflows.export import export as work

    out = Output(as_json)
    options: dict[str, Any] = {
        "format": format,
        "precision": precision,
        "images": images or (),
        "with_script": with_script,
    }
    with reporting(out) as reporter:
        found = work(Run(run), output, progress=reporter.preparing, note=out.note, **options)
    show_export(out, found)
    if with_script:
        out.done("Script", found.path.with_name(SCRIPT))
