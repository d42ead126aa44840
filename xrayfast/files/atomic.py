"""Write files completely or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from xrayfast.errors import WriteError
from xrayfast.files.checksums import record_checksum
from xrayfast.files.writable import require_output_file


@contextlib.contextmanager
def replace_atomically(path: Path, digest: str | None = None) -> Iterator[Path]:
    """Yield a temporary path to write to, which replaces `path` at the end of the block.

    If the block fails or is interrupted, the old file stays and the temporary file is removed. A symbolic link at
    `path` is replaced, and its target stays as it is. The checksum is recorded if the folder has checksums.

    Raises:
        WriteError: the file can't be written: no permission, no folder, no space; see also `require_output_file`.
    """
    require_output_file(path)
    # Of the name, 50 characters, so that the temporary one is not too long if the name is not.
    temporary = path.with_name(f".{path.name[:50]}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        if not temporary.stat().st_mode & 0o077:  # safetensors makes files that others can't read, whatever the umask
            with contextlib.suppress(OSError):  # not every file system has permissions
                mask = os.umask(0o077)  # the umask can only be read by setting it
                os.umask(mask)
                temporary.chmod(0o666 & ~mask)
        record_checksum(path, temporary, digest)
        move_when_free(temporary.replace, path)
    except UnicodeEncodeError as error:
        near = error.object[max(error.start - 30, 0) : error.start + 30]
        raise WriteError(
            f"{path}: can't be written ('{near}' is not valid Unicode). Rename the file or label that contains it."
        ) from error
    except OSError as error:
        raise WriteError(
            f"{path}: can't be written ({error.strerror or error}). Check that its folder exists and is writable, "
            "and that the disk is not full."
        ) from error
    finally:
        # After the move, or if the folder is missing or inaccessible, there is nothing to remove.
        with contextlib.suppress(OSError):
            temporary.unlink()


_TRIES, _PAUSE = (40 if os.name == "nt" else 1), 0.05
"""Number of times that a file or folder is moved, and seconds between them: Windows refuses while another process, such
as a virus scanner or a reader of the file to be replaced, has it open."""


def move_when_free(move: Callable[[Path], object], target: Path) -> None:
    """Call the method `rename` or `replace` of a path, on Windows again and again while it is in use."""
    for _ in range(_TRIES - 1):
        with contextlib.suppress(PermissionError):
            move(target)
            return
        time.sleep(_PAUSE)
    move(target)


def link_or_copy(source: Path, target: Path) -> None:
    """Make `target` the same file as `source`, or a copy if the file system has no hard links."""
    try:
        target.hardlink_to(source)
    except OSError:
        shutil.copyfile(source, target)


def write_bytes(path: Path, content: bytes) -> None:
    """Write bytes, completely or not at all."""
    with replace_atomically(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text with Unix line ends, completely or not at all."""
    with replace_atomically(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def write_json(path: Path, content: Any) -> None:
    """Write strict JSON (no NaN), indented, completely or not at all."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
