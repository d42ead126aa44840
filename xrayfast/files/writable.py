"""Check where a command or a run writes before it does."""

from __future__ import annotations

import csv
import os
from collections.abc import Collection
from pathlib import Path

from xrayfast.errors import RunError, WriteError, shorten
from xrayfast.files.checksums import CHECKSUMS
from xrayfast.files.virtual.addresses import canonical, is_remote

_COPY = "Copy it to the bucket afterwards."


def require_output_file(path: Path) -> None:
    """Raise an error for an output path that is not a file, or whose folder does not exist.

    Raises:
        WriteError: the path is a folder, pipe, socket or device, or remote, or its folder does not exist.
    """
    if is_remote(path):
        raise WriteError(f"{canonical(path)}: is remote; expected a file on this machine to write to. {_COPY}")
    if path.exists() and not path.is_file():
        raise WriteError(f"{path}: found a folder, pipe or device; expected a file to write to. Choose another name.")
    if not (folder := path.absolute().parent).is_dir():
        raise WriteError(f"{path}: the folder {folder} does not exist. Create it, or choose another one.")


_NO_TEXT = frozenset({
    ".xlsx", ".xls", ".ods", ".parquet", ".feather", ".arrow", ".gz", ".bz2", ".xz", ".zst", ".zip", ".tar", ".pdf",
    ".png", ".jpg", ".jpeg", ".dcm", ".json", ".tsv",
})  # fmt: skip
"""Suffixes that a CSV table or a page can't have."""


def require_text_file(path: Path, *read: Path | None, columns: Collection[str] = (), is_page: bool = False) -> None:
    """Raise an error if a CSV table or a page should not be written to a path.

    Args:
        path: where to write.
        *read: the command's inputs.
        columns: columns that all tables of the command have: an existing table is replaced only if it has them.
        is_page: whether a page is written, not a table.

    Raises:
        WriteError: the path has the suffix of another format, which other programs could not open; it is an existing
            file that is not text, such as an image, or that is one of the inputs, another table, or of a run; see also
            `require_output_file`.
    """
    require_output_file(path)
    require_text_suffix(path, is_page=is_page)
    if not path.is_file():
        return
    with path.open("rb") as stream:
        start = stream.read(4096)
    if b"\0" in start:
        raise WriteError(
            f"{path}: found a file that is not text, such as an image or an archive, which would be overwritten. "
            "Choose another name."
        )
    if any(file is not None and os.path.realpath(file) == os.path.realpath(path) for file in read):
        raise WriteError(f"{path}: is an input of this command and would be overwritten. Choose another name.")
    require_outside_run(path)
    header = next(csv.reader(start.decode("utf-8-sig", "replace").splitlines()), [])
    if header and not set(columns) <= set(header):
        raise WriteError(
            f"{path}: found a table that this command did not write: its columns are {shorten(header)}; expected the "
            "name of a new file, or of an earlier output. Choose another name, or remove it."
        )


def require_outside_run(path: Path) -> None:
    """Raise an error if a command's output would replace a file of a run, or of an evaluation.

    Raises:
        WriteError: it would.
    """
    folder = Path(os.path.realpath(path)).parent
    if path.exists() and (folder / CHECKSUMS).is_file():
        raise WriteError(
            f"{path}: is in the folder of a run or an evaluation, where commands do not replace files; expected the "
            "name of a new file. Choose another name."
        )


def require_text_suffix(path: Path, *, is_page: bool = False) -> None:
    """Raise an error if a CSV table or a page would get the suffix of another format.

    Raises:
        WriteError: it would.
    """
    if path.suffix.lower() in _NO_TEXT | ({".csv"} if is_page else {".html", ".htm"}):
        what, suffix = ("a page", ".html") if is_page else ("a CSV table", ".csv")
        raise WriteError(
            f"{path}: found the suffix '{path.suffix}'; expected a name for {what}, such as "
            f"{path.name.partition('.')[0]}{suffix}. Choose another name."
        )


def make_output_folder(path: Path) -> Path:
    """Make the folder that the caller named for a command's output, unless it exists.

    Raises:
        WriteError: it can't be made, or is remote.
    """
    if is_remote(path):
        raise WriteError(f"{canonical(path)}: is remote; expected a folder on this machine to write to. {_COPY}")
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
