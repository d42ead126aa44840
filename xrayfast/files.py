"""Files that are written whole or not at all, and tables that are read."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xrayfast.errors import RunError, WriteError, shorten

if TYPE_CHECKING:
    import pandas as pd


@contextlib.contextmanager
def replace_atomically(path: Path) -> Iterator[Path]:
    """Give a temporary path to write to, which replaces `path` at the end of the block.

    Where the block fails or is interrupted, the old file stays and the temporary one is removed.

    Raises:
        WriteError: the file can't be written: no permission, no folder, no space.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise WriteError(
            f"{path}: can't be written ({error.strerror or error}). Check that its folder exists, is writable "
            "and not full."
        ) from error
    finally:
        # After the move there is nothing to remove; where the folder is missing or closed, neither.
        with contextlib.suppress(OSError):
            temporary.unlink()


def write_bytes(path: Path, content: bytes) -> None:
    """Write bytes, whole or not at all."""
    with replace_atomically(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text with Unix line ends, whole or not at all."""
    with replace_atomically(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def write_json(path: Path, content: Any) -> None:
    """Write strict JSON (no NaN), indented, whole or not at all."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_csv(path: Path, table: pd.DataFrame, float_format: str | None = None) -> None:
    """Write a table without its index, with Unix line ends, whole or not at all."""
    with replace_atomically(path) as temporary:
        table.to_csv(temporary, index=False, lineterminator="\n", float_format=float_format)


def read_csv(path: Path, columns: Sequence[str] = (), **options: Any) -> pd.DataFrame:
    """Read a run's table by `pandas.read_csv` with the options.

    Raises:
        RunError: it can't be read, or lacks some of the columns.
    """
    import pandas as pd

    try:
        table: pd.DataFrame = pd.read_csv(path, **options)
    except (OSError, ValueError, pd.errors.ParserError) as error:
        raise RunError(f"{path}: can't be read as a table ({error}).") from error
    if missing := [name for name in columns if name not in table]:
        raise RunError(f"{path}: lacks the columns {shorten(missing)}; found {shorten(table.columns)}.")
    return table


def ensure_folder(path: Path) -> Path:
    """Make the folder unless it exists, and return it.

    Raises:
        RunError: it can't be made.
    """
    try:
        path.mkdir(exist_ok=True)
    except OSError as error:
        raise RunError(f"{path}: can't be made ({error.strerror}).") from error
    return path
