"""`xrayfast synth` and `xrayfast demo`, which use synthetic radiographs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from xrayfast.cli.common import open_and_show, show_run
from xrayfast.cli.options import Json
from xrayfast.cli.output import Output
from xrayfast.config import MAX_SEED, SYNTHETIC_IMAGES, Config, DataConfig, ModelConfig, TrainConfig
from xrayfast.progress.terminal import reporting

DEMO_IMAGES, DEMO_SIZE = 600, 128
"""Number of synthetic radiographs in the demo, and their side in pixels."""

DEMO = Config(
    data=DataConfig(test_fraction=0.15),
    model=ModelConfig(arch="resnet18", weights="none", size=64),
    train=TrainConfig(unfreeze=True, freeze_epochs=0, epochs=14),
)
"""Settings of the demo: training from scratch, small enough for two cores."""


def synth(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to create.")],
    images: Annotated[int, typer.Option(min=6, max=1_000_000, help="Number of images.")] = SYNTHETIC_IMAGES,
    size: Annotated[int, typer.Option(min=32, max=2048, help="Side of each image in pixels.")] = 256,
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Seed of patients, opacities and noise.")] = 0,
    multi_label: Annotated[
        bool, typer.Option("--multi-label", help="Label covid-19 images pneumonia too, in a folder covid-19+pneumonia.")
    ] = False,
    split: Annotated[
        bool, typer.Option("--split", help="Divide the images by patient into the folders train and valid.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Make a small data set of synthetic chest radiographs to try things on.

    It has the class folders normal, pneumonia and covid-19, and labels.csv with each image's patient.
    """
    from xrayfast.synthetic import write_dataset

    out = Output(as_json)
    made = write_dataset(folder, images=images, size=size, seed=seed, multi_label=multi_label, split=split)
    out.table("Synthetic radiographs", ["folder", "images"], made.counts.items())
    out.line(f"{made.images} images of {made.patients} patients.")
    out.done("Data", made.folder)
    out.json({"folder": str(made.folder), "images": made.images, "patients": made.patients, "counts": made.counts})


def demo(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder for the data and the run.")] = Path("demo"),
    as_json: Json = False,
) -> None:
    """Make synthetic data, train on it from scratch and write a report, offline, in about two minutes."""
    from xrayfast.synthetic import write_dataset

    out = Output(as_json)
    data = folder / "data"
    settings = DEMO.updated({"source": data, "labels": data / "labels.csv"})
    if not (data / "labels.csv").is_file():
        made = write_dataset(data, images=DEMO_IMAGES, size=DEMO_SIZE)
        out.line(f"Made {made.images} synthetic radiographs of {made.patients} patients in {data}.")
    manifest = open_and_show(out, settings)
    from xrayfast.workflows.fit import fit
    from xrayfast.workflows.interpret import interpret

    with reporting(out) as reporter:
        run = fit(manifest, config=settings, runs=folder / "runs", reporter=reporter, command="xrayfast demo")
    interpret(run)
    show_run(out, run)
    out.done("Report", run.report_path)
