"""A pool of processes that decode chunks of files; it survives the death of any of them.

Each process is a fresh interpreter that runs `decode_worker.serve`, with pipes to this one. Unlike a fork, it inherits
no lock that another thread holds. Unlike multiprocessing's "spawn", it doesn't run the user's script again, which
therefore needs no `__main__` guard. And if it dies, the file at fault is known.
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
from typing import Any, TypeAlias

from xrayfast.data.cache.decode_worker import READY, Job, Outcome, decode_chunk, unpack_outcome
from xrayfast.errors import ConfigError, DataError, RemoteError, WriteError
from xrayfast.files.virtual.access import known_states

LockChunk: TypeAlias = Callable[[Sequence[str]], AbstractContextManager[Sequence[str] | None]]
"""Locks a chunk as `ChunkLocks.lock` does."""

_CODE = "import sys; sys.path[:] = sys.argv[1:]; from xrayfast.data.cache.decode_worker import serve; serve()"
_MALLOC = {"MALLOC_MMAP_THRESHOLD_": str(2**25), "MALLOC_TRIM_THRESHOLD_": str(2**28)}
"""Makes glibc reuse the memory of one image for the next: returning it to the system and requesting it again takes 8%
of the time to decode PNGs of 1024 or 2048 px."""

_MAX_DEATHS = 100  # of processes; if more die, the files are not at fault
_SHUTDOWN = 5.0  # seconds for a stopped process to write what it has decoded
_RETRY = 0.2  # seconds until a chunk that another run has locked is tried again
_FAILURES = {"ConfigError": ConfigError, "RemoteError": RemoteError, "WriteError": WriteError}


def decode_all(
    job: Job, chunks: Iterable[Sequence[str]], workers: int, lock_chunk: LockChunk = contextlib.nullcontext
) -> Generator[Outcome | None, None, None]:
    """Decode chunks of files in several processes; close the generator, or interrupt it, to stop them.

    A stopped process finishes its file and writes what it has decoded. A file at which a process died is tried once
    more, alone, before it is given up. If no process can be started, threads of this process decode; one thread does if
    `workers` is 0.

    Yields:
        The outcome for each file, in any order, for some files twice; None after half a second without an outcome.

    Raises:
        ConfigError: invalid window, or a package that remote storage needs is missing.
        WriteError: a shard can't be written.
        RemoteError: remote storage can't be read; what was decoded before is written.
        DataError: the processes keep dying.
    """
    suspects: list[str] = []
    yield from _Pool(job, chunks, lock_chunk, lambda path, _: suspects.append(path)).run(workers)
    given_up: list[Outcome] = []
    retry = _Pool(job, [[path] for path in suspects], lock_chunk, lambda *death: given_up.append(_give_up(*death)))
    yield from retry.run(min(workers, 1))
    yield from given_up


class _Pool:
    """Threads with one process each; they hand out the chunks and queue the outcomes."""

    def __init__(
        self, job: Job, chunks: Iterable[Sequence[str]], lock_chunk: LockChunk, on_death: Callable[[str, str], None]
    ) -> None:
        self._job, self._lock_chunk, self._on_death = job, lock_chunk, on_death
        self._chunks = deque(chunks)
        self._queue: queue.SimpleQueue[Outcome | Exception | None] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._processes: list[_WorkerProcess] = []
        self._deaths = 0

    def run(self, workers: int) -> Iterator[Outcome | None]:
        """Start the threads and yield outcomes until all chunks are done; then stop whatever still runs."""
        if not self._chunks:
            return
        threads = [threading.Thread(target=self._work, args=(workers > 0,), daemon=True) for _ in range(workers or 1)]
        try:
            for thread in threads:
                thread.start()
            yield from self._outcomes(len(threads))
        finally:
            self._stop.set()
            self._join(threads, _SHUTDOWN)
            for process in self._processes:
                process.kill()
            self._join(threads, 1.0)
            for process in self._processes:
                process.end()

    def _outcomes(self, n_running: int) -> Iterator[Outcome | None]:
        while n_running:
            try:
                item = self._queue.get(timeout=0.5)
            except queue.Empty:
                yield None
                continue
            if isinstance(item, Exception):
                raise item
            if item is None:
                n_running -= 1
            else:
                yield item

    @staticmethod
    def _join(threads: Sequence[threading.Thread], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        for thread in filter(threading.Thread.is_alive, threads):
            thread.join(max(0.0, deadline - time.monotonic()))

    def _work(self, in_process: bool) -> None:
        """Run in each thread: decode chunks, then queue None."""
        worker: _Worker | None = None
        try:
            while self._chunks and not self._stop.is_set():
                with contextlib.suppress(IndexError):  # another thread may have taken the last
                    worker = self._process_chunk(self._chunks.popleft(), worker, in_process)
        except Exception as error:  # raised again in the main thread
            self._queue.put(error)
        finally:
            if worker:
                worker.end()
            self._queue.put(None)

    def _process_chunk(self, chunk: Sequence[str], worker: _Worker | None, in_process: bool) -> _Worker | None:
        """Decode one chunk; return the worker for the next chunk, None if it died."""
        with self._lock_chunk(chunk) as missing:
            if missing is None:
                self._chunks.append(chunk)
                self._stop.wait(_RETRY)
                return worker
            for path in set(chunk).difference(missing):
                self._queue.put(Outcome(path))
            if not missing:
                return worker
            worker = worker or (self._start_process() if in_process else None) or _Worker(self._job)
            return worker if self._survives(worker, missing) else None

    def _start_process(self) -> _WorkerProcess | None:
        try:
            process = _WorkerProcess(self._job)
        except (OSError, _DiedError):
            return None
        self._processes.append(process)
        return process

    def _survives(self, worker: _Worker, paths: Sequence[str]) -> bool:
        """Decode files, and return False if the worker died: one file is at fault, and the others are decoded again."""
        n_done = 0
        try:
            with contextlib.closing(worker.decode(paths)) as outcomes:
                for outcome in outcomes:
                    n_done += 1
                    self._queue.put(outcome)
                    if self._stop.is_set():
                        break
            return True
        except _DiedError as death:
            worker.end()
            if self._stop.is_set():
                return False
            self._deaths += 1
            at = min(n_done, len(paths) - 1)
            if self._deaths > _MAX_DEATHS:
                raise DataError(
                    f"{self._deaths} processes that decode images died, the last one ({death}) while it read "
                    f"{paths[at]}. There may be too little memory: close other programs."
                ) from death
            self._on_death(paths[at], str(death))
            if rest := [*paths[:at], *paths[at + 1 :]]:
                self._chunks.append(rest)
            return False


class _Worker:
    """A worker that decodes in the calling thread."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def decode(self, paths: Sequence[str]) -> Generator[Outcome, None, None]:
        return decode_chunk(self._job, paths)

    def end(self) -> None:
        pass


