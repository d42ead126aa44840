"""Train a network, or resume where training was interrupted."""

from __future__ import annotations

import shlex
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import numpy as np
import torch
from typing_extensions import Unpack

from xrayfast._version import __version__
from xrayfast.config import (
    DEFAULT_LOSS,
    OWN_WEIGHTS,
    PREDICTED_SPLITS,
    Config,
    Options,
    Precision,
    ResultsConfig,
    Task,
    field_types,
)
from xrayfast.data.cache.image_cache import DecodedImages
from xrayfast.data.images.notes import describe_notes
from xrayfast.data.labels.positive_class import describe_positive_class, positive_class
from xrayfast.data.manifest import Manifest
from xrayfast.data.splits.assign import NO_PATIENTS
from xrayfast.data.splits.stratify import Split
from xrayfast.errors import ConfigError, Interrupted, ReadError, RunError, WriteError, plural, shorten, truncate
from xrayfast.errors.advice import quoted
from xrayfast.errors.arguments import check_arguments
from xrayfast.errors.escapes import warn
from xrayfast.errors.signals import INTERRUPTED, StopRequest, handling_signals
from xrayfast.learning.callback_rules import check_callbacks
from xrayfast.learning.device import torch_device, without_values
from xrayfast.learning.distributed.world import World, join_process_group
from xrayfast.learning.fastai_api import Callback, Callbacks, L, Metrics
from xrayfast.learning.inference.predictor import predict_split
from xrayfast.learning.memory import free_earlier_learners, free_later
from xrayfast.learning.model.layers import Grouping
from xrayfast.learning.model.own_network import network_of_run
from xrayfast.learning.model.precision import resolve_precision
from xrayfast.learning.model.pretrained.run_weights import find_starting_run, require_same_network
from xrayfast.learning.model.pretrained.timm_networks import inspect_timm, is_timm
from xrayfast.learning.model.weights import load_weights
from xrayfast.learning.own_failures import name_own_code
from xrayfast.learning.randomness import isolated_rng
from xrayfast.learning.threads import FreeThreads
from xrayfast.learning.training.checkpoint import BEST, MODEL, Checkpoint, find_checkpoint, replace_damaged
from xrayfast.learning.training.distributed import train_as_rank
from xrayfast.learning.training.history import History
from xrayfast.learning.training.learner import (
    RadiographLearner,
    build_layers,
    learner_from_config,
    own_names,
    training_loss,
)
from xrayfast.learning.training.loaders import as_read_error, dataloaders
from xrayfast.learning.training.metrics import ValidationUnits, build_epoch_metrics
from xrayfast.learning.training.mixed_precision import restore_precision, training_precision
from xrayfast.learning.training.optional.sampling import sampling_weights
from xrayfast.learning.training.phases import plan_phases
from xrayfast.learning.training.position import StoppedTraining, beginning_again
from xrayfast.metrics.claims.headline import LEAKS_ALLOWED, PATIENTS_UNKNOWN, optimism
from xrayfast.metrics.operating_points.decision import Decision
from xrayfast.metrics.summary import labels_lacking
from xrayfast.option_effects import check_effects
from xrayfast.own_code import OWN, describe_code, names_of_code, require_code, separate_code
from xrayfast.progress import FoldReporter, NullReporter, Reporter, show_progress
from xrayfast.reporting.html.render import image_view
from xrayfast.runs.cross_validation import CrossValidation
from xrayfast.runs.names import CONFIG_FILE
from xrayfast.runs.predictions import Predictions, join_row_labels
from xrayfast.runs.run import Run, now
from xrayfast.tracking.session import tracked
from xrayfast.tracking.trackers import require_trackers
from xrayfast.workflows.data import (
    changed_images,
    decode,
    image_infos,
    reopen_data,
    require_settings_of_data,
    resolve_inputs,
    split_table,
    truth_of,
)
from xrayfast.workflows.recipes import Recipe, with_recipe
from xrayfast.workflows.steps.leaks import ComparedImages, compare_all_images, require_leak_free
from xrayfast.workflows.steps.provenance import collect_provenance, describe_replay, describe_threads
from xrayfast.workflows.steps.results import check_results, finalize_results, write_cards
from xrayfast.workflows.steps.seen import describe_seen
from xrayfast.workflows.steps.training import (
    Training,
    choose_cached_groups,
    plan_facts,
    publish_epochs,
    schedule_phases,
)


