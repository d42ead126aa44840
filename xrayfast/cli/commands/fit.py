"""`xrayfast fit`."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xrayfast.cli import options as o
from xrayfast.cli.common import RUNS, command_line, open_and_show, read_settings, show_run
from xrayfast.cli.output import Output, message
from xrayfast.errors import Interrupted, XrayfastError
from xrayfast.errors.environment import blame_environment
from xrayfast.errors.signals import INTERRUPTED
from xrayfast.launch import is_rank_zero
from xrayfast.progress.terminal import reporting

if TYPE_CHECKING:
    from xrayfast.config import Config
    from xrayfast.data.manifest import Manifest

AUTO = "auto"
"""Value of --resume that means the run of --name; a folder with this name is given as ./auto."""

GRACE = 2.0
"""Seconds that a failed rank waits for rank zero to fail too."""


@o.takes("data", "model", "train", "results")
def fit(
    given: dict[str, Any],
    recipe: o.RecipeName = None,
    config: o.ConfigFile = None,
    runs: o.Runs = None,
    name: Annotated[str | None, o.new_name("the run")] = None,
    resume: Annotated[
        Path | None,
        o.out_option(
            metavar="RUN|auto",
            help="Resume an interrupted run with its own settings. auto: resume the run of --name, or start it.",
        ),
    ] = None,
    as_json: o.Json = False,
) -> None:
    """Train a network on a data set, and save weights, metrics and predictions in a new run folder.

    By default only the head is trained, on a frozen backbone; --unfreeze trains all layers.
    """
    automatic = resume is not None and str(resume) == AUTO
    if automatic and name is None:
        raise typer.BadParameter("auto resumes the run of --name; give --name too.", param_hint="--resume")
    if resume is not None and not automatic and (given or recipe or config or name or runs):
        raise typer.BadParameter(
            "a resumed run keeps its own settings. Give --resume without other options.", param_hint="--resume"
        )
    with rank_zero_output():
        _fit(given, recipe, config, runs or RUNS, name, resume, Output(as_json))


def _fit(
    given: dict[str, Any],
    recipe: str | None,
    config: Path | None,
    runs: Path,
    name: str | None,
    resume: Path | None,
    out: Output,
) -> None:
    if resume is not None and name is not None:
        from xrayfast.workflows.begun import find_begun

        begun = find_begun(runs, name, read_settings(config, given, recipe))
        if begun is not None and begun.is_finished:
            message(f"{begun.path} is complete: there is nothing to resume.")
            show_run(out, begun)
            return
        resume = None if begun is None else begun.path
    if resume is not None:
        from xrayfast.workflows.fit import resume as work_on

        with reporting(out) as reporter:
            run = work_on(resume, reporter=reporter)
    else:
        from xrayfast.runs.run import Run
        from xrayfast.tracking.trackers import require_trackers
        from xrayfast.workflows.steps.data.images import decode
        from xrayfast.workflows.steps.leaks import find_leaks

        settings = read_settings(config, given, recipe)
        Run.require_code_of(settings, {})
        Run.require_creatable(runs, name)
        require_trackers(settings.train.track)
        manifest = open_and_show(out, settings)
        with reporting(out) as reporter:
            with checking_settings(manifest, settings) as raise_problem:
                if settings.data.cache:

                    def progress(stage: str, done: int, total: int) -> None:
                        raise_problem()
                        reporter.preparing(stage, done, total)

                    # What is found stays in the cache.
                    find_leaks(*decode(manifest, settings.model.size, progress), progress)
            from xrayfast.workflows.fit import fit as work

            run = work(manifest, config=settings, name=name, runs=runs, reporter=reporter, command=command_line())
    show_run(out, run)


@contextmanager
def checking_settings(manifest: Manifest, settings: Config) -> Iterator[Callable[[], None]]:
    """Check the settings in a thread while the block decodes and compares images.

    The check imports torch and fastai, which takes 10 s on one core; the other cores decode images meanwhile. Yields a
    function that raises the error as soon as the thread has found one. An error in the block is raised at once; the
    thread then ends with the process.
    """
    problems: list[XrayfastError] = []

    def raise_problem() -> None:
        if problems:
            raise problems[0]

    thread = threading.Thread(target=_check, args=(manifest, settings, problems), daemon=True)
    thread.start()
    yield raise_problem
    thread.join()
    raise_problem()


def _check(manifest: Manifest, settings: Config, problems: list[XrayfastError]) -> None:
    """Append the error in the settings or the environment, if any, to `problems`."""
    try:
        from xrayfast.workflows.steps.preparing import require_settings

        require_settings(manifest, settings)
    except XrayfastError as error:
        problems.append(error)
    except Exception as error:  # others happen again in the main thread; torch fails in another way when imported again
        if blamed := blame_environment(error):
            problems.append(XrayfastError(blamed))


@contextmanager
def rank_zero_output() -> Iterator[None]:
    """Let only rank zero of a distributed run print; another rank reports an error only if rank zero has none."""
    if is_rank_zero():
        yield
        return
    try:
        with Path(os.devnull).open("w", encoding="utf-8") as null, redirect_stdout(null), redirect_stderr(null):
            yield
    except (Exception, KeyboardInterrupt) as error:
        # torchrun and srun kill all ranks once one has exited. If rank zero fails too, it needs time to report it.
        time.sleep(GRACE)
        if isinstance(error, (Interrupted, KeyboardInterrupt)):
            raise typer.Exit(getattr(error, "exit_code", INTERRUPTED)) from None
        raise
