"""Train one network as a run: a new one, or one that was interrupted."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

from xrayfast.config import OWN_WEIGHTS, Config, Precision
from xrayfast.data.cache.image_cache import DecodedImages
from xrayfast.data.cache.shards import ImageInfo
from xrayfast.data.labels.positive_class import describe_positive_class, positive_class
from xrayfast.data.manifest import Manifest
from xrayfast.errors import Interrupted, ReadError, RunError, WriteError, plural, truncate
from xrayfast.errors.signals import INTERRUPTED, StopRequest
from xrayfast.learning.dataloaders.loaders import as_read_error
from xrayfast.learning.dataloaders.sampling import sampling_weights
from xrayfast.learning.distributed.world import World
from xrayfast.learning.fastai_api import Callbacks, Metrics
from xrayfast.learning.model.own_network import network_of_run
from xrayfast.learning.model.pretrained.run_weights import find_starting_run
from xrayfast.learning.model.weights import load_weights
from xrayfast.learning.own_failures import name_own_code
from xrayfast.learning.randomness import isolated_rng
from xrayfast.learning.threads import FreeThreads
from xrayfast.learning.training.checkpoint import BEST, MODEL, replace_damaged
from xrayfast.learning.training.mixed_precision import restore_precision, training_precision
from xrayfast.learning.training.phases import plan_phases
from xrayfast.learning.training.position import StoppedTraining, beginning_again
from xrayfast.learning.training.train_as_rank import train_as_rank
from xrayfast.metrics.claims.headline import Remark
from xrayfast.metrics.operating_points.decision import Decision
from xrayfast.option_effects import check_effects
from xrayfast.own_code import OWN, describe_code, names_of_code, separate_code
from xrayfast.progress import Reporter
from xrayfast.runs.history import History
from xrayfast.runs.run import Run
from xrayfast.tracking.session import tracked
from xrayfast.workflows.steps.data.images import decode, describe_reading, image_infos, split_table
from xrayfast.workflows.steps.data.reopening import reopen_data
from xrayfast.workflows.steps.evaluation.population import note_given_test
from xrayfast.workflows.steps.finishing import (
    add_remark,
    describe_empty_metrics,
    describe_instability,
    describe_replaced,
    describe_untrained,
    finish,
    head_weights,
)
from xrayfast.workflows.steps.leaks import ComparedImages, require_leak_free
from xrayfast.workflows.steps.preparing import (
    describe_training,
    prepare,
    require_own,
)
from xrayfast.workflows.steps.provenance import collect_provenance, describe_replay, describe_threads
from xrayfast.workflows.steps.results import check_results, resolve_monitor
from xrayfast.workflows.steps.resuming import complete_end, read_checkpoint, require_same_code, require_same_images
from xrayfast.workflows.steps.seen import describe_seen
from xrayfast.workflows.steps.training import (
    Training,
    choose_cached_groups,
    plan_facts,
    publish_epochs,
    schedule_phases,
)


def never() -> bool:
    """Return False: the default `interrupted`, which never stops training."""
    return False


@dataclass(frozen=True, eq=False, kw_only=True)
class Request:
    """The arguments of `fit` or `cross_validate` other than the data, the settings and the folder's name; ranks; notes.

    Attributes:
        shown_notes: notes on the data that are displayed already.
        idle: remarks on options without effect.
    """

    reporter: Reporter
    interrupted: Callable[[], bool]
    command: str
    code: Mapping[str, Any]
    cbs: Callbacks
    metrics: Metrics
    world: World = field(default_factory=World)
    threads: FreeThreads = field(default_factory=FreeThreads)
    shown_notes: Sequence[str] = ()
    idle: Sequence[str] = ()


def train_network(
    manifest: Manifest,
    config: Config,
    images: DecodedImages,
    compared: ComparedImages,
    request: Request,
    *,
    name: str | None,
    runs: Path,
) -> Run:
    """Train a network on decoded images and write a new run's folder.

    The images were compared with `compare_all_images`, and the settings and callbacks were checked with
    `require_settings` and `require_own`.
    """
    reporter, world = request.reporter, request.world
    checked = require_leak_free(manifest, compared, allow_leaks=config.train.allow_leaks)
    manifest, remarks = checked.data, list(checked.warnings)
    for note in manifest.notes:
        if note not in request.shown_notes:
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
    remarks += describe_reading(manifest.table["image"].tolist(), infos, config.model.size)
    remarks += note_given_test(manifest)
    remarks += describe_training(config, learn)
    remarks += filter(None, [no_space, request.threads.note])
    for text in (*describe_replay(config, learn), *learn.dls.notes):
        reporter.note(text)
    if start := find_starting_run(config.model.weights):
        remarks += describe_seen(start, manifest, images, reporter.preparing)
    leaks = Remark.LEAKS_ALLOWED in map(Remark.of, remarks)
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
    remarks += [*request.idle, *check_effects(config.train, facts)]
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
    write = partial(write_data, manifest=manifest, infos=infos, positive=positive)
    with world.output_folder(Path(runs)) as folder:
        run = Run.create(folder, name, config.model.arch.removeprefix(OWN), config, info, write)
        with run.lock():
            path = world.broadcast_text(str(run.path))
            _train(Training(run, learn, config, History(), reporter, request.interrupted, world, request.threads))
    return Run(path)


def write_data(run: Run, manifest: Manifest, infos: Sequence[ImageInfo], positive: str | None) -> None:
    """Write what a new run's folder holds of its data: labels, split, images left out, corrected labels."""
    run.write_decision(Decision(manifest.task, manifest.labels, positive=positive))
    run.write_split(split_table(manifest, infos))
    run.write_left_out(manifest.left_out)
    run.write_corrections(manifest.corrections)


