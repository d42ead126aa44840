"""Locate the folder of everything that is cached between runs."""

from __future__ import annotations

import os
from pathlib import Path

from xrayfast.errors.environment import CACHE_VARIABLE


def cache_root(root: Path | None = None) -> Path:
    """Return the cache's root: `root` if given, else $XRAYFAST_CACHE, else the system's cache folder of the user."""
    if root is not None:
        return Path(root).absolute()
    if named := os.environ.get(CACHE_VARIABLE, "").strip():
        return Path(named).expanduser().absolute()
    import platformdirs

    return Path(platformdirs.user_cache_dir("xrayfast", appauthor=False))
