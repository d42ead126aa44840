"""Files of a folder tree, and which of them a table means by what it writes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from xrayfast.data.images.reader import IMAGE_SUFFIXES, is_image
from xrayfast.errors import DataError


def absolute(path: Path) -> Path:
    """Absolute and without '..', but with symbolic links as they stand: names are as the user sees them."""
    return Path(os.path.normpath(path.absolute()))


def visible_entries(folder: Path | str) -> list[os.DirEntry[str]]:
    """What is visible in a folder, by name.

    Raises:
        DataError: the folder can't be read.
    """
    return [entry for entry in _entries(folder) if not entry.name.startswith(".")]


def top_level(folder: Path) -> tuple[list[Path], list[str]]:
    """The folders in a folder, and the names of all else.

    Raises:
        DataError: the folder can't be read.
    """
    entries = visible_entries(folder)
    folders = [Path(entry.path) for entry in entries if entry.is_dir()]
    return folders, [entry.name for entry in entries if not entry.is_dir()]


def walk(folder: Path) -> Iterator[os.DirEntry[str]]:
    """All that is visible in a tree and no folder, folder by folder, by name; links are followed.

    Raises:
        DataError: a folder can't be read, or a link leads back to a folder around it.
    """
    yield from _walk(str(folder), (os.path.realpath(folder),))


def _walk(folder: str, around: tuple[str, ...]) -> Iterator[os.DirEntry[str]]:
    """The same, in a folder within others of these real paths."""
    for entry in visible_entries(folder):
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
        yield from _walk(entry.path, (*around, real))


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
    """Paths that are found by their ends.

    Args:
        paths: relative paths with '/'.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        self._paths = paths
        self._depth = max((path.count("/") + 1 for path in paths), default=0)
        self._ends: dict[tuple[int, bool], dict[str, int | list[int]]] = {}

    def find(self, text: str, least: int = 1) -> list[int]:
        """Which paths end as the text does: those with which it shares most components.

        Where none has a whole name in common with it, image endings make no difference. A path that stands in the
        index as it is written goes before longer ones.

        Args:
            text: a path, with '/'.
            least: how many components they must share.

        Returns:
            Positions among the paths; several where the text does not say which.
        """
        written = text.count("/") + 1
        for depth in range(min(written, self._depth), least - 1, -1):
            end = text.split("/", written - depth)[-1]
            for stems in (False, True):
                found = self._of_depth(depth, stems).get(_stem(end) if stems else end)
                if isinstance(found, int):
                    return [found]
                if found:
                    return [i for i in found if self._paths[i].count("/") + 1 == depth] or found
        return []

    def _of_depth(self, depth: int, stems: bool) -> dict[str, int | list[int]]:
        """Positions by the last components of the paths; made when first asked for, as few are."""
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
    """The path without an image's ending."""
    stem, dot, suffix = path.rpartition(".")
    return stem if dot and f".{suffix.lower()}" in IMAGE_SUFFIXES else path


class Finder:
    """Finds the files that a table's cells mean: by exact path, and else by the end of the path.

    Cells may have backslashes, folders that are not there in front, and another image ending or none: see `PathIndex`.
    Files have names, which are their paths from the root with '/'.

    Args:
        root: the source folder's absolute path.
        base: another folder from which paths may start: the table's.
        least: how many components at the end of a path must agree; more than one where names of files repeat, as
            "view1_frontal.jpg" does.
    """

    def __init__(self, root: Path, base: Path, least: int = 1) -> None:
        self._root = root
        self._start = f"{str(root).rstrip(os.sep)}{os.sep}"
        self._least = least
        bases = list(dict.fromkeys((root, base)))
        self._bases = [(folder, {entry.name for entry in _entries(folder)}) for folder in bases]
        self._folders: dict[str, list[tuple[str, frozenset[str]]]] = {}
        self._names: list[str] | None = None
        self._index = PathIndex([])
        self._images: dict[tuple[str, ...], dict[str, list[str]]] = {}

    def find(self, cell: str) -> list[str]:
        """The name of the file that a cell means; none, or several where the cell does not say enough."""
        path = cell.strip()
        if "\\" in path:
            path = path.replace("\\", "/")
        folder, _, name = path.rpartition("/")
        there = self._folders.get(folder)
        if there is None:
            there = self._folders[folder] = self._exact(folder if folder or path == name else "/")
        for prefix, files in there:
            if name in files:
                return [prefix + name]
        names = self._names or self._all_names()
        return [names[i] for i in self._index.find(path, self._least)]

    def inside(self, path: str) -> list[str]:
        """The names of the images in a folder, which is found by the last two components of the path.

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
        """All visible files of the tree; read once, when first needed."""
        if self._names is None:
            start = len(self._start)
            self._names = [entry.path[start:].replace(os.sep, "/") for entry in walk(self._root) if entry.is_file()]
            self._index = PathIndex(self._names)
        return self._names

    def _exact(self, folder: str) -> list[tuple[str, frozenset[str]]]:
        """The folder as it is written, where there is one: the start of its files' names, and the files in it.

        It may be hidden, or outside of the root. Each is read once, as 400,000 checks of single files are slow.
        """
        found = []
        first = folder.partition("/")[0]
        for base, names in self._bases:
            if first in names or first in ("", ".", "..") or os.path.isabs(folder):  # noqa: PTH117 - see _walk
                path = os.path.normpath(os.path.join(base, folder))  # noqa: PTH118
                if os.path.isdir(path):  # noqa: PTH112
                    files = frozenset(entry.name for entry in _entries(path) if _is_file(entry))
                    found.append((self._prefix(path), files))
        return found

    def _prefix(self, folder: str) -> str:
        """The start of the names of files in a folder."""
        inside = f"{folder.rstrip(os.sep)}{os.sep}"
        if inside.startswith(self._start):
            return inside[len(self._start) :].replace(os.sep, "/")
        return os.path.relpath(folder, self._root).replace(os.sep, "/") + "/"