def resume_network(run: Run, request: Request, note: Callable[[str], None]) -> None:
    """Resume a run with a network of its own, or write what is missing in a complete one."""
    world = request.world
    with (
        run.lock(note) if world.is_rank_zero else nullcontext(),  # only rank zero writes to the run
        world.working_copy(run.path) as folder,
    ):
        world.require_alike(f"resumes {run.path.name}")
        copy = Run(folder)
        if copy.info.status == "completed":
            note(complete_end(copy))
            return
        _train(_restore(copy, run.path, request, note))


def _restore(run: Run, shown: Path, request: Request, note: Callable[[str], None]) -> Training:
    """Return the training of a run as its last checkpoint has it. Messages name the folder `shown`."""
    config, reporter, code = run.config, request.reporter, request.code
    world, threads = request.world, request.threads
    cbs, names = require_own(run.task, run.labels, config, request.cbs, request.metrics)
    require_same_code(run, names_of_code(separate_code(code)[0]) | names)
    manifest = reopen_data(run)
    config = config.model_copy(update={"data": manifest.config})
    _, images = decode(manifest, config.model.size, reporter.preparing, may_leave_out=False)
    world.barrier()
    require_same_images(run, manifest, images, note)
    if different := describe_threads(run.info, "the run"):
        note(different)
    checkpoint = read_checkpoint(run, note)
    if checkpoint is not None:
        network_of_run(config.model, len(manifest.labels), checkpoint.path / MODEL, code.get("arch"))
    # The checkpoint's weights replace those that the run started from.
    keep = checkpoint is None or config.model.weights == OWN_WEIGHTS
    start = config if keep else config.updated({"weights": "none"})
    # The global batch size stays the same, whatever the world size is now.
    learn = prepare(manifest, start, images, run.global_batch, code, world)
    learn.add_own(cbs, request.metrics)
    if learn.start and run.info.weights_sha256 not in ("", learn.start.sha256):
        raise RunError(
            f"{shown}: the weights that it started from, {config.model.weights}, have changed since. Put them back, or "
            "start a new run."
        )
    if threads.note:
        reporter.note(threads.note)
    recorded = run.info.precision or "fp32"  # earlier versions recorded none and trained in fp32
    restore_precision(learn, recorded)
    if (precision := training_precision(learn)) != recorded:
        reporter.note(f"This device trains in {precision}, but the run began in {recorded}, so results will differ.")
    history = History()
    if checkpoint is not None:
        if checkpoint.state.rows:
            best = checkpoint.path / BEST  # before version 0.4, only the run's folder had it
            load_weights(learn.model, best if best.is_file() else run.model_path)
        history = checkpoint.read_history(config.model.size)
        checkpoint = replace_damaged(run.checkpoint, checkpoint)
        publish_epochs(run, history.rows)
    run.update_info(precision=precision)
    return Training(run, learn, config, history, reporter, request.interrupted, world, threads, checkpoint)


