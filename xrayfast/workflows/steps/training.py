"""Train the phases of a run one after the other; save a checkpoint after each epoch and when training is stopped."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from xrayfast.config import Config, TrainConfig
from xrayfast.errors import ConfigError, RunError, TrainingError, shorten
from xrayfast.files.atomic import link_or_copy, replace_atomically
from xrayfast.files.cache_folder import cache_root
from xrayfast.files.intact import known_digests
from xrayfast.learning.callback_rules import names_using_images
from xrayfast.learning.distributed.world import World
from xrayfast.learning.model.layers import LayerGroup
from xrayfast.learning.threads import FreeThreads
from xrayfast.learning.training.callbacks.epoch_checkpoint import EpochCheckpoint
from xrayfast.learning.training.callbacks.preparation import AdaptThreads, EpochSeeds
from xrayfast.learning.training.callbacks.progress import BatchProgress
from xrayfast.learning.training.checkpoint import (
    BATCHES,
    BEST,
    Checkpoint,
    CheckpointWriter,
    Snapshot,
    TensorCopies,
    save_checkpoint,
    saved_place,
    writes_in_thread,
)
from xrayfast.learning.training.frozen_features import (
    MEMORY_BYTES,
    FrozenFeatures,
    cache_bytes,
    cache_features,
    cache_key,
    caching_problem,
    free_disk_bytes,
    frozen_group_counts,
    training_on_features,
    view_count,
)
from xrayfast.learning.training.learner import RadiographLearner
from xrayfast.learning.training.lr_find import range_test
from xrayfast.learning.training.optional.batch_norm import backbone_norms
from xrayfast.learning.training.optional.progressive import resize_progressively, sizes_by_epoch
from xrayfast.learning.training.phases import Phase, plan_phases, run_phase
from xrayfast.learning.training.position import EpochPosition, Position, StoppedTraining, beginning_again
from xrayfast.learning.training.recorders import TrainRecorder
from xrayfast.option_effects import PlanFacts
from xrayfast.own_code import show_setting
from xrayfast.progress import Reporter
from xrayfast.runs.cross_validation import CrossValidation
from xrayfast.runs.history import History, Row
from xrayfast.runs.run import Run
from xrayfast.workflows.steps.finishing import add_remark
from xrayfast.workflows.steps.results import resolve_monitor

DISK_FRACTION = 0.25
"""Largest fraction of the free disk space that the frozen-feature cache may take, unless reuse_frozen is "on"."""


THREADS_CHANGED = "The number of threads followed the load of the machine"
"""The beginning of the remark on a changed number of threads."""


@dataclass(frozen=True)
class ScheduledPhase:
    """A phase with its use of the frozen-feature cache and its image sizes.

    Attributes:
        cached_groups: number of first layer groups that are not run, because their features are cached; 0 for none.
        sizes: the side of the images in each epoch.
    """

    phase: Phase
    cached_groups: int
    views: int
    sizes: tuple[int, ...]


def choose_cached_groups(
    learn: RadiographLearner, phases: Sequence[Phase], config: Config, world: World
) -> tuple[tuple[int, ...], str]:
    """Return for each phase the number of layer groups whose features are cached, and a note.

    The note says why features are not cached although the phases would allow it; otherwise it is "".

    Rank zero decides once per run for all ranks: if the decision depended on the disk space that is free later or on
    another machine, a resumed run would differ.
    """
    train = config.train
    counts = frozen_group_counts(phases, train.reuse_frozen, train.views)
    none = (0,) * len(phases)
    if train.mixes_images and any(counts):
        note = "Frozen layers run in each epoch, because --mixup and --cutmix mix images in a new way each time."
        return none, note
    if train.reuse_frozen == "auto" and any(counts) and (own := names_using_images(learn.own_cbs)):
        return none, (
            f"Frozen layers run in each epoch, because {shorten(own)} may use images, and would get cached features "
            "instead. Use --reuse-frozen on to cache features anyway."
        )
    views = view_count(phases, counts, train)
    free, note, too_large = free_disk_bytes(_cache_folder(config)), "", set()
    for count in set(counts):
        if problem := caching_problem(learn, count):
            note = f"The features of {show_setting(learn.arch)} can't be cached: {problem}."
            if train.reuse_frozen == "on":
                raise ConfigError(f"reuse_frozen is on. {note} Leave it out: frozen layers then run in each epoch.")
            note += " Frozen layers run in each epoch."
            too_large.add(count)
    for count in sorted(set(counts) - {0} - too_large) if train.reuse_frozen == "auto" else []:
        needed = cache_bytes(learn, count, views)
        if needed > MEMORY_BYTES and needed * world.world_size > free * DISK_FRACTION:
            too_large.add(count)
            note = (
                f"The frozen-feature cache would need {needed * world.world_size / 1e9:.1f} GB, but only "
                f"{free / 1e9:.1f} GB are free, so frozen layers run in each epoch. Use --reuse-frozen on to cache "
                "features anyway."
            )
    return tuple(int(world.broadcast_number(0 if count in too_large else count)) for count in counts), note


def schedule_phases(
    phases: Sequence[Phase], train: TrainConfig, size: int, group_counts: Sequence[int]
) -> list[ScheduledPhase]:
    """Return the schedule of each phase, given the number of layer groups whose features it has cached.

    Only phases without a cache, which run the whole network, use progressive sizes; cached features are computed at the
    final size.
    """
    uncached = sum(phase.epochs for phase, count in zip(phases, group_counts, strict=True) if not count)
    sizes = iter(sizes_by_epoch(uncached, train.progressive, size))
    views = view_count(phases, group_counts, train)
    return [
        ScheduledPhase(phase, count, views, tuple(size if count else next(sizes) for _ in range(phase.epochs)))
        for phase, count in zip(phases, group_counts, strict=True)
    ]


def plan_facts(
    scheduled: Sequence[ScheduledPhase],
    train: TrainConfig,
    groups: Sequence[LayerGroup],
    *,
    batches: int,
    leaks: bool,
    uneven: bool = True,
    cuda: bool = False,
    world_size: int = 1,
) -> PlanFacts:
    """Return the facts about a scheduled run that the effects of options depend on.

    `leaks`, `uneven`, `cuda` and `world_size` are as in PlanFacts.
    """
    phases = [s.phase for s in scheduled]
    *before, last = [s.sizes for s in scheduled]
    of_last_size = sum(size == last[-1] for size in last)
    # The first epoch on images of the last size is the best until then.
    best_before = any(size == last[-1] for sizes in before for size in sizes)
    cached = any(s.cached_groups for s in scheduled)
    return PlanFacts(
        epochs=sum(phase.epochs for phase in phases),
        batches=batches,
        stoppable=of_last_size - (1 if best_before else 2),
        sizes=frozenset(size for s in scheduled if not s.cached_groups for size in s.sizes),
        frozen=any(phase.frozen_groups for phase in phases),
        cached=cached,
        cached_by_auto=not train.mixes_images and any(frozen_group_counts(phases, "auto", train.views)),
        views=scheduled[0].views if cached else 0,
        leaks=leaks,
        norms=bool(backbone_norms(groups[min(phase.frozen_groups for phase in phases) :])),
        uneven=uneven,
        cuda=cuda,
        world_size=world_size,
    )


@dataclass(frozen=True)
class Training:
    """The training of one run, on one rank.

    Attributes:
        history: the epochs so far; training appends to it.
        interrupted: called after each batch; training stops if it returns True.
        world: the ranks; rank zero saves the epochs.
        threads: the number of torch's threads, chosen again for each epoch.
        checkpoint: the checkpoint to resume from, saved at the end of the last epoch in `history` or within the epoch
            after it; None if there is none.
    """

    run: Run
    learn: RadiographLearner
    config: Config
    history: History
    reporter: Reporter
    interrupted: Callable[[], bool]
    world: World
    threads: FreeThreads
    checkpoint: Checkpoint | None = None

    def run_phases(self) -> None:
        """Train all phases, or what is left of them after the epochs in `history`.

        Raises:
            RunError: `run.json` does not match these phases.
            TrainingError: training diverged.
            WriteError: an epoch can't be saved.
            StoppedTraining: `interrupted` returned True, or a signal stopped it at once.
        """
        device = self.learn.dls.device
        try:
            with CheckpointWriter(TensorCopies(device) if writes_in_thread(device) else None) as writer:
                self._run_phases(writer)
        except StoppedTraining:
            raise
        except KeyboardInterrupt as error:  # for example of a second signal
            raise StoppedTraining(
                ", immediately: work since the last checkpoint is lost, and training will resume at "
                f"{saved_place(self.run.checkpoint)}"
            ) from error

    def _run_phases(self, writer: CheckpointWriter) -> None:
        run, learn, history, settings = self.run, self.learn, self.history, self.config.train
        phases = self._plan_phases()
        counts = self._cached_group_counts(phases)
        data = learn.dls.manifest
        monitor = resolve_monitor(settings, data.task)
        done, first_epoch, features = len(history.rows), 0, None
        ended = dict(run.info.ended_phases)
        if self.checkpoint:
            self.checkpoint.restore_weights(learn)
        for scheduled in schedule_phases(phases, settings, self.config.model.size, counts):
            phase, n_cached, sizes = scheduled.phase, scheduled.cached_groups, scheduled.sizes
            patience = settings.early_stop if phase is phases[-1] else None
            epochs = ended.get(phase.name, phase.epochs)
            start = min(max(done - first_epoch, 0), epochs)
            stopped = start > 0 and patience is not None and history.stale_epochs(first_epoch, sizes[-1]) >= patience
            if start < epochs and not stopped:
                learn.freeze_to(phase.frozen_groups)
                position, scaler = None, dict[str, float]()
                if (checkpoint := self.checkpoint) and first_epoch <= done and (start or checkpoint.state.batches):
                    checkpoint.restore_phase(learn)
                    position, scaler = checkpoint.read_position(learn.dls.device), checkpoint.state.scaler
                if features and not (n_cached and features.key == cache_key(learn, n_cached, scheduled.views)):
                    features = None  # frees its memory before the next cache is filled
                if n_cached and features is None:
                    features = self._cache_features(scheduled)
                self.reporter.phase(phase)
                recorder = TrainRecorder(phase.frozen_groups, data.task, len(data.labels))
                save = partial(self._save, writer)
                epoch_checkpoint = EpochCheckpoint(
                    history, phase, first_epoch, monitor, patience, save, self.reporter, sizes, recorder
                )
                within = None if learn.own_cbs else partial(self._save, writer, False)
                callbacks = [
                    AdaptThreads(self.threads, self._note_threads),
                    EpochSeeds(settings.seed, first_epoch),
                    recorder,
                    BatchProgress(self.reporter, first_epoch, alone=self.world.world_size == 1),
                    epoch_checkpoint,
                    EpochPosition(
                        epoch_checkpoint, self.interrupted, within, self.world.is_rank_zero, position, scaler
                    ),
                ]
                on_features = training_on_features(learn, features) if features else nullcontext()
                with on_features, resize_progressively(learn, sizes):
                    changed = run_phase(
                        learn,
                        phase,
                        schedule=settings.schedule,
                        momentum=settings.momentum,
                        callbacks=callbacks,
                        start_epoch=start,
                    )
                if changed:
                    remark = (
                        f"{learn.own_code.get('cbs', 'Own code')} changed {shorten(changed)} in the phase "
                        f"'{phase.name}', so config.yaml does not describe how this network was trained."
                    )
                    add_remark(run, remark, self.reporter.note)
                writer.finish()
                failure = epoch_checkpoint.failure
                if isinstance(failure, TrainingError):
                    raise TrainingError(f"{failure} {self._describe_saved_epochs()}")
                if failure is not None:
                    raise failure
                epochs = len(history.rows) - first_epoch
                if epochs < phase.epochs and not epoch_checkpoint.stopped_early:
                    ended[phase.name] = epochs
                    run.update_info(ended_phases=ended)
            first_epoch += epochs

    def _plan_phases(self) -> tuple[Phase, ...]:
        """Return the phases, and record them in `run.json`."""
        settings = self.config.train
        groups, pretrained = len(self.learn.groups), self.config.model.weights != "none"
        lr = self.world.broadcast_number(self._learning_rate(plan_phases(settings, groups, 1.0, pretrained)[0]))
        phases = plan_phases(settings, groups, lr, pretrained)
        self.run.update_info(
            lr=lr,
            phases=[
                {"name": p.name, "epochs": p.epochs, "frozen_groups": p.frozen_groups, "lrs": list(p.lrs)}
                for p in phases
            ],
        )
        return phases

    def _cached_group_counts(self, phases: Sequence[Phase]) -> Sequence[int]:
        """Return the number of layer groups whose features each phase has cached, according to `run.json`."""
        run, settings = self.run, self.config.train
        counts: Sequence[int] | None = run.info.frozen_feature_groups
        if counts is None:  # runs of earlier versions cached whatever they could
            counts = frozen_group_counts(phases, settings.reuse_frozen, settings.views)
        frozen = [phase.frozen_groups for phase in phases]
        if len(counts) != len(phases) or any(n > most for n, most in zip(counts, frozen, strict=True)):
            raise RunError(
                f"{run.path}: run.json has frozen_feature_groups {list(counts)}, but according to config.yaml the "
                f"phases have {frozen} frozen layer groups. One of the two files belongs to another run."
            )
        return counts

    def _learning_rate(self, first_phase: Phase) -> float:
        """Return the head's peak learning rate: as set, as found before an interruption, or from a range test now."""
        if self.config.train.lr != "auto":
            return self.config.train.lr
        if self.run.info.lr is not None:
            return self.run.info.lr
        self.reporter.note("Range test for the learning rate, as in 'xrayfast lr-find'.")
        self.learn.freeze_to(first_phase.frozen_groups)
        with beginning_again("the range test"):
            return range_test(self.learn, interrupted=self.interrupted, progress=self.reporter.preparing).best

    def _cache_features(self, scheduled: ScheduledPhase) -> FrozenFeatures:
        above, n_frozen = self.run.path.absolute().parent, scheduled.cached_groups
        shared = None
        if self.world.world_size == 1 and CrossValidation.is_there(above) and not CrossValidation(above).is_finished:
            fits = cache_bytes(self.learn, n_frozen, 1) <= min(MEMORY_BYTES, free_disk_bytes(above) * DISK_FRACTION)
            shared = CrossValidation(above).features_folder if fits else None
        with beginning_again("the computation of frozen features"):
            return cache_features(
                self.learn,
                n_frozen,
                scheduled.views,
                progress=partial(self.reporter.preparing, "frozen layers"),
                interrupted=self.interrupted,
                folder=_cache_folder(self.config),
                shared=shared,
            )

    def _note_threads(self, text: str) -> None:
        """Report a change of the number of threads, and record the first change, since results depend on it."""
        self.reporter.note(text)
        if not any(remark.startswith(THREADS_CHANGED) for remark in self.run.info.remarks):
            epoch = len(self.history.rows) + 1
            self.run.update_info(remarks=[*self.run.info.remarks, f"{THREADS_CHANGED} from epoch {epoch} on. {text}"])

    def _describe_saved_epochs(self) -> str:
        """Return a sentence on what a run that diverged can be used for."""
        epochs, path = len(self.history.rows), shlex.quote(str(self.run.path))
        if not epochs:
            return "No epoch was finished, so there are no weights to use."
        return (
            f"The run is saved up to epoch {epochs}: 'xrayfast predict {path} IMAGES' and xrayfast.load use the "
            f"weights of its best epoch, {self.history.best_epoch}, without calibration. If resumed unchanged, "
            "it would fail again."
        )

    def _save(self, writer: CheckpointWriter, improved: bool, position: Position | None = None) -> None:
        """Save the checkpoint, and then the run's files that are made from it; only on rank zero."""
        if not self.world.is_rank_zero:
            return
        writer.finish()
        snapshot = Snapshot.of(self.learn, self.history, position, copies=writer.copies)

        def write() -> None:
            save_checkpoint(self.run.checkpoint, snapshot, None if improved else self.run.new_model_path)
            publish_epochs(self.run, snapshot.rows)

        writer.write(write)


def publish_epochs(run: Run, rows: list[Row]) -> None:
    """Write `history.csv`, `batches.csv` and `model.safetensors` from the checkpoint if an epoch is finished."""
    if not rows:
        return
    run.write_history(rows)
    for name, path in ((BATCHES, run.new_batches_path), (BEST, run.new_model_path)):
        saved = run.checkpoint / name
        # Versions before 0.4 saved no best weights in the checkpoint.
        if saved.is_file() and not (path.is_file() and path.samefile(saved)):
            with replace_atomically(path, *known_digests(saved)[-1:]) as temporary:
                link_or_copy(saved, temporary)


def _cache_folder(config: Config) -> Path | None:
    """Return the folder for a frozen-feature cache that is too large for memory; None for a temporary folder."""
    return cache_root(config.data.cache_dir) if config.data.cache else None
