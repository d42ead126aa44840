"""The files of a folder tree, and the one that a text means."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from xrayfast.data.images.reader import IMAGE_SUFFIXES, is_image
from xrayfast.errors import DataError


def absolute(path: Path) -> Path:
    """Absolute and without '..', but with symbolic links kept: names are as the user sees them."""
    return Path(os.path.normpath(path.absolute()))


def top_level(folder: Path) -> tuple[list[Path], list[str]]:
    """The folders in a folder, and the names of all other entries.

    Raises:
        DataError: the folder can't be read.
    """
    entries = _visible_entries(folder)
    folders = [Path(entry.path) for entry in entries if entry.is_dir()]
    return folders, [entry.name for entry in entries if not entry.is_dir()]


def walk(folder: Path | str, around: tuple[str, ...] = ()) -> Iterator[os.DirEntry[str]]:
    """All entries of a tree that are neither folders nor hidden, folder by folder, by name; links are followed.

    `around` are the real paths of the folder and of those around it, if known.

    Raises:
        DataError: a folder can't be read, or a link leads back to a folder around it.
    """
    around = around or (os.path.realpath(folder),)
    for entry in _visible_entries(folder):
        try:
            is_folder = entry.is_dir()
        except OSError as error:
            raise DataError(f"{entry.path}: can't be followed ({error.strerror}). Remove the link.") from error
        if not is_folder:
            yield entry
            continue
        # No Path is made in these loops: over 200,000 folders that takes most of the time.
        beside = f"{around[-1].rstrip(os.sep)}{os.sep}{entry.name}"
        real = os.path.realpath(entry.path) if entry.is_symlink() else beside
        if real in around:
            raise DataError(f"{entry.path}: can't be followed (it leads back to a folder around it). Remove the link.")
        yield from walk(entry.path, (*around, real))


def _visible_entries(folder: Path | str) -> list[os.DirEntry[str]]:
    return [entry for entry in _entries(folder) if not entry.name.startswith(".")]


def _entries(folder: Path | str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"{folder}: can't be read ({error.strerror}). Check its permissions.") from error


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:  # a link to itself
        return False


class PathIndex:
    """Finds relative paths, with '/', by their ends."""

    def __init__(self, paths: Sequence[str]) -> None:
        self._paths = paths
        self._depth = max((path.count("/") + 1 for path in paths), default=0)
        self._ends: dict[tuple[int, bool], dict[str, int | list[int]]] = {}

    def find(self, text: str, min_parts: int = 1) -> list[int]:
        """The positions of the paths that share most components at the end with the text, and at least `min_parts`.

        Image suffixes are ignored where no path shares a whole name. A path that equals the text goes before longer
        ones. There are several where the text is ambiguous.
        """
        written = text.count("/") + 1
        for depth in range(min(written, self._depth), min_parts - 1, -1):
            end = text.split("/", written - depth)[-1]
            for stems in (False, True):
                found = self._of_depth(depth, stems).get(_stem(end) if stems else end)
                if isinstance(found, int):
                    return [found]
                if found:
                    return [i for i in found if self._paths[i].count("/") + 1 == depth] or found
        return []

    def _of_depth(self, depth: int, stems: bool) -> dict[str, int | list[int]]:
        """Positions by the last components of the paths; built when first needed, as few are."""
        ends = self._ends.get((depth, stems))
        if ends is None:
            ends = self._ends[depth, stems] = {}
            for i, path in enumerate(self._paths):
                pieces = path.rsplit("/", depth)
                if len(pieces) < depth:
                    continue
                end = path[len(pieces[0]) + 1 :] if len(pieces) > depth else path
                known = ends.setdefault(_stem(end) if stems else end, i)
                # A list only where it needs one: 400,000 of them cost more than all else here.
                if isinstance(known, list):
                    known.append(i)
                elif known != i:
                    ends[_stem(end) if stems else end] = [known, i]
        return ends


def _stem(path: str) -> str:
    """The path without an image suffix."""
    stem, dot, suffix = path.rpartition(".")
    return stem if dot and f".{suffix.lower()}" in IMAGE_SUFFIXES else path


class Finder:
    """Finds the files that a table's cells mean: by exact path, else by the end of the path.

    Cells may have backslashes, leading folders that do not exist, and another image suffix or none: see `PathIndex`.
    Paths may be relative to the absolute paths `root`, of the source folder, and `base`, of the table's; `min_parts`
    components at their ends must agree. A file's name is its path from the root, with '/'.
    """

    def __init__(self, root: Path, base: Path, min_parts: int = 1) -> None:
        self._root = root
        self._start = f"{str(root).rstrip(os.sep)}{os.sep}"
        self._least = min_parts
        bases = list(dict.fromkeys((root, base)))
        self._bases = [(folder, {entry.name for entry in _entries(folder)}) for folder in bases]
        self._folders: dict[str, list[tuple[str, frozenset[str]]]] = {}
        self._names: list[str] | None = None
        self._index = PathIndex([])
        self._images: dict[tuple[str, ...], dict[str, list[str]]] = {}

    def find(self, cell: str) -> list[str]:
        """The names of the files that a cell may mean; more than one where it is ambiguous."""
        path = cell.strip()
        if "\\" in path:
            path = path.replace("\\", "/")
        folder, _, name = path.rpartition("/")
        listed = self._folders.get(folder)
        if listed is None:
            listed = self._folders[folder] = self._exact(folder if folder or path == name else "/")
        for prefix, files in listed:
            if name in files:
                return [prefix + name]
        names = self._all_names()
        return [names[i] for i in self._index.find(path, self._least)]

    def inside(self, path: str) -> list[str]:
        """The names of the images in a folder, which is found by the last two components of its path.

        Raises:
            DataError: there are several such folders.
        """
        if not self._images:
            for name in self._all_names():
                folder = name.rpartition("/")[0]
                self._images.setdefault(PurePosixPath(folder).parts[-2:], {}).setdefault(folder, []).append(name)
        found = self._images.get(PurePosixPath(path).parts[-2:], {})
        if len(found) > 1:
            raise DataError(f"folder '{path}' could be {' or '.join(sorted(found))}; expected one.")
        return [name for names in found.values() for name in names if is_image(self.path(name))]

    def path(self, name: str) -> str:
        """The absolute path of a file with this name."""
        path = self._start + name
        return os.path.normpath(path) if name.startswith("..") else path

    def _all_names(self) -> list[str]:
        """All files of the tree that are not hidden; listed once, when first needed."""
        if self._names is None:
            start = len(self._start)
            self._names = [entry.path[start:].replace(os.sep, "/") for entry in walk(self._root) if entry.is_file()]
            self._index = PathIndex(self._names)
        return self._names

    def _exact(self, folder: str) -> list[tuple[str, frozenset[str]]]:
        """The folder as written, under each base where it exists: the prefix of its files' names, and its files.

        It may be hidden, or outside the root. Each is listed once, as 400,000 checks of single files are slow.
        """
        found = []
        first = folder.partition("/")[0]
        for base, names in self._bases:
            if first in names or first in ("", ".", "..") or os.path.isabs(folder):  # noqa: PTH117 - see walk
                path = os.path.normpath(os.path.join(base, folder))  # noqa: PTH118
                if os.path.isdir(path):  # noqa: PTH112
                    files = frozenset(entry.name for entry in _entries(path) if _is_file(entry))
                    prefix = "" if path == str(self._root) else os.path.relpath(path, self._root) + "/"
                    found.append((prefix.replace(os.sep, "/"), files))
        return found
