"""The phases of a run, one after the other, each epoch kept as it ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from xrayfast.config import Config, TrainConfig
from xrayfast.data.cache.folders import cache_root
from xrayfast.files import replace_atomically
from xrayfast.learning.model.weights import save_weights
from xrayfast.learning.training import checkpoint
from xrayfast.learning.training.callbacks import EpochCheckpoint, EpochSeeds, History, Progress, Reporter
from xrayfast.learning.training.distributed import Processes
from xrayfast.learning.training.frozen_features import (
    MEMORY_BYTES,
    FrozenFeatures,
    bytes_needed,
    cuts,
    keep,
    key,
    room,
    training_on_features,
    views_for,
)
from xrayfast.learning.training.learner import RadiographLearner, layer_groups
from xrayfast.learning.training.lr_find import range_test
from xrayfast.learning.training.phases import Phase, monitored, plan, run_phase, unfreeze_blocks_of
from xrayfast.learning.training.progressive import resized, sizes_by_epoch
from xrayfast.run import Run

SHARE_OF_DISK = 0.25
"""Of what is free, what frozen layers give may take, unless it is asked for."""


@dataclass(frozen=True)
class Stage:
    """A phase and how it is made fast.

    Attributes:
        phase: what is trained.
        cut: blocks of the body that are not run in it, because what they give is kept; 0 for none.
        views: of each training image that this is kept for.
        sizes: the side of the images in each epoch.
    """

    phase: Phase
    cut: int
    views: int
    sizes: tuple[int, ...]


def frozen_blocks(
    learn: RadiographLearner, phases: Sequence[Phase], config: Config, processes: Processes
) -> tuple[tuple[int, ...], str]:
    """For each phase how many blocks run once, and what is to be told where there is no room for what they give.

    Decided once a run, for all processes by the first: on a disk that fills up meanwhile, or has room on one machine
    alone, a run that goes on would be another one.
    """
    train = config.train
    by_phase = cuts(phases, train.reuse_frozen, train.frozen_views)
    views = views_for(phases, by_phase, train.reuse_frozen, train.frozen_views)
    free, note, too_large = room(_folder(config)), "", set()
    for cut in sorted(set(by_phase) - {0}) if train.reuse_frozen == "auto" else []:
        needed = bytes_needed(learn, cut, views)
        if needed > MEMORY_BYTES and needed * processes.world > free * SHARE_OF_DISK:
            too_large.add(cut)
            note = (
                f"What frozen layers give would take {needed * processes.world / 1e9:.1f} GB, and {free / 1e9:.1f} GB "
                "are free: they are computed anew in each epoch. --reuse-frozen on keeps it all the same."
            )
    return tuple(int(processes.broadcast_number(0 if cut in too_large else cut)) for cut in by_phase), note


def stages(phases: Sequence[Phase], train: TrainConfig, size: int, blocks: Sequence[int]) -> list[Stage]:
    """How each phase is trained, given how many blocks run once in it. Progressive sizes are for the phases that run
    the whole network: where frozen layers run once, smaller images would only make them run once more.
    """
    whole = sum(phase.epochs for phase, cut in zip(phases, blocks, strict=True) if not cut)
    sizes = iter(sizes_by_epoch(whole, train.progressive, size))
    views = views_for(phases, blocks, train.reuse_frozen, train.frozen_views)
    return [
        Stage(phase, cut, views, tuple(size if cut else next(sizes) for _ in range(phase.epochs)))
        for phase, cut in zip(phases, blocks, strict=True)
    ]


def train_phases(
    run: Run,
    learn: RadiographLearner,
    config: Config,
    history: History,
    reporter: Reporter,
    interrupted: Callable[[], bool],
    processes: Processes,
) -> None:
    """Train all phases, or what is left of them after the epochs in `history`; the first process keeps the epochs.

    Raises:
        TrainingError: training diverged.
        WriteError: an epoch can't be kept.
        KeyboardInterrupt: `interrupted` said so.
    """
    settings = config.train
    groups, pretrained = len(layer_groups(learn.model)), config.model.weights != "none"
    lr = _learning_rate(run, learn, plan(settings, groups, 1.0, pretrained)[0], settings, reporter, interrupted)
    lr = processes.broadcast_number(lr)
    phases = plan(settings, groups, lr, pretrained)
    run.update_info(
        lr=lr,
        phases=[{"name": p.name, "epochs": p.epochs, "frozen_groups": p.frozen, "lrs": list(p.lrs)} for p in phases],
    )
    monitor = monitored(settings, learn.dls.manifest.task)
    blocks, decided = cuts(phases, settings.reuse_frozen, settings.frozen_views), run.info.kept_blocks
    if decided is not None:  # earlier versions kept whatever they could
        blocks = tuple(cut if cut in decided else 0 for cut in blocks)
    done, first, kept = len(history.rows), 0, None
    if done:
        checkpoint.restore_weights(run.checkpoint, learn)
    for stage in stages(phases, settings, config.model.size, blocks):
        phase = stage.phase
        patience = settings.early_stop if phase is phases[-1] else None
        start = min(max(done - first, 0), phase.epochs)
        stopped_early = start > 0 and patience is not None and history.stale(first, stage.sizes[-1]) >= patience
        if start < phase.epochs and not stopped_early:
            unfreeze_blocks_of(learn, phase)
            if start:
                checkpoint.restore_optimizer(run.checkpoint, learn)
            if kept is not None and not (stage.cut and kept.key == key(learn, stage.cut, stage.views)):
                kept = None  # makes room for what the next phase keeps
            if stage.cut and kept is None:
                kept = _keep_frozen(learn, stage, config, reporter, interrupted)
            reporter.phase(phase)
            save = partial(_keep, run, learn, history) if processes.first else _keep_nothing
            keeper = EpochCheckpoint(history, phase, first, monitor, patience, save, reporter, stage.sizes)
            callbacks = [EpochSeeds(settings.seed, first), Progress(reporter, first, interrupted), keeper]
            with training_on_features(learn, kept) if kept else nullcontext(), resized(learn, stage.sizes):
                run_phase(
                    learn,
                    phase,
                    schedule=settings.schedule,
                    momentum=settings.momentum,
                    callbacks=callbacks,
                    start_epoch=start,
                )
            if keeper.failure is not None:
                raise keeper.failure
        first += phase.epochs


def _keep_frozen(
    learn: RadiographLearner, stage: Stage, config: Config, reporter: Reporter, interrupted: Callable[[], bool]
) -> FrozenFeatures:
    """What the first blocks give."""
    return keep(
        learn,
        stage.cut,
        stage.views,
        progress=partial(reporter.preparing, "frozen layers"),
        interrupted=interrupted,
        folder=_folder(config),
    )


def _folder(config: Config) -> Path | None:
    """For what is too large for memory; None for the system's temporary files."""
    return cache_root(config.data.cache_dir) if config.data.cache else None


def _learning_rate(
    run: Run,
    learn: RadiographLearner,
    phase: Phase,
    settings: TrainConfig,
    reporter: Reporter,
    interrupted: Callable[[], bool],
) -> float:
    """The head's peak learning rate: given, found before the interruption, or found now by a range test."""
    if settings.lr != "auto":
        return settings.lr
    if run.info.lr is not None:
        return run.info.lr
    reporter.note("Range test for the learning rate, as 'xrayfast lr-find' does it.")
    unfreeze_blocks_of(learn, phase)
    return range_test(learn, interrupted=interrupted).best


def _keep_nothing(improved: bool) -> None:
    """What all processes have, the first one keeps."""


def _keep(run: Run, learn: RadiographLearner, history: History, improved: bool) -> None:
    """After an epoch: history, best weights, checkpoint. The checkpoint comes last: what it tells of is there."""
    run.write_history(history.rows)
    if improved:
        with replace_atomically(run.new_model_path) as temporary:
            save_weights(learn.model, temporary)
    checkpoint.save(run.checkpoint, learn, {"rows": history.rows, "best_epoch": history.best_epoch})
