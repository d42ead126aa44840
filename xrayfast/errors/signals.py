"""Signals that ask a process to end: SIGTERM, SIGHUP and SIGUSR1 are handled as Ctrl-C is."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import FrameType
from typing import TypedDict

INTERRUPTED = 130
"""The exit code after Ctrl-C."""

STOP_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name)
)
"""Windows has no SIGHUP and no SIGUSR1. SLURM sends the latter before a time limit, with --signal=USR1@SECONDS."""


def exit_code_of(number: int) -> int:
    """The exit code of a process that a signal ended: 143 for SIGTERM, and for SIGUSR1, which announces it."""
    announced = number == getattr(signal, "SIGUSR1", None)
    return 128 + (signal.SIGTERM if announced else number)


class Stopped(KeyboardInterrupt, SystemExit):
    """SIGTERM, SIGHUP or SIGUSR1. What catches Ctrl-C catches it; where nothing does, Python exits with `exit_code`."""

    def __init__(self, number: int) -> None:
        super().__init__(f"Stopped by {signal.Signals(number).name}.")
        self.exit_code = self.code = exit_code_of(number)
        self._number, self._block = number, _BLOCKS[-1] if _BLOCKS else None

    def __del__(self) -> None:
        """Send the signal again where the exception was swallowed: many libraries have bare excepts in their imports.

        Here it could not be raised, but it can a moment later.
        """
        if self._block in _BLOCKS:
            again = threading.Timer(0.02, _send_again, (self._number, self._block))
            again.daemon = True
            again.start()


_BLOCKS: list[object] = []
"""One object for each block of `handling_signals` that is running."""


def _send_again(number: int, block: object) -> None:
    if block in _BLOCKS:  # else it has left the block meanwhile
        signal.raise_signal(number)  # on Windows os.kill would end the process


def raise_stopped(number: int, frame: FrameType | None) -> None:
    """Raise Stopped, or KeyboardInterrupt for Ctrl-C: a signal handler."""
    raise KeyboardInterrupt if number == signal.SIGINT else Stopped(number)


@contextmanager
def handling_signals(handler: Callable[[int, FrameType | None], None] = raise_stopped) -> Iterator[None]:
    """Within the block the handler gets the signals that would otherwise end the process.

    A signal that is ignored, as `nohup` has SIGHUP ignored, or that the program handles itself, stays so. Python allows
    handlers only in the main thread; in others nothing changes.
    """
    replaced = (signal.SIG_DFL, signal.default_int_handler, raise_stopped)
    main = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS if main}
    ours = [number for number, found in before.items() if found in replaced]
    block = object()
    _BLOCKS.append(block)
    try:
        for number in ours:
            signal.signal(number, handler)
        yield
    finally:
        _BLOCKS.remove(block)
        for number in ours:
            signal.signal(number, before[number])


def leave_signals_to_parent(numbers: tuple[int, ...] = STOP_SIGNALS) -> None:
    """Ignore them: they reach the whole job or terminal, and the main process ends this one."""
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)


def end_by_parent_alone() -> None:
    """Let SIGTERM end this process where its parent sends it, and ignore what reaches the whole job: the parent may
    need it until it stops. Where the system can't tell the two, as macOS and Windows, either ends it.
    """
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        threading.Thread(target=_obey_parent, daemon=True).start()


def _obey_parent() -> None:
    if hasattr(signal, "sigwaitinfo"):
        while signal.sigwaitinfo([signal.SIGTERM]).si_pid != os.getppid():
            pass
        os._exit(0)


class _StartArguments(TypedDict, total=False):
    preexec_fn: Callable[[], None]


def ending_with_parent() -> _StartArguments:
    """Arguments of `subprocess.Popen` with which the child process gets SIGTERM when this process ends in any way, by
    SIGKILL too; none where the system has no such signal, as only Linux does.
    """
    prctl = getattr(ctypes.CDLL(None), "prctl", None) if sys.platform == "linux" else None
    if prctl is None:
        return {}
    parent, on_death = os.getpid(), 1  # PR_SET_PDEATHSIG

    def ask_for_signal() -> None:
        prctl(on_death, int(signal.SIGTERM))
        if os.getppid() != parent:  # it ended before
            os._exit(INTERRUPTED)

    return {"preexec_fn": ask_for_signal}


SENT_TWICE = 1.0
"""Seconds in which a signal that comes again is the same one: what stops the whole job reaches torchrun and timeout
too, which send it on.
"""


class StopRequest:
    """Whether a signal asked to stop, also where what it raised was swallowed or turned into another exception.

    Attributes:
        exit_code: of the process once it has stopped.
    """

    def __init__(self) -> None:
        self.asked, self.exit_code = False, INTERRUPTED
        self._number, self._came = 0, 0.0

    def __call__(self) -> bool:
        """Whether one came."""
        return self.asked

    def _handle(self, number: int, frame: FrameType | None) -> None:
        again = number == self._number != signal.SIGINT and time.monotonic() - self._came < SENT_TWICE
        if self.asked and not again:
            raise_stopped(number, frame)
        if not self.asked:
            self.asked, self.exit_code = True, exit_code_of(number)
            self._number, self._came = number, time.monotonic()

    def listening(self) -> AbstractContextManager[None]:
        """Within the block the first signal is remembered only, a second one interrupts at once unless it is the
        first, sent twice.
        """
        return handling_signals(self._handle)

    @contextmanager
    def interrupting(self) -> Iterator[None]:
        """Within the block a signal interrupts at once; one that was swallowed interrupts at the end."""

        def handle(number: int, frame: FrameType | None) -> None:
            self.asked, self.exit_code = True, exit_code_of(number)
            raise_stopped(number, frame)

        with handling_signals(handle):
            yield
        if self.asked:
            raise KeyboardInterrupt
