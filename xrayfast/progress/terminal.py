"""Progress as a live display in a terminal or as plain lines in a log, and the output of text to both."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TextIO

from xrayfast.errors.escapes import escape_hidden
from xrayfast.progress.displayed import DisplayedPhase, FoldProgress
from xrayfast.progress.wording import fold_table, format_duration, format_epoch, format_phase, format_rate, time_left

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text

WIDE = 10_000
"""Width in columns if there is no terminal, so that names and paths are never broken."""


class TextOutput:
    """Output of lines of text to standard output."""

    @property
    def console(self) -> Console:
        """The console for text."""
        return open_console(sys.stdout)

    def line(self, text: str = "") -> None:
        """Print a line of text."""
        self.console.print(styled(text))

    def note(self, text: str) -> None:
        """Print a note in color."""
        self.console.print(styled(("Note: ", "yellow"), text))


def styled(*pieces: str | tuple[str, str]) -> Text:
    """Return a line for a console, made of pieces of text with their styles, with hidden characters escaped.

    Plain strings are not used, because rich would replace `:x:` in them by an emoji.
    """
    from rich.text import Text

    return Text.assemble(
        *(
            (escape_hidden(piece), "") if isinstance(piece, str) else (escape_hidden(piece[0]), piece[1])
            for piece in pieces
        )
    )


def open_console(file: TextIO) -> Console:
    """Return a console that wraps lines at words in a terminal, but not in a file or pipe.

    If the reader of a pipe exits, as `head` does, further output is discarded, so that the command writes its files.
    """
    from rich.console import Console

    console = Console(file=file, highlight=False)
    console.on_broken_pipe = partial(discard, file)  # type: ignore[method-assign]  # rich would end the process
    console.soft_wrap = not console.is_terminal
    if console.width < 1 or not (console.is_terminal or "COLUMNS" in os.environ):
        console.width = WIDE
    return console


def discard(file: TextIO) -> None:
    """Discard all further output to a file of the process, such as standard output."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), file.fileno())


SECONDS_BETWEEN_LINES = 15.0
"""Interval between lines on the progress of an epoch, without a terminal."""


class PlainReporter:
    """A Reporter that prints lines of text, for logs, pipes and --json."""

    def __init__(self, out: TextOutput) -> None:
        self.out, self.ended, self.printed = out, set[str](), dict[str, int]()
        self.last = time.monotonic()

    def note(self, text: str) -> None:
        """Print a note."""
        self.out.note(text)

    def preparing(self, stage: str, done: int, total: int) -> None:
        """Print how many images of a stage are done, at intervals and once at its end."""
        ended = done == total and stage not in self.ended
        if ended or (done < total and time.monotonic() - self.last >= SECONDS_BETWEEN_LINES):
            self.last = time.monotonic()
            self.out.line(f"  {stage}: {done} of {total} images")
        if ended:
            self.ended.add(stage)

    def phase(self, phase: DisplayedPhase) -> None:
        """Print which layers are trained, and at which learning rates."""
        self.out.line(format_phase(phase))

    def batch(self, *, split: str, done: int, total: int, epoch: int, loss: float, images: int, seconds: float) -> None:
        """Print the batch, loss, rate and time left, at intervals."""
        if time.monotonic() - self.last < SECONDS_BETWEEN_LINES:
            return
        self.last = time.monotonic()
        self.out.line(
            f"  epoch {epoch} {split}: batch {done} of {total}  loss {loss:.3f}  {format_rate(images, seconds)}  "
            f"{format_duration(time_left(done, total, seconds))} left"
        )

    def epoch(self, row: Mapping[str, Any], best: bool) -> None:
        """Print the epoch's row of the history."""
        self.last = time.monotonic()
        self.out.line(format_epoch(row, best))

    def folds(self, folds: Sequence[FoldProgress]) -> None:
        """Print the new epochs of each fold, and once that the fold is done."""
        for fold in folds:
            for row in fold.rows[self.printed.get(fold.name, 0) :]:
                self.out.line(f"  {fold.name}, {format_epoch(row, row['epoch'] == fold.best_epoch)}")
            self.printed[fold.name] = len(fold.rows)
            if fold.status == "done" and fold.name not in self.ended:
                self.ended.add(fold.name)
                self.out.line(f"  {fold.name}: done")


class LiveReporter(PlainReporter):
    """A Reporter that shows a live progress bar below the lines of the epochs so far."""

    def __init__(self, out: TextOutput) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        class BarBelowFolds(Progress):
            """A progress bar below a table of the folds that are trained at the same time, if any."""

            table: RenderableType | None = None

            def get_renderables(self) -> Iterator[RenderableType]:
                if self.table is not None:
                    yield self.table
                yield from super().get_renderables()

        super().__init__(out)
        self.progress = BarBelowFolds(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TextColumn("{task.fields[text]}"),
            TimeRemainingColumn(),
            console=out.console,
            transient=True,
            refresh_per_second=4,
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

    def phase(self, phase: DisplayedPhase) -> None:
        """Print above the bar which layers are trained."""
        self.progress.console.print(styled((format_phase(phase), "bold")))
        self.name = phase.name

    def batch(self, *, split: str, done: int, total: int, epoch: int, loss: float, images: int, seconds: float) -> None:
        """Move the bar."""
        text = f"loss {loss:.3f}  {format_rate(images, seconds)}"
        self._show(f"{self.name} · epoch {epoch} · {split}", done, total, text)

    def _show(self, title: str, done: int, total: int, text: str) -> None:
        """Move the bar with this title; a new title replaces the bar by a new one."""
        if title != self.title:
            if self.task is not None:
                self.progress.remove_task(self.task)
            self.task, self.title = self.progress.add_task(title, total=total, text=text), title
        self.progress.update(self.task, completed=done, text=text)

    def epoch(self, row: Mapping[str, Any], best: bool) -> None:
        """Print the epoch's row of the history above the bar."""
        self.progress.console.print(styled((format_epoch(row, best), "green" if best else "")))

    def folds(self, folds: Sequence[FoldProgress]) -> None:
        """Show the table of folds above the bar; it stays after all are done."""
        from rich.table import Table

        head, *rows = fold_table(folds)
        table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
        for i, title in enumerate(head):
            table.add_column(title, justify="left" if i in (0, len(head) - 1) else "right", no_wrap=True)
        for row, fold in zip(rows, folds, strict=True):
            table.add_row(*row, style={"done": "green", "waiting": "dim"}.get(fold.status, ""))
        all_done = all(fold.status == "done" for fold in folds)
        self.progress.table = None if all_done else table
        if all_done:
            self.progress.refresh()
            self.progress.console.print(table)


@contextmanager
def reporting(out: TextOutput) -> Iterator[PlainReporter]:
    """Yield a live display if the output is a terminal; otherwise plain lines."""
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
