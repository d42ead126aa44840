"""Lock the folder of a run or of a command's output, so that only one process at a time writes to it.

`run.lock` (or `output.lock`) names the process that writes, and that process also holds the operating system's lock on
the file where possible. A killed process's lock is then known to be free. Without such locks, the process is identified
by its ID and start time. On another host, neither is possible.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import platform
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from xrayfast.errors import RunError, WriteError
from xrayfast.errors.escapes import escape_hidden
from xrayfast.files.writable import exists, make_output_folder

LOCK_FILE, OUTPUT_LOCK = "run.lock", "output.lock"

PATIENCE = 1.0
"""Seconds to wait for a lock: some locks are held only for a moment."""

_LONGEST = 4096  # bytes of the file that are read
_SAME = 5.0  # seconds by which two readings of a process's start time may differ, because clocks are adjusted
_LOCKED_BYTE = 2**30  # on Windows, locked bytes can't be read by others, so a byte beyond the content is locked
_BUSY = (errno.EAGAIN, errno.EACCES, errno.EWOULDBLOCK, errno.EDEADLK)


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


fcntl, msvcrt = _import("fcntl"), _import("msvcrt")  # for POSIX and Windows; some systems have neither


class _Holder(BaseModel):
    """A process, as described in `run.lock`."""

    host: str
    pid: int
    start: float  # seconds since 1970; distinguishes it from a later process with the same ID
    since: str
    command: str

    @classmethod
    def this_process(cls) -> _Holder:
        import psutil

        process, program = psutil.Process(), Path(sys.orig_argv[0]).name if sys.orig_argv else ""
        command = escape_hidden(shlex.join([program, *sys.orig_argv[1:]]))[:200]
        since = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")
        return cls(host=platform.node(), pid=process.pid, start=process.create_time(), since=since, command=command)

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} since {self.since}: {self.command}"

    def is_alive(self) -> bool:
        """Whether the process, which must be on this host, is still running."""
        import psutil

        try:
            process = psutil.Process(self.pid)
            return process.status() != psutil.STATUS_ZOMBIE and abs(process.create_time() - self.start) < _SAME
        except psutil.NoSuchProcess:
            return False
        except psutil.AccessDenied:  # the process is another user's
            return True


@contextlib.contextmanager
def lock_run(folder: Path, note: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock of a run's folder within the block; `note` is called if that of an ended process is taken over.

    Raises:
        RunError: another process writes to the run; the message names it.
        WriteError: the folder can't be written to.
    """
    with _hold(folder / LOCK_FILE, note):
        yield


@contextlib.contextmanager
def lock_output(path: Path | str | None) -> Iterator[Path | None]:
    """Make the folder of a command's output and hold its lock within the block, so that its files are of one command.

    The folder is removed at the end if it is new and still empty. None stands for no output.

    Raises:
        RunError: another process writes to the folder; the message names it.
        WriteError: the folder can't be made or written to.
    """
    if path is None:
        yield None
        return
    is_new, folder = not exists(Path(path)), make_output_folder(Path(path))
    try:
        with _hold(folder / OUTPUT_LOCK, lambda note: None):
            yield folder
    finally:
        if is_new:
            with contextlib.suppress(OSError):  # it holds the output
                folder.rmdir()


@contextlib.contextmanager
def _hold(path: Path, note: Callable[[str], None]) -> Iterator[None]:
    """Hold a lock within the block; see `lock_run`."""
    owner = os.getpid()
    deadline = time.monotonic() + PATIENCE
    while (descriptor := _try_to_lock(path, note, last=time.monotonic() > deadline)) is None:
        time.sleep(0.05)
    _HELD.add(descriptor)
    try:
        yield
    finally:
        if os.getpid() == owner:
            _HELD.discard(descriptor)
            _release(path, descriptor)


_HELD: set[int] = set()


def _close_held() -> None:
    """Close the lock files in a forked process, such as a loader's worker, which may outlive the parent."""
    while _HELD:
        os.close(_HELD.pop())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_held)


