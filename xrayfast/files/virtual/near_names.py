"""Suggest existing names for a path that does not exist."""

from __future__ import annotations

import contextlib
import difflib
from itertools import islice
from pathlib import Path

from xrayfast.errors import LONGEST_NAME, shorten
from xrayfast.files.virtual.access import list_folder
from xrayfast.files.virtual.addresses import canonical, is_remote, split_archive
from xrayfast.files.virtual.paths import to_path

_LOOKED_AT = 10_000
"""Maximum number of names in a folder that are compared: each takes 10 us."""


def near_names(path: str | Path) -> str:
    """Return a sentence, to append to others, with the existing names most similar to a missing file or folder.

    In an archive, the other names follow. Returns "" if there are none, or if a bucket would have to be listed.
    """
    missing = to_path(canonical(path))
    while not is_remote(missing.parent) and missing.parent != missing and not missing.parent.is_dir():
        missing = missing.parent
    folder, in_archive = missing.parent, split_archive(str(missing.parent)) is not None
    if (is_remote(folder) and not in_archive) or not folder.is_dir():
        return ""
    with contextlib.suppress(OSError):
        names = [entry.name for entry in islice(list_folder(folder), _LOOKED_AT) if not entry.name.startswith(".")]
        near = difflib.get_close_matches(missing.name[:LONGEST_NAME], names, cutoff=0.7)
        if found := dict.fromkeys([*near, *names] if in_archive else near):
            return f" {folder if folder.name else folder.absolute()} contains {shorten(found)}."
    return ""
