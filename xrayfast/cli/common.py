"""Steps that several commands share: reading settings, opening the data set, showing the results of a run."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, cast

import typer

from xrayfast.cli.output import Output
from xrayfast.errors import plural
from xrayfast.errors.escapes import escape_hidden

if TYPE_CHECKING:
    from xrayfast.config import Config
    from xrayfast.data.manifest import Manifest
    from xrayfast.runs.run import Run
    from xrayfast.workflows.recipes import Recipe

RUNS = Path("runs")
"""Default folder of runs."""


def read_settings(config: Path | None, given: dict[str, object], recipe: str | None = None) -> Config:
    """Return the settings of the config file, overridden by the recipe and then by the options that were given."""
    from xrayfast.config import Config
    from xrayfast.option_effects import check_settings
    from xrayfast.workflows.recipes import with_recipe

    settings = Config.read(config) if config else Config()
    settings = with_recipe(settings, cast("Recipe", recipe or "default"), given).updated(given)
    check_settings(settings)  # the workflow shows the notes
    return settings


def choose_run(run: Path | None, runs: Path | None) -> Run:
    """Return the named run, or else the newest run in the folder of runs."""
    from xrayfast.runs.run import Run

    if run is None:
        return Run.newest(runs or RUNS)
    if runs is not None:
        raise typer.BadParameter(
            "can't be used with RUN: it is the folder to search for the newest run.", param_hint="--runs"
        )
    return Run(run)


def open_and_show(out: Output, settings: Config) -> Manifest:
    """Open the data set, print what was found and inferred, and check that the settings fit it."""
    from xrayfast.data.open_manifest import open_manifest
    from xrayfast.workflows.steps.data.opening import require_arch, require_settings_of_data

    require_arch(settings.model)
    manifest = open_manifest(settings.data)
    show_counts(out, f"{manifest.config.shown}: {plural(len(manifest), 'image')}", manifest)
    for note in manifest.notes:
        out.line(note)
    out.line()
    require_settings_of_data(manifest, settings)
    return manifest


def show_counts(out: Output, title: str, manifest: Manifest) -> None:
    """Print the number of images per label and split."""
    counts = manifest.counts()
    out.table(
        title,
        ["label", *counts.columns],
        [(row, *map(int, values)) for row, values in zip(counts.index, counts.to_numpy(), strict=True)],
    )


def command_line() -> str:
    """Return the command as it was typed, for run.json."""
    return escape_hidden(shlex.join(["xrayfast", *sys.argv[1:]]))


def show_run(out: Output, run: Run) -> None:
    """Print the results of a finished run and its folder."""
    from xrayfast.cli.results import show_results
    from xrayfast.workflows.steps.predictions.own import read_interpretations

    split, found = list(read_interpretations(run, find_images=False).items())[-1]
    show_results(out, found, top=3)
    out.line()
    of = f"{len(members)} networks together" if (members := run.info.members) else f"epoch {run.info['best_epoch']}"
    out.line(
        f"These are the {'test' if split == 'test' else 'validation'} results of {of}. "
        f"For figures and a report: xrayfast interpret {run.path}"
    )
    out.done("Run", run.path)
    out.json(
        {
            "run": str(run.path),
            "best_epoch": run.info["best_epoch"],
            "seconds": run.info["seconds"],
            "metrics": run.metrics,
        }
    )
