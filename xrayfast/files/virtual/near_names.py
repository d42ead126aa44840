"""What a path that leads to nothing may have been meant for."""

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
"""Names of a folder that may be proposed in place of one that is not there: comparing them takes 10 us each."""


def near_names(path: str | Path) -> str:
    """What a file or folder that is not there may have been meant for, as a sentence that follows others: the most
    alike names where it was looked for; of an archive the others too. "" where there are none, or a bucket would have
    to be listed.

    Raises:
        ReadError, RemoteError: see `state_of`.
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
            return f" {folder if folder.name else folder.absolute()} holds {shorten(found)}."
    return ""
