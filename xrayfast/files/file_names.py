"""File names that every operating system and every table format can represent."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable
from pathlib import Path

from xrayfast.errors import LONGEST_NAME, DataError, XrayfastError
from xrayfast.errors.escapes import is_hidden, is_utf8

_DEVICE = re.compile(r"(con|prn|aux|nul|(com|lpt)[0-9\u00b9\u00b2\u00b3])(\.|$)", re.IGNORECASE)
"""Names that Windows reserves for devices, whatever their suffix."""


def portable_name(text: str) -> str:
    """Turn a text into a file or folder name that Linux, macOS and Windows allow; never hidden, never empty, never
    longer than `LONGEST_NAME` bytes.

    >>> portable_name("timm:a/b?"), portable_name("Con.a"), portable_name(".x. ")
    ('timm_a_b_', '_Con.a', 'x')
    """
    name = "".join("_" if c in '<>:"/\\|?*' or is_hidden(c) else c for c in text)
    name = name.encode()[:LONGEST_NAME].decode(errors="ignore").strip(". ")
    return f"_{name}" if _DEVICE.match(name) else name or "unnamed"


def require_utf8(names: Iterable[Path | str], error: type[XrayfastError] = DataError) -> None:
    """Raise an error for file names that are not UTF-8, which Linux allows but no table, JSON file or page can hold."""
    for name in map(str, names):
        if not is_utf8(name):
            raise error(f"{name}: found a name that is not UTF-8; expected a UTF-8 name. Rename it.")


def relative_path(path: Path, folder: Path) -> str:
    """Return the path from the folder, with '/' on every system; the absolute one from another drive of Windows."""
    path = path.absolute()
    with contextlib.suppress(ValueError):
        path = Path(os.path.relpath(path, folder.absolute()))
    return path.as_posix()
