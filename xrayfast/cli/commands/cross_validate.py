"""`xrayfast cross-validate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xrayfast.cli import options as o
from xrayfast.cli.common import RUNS, command_line, open_and_show, read_settings
from xrayfast.cli.output import Output
from xrayfast.config import DEFAULT_FOLDS, MAX_FOLDS
from xrayfast.progress.terminal import reporting

if TYPE_CHECKING:
    from xrayfast.runs.cross_validation import CrossValidation


def _option(flag: str, help: str, **shown: Any) -> Any:
    return typer.Option(flag, rich_help_panel="Folds", help=help, **shown)


@o.takes("data", "model", "train", "results", without=("valid_fraction", "folds", "fold"))
def cross_validate(
    given: dict[str, Any],
    folds: Annotated[
        int | None,
        _option("--folds", "Number of folds.", metavar="K", show_default=f"{DEFAULT_FOLDS}", min=2, max=MAX_FOLDS),
    ] = None,
    repeats: Annotated[
        int | None,
        _option(
            "--repeats",
            "Repeat with R random divisions into folds, from --split-seed on.",
            metavar="R",
            show_default="1",
            min=1,
            max=MAX_FOLDS,
        ),
    ] = None,
    random_folds: Annotated[
        bool,
        _option(
            "--random-folds",
            "Divide images instead of patients into folds, as some papers do. Results are optimistic, and are shown "
            "beside those by patient if such a cross-validation is under --runs.",
        ),
    ] = False,
    inner_valid: Annotated[
        float | None,
        _option(
            "--inner-valid",
            "Choose each network's best epoch, calibration and thresholds on this fraction of its training images, "
            "instead of on the fold that it predicts.",
            metavar="F",
            min=0,
            max=0.9,
        ),
    ] = None,
    fold: Annotated[
        int | None,
        _option(
            "--fold",
            "Train only this fold, from 1, as one job of an array; needs --name. Use --join once all are trained.",
            metavar="I",
            min=1,
            max=MAX_FOLDS,
        ),
    ] = None,
    jobs: Annotated[
        int | None,
        _option(
            "--jobs",
            "Train N folds at once, each in its own process, and on its own GPU if there are several.",
            metavar="N",
            show_default="1",
            min=1,
            max=MAX_FOLDS,
        ),
    ] = None,
    recipe: o.RecipeName = None,
    config: o.ConfigFile = None,
    runs: o.Runs = None,
    name: Annotated[str | None, o.new_name("the folder")] = None,
    resume: Annotated[
        Path | None, o.out_option(metavar="CV", help="Resume an interrupted cross-validation with its own settings.")
    ] = None,
    join: Annotated[
        Path | None,
        o.out_option(metavar="CV", help="Compute the results of folds that were trained one by one with --fold."),
    ] = None,
    as_json: o.Json = False,
) -> None:
    """Train one network per fold, and predict each image with a network that was not trained on it.

    No patient is in two folds. The new folder has one run per fold.
    """
    others = bool(given or recipe or config or name or runs or folds or repeats or random_folds or inner_valid)
    for flag, folder in (("--resume", resume), ("--join", join)):
        if folder is not None and (others or (resume and join) or (join and (fold or jobs))):
            also = ", except --fold or --jobs" if resume else ""
            text = f"the folder keeps its own settings. Give {flag} without other options{also}."
            raise typer.BadParameter(text, param_hint=flag)
    out = Output(as_json)
    if resume is not None or join is not None:
        with reporting(out) as reporter:
            from xrayfast.workflows.cross_validate import join_folds, resume_cross_validation

            if join is not None:
                cv = join_folds(join, reporter=reporter)
            elif resume is not None:
                cv = resume_cross_validation(resume, fold=fold, jobs=jobs or 1, reporter=reporter)
        _show(out, cv)
        return
    from xrayfast.runs.run import Run
    from xrayfast.tracking.trackers import require_trackers

    dealt: dict[str, Any] = {} if folds is None else {"folds": folds}
    settings = read_settings(config, given | dealt, recipe)
    settings = settings.updated({"folds": settings.data.folds or DEFAULT_FOLDS, "fold": None})
    Run.require_code_of(settings, {})
    require_trackers(settings.train.track)
    if fold is None:
        Run.require_creatable(runs or RUNS, name)
    manifest = open_and_show(out, settings)
    with reporting(out) as reporter:
        from xrayfast.workflows.cross_validate import cross_validate as work

        cv = work(
            manifest,
            config=settings,
            repeats=repeats or 1,
            fold=fold,
            random_folds=random_folds,
            inner_valid=inner_valid or 0.0,
            jobs=jobs or 1,
            name=name,
            runs=runs or RUNS,
            reporter=reporter,
            command=command_line(),
        )
    _show(out, cv)


def _show(out: Output, cv: CrossValidation) -> None:
    """Print the results, or how to continue if some folds are not trained."""
    from xrayfast.cli.results import show_cross_validation

    if cv.is_finished:
        show_cross_validation(out, cv)
    else:
        done, join = sum(run.is_finished for run in cv.runs), f"xrayfast cross-validate --join {cv.path}"
        out.line(f"{done} of {len(cv.info.members)} folds are trained. Once all are: {join}")
    out.done("Cross-validation", cv.path)
    out.json(
        {
            "cross_validation": str(cv.path),
            "folds": [str(run.path) for run in cv.runs],
            "metrics": cv.metrics if cv.is_finished else None,
        }
    )
