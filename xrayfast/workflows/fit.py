"""Train a network, or go on where training was interrupted."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable
from pathlib import Path

from typing_extensions import Unpack

from xrayfast.config import Config, Options, TrainConfig
from xrayfast.data.manifest import Manifest
from xrayfast.data.store import Pictures
from xrayfast.errors import Interrupted, ReadError, RunError, some
from xrayfast.files import replacing
from xrayfast.learning import checkpoint
from xrayfast.learning.callbacks import EpochSeeds, History, Keeper, Progress, Reporter, Silent
from xrayfast.learning.fastai_api import Learner, ProgressCallback
from xrayfast.learning.inference import part_predictions
from xrayfast.learning.learner import layer_groups, learner_from_config, load_weights, save_weights
from xrayfast.learning.loaders import dataloaders, named
from xrayfast.learning.lr_find import range_test
from xrayfast.learning.phases import Phase, monitored, plan, run_phase, thaw
from xrayfast.learning.randomness import isolated_rng
from xrayfast.metrics.decision import Decision
from xrayfast.metrics.summary import absent_labels
from xrayfast.report.claim import write_claim
from xrayfast.report.model_card import write_model_card
from xrayfast.run import Part, Run, now
from xrayfast.workflows.data import decode, manifest_of, settle, split_table
from xrayfast.workflows.leaks import sound
from xrayfast.workflows.provenance import facts
from xrayfast.workflows.results import conclude, prevalences


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
    manifest, config = settle(data, config, options)
    reporter = reporter or Silent()
    pictures = decode(manifest, config.model.size, reporter.preparing)
    opened = manifest
    manifest, remarks, looked = sound(
        manifest, pictures, allow_leaks=config.train.allow_leaks, progress=reporter.preparing
    )
    for note in manifest.notes:
        if note not in opened.notes:
            reporter.note(note)
    learn = prepare(manifest, config, pictures)
    # Contradictions between the settings show before a folder is made.
    prevalences(config.results.prevalence, manifest.labels)
    plan(config.train, len(layer_groups(learn.model)), 1.0, pretrained=config.model.weights != "none")
    monitored(config.train, manifest.task)
    remarks += _remarks(config, learn)
    for remark in remarks:
        reporter.note(remark)
    run = Run.create(Path(runs), name, config.model.arch, config, facts(learn, command, remarks, looked))
    run.write_decision(Decision(manifest.task, manifest.labels))
    run.write_split(split_table(manifest, pictures))
    return _train(run, learn, config, History(), reporter, interrupted)


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
    if run.info.get("status") == "completed":
        raise RunError(
            f"{run.path}: is complete; there is nothing to resume. 'xrayfast interpret {run.path}' reports on it."
        )
    config, reporter = run.config, reporter or Silent()
    manifest = manifest_of(run)
    pictures = decode(manifest, config.model.size, reporter.preparing)
    state = checkpoint.read_state(run.checkpoint)
    # A checkpoint replaces the weights that the run started from.
    start = config if state is None else config.updated({"weights": "none"})
    learn = prepare(manifest, start, pictures)
    history = History()
    if state is not None:
        history = History(list(state["rows"]), state["best_epoch"])
    return _train(run, learn, config, history, reporter, interrupted)


def prepare(manifest: Manifest, config: Config, pictures: Pictures) -> Learner:
    """The Learner that the settings describe, on its data, silent."""
    train = config.train
    dls = dataloaders(
        manifest,
        size=config.model.size,
        batch_size=train.batch_size,
        workers=train.workers,
        device=train.device,
        seed=train.seed,
        pictures=pictures,
    )
    learn = learner_from_config(dls, config.model, train)
    learn.remove_cbs(ProgressCallback)  # it writes its bars as text where there is no notebook
    learn.logger = lambda _: None
    return learn


def _train(
    run: Run,
    learn: Learner,
    config: Config,
    history: History,
    reporter: Reporter,
    interrupted: Callable[[], bool],
) -> Run:
    began = time.perf_counter()
    run.update_info(status="running")
    try:
        with isolated_rng(config.train.seed, "fit"):
            _phases(run, learn, config, history, reporter, interrupted)
        finish(run, learn, history, config, seconds=time.perf_counter() - began)
    except KeyboardInterrupt:
        run.update_info(status="interrupted", seconds=run.total_seconds(time.perf_counter() - began))
        again = f"xrayfast fit --resume {shlex.quote(str(run.path))}"
        raise Interrupted(f"Stopped after {len(history.rows)} finished epochs. Go on with: {again}") from None
    except Exception as error:
        run.update_info(status="failed")
        if isinstance(error, ReadError):
            raise named(error) from error
        raise
    return run


def _phases(
    run: Run,
    learn: Learner,
    config: Config,
    history: History,
    reporter: Reporter,
    interrupted: Callable[[], bool],
) -> None:
    train = config.train
    groups, pretrained = len(layer_groups(learn.model)), config.model.weights != "none"
    lr = _learning_rate(run, learn, plan(train, groups, 1.0, pretrained)[0], train, reporter, interrupted)
    phases = plan(train, groups, lr, pretrained)
    run.update_info(
        lr=lr,
        phases=[{"name": p.name, "epochs": p.epochs, "frozen_groups": p.frozen, "lrs": list(p.lrs)} for p in phases],
    )
    monitor = monitored(train, learn.dls.manifest.task)
    done, first = len(history.rows), 0
    if done:
        checkpoint.restore_weights(run.checkpoint, learn)
    for phase in phases:
        patience = train.early_stop if phase is phases[-1] else None
        start = min(max(done - first, 0), phase.epochs)
        stopped_early = start > 0 and patience is not None and history.stale(first) >= patience
        if start < phase.epochs and not stopped_early:
            thaw(learn, phase)
            if start:
                checkpoint.restore_optimizer(run.checkpoint, learn)
            reporter.phase(phase)
            keeper = Keeper(
                history, phase, first, monitor, patience, lambda better: _keep(run, learn, history, better), reporter
            )
            callbacks = [EpochSeeds(train.seed, first), Progress(reporter, first, interrupted), keeper]
            run_phase(
                learn,
                phase,
                schedule=train.schedule,
                momentum=train.momentum,
                callbacks=callbacks,
                start_epoch=start,
            )
            if keeper.failure is not None:
                raise keeper.failure
        first += phase.epochs


def _learning_rate(
    run: Run, learn: Learner, phase: Phase, train: TrainConfig, reporter: Reporter, interrupted: Callable[[], bool]
) -> float:
    """The head's peak learning rate: given, found before the interruption, or found now by a range test."""
    if train.lr != "auto":
        return train.lr
    if "lr" in run.info:
        return float(run.info["lr"])
    reporter.note("Range test for the learning rate, as 'xrayfast lr-find' does it.")
    thaw(learn, phase)
    return range_test(learn, interrupted=interrupted).best


