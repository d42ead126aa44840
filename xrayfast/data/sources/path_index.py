"""Paths in cells: cleaned, without the folders that all share, and found by their last components."""

from __future__ import annotations

import posixpath
import unicodedata
from collections.abc import Callable, Sequence
from itertools import takewhile

from xrayfast.data.images.reader import IMAGE_SUFFIXES
from xrayfast.data.labels.names import drop_constructor
from xrayfast.errors import DataError, truncate
from xrayfast.files.virtual.addresses import canonical, is_remote, is_web_address, normalize

_AROUND = " \t\r\n\xa0\u200b\u200e\u200f\u2060\ufeff"
"""Spaces and invisible characters, of which none is at the end of a path."""

MAX_PATH = 4096
"""Maximum length of a path in characters, as on Linux."""


class PathIndex:
    """An index of relative paths, with '/', by their last components; ignores differences in Unicode composition."""

    def __init__(self, paths: Sequence[str]) -> None:
        self._paths = paths
        self._ends: dict[tuple[int, bool], dict[str, int | list[int]]] = {}

    def find(self, text: str) -> list[int]:
        """Return the positions of the paths that end in the whole text; only those that equal it if there are any.

        Image suffixes are ignored if no path ends in the whole text. Several positions mean that the text is ambiguous.
        """
        depth, text = text.count("/") + 1, normalize_name(text)
        for stems in (False, True):
            found = self._of_depth(depth, stems).get(path_stem(text) if stems else text)
            if isinstance(found, int):
                return [found]
            if found:
                return [i for i in found if self._paths[i].count("/") + 1 == depth] or found
        return []

    def _of_depth(self, depth: int, stems: bool) -> dict[str, int | list[int]]:
        """Return positions by the last `depth` components of the paths; built on first use, for few depths."""
        ends = self._ends.get((depth, stems))
        if ends is None:
            ends = self._ends[depth, stems] = {}
            for i, path in enumerate(self._paths):
                pieces = path.rsplit("/", depth)
                if len(pieces) < depth:
                    continue
                end = normalize_name(path[len(pieces[0]) + 1 :] if len(pieces) > depth else path)
                known = ends.setdefault(path_stem(end) if stems else end, i)
                # Use a list only if an end is ambiguous: 400,000 lists would cost more than everything else here.
                if isinstance(known, list):
                    known.append(i)
                elif known != i:
                    ends[path_stem(end) if stems else end] = [known, i]
        return ends


def drop_shared_folders(
    paths: Sequence[str], is_found: Callable[[str], bool], min_parts: int = 1
) -> tuple[list[str], str]:
    """Drop the fewest leading folders that are shared by all paths and without which at least one path is found.

    A folder that only some paths have is never dropped: the rest could be the name of another patient's image.

    Returns:
        The paths, each with at least `min_parts` components if any folder was dropped; and the dropped folders, with a
        trailing '/'.
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
    """Return a cell as a path with '/', without '.' and '..' in it; for addresses, see `virtual.addresses.canonical`.

    Raises:
        DataError: it is longer than any file's path can be.
    """
    if len(cell) > MAX_PATH:
        raise DataError(
            f"found a path of {len(cell):,} characters, '{truncate(cell, 60)}'; expected at most {MAX_PATH:,}."
        )
    text = cell.strip(_AROUND)
    if text.endswith(("'", '"', "')", '")')) and (value := drop_constructor(text)) != text:
        text = value.strip("'\"")  # as Python prints a path
    path = canonical(text.replace("\\", "/"))
    if is_remote(path):
        return path if is_web_address(path) else normalize(path)
    return posixpath.normpath(path) if "./" in path or "//" in path else path


def normalize_name(name: str) -> str:
    """Return the name in Unicode's composed form: macOS writes decomposed names, which look the same."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def path_stem(path: str) -> str:
    """Return the path without its image suffix, if it has one."""
    stem, dot, suffix = path.rpartition(".")
    return stem if dot and f".{suffix.lower()}" in IMAGE_SUFFIXES else path
