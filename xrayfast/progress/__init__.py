"""What is displayed while the package works: HTML in a notebook, a live bar in a terminal, plain lines in a log."""

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
"""Called with the stage, the images done and the total."""


def no_progress(stage: str, done: int, total: int) -> None:
    """A StageProgress that does nothing."""


@runtime_checkable
class DisplaysFolds(Protocol):
    """A Reporter that displays folds that are trained at once."""

    def folds(self, folds: Sequence[FoldProgress]) -> None:
        """How far all folds are; called where that of one has changed."""


@runtime_checkable
class Reporter(Protocol):
    """Receives progress, and displays it."""

    def note(self, text: str) -> None:
        """A sentence to display."""

    def preparing(self, stage: str, done: int, total: int) -> None:
        """Outside of epochs, `done` of `total` images are through a stage such as "decoding"."""

    def phase(self, phase: DisplayedPhase) -> None:
        """A phase begins."""

    def batch(self, *, split: str, done: int, total: int, epoch: int, loss: float, images: int, seconds: float) -> None:
        """`done` of `total` batches of split "train" or "valid" of the (1-based) epoch are done.

        Called about ten times per second, and for the last batch. `loss` is the smoothed training loss; `images` and
        `seconds` count this split of this epoch.
        """

    def epoch(self, row: Mapping[str, Any], best: bool) -> None:
        """An epoch is done; `row` is its row of `history.csv`, `best` whether it is the best so far."""


class NullReporter:
    """A Reporter that displays nothing.

    Args:
        progress: called for each report of a stage, all the same.
        note: called with each note, likewise.
    """

    def __init__(self, progress: StageProgress | None = None, note: Callable[[str], None] | None = None) -> None:
        given = {"preparing": progress, "note": note}
        vars(self).update({name: called for name, called in given.items() if called is not None})

    def _ignore(self, *_: Any, **__: Any) -> None:
        pass

    note = preparing = phase = batch = epoch = folds = _ignore


class ForgivingReporter(NullReporter):
    """Passes all on to another Reporter until that fails: a closed terminal or pipe must not end training.

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
            except (Exception, SystemExit) as error:  # rich exits where the reader of a pipe has
                if isinstance(error, KeyboardInterrupt):  # SIGTERM, which is both
                    raise
                self.failed = True
                warn(f"Progress can't be displayed any more, and work goes on without it: {error!r}")
            return not self.failed

        return call


class FoldReporter(NullReporter):
    """Passes all on to another Reporter, the phases by names that begin with the fold's, and each note once.

    Attributes:
        fold: which one, such as "fold 2 of 5".
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
    """The name of the method that displays folds, where there is one."""
    return ("folds",) if isinstance(reporter, DisplaysFolds) else ()


def in_notebook() -> bool:
    """Whether this is the kernel of a notebook, which displays HTML."""
    return notebook_shell() is not None


@contextmanager
def show_progress(progress: bool | StageProgress | None = None, reporter: Reporter | None = None) -> Iterator[Reporter]:
    """The Reporter for one call of a public function; notes and warnings within the block are displayed by it.

    Where nothing is displayed, notes are warnings of Python; ranks other than 0 give none.

    Args:
        progress: True displays it; None only in a notebook and where standard output is a terminal; False does not. A
            callable gets the stages, and nothing is displayed.
        reporter: of the caller's own, in place of a display.

    Raises:
        ConfigError: both are given.
        Interrupted: in a notebook, for a KeyboardInterrupt, whose traceback would fill the cell.
    """
    if reporter is not None:
        if progress is not None:
            raise ConfigError("found progress and reporter; expected one of them: a reporter displays progress itself.")
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
            raise Interrupted(f"Stopped{where}. Run the cell again to start anew.") from None
        raise
    with suppress(Exception):
        reporter.end("")
