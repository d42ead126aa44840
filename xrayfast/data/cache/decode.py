"""Decoding of files to the squares and facts that are kept: of one, of a chunk, and of chunks for another process."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import sys
import time
from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from xrayfast.data.cache.shards import KEY_BYTES, Entry, Facts, write_shard
from xrayfast.data.images.reader import Pixels, fit_square, read
from xrayfast.errors import ConfigError, ReadError, WriteError

SEGMENT_BYTES = 64 * 2**20
"""A segment is written when its squares reach this size, which a process holds in memory until then."""

READY = "ready to decode\n"
"""What `serve` says first."""

_SEGMENT_SECONDS = 15.0  # at most this much work is lost where a process is killed
_TRIES = 3  # for a file that changes while it is read
_TICK, _COARSE_TICK = 20_000_000, 2_000_000_000  # ns: no finer or coarser clock stamps files


@dataclass(frozen=True)
class Job:
    """What is made of the files.

    Attributes:
        side: of the squares, in pixels.
        window: for `radiograph.read`.
        folder: where segments are written; None where nothing is kept but the facts.
    """

    side: int
    window: str
    folder: str | None


@dataclass(frozen=True)
class Outcome:
    """What became of one file: a problem, or the key and facts of the image."""

    path: str
    problem: str | None = None
    key: bytes | None = None
    facts: Facts | None = None


def file_key(path: str | Path) -> bytes:
    """The key of a file as it stands: 16 bytes, others as soon as its path, size or times change.

    Of the times both the last change of the content, which a copying program may set back, and that of the
    file's entry, which it can't: two files that swap names have new keys though both keep size and time.

    Raises:
        OSError: there is no such file, or its folder is closed.
        ValueError: the path can't be one.
    """
    status = os.stat(path)  # noqa: PTH116, as a Path takes three times as long, for each image of each epoch
    where = os.path.abspath(path)  # noqa: PTH100, as Path.absolute leaves ".." in
    stamp = f"\0{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"
    return hashlib.blake2b(os.fsencode(where) + stamp.encode(), digest_size=KEY_BYTES).digest()


def facts_of(path: str | Path, window: str) -> Facts:
    """Decode a file for its facts alone.

    Raises:
        ReadError: it can't be read.
    """
    return _read(path, window)[1]


def decode(path: str | Path, side: int, window: str) -> Entry:
    """Decode a file and fit it into a square, under the key that it had both before and after.

    Raises:
        ReadError: it can't be read, or doesn't come to rest.
        ConfigError: there is no such window.
    """
    for _ in range(_TRIES):
        with contextlib.suppress(OSError, ValueError):
            _outlast_tick(path)
        before = _key_or_none(path)
        pixels, facts = _read(path, window)
        if before is not None and before == _key_or_none(path):
            return Entry(before, facts, fit_square(pixels, side))
    raise ReadError(
        f"{path}: changed {_TRIES} times while it was read; expected a file at rest. Wait until it is whole."
    )


def decode_chunk(job: Job, paths: Sequence[str]) -> Generator[Outcome, None, None]:
    """Decode files and keep the squares; however the generator ends, what it decoded is written.

    Raises:
        ConfigError: there is no such window.
        WriteError: a segment can't be written.
    """
    entries: list[Entry] = []
    limit = max(1, SEGMENT_BYTES // job.side**2)
    written = time.monotonic()
    try:
        for path in paths:
            found = _attempt(job, path)
            if isinstance(found, str):
                yield Outcome(path, found)
                continue
            if job.folder:
                entries.append(found)
            if len(entries) >= limit or time.monotonic() - written > _SEGMENT_SECONDS:
                _write(job, entries)
                written = time.monotonic()
            yield Outcome(path, None, found.key, found.facts)
    finally:
        _write(job, entries)


def serve() -> None:
    """Decode chunks for another process: lines of JSON come in on standard input, others go out on standard output.

    In comes the job, then a list of paths a chunk. Out goes READY, and for each chunk what became of each path,
    then "end"; "failed" where no path is to blame. It ends when either pipe is closed.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal; the main one acts on it.
    out = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)  # What a decoder prints is not to come between.

    def say(word: str, *details: Any) -> None:
        out.write(json.dumps([word, *details]) + "\n")
        out.flush()

    job = Job(*json.loads(sys.stdin.readline()))
    with contextlib.suppress(OSError):  # nobody reads any more
        out.write(READY)
        out.flush()
        for line in sys.stdin:
            try:
                with contextlib.closing(decode_chunk(job, json.loads(line))) as outcomes:
                    for found in outcomes:
                        say("done", *_packed(found))
            except (ConfigError, WriteError) as error:
                say("failed", type(error).__name__, str(error))
                return
            say("end")


def unpacked(path: str, problem: str | None, key: str, facts: dict[str, Any]) -> Outcome:
    """An outcome as `serve` sends it."""
    if problem is not None:
        return Outcome(path, problem)
    return Outcome(path, None, bytes.fromhex(key), Facts(**{**facts, "notes": tuple(facts["notes"])}))


def _packed(outcome: Outcome) -> tuple[Any, ...]:
    key, facts = outcome.key or b"", outcome.facts
    return outcome.problem, key.hex(), asdict(facts) if facts else {}


def _attempt(job: Job, path: str) -> Entry | str:
    """The decoded image, or what is wrong with the file."""
    try:
        return decode(path, job.side, job.window)
    except ReadError as error:
        return str(error)
    except ConfigError:
        raise
    except Exception as error:  # One file is not to stop all. What a decoder says may quote the file: only its kind.
        return f"{path}: can't be decoded ({type(error).__name__}). Check or convert the file."


def _write(job: Job, entries: list[Entry]) -> None:
    """Write the entries as a segment, and forget them."""
    if entries:
        written, entries[:] = entries[:], []
        write_shard(Path(job.folder or ""), job.side, written)


def _read(path: str | Path, window: str) -> tuple[Pixels, Facts]:
    image = read(path, window)
    height, width = image.pixels.shape
    digest = hashlib.blake2b(f"{height} {width} ".encode(), digest_size=16)
    digest.update(image.pixels.data if image.pixels.flags.c_contiguous else image.pixels.tobytes())
    facts = Facts(width, height, image.bits, image.mode, image.format, digest.hexdigest(), image.notes)
    return image.pixels, facts


def _key_or_none(path: str | Path) -> bytes | None:
    """None where there is no such file, which is the reader's to explain."""
    try:
        return file_key(path)
    except (OSError, ValueError):
        return None


def _outlast_tick(path: str | Path) -> None:
    """Wait until a change from now on must give another time stamp: file systems stamp by a clock that ticks.

    Linux ticks every 4 or 10 ms. Where the last stamp is a whole second, ticks of two are assumed, as FAT has.
    """
    status = Path(path).stat()
    last = max(status.st_mtime_ns, status.st_ctime_ns)
    tick = _COARSE_TICK if last % 1_000_000_000 == 0 else _TICK
    age = time.time_ns() - last
    if 0 <= age < tick:
        time.sleep((tick - age) / 1e9)
