"""Progress of training: a live display in a terminal, plain lines in a file or pipe."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from xrayfast.cli.output import Output, format_cell, styled
from xrayfast.errors import plural

if TYPE_CHECKING:
    from xrayfast.learning.training.phases import Phase

SECONDS_BETWEEN_LINES = 15.0
"""Of the progress of a long epoch, where there is no terminal."""


def format_epoch(row: Mapping[str, Any], best: bool) -> str:
    """Format an epoch's row of the history as one line.

    >>> row = {"epoch": 1, "phase": "head", "train_loss": 1.0, "valid_loss": 0.5, "seconds": 61.0}
    >>> format_epoch(row | {"valid_accuracy": None, "train_accuracy": 0.75}, best=True)
    'epoch 1 (head)  train 1.000  valid 0.500  accuracy – (train 0.750)  61 s  *best'
    """
    from xrayfast.metrics.registry import EXACT_MATCH, epoch_metrics, history_column

    words = {"train_loss": "train", "valid_loss": "valid"}
    words |= {history_column("valid", name): metric.short or metric.title for name, metric in epoch_metrics().items()}
    # One metric of both splits is enough for a line.
    trained = {history_column("valid", name): history_column("train", name) for name in EXACT_MATCH.values()}
    numbers = [
        f"{word} {format_cell(row[name])}"
        + (f" (train {format_cell(row[trained[name]])})" if trained.get(name) in row else "")
        for name, word in words.items()
        if name in row
    ]
    mark = ["*best"] if best else []
    return "  ".join([f"epoch {row['epoch']} ({row['phase']})", *numbers, f"{row['seconds']:.0f} s", *mark])


class PlainReporter:
    """Prints lines of text; for logs, pipes and --json."""

    def __init__(self, out: Output) -> None:
        self.out = out
        self.last = time.monotonic()

    def note(self, text: str) -> None:
        """Print a note."""
        self.out.note(text)

    def preparing(self, stage: str, done: int, total: int) -> None:
        """Print how many images of a stage are done, at intervals."""
        if time.monotonic() - self.last >= SECONDS_BETWEEN_LINES:
            self.last = time.monotonic()
            self.out.line(f"  {stage}: {done} of {total} images")

    def phase(self, phase: Phase) -> None:
        """Print which layers are trained now, and at which learning rates."""
        self.out.line(format_phase(phase))

    def batch(self, *, split: str, done: int, total: int, epoch: int, loss: float, images: int, seconds: float) -> None:
        """Print the batch, loss, rate and time left, at intervals."""
        if time.monotonic() - self.last < SECONDS_BETWEEN_LINES:
            return
        self.last = time.monotonic()
        self.out.line(
            f"  epoch {epoch} {split}: batch {done} of {total}  loss {loss:.3f}  {_format_rate(images, seconds)}  "
            f"{_time_left(done, total, seconds)} left"
        )

    def epoch(self, row: Mapping[str, Any], best: bool) -> None:
        """Print the epoch's row of the history."""
        self.last = time.monotonic()
        self.out.line(format_epoch(row, best))


class LiveReporter(PlainReporter):
    """Shows a progress bar of the current split, below the lines of the epochs so far."""

    def __init__(self, out: Output) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        super().__init__(out)
        self.progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TextColumn("{task.fields[text]}"),
            TimeRemainingColumn(),
            console=out.console,
            transient=True,
        )
        self.task: Any = None
        self.title = ""

    def note(self, text: str) -> None:
        """Print a note above the bar."""
        self.progress.console.print(styled((f"Note: {text}", "yellow")))

    def preparing(self, stage: str, done: int, total: int) -> None:
        """Move the bar, and remove it when all images are done."""
        self._show(stage, done, total, "")
        if done == total and self.task is not None:
            self.progress.remove_task(self.task)
            self.task, self.title = None, ""

    def phase(self, phase: Phase) -> None:
        """Print which layers are trained now, above the bar."""
        self.progress.console.print(styled((format_phase(phase), "bold")))
        self.name = phase.name

    def batch(self, *, split: str, done: int, total: int, epoch: int, loss: float, images: int, seconds: float) -> None:
        """Move the bar."""
        text = f"loss {loss:.3f}  {_format_rate(images, seconds)}"
        self._show(f"{self.name} · epoch {epoch} · {split}", done, total, text)

    def _show(self, title: str, done: int, total: int, text: str) -> None:
        """Move the bar of that title; a new title starts a new bar in place of the last."""
        if title != self.title:
            if self.task is not None:
                self.progress.remove_task(self.task)
            self.task, self.title = self.progress.add_task(title, total=total, text=text), title
        self.progress.update(self.task, completed=done, text=text)

    def epoch(self, row: Mapping[str, Any], best: bool) -> None:
        """Print the epoch's row of the history above the bar."""
        self.progress.console.print(styled((format_epoch(row, best), "green" if best else "")))


@contextmanager
def reporting(out: Output) -> Iterator[PlainReporter]:
    """The live display where the output is a terminal, else plain lines."""
    if not out.console.is_terminal:
        yield PlainReporter(out)
        return
    reporter = LiveReporter(out)
    reporter.progress.start()
    try:
        yield reporter
    finally:
        with suppress(OSError):  # the terminal was closed
            reporter.progress.stop()


def format_phase(phase: Phase) -> str:
    """Format a phase as one line: what is trained, for how long, at which learning rates."""
    trained = phase.lrs[phase.frozen_groups :]
    rates = list(dict.fromkeys((f"{trained[0]:.2g}", f"{trained[-1]:.2g}")))
    return f"Training {phase.name}: {plural(phase.epochs, 'epoch')}, learning rate {' to '.join(rates)}"


def _format_rate(images: int, seconds: float) -> str:
    """Images per second, and whether other programs slow them down."""
    from xrayfast.cpus import METER

    others = METER.describe()
    return f"{images / seconds if seconds else 0.0:.1f} images/s" + (f" (busy: {others})" if others else "")


def _time_left(done: int, total: int, seconds: float) -> str:
    rest = seconds / done * (total - done) if done else 0.0
    return f"{rest / 60:.0f} min" if rest >= 90 else f"{rest:.0f} s"
