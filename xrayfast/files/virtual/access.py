"""Return state, content and folders of files of any kind by path: plain, in an archive, or remote.

All functions raise OSError for a file that does not exist or can't be reached, ReadError for one that is too large, or
in an archive that is damaged or hostile, and RemoteError if remote storage can't be read.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import BinaryIO, TypeAlias

from xrayfast.errors import XrayfastError
from xrayfast.files.virtual import remote
from xrayfast.files.virtual.addresses import canonical, is_remote, is_web_address, split_archive
from xrayfast.files.virtual.archives import MAX_MEMBER, archive_state, open_archive, plain_state
from xrayfast.files.virtual.indexes import unpacks
from xrayfast.files.virtual.remote import State


@dataclass(frozen=True)
class VirtualEntry:
    """An entry of a folder, with the interface of `os.DirEntry`."""

    path: str
    name: str
    folder: bool

    def is_dir(self) -> bool:  # noqa: D102 - as in os.DirEntry; also the next two
        return self.folder

    def is_file(self) -> bool:  # noqa: D102
        return not self.folder

    def is_symlink(self) -> bool:  # noqa: D102
        return False


Entry: TypeAlias = "os.DirEntry[str] | VirtualEntry"

_BELOW_FILE = (NotADirectoryError, FileNotFoundError) if os.name == "nt" else NotADirectoryError
"""Errors for a path through a file, such as a member of an archive; Windows does not tell it from a missing file."""

_Tree: TypeAlias = Mapping[str, Sequence[VirtualEntry]]
"""The entries of each folder, by its path from the root, whose own path is ""."""


_trees: dict[str, tuple[Mapping[str, State], _Tree]] = {}


def state_of(path: str | Path) -> State:
    """Return the state of a file or folder."""
    text = os.fspath(path)
    if not is_remote(text):
        try:
            status = os.stat(text)  # noqa: PTH116 - a Path takes 3 times as long, for each image of each epoch
        except _BELOW_FILE:  # a component of the path is a file: an archive?
            pass
        else:
            return plain_state(status)
    text = canonical(text)
    if inside := _find_archive(text):
        archive, name = inside
        if not name:
            return archive_state(archive)
        opened = open_archive(archive)
        if name in opened.names:
            return opened.names[name]
        if name in _tree_of(archive, opened.names):
            return State(0, opened.state.stamp, True)
        raise FileNotFoundError(2, "no such file in the archive", text)
    if not is_remote(text):
        raise FileNotFoundError(2, "no such file; a part of the path may be a file", text)
    return remote.state_of(text)


def stat_path(path: str) -> os.stat_result:
    """Return the state of a file as from `os.stat`, with times of 0 unless it is a plain file."""
    if not is_remote(path):
        try:
            return os.stat(path)  # noqa: PTH116
        except _BELOW_FILE:
            pass
    state = state_of(path)
    mode = stat.S_IFDIR | 0o555 if state.folder else stat.S_IFREG | 0o444
    return os.stat_result((mode, 0, 0, 1, 0, 0, max(state.size, 0), 0, 0, 0))


def is_folder(path: str) -> bool:
    """Whether a path can be listed: a folder, an archive, or a prefix of object names that ends at a '/'."""
    if not is_remote(path) and os.path.isdir(path):  # noqa: PTH112 - called for each folder of a table
        return True
    text = canonical(path)
    try:
        return not is_web_address(text) and _entries(text) is not None
    except OSError:
        return False


def is_file(path: str) -> bool:
    """Whether a path is that of a file."""
    try:
        return stat.S_ISREG(stat_path(path).st_mode)
    except XrayfastError:
        raise
    except (OSError, ValueError):  # there is none, or the path is invalid
        return False


def list_folder(folder: str | Path) -> list[Entry]:
    """Return the entries of anything that is a folder by `is_folder`, sorted by name."""
    text = os.fspath(folder)
    if not is_remote(text):
        try:
            with os.scandir(text) as entries:
                return sorted(entries, key=lambda entry: entry.name)
        except _BELOW_FILE:
            if not split_archive(canonical(text)):
                raise
    text = canonical(text)
    if (listed := _entries(text)) is None:
        where = "archive" if split_archive(text) else "bucket"
        raise FileNotFoundError(2, f"no such folder in the {where}", text)
    return list(listed)


def _entries(text: str) -> Sequence[VirtualEntry] | None:
    """Return the entries of a folder of an archive or a bucket; None if there is none, or it has no objects."""
    if inside := _find_archive(text):
        archive, name = inside
        return _tree_of(archive, open_archive(archive).names).get(name)
    root, files = remote.list_files(text) if is_remote(text) else ("", {})
    return _tree_of(root, files).get(text[len(root) + 1 :]) if files else None


def open_binary(path: str | Path) -> BinaryIO:
    """Return a stream of a file's content, which is in memory unless the file is plain."""
    text = os.fspath(path)
    if not is_remote(text):
        try:
            return open(text, "rb")  # noqa: PTH123 - Path.open takes 3 us longer, 2% of a small image
        except _BELOW_FILE:
            pass
    text = canonical(text)
    if inside := _find_archive(text):
        archive, name = inside
        opened = open_archive(archive)
        if name not in opened.members:
            raise FileNotFoundError(2, "no such file in the archive", text)
        return io.BytesIO(opened.read(name))
    if not is_remote(text):
        raise FileNotFoundError(2, "no such file; a part of the path may be a file", text)
    return io.BytesIO(remote.read_whole(text, MAX_MEMBER))


