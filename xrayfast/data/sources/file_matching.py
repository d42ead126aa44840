"""The files of a folder tree, and the one that a text means."""

from __future__ import annotations

import os
import posixpath
import re
import unicodedata
from array import array
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import takewhile
from pathlib import Path, PurePosixPath
from typing import overload

import numpy as np
import numpy.typing as npt

from xrayfast.data.images.names import find_derived, is_derived
from xrayfast.data.images.reader import IMAGE_SUFFIXES, is_image
from xrayfast.data.splits.stratify import parse_split
from xrayfast.data.text_column import TextColumn
from xrayfast.errors import DataError, ReadError, shorten, truncate
from xrayfast.files.virtual.access import Entry, is_folder, list_folder
from xrayfast.files.virtual.addresses import (
    canonical,
    is_absolute,
    is_remote,
    is_web_address,
    name_of_address,
    normalize,
    split_archive,
)
from xrayfast.files.virtual.paths import to_path


def absolute(path: Path) -> Path:
    """Absolute and without '..', but with symbolic links kept: names are as the user sees them."""
    return to_path(normalize(str(path.absolute())))


def top_level(folder: Path, hidden: list[str] | None = None) -> tuple[list[Path], list[str]]:
    """The folders in a folder, and the names of all other entries; the paths of hidden ones are added to `hidden`.

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
    """All entries of a tree that are neither folders nor hidden, folder by folder, by name; links are followed.

    `around` are the real paths of the folder and of those around it, if known. Archives in the tree are files; or
    folders where there is a list `broken`, to which is added what is wrong with those that can't be read. The paths of
    hidden entries are added to `hidden`.

    Raises:
        DataError: a folder can't be read, or a link leads back to a folder around it.
    """
    around = around or (os.path.realpath(folder),)
    for entry in _visible_entries(folder, hidden):
        if not (_is_folder(entry) or (broken is not None and _is_whole_archive(entry, broken))):
            yield entry
            continue
        # No Path is made in these loops: over 200,000 folders that takes most of the time.
        beside = f"{around[-1].rstrip(os.sep)}{os.sep}{entry.name}"
        real = os.path.realpath(entry.path) if entry.is_symlink() else beside
        if real in around:
            raise DataError(f"{entry.path}: can't be followed (it leads back to a folder around it). Remove the link.")
        yield from walk(entry.path, (*around, real), broken=broken, hidden=hidden)


def is_hidden(name: str) -> bool:
    """Whether a file or folder is hidden by its name, or one that unpacking and file servers make."""
    return name.startswith(".") or name in _HIDDEN


def hidden_images(paths: Iterable[str]) -> list[str]:
    """The images among hidden files and in hidden folders, but for the resource forks of macOS."""
    found: list[str] = []
    for path in paths:
        if is_folder(path):
            found += [entry.path for entry in walk(path) if is_image(entry.path)]
        elif not posixpath.basename(path).startswith("._") and is_image(path):
            found.append(path)
    return found


def _visible_entries(folder: Path | str, hidden: list[str] | None = None) -> list[Entry]:
    entries = _entries(folder)
    if hidden is not None:
        hidden += [entry.path for entry in entries if is_hidden(entry.name)]
    return [entry for entry in entries if not is_hidden(entry.name)]


def _entries(folder: Path | str) -> list[Entry]:
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
    """Whether an entry is an archive; one in another archive is a file."""
    try:
        return split_archive(entry.name) is not None and is_folder(entry.path)
    except ReadError as error:
        broken.append(str(error))
        return False


def _is_file(entry: Entry) -> bool:
    try:
        return entry.is_file()
    except OSError:  # a link to itself
        return False


_HIDDEN = frozenset({"__MACOSX", "@eaDir"})
"""Folders that unpacking and file servers make: of resource forks and thumbnails."""

_MAYBE_ELSEWHERE = ("", "/", "\\", ".")
"""First characters of names that may not be below the root."""

MAX_PATH = 4096
"""Most characters of a path, as on Linux."""

_LEAST_SHARE = 0.2
"""Least number of listed images in folders of one kind, as a share of those in the kind that holds most of them."""

_LEAST_LISTED = 0.5
"""Least share of their images that are listed, by that share in the kind that holds most."""


class PathIndex:
    """Finds relative paths, with '/', by their ends. Names in Unicode's composed and decomposed form are the same."""

    def __init__(self, paths: Sequence[str]) -> None:
        self._paths = paths
        self._ends: dict[tuple[int, bool], dict[str, int | list[int]]] = {}

    def find(self, text: str) -> list[int]:
        """The positions of the paths that end in the whole text, the one that equals it before longer ones.

        Image suffixes are ignored where no path has the whole name. There are several where the text is ambiguous.
        """
        depth, text = text.count("/") + 1, normalize_name(text)
        for stems in (False, True):
            found = self._of_depth(depth, stems).get(_stem(text) if stems else text)
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
                end = normalize_name(path[len(pieces[0]) + 1 :] if len(pieces) > depth else path)
                known = ends.setdefault(_stem(end) if stems else end, i)
                # A list only where it needs one: 400,000 of them cost more than all else here.
                if isinstance(known, list):
                    known.append(i)
                elif known != i:
                    ends[_stem(end) if stems else end] = [known, i]
        return ends