def _keep(run: Run, learn: Learner, history: History, improved: bool) -> None:
    """After an epoch: history, best weights, checkpoint. The checkpoint comes last: what it tells of is there."""
    run.write_history(history.rows)
    if improved:
        with replacing(run.new_model_path) as temporary:
            save_weights(learn.model, temporary)
    checkpoint.save(run.checkpoint, learn, {"rows": history.rows, "best_epoch": history.best_epoch})


def finish(run: Run, learn: Learner, history: History, config: Config, *, seconds: float) -> None:
    """Predict with the weights of the best epoch, measure, and close the run."""
    began = time.perf_counter()
    load_weights(learn.model, run.model_path)
    parts: tuple[Part, ...] = ("valid", "test")
    train = config.train
    predictions = {
        part: part_predictions(learn, part, tta=train.tta, seed=train.seed)
        for part in parts[: len(learn.dls.loaders) - 1]
    }
    run.update_info(
        finished=now(),
        seconds=run.total_seconds(seconds + time.perf_counter() - began),
        best_epoch=history.best_epoch,
    )
    conclude(run, predictions, config.results, train.seed)
    run.update_info(status="completed")
    write_model_card(run)
    write_claim(run)
    run.tidy()


def _remarks(config: Config, learn: Learner) -> list[str]:
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
            f"{some(learn.unused_weights)}."
        )
    absent = absent_labels(data.part("valid").truth, data.labels)
    if absent:
        remarks.append(
            f"No validation image carries {some(absent)}: metrics that need one are left empty or averaged over "
            "the other labels."
        )
    if len(learn.dls.loaders) < 3:
        remarks.append(
            "There is no test part: the validation numbers also chose the best epoch, and are a little too good. "
            "--test-fraction 0.15 makes one."
        )
    return remarks
