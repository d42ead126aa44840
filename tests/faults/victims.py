"""Commands in processes that tests kill, forked from a server that has imported everything: each starts at once."""

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

    def run(self, name: str, *words: object, seconds: float = 120) -> tuple[int, str]:
        """Exit code (negative: the signal) and output of a command that is left alone."""
        process = self.start(name, *words)
        return self.end(process, name, seconds)

    def strike(
        self, name: str, number: int, after: float, *words: object, children: bool = False
    ) -> tuple[int, str, bool]:
        """Send a signal to a command, or to its child processes too, after some seconds; its exit code, its output, and
        whether it still ran then.
        """
        (self.folder / f"{name}.txt").unlink(missing_ok=True)
        process = self.start(name, *words)
        while not (self.folder / f"{name}.txt").exists():
            time.sleep(0.005)
        process.join(after)
        running = process.is_alive()
        struck = psutil.Process(process.pid).children(recursive=True) if children and running else []
        for pid in [process.pid or 0, *(child.pid for child in struck)]:
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        return *self.end(process, name), running

    def end(self, process: BaseProcess, name: str, seconds: float = 120) -> tuple[int, str]:
        """Wait for a process; one that takes too long is killed, and its exit code is that of the alarm."""
        process.join(seconds)
        hangs = process.is_alive()
        if hangs:
            process.kill()
            process.join()
        output = (self.folder / f"{name}.txt").read_text(errors="replace")
        return -signal.SIGALRM if hangs else process.exitcode or 0, output


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
    """Seconds that a command takes which must succeed."""
    start = time.monotonic()
    code, output = victims.run(name, *words)
    assert code == 0, output
    return time.monotonic() - start
