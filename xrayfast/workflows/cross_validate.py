"""Train a network per fold, and predict every image with networks that were not trained on it."""

from __future__ import annotations

import copy
import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from typing_extensions import Unpack

from xrayfast._version import __version__
from xrayfast.config import DEFAULT_FOLDS, MAX_FOLDS, Config, DataConfig, Options, field_types
from xrayfast.data.manifest import Manifest
from xrayfast.data.open_manifest import open_manifest
from xrayfast.errors import ConfigError, RunError, plural, shorten
from xrayfast.errors.arguments import check_arguments
from xrayfast.errors.signals import handling_signals
from xrayfast.launch import require_alone
from xrayfast.learning.fastai_api import Callbacks, Metrics
from xrayfast.learning.threads import FreeThreads
from xrayfast.metrics.operating_points.decision import Decision
from xrayfast.own_code import OWN, separate_code
from xrayfast.progress import FoldReporter, Reporter, show_progress
from xrayfast.runs.cross_validation import CrossValidation, fold_names
from xrayfast.runs.names import SPLIT_FILE
from xrayfast.runs.run import Run, now
from xrayfast.workflows.fit import resume
from xrayfast.workflows.recipes import Recipe, with_recipe
from xrayfast.workflows.steps.cross_validation.fold_processes import train_at_once
from xrayfast.workflows.steps.cross_validation.folds import DealtImages, join, link_images
from xrayfast.workflows.steps.data.images import decode
from xrayfast.workflows.steps.data.opening import resolve_inputs
from xrayfast.workflows.steps.data.reopening import reopen_data
from xrayfast.workflows.steps.leaks import compare_all_images, require_leak_free
from xrayfast.workflows.steps.members import is_complete, stopping, train_run
from xrayfast.workflows.steps.network import Request, never
from xrayfast.workflows.steps.preparing import collect_own_code, require_own, require_settings
from xrayfast.workflows.steps.resuming import require_same_images


@dataclass(frozen=True, eq=False, kw_only=True)
class _Work(Request):
    """All that is needed to train the incomplete folds of a cross-validation."""

    reporter: FoldReporter
    cv: CrossValidation
    config: Config
    dealt: Callable[[], DealtImages]