def drop_shared_folders(
    paths: Sequence[str], is_found: Callable[[str], bool], min_parts: int = 1
) -> tuple[list[str], str]:
    """Drop the fewest leading folders that all paths share and without which one of them is found.

    A part that only some paths have is never dropped: what is left could be the name of another patient's image.

    Returns:
        The paths, each of `min_parts` components or more where any were dropped; those folders, with a last '/'.
    """
    if any(map(is_found, filter(None, paths))):
        return list(paths), ""
    written = [path for path in paths if path]
    first, last = min(written, default="").split("/")[:-1], max(written, default="").split("/")[:-1]
    shared = [one for one, _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))]
    fewest = min((path.count("/") + 1 for path in written), default=0)
    for count in range(1, max(min(len(shared), fewest - min_parts), 0) + 1):
        start = len("/".join([*shared[:count], ""]))
        if any(is_found(path[start:]) for path in written):
            return [path[start:] for path in paths], written[0][:start]
    return list(paths), ""


def clean_path(cell: str) -> str:
    """A cell as a path with '/', without '.' and '..' inside it; see `virtual.paths.canonical` for other addresses.

    Raises:
        DataError: it is longer than the path of any file.
    """
    if len(cell) > MAX_PATH:
        raise DataError(
            f"found a path of {len(cell):,} characters, '{truncate(cell, 60)}'; expected at most {MAX_PATH:,}."
        )
    path = canonical(cell.strip().replace("\\", "/"))
    if is_remote(path):
        return path if is_web_address(path) else normalize(path)
    return posixpath.normpath(path) if "./" in path or "//" in path else path


