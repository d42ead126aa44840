"""Find the file that a table cell means."""

from __future__ import annotations

import contextlib
import os
import posixpath
import re
import unicodedata
from array import array
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import cached_property, lru_cache
from pathlib import Path, PurePosixPath

import numpy as np

from xrayfast.data.images.names import find_derived, is_derived
from xrayfast.data.images.reader import is_image
from xrayfast.data.sources.folder_tree import list_entries, walk
from xrayfast.data.sources.path_index import PathIndex, clean_path, drop_shared_folders, normalize_name, path_stem
from xrayfast.data.splits.words import parse_split
from xrayfast.data.text_column import TextColumn
from xrayfast.errors import DataError, plural, shorten
from xrayfast.files.virtual.access import Entry, is_folder
from xrayfast.files.virtual.addresses import (
    is_absolute,
    is_remote,
    is_web_address,
    name_of_address,
    normalize,
    split_archive,
)

_MAYBE_ELSEWHERE = ("", "/", "\\", ".")
"""First characters of names that may not be paths below the root."""

_LEAST_SHARE = 0.2
"""Least number of listed images in a kind of folder, relative to the kind with the most listed images."""

_LEAST_LISTED = 0.5
"""Least fraction of a folder kind's images that are listed, relative to that fraction in the kind with the most."""


class Matches:
    """The candidate files of each of N texts, in one flat list: ten million lists would take a gigabyte.

    Attributes:
        names: of the files, grouped by text.
        counts: (N,) number of candidates per text.
    """

    def __init__(self, found: Iterable[list[str]]) -> None:
        """Store one list per text."""
        self.names, counts = list[str](), array("q")
        for several in found:
            self.names += several
            counts.append(len(several))
        self.counts = np.array(counts, np.intp)
        self.starts = np.cumsum(self.counts) - self.counts

    def __len__(self) -> int:
        return len(self.counts)

    def __eq__(self, other: object) -> bool:
        return list(self) == other

    def __getitem__(self, i: int) -> list[str]:
        return self.names[self.starts[i] : self.starts[i] + self.counts[i]]

    def __iter__(self) -> Iterator[list[str]]:
        return map(self.__getitem__, range(len(self)))


class _FolderFiles:
    """The files of one folder, found by exact name, else in another Unicode form, else ignoring the image suffix.

    `prefix` is put in front of a file's name in the folder.
    """

    def __init__(self, prefix: str, files: Iterable[str]) -> None:
        self.prefix = prefix
        self.files = frozenset(files)

    def find_all(self, paths: Sequence[str]) -> list[str | list[str]]:
        """Call `find` on the last component of each path, all in one folder; return a single match as a string."""
        start = paths[0].rpartition("/")[0]
        written = self.prefix == (f"{start}/" if start else "")
        found = list[str | list[str]]()
        for path in paths:
            name = path.rpartition("/")[2]
            if name in self.files:
                # Reuse the given string if it is the name: copies of ten million strings would take a gigabyte.
                found.append(path if written else self.prefix + name)
            else:
                several = self.find(name)
                found.append(several[0] if len(several) == 1 else several)
        return found

    def find(self, name: str) -> list[str]:
        if name in self.files:
            return [self.prefix + name]
        return [self.prefix + self._sorted[place] for place in self._index.find(name)]

    @cached_property
    def _sorted(self) -> list[str]:
        return sorted(self.files)

    @cached_property
    def _index(self) -> PathIndex:
        return PathIndex(self._sorted)