def never() -> bool:
    """Training is not interrupted from outside."""
    return False


@dataclass(frozen=True, eq=False)
class Request:
    """What `fit` or `cross_validate` was given beside data, settings and the name of the folder."""

    reporter: Reporter
    interrupted: Callable[[], bool]
    command: str
    code: Mapping[str, Any]
    cbs: Callbacks
    metrics: Metrics


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
    """Train a network, and write everything to a new run's folder.

    Ctrl-C, SIGTERM and SIGHUP stop training after the batch, unless the program handles or ignores them, or this is not
    its main thread.

    Args:
        data: a Manifest from `open_data`, or the folder of a data set; by default the `source` of `config` ("data/").
        config: settings; `recipe` and `options` override them.
        recipe: settings that go together, see `xrayfast.workflows.recipes`; `options` override them.
        name: of the run; by default the arch and a number that counts up.
        runs: the folder of runs.
        progress: whether to display progress; by default only in a notebook or a terminal.
        reporter: receives the progress instead of the display.
        interrupted: called after each batch; training stops if it returns True.
        command: the command line, recorded in `run.json`.
        cbs: further fastai callbacks, used in all phases; `fit` itself saves the epochs. Their order relative to ours
            is in `xrayfast/learning/training/callbacks/order.py`. One that ends training ends its phase. Those that may
            use images switch the frozen-feature cache off, unless `reuse_frozen` is "on".
        metrics: further metrics of the validation split, as in `xrayfast.learner`; `history.csv` has each as
            "valid_NAME". They do not choose the best epoch: `monitor` is a metric of xrayfast.
        options: any field of ModelConfig and TrainConfig, such as arch="vgg16_bn", unfreeze=True, epochs=6; `arch`,
            `splitter` and `loss` also code of your own, as in `learner`, and `augment`, as in `dataloaders`.

    Returns:
        The Run, with the weights of its best epoch, its history, predictions and metrics.

    Raises:
        XrayfastError: the subclass names what failed: settings, data, weights, the run's folder, or training that
            diverged.
        DataError: among others, patients or duplicates in several splits, unless `allow_leaks`.
        Interrupted: training was stopped; the message says how to resume, and `exit_code` is for the process.
    """
    config = with_recipe(config, recipe, options)
    settings, code = separate_code(options)
    Run.require_code_of(config.updated(settings), all_own(code, cbs, metrics))
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
        run = train_new(
            manifest,
            config,
            images,
            compared,
            Request(reporter, interrupted, command, code, cbs, metrics),
            world=world,
            threads=threads,
            shown_notes=shown_notes,
            idle=idle,
            name=name,
            runs=Path(runs),
        )
    return run


