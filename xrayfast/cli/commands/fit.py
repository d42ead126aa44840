"""`xrayfast fit`."""

from __future__ import annotations

import importlib
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xrayfast.cli import options as o
from xrayfast.cli.commands.interpret import show_results
from xrayfast.cli.output import Output
from xrayfast.cli.progress import StopRequest, reporting
from xrayfast.errors import Interrupted

if TYPE_CHECKING:
    from xrayfast.config import Config
    from xrayfast.data.manifest import Manifest
    from xrayfast.run import Run

GRACE = 2.0
"""Seconds that a failed process waits for the first one to fail."""


@o.takes(o.DATA_SETTINGS, o.MODEL_SETTINGS, o.TRAIN_SETTINGS, o.RESULTS_SETTINGS)
def fit(
    given: dict[str, Any],
    config: o.ConfigFile = None,
    runs: o.Runs = Path("runs"),
    name: o.Name = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            "--resume",
            metavar="RUN",
            rich_help_panel=o.OUT,
            help="Go on with a run that was interrupted; its own settings apply.",
        ),
    ] = None,
    as_json: o.Json = False,
) -> None:
    """Train a network on a data set, and keep everything in a new run's folder.

    Without --unfreeze the head is trained alone, on a frozen body.
    """
    if resume is not None and (given or config or name):
        raise typer.BadParameter("A resumed run keeps its own settings; give --resume alone.", param_hint="--resume")
    with rank_zero_output():
        _fit(given, config, runs, name, resume, Output(as_json))


def _fit(
    given: dict[str, Any], config: Path | None, runs: Path, name: str | None, resume: Path | None, out: Output
) -> None:
    stop = StopRequest()
    if resume is not None:
        from xrayfast.workflows.fit import resume as work_on

        with stop.listening(), reporting(out) as reporter:
            run = work_on(resume, reporter=reporter, interrupted=stop)
    else:
        settings = read_settings(config, given)
        manifest = open_and_show(out, settings)
        with stop.listening(), reporting(out) as reporter:
            with importing("xrayfast.workflows.fit"):
                if settings.data.cache:
                    from xrayfast.workflows.data import decode

                    decode(manifest, settings.model.size, reporter.preparing)
            from xrayfast.workflows.fit import fit as work

            run = work(
                manifest,
                config=settings,
                name=name,
                runs=runs,
                reporter=reporter,
                interrupted=stop,
                command=command_line(),
            )
    close(out, run)


@contextmanager
def importing(module: str) -> Iterator[None]:
    """Import a module meanwhile: torch and fastai take one core 10 s, in which other processes decode images.

    What fails meanwhile is told at once; the thread ends with the process.
    """
    thread = threading.Thread(target=_import, args=(module,), daemon=True)
    thread.start()
    yield
    thread.join()


def _import(module: str) -> None:
    # What fails here fails again, and is told, where the module is needed.
    with suppress(Exception):
        importlib.import_module(module)


@contextmanager
def rank_zero_output() -> Iterator[None]:
    """Of the processes that torchrun started, the first speaks; another one only where it alone fails."""
    if os.environ.get("RANK", "0") == "0":
        yield
        return
    try:
        with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
            yield
    except (Exception, KeyboardInterrupt) as error:
        # torchrun ends all when one has failed: the first, where it fails too, is to close its run and to say why.
        time.sleep(GRACE)
        if isinstance(error, (Interrupted, KeyboardInterrupt)):
            raise typer.Exit(130) from None
        raise


def read_settings(config: Path | None, given: dict[str, object]) -> Config:
    """The config file's settings, with the options that were given over them."""
    from xrayfast.config import Config

    return (Config.read(config) if config else Config()).updated(given)


def open_and_show(out: Output, settings: Config) -> Manifest:
    """Open the data set and print what was found and inferred."""
    from xrayfast.data.manifest import open_manifest

    manifest = open_manifest(settings.data)
    kind = "one label an image (single)" if manifest.task == "single" else "several labels an image (multi)"
    show_counts(out, f"{manifest.config.source}: {kind}", manifest)
    for note in manifest.notes:
        out.line(note)
    out.line()
    return manifest


def show_counts(out: Output, title: str, manifest: Manifest) -> None:
    """The images of each label by split."""
    counts = manifest.counts()
    out.table(
        title,
        ["label", *counts.columns],
        [(row, *map(int, values)) for row, values in zip(counts.index, counts.to_numpy(), strict=True)],
    )


def command_line() -> str:
    """What was typed."""
    import shlex

    return shlex.join(["xrayfast", *sys.argv[1:]])


def close(out: Output, run: Run) -> None:
    """The tables and the folder of a finished run."""
    from xrayfast.workflows.interpret import read_interpretations

    split, found = list(read_interpretations(run).items())[-1]
    show_results(out, found, top=3)
    out.line()
    out.line(
        f"These are the {'test' if split == 'test' else 'validation'} results of epoch {run.info['best_epoch']}. "
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
