"""List the files of a folder tree, without hidden ones."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterable, Iterator
from pathlib import Path

from xrayfast.data.images.reader import is_image
from xrayfast.errors import DataError, ReadError
from xrayfast.files.virtual.access import Entry, is_folder, list_folder
from xrayfast.files.virtual.addresses import normalize, split_archive
from xrayfast.files.virtual.paths import to_path


def absolute(path: Path) -> Path:
    """Return the absolute path without '..', keeping symbolic links so that names are as the user sees them."""
    return to_path(normalize(str(path.absolute())))


def top_level(folder: Path, hidden: list[str] | None = None) -> tuple[list[Path], list[str]]:
    """Return the folders in a folder and the names of all other entries; add the paths of hidden entries to `hidden`.

    Raises:
        DataError: the folder can't be read.
    """
    entries = _visible_entries(folder, hidden)
    folders = [to_path(entry.path) for entry in entries if _is_folder(entry)]
    return folders, [entry.name for entry in entries if not _is_folder(entry)]


def walk(
    folder: Path | str,
    around: tuple[str, ...] = (),
    *,
    broken: list[str] | None = None,
    hidden: list[str] | None = None,
) -> Iterator[Entry]:
    """Yield all visible files and other non-folder entries of a tree, folder by folder, sorted by name; follow links.

    Args:
        folder: the root of the tree.
        around: the real paths of the folder and of the folders around it, if known.
        broken: if given, archives are walked like folders, and what is wrong with unreadable archives is added to this
            list; if None, archives are files.
        hidden: the paths of hidden entries are added to this list.

    Raises:
        DataError: a folder can't be read, or a link leads back to a folder around it.
    """
    around = around or (os.path.realpath(folder),)
    for entry in _visible_entries(folder, hidden):
        if not (_is_folder(entry) or (broken is not None and _is_whole_archive(entry, broken))):
            yield entry
            continue
        # No Path objects in these loops: for 200,000 folders, creating them takes most of the time.
        beside = f"{around[-1].rstrip(os.sep)}{os.sep}{entry.name}"
        real = os.path.realpath(entry.path) if entry.is_symlink() else beside
        if real in around:
            raise DataError(
                f"{entry.path}: can't be followed (the link points to a folder that contains it). Remove the link."
            )
        yield from walk(entry.path, (*around, real), broken=broken, hidden=hidden)


def is_hidden(name: str) -> bool:
    """Whether a name is that of a hidden file or folder, or of a folder made by unpacking tools and file servers."""
    return name.startswith(".") or name in _HIDDEN


def hidden_images(paths: Iterable[str]) -> list[str]:
    """Return the images among hidden files and inside hidden folders, except macOS resource forks.

    `.1.png.icloud` stands for an image that is in the cloud.
    """
    found: list[str] = []
    for path in paths:
        if is_folder(path):
            found += [entry.path for entry in walk(path) if is_image(entry.path)]
        elif not posixpath.basename(path).startswith("._") and is_image(path.removesuffix(".icloud")):
            found.append(path)
    return found


def _visible_entries(folder: Path | str, hidden: list[str] | None = None) -> list[Entry]:
    entries = list_entries(folder)
    if hidden is not None:
        hidden += [entry.path for entry in entries if is_hidden(entry.name)]
    return [entry for entry in entries if not is_hidden(entry.name)]


def list_entries(folder: Path | str) -> list[Entry]:
    """Return what a folder contains, hidden or not.

    Raises:
        DataError: the folder can't be read.
    """
    try:
        return list_folder(folder)
    except OSError as error:
        raise DataError(f"{folder}: can't be read ({error.strerror}). Check its permissions.") from error


def _is_folder(entry: Entry) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:
        raise DataError(f"{entry.path}: can't be followed ({error.strerror}). Remove the link.") from error


def _is_whole_archive(entry: Entry, broken: list[str]) -> bool:
    """Whether an entry is a readable archive; an archive inside another archive counts as a plain file."""
    try:
        return split_archive(entry.name) is not None and is_folder(entry.path)
    except ReadError as error:
        broken.append(str(error))
        return False


_HIDDEN = frozenset(
    {
        "__MACOSX",
        "@eaDir",
        "$RECYCLE.BIN",
        "RECYCLER",
        "#recycle",
        "@Recycle",
        "System Volume Information",
        "lost+found",
    }
)
"""Folders that unpacking tools, file servers and file systems make for resource forks, thumbnails and deleted files."""