def train_new(
    manifest: Manifest,
    config: Config,
    images: DecodedImages,
    compared: ComparedImages,
    request: Request,
    *,
    world: World,
    threads: FreeThreads,
    shown_notes: Sequence[str],
    idle: Sequence[str],
    name: str | None,
    runs: Path,
) -> Run:
    """Train a network on decoded images, which were compared with each other, in a new run's folder; settings and
    callbacks are those that `require_settings` and `require_own` have passed.

    Raises:
        XrayfastError: as in `fit`.
    """
    reporter = request.reporter
    checked = require_leak_free(manifest, compared, allow_leaks=config.train.allow_leaks)
    manifest, remarks = checked.data, list(checked.warnings)
    for note in manifest.notes:
        if note not in shown_notes:
            reporter.note(note)
    global_batch = config.train.batch_size * world.world_size
    learn = prepare(manifest, config, images, global_batch, request.code, world)
    learn.add_own(request.cbs, request.metrics)
    config = config.model_copy(update={"model": config.model.model_copy(update=learn.network_settings)})
    phases = plan_phases(config.train, len(learn.groups), 1.0, pretrained=config.model.weights != "none")
    group_counts, no_space = choose_cached_groups(learn, phases, config, world)
    scheduled = schedule_phases(phases, config.train, config.model.size, group_counts)
    learn.precision = cast("Precision", world.broadcast_text(training_precision(learn)))
    infos = image_infos(manifest, images)
    remarks += describe_notes(manifest.table["image"].tolist(), [info.notes for info in infos])
    remarks += _remarks(config, learn)
    remarks += filter(None, [no_space, threads.note])
    for text in (*describe_replay(config, learn), *learn.dls.notes):
        reporter.note(text)
    if start := find_starting_run(config.model.weights):
        remarks += describe_seen(start, manifest, images, reporter.preparing)
    leaks = any(remark.startswith(LEAKS_ALLOWED) for remark in remarks)
    weights = sampling_weights(manifest.subset("train").truth)
    uneven = bool(weights.min() < weights.max())
    cuda, batches = learn.dls.device.type == "cuda", len(learn.dls.train)
    facts = plan_facts(
        scheduled,
        config.train,
        learn.groups,
        batches=batches,
        leaks=leaks,
        uneven=uneven,
        cuda=cuda,
        world_size=world.world_size,
    )
    remarks += [*idle, *check_effects(config.train, facts)]
    remarks += check_results(config.results, manifest.task, manifest.labels)
    for remark in remarks:
        reporter.note(remark)
    if positive := positive_class(manifest.task, manifest.labels, config.results.positive):
        reporter.note(describe_positive_class(manifest.labels, positive, config.results.positive))
    info = collect_provenance(learn, request.command, remarks, checked.looked) | {
        "shortcuts": checked.shortcuts,
        "world_size": world.world_size,
        "global_batch": global_batch,
        "frozen_feature_groups": group_counts,
        "frozen_feature_views": scheduled[0].views if any(group_counts) else 0,
    }

    def write_data(run: Run) -> None:
        run.write_decision(Decision(manifest.task, manifest.labels, positive=positive))
        run.write_split(split_table(manifest, infos))
        run.write_left_out(manifest.left_out)
        run.write_corrections(manifest.corrections)

    with world.output_folder(Path(runs)) as folder:
        run = Run.create(folder, name, config.model.arch.removeprefix(OWN), config, info, write_data)
        with run.lock():
            path = world.broadcast_text(str(run.path))
            _train(Training(run, learn, config, History(), reporter, request.interrupted, world, threads))
    return Run(path)


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
    """Resume an interrupted run where it was stopped, with the same results as without the interruption: after the last
    batch or, where it was killed or has callbacks of your own, from the last checkpoint.

    Signals stop it as they stop `fit`. Of a run that is complete but for its end, which a kill may have prevented, what
    is missing is written and what was left is removed.

    Args:
        run: the run or its folder.
        arch: that of the run, where it is code of your own; likewise the next three.
        splitter: that of the run.
        loss: that of the run.
        augment: that of the run.
        cbs: the callbacks that `fit` was given, made anew. Those of fastai that follow a metric see the finished epochs
            again; what others have counted is lost.
        metrics: those that `fit` was given.
        progress: whether to display progress; by default only in a notebook or a terminal.
        reporter: receives the progress instead of the display.
        interrupted: called after each batch; training stops if it returns True.

    Raises:
        ConfigError: the run was trained with code of your own, which is not given, or with other code than is given.
        RunError: the run is complete, another process writes to it, its data has changed, or its checkpoint is damaged.
        Interrupted: it was stopped again.
    """
    run = Run.of(run)
    run.require_network(f"'xrayfast cross-validate --resume {run.path}' goes on with a cross-validation.")
    config = run.config
    joined, shown = join_process_group(config.train.device), show_progress(progress, reporter)
    note = warn if reporter is None else reporter.note
    with joined as world, FreeThreads() as threads, shown as reporter, _resuming(run, world, note) as folder:
        world.require_alike(f"resumes {run.path.name}")
        copy = Run(folder)
        if not world.is_rank_zero:
            reporter = NullReporter()
            note = reporter.note
        if copy.info.status == "completed":
            note(_complete(copy))
            return run
        _, code = separate_code({"arch": arch, "splitter": splitter, "loss": loss, "augment": augment})
        cbs, names = require_own(copy.task, copy.labels, config, cbs, metrics)
        require_same_code(copy, names_of_code(separate_code(code)[0]) | names)
        manifest = reopen_data(copy)
        config = config.model_copy(update={"data": manifest.config})
        _, images = decode(manifest, config.model.size, reporter.preparing, may_leave_out=False)
        world.barrier()
        require_same_images(copy, manifest, images, note)
        if different := describe_threads(copy.info, "the run began"):
            note(different)
        checkpoint = _read_checkpoint(copy, note)
        if checkpoint is not None:
            network_of_run(config.model, len(manifest.labels), checkpoint.path / MODEL, arch)
        # The checkpoint's weights replace those that the run started from.
        keep = checkpoint is None or config.model.weights == OWN_WEIGHTS
        start = config if keep else config.updated({"weights": "none"})
        # The global batch stays, whatever the world size is now.
        learn = prepare(manifest, start, images, copy.global_batch, code, world)
        learn.add_own(cbs, metrics)
        if learn.start and copy.info.weights_sha256 not in ("", learn.start.sha256):
            raise RunError(
                f"{run.path}: the weights that it started from, {config.model.weights}, have changed since. Put them "
                "back, or start a new run."
            )
        if threads.note:
            reporter.note(threads.note)
        recorded = copy.info.precision or "fp32"  # earlier versions recorded none and trained in fp32
        restore_precision(learn, recorded)
        if (precision := training_precision(learn)) != recorded:
            reporter.note(f"This device trains in {precision}; the run began in {recorded}: its results will differ.")
        history = History()
        if checkpoint is not None:
            if checkpoint.state.rows:
                best = checkpoint.path / BEST  # of versions before 0.4 it is the run's alone
                load_weights(learn.model, best if best.is_file() else copy.model_path)
            history = checkpoint.read_history(config.model.size)
            checkpoint = replace_damaged(copy.checkpoint, checkpoint)
            publish_epochs(copy, history.rows)
        copy.update_info(precision=precision)
        _train(Training(copy, learn, config, history, reporter, interrupted, world, threads, checkpoint))
        above = run.path.absolute().parent
        of_unfinished = CrossValidation.is_there(above) and not CrossValidation(above).is_finished
        if of_unfinished and not isinstance(reporter, FoldReporter):
            note(f"This is one fold. 'xrayfast cross-validate --resume {above}' trains the others, and joins them.")
    return run