def _train(training: Training) -> None:
    """Train, finish the run on rank zero, and record how it ended, in trackers too."""
    names = training.config.train.track if training.world.is_rank_zero else ()
    with tracked(names, training.run, training.config, training.history.rows, training.reporter) as reporter:
        _train_and_record(replace(training, reporter=reporter))


def _train_and_record(training: Training) -> None:
    run, learn, config, history = training.run, training.learn, training.config, training.history
    world, interrupted, stop = training.world, training.interrupted, StopRequest()

    def asked_to_stop() -> bool:
        """Whether any rank was asked to stop; all ranks then exit with its code."""
        asked = interrupted()  # before `stop()`, since a signal may arrive during this call
        code = world.highest(stop.exit_code if stop() else INTERRUPTED if asked else 0)
        stop.exit_code = code or stop.exit_code
        return bool(code)

    training = replace(training, interrupted=asked_to_stop)
    began = time.perf_counter()
    run.update_info(status="running", stopped="")
    try:
        rng = isolated_rng(config.train.seed, "fit")
        before = head_weights(learn)
        as_rank = train_as_rank(learn, world, config.train.sync_bn)
        with stop.listening(), learn.no_bar(), learn.no_logging(), as_rank, rng:
            training.run_phases()
        if world.highest(stop()):
            raise KeyboardInterrupt
        remarks = (
            describe_instability(history),
            None if training.checkpoint else describe_untrained(before, learn),  # few steps may be left to resume
            describe_empty_metrics(learn, history, resolve_monitor(config.train, learn.dls.manifest.task)),
            *describe_replaced(learn),
        )
        for remark in filter(None, remarks):
            add_remark(run, remark, training.reporter.note)
        seconds = time.perf_counter() - began
        with stop.interrupting(), beginning_again("the computation of the results"):
            finish(run, learn, history, config, seconds=seconds, reporter=training.reporter, world=world)
            world.barrier()
    except (KeyboardInterrupt, Exception) as error:
        # Another error counts as a stop too: the signal may have ended the workers that read images or the terminal.
        if isinstance(error, KeyboardInterrupt) or stop():
            done = plural(len(history.rows), "finished epoch")
            if run.info.status == "completed":
                done += " and all results"  # only leftovers remain to be removed
            else:
                done += _why_stopped(error)
                seconds = run.total_seconds(time.perf_counter() - began)
                run.update_info(status="interrupted", stopped=done, seconds=seconds)
            again = how_to_resume(run, config.own_code | learn.own_code)
            exit_code = getattr(error, "exit_code", stop.exit_code)
            raise Interrupted(f"Stopped after {done}. Resume with: {again}", exit_code) from None
        run.update_info(status="failed")
        if isinstance(error, ReadError):
            raise as_read_error(error) from error
        if (named := name_own_code(error, learn)) is not error:
            raise named from error
        raise


def _why_stopped(error: BaseException) -> str:
    """Return what follows "Stopped after 2 finished epochs"; "" if there is nothing to add."""
    if isinstance(error, StoppedTraining):
        return str(error).rstrip(".")
    if isinstance(error, KeyboardInterrupt):
        return ""
    if isinstance(error, WriteError):
        return f"; the checkpoint can't be saved: {error}".rstrip(".")
    failure = truncate(" ".join(str(error).split()), 300).rstrip(".")
    return f"; the next step will start over, because it failed: {failure}"


def how_to_resume(run: Run, names: Mapping[str, str]) -> str:
    """Return the command line that resumes a run or, since it can't carry code, the call with code of these names."""
    path = str(run.path)
    if not names:
        return f"xrayfast fit --resume {shlex.quote(path)}"
    given = ", ".join(f"{name}=..." for name in names)
    return f"xf.resume({path!r}, {given}) in Python, with {describe_code(names)}"
