"""Commands in processes that tests kill, forked from a server that has imported everything, so each starts at once."""

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
    """Starts commands in their own processes.

    Args:
        folder: the working directory of the commands; the output of each is in NAME.txt there.

    Attributes:
        prepare: a module-level function that each process calls before the command, or None.
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
        """Run a command undisturbed; return its exit code (negative: the signal) and output."""
        return self.end(self.start(name, *words), name)

    def strike(
        self, name: str, number: int, after: float, *words: object, children: bool = False
    ) -> tuple[int, str, bool]:
        """Send a signal to a command, and to its child processes if `children`, after `after` seconds of CPU time.

        Returns its exit code, its output, and whether it was still running at the signal.
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
        """Wait for a process and kill it if it hangs; its exit code is then that of SIGALRM."""
        process.join(HANG)
        hangs = process.is_alive()
        if hangs:
            process.kill()
            process.join()
        output = (self.folder / f"{name}.txt").read_text(errors="replace")
        return -signal.SIGALRM if hangs else process.exitcode or 0, output


def cpu_seconds(process: BaseProcess, limit: float = math.inf) -> float:
    """Wait until a process ends, hangs, or has used `limit` CPU seconds with its children; return the seconds used."""
    used, victim, end = 0.0, psutil.Process(process.pid), time.monotonic() + HANG
    while process.is_alive() and used < limit and time.monotonic() < end:
        with suppress(psutil.NoSuchProcess):  # the process may end just now
            used = sum(sum(one.cpu_times()[:4]) for one in [victim, *victim.children(recursive=True)])
        process.join(0.01)
    return used


def _run(folder: str, name: str, words: list[str], prepare: Callable[[], None] | None) -> None:
    """Run the command line in this process, with the output in a file."""
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
    """Return the seconds of CPU time of a command that must succeed."""
    process = victims.start(name, *words)
    seconds = cpu_seconds(process)
    code, output = victims.end(process, name)
    assert code == 0, output
    return seconds