@contextmanager
def _resuming(run: Run, world: World, note: Callable[[str], None]) -> Iterator[Path]:
    """The folder to continue in; the run is rank zero's to write."""
    with run.lock(note) if world.is_rank_zero else nullcontext(), world.working_copy(run.path) as folder:
        yield folder


def _complete(run: Run) -> str:
    """Do what a kill at the very end of a run has left undone, and say what.

    Raises:
        RunError: nothing.
    """
    done = [f"removed {path.relative_to(run.path)}" for path in run.leftovers()]
    if not (run.model_card_path.is_file() and run.claim_path.is_file()):
        write_cards(run)
        done.append(f"wrote {run.model_card_path.name} and {run.claim_path.name}")
    if not done:
        raise RunError(
            f"{run.path} is complete: there is nothing to resume. 'xrayfast interpret {run.path}' reports on it."
        )
    run.remove_leftovers()
    return f"{run.path} was complete but for its end: {shorten(done)}."


def require_same_images(run: Run, data: Manifest, images: DecodedImages, note: Callable[[str], None]) -> None:
    """Raise an error where images have other pixels than when the run began.

    Where another version began it, which may have decoded them otherwise, it is only a note.

    Raises:
        RunError: they have.
    """
    changed = changed_images(run, data, images)
    if not changed:
        return
    found = f"{plural(len(changed), 'image')} of {data.config.shown} changed since the run began: {shorten(changed)}"
    if run.info.xrayfast != __version__:
        note(f"{found}, or xrayfast {run.info.xrayfast or '0.1'} decoded them otherwise: results will differ.")
        return
    raise RunError(f"{run.path}: {found}; expected the same pixels. Put them back, or start a new run.")