@handling_signals()
@check_arguments(field_types)
def cross_validate(
    data: Manifest | Path | str | None = None,
    *,
    folds: int | None = None,
    repeats: Annotated[int, Field(ge=1, le=MAX_FOLDS)] = 1,
    test_fraction: float | None = None,
    fold: int | None = None,
    random_folds: bool = False,
    inner_valid: Annotated[float, Field(ge=0, lt=1)] = 0.0,
    jobs: Annotated[int, Field(ge=1, le=MAX_FOLDS)] = 1,
    config: Config | None = None,
    recipe: Recipe = "default",
    name: str | None = None,
    runs: Path | str = "runs",
    progress: bool | None = None,
    reporter: Reporter | None = None,
    interrupted: Callable[[], bool] = never,
    command: str = "",
    cbs: Callbacks = (),
    metrics: Metrics = (),
    **options: Unpack[Options],
) -> CrossValidation:
    """Train a network per fold, and predict each image with one that was not trained on it.

    Patients and duplicates are never divided between folds, and each label has nearly the same share in all of them.
    Each fold is a run in the new folder. `resume_cross_validation` continues after an interruption.

    Args:
        data: a Manifest from `open_data`, or the folder of a data set; by default the `source` of `config` ("data/").
        folds: number of folds; by default as the data were opened, else 5.
        repeats: how often the images are assigned to folds, each time with the next split_seed.
        test_fraction: fraction of the images that is in no fold and is predicted by all networks; by default as the
            data were opened.
        fold: train only this fold (from 1) in every repeat, as one of several jobs. `name` is then required, and the
            folder may already exist. Call `join_folds` when all folds are trained.
        random_folds: assign images instead of patients to folds, to compare with papers that do so. Networks are then
            tested on patients that they were trained on.
        inner_valid: fraction of the images of the other folds on which each network's epoch, calibration and thresholds
            are chosen, instead of on the fold that it predicts.
        jobs: number of folds to train at once, each in its own process; with several GPUs, each on one of them.
        config: settings; `recipe` and `options` override them.
        recipe: "fast", "default" or "best", a set of options (examples/guide/recipes.md); `options` override them.
        name: name of the folder; by default the arch and a number that counts up.
        runs: the folder of runs.
        progress: whether to display progress; by default only in a notebook or a terminal.
        reporter: receives the progress instead of the display.
        interrupted: called after each batch; training stops if it returns True.
        command: the command line, recorded in `run.json`.
        cbs: callbacks as in `fit`; each fold gets a copy.
        metrics: metrics as in `fit`; each fold gets a copy.
        options: the options of `fit`.

    Returns:
        The CrossValidation: `.runs`, `.out_of_fold`, `.metrics`, `.fold_table`.

    Raises:
        XrayfastError: as in `fit`.
        ConfigError: among others, the data set comes with a validation split of its own.
        Interrupted: training was stopped; the message says how to resume.
    """
    require_alone(
        "cross-validate trains each fold in one process; to use several, train one fold in each with --fold, then "
        "run 'xrayfast cross-validate --join CV'"
    )
    count = folds or (data.config if isinstance(data, Manifest) else (config or Config()).data).folds or DEFAULT_FOLDS
    if fold is not None and not 1 <= fold <= count:
        raise ConfigError(f"fold is {fold}; expected one from 1 to {count}, the number of folds.")
    if fold is not None and name is None:
        raise ConfigError(
            f"fold is {fold} without a name: jobs that train single folds must share one folder. Give --name."
        )
    config = with_recipe(config, recipe, options)
    settings, code = separate_code(options)
    given = collect_own_code(code, cbs, metrics)
    Run.require_code_of(config.updated(settings), given)
    shown_notes = data.notes if isinstance(data, Manifest) else ()
    data, config = _with_folds(data, config, folds, test_fraction)
    manifest, config, idle = resolve_inputs(data, config, settings)
    folder = Path(runs) / (name or "")
    if fold is None or not CrossValidation.is_there(folder):
        Run.require_creatable(Path(runs), name)
    require_settings(manifest, config, code)
    own = require_own(manifest.task, manifest.labels, config, cbs, metrics)[1]
    _check_jobs(jobs, fold, given)
    with show_progress(progress, reporter) as shown:
        reporter = FoldReporter(shown)
        manifest, images = decode(manifest, config.model.size, reporter.preparing)
        compared = compare_all_images(manifest, images, reporter.preparing)
        dealt = DealtImages.deal(manifest, images, compared, repeats, by_image=random_folds, inner_valid=inner_valid)
        for note in [*dealt.data.notes, *dealt.remarks, *idle]:
            if note not in shown_notes:
                reporter.note(note)
        names = fold_names(count, repeats)
        allowed = config.train.allow_leaks or random_folds
        # Raise the errors of all folds before anything is trained.
        checked = [require_leak_free(dealt.with_fold(*number), compared, allow_leaks=allowed) for number in names]
        facts = {"folds": count, "repeats": repeats, "by_image": random_folds, "inner_valid": inner_valid}
        info = {
            "status": "created",
            "started": now(),
            "command": command,
            "xrayfast": __version__,
            **dealt.facts(),
            "audit": checked[0].looked,
            "remarks": [*dealt.remarks, *idle],
            "own_code": own,
            "members": [*names.values()],
        }

        def write(run: Run) -> None:
            CrossValidation.write_folds(run, facts)
            run.write_decision(Decision(manifest.task, manifest.labels))
            run.write_split(dealt.table())
            run.write_left_out(manifest.left_out)
            run.write_corrections(manifest.corrections)

        try:
            stem = f"{config.model.arch.removeprefix(OWN)}-cv"
            cv = CrossValidation(Run.create(Path(runs), name, stem, config, info, write).path)
        except RunError:
            if fold is None or not CrossValidation.is_there(folder):
                raise
            cv = CrossValidation(folder)  # another job created it
            _require_same(cv, config, facts, info["fingerprint"])
        if jobs > 1:
            return _train_at_once(cv, jobs, reporter, interrupted)
        work = _Work(
            reporter=reporter,
            interrupted=interrupted,
            command=command,
            code=code,
            cbs=cbs,
            metrics=metrics,
            cv=cv,
            config=config,
            dealt=lambda: dealt,
        )
        return _train(work, only=fold)