def normalize_name(name: str) -> str:
    """The name in Unicode's composed form: macOS writes decomposed ones, which look the same."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def _stem(path: str) -> str:
    """The path without an image suffix."""
    stem, dot, suffix = path.rpartition(".")
    return stem if dot and f".{suffix.lower()}" in IMAGE_SUFFIXES else path


class Matches(Sequence[list[str]]):
    """The files that each of N texts may mean, in one list: a list for each of ten million takes a gigabyte.

    Attributes:
        names: of the files, text by text.
        counts: (N,) how many each text may mean.
    """

    def __init__(self, names: list[str], counts: npt.NDArray[np.intp]) -> None:
        self.names, self.counts = names, counts
        self.starts = np.cumsum(counts) - counts

    @classmethod
    def of(cls, found: Iterable[list[str]]) -> Matches:
        """The same of a list for each text."""
        names, counts = list[str](), array("q")
        for several in found:
            names += several
            counts.append(len(several))
        return cls(names, np.array(counts, np.intp))

    def __len__(self) -> int:
        return len(self.counts)

    def __eq__(self, other: object) -> bool:
        return list(self) == other

    @overload
    def __getitem__(self, i: int) -> list[str]: ...
    @overload
    def __getitem__(self, i: slice) -> list[list[str]]: ...
    def __getitem__(self, i: int | slice) -> list[str] | list[list[str]]:
        if isinstance(i, slice):
            return [self[k] for k in range(*i.indices(len(self)))]
        return self.names[self.starts[i] : self.starts[i] + self.counts[i]]


class _FolderFiles:
    """The files of one folder: found as written, else in another Unicode form, else without an image suffix.

    `prefix` makes their names from those in the folder.
    """

    def __init__(self, prefix: str, files: Iterable[str]) -> None:
        self.prefix = prefix
        self.files = frozenset(files)
        self._others: dict[str, list[str]] = {}

    def find_all(self, paths: Sequence[str]) -> list[str | list[str]]:
        """What `find` gives for the last components of paths in one folder; the one name alone where there is one."""
        start = paths[0].rpartition("/")[0]
        written = self.prefix == (f"{start}/" if start else "")
        found = list[str | list[str]]()
        for path in paths:
            name = path.rpartition("/")[2]
            if name in self.files:
                # The text itself where it is the name: a copy of ten million of them takes a gigabyte.
                found.append(path if written else self.prefix + name)
            else:
                several = self.find(name)
                found.append(several[0] if len(several) == 1 else several)
        return found

    def find(self, name: str) -> list[str]:
        if name in self.files:
            return [self.prefix + name]
        if not self._others:
            for file in sorted(self.files):
                for form in {normalize_name(file), _stem(normalize_name(file))}:
                    self._others.setdefault(form, []).append(file)
        name = normalize_name(name)
        return [self.prefix + file for file in self._others.get(name) or self._others.get(_stem(name), [])]


class Finder:
    """Finds the files that the cells of a table mean.

    A path is looked up as it is written, relative to the absolute paths `root`, of the source folder, and `base`, of
    the table's. Where the folder that is written does not exist, the whole path may lie deeper in the tree, and a
    leading part that the paths of all rows share may be missing. A file's name in another folder than the one written
    is never taken. Cells may have backslashes, and another image suffix or none; `min_parts` components at the ends of
    paths must agree. A file's name is its path from the root, with '/', or its address where it is in no folder of the
    root's bucket. Archives that a path names are folders, others only where `archives` says so; what is wrong with
    those that can't be read is then in `broken`.
    """

    def __init__(self, root: Path, base: Path, min_parts: int = 1, *, archives: bool = False) -> None:
        self._root = root
        self._start = f"{str(root).rstrip(os.sep)}{os.sep}"
        self._least = min_parts
        self._archives, self.broken = archives, list[str]()
        self._addresses: dict[str, str] = {}
        bases = list(dict.fromkeys((root, base)))
        self._bases = [(folder, {normalize_name(entry.name) for entry in _entries(folder)}) for folder in bases]
        self._folders: dict[str, list[_FolderFiles]] = {}
        self._left: dict[str, frozenset[str]] = {}
        self._names: list[str] | None = None
        self._index = PathIndex([])
        self._nearly: dict[Callable[[str], str], dict[str, list[str]]] = {}
        self._images: dict[tuple[str, ...], dict[str, list[str]]] = {}

    def find(self, cells: Sequence[str]) -> tuple[Matches, list[str]]:
        """The names of the files that each cell may mean, more than one where it is ambiguous; and notes.

        All cells of a table are given at once. Those of one written folder are in one folder: that under the root,
        unless the one beside the table holds more of them.
        """
        paths = [clean_path(cell) for cell in cells]
        nothing: list[str] = []  # one for all: ten million lists take half a gigabyte
        found: list[str | list[str]] = [self._find_address(path) or nothing for path in paths]
        paths = ["" if files else path for path, files in zip(paths, found, strict=True)]
        paths, dropped = drop_shared_folders(paths, self._is_there, self._least)
        notes = [f"All paths begin with {dropped}, which is not in {self._root}: read without it."] if dropped else []
        folders = TextColumn.of(map(_folder, paths))
        # A stable order, so that the rows of a folder stay in theirs.
        order = np.argsort(folders.codes, kind="stable")
        ends = np.cumsum(np.bincount(folders.codes, minlength=len(folders.texts)))
        split = zip(folders.texts, np.split(order, ends[:-1]), strict=True)
        rows_of = {folder: rows for folder, rows in split if not all(found[row] for row in rows)}
        deeper = list[int]()
        for folder, rows in rows_of.items():
            places = [row for row in rows.tolist() if not found[row]]
            written = [paths[row] for row in places]
            listed = [(files, files.find_all(written)) for files in self._listed(folder)]
            _, most = max(listed, key=lambda pair: sum(map(bool, pair[1])), default=(None, []))
            if any(most):
                for row, names in zip(places, most, strict=True):
                    found[row] = names
            elif not listed or not (folder or len(rows_of) > 1):  # a name without a folder is of any where all are
                deeper += places
            self._keep_unlisted(folder, [files for files, _ in listed], most)
        if deeper:
            notes += self._find_deeper(paths, deeper, found)
        if changed := [(paths[row], name) for row, name in enumerate(found) if _has_other_suffix(paths[row], name)]:
            cell, file = changed[0]
            notes.append(f"{len(changed)} files have another suffix than is written, such as {file} for {cell}.")
        return Matches.of([name] if isinstance(name, str) else name for name in found), notes

    def _keep_unlisted(self, folder: str, listed: Sequence[_FolderFiles], found: Sequence[str | list[str]]) -> None:
        """Of the files in a folder keep only those that no row names: all of ten million take gigabytes."""
        names = frozenset(name for one in found for name in ([one] if isinstance(one, str) else one))
        for files in listed:
            start = len(files.prefix)
            are_all = len(listed) == 1 and len(names) == len(files.files)
            here = files.files if are_all else {name[start:] for name in names if name.startswith(files.prefix)}
            self._left[files.prefix] = self._left.get(files.prefix, files.files) - here
        self._folders.pop(folder, None)

    def archives(self) -> list[str]:
        """The names of the archives in the tree."""
        return [name for name in self._all_names() if split_archive(name) == (name, "")]

    def same_names(self, cell: str) -> list[str]:
        """The names of the files that have the last component of a cell, in whatever folder."""
        names = self._all_names()
        return [names[i] for i in self._index.find(clean_path(cell).rpartition("/")[2])]

    def nearly_called(self, cell: str, key: Callable[[str], str]) -> list[str]:
        """The names of the files that a cell means where both are compared by a key, such as `str.casefold`."""
        if key not in self._nearly:
            ends = self._nearly[key] = {}
            for name in self._all_names():
                ends.setdefault(key(_stem(normalize_name(name)).rpartition("/")[2]), []).append(name)
        folder, _, stem = _stem(normalize_name(clean_path(cell))).rpartition("/")
        end = f"/{folder}/".replace("//", "/")
        return [
            name
            for name in self._nearly[key].get(key(stem), [])
            if key(f"/{normalize_name(posixpath.dirname(name))}/").endswith(key(end))
        ]

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

    def others(self, found: Collection[str]) -> list[str]:
        """The names of images that are not among those found, in folders of the latter."""
        folders = {*map(_folder, found)}
        names = {prefix + file for prefix, files in self._left.items() for file in files}
        if self._names:
            names |= {name for name in self._names if _folder(name) in folders}
            names -= {*found}
        names = {name for name in names if _folder(name) in folders}
        images = (name for name in names if _stem(name) != name and not is_derived(name))
        return sorted(name for name in images if not posixpath.basename(name).startswith("."))

    def path(self, name: str) -> str:
        """The absolute path of a file with this name."""
        if name[:1] not in _MAYBE_ELSEWHERE and ":" not in name and not self._addresses:  # of most, and of millions
            return self._start + name
        if name in self._addresses:
            return self._addresses[name]
        if is_absolute(name):
            return name
        path = self._start + name
        return os.path.normpath(path) if name.startswith("..") else path

    def _find_address(self, path: str) -> str:
        """The name of a file on the web, which is there when it is read; "" of any other file."""
        if not is_web_address(path):
            return ""
        name = name_of_address(path)
        self._addresses[name] = path
        return name

    def _relative(self, path: str) -> str:
        """The name of an absolute path."""
        if path.startswith(self._start):
            return path[len(self._start) :].replace(os.sep, "/")
        if is_remote(path) or is_remote(self._start):
            return path
        return os.path.relpath(path, self._root).replace(os.sep, "/")

    def _is_there(self, path: str) -> bool:
        """Whether the folder exists as written, or the whole path is somewhere in the tree."""
        folder, name = posixpath.split(path)
        listed = self._listed(folder)
        if (folder and listed) or any(files.find(name) for files in listed):
            return True
        self._all_names()
        return bool(self._index.find(path))

    def _find_deeper(self, paths: Sequence[str], rows: Sequence[int], found: list[str | list[str]]) -> list[str]:
        """Fill in the files of rows whose whole paths end names of the tree; notes on where they are.

        They may be in several folders that differ in numbers or splits (images_001, images_002). Of others, a folder
        that holds few of them, or mostly other images, is taken for a different data set, whose images are not theirs.
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
        images = Counter(_kind(_added(name, "x")) for name in names if _stem(name) != name)
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
        return [f"Folders in which images were found by their names: {shorten(where, 20)}."]

    def _all_names(self) -> list[str]:
        """All files of the tree that are not hidden nor masks by name; listed once, when first needed."""
        if self._names is None:
            start = len(self._start)
            tree = walk(self._root, broken=self.broken if self._archives else None)
            self._names = [entry.path[start:].replace(os.sep, "/") for entry in tree if entry.is_file()]
            derived = find_derived(self._names)
            self._names = [name for name in self._names if name not in derived]
            self._index = PathIndex(self._names)
        return self._names

    def _listed(self, folder: str) -> list[_FolderFiles]:
        """The folder as written, under each base where it exists.

        It may be hidden, or outside the root. Each is listed once, as 400,000 checks of single files are slow.
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
                    prefix = "" if path == str(self._root) else f"{self._relative(path)}/"
                    files = (entry.name for entry in _entries(path) if _is_file(entry))
                    yield _FolderFiles(prefix, files)


def _added(name: str, path: str) -> str:
    """The folders of a name before the path that it ends in."""
    return "/".join([*name.split("/")[: name.count("/") - path.count("/")], ""])


@lru_cache(maxsize=1 << 12)
def _kind(folder: str) -> str:
    """The folder's path without what tells folders of one data set apart: numbers and splits."""
    return "/".join("" if parse_split(part) else re.sub(r"\d+", "", part) for part in folder.split("/"))


def _folder(path: str) -> str:
    """As `posixpath.dirname`, of a clean path, in a third of the time."""
    return path.rpartition("/")[0] or ("/" if path.startswith("/") else "")


def _has_other_suffix(path: str, name: str | list[str]) -> bool:
    if not isinstance(name, str) or name is path:
        return False
    return _stem(path) != path and not name.endswith(path.rpartition(".")[2])
