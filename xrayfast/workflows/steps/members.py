"""Train a run: one network, or, with `members`, several in the run's folder whose probabilities are averaged."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from xrayfast._version import __version__
from xrayfast.config import Config
from xrayfast.data.cache.image_cache import DecodedImages
from xrayfast.data.labels.positive_class import positive_class
from xrayfast.data.manifest import Manifest
from xrayfast.errors import Interrupted, plural
from xrayfast.errors.signals import StopRequest
from xrayfast.files.intact import INFO_FILE
from xrayfast.own_code import OWN
from xrayfast.progress import FoldReporter, Reporter
from xrayfast.runs.names import member_names
from xrayfast.runs.run import Run, now
from xrayfast.workflows.steps.data.images import decode, image_infos
from xrayfast.workflows.steps.data.reopening import reopen_data
from xrayfast.workflows.steps.leaks import ComparedImages, compare_all_images, require_leak_free
from xrayfast.workflows.steps.network import Request, how_to_resume, resume_network, train_network, write_data
from xrayfast.workflows.steps.predictions.ensembles import average_by_image, average_splits
from xrayfast.workflows.steps.preparing import require_own
from xrayfast.workflows.steps.results import finalize_results, info_of_networks, write_cards
from xrayfast.workflows.steps.resuming import require_same_images

_OF_FIRST = (
    "starting_weights", "weights_sha256", "counts", "flow", "audit", "data_notes", "shortcuts", "world_size",
    "dataloaders", "history_unit",
)  # fmt: skip
"""Further fields that the `run.json` of a run with members takes from its first member."""


def train_run(
    manifest: Manifest,
    config: Config,
    images: DecodedImages,
    compared: ComparedImages,
    request: Request,
    *,
    name: str | None,
    runs: Path,
) -> Run:
    """Train on decoded images and write a new run's folder; the arguments are those of `train_network`."""
    if config.train.members == 1:
        return train_network(manifest, config, images, compared, request, name=name, runs=runs)
    config.updated({"seed": config.train.seed + config.train.members - 1})  # raises if the last seed is too large
    manifest = require_leak_free(manifest, compared, allow_leaks=config.train.allow_leaks).data  # may be split anew
    positive = positive_class(manifest.task, manifest.labels, config.results.positive)
    info = {
        "status": "created",
        "started": now(),
        "command": request.command,
        "xrayfast": __version__,
        "arch": config.model.arch,
        "fingerprint": manifest.fingerprint(),
        "data_notes": list(manifest.notes),
        "own_code": require_own(manifest.task, manifest.labels, config, request.cbs, request.metrics)[1],
        "members": member_names(config.train.members),
    }
    write = partial(write_data, manifest=manifest, infos=image_infos(manifest, images), positive=positive)
    world = request.world
    with world.output_folder(runs) as folder:
        run = Run.create(folder, name, config.model.arch.removeprefix(OWN), config, info, write)
        run = Run(world.broadcast_text(str(run.path)))
        _train_members(run, request, partial(train_network, manifest, images=images, compared=compared))
    return run


def resume_run(run: Run, request: Request, note: Callable[[str], None]) -> None:
    """Resume a run, or write what is missing in a complete one."""
    finished = run.info.status == "completed" and all(is_complete(run.path / name) for name in run.info.members)
    if finished or not run.info.members:
        resume_network(run, request, note)
        return

    def train(config: Config, *, request: Request, name: str, runs: Path) -> Run:
        reporter = request.reporter
        data, images = decode(reopen_data(run), config.model.size, reporter.preparing, may_leave_out=False)
        request.world.barrier()
        require_same_images(run, data, images, note)
        compared = compare_all_images(data, images, reporter.preparing)
        data = replace(data, notes=tuple(run.info.data_notes) or data.notes)  # as when the run began
        config, request = config.model_copy(update={"data": data.config}), replace(request, shown_notes=data.notes)
        return train_network(data, config, images, compared, request, name=name, runs=runs)

    _train_members(run, request, train)


def _train_members(run: Run, request: Request, train: Callable[..., Run]) -> None:
    """Train the incomplete members, and compute the results of their averaged probabilities.

    `train` trains a new member, given its settings and the keywords `request`, `name` and `runs` (the run's folder).
    """
    reporter, config, names = FoldReporter(request.reporter), run.config, run.info.members
    world = request.world
    again = how_to_resume(run, config.own_code | run.info.own_code)
    lock = run.lock(reporter.note) if world.is_rank_zero else nullcontext()
    with lock, stopping(run, "network", again, records=world.is_rank_zero):
        if world.is_rank_zero:
            run.update_info(status="running", stopped="")
        for number, name in enumerate(names):
            path = run.path / name
            state = world.broadcast_text("done" if is_complete(path) else "begun" if path.is_dir() else "")
            if state == "done":
                continue
            reporter.fold = f"network {number + 1} of {len(names)}"
            own: dict[str, Any] = {part: copy.deepcopy(getattr(request, part)) for part in ("code", "cbs", "metrics")}
            of_member = replace(request, reporter=reporter, **own)
            if state == "begun":
                resume_network(Run(path), of_member, reporter.note)
            else:
                seed = config.train.seed + number
                train(config.updated({"seed": seed, "members": 1}), request=of_member, name=name, runs=run.path)
        if world.is_rank_zero:
            _finish(run, reporter)
        world.barrier()


def is_complete(path: Path) -> bool:
    """Whether a member's folder exists and its run is complete; raise a RunError if its weights are damaged."""
    if not (path.is_dir() and (run := Run(path)).is_finished):
        return False
    return all(network.model_path for network in run.members or [run])


def _finish(run: Run, reporter: Reporter) -> None:
    infos = [member.info for member in run.members]
    run.write_config(run.config.model_copy(update={"model": run.first_network.config.model}))  # as the network was made
    run.update_info(
        **info_of_networks(infos, *_OF_FIRST),
        remarks=list(dict.fromkeys(remark for info in infos for remark in info.remarks)),
        finished=now(),
    )
    config, averaged = run.config, average_splits(run.members)
    if all(member.has_train_predictions for member in run.members):
        averaged["train"], _ = average_by_image([member.predictions("train") for member in run.members])
    total = sum(map(len, averaged.values()))
    reporter.preparing("computing metrics", 0, total)
    finalize_results(run, averaged, config.results, config.train.seed)
    reporter.preparing("computing metrics", total, total)
    write_cards(run)
    run.update_info(status="completed")
    run.remove_leftovers()


@contextmanager
def stopping(run: Run, kind: str, again: str, *, records: bool) -> Iterator[None]:
    """Record an interruption or failure of training members; after an interruption, raise an error with the advice.

    A member is a `kind`, "network" or "fold"; `again` is a command line or a call; `records` says whether this process
    writes to the run's `run.json`.
    """
    stop = StopRequest()
    try:
        with stop.interrupting():
            yield
    except (KeyboardInterrupt, Exception) as error:
        stopped = isinstance(error, (KeyboardInterrupt, Interrupted)) or stop()
        if not stopped:
            if records:
                run.update_info(status="failed", stopped="")
            raise
        names = run.info.members
        begun = [Run(run.path / name) for name in names if (run.path / name / INFO_FILE).is_file()]
        done = f"{plural(sum(member.is_finished for member in begun), f'finished {kind}')} of {len(names)}"
        done += "".join(f", in {member.name} after {member.info.stopped}" for member in begun if member.info.stopped)
        if records:
            run.update_info(status="interrupted", stopped=done)
        raise Interrupted(
            f"Stopped after {done}. Resume with: {again}", getattr(error, "exit_code", stop.exit_code)
        ) from None
