"""Files that are either there whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xrayfast.errors import RunError, WriteError

if TYPE_CHECKING:
    import pandas as pd


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`, to be written to; it takes `path`'s place when the block ends well.

    Where the block fails, or is interrupted, the old file stays and the temporary one goes.

    Raises:
        WriteError: the file can't be written: no permission, no folder, no space.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise WriteError(
            f"{path}: can't be written ({error.strerror or error}). Check that its folder is there, open to you and "
            "not full."
        ) from error
    finally:
        # After the move there is nothing to remove; where the folder is missing or closed, neither.
        with contextlib.suppress(OSError):
            temporary.unlink()


def write_bytes(path: Path, content: bytes) -> None:
    """Write bytes, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text with Unix line ends, whole or not at all."""
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def write_json(path: Path, content: Any) -> None:
    """Write strict JSON (no NaN), indented, whole or not at all."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_csv(path: Path, table: pd.DataFrame, float_format: str | None = None) -> None:
    """Write a table without its index, with Unix line ends, whole or not at all."""
    with replacing(path) as temporary:
        table.to_csv(temporary, index=False, lineterminator="\n", float_format=float_format)


def made_folder(path: Path) -> Path:
    """The folder, made where it is not there.

    Raises:
        RunError: it can't be made.
    """
    try:
        path.mkdir(exist_ok=True)
    except OSError as error:
        raise RunError(f"{path}: can't be made ({error.strerror}).") from error
    return path


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object of a run.

    Raises:
        RunError: the file can't be read, or holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{path}: can't be read as JSON ({error}).") from error
    if not isinstance(content, dict):
        raise RunError(f"{path}: expected a JSON object, found {type(content).__name__}.")
    return content
