"""Displays of progress: HTML in a notebook, a live bar in a terminal, plain lines in a log."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import replace
from typing import Any, Protocol, TypeAlias, runtime_checkable

from xrayfast.display.overview import notebook_shell
from xrayfast.errors import ConfigError, Interrupted
from xrayfast.errors.advice import advise
from xrayfast.errors.escapes import passing_warnings, warn
from xrayfast.launch import is_rank_zero
from xrayfast.progress.displayed import DisplayedPhase, FoldProgress

StageProgress: TypeAlias = Callable[[str, int, int], None]
"""A function that is called with the stage, the number of images done and the total."""


def no_progress(stage: str, done: int, total: int) -> None:
    """A StageProgress that does nothing."""


@runtime_checkable
class DisplaysFolds(Protocol):
    """A Reporter that can display folds that are trained at the same time."""

    def folds(self, folds: Sequence[FoldProgress]) -> None:
        """Display the progress of all folds; called when that of one has changed."""


@runtime_checkable
class Reporter(Protocol):
    """A receiver of progress, which displays it."""

    def note(self, text: str) -> None:
        """Display a sentence."""

    def preparing(self, stage: str, done: int, total: int) -> None:
        """Display that `done` of `total` images have completed a stage before training, such as "decoding"."""

    def phase(self, phase: DisplayedPhase) -> None:
        """Display that a phase begins."""

    def batch(self, *, split: str, done: int, total: int, epoch: int, loss: float, images: int, seconds: float) -> None:
        """Display that `done` of `total` batches of the split in this epoch are done.

        Called about ten times per second, and for the last batch.

        Args:
            split: "train" or "valid".
            done: number of batches done.
            total: number of batches.
            epoch: number of the epoch, from 1.
            loss: smoothed training loss.
            images: number of images of the split that this epoch has processed.
            seconds: time that they took.
        """

    def epoch(self, row: Mapping[str, Any], best: bool) -> None:
        """Display an epoch that is done, given its row of `history.csv` and whether it is the best so far."""


class NullReporter:
    """A Reporter that displays nothing.

    Args:
        progress: function to call for each report of a stage; None for none.
        note: function to call with each note; None for none.
    """

    def __init__(self, progress: StageProgress | None = None, note: Callable[[str], None] | None = None) -> None:
        given = {"preparing": progress, "note": note}
        vars(self).update({name: called for name, called in given.items() if called is not None})

    def _ignore(self, *_: Any, **__: Any) -> None:
        pass

    note = preparing = phase = batch = epoch = folds = _ignore


class ForgivingReporter(NullReporter):
    """A Reporter that passes everything on to another one until that fails: a closed terminal must not end training.

    Each method returns whether it was displayed.
    """

    def __init__(self, reporter: Reporter) -> None:
        self.failed = False
        for name in ("note", "preparing", "phase", "batch", "epoch", *_folds_of(reporter)):
            setattr(self, name, self._forgiving(getattr(reporter, name)))
        display_note = self.note
        vars(self)["note"] = lambda text: display_note(advise(text))

    def _forgiving(self, report: Callable[..., None]) -> Callable[..., bool]:
        def call(*args: Any, **options: Any) -> bool:
            try:
                if not self.failed:
                    report(*args, **options)
            except Exception as error:
                if isinstance(error, KeyboardInterrupt):  # `Stopped`, for SIGTERM, is both
                    raise
                self.failed = True
                warn(f"Progress can no longer be displayed; the work continues without it: {error!r}")
            return not self.failed

        return call


class FoldReporter(NullReporter):
    """A Reporter that passes everything on to another one, with the fold in the names of phases, and each note once.

    Attributes:
        fold: the current fold, such as "fold 2 of 5".
    """

    def __init__(self, reporter: Reporter) -> None:
        self.fold, noted = "", set[str]()

        def note(text: str) -> None:
            if text not in noted:
                noted.add(text)
                reporter.note(text)

        def begin(phase: Any) -> None:
            reporter.phase(replace(phase, name=f"{self.fold}, {phase.name}"))

        vars(self).update(note=note, phase=begin)
        names = ("preparing", "batch", "epoch", *_folds_of(reporter))
        vars(self).update({name: getattr(reporter, name) for name in names})


def _folds_of(reporter: Reporter) -> tuple[str, ...]:
    """Return the name of the method that displays folds, if the reporter has it."""
    return ("folds",) if isinstance(reporter, DisplaysFolds) else ()


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook, which displays HTML."""
    return notebook_shell() is not None


@contextmanager
def show_progress(progress: bool | StageProgress | None = None, reporter: Reporter | None = None) -> Iterator[Reporter]:
    """Yield the Reporter for one call of a public function, which also displays notes and warnings of the block.

    If nothing is displayed, notes become Python warnings; ranks other than 0 give none.

    Args:
        progress: True displays progress; None displays it only in a notebook or if standard output is a terminal; False
            never does. A callable receives the stages, and nothing is displayed.
        reporter: the caller's own reporter, used instead of a display.

    Raises:
        ConfigError: both arguments are given.
        Interrupted: in a notebook, instead of a KeyboardInterrupt, whose traceback would fill the cell.
    """
    if reporter is not None:
        if progress is not None:
            raise ConfigError(
                "found both progress and reporter; expected one of them, because a reporter displays progress itself."
            )
        yield reporter
        return
    notebook, terminal = in_notebook(), sys.stdout is not None and sys.stdout.isatty()
    shown = notebook or terminal if progress is None else progress is True
    if not shown or not is_rank_zero():
        yield NullReporter(progress if callable(progress) else None, warn if is_rank_zero() else None)
        return
    with _notebook_display() if notebook else _text_display() as display:
        forgiving = ForgivingReporter(display)
        with passing_warnings(forgiving.note):
            yield forgiving


def _text_display() -> AbstractContextManager[Reporter]:
    from xrayfast.progress.terminal import TextOutput, reporting

    return reporting(TextOutput())


@contextmanager
def _notebook_display() -> Iterator[Reporter]:
    from xrayfast.progress.notebook import NotebookReporter

    reporter = NotebookReporter()
    try:
        yield reporter
    except BaseException as error:
        where = reporter.where()
        with suppress(Exception):
            reporter.end("stopped" if isinstance(error, (KeyboardInterrupt, Interrupted)) else "failed")
        if type(error) is KeyboardInterrupt:  # not SIGTERM, which ends the kernel
            raise Interrupted(f"Stopped{where}. Run the cell again to start over.") from None
        raise
    with suppress(Exception):
        reporter.end("")
