"""Decoding files to squares: one file, a chunk of files, and `serve`, which decodes chunks for another process."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import time
from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from xrayfast.data.cache.shards import KEY_BYTES, Entry, ImageInfo, write_shard
from xrayfast.data.images.reader import Pixels, fit_square, read
from xrayfast.errors import ConfigError, ReadError, RemoteError, WriteError
from xrayfast.errors.signals import leave_signals_to_parent
from xrayfast.files.virtual.access import outer_file, state_of
from xrayfast.files.virtual.addresses import identity
from xrayfast.files.virtual.remote import remember_states

SHARD_BYTES = 64 * 2**20
"""A shard is written when its squares reach this size; until then, the process holds them in memory."""

READY = "ready to decode\n"
"""The first line that `serve` sends."""

_SHARD_SECONDS = 15.0  # at most this much work is lost if a process is killed
_TRIES = 3  # for a file that changes while it is read
_TICK, _COARSE_TICK = 20_000_000, 2_000_000_000  # ns: upper limits of the resolution of file times


@dataclass(frozen=True)
class Job:
    """Settings for decoding files."""

    side: int  # of the squares, in pixels
    window: str  # for `reader.read`
    folder: str | None  # where shards are written; None to return the image infos alone


@dataclass(frozen=True)
class Outcome:
    """The result for one file: an error message, or the key and info of the image."""

    path: str
    problem: str | None = None
    key: bytes | None = None
    info: ImageInfo | None = None


def file_key(path: str | Path) -> bytes:
    """Return the 16-byte key of a file in its present state; the key changes with path, size and times.

    The times are those of the content, which a copying program may set back, and of the inode, which it can't: two
    files that swap names get new keys even if size and modification time are equal.
    """
    stamp = state_of(path).stamp
    return hashlib.blake2b(os.fsencode(identity(path)) + f"\0{stamp}".encode(), digest_size=KEY_BYTES).digest()


def key_or_none(path: str | Path) -> bytes | None:
    """Return `file_key`, or None if there is no such file, which the reader reports."""
    try:
        return file_key(path)
    except (OSError, ValueError):
        return None


def decode_entry(path: str | Path, side: int, window: str) -> Entry:
    """Decode a file to a square, with the key that the file had both before and after decoding."""
    for _ in range(_TRIES):
        with contextlib.suppress(OSError, ValueError):
            _wait_for_tick(path)
        before = key_or_none(path)
        pixels, info = read_with_info(path, window)
        if before is not None and before == key_or_none(path):
            return Entry(before, info, fit_square(pixels, side))
    found = f"changed {_TRIES} times while it was read"
    raise ReadError(
        f"{path}: {found}; expected a file that no program is writing to. Wait until it is complete, then run again."
    )


def decode_chunk(job: Job, paths: Sequence[str]) -> Generator[Outcome, None, None]:
    """Decode files and write shards; however the generator ends, what it decoded is written."""
    entries: list[Entry] = []
    limit = max(1, SHARD_BYTES // job.side**2)
    written = time.monotonic()
    try:
        for path in paths:
            result = _try_decode(job, path)
            if isinstance(result, str):
                yield Outcome(path, result)
                continue
            if job.folder:
                entries.append(result)
            if len(entries) >= limit or time.monotonic() - written > _SHARD_SECONDS:
                _flush(job, entries)
                written = time.monotonic()
            yield Outcome(path, None, result.key, result.info)
    finally:
        _flush(job, entries)


def serve() -> None:
    """Decode chunks for another process, which sends requests to standard input and gets replies from standard output.

    All are lines of JSON, except READY. Requests: the job, then per chunk a list of paths and the known states of the
    remote ones. Replies: READY, then per chunk one "done" per path and one "end"; "failed" for an error that is no
    file's fault. Ends when either pipe is closed.
    """
    leave_signals_to_parent()
    out = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)  # What decoders print must not mix with the replies.

    def reply(word: str, *details: Any) -> None:
        out.write(json.dumps([word, *details]) + "\n")
        out.flush()

    job = Job(*json.loads(sys.stdin.readline()))
    with contextlib.suppress(OSError):  # the other process is gone
        out.write(READY)
        out.flush()
        for line in sys.stdin:
            try:
                paths, states = json.loads(line)
                remember_states(states)
                with contextlib.closing(decode_chunk(job, paths)) as outcomes:
                    for outcome in outcomes:
                        info = asdict(outcome.info) if outcome.info else {}
                        reply("done", outcome.problem, (outcome.key or b"").hex(), info)
            except (ConfigError, RemoteError, WriteError) as error:
                reply("failed", type(error).__name__, str(error))
                return
            reply("end")


def unpack_outcome(path: str, problem: str | None, key: str, info: dict[str, Any]) -> Outcome:
    """Return the outcome for a path from what `serve` sends."""
    if problem is not None:
        return Outcome(path, problem)
    return Outcome(path, None, bytes.fromhex(key), ImageInfo(**{**info, "notes": tuple(info["notes"])}))


def _try_decode(job: Job, path: str) -> Entry | str:
    """Return the decoded image, or a message that says what is wrong with the file."""
    try:
        return decode_entry(path, job.side, job.window)
    except ReadError as error:
        return str(error)
    except (ConfigError, RemoteError):  # not the file's fault
        raise
    except Exception as error:  # One file must not stop the rest. Only the type, as the message may quote the file.
        return f"{path}: can't be decoded ({type(error).__name__}). Check or convert the file."


def _flush(job: Job, entries: list[Entry]) -> None:
    """Write the entries as a shard, and empty the list."""
    if entries:
        written, entries[:] = entries[:], []
        write_shard(Path(job.folder or ""), job.side, written)


def read_with_info(path: str | Path, window: str) -> tuple[Pixels, ImageInfo]:
    """Return the pixels of a file, and its info; raise a ReadError if it can't be read."""
    image = read(path, window)
    height, width = image.pixels.shape
    digest = hashlib.blake2b(f"{height} {width} ".encode(), digest_size=16)
    digest.update(image.pixels.data if image.pixels.flags.c_contiguous else image.pixels.tobytes())
    info = ImageInfo(width, height, image.bits, image.mode, image.format, digest.hexdigest(), image.notes)
    return image.pixels, info


def _wait_for_tick(path: str | Path) -> None:
    """Wait until any later change must get a new time stamp: file systems take the time from a clock that ticks.

    Linux ticks every 4 or 10 ms. If the last stamp is a whole second, ticks of two seconds are assumed, as on FAT.
    """
    if not (file := outer_file(os.fspath(path))):  # remote objects have versions
        return
    status = Path(file).stat()
    last = max(status.st_mtime_ns, status.st_ctime_ns)
    tick = _COARSE_TICK if last % 1_000_000_000 == 0 else _TICK
    age = time.time_ns() - last
    if 0 <= age < tick:
        time.sleep((tick - age) / 1e9)
