"""`xrayfast push`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from xrayfast.cli import options as o
from xrayfast.cli.output import Output


def push(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run, ensemble or cross-validation.")],
    repository: Annotated[
        str, typer.Argument(metavar="ORG/NAME", help="Repository on the Hub; created if it does not exist.")
    ],
    public: Annotated[
        bool, typer.Option("--public", help="Make the repository public. By default it is private.")
    ] = False,
    with_predictions: Annotated[
        bool,
        typer.Option(
            "--with-predictions", help="Also upload predictions, with image names, patient pseudonyms, sex and age."
        ),
    ] = False,
    with_split: Annotated[
        bool,
        typer.Option("--with-split", help="Also upload split.csv, with image names, patient pseudonyms and labels."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List what would be uploaded, and upload nothing.")
    ] = False,
    as_json: o.Json = False,
) -> None:
    """Publish a run on the Hugging Face Hub, without the names of files and patients.

    'xrayfast predict hf:ORG/NAME FILES' predicts with the published run. Needs pip install 'xrayfast[hub]' and a login
    ('hf auth login', or HF_TOKEN).
    """
    out = Output(as_json)
    from xrayfast.workflows.push import push as work

    pushed = work(
        run,
        repository,
        public=public,
        with_predictions=with_predictions,
        with_split=with_split,
        dry_run=dry_run,
        note=out.note,
    )
    title = "Would be uploaded" if dry_run else "Uploaded"
    rows = [(name, f"{size / 1000:,.1f}") for name, size in pushed.files.items()]
    out.table(f"{title} to {repository}, {'private' if pushed.private else 'public'}", ["file", "kB"], rows)
    if not dry_run:
        out.done(f"Published for research and teaching, as {pushed.name}", pushed.url)
    out.json(asdict(pushed))
