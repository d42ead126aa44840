"""Whether a file of a run is as it was written: what `checksums` recorded, compared with what is there."""

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
    """The checksums of the versions of a file that were written, the present one last; none where none are recorded.

    Raises:
        RunError: `checksums.txt` can't be read.
    """
    checksums = path.parent / CHECKSUMS
    lines = read_text(checksums, "checksums").split("\n") if checksums.is_file() else []
    return [found[1] for line in lines if (found := _LINE.search(line)) and found[2] == path.name]


def require_intact(path: Path, error: type[XrayfastError] = RunError) -> None:
    """Check that a file is as it was written. One whose folder has no checksums, as in runs before 0.4, is not checked;
    where the run is of a later version, that is warned of.

    Raises:
        XrayfastError: of that class: it has changed, can't be read or is too large.
    """
    checksums = path.parent / CHECKSUMS
    if not checksums.is_file():
        _warn_unchecked(path.parent)
        return
    status = require_regular_file(path, "a file of a run", MAX_RUN_BYTES, error)  # a checksum reads it whole
    try:
        known = known_digests(path)
        if _file_digest_once(path, status) in known:
            return
    except OSError as problem:
        raise error(f"{path}: can't be read ({problem.strerror or problem}).") from problem
    found = "has changed since it was written" if known else "is not known to have been written here"
    raise error(
        f"{path}: {found}: its checksum is not in {CHECKSUMS}. Copy the folder again from where the run was made. If "
        f"the change was meant, delete {checksums}: the files beside it are then read unchecked."
    )


def find_run_folder(folder: Path) -> Path | None:
    """The run's folder that this is, or is in as `checkpoint` and `evaluations/NAME` are; None where it is in none."""
    return next((root for root in (folder, *folder.absolute().parents[:2]) if (root / INFO_FILE).is_file()), None)


@cache
def _warn_unchecked(folder: Path) -> None:
    """Warn, once per process, where a run's folder or one in it should have checksums and has none."""
    run = find_run_folder(folder)
    with contextlib.suppress(RunError):  # a damaged `run.json` is named where it is read
        info = read_text(run / INFO_FILE, "a JSON object") if run else ""
        version = re.search(r'"xrayfast":\s*"(\d+)\.(\d+)[^"]*"', info)
        if version and (int(version[1]), int(version[2])) >= _WITH_CHECKSUMS:
            warn(
                f"{folder}: lacks {CHECKSUMS}, which xrayfast {version[1]}.{version[2]} wrote: its files are read "
                "unchecked, and one that was damaged or exchanged would not be noticed. Unless you deleted it "
                "yourself, copy the folder again from where the run was made."
            )


_digests: dict[tuple[int, ...], str] = {}

_SETTLED = 2.0
"""Seconds after which another change gives a file another time, on any file system."""


def _file_digest_once(path: Path, status: os.stat_result) -> str:
    """`file_digest`, without reading a file again that has not been written to since: weights are asked for often."""
    state = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    if state in _digests:
        return _digests[state]
    digest = file_digest(path)
    if time.time() - max(status.st_mtime, status.st_ctime) > _SETTLED:
        _digests[state] = digest
    return digest