@handling_signals()
@check_arguments()
def resume_cross_validation(
    cv: CrossValidation | Path | str,
    *,
    fold: int | None = None,
    jobs: Annotated[int, Field(ge=1, le=MAX_FOLDS)] = 1,
    arch: Callable[..., Any] | None = None,
    splitter: Callable[..., Any] | None = None,
    loss: Callable[..., Any] | None = None,
    augment: Callable[..., Any] | Sequence[Callable[..., Any]] | None = None,
    cbs: Callbacks = (),
    metrics: Metrics = (),
    progress: bool | None = None,
    reporter: Reporter | None = None,
    interrupted: Callable[[], bool] = never,
) -> CrossValidation:
    """Resume a cross-validation, with the same results as without the interruption.

    Finished folds are kept, and the fold that was being trained is resumed where it stopped.

    Args:
        cv: the cross-validation or its folder.
        fold: train only this fold, as in `cross_validate`.
        jobs: number of folds to train at once, as in `cross_validate`.
        arch: the `arch` that `cross_validate` was given, if it was code of your own.
        splitter: the splitter that it was given.
        loss: the loss that it was given, if it was code of your own.
        augment: the transforms that it was given, if they were code of your own.
        cbs: the callbacks that it was given.
        metrics: the metrics that it was given.
        progress: whether to display progress; by default only in a notebook or a terminal.
        reporter: receives the progress instead of the display.
        interrupted: called after each batch; training stops if it returns True.

    Raises:
        ConfigError: it was begun with code of your own, which is not given or can't be combined with `jobs`.
        RunError: it is complete, another process writes to it, or its data have changed.
        Interrupted: training was stopped again.
    """
    cv = _as_cross_validation(cv)
    if cv.is_finished and all(is_complete(cv.path / name) for name in cv.info.members):
        raise RunError(f"{cv.path} is complete: there is nothing to resume.")
    config = cv.config
    _, code = separate_code({"arch": arch, "splitter": splitter, "loss": loss, "augment": augment})
    given = collect_own_code(code, cbs, metrics)
    Run.require_code_of(config, given)
    _check_jobs(jobs, fold, given)
    with show_progress(progress, reporter) as shown:
        reporter = FoldReporter(shown)
        if jobs > 1:
            return _train_at_once(cv, jobs, reporter, interrupted)

        def deal_again() -> DealtImages:
            data, images = decode(reopen_data(cv), config.model.size, reporter.preparing, may_leave_out=False)
            require_same_images(cv, data, images, reporter.note)
            compared = compare_all_images(data, images, reporter.preparing)
            folds, groups = cv.folds, link_images(data, compared)
            data = replace(data, config=config.data, notes=tuple(cv.info.data_notes))
            numbers = cv.read_fold_numbers()
            return DealtImages(data, images, compared, numbers, groups, folds.by_image, folds.inner_valid)

        work = _Work(
            reporter=reporter,
            interrupted=interrupted,
            command=cv.info.command,
            code=code,
            cbs=cbs,
            metrics=metrics,
            cv=cv,
            config=config,
            dealt=deal_again,
        )
        return _train(work, only=fold)


@check_arguments()
def join_folds(
    cv: CrossValidation | Path | str, *, progress: bool | None = None, reporter: Reporter | None = None
) -> CrossValidation:
    """Compute the results of a cross-validation whose folds were trained one by one with `cross_validate(fold=)`.

    Args:
        cv: the cross-validation or its folder.
        progress: whether to display progress; by default only in a notebook or a terminal.
        reporter: receives the progress instead of the display.

    Returns:
        The CrossValidation, now with `.out_of_fold`, `.metrics` and `.fold_table`.

    Raises:
        RunError: folds are not complete; the message names them.
    """
    cv = _as_cross_validation(cv)
    waiting = [name for name in cv.info.members if not is_complete(cv.path / name)]
    if waiting:
        raise RunError(
            f"{cv.path}: {plural(len(waiting), 'fold')} not complete: {shorten(waiting)}. 'xrayfast cross-validate "
            f"--resume {cv.path}' trains the remaining folds and computes the results."
        )
    with show_progress(progress, reporter) as reporter, cv.lock(reporter.note):
        join(cv)
    return CrossValidation(cv.path)


def _as_cross_validation(cv: CrossValidation | Path | str) -> CrossValidation:
    return cv if isinstance(cv, CrossValidation) else CrossValidation(cv)


def _with_folds(
    data: Manifest | Path | str | None, config: Config, folds: int | None, test_fraction: float | None
) -> tuple[Manifest | Path | str | None, Config]:
    """Set the folds in the data or, if the data are not opened yet, in the config.

    A Manifest is opened again if its settings of folds differ.
    """
    settings: DataConfig = data.config if isinstance(data, Manifest) else config.data
    changed: dict[str, Any] = {"folds": folds or settings.folds or DEFAULT_FOLDS, "fold": None}
    changed |= {} if test_fraction is None else {"test_fraction": test_fraction}
    if all(getattr(settings, name) == value for name, value in changed.items()):
        return data, config
    if isinstance(data, Manifest):
        settings = type(settings).model_construct(set(changed), **dict(settings) | changed)
        return open_manifest(settings), config
    return data, config.updated(changed)


