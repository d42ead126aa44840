"""Handling of signals that ask a process to end: SIGTERM, SIGHUP and SIGUSR1 are handled like Ctrl-C."""

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
"""Windows has no SIGHUP and no SIGUSR1. SLURM sends SIGUSR1 before a time limit, with --signal=USR1@SECONDS."""


def exit_code_of(number: int) -> int:
    """Return the exit code after a signal: 143 for SIGTERM, and for SIGUSR1, which announces SIGTERM."""
    announced = number == getattr(signal, "SIGUSR1", None)
    return 128 + (signal.SIGTERM if announced else number)


class Stopped(KeyboardInterrupt, SystemExit):
    """Raised for SIGTERM, SIGHUP or SIGUSR1. Code that catches Ctrl-C catches it; otherwise Python exits."""

    def __init__(self, number: int) -> None:
        super().__init__(f"Stopped by {signal.Signals(number).name}.")
        self.exit_code = self.code = exit_code_of(number)
        self._number, self._block = number, _BLOCKS[-1] if _BLOCKS else None

    def __del__(self) -> None:
        """Send the signal again if the exception was swallowed: many libraries have bare excepts in their imports.

        An exception can't be raised in `__del__`, so a timer sends the signal a moment later.
        """
        if self._block in _BLOCKS:
            again = threading.Timer(0.02, _send_again, (self._number, self._block))
            again.daemon = True
            again.start()


_BLOCKS: list[object] = []
"""One object per running block of `handling_signals`."""


def _send_again(number: int, block: object) -> None:
    if block in _BLOCKS:  # otherwise the block has ended
        signal.raise_signal(number)  # on Windows os.kill would end the process


def raise_stopped(number: int, frame: FrameType | None) -> None:
    """Handle a signal by raising Stopped, or KeyboardInterrupt for Ctrl-C."""
    raise KeyboardInterrupt if number == signal.SIGINT else Stopped(number)


@contextmanager
def handling_signals(handler: Callable[[int, FrameType | None], None] = raise_stopped) -> Iterator[None]:
    """Pass the signals that would otherwise end the process to `handler` within the block.

    Signals that are ignored, as SIGHUP is under `nohup`, or that the program already handles, are left alone. Python
    allows handlers only in the main thread; in other threads nothing changes.
    """
    replaced = (signal.SIG_DFL, signal.default_int_handler, raise_stopped)
    main = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS if main}
    recording = handler is not raise_stopped  # takes over within a block of `interrupting`, to stop less abruptly
    interrupting = [
        number
        for number, found in before.items()
        if recording and getattr(found, "__func__", None) is StopRequest._interrupt
    ]
    ours = [*interrupting, *(number for number, found in before.items() if found in replaced)]
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
    """Ignore these signals in a child process: they reach the whole job or terminal, and the parent ends the child."""
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)


def end_by_parent_alone() -> None:
    """Let SIGTERM end this process only if its parent sends it.

    A SIGTERM to the whole job is ignored, because the parent may need this process until it stops itself. On macOS and
    Windows, which don't tell the sender, any SIGTERM ends the process.
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
    """Return arguments of `subprocess.Popen` that send the child SIGTERM when this process ends, even by SIGKILL.

    Only Linux can do so; on other systems there are no arguments.
    """
    prctl = getattr(ctypes.CDLL(None), "prctl", None) if sys.platform == "linux" else None
    if prctl is None:
        return {}
    parent, on_death = os.getpid(), 1  # PR_SET_PDEATHSIG

    def ask_for_signal() -> None:
        prctl(on_death, int(signal.SIGTERM))
        if os.getppid() != parent:  # the parent has already ended
            os._exit(INTERRUPTED)

    return {"preexec_fn": ask_for_signal}


SENT_TWICE = 1.0
"""Seconds within which a repeated signal counts as the same one. A signal to the whole job also reaches torchrun and
timeout, which send it on.
"""


class StopRequest:
    """A record of whether a signal has asked to stop, which lasts even if the exception that it raised was swallowed.

    Attributes:
        asked: whether a signal came.
        exit_code: exit code of the process once it has stopped.
    """

    def __init__(self) -> None:
        self.asked, self.exit_code = False, INTERRUPTED
        self._number, self._came = 0, 0.0

    def __call__(self) -> bool:
        """Whether a signal came."""
        return self.asked

    def _handle(self, number: int, frame: FrameType | None) -> None:
        again = number == self._number != signal.SIGINT and time.monotonic() - self._came < SENT_TWICE
        if self.asked and not again:
            raise_stopped(number, frame)
        if not self.asked:
            self.asked, self.exit_code = True, exit_code_of(number)
            self._number, self._came = number, time.monotonic()

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        self.asked, self.exit_code = True, exit_code_of(number)
        raise_stopped(number, frame)

    def listening(self) -> AbstractContextManager[None]:
        """Only record the first signal within the block; a second one interrupts at once, unless it is a repetition."""
        return handling_signals(self._handle)

    @contextmanager
    def interrupting(self) -> Iterator[None]:
        """Let a signal interrupt the block at once, or at its end if the exception was swallowed."""
        with handling_signals(self._interrupt):
            yield
        if self.asked:
            raise KeyboardInterrupt
