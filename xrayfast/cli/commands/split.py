"""`xrayfast split`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from xrayfast.cli import options as o
from xrayfast.cli.common import read_settings
from xrayfast.cli.output import Output
from xrayfast.progress.terminal import reporting


@o.takes("data", "size")
def split(
    given: dict[str, Any],
    config: o.ConfigFile = None,
    output: Annotated[Path, o.out_option("--output", "-o", metavar="FILE", help="CSV file to write.")] = Path(
        "split.csv"
    ),
    as_json: o.Json = False,
) -> None:
    """Split a data set into train, valid and test as fit does, and save the split to a file.

    Give the file to fit as --split-file. Duplicates stay in one split, as patients do: all images are decoded, and
    compared at --size, which should be that of fit.
    """
    out = Output(as_json)
    settings = read_settings(config, given)
    from xrayfast.workflows.split import balance
    from xrayfast.workflows.split import split as work

    with reporting(out) as reporter:
        manifest = work(config=settings, output=output, progress=reporter.preparing)
    for note in manifest.notes:
        out.line(note)
    table = balance(manifest)
    out.table(
        f"{manifest.config.shown}: images per label, and their share of the split",
        ["label", *(name.replace("_share", " share") for name in table.columns)],
        [
            (row, *(cell if str(name).endswith("_share") else int(cell) for name, cell in cells.items()))
            for row, cells in table.iterrows()
        ],
    )
    out.line()
    out.done("Split", output)
    out.json({"split": str(output), "counts": manifest.counts().to_dict(), "notes": list(manifest.notes)})