def _read_checkpoint(run: Run, note: Callable[[str], None]) -> Checkpoint | None:
    """The checkpoint to resume from, with a note where it is not the last one; None where there is none before the
    first epoch's end.

    Raises:
        RunError: epochs were finished, and no whole checkpoint is left.
    """
    checkpoint, problem = find_checkpoint(run.checkpoint, checksums=run.has_checksums)
    if checkpoint is None:
        if run.has_epochs and problem:
            raise RunError(f"{problem} There is no whole checkpoint before it. Start a new run.")
        if run.has_epochs:
            raise RunError(
                f"{run.path}: epochs were finished, but {run.checkpoint.name} is missing, without which training would "
                "start at epoch 1. Put it back, or start a new run: xrayfast fit --config "
                f"{quoted(run.path / CONFIG_FILE)}"
            )
        note(f"{problem} No epoch was finished: training starts at epoch 1.".lstrip())
    elif problem:
        note(
            f"{problem} Training goes on from {checkpoint.path.name}: {checkpoint.place} is lost, and is trained again."
        )
    return checkpoint


def require_same_code(run: Run, given: Mapping[str, str]) -> None:
    """Raise a ConfigError where a run was not trained with this code of the user's own, as far as names tell."""
    trained = run.config.own_code | run.info.own_code
    require_code(trained, given, str(run.path))
    for name, text in given.items():
        if trained.get(name) != text:
            found = f"its {name} is {trained.get(name) or 'none of your own'}"
            raise ConfigError(f"{run.path}: {name} is {text}, and the run began otherwise: {found}. Give that one.")


def all_own(code: Mapping[str, Any], cbs: Callbacks, metrics: Metrics) -> dict[str, Any]:
    """The user's own code by setting, and callbacks and metrics where there are any."""
    return {**code, **{name: own for name, own in (("cbs", cbs), ("metrics", metrics)) if L(own)}}


def require_settings(data: Manifest, config: Config, code: Mapping[str, Any] = MappingProxyType({})) -> None:
    """Raise the errors of settings that contradict each other or the data, before images are decoded.

    Raises:
        ConfigError: one of them.
    """
    require_code(config.own_code, code)
    require_trackers(config.train.track)
    require_settings_of_data(data, config)
    model, train = config.model, config.train
    grouping: Grouping = "blocks" if train.unfreeze_layers is None else "layers"
    if run := find_starting_run(model.weights):
        require_same_network(run, dict(model), data.labels)
    # A file is read, and its tensors are compared; what is downloaded, or of a run with the same network, is not.
    read = model.weights == OWN_WEIGHTS or ("arch" not in code and Path(model.weights).is_file())
    options = dict(model) | ({} if read else {"weights": "none"})
    # Without memory for weights; the user's own code may compute them.
    device = torch.device("cpu") if "arch" in code else without_values()
    with isolated_rng("init"), device, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*copying from a non-meta parameter")
        for size in sorted({model.size, *train.progressive} if "arch" in code else {model.size}):
            network = build_layers(options | {"size": size}, data.labels, grouping, code)
    if is_timm(model.arch) and len(set(train.progressive)) > 1 and inspect_timm(model.arch, model.size).fixed:
        raise ConfigError(
            f"progressive is {', '.join(map(str, train.progressive))}, and {model.arch} takes images of the one size "
            "alone that it is built for. Leave it out, or use a network of convolutions."
        )
    plan_phases(train, len(network.groups), 1.0, pretrained=True)
    training_loss(data, train, torch_device(train.device), code)
    resolve_precision(train.precision, torch_device(train.device))


