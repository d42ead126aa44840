"""Check where a command or a run writes before it does."""

from __future__ import annotations

import csv
import json
import mmap
import os
from collections.abc import Collection
from pathlib import Path

from xrayfast.errors import LONGEST_NAME, RunError, WriteError, shorten, truncate
from xrayfast.files.checksums import CHECKSUMS
from xrayfast.files.virtual.addresses import canonical, is_remote

_COPY = "Copy it to the bucket afterwards."


LONGEST_FILE = 255
"""The maximum length of a file name in most file systems, in bytes."""


def why_unwritable(folder: Path) -> tuple[Path, str]:
    """Return the folder or its nearest parent that exists, and why nothing can be created there; "" if it can."""
    there = next(one for one in (folder.absolute(), *folder.absolute().parents) if exists(one))
    writable = os.access(there, os.W_OK | os.X_OK)
    problem = "it is a file" if not there.is_dir() else "" if writable else "permission denied"
    return there, problem or _why_too_long(folder)


def _why_too_long(path: Path) -> str:
    longest = max((os.fsencode(part) for part in path.parts), key=len, default=b"")
    if len(longest) <= LONGEST_FILE:
        return ""
    shown = truncate(os.fsdecode(longest), LONGEST_NAME)
    return f"the name '{shown}' has {len(longest)} bytes; most file systems allow {LONGEST_FILE}"


def exists(path: Path) -> bool:
    """Whether a path exists, as far as this user can see: not if a folder above it can't be entered."""
    return os.path.exists(path)  # noqa: PTH110 - Path.exists raises an error then


def require_output_file(path: Path) -> None:
    """Raise an error for an output path that is not a file, or whose folder does not exist or can't be written to.

    Raises:
        WriteError: the path is a folder, pipe, socket or device, or remote, or its folder does not exist, or this user
            has no permission to write there.
    """
    if is_remote(path):
        raise WriteError(f"{canonical(path)}: is remote; expected a file on this machine to write to. {_COPY}")
    if exists(path) and not path.is_file():
        raise WriteError(f"{path}: found a folder, pipe or device; expected a file to write to. Choose another name.")
    folder = path.absolute().parent
    there, problem = why_unwritable(folder)
    if problem:
        raise WriteError(f"{path}: can't be written ({there}: {problem}). Choose another folder.")
    if problem := _why_too_long(path):
        raise WriteError(f"{path}: can't be written ({problem}). Choose another name.")
    if there != folder:
        raise WriteError(f"{path}: the folder {folder} does not exist. Create it, or choose another one.")


_NO_TEXT = frozenset({
    ".xlsx", ".xls", ".ods", ".parquet", ".feather", ".arrow", ".gz", ".bz2", ".xz", ".zst", ".zip", ".tar", ".pdf",
    ".png", ".jpg", ".jpeg", ".dcm", ".json", ".tsv",
})  # fmt: skip
"""Suffixes that a CSV table or a page can't have."""


PAGE_MARK, EXPORT_MARK, PNG_MARK = " · xrayfast ".encode(), b"xrayfast classifier", b"Software\0xrayfast"
"""Bytes of every page (in its title), exported file (in its metadata) and figure."""


def require_text_file(path: Path, *read: Path | None, columns: Collection[str] = (), is_page: bool = False) -> None:
    """Raise a WriteError if a CSV table or a page should not be written to a path: see the functions that are called.

    `read` are the command's inputs. An existing table is replaced only if it has the `columns` of all of the command's.
    """
    require_output_file(path)
    require_text_suffix(path, is_page=is_page)
    require_replaceable(path, *read, keys=columns, mark=PAGE_MARK if is_page else b"")


def require_replaceable(path: Path, *read: Path | None, keys: Collection[str] = (), mark: bytes = b"") -> None:
    """Raise an error if an output would replace a file that xrayfast did not write as an output of the same kind.

    Args:
        path: where to write.
        *read: the command's inputs, none of which may be replaced.
        keys: columns that every such CSV table has, or keys of every such JSON object.
        mark: bytes that every such file contains.

    Raises:
        WriteError: the path is an existing file with other content or that can't be read, one of the inputs, or of a
            run; see also `require_output_file`.
    """
    require_output_file(path)
    if not exists(path):
        return
    if any(file is not None and os.path.realpath(file) == os.path.realpath(path) for file in read):
        raise WriteError(f"{path}: is an input of this command and would be overwritten. Choose another name.")
    if (Path(os.path.realpath(path)).parent / CHECKSUMS).is_file():
        raise WriteError(
            f"{path}: is in the folder of a run or an evaluation, where commands do not replace files; expected the "
            "name of a new file. Choose another name."
        )
    if not path.stat().st_size:
        return
    try:
        with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
            found = _keys(path, content) if keys else []
            is_ours = set(keys) <= set(found) and content.find(mark) >= 0
    except OSError as error:
        raise WriteError(
            f"{path}: exists, but can't be read ({error.strerror}); expected a new file, or an earlier output that can "
            "be read. Move or remove it, or write to another place."
        ) from error
    if not is_ours:
        what = f": its {'keys' if path.suffix == '.json' else 'columns'} are {shorten(found)}" if found else ""
        raise WriteError(
            f"{path}: found a file that this command did not write{what}; expected a new file, or an earlier output. "
            "Move or remove it, or write to another place."
        )


def _keys(path: Path, content: mmap.mmap) -> list[str]:
    """Return the keys of a JSON object or the columns of a CSV table; none if it is neither."""
    is_json = path.suffix == ".json"
    text = content[: None if is_json else 2**20].decode("utf-8-sig", "replace")
    if "\0" in text:  # an image or an archive
        return []
    try:
        return list(dict(json.loads(text))) if is_json else next(csv.reader(text.splitlines()), [])
    except (ValueError, TypeError, csv.Error, RecursionError):
        return []


def require_text_suffix(path: Path, *, is_page: bool = False) -> None:
    """Raise a WriteError if a CSV table or a page would get the suffix of another format."""
    if path.suffix.lower() in _NO_TEXT | ({".csv"} if is_page else {".html", ".htm"}):
        what, suffix = ("a page", ".html") if is_page else ("a CSV table", ".csv")
        raise WriteError(
            f"{path}: found the suffix '{path.suffix}'; expected a name for {what}, such as "
            f"{path.name.partition('.')[0]}{suffix}. Choose another name."
        )


def require_output_folder(path: Path) -> None:
    """Raise a WriteError if the folder that the caller named for a command's output can't be made or written to."""
    if is_remote(path):
        raise WriteError(f"{canonical(path)}: is remote; expected a folder on this machine to write to. {_COPY}")
    there, problem = why_unwritable(path)
    if problem:
        raise WriteError(f"{there}: can't be written ({problem}). Choose another folder with --output.")


def make_output_folder(path: Path) -> Path:
    """Make the folder that the caller named for a command's output, unless it exists: see `require_output_folder`."""
    require_output_folder(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WriteError(
            f"{path}: can't be created ({error.strerror}). Choose another folder with --output."
        ) from error
    return path


def ensure_folder(path: Path) -> Path:
    """Make a folder in a run's folder unless it exists, and return it.

    Raises:
        RunError: it can't be made, or is a symbolic link, through which a run's author could have us write anywhere.
    """
    if path.is_symlink():
        raise RunError(
            f"{path}: is a symbolic link to {path.readlink()}; expected a folder within {path.parent}. Nothing was "
            "written through it. Remove the link, or move the folder here."
        )
    try:
        path.mkdir(exist_ok=True)
    except OSError as error:
        raise RunError(f"{path}: can't be created ({error.strerror}).") from error
    return path
