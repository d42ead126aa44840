"""Processes that decode chunks of files, and the crew that keeps them busy whatever happens to one of them.

Each process is a fresh interpreter, spoken to through its pipes. Unlike a fork it takes over no lock that
another thread holds; unlike multiprocessing's "spawn" it doesn't run the user's script again, which therefore
needs no `__main__` guard; and where it dies, the file at which it died is known.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import astuple
from typing import Any, Protocol, TypeAlias

from xrayfast.data.cache.decode import READY, Job, Outcome, decode_chunk, unpacked
from xrayfast.errors import ConfigError, DataError, WriteError

Claim: TypeAlias = Callable[[Sequence[str]], AbstractContextManager[Sequence[str] | None]]
"""Takes a chunk on for this run as long as the context lasts. It gives what of the chunk is still to be decoded,
or None where another run has taken it."""

_CODE = "import sys; sys.path[:] = sys.argv[1:]; from xrayfast.data.cache.decode import serve; serve()"
_MALLOC = {"MALLOC_MMAP_THRESHOLD_": str(2**25), "MALLOC_TRIM_THRESHOLD_": str(2**28)}
"""glibc's allocator is to keep the memory of one image for the next: asking the system for it anew takes 8 % of the
time, of PNG of 1024 px and of 2048."""

_DEATHS = 100  # of processes, after which it isn't the files
_LAST_WORDS = 5.0  # seconds in which a stopped process may write what it has decoded
_PAUSE = 0.2  # seconds between looks at a chunk that another run has taken
_FAILURES = {"ConfigError": ConfigError, "WriteError": WriteError}


def cpu_count() -> int:
    """The CPUs that this process may use, by its affinity and its container's quota."""
    import joblib

    return int(joblib.cpu_count())


def decode_all(
    job: Job, chunks: Iterable[Sequence[str]], workers: int, claim: Claim = contextlib.nullcontext
) -> Generator[Outcome | None, None, None]:
    """Decode chunks of files in several processes; close the generator, or interrupt it, to stop them.

    A stopped process finishes its file and keeps what it has decoded. A file at which a process died is tried
    once more, alone, before it is given up. Where no process can be started, threads of this one decode.

    Args:
        job: what is made of the files.
        chunks: what a process takes on at a time.
        workers: processes; 0 decodes in a thread of this one.
        claim: asked before each chunk.

    Yields:
        What became of each file, in any order, of some twice; None when nothing was heard for half a second.

    Raises:
        ConfigError: there is no such window.
        WriteError: a segment can't be written.
        DataError: the processes keep dying.
    """
    suspects: list[str] = []
    yield from _Crew(job, chunks, claim, lambda path, _: suspects.append(path)).run(workers)
    given_up: list[Outcome] = []
    alone = _Crew(job, [[path] for path in suspects], claim, lambda path, how: given_up.append(_lethal(path, how)))
    yield from alone.run(min(workers, 1))
    yield from given_up