def require_own(
    task: Task, labels: Sequence[str], config: Config, cbs: Callbacks, metrics: Metrics
) -> tuple[list[Callback], dict[str, str]]:
    """The user's own callbacks, made where a class is given, and the names of those and of metrics.

    Raises:
        ConfigError: one can't work, or has no name of its own.
    """
    every = build_epoch_metrics(task, len(labels), metrics)
    train, names = config.train, [metric.name for metric in every]
    made = check_callbacks(cbs, train.schedule, train.reuse_frozen, names, train.mixes_images)
    return made, own_names(made, every)


def prepare(
    manifest: Manifest,
    config: Config,
    images: DecodedImages | None = None,
    batch_size: int | None = None,
    code: Mapping[str, Any] = MappingProxyType({}),
    world: World = World(),  # noqa: B008 - immutable
) -> RadiographLearner:
    """The learner of a configuration, on its data.

    Args:
        manifest: the data set.
        config: the settings.
        images: decoded images of the data set; by default they are decoded now unless they are cached.
        batch_size: over all ranks; by default the setting's, which is per rank.
        code: the user's own, by setting.
        world: the ranks that train it. A last training batch in which a rank has less than two images is dropped.

    Raises:
        ConfigError: a rank has less than two images of each batch.
    """
    free_earlier_learners()
    train = config.train
    dls = dataloaders(
        manifest,
        size=config.model.size,
        batch_size=batch_size or train.batch_size,
        workers=train.workers,
        data_on_device=train.data_on_device,
        device_share=train.device_share,
        augment=code.get("augment", train.augment),
        balanced_sampling=train.balanced_sampling,
        device=train.device,
        seed=train.seed,
        images=images,
    )
    if world.world_size > 1:
        count, least = len(dls.train_ds), 2 * world.world_size
        if min(count, dls.train.bs) < least:
            raise ConfigError(
                f"{world.world_size} ranks share batches of {min(count, dls.train.bs)} training images; expected two "
                "or more images for each. Start fewer processes, or a new run with a larger --batch-size."
            )
        dls.train.drop_last = count % dls.train.bs < least
    learn = learner_from_config(dls, config.model, train, code)
    validate_by_unit(learn, config.results)
    free_later(learn)
    return learn


def validate_by_unit(learn: RadiographLearner, settings: ResultsConfig) -> None:
    """Let the learner's metrics of validation be of what results are of.

    Raises:
        DataError: no image's study, or patient, is known, or images of one are of several classes.
    """
    if settings.unit == "image":
        return
    data = learn.dls.manifest
    validation, positive = truth_of(data.subset("valid")), positive_class(data.task, data.labels, settings.positive)
    validation.by_unit(settings.unit, settings.unit_join, data.task, positive)
    learn.validate_by(ValidationUnits(validation, settings, data.task, positive))


def _train(training: Training) -> None:
    """Train, finish the run on rank zero, and record how it ended; trackers are told of it."""
    names = training.config.train.track if training.world.is_rank_zero else ()
    with tracked(names, training.run, training.config, training.history.rows, training.reporter) as reporter:
        _train_and_record(replace(training, reporter=reporter))


