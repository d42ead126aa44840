"""Commands in processes that tests kill, forked from a server that has imported everything: each starts at once."""

import math
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.process import BaseProcess
from pathlib import Path

import psutil

from tests.faults.campaign import HANG


class Victims:
    """Starts commands in processes of their own.

    Args:
        folder: the working directory of the commands; the output of each is there, in NAME.txt.

    Attributes:
        prepare: a function of a module that each process calls before the command; None for none.
    """

    prepare: Callable[[], None] | None = None

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(
            ["xrayfast.cli.commands.fit", "xrayfast.workflows.cross_validate", "tests.conftest"]
        )

    def start(self, name: str, *words: object) -> BaseProcess:
        """Start `xrayfast WORDS`."""
        process = self.context.Process(
            target=_run, args=(str(self.folder), name, [str(word) for word in words], self.prepare)
        )
        process.start()
        return process

    def run(self, name: str, *words: object) -> tuple[int, str]:
        """Exit code (negative: the signal) and output of a command that is left alone."""
        return self.end(self.start(name, *words), name)

    def strike(
        self, name: str, number: int, after: float, *words: object, children: bool = False
    ) -> tuple[int, str, bool]:
        """Send a signal to a command, or its child processes too, after some seconds of CPU time, the same on a busy
        machine; its exit code, its output, and whether it still ran then.
        """
        (self.folder / f"{name}.txt").unlink(missing_ok=True)
        process = self.start(name, *words)
        while not (self.folder / f"{name}.txt").exists():
            time.sleep(0.005)
        cpu_seconds(process, after)
        running = process.is_alive()
        struck = psutil.Process(process.pid).children(recursive=True) if children and running else []
        for pid in [process.pid or 0, *(child.pid for child in struck)]:
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        return *self.end(process, name), running

    def end(self, process: BaseProcess, name: str) -> tuple[int, str]:
        """Wait for a process; one that hangs is killed, and its exit code is that of the alarm."""
        process.join(HANG)
        hangs = process.is_alive()
        if hangs:
            process.kill()
            process.join()
        output = (self.folder / f"{name}.txt").read_text(errors="replace")
        return -signal.SIGALRM if hangs else process.exitcode or 0, output


def cpu_seconds(process: BaseProcess, limit: float = math.inf) -> float:
    """Wait until a process ends, hangs, or has used that much CPU time with its child processes; what it had used."""
    used, victim, end = 0.0, psutil.Process(process.pid), time.monotonic() + HANG
    while process.is_alive() and used < limit and time.monotonic() < end:
        with suppress(psutil.NoSuchProcess):  # one that ends just now
            used = sum(sum(one.cpu_times()[:4]) for one in [victim, *victim.children(recursive=True)])
        process.join(0.01)
    return used


def _run(folder: str, name: str, words: list[str], prepare: Callable[[], None] | None) -> None:
    """What a victim does: be the command line."""
    os.chdir(folder)
    with Path(f"{name}.txt").open("wb", buffering=0) as out:
        for stream in (1, 2):
            os.dup2(out.fileno(), stream)
    sys.stdout, sys.stderr = (os.fdopen(stream, "w", closefd=False) for stream in (1, 2))
    sys.argv = ["xrayfast", *words]
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the server ignores it
    from xrayfast.cli import main

    if prepare is not None:
        prepare()
    main()


def timed(victims: Victims, name: str, *words: object) -> float:
    """Seconds of CPU time of a command which must succeed."""
    process = victims.start(name, *words)
    seconds = cpu_seconds(process)
    code, output = victims.end(process, name)
    assert code == 0, output
    return seconds
