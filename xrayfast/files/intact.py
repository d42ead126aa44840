"""Check that a run's files are as they were written, by comparing their checksums with those in `checksums.txt`."""

from __future__ import annotations

import contextlib
import os
import re
import time
from functools import cache
from pathlib import Path

from xrayfast.errors import RunError, XrayfastError
from xrayfast.errors.escapes import warn
from xrayfast.files.checksums import CHECKSUMS, file_digest
from xrayfast.files.regular_files import MAX_RUN_BYTES, read_text, require_regular_file

INFO_FILE = "run.json"

_WITH_CHECKSUMS = (0, 4)
"""The first version whose runs have checksums."""

_LINE = re.compile(r"([0-9a-f]{64})  (.+)")


def known_digests(path: Path) -> list[str]:
    """Return the recorded checksums of a file's versions, the present version last; [] if none are recorded."""
    checksums = path.parent / CHECKSUMS
    lines = read_text(checksums, "checksums").split("\n") if checksums.is_file() else []
    return [found[1] for line in lines if (found := _LINE.search(line)) and found[2] == path.name]


def require_intact(path: Path, error: type[XrayfastError] = RunError) -> None:
    """Raise an error unless a file is as it was written.

    Files in folders without checksums, as in runs before 0.4, are not checked; for later runs, that causes a warning.

    Raises:
        XrayfastError: the given class: the file has changed, can't be read or is too large.
    """
    checksums = path.parent / CHECKSUMS
    if not checksums.is_file():
        _warn_unchecked(path.parent)
        return
    status = require_regular_file(path, "a file of a run", MAX_RUN_BYTES, error)  # the checksum reads the whole file
    try:
        known = known_digests(path)
        if _file_digest_once(path, status) in known:
            return
    except OSError as problem:
        raise error(f"{path}: can't be read ({problem.strerror or problem}).") from problem
    found = "has changed since it was written" if known else "was not written to this folder by xrayfast"
    raise error(
        f"{path}: {found}: its checksum is not in {CHECKSUMS}. Copy the folder again from where the run was made. If "
        f"you changed the file on purpose, delete {checksums}: the files in its folder are then read without this "
        "check."
    )


def find_run_folder(folder: Path) -> Path | None:
    """Return the run folder that this folder is, or is in as `checkpoint` or `evaluations/NAME`; else None."""
    return next((root for root in (folder, *folder.absolute().parents[:2]) if (root / INFO_FILE).is_file()), None)


@cache
def _warn_unchecked(folder: Path) -> None:
    """Warn, once per process, if a run folder or a folder in it should have checksums but has none."""
    run = find_run_folder(folder)
    with contextlib.suppress(RunError):  # a damaged `run.json` is reported where it is read
        info = read_text(run / INFO_FILE, "a JSON object") if run else ""
        version = re.search(r'"xrayfast":\s*"(\d+)\.(\d+)[^"]*"', info)
        if version and (int(version[1]), int(version[2])) >= _WITH_CHECKSUMS:
            warn(
                f"{folder}: lacks {CHECKSUMS}, which xrayfast {version[1]}.{version[2]} wrote, so damaged or replaced "
                "files would not be noticed. Unless you deleted it yourself, copy the folder again from where the run "
                "was made."
            )


_digests: dict[tuple[int, ...], str] = {}

_SETTLED = 2.0
"""Seconds after which any further change gives a file a different time, on any file system."""


def _file_digest_once(path: Path, status: os.stat_result) -> str:
    """Return `file_digest`, cached until the file changes, because weights are checked often."""
    state = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    if state in _digests:
        return _digests[state]
    digest = file_digest(path)
    if time.time() - max(status.st_mtime, status.st_ctime) > _SETTLED:
        _digests[state] = digest
    return digest