class _Crew:
    """Threads with a process each; they hand out the chunks and hear what becomes of the files."""

    def __init__(
        self, job: Job, chunks: Iterable[Sequence[str]], claim: Claim, accuse: Callable[[str, str], None]
    ) -> None:
        self._job, self._claim, self._accuse = job, claim, accuse
        self._chunks = deque(chunks)
        self._heard: queue.SimpleQueue[Outcome | Exception | None] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._processes: list[_Process] = []
        self._deaths = 0

    def run(self, workers: int) -> Iterator[Outcome | None]:
        """Start, and hand on what is heard until all chunks are done; what is not by then is stopped."""
        if not self._chunks:
            return
        threads = [threading.Thread(target=self._drive, args=(workers > 0,), daemon=True) for _ in range(workers or 1)]
        try:
            for thread in threads:
                thread.start()
            yield from self._listen(len(threads))
        finally:
            self._stop.set()
            self._join(threads, _LAST_WORDS)
            for process in self._processes:
                process.kill()
            self._join(threads, 1.0)
            for process in self._processes:
                process.end()

    def _listen(self, running: int) -> Iterator[Outcome | None]:
        while running:
            try:
                heard = self._heard.get(timeout=0.5)
            except queue.Empty:
                yield None
                continue
            if isinstance(heard, Exception):
                raise heard
            if heard is None:
                running -= 1
            else:
                yield heard

    @staticmethod
    def _join(threads: Sequence[threading.Thread], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        for thread in filter(threading.Thread.is_alive, threads):
            thread.join(max(0.0, deadline - time.monotonic()))

    def _drive(self, apart: bool) -> None:
        """What each thread does; None is its last word."""
        decoder: _Decoder | None = None
        try:
            while self._chunks and not self._stop.is_set():
                with contextlib.suppress(IndexError):  # another thread may have taken the last
                    decoder = self._take(self._chunks.popleft(), decoder, apart)
        except Exception as error:  # The main thread raises it.
            self._heard.put(error)
        finally:
            if decoder:
                decoder.end()
            self._heard.put(None)

    def _take(self, chunk: Sequence[str], decoder: _Decoder | None, apart: bool) -> _Decoder | None:
        """One chunk; what comes back decodes the next, and is None where it died."""
        with self._claim(chunk) as missing:
            if missing is None:
                self._chunks.append(chunk)
                self._stop.wait(_PAUSE)
                return decoder
            for path in set(chunk).difference(missing):
                self._heard.put(Outcome(path))
            if not missing:
                return decoder
            decoder = decoder or (self._started() if apart else None) or _Here(self._job)
            return decoder if self._decoded(missing, decoder) else None

    def _started(self) -> _Process | None:
        try:
            process = _Process(self._job)
        except (OSError, _DiedError):
            return None
        self._processes.append(process)
        return process

    def _decoded(self, paths: Sequence[str], decoder: _Decoder) -> bool:
        """Whether the decoder outlived them; if not, one file is to blame and the others are to be done again."""
        n_heard = 0
        try:
            with contextlib.closing(decoder.decode(paths)) as outcomes:
                for outcome in outcomes:
                    n_heard += 1
                    self._heard.put(outcome)
                    if self._stop.is_set():
                        break
            return True
        except _DiedError as death:
            decoder.end()
            if self._stop.is_set():
                return False
            self._deaths += 1
            at = min(n_heard, len(paths) - 1)
            if self._deaths > _DEATHS:
                raise DataError(
                    f"{self._deaths} processes that decode images died, the last ({death}) at {paths[at]}. "
                    "There may be too little memory: close other programs."
                ) from death
            self._accuse(paths[at], str(death))
            if rest := [*paths[:at], *paths[at + 1 :]]:
                self._chunks.append(rest)
            return False


class _Decoder(Protocol):
    def decode(self, paths: Sequence[str]) -> Generator[Outcome, None, None]: ...

    def end(self) -> None: ...


class _Here:
    """Decodes in the calling thread."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def decode(self, paths: Sequence[str]) -> Generator[Outcome, None, None]:
        return decode_chunk(self._job, paths)

    def end(self) -> None:
        pass


class _Process:
    """An interpreter that runs `decoding.serve`."""

    def __init__(self, job: Job) -> None:
        """Start it, and wait until it answers.

        Raises:
            OSError: it can't be started.
            _DiedError: it died before it answered.
        """
        path = [entry for entry in sys.path if isinstance(entry, str)]
        # One thread each: together they use all cores, and a pool of threads for every core in each is memory lost.
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", **_MALLOC}
        self._process = subprocess.Popen(
            [sys.executable, "-c", _CODE, *path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # what decoders print there may quote a header
            text=True,
            encoding="ascii",
            errors="replace",
            env=environment,
        )
        self._say(astuple(job))
        assert self._process.stdout
        if not any(line == READY for line in self._process.stdout):  # its start-up may print something first
            self.end()
            raise _DiedError(_exit(self._process.wait()))

    def decode(self, paths: Sequence[str]) -> Generator[Outcome, None, None]:
        """What becomes of the files, in their order.

        Raises:
            _DiedError: the process died at the file after the last that was heard of.
        """
        self._say(list(paths))
        for path in paths:
            yield unpacked(path, *self._hear())
        self._hear()

    def end(self) -> None:
        """Let it write what it has, and go; kill it where that takes long. A second call does nothing."""
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                if pipe:
                    pipe.close()
        try:
            self._process.wait(_LAST_WORDS)
        except subprocess.TimeoutExpired:
            self.kill()
            self._process.wait()

    def kill(self) -> None:
        self._process.kill()

    def _say(self, words: Any) -> None:
        assert self._process.stdin
        with contextlib.suppress(OSError):  # A dead process is noticed by what is not heard.
            self._process.stdin.write(json.dumps(words) + "\n")
            self._process.stdin.flush()

    def _hear(self) -> list[Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line.endswith("\n"):
            raise _DiedError(_exit(self._process.wait()))
        word, *details = list[Any](json.loads(line))
        if word == "failed":
            kind, message = details
            raise _FAILURES[kind](message)
        return details


class _DiedError(Exception):
    """A process ended in the middle; the text says how."""


def _exit(code: int) -> str:
    """How a process ended, by its exit code.

    >>> _exit(-9), _exit(3)
    ('SIGKILL', 'exit code 3')
    """
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"exit code {code}"


def _lethal(path: str, how: str) -> Outcome:
    return Outcome(
        path,
        f"{path}: decoding it ended the process, twice ({how}). It may be damaged, or too large for the memory here. "
        "Convert or remove it.",
    )
