"""Train the folds of a cross-validation at the same time, each in its own process."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import torch

from xrayfast.cpus import cpu_count
from xrayfast.errors import RunError, XrayfastError
from xrayfast.errors.signals import ending_with_parent
from xrayfast.files.intact import INFO_FILE
from xrayfast.progress import DisplaysFolds, Reporter
from xrayfast.progress.displayed import FoldProgress
from xrayfast.runs.cross_validation import CrossValidation, fold_names
from xrayfast.runs.history import History
from xrayfast.runs.names import HISTORY_FILE, member_names
from xrayfast.runs.run import Run
from xrayfast.workflows.steps.results import resolve_monitor

_CODE = "import os, sys; sys.path[:] = sys.argv.pop(1).split(os.pathsep); from xrayfast.cli import main; main()"
"""Imports from where this process does. `python -m xrayfast` would first import from the working folder, which may be a
stranger's."""


def train_at_once(
    cv: CrossValidation, folds: list[int], jobs: int, reporter: Reporter, interrupted: Callable[[], bool]
) -> None:
    """Train folds in processes of their own, `jobs` at once, while displaying the progress of all of them.

    Raises:
        RunError: a process failed; the message has the last of its output.
        KeyboardInterrupt: `interrupted` returned True.
    """
    watch = FoldWatch(cv)
    total = sum(images for step, images in cv.info.flow if step == "Split folds") * cv.folds.repeats
    waiting, free, running = list(folds), list(range(jobs)), dict[int, FoldProcess]()
    try:
        while waiting or running:
            while waiting and free:
                fold = waiting.pop(0)
                running[fold] = FoldProcess(cv.path, fold, free.pop(0), jobs)
            time.sleep(0.2)
            if interrupted():
                raise KeyboardInterrupt
            for fold, process in list(running.items()):
                if process.has_ended():
                    free.append(running.pop(fold).place)
            if watch.look(set(running)):
                if isinstance(reporter, DisplaysFolds):
                    reporter.folds(watch.folds)
                reporter.preparing("training folds", min(int(watch.share * total), total - 1), total)
    finally:
        for process in running.values():
            process.popen.terminate()
        for process in running.values():
            process.popen.wait()
            process.output.close()
    reporter.preparing("training folds", total, total)


class FoldProcess:
    """A process that trains a fold, in all repeats, by `cross-validate --resume` with `--fold`.

    With several GPUs, it sees one of them; the CPUs are divided between the processes.
    """

    def __init__(self, cv: Path, fold: int, place: int, jobs: int) -> None:
        self.cv, self.fold, self.place = cv, fold, place
        gpus = torch.cuda.device_count()
        given = {"CUDA_VISIBLE_DEVICES": _visible_gpus(gpus)[place % gpus]} if gpus > 1 else {}
        given |= {} if "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": str(max(1, cpu_count() // jobs))}
        path = os.pathsep.join(entry for entry in sys.path if isinstance(entry, str))
        self.output: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the process runs
        self.popen = subprocess.Popen(
            [sys.executable, "-c", _CODE, path, "cross-validate", "--resume", str(cv), "--fold", str(fold)],
            stdout=self.output,
            stderr=self.output,
            env={**os.environ, "PYTHONIOENCODING": "utf-8", **given},
            **ending_with_parent(),
        )

    def has_ended(self) -> bool:
        """Whether the process has ended; raise a RunError if it failed."""
        if self.popen.poll() is None:
            return False
        with self.output:
            self.output.seek(0)
            last = self.output.read().decode(errors="replace").strip()[-2000:]
        if self.popen.returncode:
            raise RunError(f"{self.cv}: fold {self.fold} ended with exit code {self.popen.returncode}. {last}")
        return True


def _visible_gpus(count: int) -> list[str]:
    """Return the GPUs that this process sees, as named in CUDA_VISIBLE_DEVICES."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",")[:count] if named else [str(i) for i in range(count)]


@dataclass(frozen=True)
class _Network:
    """A network of a fold: what the display calls it, its run's folder, its fold, and whether it is the first."""

    title: str
    path: Path
    fold: int
    first: bool


class FoldWatch:
    """Follows the progress of folds that are trained in processes of their own, by reading their folders.

    Attributes:
        folds: the progress of all networks of all folds when `look` was last called.
    """

    def __init__(self, cv: CrossValidation) -> None:
        train, found = cv.config.train, cv.folds
        self.monitor = resolve_monitor(train, cv.task)
        self.networks = list[_Network]()
        for (repeat, fold), name in fold_names(found.folds, found.repeats).items():
            title = f"fold {fold}" + (f" of repeat {repeat}" if found.repeats > 1 else "")
            path, first = cv.path / name, repeat == 1  # a process trains a fold of all repeats in order
            if train.members == 1:
                self.networks.append(_Network(title, path, fold, first))
                continue
            for number, member in enumerate(member_names(train.members), 1):
                of_fold = f"{title}, network {number}"
                self.networks.append(_Network(of_fold, path / member, fold, first and number == 1))
        self.folds: list[FoldProgress] = []
        self.seen: dict[Path, tuple[tuple[int, ...], FoldProgress]] = {}

    def look(self, running: Collection[int]) -> bool:
        """Read the progress of all folds, given the numbers of those in training; return whether it has changed."""
        before, self.folds = self.folds, [self._read(network, network.fold in running) for network in self.networks]
        return self.folds != before

    @property
    def share(self) -> float:
        """The fraction of all epochs that are done."""
        return statistics.fmean(
            1.0 if fold.status == "done" else len(fold.rows) / max(fold.epochs, 1) for fold in self.folds
        )

    def _read(self, network: _Network, running: bool) -> FoldProgress:
        run = network.path
        files = [path for path in (run / INFO_FILE, run / HISTORY_FILE) if path.is_file()]
        running = running and (bool(files) or network.first)
        name = network.title
        found = FoldProgress(name, "starting" if running else "waiting", 0, (), None, self.monitor)
        state = (running, *(path.stat().st_mtime_ns for path in files))
        seen, known = self.seen.get(run, ((), found))
        if not files or state == seen:
            return known if files else found
        with suppress(XrayfastError, OSError):  # a half-written file is read at the next look
            info, history = Run(run).info, History()
            for row in Run(run).history.to_dict("records") if len(files) > 1 else ():
                history.add(
                    {str(column): None if value != value else value for column, value in row.items()}, self.monitor
                )
            status = "done" if info.status == "completed" else "training" if running and history.rows else found.status
            epochs = sum(phase["epochs"] for phase in info.phases or ())
            known = FoldProgress(name, status, epochs, tuple(history.rows), history.best_epoch, self.monitor)
            self.seen[run] = state, known
        return known
