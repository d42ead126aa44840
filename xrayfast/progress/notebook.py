"""Progress in a notebook: one HTML output of the cell, updated in place. Needs only IPython, not ipywidgets."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from xrayfast.progress.displayed import DisplayedPhase, FoldProgress
from xrayfast.progress.html import Bar, EpochTable, render_page, render_table
from xrayfast.progress.wording import fold_table, format_duration, format_phase, format_rate, time_left

SECONDS_BETWEEN_UPDATES = 0.5
"""Shortest interval between two updates of the bar."""


class NotebookReporter:
    """A Reporter that shows a progress bar, and below it the epochs as a table and a plot, and the notes.

    The output of the cell is created when there is something to display.
    """

    def __init__(self) -> None:
        self.began = self.updated = time.monotonic()
        self.table, self.notes, self.stages = EpochTable(), list[str](), dict[str, int]()
        self.bar: Bar | None = None
        self.title = ""
        self.rate: float | None = None
        self.train_seconds = 0.0
        self.phase_epochs = (0, 0)
        self.handle: Any = None

    def note(self, text: str) -> None:
        """Add a note."""
        self.notes.append(text)
        self._update()

    def preparing(self, stage: str, done: int, total: int) -> None:
        """Move the bar of the stage, and remove it when all images are done."""
        first = stage not in self.stages
        self.stages[stage] = total
        self.title = self._describe_stages()
        self.bar = Bar(stage, done, total, f"{done:,} of {total:,} images") if done < total else None
        self._update(force=first or done >= total)

    def phase(self, phase: DisplayedPhase) -> None:
        """Display which layers are trained now, and at which learning rates."""
        self.title = format_phase(phase)
        self.phase_epochs = (self.table.last_epoch, self.table.last_epoch + phase.epochs)
        self._update()

    def batch(self, *, split: str, done: int, total: int, epoch: int, loss: float, images: int, seconds: float) -> None:
        """Move the bar."""
        first, last = self.phase_epochs
        if epoch > self.table.last_epoch + 1:  # a resumed run, whose earlier epochs are not known here
            self.phase_epochs = first, last = epoch, epoch
        left = time_left(done, total, seconds)
        pace = left + seconds
        if split == "train":
            self.rate, self.train_seconds = images / max(seconds, 1e-9), pace
        else:
            pace += self.train_seconds
        words = [f"{done} of {total} batches", f"loss {loss:.3f}", format_rate(images, seconds)]
        left += max(last - epoch, 0) * (self.table.seconds_per_epoch(first) or pace)
        words.append(f"{format_duration(left)} left in this {'phase' if last > epoch else 'epoch'}")
        title = f"epoch {epoch}{f' of {last}' if last > epoch else ''} · {split}"
        self.bar = Bar(title, done, total, " · ".join(words))
        self._update(force=False)

    def epoch(self, row: Mapping[str, Any], best: bool) -> None:
        """Add the epoch to the table and the plot."""
        self.table.add(row, best, self.rate)
        self.bar, self.rate = None, None
        self._update()

    def folds(self, folds: Sequence[FoldProgress]) -> None:
        """Show the table of folds that are trained at the same time, instead of the table of epochs."""
        head, *rows = fold_table(folds)
        self.table.html = render_table(head, [(row, False) for row in rows])
        self._update()

    def where(self) -> str:
        """Return where the work has stopped, for a message."""
        return f" ({self.bar.title}: {self.bar.done:,} of {self.bar.total:,})" if self.bar else ""

    def end(self, how: str) -> None:
        """Remove the bar. `how` is "" if the work is done, otherwise "stopped" or "failed"."""
        self.bar = None
        if self.handle is not None:
            took = f"{how or 'done'} after {format_duration(time.monotonic() - self.began)}"
            self.title = " · ".join(filter(None, [self._describe_stages(), took]))
            self._update()

    def _describe_stages(self) -> str:
        return " · ".join(f"{stage}: {total:,} images" for stage, total in self.stages.items())

    def _update(self, force: bool = True) -> None:
        now = time.monotonic()
        if not force and now - self.updated < SECONDS_BETWEEN_UPDATES:
            return
        self.updated = now
        bundle = {
            "text/html": render_page(self.title, self.bar, self.table, self.notes),
            "text/plain": self.bar.title if self.bar else self.title,
        }
        if self.handle is not None:
            self.handle.update(bundle, raw=True)
            return
        from IPython.display import display

        self.handle = display(bundle, raw=True, display_id=True)  # type: ignore[no-untyped-call]