def outer_file(path: str) -> str:
    """Return the plain file that holds a file: its archive, or itself; "" for remote files."""
    if is_remote(path):
        return ""
    inside = _find_archive(canonical(path)) if split_archive(canonical(path)) else None
    return inside[0] if inside else path


def read_order(path: str) -> tuple[str, int]:
    """Return a sort key by which each compressed tar is read once from start to end; plain files are sorted by name."""
    if ".t" in path and (inside := split_archive(path)) and unpacks(inside[0]):
        try:
            found = _find_archive(canonical(path))
            if found:
                return found[0], open_archive(found[0]).members[found[1]].offset
        except (OSError, ValueError, KeyError):  # the reader reports what is wrong
            pass
    return path, 0


def known_states(paths: Iterable[str]) -> dict[str, tuple[int, str]]:
    """Return the states of remote files and their archives, so that another process need not ask servers for them."""
    remotes = [canonical(path) for path in paths if is_remote(path)]
    archives = {inside[0] for inside in map(split_archive, remotes) if inside}
    return remote.known_states(chain(remotes, archives))


def _find_archive(text: str) -> tuple[str, str] | None:
    """Return the outermost archive in a path and the path inside; else None. Folders with its suffix don't count."""
    start = 0
    while inside := split_archive(text[start:]):
        archive = text[: start + len(inside[0])]
        if is_remote(text) or os.path.isfile(archive):  # noqa: PTH113
            return archive, inside[1]
        if not inside[1]:
            return None
        start = len(archive) + 1
    return None


def _tree_of(root: str, files: Mapping[str, State]) -> _Tree:
    """Return the folders of an archive or bucket, computed once per state."""
    known = _trees.get(root)
    if known is None or known[0] is not files:
        known = _trees[root] = (files, _build_tree(root, files))
    return known[1]


def _build_tree(root: str, files: Iterable[str]) -> _Tree:
    tree: dict[str, list[VirtualEntry]] = {"": []}

    def add_folder(folder: str) -> list[VirtualEntry]:
        if folder not in tree:
            above, _, name = folder.rpartition("/")
            tree[folder] = []
            add_folder(above).append(VirtualEntry(f"{root}/{folder}", name, True))
        return tree[folder]

    for file in files:
        folder, _, name = file.rpartition("/")
        add_folder(folder).append(VirtualEntry(f"{root}/{file}", name, False))
    for entries in tree.values():
        entries.sort(key=lambda entry: entry.name)
    return tree
