"""Training as it is seen in a terminal: a live display, or plain lines where there is no terminal."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from xrayfast.cli.output import Output, shown

if TYPE_CHECKING:
    from xrayfast.learning.training.phases import Phase

SECONDS_BETWEEN_LINES = 15.0
"""How often a long epoch says where it is when there is no terminal."""


def epoch_text(row: Mapping[str, Any], best: bool) -> str:
    """An epoch's row of the history in one line.

    >>> row = {"epoch": 1, "phase": "head", "train_loss": 1.0, "valid_loss": 0.5, "accuracy": None, "seconds": 61.0}
    >>> epoch_text(row, best=True)
    'epoch 1 (head)  train 1.000  valid 0.500  accuracy –  61 s  *best'
    """
    from xrayfast.metrics.registry import epoch_metrics

    words = {"train_loss": "train", "valid_loss": "valid"}
    words |= {name: metric.short or metric.title for name, metric in epoch_metrics().items()}
    numbers = [f"{word} {shown(row[name])}" for name, word in words.items() if name in row]
    return "  ".join(
        [
            f"epoch {row['epoch']} ({row['phase']})",
            *numbers,
            f"{row['seconds']:.0f} s",
            *(["*best"] if best else []),
        ]
    )


class PlainReporter:
    """Lines of text; for logs, pipes and --json."""

    def __init__(self, out: Output) -> None:
        self.out = out
        self.last = time.monotonic()

    def note(self, text: str) -> None:
        """A note."""
        self.out.note(text)

    def preparing(self, stage: str, done: int, total: int) -> None:
        """Now and then, how many images are through a stage."""
        if time.monotonic() - self.last >= SECONDS_BETWEEN_LINES:
            self.last = time.monotonic()
            self.out.line(f"  {stage}: {done} of {total} images")

    def phase(self, phase: Phase) -> None:
        """Which layers are trained now, and at which rates."""
        self.out.line(phase_text(phase))

    def batch(self, *, split: str, done: int, total: int, epoch: int, loss: float, images: int, seconds: float) -> None:
        """Now and then, where the epoch is."""
        if time.monotonic() - self.last < SECONDS_BETWEEN_LINES:
            return
        self.last = time.monotonic()
        rate = images / seconds if seconds else 0.0
        self.out.line(
            f"  epoch {epoch} {split}: batch {done} of {total}  loss {loss:.3f}  {rate:.1f} images/s  "
            f"{_left(done, total, seconds)} left"
        )

    def epoch(self, row: Mapping[str, Any], best: bool) -> None:
        """The row."""
        self.last = time.monotonic()
        self.out.line(epoch_text(row, best))


class LiveReporter(PlainReporter):
    """A bar for the current part of the epoch, under the lines of the epochs so far."""

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
        self.shown = ""

    def note(self, text: str) -> None:
        """A note, above the bar."""
        self.progress.console.print(f"Note: {text}", style="yellow", markup=False)

    def preparing(self, stage: str, done: int, total: int) -> None:
        """Move the bar, and take it away when all is done."""
        self._show(stage, done, total, "")
        if done == total and self.task is not None:
            self.progress.remove_task(self.task)
            self.task, self.shown = None, ""

    def phase(self, phase: Phase) -> None:
        """Which layers are trained now, above the bar."""
        self.progress.console.print(phase_text(phase), style="bold", markup=False)
        self.name = phase.name

    def batch(self, *, split: str, done: int, total: int, epoch: int, loss: float, images: int, seconds: float) -> None:
        """Move the bar."""
        rate = images / seconds if seconds else 0.0
        self._show(f"{self.name} · epoch {epoch} · {split}", done, total, f"loss {loss:.3f}  {rate:.1f} images/s")

    def _show(self, title: str, done: int, total: int, text: str) -> None:
        """Move the bar of that title, or begin it in the place of the last one."""
        if title != self.shown:
            if self.task is not None:
                self.progress.remove_task(self.task)
            self.task, self.shown = self.progress.add_task(title, total=total, text=text), title
        self.progress.update(self.task, completed=done, text=text)

    def epoch(self, row: Mapping[str, Any], best: bool) -> None:
        """The row, above the bar."""
        self.progress.console.print(epoch_text(row, best), style="green" if best else "", markup=False)


@contextmanager
def reporting(out: Output) -> Iterator[PlainReporter]:
    """The reporter that fits standard output."""
    if not out.console.is_terminal:
        yield PlainReporter(out)
        return
    reporter = LiveReporter(out)
    with reporter.progress:
        yield reporter


class StopRequest:
    """Whether Ctrl-C was pressed. The first time it is only noted, and training stops after the batch; the second
    time it interrupts at once.
    """

    def __init__(self) -> None:
        self.asked = False

    def __call__(self) -> bool:
        """Whether to stop after this batch."""
        return self.asked

    def _handle(self, *_: Any) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True

    @contextmanager
    def listening(self) -> Iterator[StopRequest]:
        """Take Ctrl-C within the block."""
        before = signal.signal(signal.SIGINT, self._handle)
        try:
            yield self
        finally:
            signal.signal(signal.SIGINT, before)


def phase_text(phase: Phase) -> str:
    """A phase in one line."""
    trained = phase.lrs[phase.frozen :]
    rates = (
        f"{trained[-1]:.2g}" if len({f"{lr:.2g}" for lr in trained}) == 1 else f"{trained[0]:.2g} to {trained[-1]:.2g}"
    )
    epochs = "1 epoch" if phase.epochs == 1 else f"{phase.epochs} epochs"
    return f"Training {phase.name}: {epochs}, learning rate {rates}"


def _left(done: int, total: int, seconds: float) -> str:
    rest = seconds / done * (total - done) if done else 0.0
    return f"{rest / 60:.0f} min" if rest >= 90 else f"{rest:.0f} s"
