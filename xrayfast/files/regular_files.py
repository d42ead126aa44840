"""Check files of users and strangers before they are opened: they must exist, be regular files and not be too large."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from xrayfast.errors import RunError, XrayfastError
from xrayfast.files.file_names import require_utf8
from xrayfast.files.virtual.near_names import near_names

MAX_TABLE_BYTES = 2**29
"""Maximum size of a table, also unpacked, that is read whatever the memory: published tables have at most 100 MB."""

MAX_RUN_BYTES = 2**32
"""Maximum size of a run's file: the optimizer state of vgg16 with the largest head has 3 GB."""

MAX_TEXT_BYTES = 2**25
"""Maximum size of other text or JSON files: `metrics.json` has about 2 MB for 100 labels."""

MAX_SMALL_BYTES = 2**20
"""Maximum size of files of settings or label synonyms: a `config.yaml` has 3 kB."""


def require_regular_file(
    path: Path, expected: str, limit: int, error: type[XrayfastError] = RunError
) -> os.stat_result:
    """Raise an error for a path that would hang on opening (a FIFO), never end (a device), or fill the memory.

    Raises:
        XrayfastError: the given class: no such file, a folder, a pipe, socket or device, a file that is too large, or a
            name that is not UTF-8.
    """
    require_utf8([path], error)
    try:
        status = path.stat()
    except FileNotFoundError as problem:
        found = "a broken link" if path.is_symlink() else "no such file"
        raise error(f"{path}: found {found}; expected {expected}. Check the path.{near_names(path)}") from problem
    except XrayfastError:  # from an archive or a remote object, with a better message
        raise
    except (OSError, ValueError) as problem:
        why = getattr(problem, "strerror", None) or problem
        raise error(f"{path}: can't be read ({why}). Check the path and its permissions.") from problem
    if stat.S_ISDIR(status.st_mode):
        raise error(f"{path}: found a folder; expected {expected}. Name a file.")
    if not stat.S_ISREG(status.st_mode):
        raise error(f"{path}: found a pipe, socket or device; expected {expected}. Name a regular file.")
    if status.st_size > limit:
        raise error(
            f"{path}: found a file of {status.st_size:,} bytes; expected {expected} of at most {limit:,} bytes. "
            "Check that it is the right file."
        )
    return status


def read_text(path: Path, expected: str, limit: int = MAX_TEXT_BYTES, error: type[XrayfastError] = RunError) -> str:
    """Read a UTF-8 text file, with or without a byte order mark.

    Raises:
        XrayfastError: the given class: see `require_regular_file`; or the file can't be read, or is not UTF-8.
    """
    require_regular_file(path, expected, limit, error)
    try:
        with path.open("rb") as file:
            return file.read(limit).decode("utf-8-sig")
    except OSError as problem:
        raise error(f"{path}: can't be read ({problem.strerror}); expected {expected}.") from problem
    except UnicodeDecodeError as problem:
        raise error(f"{path}: found text that is not UTF-8; expected {expected}. Save it as UTF-8.") from problem