def _require_same(cv: CrossValidation, config: Config, facts: Mapping[str, Any], fingerprint: str) -> None:
    """Raise a ConfigError if a cross-validation was begun with other settings or data than are given for a fold."""
    theirs = cv.config
    different = [
        name
        for section in Config.model_fields
        for name, value in getattr(config, section)
        if value != getattr(getattr(theirs, section), name)
    ]
    different += [name for name, value in facts.items() if cv.folds[name] != value]
    different += ["the images"] if not different and cv.info.fingerprint != fingerprint else []
    if different:
        raise ConfigError(
            f"{cv.path}: was started with other settings: {shorten(different)}. Use those in its config.yaml, or "
            "another --name."
        )


def _train(work: _Work, only: int | None = None) -> CrossValidation:
    """Train the incomplete folds and compute the results; with `only`, train that fold in each repeat."""
    cv, facts, dealt = work.cv, work.cv.folds, None
    with cv.lock(work.reporter.note) if only is None else nullcontext(), _stopping(cv, only):
        if only is None:
            cv.update_info(status="running")
        for (repeat, fold), name in fold_names(facts.folds, facts.repeats).items():
            path = cv.path / name
            if only not in (None, fold) or is_complete(path):
                continue
            of = f" of repeat {repeat}" if facts.repeats > 1 else ""
            work.reporter.fold = f"fold {fold} of {facts.folds}{of}"
            if path.is_dir():
                own: dict[str, Any] = {"cbs": copy.deepcopy(work.cbs), "metrics": copy.deepcopy(work.metrics)}
                resume(path, **copy.deepcopy(work.code), **own, reporter=work.reporter, interrupted=work.interrupted)
            else:
                dealt = dealt or work.dealt()
                _train_fold(work, dealt, repeat, fold, path)
        if only is None:
            join(cv)
    return CrossValidation(cv.path)


def _check_jobs(jobs: int, fold: int | None, code: Mapping[str, Any]) -> None:
    if jobs > 1 and fold is not None:
        raise ConfigError(
            f"found jobs {jobs} and a single fold; expected only one of them. Leave out --jobs or --fold."
        )
    if jobs > 1 and code:
        raise ConfigError(
            f"found jobs {jobs} with code of your own ({', '.join(code)}), which can't be passed to the folds' "
            "processes. Leave out --jobs."
        )


def _train_at_once(
    cv: CrossValidation, jobs: int, reporter: Reporter, interrupted: Callable[[], bool]
) -> CrossValidation:
    """Train the incomplete folds in processes of their own, `jobs` at once, and compute the results."""
    names = fold_names(cv.folds.folds, cv.folds.repeats)
    waiting = sorted({fold for (_, fold), name in names.items() if not is_complete(cv.path / name)})
    if jobs > len(waiting):
        there_are = "there is 1 fold" if len(waiting) == 1 else f"there are {len(waiting)} folds"
        reporter.note(f"jobs is {jobs}, but {there_are} to train, so fewer are trained at once.")
        jobs = max(1, len(waiting))
    with cv.lock(reporter.note), _stopping(cv, None):
        cv.update_info(status="running")
        train_at_once(cv, waiting, jobs, reporter, interrupted)
        join(cv)
    return CrossValidation(cv.path)


def _train_fold(work: _Work, dealt: DealtImages, repeat: int, fold: int, path: Path) -> None:
    """Train a fold as a new run, with settings from which `fit` reproduces the same split."""
    replayed = {"split_file": (path / SPLIT_FILE).absolute(), "split_col": None, "ignore_split": False}
    replayed |= {"folds": None, "fold": None}
    data = dealt.with_fold(repeat, fold)
    data = replace(data, config=work.config.data.model_copy(update=replayed))
    config = work.config.model_copy(update={"data": data.config})
    if dealt.by_image and dealt.has_leaks(repeat, fold):
        config = config.model_copy(update={"train": config.train.model_copy(update={"allow_leaks": True})})
    metrics = copy.deepcopy(work.metrics)
    cbs, _ = require_own(data.task, data.labels, config, copy.deepcopy(work.cbs), metrics)
    with FreeThreads() as threads:
        own: dict[str, Any] = {"code": copy.deepcopy(work.code), "cbs": cbs, "metrics": metrics}
        request = replace(work, **own, threads=threads, shown_notes=data.notes)
        train_run(data, config, dealt.images, dealt.compared, request, name=path.name, runs=path.parent)


def _stopping(cv: CrossValidation, only: int | None) -> AbstractContextManager[None]:
    """Record how training folds ended, and say after an interruption how to resume; see `stopping`."""
    path = str(cv.path)
    again = f"xrayfast cross-validate --resume {shlex.quote(path)}" + (f" and --fold {only}" if only else "")
    if names := cv.config.own_code | cv.info.own_code:  # a command line can't carry code
        again = f"xf.resume_cross_validation({path!r}, {', '.join(f'{name}=...' for name in names)})"
    return stopping(cv, "fold", again, records=only is None)