def _try_to_lock(path: Path, note: Callable[[str], None], *, last: bool) -> int | None:
    """Return the open lock file, now naming this process; None if the run is locked and this is not the `last` try."""
    with contextlib.ExitStack() as undo:
        try:
            descriptor, is_new = _open(path)
            undo.callback(os.close, descriptor)
            locked = _lock(descriptor)
            if locked and not _is_at(descriptor, path):  # its last holder has removed it
                return None
            os.lseek(descriptor, 0, os.SEEK_SET)
            holder = None if is_new else _parse(os.read(descriptor, _LONGEST))
            problem = _problem(path, holder, is_new=is_new, locked=locked)
            if problem and last:
                raise RunError(problem)
            if problem:
                return None
            if holder is not None:
                note(f"{path.parent}: the last process that wrote to this run ended before it was finished ({holder}).")
            if locked is None and not is_new:
                _remove(path, holder)
                return None
            os.ftruncate(descriptor, 0)
            os.lseek(descriptor, 0, os.SEEK_SET)
            os.write(descriptor, _Holder.this_process().model_dump_json().encode())
        except FileNotFoundError:  # another process has just removed it
            if path.parent.is_dir():
                return None
            raise RunError(f"{path.parent}: no such run.") from None
        except OSError as error:
            raise WriteError(
                f"{path}: can't be written ({error.strerror}). Check that its folder is writable and that the disk "
                "is not full."
            ) from error
        undo.pop_all()
        return descriptor


def _open(path: Path) -> tuple[int, bool]:
    """Return the open file, and whether it is new."""
    flags = os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        return os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o666), True
    except FileExistsError:
        return os.open(path, flags), False


def _lock(descriptor: int) -> bool | None:
    """Lock an open file; return False if another process holds the lock, None if the system has no file locks."""
    try:
        if fcntl:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        elif msvcrt:
            os.lseek(descriptor, _LOCKED_BYTE, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            return None
    except OSError as error:
        return False if error.errno in _BUSY else None
    return True


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether the path still leads to the open file."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except OSError:
        return False


def _parse(content: bytes) -> _Holder | None:
    """Return the process that the file names, or None."""
    try:
        return _Holder.model_validate_json(content)
    except ValidationError:
        return None


def _problem(path: Path, holder: _Holder | None, *, is_new: bool, locked: bool | None) -> str:
    """Return why the run may not be written to, or "" if the process that the lock file names can't be writing."""
    folder, what = path.parent, "run" if path.name == LOCK_FILE else "folder"
    elsewhere = holder is not None and holder.host != platform.node()
    if locked is False or (locked is None and holder and not elsewhere and holder.is_alive()):
        who = f"{holder}" if holder else f"{path} does not identify it yet"
        return f"{folder}: another process is writing to this {what} ({who}). Wait for it to finish, or stop it."
    if holder and elsewhere:
        return (
            f"{folder}: a process on another host is writing to this {what}, or ended before it was finished "
            f"({holder}). Check on {holder.host} whether it is still running; if not, remove {path}."
        )
    if holder is None and locked is None and not is_new:
        return (
            f"{folder}: {path} exists but does not identify a process. If no process is writing to this {what}, remove "
            "it."
        )
    return ""


def _remove(path: Path, holder: _Holder | None) -> None:
    """Remove the lock file that `holder` left behind.

    If several processes that find it try to, only one removes it, and never a newer lock.
    """
    guard = path.with_name(f".{path.name}.tmp")
    with contextlib.suppress(FileExistsError):
        guard.touch(exist_ok=False)
        try:
            if _parse(path.read_bytes()) == holder:
                path.unlink()
        finally:
            guard.unlink()


def _release(path: Path, descriptor: int) -> None:
    if _is_at(descriptor, path):
        with contextlib.suppress(OSError):  # Windows can't remove open files
            path.unlink()
    os.close(descriptor)
    if os.name != "posix":
        with contextlib.suppress(OSError):
            path.unlink()