def _train_and_record(training: Training) -> None:
    run, learn, config, history = training.run, training.learn, training.config, training.history
    world, interrupted, stop = training.world, training.interrupted, StopRequest()

    def asked_to_stop() -> bool:
        """Whether any rank was; all then exit with its code."""
        asked = interrupted()  # first: it may be what takes the time in which a signal comes
        code = world.highest(stop.exit_code if stop() else INTERRUPTED if asked else 0)
        stop.exit_code = code or stop.exit_code
        return bool(code)

    training = replace(training, interrupted=asked_to_stop)
    began = time.perf_counter()
    run.update_info(status="running", stopped="")
    try:
        rng = isolated_rng(config.train.seed, "fit")
        as_rank = train_as_rank(learn, world, config.train.sync_bn)
        with stop.listening(), learn.no_bar(), learn.no_logging(), as_rank, rng:
            training.run_phases()
        if world.highest(stop()):
            raise KeyboardInterrupt
        if remark := _instability(history):
            _add_remark(run, remark, training.reporter.note)
        seconds = time.perf_counter() - began
        with stop.interrupting(), beginning_again("the computation of the results"):
            finish(run, learn, history, config, seconds=seconds, reporter=training.reporter, world=world)
            world.barrier()
    except (KeyboardInterrupt, Exception) as error:
        # Signals may have reached the processes that read images, or closed the terminal, before training stopped.
        if isinstance(error, KeyboardInterrupt) or stop():
            path = str(run.path)
            again = f"xrayfast fit --resume {shlex.quote(path)}"
            if names := config.own_code | learn.own_code:  # a command line can't carry code
                again = f"xf.resume({path!r}, {', '.join(f'{name}=...' for name in names)}) in Python, with "
                again += describe_code(names)
            done, complete = plural(len(history.rows), "finished epoch"), run.info.status == "completed"
            if complete:
                done += " and all results"  # leftovers alone are to be removed
            elif isinstance(error, StoppedTraining):
                done += str(error).rstrip(".")
            elif isinstance(error, WriteError):
                done += f"; the checkpoint can't be saved: {error}".rstrip(".")
            elif not isinstance(error, KeyboardInterrupt):
                failure = truncate(" ".join(str(error).split()), 300).rstrip(".")
                done += f"; what followed begins again, as it failed: {failure}"
            if not complete:
                seconds = run.total_seconds(time.perf_counter() - began)
                run.update_info(status="interrupted", stopped=done, seconds=seconds)
            raise Interrupted(
                f"Stopped after {done}. Resume with: {again}",
                getattr(error, "exit_code", stop.exit_code),
            ) from None
        run.update_info(status="failed")
        if isinstance(error, ReadError):
            raise as_read_error(error) from error
        if (named := name_own_code(error, learn)) is not error:
            raise named from error
        raise


SHOWN_IMAGES = 8
"""Training images that the report shows: a row."""

UNSTABLE = 10.0
"""An epoch's mean training loss, as a multiple of the first batch's, above which training is called unstable."""


def _instability(history: History) -> str | None:
    """A remark where the training loss has grown far above that of the first batch without ending training."""
    if history.batches.empty:
        return None
    first = float(history.batches["loss"].iloc[0])
    worst = max(history.rows, key=lambda row: row["train_loss"])
    if worst["train_loss"] <= UNSTABLE * first:
        return None
    return (
        f"Training was unstable: the mean training loss of epoch {worst['epoch']} is {worst['train_loss']:.3g}, that "
        f"of the first batch was {first:.3g}. The learning rate may be too high: {worst['lr']:.3g} at the end of that "
        "epoch. Use a lower --lr; 'xrayfast lr-find' suggests one."
    )


def _add_remark(run: Run, remark: str, note: Callable[[str], None]) -> None:
    """Keep a warning for readers of the results in `run.json`, once, and display it."""
    if remark not in run.info.remarks:
        run.update_info(remarks=[*run.info.remarks, remark])
    note(remark)


def finish(
    run: Run,
    learn: RadiographLearner,
    history: History,
    config: Config,
    *,
    seconds: float,
    reporter: Reporter,
    world: World = World(),  # noqa: B008 - immutable
) -> None:
    """Predict with the weights of the best epoch, each rank a part of the images; rank zero computes metrics, and
    completes the run.
    """
    began = time.perf_counter()
    if world.is_rank_zero:
        load_weights(learn.model, run.model_path)
    world.broadcast_tensors(learn.model.state_dict().values())
    own = world.own_rows() if world.world_size > 1 else None
    train, predictions = config.train, dict[Split, Predictions]()
    splits: list[Split] = [*PREDICTED_SPLITS[: len(learn.dls.loaders) - 1]]
    if train.train_metrics == "final":
        splits.append("train")
    total = int(learn.dls.manifest.table["split"].isin(splits).sum())
    for split in splits:
        reporter.preparing("predicting", sum(map(len, predictions.values())), total)
        predictions[split] = predict_split(learn, split, tta=train.tta and split != "train", own=own)
    if not world.is_rank_zero:
        return
    reporter.preparing("predicting", total, total)
    if changed := changed_images(run, learn.dls.manifest, learn.dls.images):
        _add_remark(
            run,
            f"{plural(len(changed), 'image')} changed while the network was trained: {shorten(changed)}. Epochs before "
            "are of other pixels than those after, and than the predictions. Train again on data at rest.",
            reporter.note,
        )
    _write_training_images(run, learn, train.seed)
    run.update_info(
        finished=now(),
        seconds=run.total_seconds(seconds + time.perf_counter() - began),
        best_epoch=history.best_epoch,
    )
    reporter.preparing("computing metrics", 0, total)
    finalize_results(run, predictions, config.results, train.seed)
    reporter.preparing("computing metrics", total, total)
    write_cards(run)
    run.update_info(status="completed")
    run.remove_leftovers()