class _WorkerProcess(_Worker):
    """A worker that decodes in another interpreter, which runs `decode_worker.serve`."""

    def __init__(self, job: Job) -> None:
        """Start the process and wait until it is ready; raises OSError or _DiedError."""
        super().__init__(job)
        # One thread per process: together they use all cores, and a thread pool in each process would waste memory.
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", **_MALLOC}
        self._process = subprocess.Popen(
            [sys.executable, "-c", _CODE, *(entry for entry in sys.path if isinstance(entry, str))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # what decoders print there may quote a header
            text=True,
            encoding="ascii",
            errors="replace",
            env=environment,
        )
        self._send(astuple(job))
        assert self._process.stdout
        if not any(line == READY for line in self._process.stdout):  # its start-up may print something first
            self.end()
            raise _DiedError(_describe_exit(self._process.wait()))

    def decode(self, paths: Sequence[str]) -> Generator[Outcome, None, None]:
        """Yield the outcomes in the order of the paths; raises _DiedError at the file where the process died."""
        self._send([list(paths), known_states(paths)])
        for path in paths:
            yield unpack_outcome(path, *self._receive())
        self._receive()

    def end(self) -> None:
        """Let the process write what it has and exit; kill it if that takes long. A second call does nothing."""
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                if pipe:
                    pipe.close()
        try:
            self._process.wait(_SHUTDOWN)
        except subprocess.TimeoutExpired:
            self.kill()
            self._process.wait()

    def kill(self) -> None:
        self._process.kill()

    def _send(self, message: Any) -> None:
        assert self._process.stdin
        with contextlib.suppress(OSError):  # `_receive` notices that the process is dead
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()

    def _receive(self) -> list[Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line.endswith("\n"):
            raise _DiedError(_describe_exit(self._process.wait()))
        word, *details = list[Any](json.loads(line))
        if word == "failed":
            kind, message = details
            raise _FAILURES[kind](message)
        return details


class _DiedError(Exception):
    """A process ended while decoding; the text says how."""


def _describe_exit(code: int) -> str:
    """Return how a process ended, according to its exit code.

    >>> _describe_exit(-9), _describe_exit(3)
    ('SIGKILL', 'exit code 3')
    """
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"exit code {code}"


def _give_up(path: str, how: str) -> Outcome:
    found = f"decoding it killed the process twice ({how}). It may be damaged, or too large for this machine's memory"
    return Outcome(path, f"{path}: {found}. Convert or remove it.")
