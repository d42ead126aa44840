"""`xrayfast synth`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from xrayfast.cli.options import Json
from xrayfast.cli.output import Output
from xrayfast.config import MAX_SEED


def synth(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="New folder to write to.")],
    images: Annotated[int, typer.Option(min=6, max=1_000_000, help="Images in all.")] = 450,
    size: Annotated[int, typer.Option(min=32, max=2048, help="Side of each image in pixels.")] = 256,
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Seed of patients, opacities and noise.")] = 0,
    multi_label: Annotated[
        bool, typer.Option("--multi-label", help="Label covid-19 images as pneumonia too: a folder covid-19+pneumonia.")
    ] = False,
    split: Annotated[bool, typer.Option("--split", help="Write train and valid folders, split by patient.")] = False,
    as_json: Json = False,
) -> None:
    """Make a small data set of synthetic chest radiographs to try things on.

    Class folders normal, pneumonia and covid-19, and labels.csv with the patients.
    """
    from xrayfast.synthetic import write_dataset

    out = Output(as_json)
    made = write_dataset(folder, images=images, size=size, seed=seed, multi_label=multi_label, split=split)
    out.table("Synthetic radiographs", ["folder", "images"], made.counts.items())
    out.line(f"{made.images} images of {made.patients} patients.")
    out.done("Data", made.folder)
    out.json({"folder": str(made.folder), "images": made.images, "patients": made.patients, "counts": made.counts})
