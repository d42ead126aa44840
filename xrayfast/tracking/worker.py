"""A thread that calls one tracker, so that training continues whatever the tracker raises and however long it takes."""

from __future__ import annotations

import queue
import sys
import threading
from collections.abc import Callable
from contextlib import redirect_stdout
from typing import Any

from xrayfast.errors import truncate
from xrayfast.tracking.trackers import TrackedRun, Tracker

START_SECONDS = 30.0
"""Seconds to wait for a tracker to start."""

FINISH_SECONDS = 60.0
"""Seconds that a tracker gets to process the remaining calls at the end."""


class TrackerThread:
    """A thread that passes calls on to a tracker in order. After the first call that fails, it passes on no more.

    Args:
        name: name of the tracker, for notes.
        make: makes the tracker; may fail like any call.
        note: called in the caller's thread with a sentence if the tracker fails.
    """

    def __init__(self, name: str, make: Callable[[], Tracker], note: Callable[[str], None]) -> None:
        self.name, self._make, self._note = name, make, note
        self._calls: queue.SimpleQueue[tuple[str, tuple[Any, ...]] | None] = queue.SimpleQueue()
        self._answered, self._problem, self._noted = threading.Event(), "", False
        # A daemon, because it must not keep the process from ending.
        self._thread = threading.Thread(target=self._work, name=f"tracker {name}", daemon=True)

    def start(self, run: TrackedRun) -> None:
        """Start the tracker, and wait for it for up to `START_SECONDS`."""
        self._calls.put(("start", (run,)))
        with redirect_stdout(sys.stderr):  # some trackers print a greeting, and standard output may be JSON
            self._thread.start()
            if not self._answered.wait(START_SECONDS):
                self._note(
                    f"{self.name} has not answered for {START_SECONDS:.0f} s. Training starts without waiting for it."
                )
        self._note_problem()

    def call(self, method: str, *arguments: Any) -> None:
        """Pass a call on, and return at once."""
        self._note_problem()
        self._calls.put((method, arguments))

    def finish(self, status: str, seconds: float = FINISH_SECONDS) -> None:
        """Give the tracker this many seconds to process the remaining calls."""
        self._calls.put(("finish", (status,)))
        self._calls.put(None)
        with redirect_stdout(sys.stderr):
            self._thread.join(seconds)
        if self._thread.is_alive():
            self._note(
                f"{self.name} did not finish uploading within {seconds:.0f} s at the end of the run; some results "
                "may be missing there."
            )
        self._note_problem()

    def _work(self) -> None:
        tracker = None
        while (call := self._calls.get()) is not None:
            method, arguments = call
            try:
                if not self._problem:
                    tracker = tracker or self._make()
                    getattr(tracker, method)(*arguments)
            except BaseException as error:  # in a thread, a SystemExit would go unnoticed
                self._problem = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            self._answered.set()

    def _note_problem(self) -> None:
        """Report the first failure, once."""
        if self._problem and not self._noted:
            self._noted = True
            found = truncate(" ".join(self._problem.split()), 300)
            self._note(
                f"{self.name} failed, so nothing more of this run is sent to it; training continues. The error: "
                f"{found}."
            )
