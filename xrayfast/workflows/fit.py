"""Train a network, or resume an interrupted training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from typing_extensions import Unpack

from xrayfast.config import Config, Options, field_types
from xrayfast.data.manifest import Manifest
from xrayfast.errors.arguments import check_arguments
from xrayfast.errors.escapes import warn
from xrayfast.errors.signals import handling_signals
from xrayfast.files.intact import INFO_FILE
from xrayfast.learning.distributed.world import join_process_group
from xrayfast.learning.fastai_api import Callbacks, Metrics
from xrayfast.learning.threads import FreeThreads
from xrayfast.own_code import separate_code
from xrayfast.progress import FoldReporter, NullReporter, Reporter, show_progress
from xrayfast.runs.run import Run
from xrayfast.workflows.recipes import Recipe, with_recipe
from xrayfast.workflows.steps.data.images import decode
from xrayfast.workflows.steps.data.opening import resolve_inputs
from xrayfast.workflows.steps.leaks import compare_all_images
from xrayfast.workflows.steps.members import resume_run, train_run
from xrayfast.workflows.steps.network import Request, never
from xrayfast.workflows.steps.preparing import collect_own_code, require_own, require_settings


@handling_signals()
@check_arguments(field_types)
def fit(
    data: Manifest | Path | str | None = None,
    *,
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
) -> Run:
    """Train a network or, with `members`, several whose probabilities are averaged; write all to a new run's folder.

    Ctrl-C, SIGTERM and SIGHUP stop training after the current batch, unless the program handles or ignores them itself
    or `fit` is not called in its main thread. An example:

        run = xf.fit("data/", arch="resnet50", unfreeze=True, epochs=6)
        run.metrics["valid"]["overall"]["auroc_macro"]

    Args:
        data: a Manifest from `open_data`, or the folder of a data set; by default the `source` of `config` ("data/").
        config: settings; `recipe` and `options` override them.
        recipe: "fast", "default" or "best", a set of options (examples/guide/recipes.md); `options` override them.
        name: the run's name; by default the arch and a number that counts up.
        runs: the folder of runs.
        progress: whether to display progress; by default only in a notebook or a terminal.
        reporter: receives the progress instead of the display.
        interrupted: called after each batch; training stops if it returns True.
        command: the command line, recorded in `run.json`.
        cbs: further fastai callbacks, used in all phases; `fit` itself saves the epochs. Their order relative to
            xrayfast's callbacks is in `xrayfast/learning/training/callbacks/order.py`. A callback that ends training
            ends the current phase. Callbacks that may use images turn the frozen-feature cache off, unless
            `reuse_frozen` is "on".
        metrics: further metrics of the validation split, as in `xrayfast.learner`; in `history.csv` their columns are
            "valid_NAME". They can't choose the best epoch: `monitor` takes only metrics of xrayfast.
        options: any field of ModelConfig and TrainConfig, such as arch="vgg16_bn", unfreeze=True, epochs=6. `arch`,
            `splitter` and `loss` may also be code of your own, as in `learner`, and `augment` as in `dataloaders`.

    Returns:
        The Run, with the weights of its best epoch, its history, predictions and metrics. With `members`, the Run of
        the averaged probabilities; `run.members` are the runs of its networks, in folders of its own.

    Raises:
        XrayfastError: the subclass says what failed: the settings, the data, the weights, the run's folder, or training
            that diverged.
        DataError: among others, patients or duplicates are in several splits, and `allow_leaks` is off.
        Interrupted: training was stopped; the message says how to resume, and `exit_code` is the exit code to use.
    """
    config = with_recipe(config, recipe, options)
    settings, code = separate_code(options)
    Run.require_code_of(config.updated(settings), collect_own_code(code, cbs, metrics))
    manifest, config, idle = resolve_inputs(data, config, settings)
    Run.require_creatable(Path(runs), name)
    require_settings(manifest, config, code)
    cbs, _ = require_own(manifest.task, manifest.labels, config, cbs, metrics)
    shown = show_progress(progress, reporter)
    with join_process_group(config.train.device) as world, FreeThreads() as threads, shown as reporter:
        reporter = reporter if world.is_rank_zero else NullReporter()
        world.require_alike(f"begins {name or 'a new run'}")
        shown_notes = data.notes if isinstance(data, Manifest) else ()
        manifest, images = decode(manifest, config.model.size, reporter.preparing)
        world.barrier()  # another machine may have more to decode
        compared = compare_all_images(manifest, images, reporter.preparing)
        request = Request(
            reporter=reporter,
            interrupted=interrupted,
            command=command,
            code=code,
            cbs=cbs,
            metrics=metrics,
            world=world,
            threads=threads,
            shown_notes=shown_notes,
            idle=idle,
        )
        return train_run(manifest, config, images, compared, request, name=name, runs=Path(runs))


@handling_signals()
@check_arguments()
def resume(
    run: Run | Path | str,
    *,
    arch: Callable[..., Any] | None = None,
    splitter: Callable[..., Any] | None = None,
    loss: Callable[..., Any] | None = None,
    augment: Callable[..., Any] | Sequence[Callable[..., Any]] | None = None,
    cbs: Callbacks = (),
    metrics: Metrics = (),
    progress: bool | None = None,
    reporter: Reporter | None = None,
    interrupted: Callable[[], bool] = never,
) -> Run:
    """Resume an interrupted run, with the same results as without the interruption.

    Training continues after the last batch or, if the run was killed or has callbacks of your own, from the last
    checkpoint; of a run with `members`, the missing networks are trained. Signals stop it as they stop `fit`. If a run
    was killed after its results were complete, missing files are written and leftovers are removed.

    Args:
        run: the run or its folder.
        arch: the run's `arch`, if it is code of your own.
        splitter: the run's splitter, if it has one.
        loss: the run's `loss`, if it is code of your own.
        augment: the run's `augment`, if it is code of your own.
        cbs: new instances of the callbacks that `fit` was given. The finished epochs are replayed to fastai's callbacks
            that follow a metric; the state of other callbacks is lost.
        metrics: the metrics that `fit` was given.
        progress: whether to display progress; by default only in a notebook or a terminal.
        reporter: receives the progress instead of the display.
        interrupted: called after each batch; training stops if it returns True.

    Raises:
        ConfigError: the run was trained with code of your own that is not given, or with other code than is given.
        RunError: the run is complete, another process writes to it, its data has changed, or its checkpoint is damaged.
        Interrupted: training was stopped again.
    """
    run = Run.of(run)
    if run.has_folds:
        run.require_network(f"'xrayfast cross-validate --resume {run.path}' resumes a cross-validation.")
    if run.config.train.members == 1:  # it isn't an ensemble of runs that were trained apart
        run.require_network()
    _, code = separate_code({"arch": arch, "splitter": splitter, "loss": loss, "augment": augment})
    joined, shown = join_process_group(run.config.train.device), show_progress(progress, reporter)
    note = warn if reporter is None else reporter.note
    with joined as world, FreeThreads() as threads, shown as reporter:
        if not world.is_rank_zero:
            reporter = NullReporter()
            note = reporter.note
        request = Request(
            reporter=reporter,
            interrupted=interrupted,
            command=run.info.command,
            code=code,
            cbs=cbs,
            metrics=metrics,
            world=world,
            threads=threads,
        )
        resume_run(run, request, note)
        if not isinstance(reporter, FoldReporter):
            _note_unfinished_above(run, note)
    return run


def _note_unfinished_above(run: Run, note: Callable[[str], None]) -> None:
    """Note how to go on if a run that is now complete is a fold or a network of an unfinished run."""
    above = run.path.absolute().parent
    if not (above / INFO_FILE).is_file() or (whole := Run(above)).info.status == "completed":
        return
    kind = "fold of a cross-validation" if whole.has_folds else "network of a run"
    note(f"This is one {kind}. {whole.resume_command} trains the others and computes the results.")
