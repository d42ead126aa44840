"""`xrayfast review`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from xrayfast.cli.options import Json, out_option
from xrayfast.cli.output import Output

_LISTED = 10


def review(
    cv: Annotated[
        list[Path], typer.Argument(metavar="CV...", help="Folder of a cross-validation; several are averaged.")
    ],
    output: Annotated[
        Path, out_option("--output", "-o", metavar="DIR", help="Folder to write corrections.csv and review.html to.")
    ] = Path("review"),
    top: Annotated[
        int, typer.Option(metavar="N", min=0, max=1000, help="Number of proposals to show with their image.")
    ] = 60,
    as_json: Json = False,
) -> None:
    """Find labels that a cross-validation's networks contradict, and propose corrections for review.

    Accept proposals in corrections.csv, and apply them with 'xrayfast fit --corrections'. Needs pip install
    'xrayfast[review]'.
    """
    out = Output(as_json)
    from xrayfast.errors import plural
    from xrayfast.workflows.review import CORRECTIONS
    from xrayfast.workflows.review import review as work

    found = work(cv, output, top=top)
    rows = found.proposals[found.proposals["accept"] == ""]
    columns = ["image", "label", "given", "proposed", "probability"]
    if not rows["label"].any():  # empty in a single-label task
        columns.remove("label")
    out.table(
        f"{plural(len(rows), 'proposal')} on {plural(len(found.ranked), 'label')}, the least credible label first",
        columns,
        [tuple(row[name] for name in columns) for row in rows.head(min(top, _LISTED)).to_dict("records")],
    )
    out.line()
    out.note("A reader must check each proposal: to accept one, write yes in the column accept of corrections.csv.")
    out.done("Proposals", output / CORRECTIONS)
    out.done("With images", output / "review.html")
    out.json(
        {
            "corrections": str(output / CORRECTIONS),
            "page": str(found.path),
            "labels": len(found.ranked),
            "proposals": rows.to_dict("records"),
        }
    )
