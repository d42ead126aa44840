"""Train a network, or go on where training was interrupted."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

from typing_extensions import Unpack

from xrayfast.config import Config, Options, Precision
from xrayfast.data.cache.image_cache import DecodedImages
from xrayfast.data.manifest import Manifest
from xrayfast.errors import Interrupted, ReadError, RunError, shorten
from xrayfast.learning.inference.predictor import predict_split
from xrayfast.learning.model.precision import resolve_precision
from xrayfast.learning.model.weights import load_weights
from xrayfast.learning.randomness import isolated_rng
from xrayfast.learning.training import checkpoint
from xrayfast.learning.training.callbacks import History, NullReporter, Reporter
from xrayfast.learning.training.distributed import Processes, in_step, joined
from xrayfast.learning.training.learner import RadiographLearner, layer_groups, learner_from_config
from xrayfast.learning.training.loaders import dataloaders, named
from xrayfast.learning.training.mixed_precision import restore_precision, training_precision
from xrayfast.learning.training.phases import monitored, plan
from xrayfast.metrics.decision import Decision
from xrayfast.metrics.summary import absent_labels
from xrayfast.run import PredictedSplit, Run, now
from xrayfast.workflows.data import decode, reopen_data, resolve_inputs, split_table
from xrayfast.workflows.leaks import require_leak_free
from xrayfast.workflows.provenance import facts
from xrayfast.workflows.results import finalize_results, parse_prevalences, write_cards
from xrayfast.workflows.training import frozen_blocks, stages, train_phases


def never() -> bool:
    """Training is not interrupted from outside."""
    return False


def fit(
    data: Manifest | Path | str | None = None,
    *,
    config: Config | None = None,
    name: str | None = None,
    runs: Path | str = "runs",
    reporter: Reporter | None = None,
    interrupted: Callable[[], bool] = never,
    command: str = "",
    **options: Unpack[Options],
) -> Run:
    """Train a network and keep everything in a new run's folder.

    Args:
        data: a Manifest from `open_data`, or the folder of a data set; by default what `config` says, "data/".
        config: settings to start from; `options` go over them.
        name: of the run; default the arch and a number that counts up.
        runs: the folder that runs are kept in.
        reporter: told how training goes; nobody by default.
        interrupted: asked after each batch whether to stop.
        command: the command line, kept in `run.json`.
        options: any field of ModelConfig and TrainConfig, such as arch="vgg16_bn", unfreeze=True, epochs=6.

    Returns:
        The Run, with the weights of its best epoch, its history, predictions and metrics.

    Raises:
        XrayfastError: of the kind that fits: settings, data, weights, the run's folder, or training that diverged.
        DataError: among others, patients or duplicates on both sides of a given split, unless `allow_leaks`.
        Interrupted: training was stopped; the message says how to go on.
    """
    manifest, config = resolve_inputs(data, config, options)
    with joined(config.train.device) as processes:
        reporter = reporter if reporter and processes.first else NullReporter()
        return _fit(manifest, config, name, Path(runs), reporter, interrupted, command, processes)


def _fit(
    manifest: Manifest,
    config: Config,
    name: str | None,
    runs: Path,
    reporter: Reporter,
    interrupted: Callable[[], bool],
    command: str,
    processes: Processes,
) -> Run:
    """`fit`, as one of the processes that train together."""
    images = decode(manifest, config.model.size, reporter.preparing)
    processes.wait()  # with patience: another machine may have more to decode
    opened = manifest
    manifest, remarks, looked = require_leak_free(
        manifest, images, allow_leaks=config.train.allow_leaks, progress=reporter.preparing
    )
    for note in manifest.notes:
        if note not in opened.notes:
            reporter.note(note)
    batch = config.train.batch_size * processes.world
    learn = prepare(manifest, config, images, batch)
    # Contradictions between the settings show before a folder is made.
    parse_prevalences(config.results.prevalence, manifest.labels)
    phases = plan(config.train, len(layer_groups(learn.model)), 1.0, pretrained=config.model.weights != "none")
    blocks, no_room = frozen_blocks(learn, phases, config, processes)
    made_fast = stages(phases, config.train, config.model.size, blocks)
    monitored(config.train, manifest.task)
    learn.precision = cast("Precision", processes.told(training_precision(learn)))
    remarks += [*_remarks(config, learn), *filter(None, [no_room])]
    if config.train.progressive and all(stage.cut for stage in made_fast):
        remarks.append(
            "All epochs train on what frozen layers give, computed once at the last size: --progressive changes "
            "nothing. --reuse-frozen off computes it anew in each epoch, on growing images."
        )
    for remark in remarks:
        reporter.note(remark)
    known = facts(learn, command, remarks, looked) | {"processes": processes.world, "global_batch": batch}
    known |= {"kept_blocks": blocks, "kept_views": made_fast[0].views if any(blocks) else 0}
    with processes.folder(runs) as place:
        run = Run.create(place, name, config.model.arch, config, known)
        run.write_decision(Decision(manifest.task, manifest.labels))
        run.write_split(split_table(manifest, images))
        path = processes.told(str(run.path))
        _train(run, learn, config, History(), reporter, interrupted, processes)
    return Run(path)


def resume(run: Run | Path | str, *, reporter: Reporter | None = None, interrupted: Callable[[], bool] = never) -> Run:
    """Go on with an interrupted run, from the end of its last finished epoch, to the same numbers.

    Args:
        run: the run or its folder.
        reporter: told how training goes.
        interrupted: asked after each batch whether to stop.

    Raises:
        RunError: the run is complete, its data has changed, or its checkpoint is damaged.
        Interrupted: it was stopped again.
    """
    run = Run.of(run)
    if run.info.status == "completed":
        raise RunError(
            f"{run.path}: is complete; there is nothing to resume. 'xrayfast interpret {run.path}' reports on it."
        )
    with joined(run.config.train.device) as processes, processes.own_copy(run.path) as place:
        _resume(Run(place), reporter if reporter and processes.first else NullReporter(), interrupted, processes)
    return run


def _resume(run: Run, reporter: Reporter, interrupted: Callable[[], bool], processes: Processes) -> None:
    """`resume`, as one of the processes that train together, in a folder of its own."""
    config = run.config
    manifest = reopen_data(run)
    images = decode(manifest, config.model.size, reporter.preparing)
    processes.wait()
    state = checkpoint.read_state(run.checkpoint)
    # A checkpoint replaces the weights that the run started from.
    start = config if state is None else config.updated({"weights": "none"})
    # Batches are what they were, however many processes go on.
    learn = prepare(manifest, start, images, run.global_batch)
    before = run.info.precision or "fp32"  # in which earlier versions trained on CPUs
    restore_precision(learn, before)
    if (now_in := training_precision(learn)) != before:
        reporter.note(f"This device trains on in {now_in}; the run began in {before}: its numbers will be others.")
    run.update_info(precision=now_in)
    history = History()
    if state is not None:
        # Earlier versions knew one size only.
        rows = [{**row, "size": row.get("size", config.model.size)} for row in state["rows"]]
        history = History(rows, state["best_epoch"])
    _train(run, learn, config, history, reporter, interrupted, processes)


def prepare(
    manifest: Manifest, config: Config, images: DecodedImages, batch_size: int | None = None
) -> RadiographLearner:
    """The Learner that the settings describe, on its data.

    Args:
        manifest: the data set.
        config: the settings.
        images: of the data set.
        batch_size: of all processes together; None for that of the settings, which is of one.
    """
    train = config.train
    dls = dataloaders(
        manifest,
        size=config.model.size,
        batch_size=batch_size or train.batch_size,
        workers=train.workers,
        device=train.device,
        seed=train.seed,
        images=images,
    )
    return learner_from_config(dls, config.model, train)


def _train(
    run: Run,
    learn: RadiographLearner,
    config: Config,
    history: History,
    reporter: Reporter,
    interrupted: Callable[[], bool],
    processes: Processes,
) -> None:
    began = time.perf_counter()
    run.update_info(status="running")
    try:
        with learn.no_bar(), learn.no_logging(), isolated_rng(config.train.seed, "fit"), in_step(learn, processes):
            train_phases(run, learn, config, history, reporter, processes.either(interrupted), processes)
        if processes.first:
            finish(run, learn, history, config, seconds=time.perf_counter() - began)
        processes.wait()
    except KeyboardInterrupt:
        run.update_info(status="interrupted", seconds=run.total_seconds(time.perf_counter() - began))
        again = f"xrayfast fit --resume {shlex.quote(str(run.path))}"
        raise Interrupted(f"Stopped after {len(history.rows)} finished epochs. Go on with: {again}") from None
    except Exception as error:
        run.update_info(status="failed")
        if isinstance(error, ReadError):
            raise named(error) from error
        raise


def finish(run: Run, learn: RadiographLearner, history: History, config: Config, *, seconds: float) -> None:
    """Predict with the weights of the best epoch, measure, and close the run."""
    began = time.perf_counter()
    load_weights(learn.model, run.model_path)
    splits: tuple[PredictedSplit, ...] = ("valid", "test")
    train = config.train
    predictions = {
        split: predict_split(learn, split, tta=train.tta, seed=train.seed)
        for split in splits[: len(learn.dls.loaders) - 1]
    }
    run.update_info(
        finished=now(),
        seconds=run.total_seconds(seconds + time.perf_counter() - began),
        best_epoch=history.best_epoch,
    )
    finalize_results(run, predictions, config.results, train.seed)
    run.update_info(status="completed")
    write_cards(run)
    run.remove_leftovers()


def _remarks(config: Config, learn: RadiographLearner) -> list[str]:
    """What a person should know before reading the numbers of this run."""
    remarks = []
    train, data = config.train, learn.dls.manifest
    if config.model.weights == "none" and not train.unfreeze:
        remarks.append(
            "The body starts from random weights and stays at least partly frozen, so it can learn little; "
            "--unfreeze trains all of it."
        )
    if learn.unused_weights:
        remarks.append(
            f"{config.model.weights} holds tensors that have no place in {config.model.arch}: "
            f"{shorten(learn.unused_weights)}."
        )
    if (aimed := resolve_precision(train.precision, learn.dls.device)) != learn.precision:
        remarks.append(
            f"Training is in {learn.precision}: {aimed}, which this device has units for, would change what this "
            f"network gives. --precision {aimed} takes it all the same."
        )
    absent = absent_labels(data.subset("valid").truth, data.labels)
    if absent:
        remarks.append(
            f"No validation image carries {shorten(absent)}: metrics that need one are left empty or averaged over "
            "the other labels."
        )
    if len(learn.dls.loaders) < 3:
        remarks.append(
            "There is no test split: the validation numbers also chose the best epoch, and are a little too good. "
            "--test-fraction 0.15 makes one."
        )
    return remarks