def _write_training_images(run: Run, learn: RadiographLearner, seed: int) -> None:
    """Keep a few training images, from all over the split, as the network sees them: the report shows them."""
    data = learn.dls.manifest.subset("train")
    rows = np.unique(np.linspace(0, len(data.table) - 1, SHOWN_IMAGES).astype(int)).tolist()
    with isolated_rng(seed, "training images"):
        seen = learn.dls.training_views(rows)
    if seen is None:
        return
    names, truth = data.table["image"].tolist(), data.truth
    shown = [(names[row], join_row_labels(truth[row], data.labels, ", ")) for row in rows]
    run.write_training_images(
        [
            {"image": image, "labels": labels, **image_view(pixels)}
            for (image, labels), pixels in zip(shown, seen, strict=True)
        ]
    )


def own_code_remarks(config: Config, learn: RadiographLearner) -> list[str]:
    """What of a run is code of the user's own, and what follows from that."""
    if not (names := config.own_code | learn.own_code):
        return []
    remarks = [
        f"Code of the user's own: {describe_code(names)}. The run's folder holds its name alone; to load, resume or "
        "replay the run, give it again in Python."
    ]
    if not getattr(learn.loss_func, "per_image", True):
        remarks.append(
            f"Losses of single images are those of {DEFAULT_LOSS[learn.dls.manifest.task]}: {names['loss']} gives none "
            "with reduction='none'."
        )
    return remarks


def _remarks(config: Config, learn: RadiographLearner) -> list[str]:
    """Warnings for a reader of this run's results."""
    remarks = []
    train, data = config.train, learn.dls.manifest
    if config.model.weights == "none" and not train.unfreeze:
        remarks.append(
            "The backbone starts from random weights and stays at least partly frozen, so it can learn little; "
            "--unfreeze trains all of it."
        )
    remarks += [*learn.network_notes, *own_code_remarks(config, learn)]
    if (native := resolve_precision(train.precision, learn.dls.device)) != learn.precision:
        remarks.append(
            f"Training is in {learn.precision}: {native}, which this device has units for, would change this network's "
            f"outputs too much. --precision {native} takes it nevertheless."
        )
    if data.table["patient"].isna().all():
        advice = " --patient-col names a column of them, or with 'name:REGEX' a pattern of file names."
        remarks.append(PATIENTS_UNKNOWN + advice * (not any(NO_PATIENTS in note for note in data.notes)))
    valid_truth = data.subset("valid").truth
    absent, no_negatives = (labels_lacking(cell, valid_truth, data.labels) for cell in (1, 0))
    if absent:
        remarks.append(
            f"No validation image has {shorten(absent)}: metrics that need one are undefined, or averaged over the "
            "other labels."
        )
    if no_negatives := [label for label in no_negatives if label not in absent]:
        remarks.append(
            f"Every validation image has {shorten(no_negatives)}: AUROC and average precision, which need one without, "
            "are undefined, or averaged over the other labels."
        )
    if len(learn.dls.loaders) < 3:
        remarks.append(f"There is no test split. {optimism()} --test-fraction 0.15 makes one.")
    return remarks