class Finder:
    """An index of a folder tree that finds the files that the cells of a table mean.

    A path is looked up as written, relative to the absolute paths `root` (the source folder) and `base` (the table's
    folder). If the written folder does not exist, the path may be deeper in the tree, and leading folders that the
    paths of all rows share may be missing. A file of the same name in another folder than the one written is never
    used. Cells may have backslashes, and a different image suffix or none. The last `min_parts` components of paths
    must agree.

    A file's name is its path from the root, with '/', or its address if it is not in a folder of the root's bucket.
    Archives that a path names are treated as folders; other archives only if `archives` is true, and `broken` then says
    what is wrong with unreadable archives.
    """

    def __init__(self, root: Path, base: Path, min_parts: int = 1, *, archives: bool = False) -> None:
        self.root = root
        self._start = f"{str(root).rstrip(os.sep)}{os.sep}"
        self._least = min_parts
        self._archives, self.broken = archives, list[str]()
        self._addresses: dict[str, str] = {}
        bases = list(dict.fromkeys((root, base)))
        self._bases = [(folder, {normalize_name(entry.name) for entry in list_entries(folder)}) for folder in bases]
        self._folders: dict[str, list[_FolderFiles]] = {}
        self._left: dict[str, frozenset[str]] = {}
        self._names: list[str] | None = None
        self._index = PathIndex([])
        self._nearly: dict[Callable[[str], str], dict[str, list[str]]] = {}
        self._images: dict[tuple[str, ...], dict[str, list[str]]] = {}

    def find(self, cells: Sequence[str]) -> tuple[Matches, list[str]]:
        """Return the names of the files that each cell may mean, several if it is ambiguous; and notes.

        All cells of a table must be passed at once. Cells with the same written folder are looked up in the same
        folder: the one under the root, unless the one beside the table holds more of the files.
        """
        paths = [clean_path(cell) for cell in cells]
        nothing: list[str] = []  # shared by all rows: ten million empty lists take half a gigabyte
        found: list[str | list[str]] = [self._find_address(path) or nothing for path in paths]
        paths = ["" if files else path for path, files in zip(paths, found, strict=True)]
        paths, dropped = drop_shared_folders(paths, self._is_there, self._least)
        notes = [f"All paths begin with {dropped}, which is not in {self.root}: they are read without it."]
        notes = notes if dropped else []
        deeper, twice = self._find_in_folders(paths, found)
        if twice and len({os.path.realpath(self.path(name)) for name in twice[0]}) > 1:
            notes.append(
                f"{plural(len(twice), 'image')} found in two places, under {self.root} and beside the table, such as "
                f"{' and '.join(twice[0])}: the first is used. To use the other, give its folder."
            )
        if deeper:
            notes += self._find_deeper(paths, deeper, found)
        if written_split := _split_in(dropped):
            elsewhere = [
                isinstance(name, str) and _split_in(_folder(name)) not in ("", written_split) for name in found
            ]
            found = [nothing if is_other else name for name, is_other in zip(found, elsewhere, strict=True)]
        if changed := [(paths[row], name) for row, name in enumerate(found) if _has_other_suffix(paths[row], name)]:
            cell, file = changed[0]
            notes.append(
                f"{plural(len(changed), 'file')} found with another suffix than in the table, such as {file} for "
                f"{cell}."
            )
        return Matches([name] if isinstance(name, str) else name for name in found), notes

    def _find_in_folders(
        self, paths: Sequence[str], found: list[str | list[str]]
    ) -> tuple[list[int], list[tuple[str, str]]]:
        """Add the files in the written folders to `found`; return rows to look up deeper, and files found twice."""
        folders = TextColumn.of(map(_folder, paths))
        # A stable sort keeps the rows of a folder in their order.
        order = np.argsort(folders.codes, kind="stable")
        ends = np.cumsum(np.bincount(folders.codes, minlength=len(folders.texts)))
        split = zip(folders.texts, np.split(order, ends[:-1]), strict=True)
        rows_of = {folder: rows for folder, rows in split if not all(found[row] for row in rows)}
        deeper, twice = list[int](), list[tuple[str, str]]()
        for folder, rows in rows_of.items():
            places = [row for row in rows.tolist() if not found[row]]
            written = [paths[row] for row in places]
            listed = [(files, files.find_all(written)) for files in self._listed(folder)]
            best, most = max(listed, key=lambda pair: sum(map(bool, pair[1])), default=(None, []))
            for files, others in listed:
                if best and files.prefix != best.prefix:
                    twice += [(str(one), str(two)) for one, two in zip(most, others, strict=True) if one and two]
            if any(most):
                for row, names in zip(places, most, strict=True):
                    found[row] = names
            elif not listed or not (folder or len(rows_of) > 1):  # a bare name means any folder if all are bare
                deeper += places
            self._keep_unlisted(folder, [files for files, _ in listed], most)
        return deeper, twice

    def _keep_unlisted(self, folder: str, listed: Sequence[_FolderFiles], found: Sequence[str | list[str]]) -> None:
        """Keep only the files in a folder that no row names: keeping ten million files takes gigabytes."""
        names = frozenset(name for one in found for name in ([one] if isinstance(one, str) else one))
        for files in listed:
            start = len(files.prefix)
            are_all = len(listed) == 1 and len(names) == len(files.files)
            here = files.files if are_all else {name[start:] for name in names if name.startswith(files.prefix)}
            self._left[files.prefix] = self._left.get(files.prefix, files.files) - here
        self._folders.pop(folder, None)

    def is_folder(self, cell: str) -> bool:
        """Whether a folder in the tree has the same last two path components as a cell."""
        end = "/".join(PurePosixPath(clean_path(cell)).parts[-2:])
        return bool(end) and any(f"/{end}/" in f"/{name}" for name in self._all_names())

    def archives(self) -> list[str]:
        """Return the names of the archives in the tree."""
        return [name for name in self._all_names() if split_archive(name) == (name, "")]

    def same_names(self, cell: str) -> list[str]:
        """Return the names of the files whose last component equals that of a cell, in any folder."""
        names = self._all_names()
        return [names[i] for i in self._index.find(clean_path(cell).rpartition("/")[2])]

    def nearly_called(self, cell: str, key: Callable[[str], str]) -> list[str]:
        """Return the names of the files that a cell means if both are compared by a key, such as `str.casefold`."""
        if key not in self._nearly:
            ends = self._nearly[key] = {}
            for name in self._all_names():
                ends.setdefault(key(path_stem(normalize_name(name)).rpartition("/")[2]), []).append(name)
        folder, _, stem = path_stem(normalize_name(clean_path(cell))).rpartition("/")
        end = f"/{folder}/".replace("//", "/")
        return [
            name
            for name in self._nearly[key].get(key(stem), [])
            if key(f"/{normalize_name(posixpath.dirname(name))}/").endswith(key(end))
        ]

    def inside(self, path: str) -> list[str]:
        """Return the names of the images in the folder that has the same last two path components.

        Raises:
            DataError: several folders match.
        """
        if not self._images:
            for name in self._all_names():
                folder = name.rpartition("/")[0]
                self._images.setdefault(PurePosixPath(folder).parts[-2:], {}).setdefault(folder, []).append(name)
        found = self._images.get(PurePosixPath(path).parts[-2:], {})
        if len(found) > 1:
            raise DataError(f"folder '{path}' could be {' or '.join(sorted(found))}; expected one.")
        return [name for names in found.values() for name in names if is_image(self.path(name))]

    def others(self, found: Collection[str]) -> list[str]:
        """Return the names of images that are not among those found, in the folders of those found."""
        folders = {*map(_folder, found)}
        names = {prefix + file for prefix, files in self._left.items() for file in files}
        if self._names:
            names |= {name for name in self._names if _folder(name) in folders}
            names -= {*found}
        names = {name for name in names if _folder(name) in folders}
        images = (name for name in names if path_stem(name) != name and not is_derived(name))
        return sorted(name for name in images if not posixpath.basename(name).startswith("."))

    def path(self, name: str) -> str:
        """Return the absolute path of the file with this name."""
        if name[:1] not in _MAYBE_ELSEWHERE and ":" not in name and not self._addresses:  # fast usual case
            return self._start + name
        if name in self._addresses:
            return self._addresses[name]
        if is_absolute(name):
            return name
        path = self._start + name
        return os.path.normpath(path) if name.startswith("..") else path

    def _find_address(self, path: str) -> str:
        """Return the name of a file on the web, which is only checked when it is read; "" for any other file."""
        if not is_web_address(path):
            return ""
        name = name_of_address(path)
        self._addresses[name] = path
        return name

    def _relative(self, path: str) -> str:
        """Return the name of the file at an absolute path."""
        if path.startswith(self._start):
            return path[len(self._start) :].replace(os.sep, "/")
        if is_remote(path) or is_remote(self._start):
            return path
        with contextlib.suppress(ValueError):  # two drives of Windows
            path = os.path.relpath(path, self.root)
        return path.replace(os.sep, "/")

    def _is_there(self, path: str) -> bool:
        """Whether the folder exists as written, or a path in the tree ends in the whole path."""
        folder, name = posixpath.split(path)
        listed = self._listed(folder)
        if (folder and listed) or any(files.find(name) for files in listed):
            return True
        self._all_names()
        return bool(self._index.find(path))

    def _find_deeper(self, paths: Sequence[str], rows: Sequence[int], found: list[str | list[str]]) -> list[str]:
        """Fill in the files of rows whose whole paths are the ends of names in the tree; return notes on their folders.

        The files may be in several folders whose names differ in numbers or splits (images_001, images_002). A folder
        of another kind that holds few of the files, or mostly unlisted images, is taken for a different data set and
        ignored.
        """
        names, folders, kinds = self._all_names(), Counter[str](), Counter[str]()
        for row in rows:
            several = [names[i] for i in self._index.find(paths[row])]
            found[row] = several
            if len(several) == 1:
                found[row] = several[0]
                folder = _added(several[0], paths[row])
                folders[folder] += 1
                kinds[_kind(folder)] += 1
        if not kinds:
            return []
        images = Counter(_kind(_added(name, "x")) for name in names if path_stem(name) != name)
        largest, most = kinds.most_common(1)[0]
        inside = {kind: sum(n for other, n in images.items() if other.startswith(kind)) or 1 for kind in kinds}
        share = most / inside[largest]
        foreign = {
            kind
            for kind, count in kinds.items()
            if count < _LEAST_SHARE * most or count < _LEAST_LISTED * share * inside[kind]
        }
        for row in rows if foreign else ():
            name = found[row]
            if isinstance(name, str) and _kind(_added(name, paths[row])) in foreign:
                found[row] = []
        where = [f"{folder} ({n})" for folder, n in sorted(folders.items()) if _kind(folder) not in foreign]
        return [f"Images were found by file name in these folders: {shorten(where, 20)}."]

    def _all_names(self) -> list[str]:
        """Return all files of the tree except hidden files and those named as masks; listed once, on first use."""
        if self._names is None:
            start = len(self._start)
            tree = walk(self.root, broken=self.broken if self._archives else None)
            self._names = [entry.path[start:].replace(os.sep, "/") for entry in tree if entry.is_file()]
            derived = find_derived(self._names)
            self._names = [name for name in self._names if name not in derived]
            self._index = PathIndex(self._names)
        return self._names

    def _listed(self, folder: str) -> list[_FolderFiles]:
        """Return the folder as written, once for each base in which it exists.

        It may be hidden or outside the root. Folders are listed once, because 400,000 checks of single files are slow.
        """
        if folder not in self._folders:
            self._folders[folder] = list(self._list_exact(folder))
        return self._folders[folder]

    def _list_exact(self, folder: str) -> Iterator[_FolderFiles]:
        first = normalize_name(folder.partition("/")[0])
        for base, names in self._bases:
            if not (first in names or first in ("", ".", "..") or is_absolute(folder)):
                continue
            for form in dict.fromkeys(unicodedata.normalize(form, folder) for form in ("NFC", "NFD")):
                path = normalize(form if is_absolute(form) else os.path.join(base, form))  # noqa: PTH118
                if is_folder(path):
                    prefix = "" if path == str(self.root) else f"{self._relative(path)}/"
                    files = (entry.name for entry in list_entries(path) if _is_file(entry))
                    yield _FolderFiles(prefix, files)


def _added(name: str, path: str) -> str:
    """Return the folders of a name that precede the path in which it ends."""
    return "/".join([*name.split("/")[: name.count("/") - path.count("/")], ""])


@lru_cache(maxsize=1 << 12)
def _kind(folder: str) -> str:
    """Return the folder's path without numbers and splits, which tell folders of one data set apart."""
    return "/".join("" if parse_split(part) else re.sub(r"\d+", "", part) for part in folder.split("/"))


def _folder(path: str) -> str:
    """Return `posixpath.dirname` of a clean path, in a third of the time."""
    return path.rpartition("/")[0] or ("/" if path.startswith("/") else "")


@lru_cache(maxsize=1 << 12)
def _split_in(folder: str) -> str:
    """Return the split that the innermost folder of a path with such a name means; "" for none."""
    return next(filter(None, map(parse_split, reversed(folder.split("/")))), "")


def _has_other_suffix(path: str, name: str | list[str]) -> bool:
    if not isinstance(name, str) or name is path:
        return False
    return path_stem(path) != path and not name.endswith(path.rpartition(".")[2])


def _is_file(entry: Entry) -> bool:
    try:
        return entry.is_file()
    except OSError:  # a link to itself
        return False
